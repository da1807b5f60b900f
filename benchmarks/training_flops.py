"""What training MMET at the paper's size costs: operations and memory of a sample, and from them hours and gigabytes.

Operations are counted by `torch.utils.flop_counter` on the real model, forward and backward, for each kind of batch;
activations are the bytes that autograd keeps after a forward pass under bfloat16 autocast. Both are counted, not
timed, so that any machine gives the same numbers. Hours follow from a card's published dense bfloat16 rate times an
assumed share of it; nothing here was run on such a card.

    python benchmarks/training_flops.py
    python benchmarks/training_flops.py --multimodal_layers 6    # as the released code has it
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configuration_mmet import MMETConfig, MMETImageConfig
from modeling_mmet import MMETForPreTraining

VOCAB_SIZE = 30_522
NUM_IDENTITIES = 1_150
MASKED_SHARE = 0.15
MASK_TOKEN_ID = 103
BASELINE = "identity_image, image encoder alone"
KINDS = ("image", "text", "paired", "identity", "identity_image", BASELINE)
BYTES_PER_PARAMETER = {"weights": 4, "gradients": 4, "AdamW's two moments": 8, "bfloat16 copies of autocast": 2}


@dataclass(frozen=True)
class Card:
    """Cards of one kind: dense bfloat16 rate of one with float32 accumulation, its memory, and how many."""

    name: str
    flops: float
    gigabytes: int
    count: int = 1


@dataclass(frozen=True)
class StagePlan:
    """A stage of training: steps, batch over all cards, and in which proportions batches are mixed."""

    name: str
    steps: int
    batch_size: int
    mix: Mapping[str, float]


CARDS = (
    Card("RTX 3090", 71e12, 24),
    Card("H100 SXM", 989e12, 80),
    Card("8 × H100 SXM", 989e12, 80, count=8),
)
"""Rates of the makers' data sheets (NVIDIA Ampere GA102 white paper; H100 data sheet), without sparsity."""

STAGES = (
    StagePlan("masked: 450,000 steps of 16", 450_000, 16, {"paired": 1 / 3, "image": 1 / 3, "text": 1 / 3}),
    StagePlan("masked, pairs alone: 450,000 steps of 16", 450_000, 16, {"paired": 1.0}),
    StagePlan("identity: 230,000 steps of 64", 230_000, 64, {"identity": 1.0}),
    StagePlan("baseline: 230,000 steps of 64", 230_000, 64, {BASELINE: 1.0}),
)


def build_model(multimodal_layers: int, layers: int, attention: str) -> MMETForPreTraining:
    """MMET at the paper's width, with this many layers in the image and text encoders."""
    depth = {"num_hidden_layers": layers}
    config = MMETConfig(
        image_config=depth,
        text_config={**depth, "vocab_size": VOCAB_SIZE},
        multimodal_config={"num_hidden_layers": multimodal_layers},
        num_identities=NUM_IDENTITIES,
    )
    model = MMETForPreTraining._from_config(config, attn_implementation=attention).train()
    torch.nn.init.normal_(model.get_buffer("image_codebook.centroids"))
    return model


def masked_positions(batch_size: int, length: int) -> torch.Tensor:
    """`(batch_size, length)` booleans, the same number of True in every row."""
    masked = torch.zeros(batch_size, length, dtype=torch.bool)
    masked[:, : round(MASKED_SHARE * length)] = True
    return masked


def make_batch(kind: str, batch_size: int, length: int, config: MMETConfig) -> dict[str, torch.Tensor]:
    """A batch of a kind, captions filling the whole length, half of the masked pairs mismatched."""
    image_config = cast(MMETImageConfig, config.image_config)
    image = {"pixel_values": torch.randn(batch_size, 3, *cast(list[int], image_config.image_size))}
    words = torch.randint(1000, VOCAB_SIZE, (batch_size, length))
    text = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    hidden = masked_positions(batch_size, length)
    masked_text = {
        "input_ids_masked": words.masked_fill(hidden, MASK_TOKEN_ID),
        "mlm_labels": words.masked_fill(~hidden, -100),
    }
    patches = {"bool_masked_pos": masked_positions(batch_size, image_config.num_patches)}
    persons = {"person_labels": torch.arange(batch_size) // 2}
    matching = {"itm_labels": torch.arange(batch_size) % 2}
    return {
        "image": image | patches,
        "text": masked_text | {"attention_mask": text["attention_mask"]},
        "paired": image | text | patches | masked_text | matching,
        "identity": image | text | persons,
        "identity_image": image | persons,
        BASELINE: image | persons,
    }[kind]


def count_flops(model: MMETForPreTraining, batch: dict[str, torch.Tensor]) -> int:
    """Operations of a forward and backward pass; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def count_kept_bytes(model: MMETForPreTraining, batch: dict[str, torch.Tensor]) -> int:
    """Bytes that autograd keeps under bfloat16 autocast, without the parameters and their bfloat16 copies."""
    own_storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes = {tuple(parameter.shape) for parameter in model.parameters() if parameter.dim() == 2}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_copy = tensor.dim() == 2 and {tuple(tensor.shape), tuple(tensor.shape[::-1])} & sizes
        if storage.data_ptr() not in own_storages and not is_copy:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        loss = model(**batch).loss
    del loss
    return sum(kept.values())


def count_all(
    arguments: argparse.Namespace,
    layers: int,
    multimodal_layers: int,
    attention: str,
    count: Callable[[MMETForPreTraining, dict[str, torch.Tensor]], int],
) -> dict[str, float]:
    """What `count` finds a sample of each kind of batch, for a model of these depths."""
    torch.manual_seed(0)
    model, counted = build_model(multimodal_layers, layers, attention), {}
    for kind in KINDS:
        model.config.identity_pooling = "image" if kind == BASELINE else "multimodal"
        batch = make_batch(kind, arguments.batch_size, arguments.text_length, model.config)
        counted[kind] = count(model, batch) / arguments.batch_size
    return counted


def measure(
    arguments: argparse.Namespace, attention: str, count: Callable[[MMETForPreTraining, dict[str, torch.Tensor]], int]
) -> dict[str, float]:
    """
    What `count` finds a sample of each kind of batch. It grows by the same amount with every layer, so it is counted
    with one and with two layers and drawn on to the depths asked for; `--whole` counts the whole model instead.
    """
    if arguments.whole:
        return count_all(arguments, arguments.layers, arguments.multimodal_layers, attention, count)
    base, deeper, fused = (count_all(arguments, *depths, attention, count) for depths in ((1, 1), (2, 1), (1, 2)))
    return {
        kind: base[kind]
        + (arguments.layers - 1) * (deeper[kind] - base[kind])
        + (arguments.multimodal_layers - 1) * (fused[kind] - base[kind])
        for kind in KINDS
    }


def count_parameters(arguments: argparse.Namespace) -> int:
    """Parameters of the whole model."""
    with torch.device("meta"):
        model = build_model(arguments.multimodal_layers, arguments.layers, "sdpa")
    return sum(parameter.numel() for parameter in model.parameters())


def print_samples(flops: Mapping[str, float], kept: Mapping[str, float]) -> None:
    """The table of what one sample costs."""
    print("| batch | GFLOP a sample, forward and backward | MB kept a sample |")
    print("| --- | ---: | ---: |")
    for kind in KINDS:
        print(f"| {kind} | {flops[kind] / 1e9:,.0f} | {kept[kind] / 1e6:,.0f} |")


def print_plan(
    flops: Mapping[str, float], kept: Mapping[str, float], parameters: int, shares: tuple[float, float]
) -> None:
    """The table of memory and hours of every stage on every card."""
    state = parameters * sum(BYTES_PER_PARAMETER.values())
    print("| stage | EFLOP | " + " | ".join(f"{card.name}, GB a card | hours" for card in CARDS) + " |")
    print("| --- | ---: |" + " ---: | ---: |" * len(CARDS))
    for stage in STAGES:
        total = stage.steps * stage.batch_size * sum(share * flops[kind] for kind, share in stage.mix.items())
        cells = []
        for card in CARDS:
            largest = max(kept[kind] for kind in stage.mix)
            memory = (state + largest * max(1, stage.batch_size // card.count)) / 1e9
            hours = [total / (card.count * card.flops * share) / 3600 for share in sorted(shares, reverse=True)]
            fits = "" if memory < card.gigabytes else " (too large)"
            cells.append(f"{memory:.0f}{fits} | {hours[0]:,.1f} to {hours[1]:,.1f}")
        print(f"| {stage.name} | {total / 1e18:,.1f} | " + " | ".join(cells) + " |")


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="layers of image and text encoder (%(default)s)")
    parser.add_argument("--multimodal_layers", type=int, default=12, help="of the multimodal one (%(default)s)")
    parser.add_argument("--text_length", type=int, default=77, help="tokens of a caption (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=2, help="samples counted together (%(default)s)")
    parser.add_argument("--whole", action="store_true", help="count the whole model: minutes, the same result")
    parser.add_argument(
        "--utilisation", type=float, nargs=2, default=(0.3, 0.4), help="assumed shares of the dense rate (%(default)s)"
    )
    return parser


def main() -> None:
    """Count and print the tables."""
    arguments = build_parser().parse_args()
    flops = measure(arguments, "eager", count_flops)  # whose attention is all counted
    kept, parameters = measure(arguments, "sdpa", count_kept_bytes), count_parameters(arguments)
    print(f"{parameters / 1e6:.0f} M parameters, {arguments.text_length} tokens, torch {torch.__version__}\n")
    print_samples(flops, kept)
    print()
    print_plan(flops, kept, parameters, tuple(arguments.utilisation))


if __name__ == "__main__":
    main()
