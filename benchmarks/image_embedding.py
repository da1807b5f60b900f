"""Embedding images with `MMETForReID` against the same vision transformer in transformers, in images per second.

The peer is transformers' `ViTModel`, whose weights MMET's image encoder takes over: same width, depth, patches and
image size. MMET reads patches side by side here (`patch_stride` = `patch_size`), which is all that a ViT knows, and
embeds by `identity_pooling="image"`, so that both run one image encoder; the identity head and the norm of the
embedding come on top. MMET's overlapping patches and its multimodal encoder are printed beside it: they are more work
by design. Weights are random, and the first two rows are checked to agree on [CLS_I].

The systems take turns batch by batch in one process, so that a drift of the machine's speed meets all.

    python benchmarks/image_embedding.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import ViTConfig, ViTModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configuration_mmet import MMETConfig
from mmet.conversion import from_vit
from modeling_mmet import MMETForReID

IMAGE_SIZE = (256, 128)
TINY_TEXT = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "num_hidden_layers": 1}


def sizes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Width and depth of every encoder."""
    return {
        "hidden_size": arguments.hidden_size,
        "num_hidden_layers": arguments.num_layers,
        "num_attention_heads": arguments.hidden_size // 64,
        "intermediate_size": 4 * arguments.hidden_size,
    }


def build_vit(arguments: argparse.Namespace) -> ViTModel:
    """transformers' ViT on person crops."""
    config = ViTConfig(**sizes(arguments), image_size=IMAGE_SIZE, patch_size=16)
    return ViTModel(config, add_pooling_layer=False).eval()


def build_mmet(arguments: argparse.Namespace, vit: ViTModel, pooling: str, stride: int) -> MMETForReID:
    """MMET with the ViT's weights in its image encoder."""
    image_model = from_vit(vit, patch_stride=stride)
    config = MMETConfig(
        image_config=image_model.config.to_dict(),
        text_config=TINY_TEXT,
        multimodal_config={**sizes(arguments), "num_hidden_layers": max(1, arguments.num_layers // 2)},
        identity_pooling=pooling,
    )
    model = MMETForReID(config).eval()
    model.mmet.image_model.load_state_dict(image_model.state_dict())
    return model


def build_systems(arguments: argparse.Namespace) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """What turns images `(B, 3, H, W)` into embeddings `(B, D)`, the peer first."""
    vit = build_vit(arguments)
    plain = build_mmet(arguments, vit, "image", 16)
    systems: dict[str, Any] = {
        "transformers ViTModel": lambda images: vit(pixel_values=images).last_hidden_state[:, 0],
        "MMETForReID, the same patches": lambda images: plain(pixel_values=images).embeddings,
    }
    overlapping = build_mmet(arguments, vit, "image", 12)
    systems["MMETForReID, overlapping patches"] = lambda images: overlapping(pixel_values=images).embeddings
    multimodal = build_mmet(arguments, vit, "multimodal", 12)
    systems["the same with the multimodal encoder"] = lambda images: multimodal(pixel_values=images).embeddings
    check_agreement(vit, plain)
    return systems


@torch.no_grad()
def check_agreement(vit: ViTModel, model: MMETForReID) -> None:
    """Raise `AssertionError` unless both compute the same class token."""
    images = torch.randn(2, 3, *IMAGE_SIZE)
    expected = vit(pixel_values=images).last_hidden_state[:, 0]
    torch.testing.assert_close(model.mmet.image_model(images).pooler_output, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def compare(arguments: argparse.Namespace) -> None:
    """Time the systems in turn and print a table."""
    torch.manual_seed(0)
    systems = build_systems(arguments)
    images = torch.randn(arguments.batch_size, 3, *IMAGE_SIZE)
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(arguments.turns + 1):
        for name, embed in systems.items():
            start = time.perf_counter()
            embed(images)
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(arguments)}\n")
    print("| system | images/s | time / ViT's |\n| --- | ---: | ---: |")
    peer = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, peer, strict=True))
        print(f"| {name} | {arguments.batch_size / statistics.median(times):.1f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=768, help="width of the encoders, a multiple of 64")
    parser.add_argument("--num_layers", type=int, default=12)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=9)
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
