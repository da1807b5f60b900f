"""A store of random vectors, changed step by step in processes that say what they did and can be killed.

child = Child("add", folder, 0)      # or "remove", "compact": that most often; or "build", "read"
child.hear()                         # "try add 3", and "done 3" once it is done
child.kill()
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from process_group import CONTEXT

from mmet.gallery import Gallery
from mmet.gallery.disk import DiskStore
from mmet.gallery.filters import RowFilter
from mmet.gallery.storage import FIXED_COLUMNS, GalleryManifest, make_table

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
    return DiskStore.create(
        folder, GalleryManifest({"model": "random"}, DIMENSION, "float32", settings, complete=True)
    )


def ids_of(store: DiskStore) -> list[str]:
    return [name for table in store.tables() for name in table["id"].to_pylist()]


def change(folder: Path, seed: int, most: str, say: Callable[[str], None]) -> None:
    """Add and remove pairs of rows for ever: (n, n + 1) are there together or not at all.

    Says `try STEP PAIR` before each change, and `done PAIR` after it.
    """
    generator = random.Random(seed)
    store = DiskStore(folder)
    present = sorted({int(name) // 2 for name in ids_of(store)})
    following = 10_000 * (seed + 1)
    while True:
        step = generator.choice(["add", "add", "remove", "compact", most, most, most])
        if step == "add":
            pair, following = following, following + 1
            say(f"try add {pair}")
            store.append([table_of([str(2 * pair), str(2 * pair + 1)])])
            present.append(pair)
        elif step == "remove":
            if not present:
                continue
            pair = present.pop(generator.randrange(len(present)))
            say(f"try remove {pair}")
            store.remove([str(2 * pair), str(2 * pair + 1)])
        else:
            pair = -1
            say(f"try compact {pair}")
            store.compact(keep_seconds=0)
        say(f"done {pair}")


def read(folder: Path, seconds: float, say: Callable[[str], None]) -> None:
    """Open, search and list without an error; pairs are whole, whenever one looks."""
    end = time.monotonic() + seconds
    kept = DiskStore(folder)
    count = 0
    while time.monotonic() < end:
        store = DiskStore(folder)
        (neighbors,), total = store.search(vector_of("1")[None], 1000, RowFilter())
        names = {int(hit.row["id"]) for hit in neighbors}
        assert len(names) == total == len(neighbors), (len(names), total)
        assert {name ^ 1 for name in names} == names, sorted(names)
        (old,), _ = kept.search(vector_of("1")[None], 3, RowFilter())
        assert all(hit.row["id"] for hit in old)
        count += 1
    say(str(count))


def build(folder: Path, source: Path, say: Callable[[str], None]) -> None:
    from colour_embedder import ColourEmbedder

    class Slow(ColourEmbedder):
        def embed(self, images, texts, *, flip=False):
            time.sleep(0.02)
            return super().embed(images, texts, flip=flip)

    say("go")
    Gallery.build(source, folder, model=Slow(), rows_per_commit=2)
    say("built")


def work(command, folder, argument, connection):
    """What a child does; it sends what it says."""
    if command in ("build", "read"):
        {"build": build, "read": read}[command](folder, argument, connection.send)
    else:
        change(folder, argument, command, connection.send)


class Child:
    """A process of its own, forked from one that has imported everything."""

    def __init__(self, command, folder, argument):
        self._connection, sender = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=work, args=(command, folder, argument, sender), daemon=True)
        self.process.start()
        sender.close()

    def hear(self):
        """What it says next; None when it has ended."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return None

    def hear_all(self):
        """Everything that it says until it ends."""
        words = list(iter(self.hear, None))
        self.process.join()
        return words

    def kill(self):
        """Kill it; what it had said by then."""
        self.process.kill()
        return self.hear_all()
