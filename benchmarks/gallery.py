"""Gallery search on clustered vectors: recall, latency, memory, filters and growth, against an exact scan.

    python benchmarks/gallery.py --rows 1000000 --dimension 256
    python benchmarks/gallery.py --rows 60000 --dimension 64 --index hnsw

Prints one line a figure. Queries are rows with noise (cosine 0.9). The exact scan is NumPy's matrix product and
partition over all rows, one query at a time, in the same process; of a filter, over the matching rows alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from measuring import memory
from numpy.typing import NDArray

from mmet.gallery.disk import DiskStore
from mmet.gallery.filters import RowFilter
from mmet.gallery.index import best_places
from mmet.gallery.storage import EMBEDDING, EXTRA, FIXED_COLUMNS, Manifest, embedding_column, with_features

BLOCK = 65_536
CAMERAS = 100
Vectors = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--index", default="ivf", choices=["ivf", "hnsw", "exact"])
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    vectors = clustered(options.rows + 1_000, options.dimension, generator)
    rows, more = vectors[: options.rows], vectors[options.rows :]
    cameras = generator.integers(CAMERAS, size=len(vectors))
    queries = near(rows[generator.integers(len(rows), size=options.queries)], generator)
    with tempfile.TemporaryDirectory() as folder:
        store = build(Path(folder) / "gallery", rows, cameras[: len(rows)], options.index)
        measure(DiskStore(store.folder), rows, cameras, queries)
        start = time.perf_counter()
        store.append([table(more, cameras[options.rows :], options.rows)])
        report("adding 1,000 rows", time.perf_counter() - start, "s")


def build(folder: Path, rows: Vectors, cameras: NDArray[np.int64], kind: str) -> DiskStore:
    """A gallery of the rows, whose index is made at the end."""
    manifest = Manifest({"model": "random"}, rows.shape[1], "float16", {"index": kind})
    store = DiskStore.create(folder, manifest)
    start = time.perf_counter()
    for first in range(0, len(rows), BLOCK):
        block = slice(first, first + BLOCK)
        store.append([table(rows[block], cameras[block], first)])
    report("writing the segments", time.perf_counter() - start, "s")
    start = time.perf_counter()
    store.update(complete=True)
    report("making the index", time.perf_counter() - start, "s")
    report("on disk", sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20, "MiB")
    return store


def measure(store: DiskStore, rows: Vectors, cameras: NDArray[np.int64], queries: Vectors) -> None:
    """Recall and latency without a filter, and with one and ten cameras out of a hundred."""
    resident = memory("VmRSS")
    start = time.perf_counter()
    store.search(queries[:1], 10, RowFilter())
    report("first search after opening", 1000 * (time.perf_counter() - start), "ms")
    for name, count in (("all rows", CAMERAS), ("10 % of rows", CAMERAS // 10), ("1 % of rows", CAMERAS // 100)):
        matching = cameras[: len(rows)] < count
        chosen = rows if count == CAMERAS else rows[matching]
        places = np.arange(len(rows)) if count == CAMERAS else np.flatnonzero(matching)
        wanted = RowFilter() if count == CAMERAS else RowFilter(cameras=frozenset(map(str, range(count))))
        compare(name, store, queries, wanted, chosen, places)
    report("memory of the searching store", (memory("VmRSS") - resident) / 2**20, "MiB")


def compare(
    name: str, store: DiskStore, queries: Vectors, wanted: RowFilter, chosen: Vectors, places: NDArray[np.int64]
) -> None:
    truth, exact = timed_each(queries, lambda query: places[best_places(chosen @ query, 10)])
    found, ours = timed_each(
        queries, lambda query: np.array([int(hit.row["id"]) for hit in store.search(query[None], 10, wanted)[0][0]])
    )
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])
    report(f"{name}: recall@10", float(recall), "")
    for percentile in (50, 99):
        report(f"{name}: p{percentile}", 1000 * float(np.percentile(ours, percentile)), "ms")
    report(f"{name}: p50 of the exact scan", 1000 * float(np.percentile(exact, 50)), "ms")
    report(f"{name}: speed beside the exact scan", float(np.percentile(exact, 50) / np.percentile(ours, 50)), "x")


def timed_each(
    queries: Vectors, answer: Callable[[Vectors], NDArray[np.int64]]
) -> tuple[list[NDArray[np.int64]], list[float]]:
    """The answer to each query, and its seconds; the first is asked once before."""
    answer(queries[0])
    answers, seconds = [], []
    for query in queries:
        start = time.perf_counter()
        answers.append(answer(query))
        seconds.append(time.perf_counter() - start)
    return answers, seconds


def clustered(rows: int, dimension: int, generator: np.random.Generator) -> Vectors:
    """Unit vectors in clusters of a hundred, as crops of one person are."""
    centres = generator.standard_normal((max(1, rows // 100), dimension), dtype=np.float32)
    vectors = centres[generator.integers(len(centres), size=rows)]
    for start in range(0, rows, BLOCK):
        block = vectors[start : start + BLOCK]
        block += 0.7 * generator.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def near(rows: Vectors, generator: np.random.Generator) -> Vectors:
    """Unit vectors at a cosine of about 0.9 to the rows."""
    noise = generator.standard_normal(rows.shape, dtype=np.float32)
    moved = rows + 0.5 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)


def table(vectors: Vectors, cameras: NDArray[np.int64], first: int) -> pa.Table:
    """Rows whose ids are their numbers."""
    nothing = {name: pa.nulls(len(vectors), kind) for name, kind in FIXED_COLUMNS.items()}
    ids = pa.array([str(number) for number in range(first, first + len(vectors))])
    columns = {**nothing, "id": ids, "camera_id": pa.array(cameras.astype(str).tolist())}
    extra = pa.nulls(len(vectors), pa.string())
    return with_features(pa.table({**columns, EMBEDDING: embedding_column(vectors, "float16"), EXTRA: extra}))


def report(name: str, value: float, unit: str) -> None:
    print(f"{name:45} {value:12.3f} {unit}", flush=True)


if __name__ == "__main__":
    main()
