"""Which patch descriptor and how many codes: what a small image encoder learns of each image codebook by L_MIM.

Draws people of the synthetic source world, fits a k-means codebook for every descriptor and number of codes, trains a
small model from scratch to classify the masked patches (pedestrian masking, 15 %) and tests it on people it never
saw. Printed for each:

- perplexity: how many codes are in use, were they used evenly (of the fit);
- majority: accuracy on masked patches of always guessing the code that is most frequent among them in training;
- accuracy: that of the model, and the ratio of the two. Ratios grow with K by themselves, as the majority shrinks;
- bits: the entropy of the masked patches' codes less the model's cross-entropy: how much it learned to say about a
  hidden patch, which compares across K as accuracy does not;
- fit: seconds of the k-means fit, images in memory.

Neighbouring patches overlap where `patch_stride` < `patch_size`, so visible patches show a part of the masked ones.
`--hide_overlap` paints over every pixel of a masked patch before the encoder reads the image.

    python benchmarks/codebook.py
    python benchmarks/codebook.py --descriptors cells --num_codes 64 --hide_overlap
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BertTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configuration_mmet import MMETConfig
from mmet.data.synthetic import render_person
from mmet.training.codebook import CodebookFit, fit_codebook
from mmet.training.masking import IMAGE_MASKING, PatchRegion, num_masked_patches, pedestrian_prior
from modeling_mmet import MMETForPreTraining, MMETImageCodebook
from processing_mmet import MMETImageProcessor, MMETProcessor

IMAGE_SIZE = (100, 52)
IMAGES_PER_PERSON = 8
BATCH_SIZE = 64
SMALL = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256, "initializer_range": None}
TINY = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "num_hidden_layers": 1}


class StandardisedCodebook(MMETImageCodebook):
    """Descriptors of the image less its mean colour, over its standard deviation: codes of pattern, not of light."""

    def describe(self, pixel_values: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(pixel_values.float(), dim=(2, 3), keepdim=True)
        return super().describe((pixel_values - mean) / deviation.clamp(min=1e-6))


DESCRIPTORS: dict[str, tuple[type[MMETImageCodebook], int]] = {
    "pixels": (MMETImageCodebook, 1),
    "cells": (MMETImageCodebook, 4),
    "standardised cells": (StandardisedCodebook, 4),
}
"""Codebook class and `codebook_cell` of each descriptor."""


@dataclass
class People:
    """Images `(M, 3, H, W)` and how much of each patch is on the person `(M, N)`."""

    pixel_values: torch.Tensor
    coverage: np.ndarray


@dataclass
class Result:
    """What one row of the table says."""

    fit: CodebookFit
    fit_seconds: float
    majority: float
    accuracy: float
    bits: float


def draw_people(first: int, count: int, processor: MMETProcessor) -> People:
    """All pictures of `count` people of the synthetic source world, from number `first` on."""
    numbers = [(person, index) for person in range(first, first + count) for index in range(IMAGES_PER_PERSON)]
    height, width = IMAGE_SIZE
    pictures = [
        render_person(person, index=index, images_per_id=IMAGES_PER_PERSON, image_height=height, image_width=width)
        for person, index in numbers
    ]
    call: Any = processor
    pixel_values = call(images=[image for image, _ in pictures], return_tensors="pt")["pixel_values"]
    return People(pixel_values, processor.person_patch_coverage([mask for _, mask in pictures]).numpy())


def build_processor(config: MMETConfig) -> MMETProcessor:
    """A processor of the model's image size; its tokenizer is never used."""
    height, width = IMAGE_SIZE
    image: Any = config.image_config
    image_processor = MMETImageProcessor(
        size={"height": height, "width": width}, patch_size=image.patch_size, patch_stride=image.patch_stride
    )
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    return MMETProcessor(image_processor, BertTokenizer(vocab={word: number for number, word in enumerate(words)}))


def build_config(arguments: argparse.Namespace, num_codes: int, cell: int) -> MMETConfig:
    """A small image encoder; the other two, which L_MIM does not run, as small as they can be."""
    image = {**SMALL, "num_hidden_layers": 3, "image_size": IMAGE_SIZE, "position_initializer_range": 2.0}
    return MMETConfig(
        image_config={**image, "patch_stride": arguments.patch_stride},
        text_config={**TINY, "vocab_size": 5},
        multimodal_config=TINY,
        projection_dim=8,
        codebook_size=num_codes,
        codebook_cell=cell,
        initializer_range=None,
    )


def draw_masks(config: MMETConfig, coverage: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Pedestrian masks `(B, N)` as in training."""
    image: Any = config.image_config
    region = PatchRegion(coverage, pedestrian_prior(*image.patch_grid), image.patch_grid, 3.0)
    strategy: Any = IMAGE_MASKING["pedestrian"]
    return torch.from_numpy(strategy(region, num_masked_patches(0.15, image.num_patches), rng))


def covered_pixels(config: MMETConfig, patches: torch.Tensor) -> torch.Tensor:
    """True `(B, 1, H, W)` at every pixel of the patches that are True in `(B, N)`."""
    image: Any = config.image_config
    columns = patches.float()[:, None].expand(-1, image.patch_size**2, -1)
    return F.fold(columns, IMAGE_SIZE, image.patch_size, stride=image.patch_stride) > 0


def shared_with_visible(config: MMETConfig, masked: torch.Tensor) -> float:
    """Share of the pixels of masked patches that visible patches show too."""
    hidden, shown = covered_pixels(config, masked), covered_pixels(config, ~masked)
    return ((hidden & shown).sum() / hidden.sum()).item()


def encoder_input(config: MMETConfig, images: torch.Tensor, masked: torch.Tensor, hide_overlap: bool) -> torch.Tensor:
    """The images, without (mid-grey) the pixels of masked patches where asked."""
    return images.masked_fill(covered_pixels(config, masked), 0) if hide_overlap else images


def train(
    model: MMETForPreTraining, people: People, codes: torch.Tensor, arguments: argparse.Namespace, seed: int
) -> np.ndarray:
    """Train L_MIM; returns how often each code was a target."""
    rng = np.random.default_rng(seed)
    targets = np.zeros(model.config.codebook_size or 0, dtype=np.int64)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=arguments.steps, pct_start=0.1)
    model.train()
    for _ in range(arguments.steps):
        rows = rng.choice(len(codes), BATCH_SIZE, replace=False)
        masked, labels = draw_masks(model.config, people.coverage[rows], rng), codes[rows]
        images = encoder_input(model.config, people.pixel_values[rows], masked, arguments.hide_overlap)
        model(pixel_values=images, bool_masked_pos=masked, mim_labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        targets += np.bincount(labels[masked], minlength=len(targets))
    return targets


@torch.no_grad()
def evaluate(
    model: MMETForPreTraining, people: People, codes: torch.Tensor, arguments: argparse.Namespace
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities `(M, K)` and codes `(M,)` of the masked patches, every image masked twice."""
    rng = np.random.default_rng(1)
    model.eval()
    scores, labels = [], []
    for rows in np.array_split(np.tile(np.arange(len(codes)), 2), 2 * len(codes) // BATCH_SIZE):
        masked = draw_masks(model.config, people.coverage[rows], rng)
        images = encoder_input(model.config, people.pixel_values[rows], masked, arguments.hide_overlap)
        output = model(pixel_values=images, bool_masked_pos=masked, mim_labels=codes[rows])
        scores.append(output.mim_logits.log_softmax(-1))
        labels.append(codes[rows][masked])
    return torch.cat(scores), torch.cat(labels)


def measure(
    arguments: argparse.Namespace, descriptor: str, num_codes: int, seed: int, people: tuple[People, People]
) -> Result:
    """Fit, train and test one codebook."""
    torch.manual_seed(seed)
    codebook_class, cell = DESCRIPTORS[descriptor]
    config = build_config(arguments, num_codes, cell)
    model = MMETForPreTraining(config)
    codebook = codebook_class(config)
    training, held_out = people
    start = time.perf_counter()
    fit = fit_codebook(codebook, training.pixel_values.split(BATCH_SIZE), seed=seed)
    seconds = time.perf_counter() - start
    targets = train(model, training, codebook(training.pixel_values), arguments, seed)
    scores, labels = evaluate(model, held_out, codebook(held_out.pixel_values), arguments)
    shares = labels.bincount(minlength=num_codes) / len(labels)
    entropy = -torch.xlogy(shares, shares).sum().item()
    return Result(
        fit=fit,
        fit_seconds=seconds,
        majority=(labels == int(targets.argmax())).float().mean().item(),
        accuracy=(scores.argmax(-1) == labels).float().mean().item(),
        bits=(entropy - F.nll_loss(scores, labels).item()) / math.log(2),
    )


def print_row(descriptor: str, num_codes: int, results: list[Result]) -> None:
    """One row, means over seeds; the range of accuracy where there are several."""
    mean = {
        name: statistics.mean(getattr(result, name) for result in results)
        for name in ("majority", "accuracy", "bits", "fit_seconds")
    }
    accuracies = [result.accuracy for result in results]
    spread = f" ({min(accuracies):.3f}-{max(accuracies):.3f})" if len(results) > 1 else ""
    perplexity = statistics.mean(result.fit.perplexity for result in results)
    print(
        f"| {descriptor} | {num_codes} | {perplexity:.0f} | {mean['majority']:.3f} | {mean['accuracy']:.3f}{spread} "
        f"| {mean['accuracy'] / mean['majority']:.1f} | {mean['bits']:.2f} | {mean['fit_seconds']:.1f} |",
        flush=True,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--descriptors", nargs="+", choices=tuple(DESCRIPTORS), default=list(DESCRIPTORS))
    parser.add_argument("--num_codes", nargs="+", type=int, default=[64, 256, 1024], help="K, one or several")
    parser.add_argument("--steps", type=int, default=200, help=f"of {BATCH_SIZE} images each")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num_people", type=int, default=200, help="trained on; a quarter more is tested on")
    parser.add_argument("--patch_stride", type=int, default=12, help="a multiple of 4; 16 is no overlap at all")
    parser.add_argument("--hide_overlap", action="store_true", help="paint over the pixels of masked patches")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    config = build_config(arguments, 2, 4)
    processor = build_processor(config)
    people = (
        draw_people(1, arguments.num_people, processor),
        draw_people(1 + arguments.num_people, arguments.num_people // 4, processor),
    )
    masked = draw_masks(config, people[1].coverage, np.random.default_rng(0))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(arguments)}")
    print(f"{shared_with_visible(config, masked):.0%} of the pixels of masked patches lie in visible patches too\n")
    print("| descriptor | K | perplexity | majority | accuracy | ratio | bits | fit, s |\n|" + " --- |" * 8)
    for descriptor in arguments.descriptors:
        for num_codes in arguments.num_codes:
            results = [measure(arguments, descriptor, num_codes, seed, people) for seed in arguments.seeds]
            print_row(descriptor, num_codes, results)


if __name__ == "__main__":
    main()
