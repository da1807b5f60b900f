"""From JPEG to model inputs in one process and one thread, against transformers' FLAVA processor (Pillow backend).

Both get the same JPEGs in memory and the same captions and make the same things: float pixels of 256 × 128, a mask of
image patches, and tokens. FLAVA keeps its own settings but for the size (its masks are BEiT's blocks on 14 × 14
patches); MMET draws 32 of 210 patches on the person. Without a silhouette that is the parametric figure; "with
silhouettes" a PNG mask a picture is decoded and its share of every patch computed as well, for which FLAVA has no
counterpart. The last rows are the training loader itself: rows of a dataset, sentences masked and swapped, without and
with augmentation.

The systems take turns batch by batch in one process, so that a drift of the machine's speed meets all; seconds are the
process's own, and a ratio is the median over the turns. Then every stage alone.

    OMP_NUM_THREADS=1 python benchmarks/data_pipeline.py
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from transformers import BertTokenizer, FlavaImageProcessorPil, FlavaProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmet.data import REID_FEATURES
from mmet.data.decoding import decode_rgb
from mmet.data.synthetic import render_person
from mmet.training.augmentation import PersonAugmentation
from mmet.training.collator import MMETDataCollator
from mmet.training.dataset import TrainingDataset
from mmet.training.masking import PatchRegion, num_masked_patches, pedestrian_masking, pedestrian_prior
from mmet.training.sampling import Draw
from mmet.training.tokenization import train_wordpiece_tokenizer
from pictures_mmet import read_person_mask
from processing_mmet import MMETImageProcessor, MMETProcessor

HEIGHT, WIDTH = 256, 128
PEER = "transformers FLAVA processor, Pillow backend"
CAPTION = "A woman in a {} jacket and {} jeans carries a black backpack and walks along the street."
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "grey", "brown")

Work = Callable[[], Any]


@dataclass(frozen=True)
class Rows:
    """A batch as it lies in a shard: files and captions."""

    pictures: list[bytes]
    silhouettes: list[bytes]
    captions: list[str]


def make_rows(count: int, height: int, width: int) -> Rows:
    """Drawn people as JPEG of quality 90, their silhouettes as PNG."""
    pictures, silhouettes = [], []
    for number in range(count):
        image, mask = render_person(number + 1, image_height=height, image_width=width)
        pictures.append(_encoded(image, "JPEG", quality=90))
        silhouettes.append(_encoded(mask, "PNG"))
    captions = [CAPTION.format(COLOURS[number % 8], COLOURS[number // 8 % 8]) for number in range(count)]
    return Rows(pictures, silhouettes, captions)


def _encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(files: list[bytes], mode: str) -> list[Image.Image]:
    """With Pillow, as FLAVA's users do."""
    return [Image.open(io.BytesIO(file)).convert(mode) for file in files]


def decode_masks(files: list[bytes]) -> list[Image.Image]:
    return [read_person_mask(file) for file in files]


def decode_own(files: list[bytes]) -> list[NDArray[np.uint8]]:
    return [decode_rgb({"bytes": file, "path": None}) for file in files]


class OwnPipeline:
    """MMET's steps, one by one and together."""

    def __init__(self, tokenizer: BertTokenizer, *, exact: bool) -> None:
        # The processor takes further arguments by name, as transformers' own do; types do not see them.
        self.processor: Any = MMETProcessor(MMETImageProcessor(exact_resize=exact), tokenizer)
        self.options = {"input_data_format": "channels_last", "return_tensors": "pt"}
        self.grid = self.processor.image_processor.patch_grid
        self.prior = pedestrian_prior(*self.grid)
        self.num_masked = num_masked_patches(0.15, len(self.prior))
        self.rng = np.random.default_rng(0)

    def mask(self, coverage: np.ndarray) -> np.ndarray:
        return pedestrian_masking(PatchRegion(coverage, self.prior, self.grid), self.num_masked, self.rng)

    def without_silhouettes(self, rows: Rows) -> Any:
        images = decode_own(rows.pictures)
        features = self.processor(images=images, text=rows.captions, **self.options)
        nothing = np.full((len(rows.pictures), len(self.prior)), np.nan, dtype=np.float32)
        return features, torch.from_numpy(self.mask(nothing))

    def with_silhouettes(self, rows: Rows) -> Any:
        images, masks = decode_own(rows.pictures), decode_masks(rows.silhouettes)
        features = self.processor(images=images, text=rows.captions, person_masks=masks, **self.options)
        return features, torch.from_numpy(self.mask(features["person_patch_coverage"].numpy()))


def flava(rows: Rows, processor: FlavaProcessor) -> Any:
    images = decode(rows.pictures, "RGB")
    return processor(images=images, text=rows.captions, padding=True, return_tensors="pt")


def bare(rows: Rows) -> Any:
    """Decoding, Pillow's resize and numpy's arithmetic: what no mask and no tokens would cost."""
    pixels = []
    for image in decode(rows.pictures, "RGB"):
        array = np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels.append((array.transpose(2, 0, 1) / 255 - 0.5) / 0.5)
    return np.stack(pixels)


def loader(rows: Rows, pipeline: OwnPipeline, augmentation: PersonAugmentation | None) -> Work:
    """The training set and its collator over the same rows."""
    count = len(rows.pictures)
    table = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": file, "path": None} for file in rows.pictures],
            "person_id": list(range(count)),
            "camera_id": [0] * count,
            "captions": [[caption] for caption in rows.captions],
            "person_mask": [{"bytes": file, "path": None} for file in rows.silhouettes],
            "image_path": [f"{number}.jpg" for number in range(count)],
            "domain": ["synthetic"] * count,
        },
        features=REID_FEATURES,
    )
    dataset = TrainingDataset(paired=[table], augmentation=augmentation)
    collator = MMETDataCollator(pipeline.processor)
    draws = [Draw("paired", number, number) for number in range(count)]
    return lambda: collator(dataset.__getitems__(draws))


def build_systems(rows: Rows, tokenizer: BertTokenizer) -> dict[str, Work]:
    """What makes a batch, the peer first."""
    size = {"height": HEIGHT, "width": WIDTH}
    images = FlavaImageProcessorPil(size=size, crop_size=size, return_image_mask=True)
    systems: dict[str, Work] = {PEER: partial(flava, rows, FlavaProcessor(images, tokenizer))}
    for exact, name in ((True, "exact resize"), (False, "integer resize")):
        pipeline = OwnPipeline(tokenizer, exact=exact)
        systems[f"MMET, the same work, {name}"] = partial(pipeline.without_silhouettes, rows)
        systems[f"MMET with silhouettes, {name}"] = partial(pipeline.with_silhouettes, rows)
    systems["training loader with silhouettes, integer resize"] = loader(rows, pipeline, None)
    systems["the same with augmentation"] = loader(rows, pipeline, PersonAugmentation())
    systems["bare Pillow and numpy: pixels alone"] = partial(bare, rows)
    return systems


def build_stages(rows: Rows, tokenizer: BertTokenizer) -> dict[str, Work]:
    """Each stage alone, on the results of the one before."""
    pipeline, exact = OwnPipeline(tokenizer, exact=False), OwnPipeline(tokenizer, exact=True)
    images, masks = decode(rows.pictures, "RGB"), decode_masks(rows.silhouettes)
    resized = [image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for image in images]
    coverage = pipeline.processor.person_patch_coverage(masks).numpy()
    augment, rng = PersonAugmentation(), np.random.default_rng(0)
    unscaled = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    return {
        "decode the JPEG": lambda: decode_own(rows.pictures),
        "… with Pillow": lambda: decode(rows.pictures, "RGB"),
        "decode the PNG silhouette": lambda: decode_masks(rows.silhouettes),
        "augment both": lambda: [augment(*pair, rng) for pair in zip(images, masks, strict=True)],
        "image processor, exact resize": lambda: exact.processor.image_processor(images, return_tensors="pt"),
        "image processor, integer resize": lambda: pipeline.processor.image_processor(images, return_tensors="pt"),
        "… of pictures of its size: normalise": lambda: pipeline.processor.image_processor(
            resized, return_tensors="pt"
        ),
        "… of these without normalising: copy": lambda: pipeline.processor.image_processor(resized, **unscaled),
        "coverage of the patches": lambda: pipeline.processor.person_patch_coverage(masks),
        "draw the patch mask": lambda: pipeline.mask(coverage),
        "tokens": lambda: pipeline.processor(text=rows.captions, return_tensors="pt"),
    }


def take_turns(work: Mapping[str, Work], turns: int) -> dict[str, list[float]]:
    """Seconds of the process for each, turn by turn; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(turns + 1):
        for name, step in work.items():
            start = time.process_time()
            step()
            if turn:
                seconds[name].append(time.process_time() - start)
    return seconds


def compare(arguments: argparse.Namespace, height: int, width: int) -> None:
    """Print both tables for JPEGs of one size."""
    rows = make_rows(arguments.batch_size, height, width)
    tokenizer = train_wordpiece_tokenizer(rows.captions, vocab_size=2_000)
    kilobytes = sum(map(len, rows.pictures)) / len(rows.pictures) / 1e3
    print(f"\nJPEGs of {height} × {width}, {kilobytes:.1f} kB each:\n")
    print("| system | images/s | µs/image | times FLAVA's speed |\n| --- | ---: | ---: | ---: |")
    seconds = take_turns(build_systems(rows, tokenizer), arguments.turns)
    for name, times in seconds.items():
        ratio = statistics.median(peer / ours for peer, ours in zip(seconds[PEER], times, strict=True))
        each = statistics.median(times) / arguments.batch_size
        print(f"| {name} | {1 / each:,.0f} | {each * 1e6:,.0f} | {ratio:.2f} |")
    print("\n| stage | µs/image |\n| --- | ---: |")
    for name, times in take_turns(build_stages(rows, tokenizer), arguments.turns).items():
        print(f"| {name} | {statistics.median(times) / arguments.batch_size * 1e6:,.0f} |")


def main() -> None:
    # As in a data loading worker. Waiting threads would be counted as work.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", default=["128x64", "256x128", "400x160"], help="of the JPEGs")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("one thread is measured: start it with OMP_NUM_THREADS=1 in the environment")
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}, Pillow {PIL.__version__}"
    print(f"{versions}, one thread, {vars(arguments)}")
    for height, width in (map(int, size.split("x")) for size in arguments.sizes):
        compare(arguments, height, width)


if __name__ == "__main__":
    main()
