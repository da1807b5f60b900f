"""The configuration of the trained model: a recipe's fields, alone or over those of a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING

from configuration_mmet import MMETConfig
from mmet.field_checks import suggestion
from mmet.recipe_files import merge_deeply

FIELDS_OF_A_STAGE = (
    "identity_pooling",
    "modality_dropout",
    "label_smoothing",
    "triplet_margin",
    "triplet_normalize",
    "supervised_contrastive_scale",
)
"""Fields of `MMETConfig`, beside the loss weights, that a later stage may choose anew: they fit any weights."""


def build_config(fields: Any, *, vocab_size: int, num_identities: int, loss_weights: dict[str, float]) -> MMETConfig:
    """
    An `MMETConfig` from a recipe's nested `fields` (a mapping or None), the tokenizer's vocabulary, the data's
    identities and the loss weights.

    Raises:
        ValueError: a field does not exist (transformers itself would accept it silently).
    """
    fields = dict(fields or {})
    check_config_fields(fields)
    fields["text_config"] = {**(fields.get("text_config") or {}), "vocab_size": vocab_size}
    return make_config({**fields, "num_identities": num_identities, **loss_weights})


def override_config(config: MMETConfig, fields: Any) -> MMETConfig:
    """
    The configuration of a checkpoint with a recipe's `fields` (a mapping or None) in place of its own.

    Raises:
        ValueError: a field does not exist, or differs from one that the checkpoint determines.
    """
    fields = dict(fields or {})
    check_config_fields(fields)
    stored = config.to_dict()
    chosen = {name: value for name, value in fields.items() if _is_of_a_stage(name)}
    check_agreement({name: value for name, value in fields.items() if name not in chosen}, stored)
    return make_config({**stored, **chosen})


def merge_config(
    fields: Any, decided: Mapping[str, Any], *, vocab_size: int, num_identities: int, loss_weights: dict[str, float]
) -> MMETConfig:
    """
    An `MMETConfig` with the fields that a converted model determines, and otherwise a recipe's nested `fields`, as in
    `build_config`.

    Raises:
        ValueError: a field does not exist, or differs from one that the converted model determines.
    """
    fields = dict(fields or {})
    check_config_fields(fields)
    chosen = {name: value for name, value in fields.items() if _is_of_a_stage(name)}
    others = {name: value for name, value in fields.items() if name not in chosen and value is not None}
    check_agreement(others, decided)
    merged = merge_deeply(merge_deeply(others, {"text_config": {"vocab_size": vocab_size}}), decided)
    return make_config({**merged, **chosen, "num_identities": num_identities, **loss_weights})


def check_agreement(fields: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise `ValueError` with the `fields` of a recipe that differ from those of a checkpoint or converted model."""
    changed = _contradictions(fields, stored)
    if changed:
        raise ValueError(
            f"model_config beside model_name_or_path: only {', '.join(FIELDS_OF_A_STAGE)} and loss weights may differ "
            f"from the model that is named, received {'; '.join(changed)}"
        )


def _is_of_a_stage(name: str) -> bool:
    return name in FIELDS_OF_A_STAGE or name.endswith("_weight")


def check_config_fields(fields: Mapping[str, Any]) -> None:
    """Raise `ValueError` for an unknown field, with the nearest name."""
    known = {name: {f.name for f in dataclasses.fields(config)} for name, config in MMETConfig.sub_configs.items()}
    known[""] = {f.name for f in dataclasses.fields(MMETConfig)}
    for prefix, names in known.items():
        part = fields.get(prefix) if prefix else fields
        if (part is not None or prefix in fields) and not isinstance(part, Mapping):
            raise ValueError(f"model_config.{prefix}: expected a mapping of fields, received {part!r}")
        unknown = sorted(set(part or {}) - names)
        if unknown:
            raise ValueError(
                f"model_config{'.' * bool(prefix)}{prefix} has unknown fields: {unknown}"
                f"{suggestion(unknown[0], names)}"
            )
    _check_backbone_fields((fields.get("image_config") or {}).get("backbone_config"))


def _check_backbone_fields(fields: Any) -> None:
    """The same for the network under the image encoder; `MMETImageConfig` refuses a type that does not exist."""
    if fields is None:
        return
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"model_config.image_config.backbone_config: expected a mapping of fields, received {fields!r}"
        )
    model_type = fields.get("model_type")
    if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        names = {field.name for field in dataclasses.fields(CONFIG_MAPPING[model_type])} | {"model_type"}
        unknown = sorted(set(fields) - names)
        if unknown:
            raise ValueError(
                f"model_config.image_config.backbone_config of {model_type} has unknown fields: {unknown}"
                f"{suggestion(unknown[0], names)}"
            )


def make_config(fields: dict[str, Any]) -> MMETConfig:
    try:
        return MMETConfig.from_dict(fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = str(error.__cause__ or error)  # the validator's message
        raise ValueError(f"model_config: {' '.join(reason.split())}") from error


def _contradictions(fields: Mapping[str, Any], stored: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differing fields, in words. None, and names that `stored` does not have, never differ."""
    changed: list[str] = []
    for name, value in fields.items():
        decided = stored.get(name)
        if value is None or name not in stored:
            continue
        if isinstance(value, Mapping) and isinstance(decided, Mapping):
            changed += _contradictions(value, decided, f"{prefix}{name}.")
        elif _plain(value) != _plain(decided):
            changed.append(f"{prefix}{name} {value!r} where it has {decided!r}")
    return changed


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
