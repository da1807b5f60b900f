"""Build a complete model from two converted encoders.

model = from_encoders(from_vit("google/vit-base-patch16-224-in21k"), from_bert("google-bert/bert-base-uncased"))
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from configuration_mmet import MMETConfig, MMETEncoderConfig, MMETMultimodalConfig
from mmet.conversion.ancestors import largest_codebook_cell
from modeling_mmet import MMETForPreTraining, MMETImageModel, MMETPreTrainedModel, MMETTextModel


def from_encoders(
    image_model: MMETImageModel,
    text_model: MMETTextModel,
    multimodal_config: MMETMultimodalConfig | dict[str, Any] | None = None,
    model_class: type[MMETPreTrainedModel] = MMETForPreTraining,
    **config_fields: Any,
) -> Any:
    """
    Build a model with copies of two encoders, such as those of `from_vit` and `from_bert`; the rest is newly
    initialised.

    Args:
        image_model, text_model: encoders of one dtype.
        multimodal_config: configuration of the new multimodal encoder; by default as deep and wide as the image
            encoder.
        model_class: `MMETModel`, `MMETForPreTraining` or `MMETForReID`.
        config_fields: further fields of `MMETConfig` (`projection_dim`, `num_identities`, ...).

    Raises:
        ValueError: the encoders differ in dtype.
    """
    if image_model.dtype != text_model.dtype:
        raise ValueError(f"expected encoders of one dtype, received {image_model.dtype} and {text_model.dtype}")
    if multimodal_config is None:
        multimodal_config = MMETMultimodalConfig(
            **{name: getattr(image_model.config, name) for name in MMETEncoderConfig.__annotations__}
        )
    config = MMETConfig(
        image_config=image_model.config.to_dict(),
        text_config=text_model.config.to_dict(),
        multimodal_config=copy.deepcopy(multimodal_config),
        **{"codebook_cell": largest_codebook_cell(image_model.config), **config_fields},
    )
    model = model_class(config)
    nn.Module.to(model, device=image_model.device, dtype=image_model.dtype).train(False)
    base: Any = model.base_model
    base.image_model.load_state_dict(image_model.state_dict())
    base.text_model.load_state_dict(text_model.state_dict())
    return model
