"""MMET: find a person in camera footage by image, sentence, or both, in cameras the model never saw.

Importing the package registers the model classes with transformers' Auto classes, so that where it is installed a
checkpoint loads without `trust_remote_code`.
"""

import mmet.starting  # noqa: F401  (before what takes seconds)

# isort: split
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
    AutoProcessor,
)

from configuration_mmet import MMETConfig, MMETImageConfig, MMETMultimodalConfig, MMETTextConfig
from mmet.starter import starter_model
from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
    MMETImageModel,
    MMETModel,
    MMETMultimodalModel,
    MMETTextModel,
)
from processing_mmet import MMETImageProcessor, MMETProcessor

__version__ = "0.1.0"


def _register_auto_classes() -> None:
    """Offer the classes to the Auto classes; `architectures` picks `MMETModel`, what else was saved is an embedder."""
    for config_class, model_class in (
        (MMETConfig, (MMETForReID, MMETModel)),
        (MMETImageConfig, MMETImageModel),
        (MMETTextConfig, MMETTextModel),
        (MMETMultimodalConfig, MMETMultimodalModel),
    ):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
    AutoModelForPreTraining.register(MMETConfig, MMETForPreTraining, exist_ok=True)
    AutoImageProcessor.register(MMETConfig, image_processor_classes={"pil": MMETImageProcessor}, exist_ok=True)
    AutoProcessor.register(MMETConfig, MMETProcessor, exist_ok=True)  # type: ignore[no-untyped-call]


_register_auto_classes()

__all__ = [
    "MMETConfig",
    "MMETForPreTraining",
    "MMETForReID",
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
