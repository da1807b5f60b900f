"""Embed the items of a retrieval task into one matrix, on all processes together.

    embeddings = embed_items(model, processor, task.query.dataset, task.query, "image", batch_size=64)

A batch contains all captions of its images, so that each picture is decoded once. Batches are dealt to the processes
in turn, and the rows are put back into item order at the end. Rows in the cache (`mmet.evaluation.systems.cache`) are
not computed again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from datasets import Image as ImageFeature
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import normalize
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mmet.data.decoding import DECODE_ERRORS, decode_rgb
from mmet.data.schema import DatasetError
from mmet.distributed import compute_on_all, compute_once
from mmet.evaluation.protocols import Items, Modality
from mmet.evaluation.systems.cache import EmbeddingCache, Rows, ShardWriter
from mmet.field_checks import Range, check_number

logger = logging.getLogger(__name__)

Inputs = TypeVar("Inputs")


@dataclass(frozen=True)
class RawBatch:
    """Decoded items: RGB `images` and `captions`, one entry per item; None for a modality without them."""

    images: list[Image.Image] | None
    captions: list[str] | None


@dataclass(frozen=True)
class ModelInputs:
    """Turns a raw batch into tensors for a model: everything that the processor returns.

    This is a class and not a closure, so that it can be sent to worker processes.
    """

    processor: Callable[..., Any]

    def __call__(self, batch: RawBatch) -> dict[str, torch.Tensor]:
        inputs = self.processor(
            images=batch.images, text=batch.captions, padding=True, truncation=True, return_tensors="pt"
        )
        return dict(inputs)


def embed_items(
    model: torch.nn.Module,
    processor: Callable[..., Any],
    dataset: Dataset,
    items: Items,
    modality: Modality,
    *,
    batch_size: int,
    accelerator: Accelerator | None = None,
    num_workers: int = 0,
    description: str | None = None,
    flip: bool = False,
    cache: EmbeddingCache | None = None,
) -> NDArray[np.float32]:
    """Embed items with a model; `(n, D)` float32, rows L2-normalised, in the order of `items`, on every process.

    Args:
        model: called with everything that the processor returns, such as `pixel_values` and `input_ids`; its output
            has `.embeddings` of shape `(B, D)`. It is moved to the accelerator's device; its training mode is
            restored.
        processor: `processor(images=…, text=…, padding=True, truncation=True, return_tensors="pt")`.
        dataset: the split that the items index.
        items: what to embed.
        modality: `image`, `text` or `both`; the modality that `items` was selected for.
        batch_size: number of items in a batch on each process; an image with more captions makes a larger batch.
        accelerator: processes, device and precision; None for a plain `Accelerator()`.
        num_workers: number of worker processes that decode and preprocess ahead, for each process.
        description: label of the progress bar.
        flip: whether an item with a picture is embedded as the normalised sum of its unit embedding and that of its
            mirror image.
        cache: cache of exactly these embeddings; None computes all of them.

    Raises:
        DatasetError: a picture cannot be read; the message names the file.
        ValueError: the items were selected for another modality, the batch size is below 1, or the model does not
            return one finite vector for each item.
    """
    accelerator = accelerator or Accelerator()
    model.to(accelerator.device)

    def forward(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with accelerator.autocast():
            return cast(torch.Tensor, model(**inputs).embeddings)

    def embed(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: values.to(accelerator.device) for name, values in inputs.items()}
        return add_mirror_images(forward, inputs) if flip else forward(inputs)

    was_training = model.training
    model.eval()
    try:
        return embed_with(
            ModelInputs(processor),
            embed,
            dataset,
            items,
            modality,
            batch_size=batch_size,
            accelerator=accelerator,
            num_workers=num_workers,
            description=description,
            cache=cache,
        )
    finally:
        model.train(was_training)


@torch.no_grad()
def embed_with(
    preprocess: Callable[[RawBatch], Inputs],
    embed: Callable[[Inputs], torch.Tensor],
    dataset: Dataset,
    items: Items,
    modality: Modality,
    *,
    batch_size: int,
    accelerator: Accelerator,
    num_workers: int = 0,
    description: str | None = None,
    cache: EmbeddingCache | None = None,
) -> NDArray[np.float32]:
    """Do the work of `embed_items` with any two functions: `preprocess` runs in the workers, `embed` on the device.

    `embed` returns `(B, D)`; this function handles normalisation, order and processes.
    """
    if modality != items.modality:
        raise ValueError(f"expected {items.modality!r}, which the items were selected for, received {modality!r}")
    known = _cached_rows(cache, len(items))
    is_known = np.zeros(len(items), dtype=bool)
    for positions, _ in known:
        is_known[positions] = True
    batches = [batch[~is_known[batch]] for batch in pack_items(items, batch_size) if not is_known[batch].all()]
    own_batches = batches[accelerator.process_index :: accelerator.num_processes]
    loader: Iterator[Any] = iter(
        DataLoader(
            _Batches(ItemReader(dataset, items), own_batches, preprocess),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
        )
    )
    started = time.monotonic()
    progress = tqdm(
        desc=description,
        total=int(is_known.sum()) + sum(map(len, own_batches)),
        initial=int(is_known.sum()),  # from the cache: not counted in items per second
        unit="item",
        disable=not accelerator.is_main_process,
    )
    with progress, ShardWriter(cache) as writer:
        embedded = _embed_batches(own_batches, loader, embed, description or items.modality)
        rows, failure = _keep_until_failure(embedded, writer, progress)
    rows = gather_rows_or_raise(rows, failure, accelerator)
    if accelerator.is_main_process:
        _log_speed(description or items.modality, len(items), int(is_known.sum()), time.monotonic() - started)
    return _assemble([*known, *rows], len(items))


def _embed_batches(
    batches: Sequence[NDArray[np.int64]], loader: Iterator[Any], embed: Callable[[Inputs], torch.Tensor], name: str
) -> Iterator[Rows]:
    """Yield the rows of each batch. Raises `DatasetError` for an unreadable item, `ValueError` for invalid rows."""
    for positions in batches:
        loaded = next(loader)
        if isinstance(loaded, DatasetError):
            raise loaded
        yield positions, _unit_rows(embed(loaded), len(positions), name)


def _keep_until_failure(
    embedded: Iterator[Rows], writer: ShardWriter, progress: tqdm[Any]
) -> tuple[list[Rows], ValueError | None]:
    """Return the rows before the first failure, and the failure, because other processes wait for rows."""
    rows: list[Rows] = []
    try:
        for positions, values in embedded:
            rows.append((positions, values))
            writer.add(positions, values)
            progress.update(len(positions))
    except ValueError as error:  # a `DatasetError` is one
        return rows, error
    return rows, None


def _unit_rows(embeddings: torch.Tensor, count: int, name: str) -> NDArray[np.float32]:
    """Convert a batch's embeddings `(count, D)` to unit vectors. Raises `ValueError` for invalid ones."""
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise ValueError(f"{name}: expected embeddings of shape ({count}, D), received {tuple(embeddings.shape)}")
    embeddings = embeddings.float()
    if not torch.isfinite(embeddings).all():
        raise ValueError(f"{name}: expected finite embeddings, received NaN or infinite ones")
    return normalize(embeddings, dim=-1).cpu().numpy()


def add_mirror_images(
    forward: Callable[[dict[str, torch.Tensor]], torch.Tensor], inputs: dict[str, torch.Tensor]
) -> torch.Tensor:
    """`forward(inputs)` `(B, D)` as unit vectors, plus those of the mirrored `pixel_values`, if there are any."""
    embeddings = normalize(forward(inputs).float(), dim=-1)
    if "pixel_values" not in inputs:
        return embeddings
    if inputs["pixel_values"].ndim != 4:
        shape = tuple(inputs["pixel_values"].shape)
        raise ValueError(f"expected pixel_values of shape (B, C, H, W) to mirror, received {shape}: leave flip out")
    mirrored = {
        name: value.flip(-1) if name in ("pixel_values", "pixel_mask") else value for name, value in inputs.items()
    }
    return embeddings + normalize(forward(mirrored).float(), dim=-1)


def pack_items(items: Items, batch_size: int) -> list[NDArray[np.int64]]:
    """Batches of at most `batch_size` items that keep an image's items together; an image with more is one batch."""
    check_number("batch_size", batch_size, int, Range(at_least=1))
    # First item of each image, and the end: an image's items are neighbours.
    bounds = np.append(np.flatnonzero(np.diff(items.image_index, prepend=-1)), len(items))
    batches, start = [], 0
    while start < len(items):
        last_fitting = bounds[np.searchsorted(bounds, start + batch_size, side="right") - 1]
        end = last_fitting if last_fitting > start else bounds[np.searchsorted(bounds, start, side="right")]
        batches.append(np.arange(start, end))
        start = int(end)
    return batches


def _as_it_is(batch: Any) -> Any:
    """A named function and not a lambda, so that it can be sent to worker processes."""
    return batch


class ItemReader:
    """Reads the content of items: pictures in RGB and captions."""

    def __init__(self, dataset: Dataset, items: Items) -> None:
        pictures, captions = ["image", "image_path"], ["captions"]
        columns = {"image": pictures, "text": captions, "both": pictures + captions}[items.modality]
        self._rows = dataset.select_columns(columns)
        if "image" in columns:
            self._rows = self._rows.cast_column("image", ImageFeature(decode=False))
        self._items = items

    def read(self, positions: NDArray[np.int64]) -> RawBatch:
        """Read items; each image is decoded once. Raises `DatasetError` with the name of an unreadable file."""
        image_index = self._items.image_index[positions].tolist()
        rows = {index: self._read_row(index) for index in dict.fromkeys(image_index)}
        images = None if self._items.modality == "text" else [rows[index]["image"] for index in image_index]
        captions = None
        if self._items.modality != "image":
            caption_index = self._items.caption_index[positions].tolist()
            captions = [
                rows[index]["captions"][caption] for index, caption in zip(image_index, caption_index, strict=True)
            ]
        return RawBatch(images, captions)

    def describe(self, positions: NDArray[np.int64]) -> str:
        """Describe items for messages, by their rows."""
        rows = self._items.image_index[positions]
        return (
            f"split {self._items.split!r}, rows {rows.min()} to {rows.max()}: {len(rows)} {self._items.modality} items"
        )

    def _read_row(self, index: int) -> dict[str, Any]:
        """One row, its image in RGB."""
        row = self._rows[index]
        if "image" in row:
            try:
                row["image"] = Image.fromarray(decode_rgb(row["image"]))
            except DECODE_ERRORS as error:
                path = row["image"]["path"] or row["image_path"]
                raise DatasetError(f"cannot read image {path}: {error}. Restore or remove the file") from error
        return cast(dict[str, Any], row)


class _Batches(torch.utils.data.Dataset[RawBatch]):
    """Preprocessed batches by number. An unreadable picture is *returned* as its `DatasetError`.

    Raised in a worker process, the error would reach the user wrapped in that process's traceback.
    """

    def __init__(
        self, reader: ItemReader, batches: Sequence[NDArray[np.int64]], preprocess: Callable[[RawBatch], Any]
    ) -> None:
        self.reader = reader
        self.batches = batches
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Any:
        try:
            return self.preprocess(self.reader.read(self.batches[number]))
        except DatasetError as error:
            return error
        except ValueError as error:  # of a processor, which numbers the items of its batch
            return DatasetError(f"{self.reader.describe(self.batches[number])} cannot be processed: {error}")


def _cached_rows(cache: EmbeddingCache | None, count: int) -> list[Rows]:
    """The cached rows, the same on every process: the main process decides which shards are valid."""
    if cache is None:
        return []
    shards = compute_once(lambda: cache.load(count))
    return compute_on_all(lambda: [cache.read(shard) for shard in shards])


def _log_speed(name: str, count: int, known: int, seconds: float) -> None:
    """Log items per second of all processes together, without those from the cache."""
    speed = f", {(count - known) / max(seconds, 1e-9):.0f} items/s" if count > known else ""
    logger.info("%s: %d items, %d of them from the cache%s", name, count, known, speed)


def gather_rows_or_raise(rows: list[Rows], failure: ValueError | None, accelerator: Accelerator) -> list[Rows]:
    """Gather the rows of all processes. A failure on one is raised on all, which would otherwise wait forever."""
    if accelerator.num_processes == 1:
        failures = [failure]
    else:
        failures = gather_object([failure])
        rows = gather_object(rows)
    for error in failures:
        if error is not None:
            raise error
    return rows


def _assemble(rows: Sequence[Rows], count: int) -> NDArray[np.float32]:
    """Put gathered rows in item order, `(count, D)`."""
    embeddings = np.empty((count, rows[0][1].shape[1]), dtype=np.float32)
    for positions, values in rows:
        embeddings[positions] = values
    return embeddings
