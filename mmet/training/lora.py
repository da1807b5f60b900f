"""LoRA (Hu et al., 2022): fine-tuning that trains small additions to the encoders' matrices, and the identity head.

    add_lora(model, rank=8)      # in place; everything else is frozen
    merge_lora(model)            # in place: an ordinary model again, with the same outputs

Checkpoints of a run hold the additional matrices beside the weights; the final model has them merged.
"""

from __future__ import annotations

from modeling_mmet import MMETForPreTraining

TARGETS = r".*\.encoder\.layers\.\d+\.(attention\.(qkv_proj|out_proj)|mlp\.(fc1|fc2))"
"""The matrices of the encoders' layers."""

ALPHA_BY_RANK = 2
"""Scale of the additional matrices, whatever their rank."""


def add_lora(model: MMETForPreTraining, rank: int) -> None:
    """
    Add trainable matrices of this rank to the encoders' layers, in place. Their product starts at zero; besides them,
    only the identity head is trained.

    Raises:
        ValueError: the package `peft` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(f"lora_rank: expected the package peft, which is not installed ({error})") from error
    settings = LoraConfig(r=rank, lora_alpha=ALPHA_BY_RANK * rank, target_modules=TARGETS)
    inject_adapter_in_model(settings, model)
    model.identity_head.requires_grad_(True)


def merge_lora(model: MMETForPreTraining) -> None:
    """Add the products of the matrices to the weights, and leave an ordinary model, in place."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
