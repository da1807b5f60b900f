"""The configuration of the model that is trained: a recipe's fields, on their own or over those of a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from configuration_mmet import MMETConfig
from mmet.field_checks import suggestion

FIELDS_OF_A_STAGE = (
    "identity_pooling",
    "modality_dropout",
    "label_smoothing",
    "triplet_margin",
    "triplet_normalize",
)
"""Fields of `MMETConfig`, beside the loss weights, that a later stage may choose anew: they fit any weights."""


def build_config(fields: Any, *, vocab_size: int, num_identities: int, loss_weights: dict[str, float]) -> MMETConfig:
    """
    An `MMETConfig` from a recipe's nested `fields` (a mapping or None), the tokenizer's vocabulary, the data's
    identities and the loss weights.

    Raises:
        ValueError: for a field that no configuration has (transformers itself would accept it in silence).
    """
    fields = dict(fields or {})
    check_config_fields(fields)
    fields["text_config"] = {**(fields.get("text_config") or {}), "vocab_size": vocab_size}
    return _make_config({**fields, "num_identities": num_identities, **loss_weights})


def override_config(config: MMETConfig, fields: Any) -> MMETConfig:
    """
    The configuration of a checkpoint with a recipe's `fields` (a mapping or None) in place of its own.

    Raises:
        ValueError: for a field that no configuration has, or another value of one that the checkpoint decides.
    """
    fields = dict(fields or {})
    check_config_fields(fields)
    chosen = {name: fields[name] for name in fields if name in FIELDS_OF_A_STAGE or name.endswith("_weight")}
    stored = config.to_dict()
    changed = [name for name in fields if name not in chosen and not _agrees(fields[name], stored[name])]
    if changed:
        raise ValueError(
            f"model_config beside model_name_or_path: only {', '.join(FIELDS_OF_A_STAGE)} and loss weights may differ "
            f"from the checkpoint, received another {', '.join(sorted(changed))}"
        )
    return _make_config({**stored, **chosen})


def check_config_fields(fields: dict[str, Any]) -> None:
    known = {name: {f.name for f in dataclasses.fields(config)} for name, config in MMETConfig.sub_configs.items()}
    known[""] = {f.name for f in dataclasses.fields(MMETConfig)}
    for prefix, names in known.items():
        own = fields.get(prefix) if prefix else fields
        if (own is not None or prefix in fields) and not isinstance(own, dict):
            raise ValueError(f"model_config.{prefix}: expected a mapping of fields, received {own!r}")
        unknown = sorted(set(own or {}) - names)
        if unknown:
            raise ValueError(
                f"model_config{'.' * bool(prefix)}{prefix} has unknown fields: {unknown}"
                f"{suggestion(unknown[0], names)}"
            )


def _make_config(fields: dict[str, Any]) -> MMETConfig:
    try:
        return MMETConfig.from_dict(fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = str(error.__cause__ or error)  # the validator's own words
        raise ValueError(f"model_config: {' '.join(reason.split())}") from error


def _agrees(given: Any, stored: Any) -> bool:
    """Whether a recipe's value says nothing else than the stored one; None says nothing, a mapping what it names."""
    if isinstance(given, dict):
        return all(_agrees(value, (stored or {}).get(name)) for name, value in given.items())
    if isinstance(given, (list, tuple)) and isinstance(stored, (list, tuple)):
        return list(given) == list(stored)
    return given is None or given == stored
