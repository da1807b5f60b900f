"""A gallery in a folder beside the same rows in Milvus Lite: seconds to write, search and change them.

    python benchmarks/gallery_milvus.py --rows 20000 --dimension 256

Prints one line a figure. Both answer exactly, in this process. Each search asks for the best 10 of one query, and the
time stated is the median of 20. Vectors are random, a hundredth of them of each camera.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmet.gallery.disk import DiskStore
from mmet.gallery.filters import RowFilter
from mmet.gallery.milvus import MilvusStore
from mmet.gallery.storage import FIXED_COLUMNS, make_table
from mmet.gallery.store import Description, Store

QUERIES, CAMERAS, BLOCK = 20, 100, 2_048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure("folder", DiskStore, f"{folder}/gallery", options.rows, options.dimension)
        measure("Milvus Lite", MilvusStore, f"milvus+file://{folder}/lite.db/people", options.rows, options.dimension)
        size = sum(path.stat().st_size for path in Path(folder, "lite.db").rglob("*") if path.is_file())
        report("Milvus Lite: on disk", size / 2**20, "MiB")


def measure(name: str, kind: type[Store], place: str, rows: int, dimension: int) -> None:
    vectors = unit_vectors(rows + 1_000 + QUERIES, dimension)
    queries = vectors[rows + 1_000 :]
    store = kind.create(place, Description({"model": "random"}, dimension, "float16", {"index": "exact"}))
    report(f"{name}: write", seconds(lambda: write(store, vectors, 0, rows)), "s")
    report(f"{name}: search, before compact", search(store, queries, RowFilter()), "ms")
    report(f"{name}: compact", seconds(lambda: store.compact(keep_seconds=0)), "s")
    report(f"{name}: search, all rows", search(store, queries, RowFilter()), "ms")
    cameras = RowFilter(cameras=frozenset(map(str, range(CAMERAS // 10))))
    report(f"{name}: search, 10 of {CAMERAS} cameras", search(store, queries, cameras), "ms")
    report(f"{name}: add 1,000", seconds(lambda: write(store, vectors, rows, rows + 1_000)), "s")
    report(f"{name}: search, after that", search(store, queries, RowFilter()), "ms")
    report(f"{name}: read all rows", seconds(lambda: list(store.tables())), "s")
    report(f"{name}: open", seconds(lambda: kind(place)), "s")


def write(store: Store, vectors: NDArray[np.float32], start: int, stop: int) -> None:
    """Rows that are named by their numbers, as many at once as a build commits."""
    for first in range(start, stop, BLOCK):
        numbers = range(first, min(first + BLOCK, stop))
        columns: dict[str, list[Any]] = dict.fromkeys(FIXED_COLUMNS, [None] * len(numbers))
        columns["id"] = [str(number) for number in numbers]
        columns["camera_id"] = [str(number % CAMERAS) for number in numbers]
        columns["image"] = [{"bytes": None, "path": f"/crops/{number}.jpg"} for number in numbers]
        table = make_table(columns, [{}] * len(numbers), pa.schema([]), vectors[first : numbers.stop], "float16")
        store.append([table])


def search(store: Store, queries: NDArray[np.float32], row_filter: RowFilter) -> float:
    """The median milliseconds of a query, after one that is not counted."""
    store.search(queries[:1], 10, row_filter)
    return 1000 * float(np.median([seconds(partial(store.search, q[None], 10, row_filter)) for q in queries]))


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def unit_vectors(rows: int, dimension: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(0).standard_normal((rows, dimension), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def report(name: str, value: float, unit: str) -> None:
    print(f"{name:45} {value:12.3f} {unit}", flush=True)


if __name__ == "__main__":
    main()
