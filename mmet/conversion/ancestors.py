"""Shared parts of the conversions: loading the other model, and its configuration as MMET's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from configuration_mmet import MMETEncoderConfig, MMETImageConfig, MMETTextConfig
from mmet.checkpoint_files import CONFIG_FILE, read_headers, read_json_object

Source = PreTrainedModel | str | os.PathLike[str]
"""A model of transformers, or its Hub name or local folder."""

_OF_ENCODERS = {
    *("layer", "layers", "layernorm", "cls_token"),
    *("patch_embeddings", "word_embeddings", "position_embeddings"),
}
"""If such a part is in the name of a weight, the weight belongs to an encoder (and not to a head or a pooler)."""

_OF_MMET_ALONE = ("position_initializer_range", "class_token_initializer_range")
_OTHER_NAMES = {
    "attention_dropout": "attention_probs_dropout_prob",
    "dropout": "hidden_dropout_prob",
    "activation": "hidden_act",
    "hidden_dim": "intermediate_size",
}
"""Fields that CLIP, SigLIP, DINOv3 or DistilBERT call otherwise: MMET's name by theirs."""


def load_ancestor(model_type: str | tuple[str, ...], base_class: str, source: Source, options: dict[str, Any]) -> Any:
    """
    Check a loaded transformers model and return it, or load one by name, as the class that its configuration names.
    Only safetensors are read, because other formats can run code.

    Args:
        model_type: expected model type, or several alternatives.
        base_class: class of the model if its configuration names none.
        source: the model, or its Hub name or local folder.
        options: arguments of `from_pretrained` (`revision`, `local_files_only`, `dtype`, ...).

    Raises:
        ValueError: a folder lacks a configuration or complete weights, the model is of another type, or there are
            `options` for a loaded model.
    """
    if isinstance(source, (str, os.PathLike)):
        folder = Path(source, options.get("subfolder", ""))
        if Path(source).is_dir():
            read_json_object(folder / CONFIG_FILE, "the configuration of a model")
            read_headers(folder)
        stored, _ = PreTrainedConfig.get_config_dict(source, **options)
        _check_model_type(model_type, stored.get("model_type"), str(source))
        architecture, *_ = stored.get("architectures") or [base_class]
        model_class = getattr(transformers, architecture, getattr(transformers, base_class))
        return _load_whole(model_class, source, {"use_safetensors": True, **options})
    if options:
        raise ValueError(f"{sorted(options)} are for from_pretrained, but the model is loaded already")
    config = getattr(source, "config", None)
    _check_model_type(model_type, getattr(config, "model_type", None), type(source).__name__)
    return source


def _load_whole(model_class: Any, source: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    """Load a model; `ValueError` if weights of an encoder are missing, which transformers would draw at random."""
    try:
        model, keys = model_class.from_pretrained(source, output_loading_info=True, **options)
    except RuntimeError as error:  # it has reported the shapes
        raise ValueError(f"{source}: weights and {CONFIG_FILE} do not fit each other: shapes differ") from error
    for kind in ("missing", "unexpected"):
        names = sorted(name for name in keys[f"{kind}_keys"] if _OF_ENCODERS & set(name.split(".")))
        if names:
            raise ValueError(
                f"{source}: weights and {CONFIG_FILE} do not fit each other: {len(names)} weights of its encoders are "
                f"{kind}, such as {names[0]}; copy the folder again from where it is whole"
            )
    return model


def _check_model_type(expected: str | tuple[str, ...], received: str | None, source: str) -> None:
    names = (expected,) if isinstance(expected, str) else expected
    if received not in names:
        shown = " or ".join(map(repr, names))
        raise ValueError(f"expected a model of type {shown}, received {source} of type {received!r}")


def encoder_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of `MMETEncoderConfig` that a configuration has under the same or another name."""
    names = (name for name in MMETEncoderConfig.__annotations__ if name not in _OF_MMET_ALONE)
    values = {name: getattr(config, name) for name in names if hasattr(config, name)}
    renamed = {ours: getattr(config, theirs) for theirs, ours in _OTHER_NAMES.items() if hasattr(config, theirs)}
    return renamed | values


def vision_tower(model: Any) -> Any:
    """The vision tower of a model of images and texts, or of a model with a head."""
    return getattr(model, "vision_model", model).base_model


def image_config_of(config: PreTrainedConfig, **fields: Any) -> MMETImageConfig:
    """
    Convert the configuration of a vision transformer; `fields` replace its own.

    Raises:
        ValueError: patches are not square.
    """
    sides = {config.patch_size} if isinstance(config.patch_size, int) else set(config.patch_size)
    if len(sides) != 1:
        raise ValueError(f"expected square patches, received patch_size={config.patch_size}")
    side = sides.pop()
    geometry = {"image_size": getattr(config, "image_size", None), "patch_size": side, "patch_stride": side}
    return MMETImageConfig(**{**geometry, "num_channels": config.num_channels, **encoder_fields(config), **fields})


def text_config_of(config: PreTrainedConfig, **fields: Any) -> MMETTextConfig:
    """Convert the configuration of a text encoder; `fields` replace its own."""
    names = ("vocab_size", "max_position_embeddings", "pad_token_id")
    return MMETTextConfig(**{name: getattr(config, name) for name in names} | encoder_fields(config) | fields)


def largest_codebook_cell(config: MMETImageConfig) -> int:
    """The largest `codebook_cell`, up to the default of 4 pixels, that divides patch size and stride."""
    sizes = cast(int, config.patch_size), cast(int, config.patch_stride)
    return max(cell for cell in (1, 2, 3, 4) if not any(size % cell for size in sizes))
