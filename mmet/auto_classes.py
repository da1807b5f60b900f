"""Register MMET's classes with transformers' Auto classes as soon as both are imported, and import neither for it.

    import mmet                              # milliseconds

    model = AutoModel.from_pretrained(...)   # an MMET checkpoint, without `trust_remote_code`

The Auto classes and what models need take seconds to import. So `register_when_imported` watches the imports of three
modules of transformers and of the three files of the model: the later one of each pair completes a registration.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple


class Registration(NamedTuple):
    """What to register once the module of an Auto class and the module with our classes are imported."""

    auto_module: str
    own_module: str
    register: Callable[[], None]


def register_configurations() -> None:
    """Each `model_type` with `AutoConfig`."""
    from transformers import AutoConfig

    from configuration_mmet import MMETConfig, MMETImageConfig, MMETMultimodalConfig, MMETTextConfig

    for config_class in (MMETConfig, MMETImageConfig, MMETTextConfig, MMETMultimodalConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def register_models() -> None:
    """Models; `architectures` picks `MMETModel`, what else was saved with an `MMETConfig` is an embedder."""
    from transformers import AutoModel, AutoModelForPreTraining, AutoModelForZeroShotImageClassification

    import modeling_mmet as models

    AutoModelForPreTraining.register(models.MMETConfig, models.MMETForPreTraining, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(
        models.MMETConfig, models.MMETForZeroShotImageClassification, exist_ok=True
    )
    AutoModel.register(models.MMETConfig, (models.MMETForReID, models.MMETModel), exist_ok=True)
    for model_class in (models.MMETImageModel, models.MMETTextModel, models.MMETMultimodalModel):
        AutoModel.register(model_class.config_class, model_class, exist_ok=True)


def register_image_processor() -> None:
    """The image processor."""
    from transformers import AutoImageProcessor

    from configuration_mmet import MMETConfig
    from processing_mmet import MMETImageProcessor

    AutoImageProcessor.register(MMETConfig, image_processor_classes={"pil": MMETImageProcessor}, exist_ok=True)


def register_processor() -> None:
    """The processor of images and text."""
    from transformers import AutoProcessor

    from configuration_mmet import MMETConfig
    from processing_mmet import MMETProcessor

    AutoProcessor.register(MMETConfig, MMETProcessor, exist_ok=True)  # type: ignore[no-untyped-call]


_AUTO = "transformers.models.auto"
REGISTRATIONS = (
    Registration(f"{_AUTO}.configuration_auto", "configuration_mmet", register_configurations),
    Registration(f"{_AUTO}.modeling_auto", "modeling_mmet", register_models),
    Registration(f"{_AUTO}.image_processing_auto", "processing_mmet", register_image_processor),
    Registration(f"{_AUTO}.processing_auto", "processing_mmet", register_processor),
)


class _ImportWatch(MetaPathFinder):
    """Finds what the other finders find, and hears when a watched module has been executed."""

    def __init__(self) -> None:
        self.watched = {name for registration in REGISTRATIONS for name in registration[:2]}
        self.unfinished: set[str] = set()  # of which the code is being executed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.watched:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                self.unfinished.add(fullname)
                try:
                    execute(module)
                finally:
                    self.unfinished.discard(fullname)
                self.register(fullname)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def register(self, name: str) -> None:
        """Carry out the registrations that the module of this name completes."""
        for registration in REGISTRATIONS:
            if name == registration.auto_module:
                importlib.import_module(registration.own_module)  # which registers when it comes to its end
            if name in registration[:2] and self.is_imported(*registration[:2]):
                registration.register()

    def is_imported(self, *names: str) -> bool:
        return all(name in sys.modules and name not in self.unfinished for name in names)


def register_when_imported() -> None:
    """Register what is imported already, and the rest once it is imported. A second call does nothing."""
    if any(isinstance(finder, _ImportWatch) for finder in sys.meta_path):
        return
    watch = _ImportWatch()
    sys.meta_path.insert(0, watch)
    for registration in REGISTRATIONS:
        if registration.auto_module in sys.modules:
            watch.register(registration.auto_module)
