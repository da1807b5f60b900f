"""Teach the ITM head of a trained model which pictures a caption means, on people that the model was not trained on.

    python -m mmet.starter.matching outputs/starter/model --data finegpr@street=outputs/starter/matching/street \
        --output outputs/starter/matched

Only the head's comparison of class tokens learns (`matching_comparison_size`). Pretraining shows the head pairs drawn
at random, most of which the embeddings tell apart anyway. Here, each caption comes with one picture of its person and
several of others, most of them among the most similar ones, which is what the head sees when it re-scores the first
entries of a ranking (`run_reid_eval.py --itm_top_k`).
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from configuration_mmet import MMETConfig
from layers_mmet import CLASS_TOKEN
from mmet.argument_parser import OptionParser
from mmet.checkpoint_files import check_model
from mmet.command_line import run_command
from mmet.data import load_training_splits, parse_data_argument
from mmet.evaluation.protocols import Items, select_items
from mmet.evaluation.systems.embedding import ItemReader
from mmet.field_checks import SEED_RANGE, Range, errors_about, number_type
from modeling_mmet import MMETForPreTraining
from processing_mmet import MMETProcessor

BATCH = 64
"""Pictures or captions encoded at a time."""

NEAREST = 200
"""Wrong pictures are drawn from so many that are most similar to a caption, and a fifth of them from all pictures."""

MAX_COUNT = 2**16
"""Largest number of steps, captions, wrong pictures and units."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EncodedPairs:
    """What a frozen model makes of N pictures and M captions.

    Attributes:
        image_tokens, text_tokens: `(N, D)` and `(M, D)` float32, the class tokens that the multimodal encoder reads.
        image_embeddings, text_embeddings: `(N, K)` and `(M, K)` float32, unit norm.
        pictures: `(M,)` int64, the picture that a caption describes.
        persons: `(N,)` int64, persons of all sources numbered together.
        sources: `(N,)` int64, the source of each picture.
    """

    image_tokens: Tensor
    text_tokens: Tensor
    image_embeddings: Tensor
    text_embeddings: Tensor
    pictures: Tensor
    persons: Tensor
    sources: Tensor


def build_parser() -> OptionParser:
    """Build the parser of the command."""
    parser = OptionParser(
        prog="python -m mmet.starter.matching", description="Teach the ITM head of a trained model, and nothing else."
    )
    parser.add_argument("run", type=Path, help="output folder of run_pretrain.py")
    parser.add_argument(
        "--data", nargs="+", required=True, help="sources of pictures with captions: name=folder or name@alias=folder"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    count = number_type(int, Range(at_least=1, at_most=MAX_COUNT))
    parser.add_argument(
        "--comparison_size",
        type=count,
        default=512,
        help="width of the comparison that the head gets if it has none (default: 512)",
    )
    parser.add_argument("--steps", type=count, default=1200, help="training steps (default: 1200)")
    parser.add_argument("--captions_per_step", type=count, default=64, help="captions in a step (default: 64)")
    parser.add_argument("--negatives", type=count, default=15, help="wrong pictures for each caption (default: 15)")
    parser.add_argument("--seed", type=number_type(int, SEED_RANGE), default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `run_command` for its exit codes."""
    parser = build_parser()
    return run_command(parser.prog, lambda command: teach_model(parser.parse_args(argv)))


def teach_model(arguments: Namespace) -> None:
    """
    Teach the head and save the model with its processor.

    Raises:
        ValueError: the run's folder holds no complete model, or a source is not one.
        FileExistsError: the output exists.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.output.exists():
        raise FileExistsError(f"{arguments.output} exists; name a folder to be created")
    check_model(str(arguments.run))
    with errors_about("--data"):
        splits = load_training_splits([parse_data_argument(argument) for argument in arguments.data])
        images, texts = ([select_items(split, "train", kind) for split in splits] for kind in ("image", "text"))
    size = MMETConfig.from_pretrained(arguments.run).matching_comparison_size or arguments.comparison_size
    torch.manual_seed(arguments.seed)
    model = MMETForPreTraining.from_pretrained(arguments.run, dtype=torch.float32, matching_comparison_size=size)
    processor = MMETProcessor.from_pretrained(arguments.run)
    pairs = encode(model.eval(), processor, images, texts)
    share = teach(
        model.itm_head.comparison,
        pairs,
        steps=arguments.steps,
        captions_per_step=arguments.captions_per_step,
        negatives=arguments.negatives,
        seed=arguments.seed,
    )
    logger.info("%.3f of captions: the right one of %d pictures scored highest", share, 1 + arguments.negatives)
    model.save_pretrained(arguments.output)
    processor.save_pretrained(arguments.output)


@torch.no_grad()
def encode(model: MMETForPreTraining, processor: Any, images: Sequence[Items], texts: Sequence[Items]) -> EncodedPairs:
    """
    Encode the pictures and captions of each source, whose persons are different ones.

    Raises:
        DatasetError: a picture cannot be read.
    """
    sizes = torch.tensor([len(items) for items in images])
    starts = (sizes.cumsum(0) - sizes).tolist()
    sources = torch.arange(len(images)).repeat_interleave(sizes)
    person_ids = torch.from_numpy(np.concatenate([items.person_ids for items in images]))
    pictures = [
        start + np.searchsorted(shown.image_index, described.image_index)
        for start, shown, described in zip(starts, images, texts, strict=True)
    ]
    image_tokens, image_embeddings = map(torch.cat, zip(*encode_images(model, processor, images), strict=True))
    text_tokens, text_embeddings = map(torch.cat, zip(*encode_texts(model, processor, texts), strict=True))
    return EncodedPairs(
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        image_embeddings=image_embeddings,
        text_embeddings=text_embeddings,
        pictures=torch.from_numpy(np.concatenate(pictures)),
        persons=torch.unique(torch.stack([sources, person_ids]), dim=1, return_inverse=True)[1],
        sources=sources,
    )


def encode_images(
    model: MMETForPreTraining, processor: Any, sources: Sequence[Items]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the class tokens and embeddings of batches of pictures."""
    with tqdm(total=sum(map(len, sources)), desc="pictures", unit="picture") as progress:
        for items in sources:
            reader = ItemReader(items.dataset, items)
            for start in range(0, len(items), BATCH):
                pictures = reader.read(np.arange(start, min(start + BATCH, len(items)))).images
                pixel_values = processor(images=pictures, return_tensors="pt")["pixel_values"]
                states = model.mmet.encode_images(pixel_values).pre_norm_hidden_state
                yield model.mmet.image_to_multimodal(states[:, 0]), embed(model, image_states=states)
                progress.update(len(states))


def encode_texts(
    model: MMETForPreTraining, processor: Any, sources: Sequence[Items]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the class tokens and embeddings of batches of captions."""
    captions: list[str] = []
    for items in sources:
        captions += ItemReader(items.dataset, items).read(np.arange(len(items))).captions or []
    for start in tqdm(range(0, len(captions), BATCH), desc="captions", unit="batch"):
        words = processor(text=captions[start : start + BATCH], padding=True, return_tensors="pt")
        mask = words["attention_mask"]
        states = model.mmet.encode_texts(words["input_ids"], mask).pre_norm_hidden_state
        tokens = model.mmet.text_to_multimodal(states[:, 0])
        yield tokens, embed(model, text_states=states, attention_mask=mask)


def embed(model: MMETForPreTraining, **states: Tensor) -> Tensor:
    """Compute the identity embeddings `(B, K)`, unit norm, of encoded pictures or captions."""
    fused = model.mmet.fuse(**states, read_positions=CLASS_TOKEN).last_hidden_state
    embeddings: Tensor = model.identity_head(fused)[0]
    return F.normalize(embeddings.float())


def fewest_strangers(pairs: EncodedPairs) -> int:
    """The number of pictures of other persons that every caption finds in its source.

    Raises:
        ValueError: a source shows only one person.
    """
    fewest = min(
        len(persons) - int(torch.bincount(persons).max())
        for persons in (pairs.persons[pairs.sources == source] for source in range(int(pairs.sources.max()) + 1))
    )
    if not fewest:
        raise ValueError("--data: expected at least two persons in each source")
    return fewest


def nearest_strangers(pairs: EncodedPairs, count: int) -> NDArray[np.int64]:
    """Find, for each caption, the `count` most similar pictures of other persons of its source: `(M, count)`.

    Pictures of other sources would be easy: the wording of a caption tells where it is from.
    """
    persons, sources = pairs.persons[pairs.pictures], pairs.sources[pairs.pictures]
    nearest = []
    for start in range(0, len(persons), 1024):
        rows = slice(start, start + 1024)
        cosines = pairs.text_embeddings[rows] @ pairs.image_embeddings.T
        cosines[persons[rows, None] == pairs.persons] = -torch.inf
        cosines[sources[rows, None] != pairs.sources] = -torch.inf
        nearest.append(cosines.topk(count, dim=1).indices)
    return torch.cat(nearest).numpy()


def draw_choices(
    pairs: EncodedPairs, nearest: NDArray[np.int64], captions: NDArray[np.int64], wrong: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """
    Draw a picture of the person of each caption `(B,)`, then `wrong` of others: `(B, 1 + wrong)`.

    Four fifths of the wrong ones are of `nearest`, the rest of all pictures of the caption's source.
    """
    persons, sources = pairs.persons.numpy(), pairs.sources.numpy()
    shown = pairs.pictures.numpy()[captions]
    described = persons[shown]
    right = np.array([rng.choice(np.flatnonzero(persons == person)) for person in described])
    chosen = nearest[captions[:, None], rng.integers(nearest.shape[1], size=(len(captions), wrong))]
    first, after = (np.searchsorted(sources, sources[shown], side)[:, None] for side in ("left", "right"))
    anyone = rng.integers(first, after, size=(len(captions), wrong // 5))
    is_stranger = persons[anyone] != described[:, None]
    chosen[:, : wrong // 5] = np.where(is_stranger, anyone, chosen[:, : wrong // 5])
    return np.concatenate([right[:, None], chosen], axis=1)


def teach(
    comparison: torch.nn.Module,
    pairs: EncodedPairs,
    *,
    steps: int,
    captions_per_step: int,
    negatives: int,
    seed: int,
    learning_rate: float = 1e-3,
) -> float:
    """
    Train the comparison of an ITM head in place.

    Args:
        comparison: maps class tokens of pictures and captions `(B, D)` to logits `(B, 2)`, mismatch and match.
        pairs: pictures and captions.
        steps: number of optimisation steps.
        captions_per_step: captions in a step.
        negatives: wrong pictures for each caption, which together weigh as much as the right one.
        seed: random seed.
        learning_rate: highest learning rate; it warms up over a twentieth of the steps and then follows a cosine.

    Returns:
        The share of captions, over the last tenth of the steps, whose right picture had the highest score.

    Raises:
        ValueError: a source shows only one person.
    """
    rng = np.random.default_rng(seed)
    nearest = nearest_strangers(pairs, min(NEAREST, fewest_strangers(pairs)))
    optimizer = torch.optim.AdamW(comparison.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    weight = torch.tensor([1.0, float(negatives)])
    is_right = torch.zeros(captions_per_step, 1 + negatives, dtype=torch.long)
    is_right[:, 0] = 1
    shares = []
    for _ in tqdm(range(steps), desc="ITM head", unit="step"):
        captions = rng.integers(len(pairs.pictures), size=captions_per_step)
        logits = compare(comparison, pairs, captions, draw_choices(pairs, nearest, captions, negatives, rng))
        loss = F.cross_entropy(logits.flatten(0, 1), is_right.flatten(), weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        log_odds = (logits[..., 1] - logits[..., 0]).detach()
        shares.append(float((log_odds[:, 0] > log_odds[:, 1:].amax(dim=1)).float().mean()))
    last = shares[-max(1, steps // 10) :]
    return sum(last) / len(last)


def compare(
    comparison: torch.nn.Module, pairs: EncodedPairs, captions: NDArray[np.int64], pictures: NDArray[np.int64]
) -> Tensor:
    """Compute the logits `(B, n, 2)` of captions `(B,)` with pictures `(B, n)` each."""
    texts = torch.from_numpy(captions).repeat_interleave(pictures.shape[1])
    logits: Tensor = comparison(pairs.image_tokens[torch.from_numpy(pictures).flatten()], pairs.text_tokens[texts])
    return logits.reshape(*pictures.shape, 2)


if __name__ == "__main__":
    sys.exit(main())
