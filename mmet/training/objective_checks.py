"""Refuse settings with which a kind of batch, or one of its losses, would teach nothing."""

from __future__ import annotations

from typing import cast

from configuration_mmet import MMETConfig, MMETImageConfig, MMETTextConfig
from mmet.training.arguments import MIN_TEXT_LENGTH, DataArguments, ObjectiveArguments
from mmet.training.masking import num_masked_patches
from modeling_mmet import LOSS_NAMES

_LOSSES_OF_KINDS = {
    "paired": ("mmm_image", "mmm_text", "itm", "global_contrastive"),
    "image": ("mim",),
    "text": ("mlm",),
    "identity": ("identity", "triplet", "global_contrastive"),
    "identity_image": ("identity", "triplet"),
}
"""The losses that each kind of batch can train."""


def check_objectives(
    config: MMETConfig, data: DataArguments, objectives: ObjectiveArguments, *, batch_size: int, num_processes: int = 1
) -> None:
    """
    Raise `ValueError` for settings with which a kind of batch in the mix, or one of its losses, teaches nothing.

    Args:
        config: configuration of the model, with the loss weights.
        data: the settings of masking.
        objectives: the mix and the schedule of its losses.
        batch_size: number of examples in a batch on each process.
        num_processes: number of processes, whose examples L_GC compares together.
    """
    weighted = _weighted_losses(config, objectives)
    trained = weighted - {"mim", "mmm_image"} if data.image_masking == "none" else weighted
    for kind in objectives.mix:
        _check_kind(kind, weighted, trained)
    losses = trained & {loss for kind in objectives.mix for loss in _LOSSES_OF_KINDS[kind]}
    _check_masks(config, data, losses)
    _check_partners(data, objectives, losses, batch_size, num_processes)
    longest = cast(MMETTextConfig, config.text_config).max_position_embeddings
    if set(objectives.mix) - {"image", "identity_image"} and longest < MIN_TEXT_LENGTH:
        raise ValueError(
            f"max_position_embeddings: the model reads captions of {longest} tokens, which hold no word beside [CLS] "
            f"and [SEP]; at least {MIN_TEXT_LENGTH} are needed"
        )


def _weighted_losses(config: MMETConfig, objectives: ObjectiveArguments) -> set[str]:
    """The losses whose weight is above 0 at some time of the run."""
    return {
        name
        for name in LOSS_NAMES
        if getattr(config, f"{name}_weight") > 0
        and any(factor > 0 for _, factor in objectives.schedule.points.get(name, ((0.0, 1.0),)))
    }


def _check_kind(kind: str, weighted: set[str], trained: set[str]) -> None:
    """Raise `ValueError` if batches of a kind train no loss."""
    losses = set(_LOSSES_OF_KINDS[kind])
    if trained & losses:
        return
    if weighted & losses:
        raise ValueError(
            f"batch_mix: {kind} batches would teach nothing with image_masking none; choose another masking, or leave "
            f"{kind} out of the mix"
        )
    raise ValueError(
        f"batch_mix: {kind} batches would teach nothing, for the weights of all their losses "
        f"({', '.join(_LOSSES_OF_KINDS[kind])}) are 0; raise one, or leave {kind} out of the mix"
    )


def _check_masks(config: MMETConfig, data: DataArguments, losses: set[str]) -> None:
    """Raise `ValueError` if nothing is masked for a masked loss."""
    patches = cast(MMETImageConfig, config.image_config).num_patches
    if losses & {"mim", "mmm_image"} and not num_masked_patches(data.mask_ratio, patches):
        raise ValueError(
            f"mask_ratio: {data.mask_ratio} masks none of the {patches} patches, so "
            f"{_named(losses, 'mim', 'mmm_image')} would teach nothing; raise it, or set image_masking none"
        )
    if losses & {"mlm", "mmm_text"} and not data.mlm_probability:
        raise ValueError(
            f"mlm_probability: 0 masks no word, so {_named(losses, 'mlm', 'mmm_text')} would teach nothing; raise it, "
            "or set the weight 0"
        )


def _check_partners(
    data: DataArguments, objectives: ObjectiveArguments, losses: set[str], batch_size: int, num_processes: int
) -> None:
    """Raise `ValueError` if a loss that compares examples has none to compare."""
    share = data.itm_mismatch_probability
    if "itm" in losses and share in (0, 1):
        raise ValueError(
            f"itm_mismatch_probability: with {share} all pairs have the same answer, so itm would teach nothing; "
            "choose a share between 0 and 1, or set itm_weight 0"
        )
    if losses & {"mmm_image", "mmm_text"} and share == 1:
        raise ValueError(
            f"itm_mismatch_probability: 1 leaves no matching pair, of which {_named(losses, 'mmm_image', 'mmm_text')} "
            "predict the masked parts; lower it"
        )
    if "paired" in objectives.mix and "itm" in losses and batch_size < 2:
        raise ValueError(
            "per_device_train_batch_size: a batch of 1 has no caption of another person, so itm would teach nothing; "
            "raise it, or set itm_weight 0"
        )
    if "paired" in objectives.mix and "global_contrastive" in losses and batch_size * num_processes < 2:
        raise ValueError(
            "per_device_train_batch_size: a batch of 1 has nothing to compare a pair with, so global_contrastive "
            "would teach nothing; raise it, or set global_contrastive_weight 0"
        )
    if "identity_image" in objectives.mix and "triplet" in losses and objectives.images_per_person < 2:
        raise ValueError(
            "images_per_person: 1 leaves triplet without a second image of a person in identity_image batches; raise "
            "it, or set triplet_weight 0"
        )


def _named(losses: set[str], *names: str) -> str:
    return " and ".join(name for name in names if name in losses)
