"""MMET: find a person in camera footage by image, sentence, or both, also from cameras that the model never saw.

Importing the package registers the model classes with transformers' Auto classes, so that a checkpoint loads without
`trust_remote_code`. The classes are imported on first use.
"""

import mmet.starting  # noqa: F401  (before what takes seconds)

# isort: split
import importlib
from typing import TYPE_CHECKING, Any

from mmet.auto_classes import register_when_imported

if TYPE_CHECKING:
    from configuration_mmet import MMETConfig, MMETImageConfig, MMETMultimodalConfig, MMETTextConfig
    from mmet.starter import starter_model
    from modeling_mmet import (
        MMETForPreTraining,
        MMETForReID,
        MMETForZeroShotImageClassification,
        MMETImageModel,
        MMETModel,
        MMETMultimodalModel,
        MMETTextModel,
    )
    from processing_mmet import MMETImageProcessor, MMETProcessor

__version__ = "0.1.0"

_MODULES = {
    "configuration_mmet": ("MMETConfig", "MMETImageConfig", "MMETMultimodalConfig", "MMETTextConfig"),
    "modeling_mmet": (
        "MMETForPreTraining",
        "MMETForReID",
        "MMETForZeroShotImageClassification",
        "MMETImageModel",
        "MMETModel",
        "MMETMultimodalModel",
        "MMETTextModel",
    ),
    "processing_mmet": ("MMETImageProcessor", "MMETProcessor"),
    "mmet.starter": ("starter_model",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_imported()

__all__ = [
    "MMETConfig",
    "MMETForPreTraining",
    "MMETForReID",
    "MMETForZeroShotImageClassification",
    "MMETImageConfig",
    "MMETImageModel",
    "MMETImageProcessor",
    "MMETModel",
    "MMETMultimodalConfig",
    "MMETMultimodalModel",
    "MMETProcessor",
    "MMETTextConfig",
    "MMETTextModel",
    "starter_model",
]
