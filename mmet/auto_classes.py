"""Register MMET's classes with transformers' Auto classes once both are imported, without importing either.

    import mmet                              # milliseconds

    model = AutoModel.from_pretrained(...)   # an MMET checkpoint, without `trust_remote_code`

The Auto classes and the models' dependencies take seconds to import. So `register_when_imported` watches for the
modules of the Auto classes: importing one of them also imports and registers our classes.
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
    """What to register once the module of an Auto class is imported, and the module with our classes."""

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
    from configuration_mmet import MMETConfig

    AutoModelForPreTraining.register(MMETConfig, models.MMETForPreTraining, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(
        MMETConfig, models.MMETForZeroShotImageClassification, exist_ok=True
    )
    AutoModel.register(MMETConfig, (models.MMETForReID, models.MMETModel), exist_ok=True)
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
    """
    Finds what the other finders find, and hears when a watched module has been executed.

    The watched modules (of the Auto classes, and all `*_mmet` modules) import each other. So nothing is registered
    before the outermost of them is complete: registration may need what the modules inside it still lack.
    """

    def __init__(self) -> None:
        self.watched = {registration.auto_module for registration in REGISTRATIONS}
        self.unfinished: set[str] = set()  # of which the code is being executed
        self.pending = list(REGISTRATIONS)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_ours = fullname.endswith("_mmet") and "." not in fullname
        if not is_ours and fullname not in self.watched:
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
                self.register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def register(self) -> None:
        """Perform each registration once, as soon as its Auto class is imported; this imports our classes."""
        for registration in list(self.pending):
            if self.unfinished or registration.auto_module not in sys.modules or registration not in self.pending:
                continue
            self.pending.remove(registration)
            importlib.import_module(registration.own_module)
            registration.register()


def register_when_imported() -> None:
    """Register with imported Auto classes now, and with others once they are imported. A second call does nothing."""
    if any(isinstance(finder, _ImportWatch) for finder in sys.meta_path):
        return
    watch = _ImportWatch()
    sys.meta_path.insert(0, watch)
    watch.register()
