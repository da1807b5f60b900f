"""Embed the pictures of a source as rows; the processes of a run share the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from mmet.digests import digest
from mmet.distributed import compute_on_all, compute_once
from mmet.gallery.embedding import Embedder
from mmet.gallery.results import GalleryError, Skipped
from mmet.gallery.sources import Entry, Source, chunks, decode
from mmet.gallery.storage import FIXED_COLUMNS, make_table
from mmet.gallery.store import Description


@dataclass(frozen=True)
class RowMaker:
    """Embeds entries with the settings of a gallery.

    Attributes:
        embedder: what embeds the pictures.
        description: the gallery's description.
        schema: the user's own columns.
        batch_size: pictures that are embedded at once.
        num_workers: threads that decode pictures.
    """

    embedder: Embedder
    description: Description
    schema: pa.Schema
    batch_size: int
    num_workers: int

    def parts(
        self, entries: Sequence[Entry], rows_per_part: int, done: int = 0
    ) -> Iterator[tuple[list[pa.Table], list[Skipped]]]:
        """Yield rows, and pictures that cannot be read, in parts; every process gets all of them.

        Each process embeds a run of each part. An error on one is raised on all.

        Args:
            entries: the same on every process.
            rows_per_part: number of pictures in a part for each process.
            done: number of pictures at which a progress bar starts.
        """
        state = PartialState()
        hidden = None if state.is_main_process else True  # None: shown in terminals
        with tqdm(total=done + len(entries), initial=done, unit="image", disable=hidden) as bar:
            for part in chunks(entries, rows_per_part * state.num_processes):
                size = -(-len(part) // state.num_processes)
                run = part[size * state.process_index : size * (state.process_index + 1)]
                results = [compute_on_all(lambda run=run: self._embed(run, bar))]  # type: ignore[misc]
                if state.num_processes > 1:
                    results = gather_object(results)
                yield [table for table, _ in results if table is not None], [s for _, names in results for s in names]
                bar.update(len(part) - len(run))

    def _embed(self, entries: Sequence[Entry], bar: Any) -> tuple[pa.Table | None, list[Skipped]]:
        good: list[Entry] = []
        vectors, skipped = [], []
        flip = bool(self.description.settings.get("flip"))
        with ThreadPoolExecutor(self.num_workers) as pool:
            for part in chunks(entries, self.batch_size):
                pictures = []
                for entry, picture in zip(part, pool.map(_try_decode, part), strict=True):
                    if isinstance(picture, GalleryError):
                        skipped.append(Skipped(entry.id, str(picture)))
                    else:
                        good.append(entry)
                        pictures.append(picture)
                if pictures:
                    vectors.append(self.embedder.embed(pictures, None, flip=flip))
                bar.update(len(part))
        if not good:
            return None, skipped
        columns = {name: [getattr(entry, name) for entry in good] for name in FIXED_COLUMNS}
        if self.description.settings.get("keep_images"):
            columns["image"] = [_with_bytes(image) for image in columns["image"]]
        rows = [entry.row for entry in good]
        return make_table(columns, rows, self.schema, np.concatenate(vectors), self.description.dtype), skipped


def check_same_entries(source: Source) -> None:
    """Raise `GalleryError` on all processes if one of them reads other pictures than the main process."""
    here = len(source.entries), digest(entry.id.encode() for entry in source.entries)
    main = compute_once(lambda: here)

    def compare() -> None:
        if here != main:
            raise GalleryError(
                f"{source.name}: a process reads {here[0]:,} pictures, and the main one {main[0]:,} or others: all "
                "machines have to see the same files"
            )

    compute_on_all(compare)


def _try_decode(entry: Entry) -> Any:
    try:
        return decode(entry.image, entry.image.get("path") or entry.id)
    except GalleryError as error:
        return error


def _with_bytes(image: Mapping[str, Any]) -> dict[str, Any]:
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return {"bytes": content, "path": image["path"]}
