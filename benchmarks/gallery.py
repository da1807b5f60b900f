"""Gallery search on clustered vectors: recall, latency, memory, filters and growth, against an exact scan.

    python benchmarks/gallery.py --rows 1000000 --dimension 256
    python benchmarks/gallery.py --rows 200000 --index hnsw

Prints tables for `docs/search.md`. Queries are rows with noise (cosine 0.9), one at a time through `Gallery.search`,
rows of the answer included. The exact scan is faiss' `IndexFlatIP` in the same process and with as many threads; with
a filter, over the matching rows alone, which lie ready in one array; positions are its answer. "First" is the search
that meets a filter first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from measuring import memory
from numpy.typing import NDArray

from mmet.gallery import Gallery
from mmet.gallery.disk import DiskStore
from mmet.gallery.storage import EMBEDDING, EXTRA, FIXED_COLUMNS, embedding_column, with_features
from mmet.gallery.store import Description

BLOCK = 65_536
CAMERAS = 100
ROWS_PER_TRACK = 100
Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Vectors `(n, D)` of rows that are named by their numbers, and the camera of each; a row a second."""

    vectors: Vectors
    cameras: NDArray[np.int64]

    def part(self, start: int, stop: int) -> pa.Table:
        numbers = np.arange(start, min(stop, len(self.vectors)))
        paths = pa.array([f"/crops/{number // 1000:06d}/{number:09d}.jpg" for number in numbers])
        columns = {name: pa.nulls(len(numbers), kind) for name, kind in FIXED_COLUMNS.items()}
        columns["image"] = pa.StructArray.from_arrays([pa.nulls(len(numbers), pa.binary()), paths], ["bytes", "path"])
        columns["id"] = pa.array(numbers.astype(str).tolist())
        columns["camera_id"] = pa.array(self.cameras[numbers].astype(str).tolist())
        columns["track_id"] = pa.array((numbers // ROWS_PER_TRACK).astype(str).tolist())
        columns["time"] = pa.array(numbers.astype(float))
        columns[EMBEDDING] = embedding_column(self.vectors[numbers], "float16")
        return with_features(pa.table({**columns, EXTRA: pa.nulls(len(numbers), pa.string())}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--index", default="auto", choices=["auto", "ivf", "hnsw", "exact"])
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    vectors = clustered(options.rows + 1_000, options.dimension, generator)
    rows = Rows(vectors, generator.integers(CAMERAS, size=len(vectors)))
    queries = near(vectors[generator.integers(options.rows, size=options.queries)], generator)
    print(f"{options.rows:,} x {options.dimension}, index={options.index}, {faiss.omp_get_max_threads()} threads\n")
    with tempfile.TemporaryDirectory() as folder:
        store = build(Path(folder) / "gallery", rows, options.rows, options.index)
        measure(store.folder, rows, options.rows, queries)
        change(store, rows, options.rows, queries[0])


def build(folder: Path, rows: Rows, count: int, kind: str) -> DiskStore:
    """A gallery of the first rows, whose index is made at the end."""
    description = Description({"model": "random"}, rows.vectors.shape[1], "float16", {"index": kind})
    store = DiskStore.create(folder, description)
    report("writing the rows", seconds_of(lambda: write(store, rows, count)), "s")
    report("making the index", seconds_of(lambda: store.update(complete=True)), "s")
    for name in ("segments", "columns", "index"):
        size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
        report(f"bytes a row in {name}/", size / count, "")
    return store


def write(store: DiskStore, rows: Rows, count: int) -> None:
    for start in range(0, count, BLOCK):
        store.append([rows.part(start, min(start + BLOCK, count))])


def measure(folder: Path, rows: Rows, count: int, queries: Vectors) -> None:
    """Recall and latency without a filter, and with filters that let more or fewer rows pass."""
    before = memory("RssAnon"), memory("RssFile")
    start = time.perf_counter()
    gallery = Gallery.open(folder)
    gallery.search(embedding=queries[0])
    report("opening, with the first search", 1000 * (time.perf_counter() - start), "ms")
    numbers, cameras = np.arange(count), rows.cameras[:count]
    cases: list[tuple[str, dict[str, Any], Mask]] = [
        ("all rows", {}, numbers >= 0),
        ("10 cameras of 100", {"camera_id": list(range(10))}, cameras < 10),
        ("1 camera of 100", {"camera_id": 3}, cameras == 3),
        ("half of the time", {"time": (0, count // 2)}, numbers <= count // 2),
        ("a tenth of the time", {"time": (0, count // 10)}, numbers <= count // 10),
        ("5 tracks", {"track_id": list(range(20, 25))}, (numbers >= 2000) & (numbers < 2500)),
        ("all rows but one", {"exclude": ["7"]}, numbers != 7),
    ]
    lines = [compare(name, gallery, queries, filters, rows.vectors[:count], mask) for name, filters, mask in cases]
    report("memory of its own", (memory("RssAnon") - before[0]) / 2**20, "MiB")
    report("memory of mapped files", (memory("RssFile") - before[1]) / 2**20, "MiB")
    print("\n| rows searched | matching | recall@10 | p50 ms | p99 ms | first ms | exact scan p50 ms | times faster |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(lines) + "\n")


def compare(
    name: str, gallery: Gallery, queries: Vectors, filters: dict[str, Any], vectors: Vectors, mask: Mask
) -> str:
    places = np.flatnonzero(mask)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors if mask.all() else vectors[mask])
    truth, exact, _ = timed_each(queries, lambda query: places[flat.search(query[None], 10)[1][0]])
    answers, ours, first = timed_each(
        queries, lambda query: np.array([int(match.id) for match in gallery.search(embedding=query, **filters)])
    )
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(answers, truth, strict=True)])
    p50, p99, scan = (1000 * float(np.percentile(times, q)) for times, q in ((ours, 50), (ours, 99), (exact, 50)))
    figures = f"{recall:.3f} | {p50:.2f} | {p99:.2f} | {1000 * first:.2f} | {scan:.2f} | {scan / p50:.1f}"
    return f"| {name} | {len(places):,} | {figures} |"


def change(store: DiskStore, rows: Rows, count: int, query: Vectors) -> None:
    """Add and remove a thousand rows."""
    report("adding 1,000 rows", seconds_of(lambda: store.append([rows.part(count, count + 1000)])), "s")
    gallery = Gallery(store)
    gallery.search(embedding=query)
    _, times, _ = timed_each(np.repeat(query[None], 50, axis=0), lambda vector: gallery.search(embedding=vector))
    report("p50 of a search then", 1000 * float(np.percentile(times, 50)), "ms")
    report("removing 1,000 rows", seconds_of(lambda: store.remove([str(n) for n in range(0, 2000, 2)])), "s")
    gallery.search(embedding=query)
    _, times, _ = timed_each(np.repeat(query[None], 50, axis=0), lambda vector: gallery.search(embedding=vector))
    report("p50 of a search then", 1000 * float(np.percentile(times, 50)), "ms")


def seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def timed_each(queries: Vectors, answer: Callable[[Vectors], Any]) -> tuple[list[Any], list[float], float]:
    """The answer to each query and its seconds, and those of one that is asked before."""
    first = seconds_of(lambda: answer(queries[0]))
    answers, seconds = [], []
    for query in queries:
        start = time.perf_counter()
        answers.append(answer(query))
        seconds.append(time.perf_counter() - start)
    return answers, seconds, first


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


def report(name: str, value: float, unit: str) -> None:
    print(f"{name:45} {value:12.3f} {unit}", flush=True)


if __name__ == "__main__":
    main()
