"""A store of random vectors, changed step by step; run as a script, it says what was acknowledged.

python tests/gallery/stores.py change FOLDER SEED       # writes "add 3 4 5", "remove 4", "compact" after each step
python tests/gallery/stores.py build FOLDER SOURCE
python tests/gallery/stores.py read FOLDER SECONDS
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmet.gallery import Gallery
from mmet.gallery.disk import DiskStore
from mmet.gallery.filters import RowFilter
from mmet.gallery.storage import FIXED_COLUMNS, Manifest, make_table

DIMENSION = 4


def vector_of(name: str) -> np.ndarray:
    vector = np.random.default_rng(int(name)).standard_normal(DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


def table_of(names: list[str], camera: str | None = "1", track: str | None = None) -> pa.Table:
    columns = dict.fromkeys(FIXED_COLUMNS, [None] * len(names))
    columns["id"], columns["camera_id"], columns["track_id"] = names, [camera] * len(names), [track] * len(names)
    columns["image"] = [{"bytes": None, "path": f"/{name}.png"} for name in names]
    vectors = np.stack([vector_of(name) for name in names])
    return make_table(columns, [{} for _ in names], pa.schema([]), vectors, "float32")


def create(folder: Path, index: str = "auto") -> DiskStore:
    settings = {"index": index}
    return DiskStore.create(folder, Manifest({"model": "random"}, DIMENSION, "float32", settings, complete=True))


def ids_of(store: DiskStore) -> list[str]:
    return [name for table in store.tables() for name in table["id"].to_pylist()]


def change(folder: Path, seed: int) -> None:
    """Add and remove pairs of rows for ever: (n, n + 1) are there together or not at all."""
    generator = random.Random(seed)
    store = DiskStore(folder)
    present = sorted({int(name) // 2 for name in ids_of(store)})
    following = 10_000 * (seed + 1)
    while True:
        step = generator.choice(["add", "add", "remove", "compact"])
        if step == "add":
            pair, following = following, following + 1
            print("try add", pair, flush=True)
            store.append([table_of([str(2 * pair), str(2 * pair + 1)])])
            present.append(pair)
        elif step == "remove" and present:
            pair = present.pop(generator.randrange(len(present)))
            print("try remove", pair, flush=True)
            store.remove([str(2 * pair), str(2 * pair + 1)])
        else:
            pair = -1
            print("try compact", pair, flush=True)
            store.compact(keep_seconds=0)
        print("done", pair, flush=True)


def read(folder: Path, seconds: float) -> None:
    """Open, search and list without an error; pairs are whole, whenever one looks."""
    end = time.monotonic() + seconds
    kept = DiskStore(folder)
    count = 0
    while time.monotonic() < end:
        store = DiskStore(folder)
        (found,), total = store.search(vector_of("1")[None], 1000, RowFilter())
        names = {int(hit.row["id"]) for hit in found}
        assert len(names) == total == len(found), (len(names), total)
        assert {name ^ 1 for name in names} == names, sorted(names)
        (old,), _ = kept.search(vector_of("1")[None], 3, RowFilter())
        assert all(hit.row["id"] for hit in old)
        count += 1
    print(count)


def build(folder: Path, source: str) -> None:
    from embedders import ColourEmbedder

    class Slow(ColourEmbedder):
        def embed(self, images, texts, *, flip=False):
            time.sleep(0.02)
            return super().embed(images, texts, flip=flip)

    print("go", flush=True)
    Gallery.build(source, folder, model=Slow(), rows_per_commit=2)
    print("built", flush=True)


if __name__ == "__main__":
    command, place, argument = sys.argv[1:]
    {
        "change": lambda: change(Path(place), int(argument)),
        "read": lambda: read(Path(place), float(argument)),
        "build": lambda: build(Path(place), argument),
    }[command]()
