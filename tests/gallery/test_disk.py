"""The store alone: any operations agree with a dictionary; kills, readers, flipped bits, copies and full disks."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from full_disk import full_disk
from operations import run_operations
from PIL import Image
from stores import Child, create, ids_of, table_of, vector_of

from mmet.gallery.disk import DiskStore
from mmet.gallery.filters import RowFilter
from mmet.gallery.index import VectorIndex, build_index, save_index
from mmet.gallery.results import GalleryError
from mmet.gallery.selection import Selection
from mmet.gallery.snapshot import open_snapshot
from mmet.gallery.storage import MANIFEST, StoredFile, read_sealed, write_sealed


def new_stores(tmp_path):
    numbers = itertools.count()
    return lambda: create(tmp_path / str(next(numbers)))


def test_random_operations__agree_with_a_dictionary(tmp_path):
    run_operations(new_stores(tmp_path), examples=5, steps=20)


@pytest.mark.slow
def test_ten_thousand_random_operations__agree_with_a_dictionary(tmp_path):
    run_operations(new_stores(tmp_path), examples=100, steps=100)


def pairs(folder):
    store = DiskStore(folder)
    names = {int(name) for name in ids_of(store)}
    assert len(names) == len(store)
    assert {name ^ 1 for name in names} == names  # a pair is added and removed in one change
    assert store.verify() == []
    return {name // 2 for name in names}


def check_kill(folder, seed, step, generator):
    """Kill a writer at a random moment of a step; what it acknowledged is there, and nothing but that."""
    before = pairs(folder)
    child = Child(step, folder, seed)
    lines = [child.hear() for _ in range(generator.randrange(1, 30))]
    while not lines[-1].startswith(f"try {step} "):
        lines.append(child.hear())
    time.sleep(generator.random() * 0.03)
    lines += child.kill()
    expected, open_step = set(before), None
    for line in lines:
        words = line.split()
        if words[0] == "try":
            open_step = words[1:]
        else:
            {"add": expected.add, "remove": expected.discard, "compact": lambda _: None}[open_step[0]](int(words[1]))
            open_step = None
    after = pairs(folder)
    allowed = [expected]
    if open_step is not None and open_step[0] != "compact":  # done or not, and nothing between
        allowed.append(expected ^ {int(open_step[1])})
    assert after in allowed, (open_step, after ^ expected)


@pytest.mark.parametrize("step", ["add", "remove", "compact"])
@pytest.mark.parametrize(
    ("index", "kills"),
    [("ivf", 1), pytest.param("exact", 20, marks=pytest.mark.slow), pytest.param("ivf", 20, marks=pytest.mark.slow)],
)
def test_kill__leaves_what_was_acknowledged(tmp_path, step, index, kills):
    folder = tmp_path / "gallery"
    create(folder, index).append([table_of([str(n) for n in range(8)])])
    generator = random.Random(0)
    for seed in range(kills):
        check_kill(folder, seed, step, generator)


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_kill__a_build_goes_on_where_it_stopped(tmp_path, kills):
    """Of 40 pictures, two a commit, which takes 20 ms and more; one that came to its end is begun again."""
    (tmp_path / "crops").mkdir()
    for number in range(40):
        Image.new("RGB", (4, 8), (number, 0, 0)).save(tmp_path / "crops" / f"{number:02d}.png")
    names = [f"{number:02d}.png" for number in range(40)]
    folder, generator, count, ends = tmp_path / "gallery", random.Random(1), 0, 0
    for _ in range(kills):
        child = Child("build", folder, tmp_path / "crops")
        assert child.hear() == "go"
        child.process.join(generator.uniform(0, 0.3))
        child.kill()
        if not (folder / "manifest.json").exists():
            continue
        store = DiskStore(folder)
        assert store.verify() == []
        assert len(set(ids_of(store))) == len(store) >= count
        count = len(store)
        if store.description.complete:
            assert sorted(ids_of(store)) == names
            shutil.rmtree(folder)
            count, ends = 0, ends + 1
    assert ends < kills
    assert Child("build", folder, tmp_path / "crops").hear_all() == ["go", "built"]
    assert sorted(ids_of(DiskStore(folder))) == names


@pytest.mark.parametrize(
    ("number", "seconds", "index"),
    [
        (1, 1, "exact"),
        pytest.param(8, 20, "exact", marks=pytest.mark.slow),
        pytest.param(8, 20, "ivf", marks=pytest.mark.slow),
    ],
)
def test_readers__beside_a_writer_see_no_error_and_no_half_state(tmp_path, number, seconds, index):
    folder = tmp_path / "gallery"
    create(folder, index).append([table_of([str(n) for n in range(20)])])
    writer = Child("add", folder, 0)
    readers = [Child("read", folder, seconds) for _ in range(number)]
    counts = [reader.hear_all() for reader in readers]
    steps = writer.kill()
    assert [reader.process.exitcode for reader in readers] == [0] * number
    assert all(int(count) > 1 for (count,) in counts)
    assert len(steps) > 10


def test_second_writer__is_told_who_writes(tmp_path):
    folder = tmp_path / "gallery"
    store = create(folder)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl,json,sys\nf=open(sys.argv[1],'w+')\nfcntl.lockf(f,fcntl.LOCK_EX)\n"
            "json.dump({'pid':1,'host':'h','since':'now','command':'other'},f)\nf.flush()\nprint('held',flush=True)\ninput()",
            str(folder / "_in_use.json"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(GalleryError, match=r"was not changed.*in use by process 1"):
        store.append([table_of(["1"])])
    holder.communicate("\n")
    store.append([table_of(["1"])])
    assert ids_of(store) == ["1"]


def test_reader__outlives_a_compaction(tmp_path):
    store = create(tmp_path / "gallery")
    store.append([table_of([str(n) for n in range(9)])])
    reader = DiskStore(store.folder)
    store.remove(["3"])
    store.compact(keep_seconds=0)
    (neighbors,), _ = reader.search(vector_of("3")[None], 9, RowFilter())
    assert {hit.row["id"] for hit in neighbors} == set("012345678") - {"3"}


def test_present_ids__is_the_same_however_often_it_is_asked(tmp_path):
    """Segments look for ids in another way once they were asked often."""
    store = create(tmp_path / "gallery")
    for first in (0, 50):
        store.append([table_of([str(n) for n in range(first, first + 50)])])
    store.remove(["7", "70"])
    generator = random.Random(0)
    for _ in range(40):
        ids = [str(n) for n in generator.sample(range(200), 30)] * 2
        assert store.present_ids(ids) == {name for name in ids if int(name) < 100} - {"7", "70"}
    assert store.present_ids([]) == set()


def small_gallery(folder):
    store = create(folder)
    store.append([table_of(["1", "2", "3"])])
    store.append([table_of(["4"], "gate")])
    store.remove(["2"])
    return store


def test_verify__finds_every_flipped_bit(tmp_path):
    store = small_gallery(tmp_path / "gallery")
    assert store.verify() == []
    files = [path for path in store.folder.rglob("*") if path.is_file()]
    assert len(files) == 7  # manifest, README, two segments and their columns, tombstones
    generator = random.Random(0)
    for path in files:
        content = path.read_bytes()
        places = range(8 * len(content)) if path.name == "manifest.json" else range(0, 8 * len(content), 97)
        for bit in generator.sample(places, min(120, len(places))):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            assert store.verify() != [], (path.name, bit)
        path.write_bytes(content)
    assert store.verify() == []


def test_open__refuses_half_a_copy(tmp_path):
    store = small_gallery(tmp_path / "gallery")
    names = [path.relative_to(store.folder) for path in store.folder.rglob("*") if path.is_file()]
    for name in names:
        if name.name == "README.md":
            continue
        for half in (False, True):
            copy = tmp_path / "copy"
            shutil.copytree(store.folder, copy)
            content = (copy / name).read_bytes()
            (copy / name).write_bytes(content[: len(content) // 2]) if half else (copy / name).unlink()
            with pytest.raises(GalleryError, match=r"[Cc]opy|cannot be read as the manifest"):
                DiskStore(copy)
            shutil.rmtree(copy)


@pytest.mark.parametrize("size", [0, 100, 400])
def test_full_disk__loses_nothing(tmp_path, size):
    store = small_gallery(tmp_path / "gallery")
    for change in (
        lambda: store.append([table_of([str(n) for n in range(10, 200)])]),
        lambda: store.remove(["1"]),
        lambda: store.compact(keep_seconds=0),
    ):
        with full_disk(size), pytest.raises(GalleryError, match=r"was not changed"):
            change()
        assert sorted(ids_of(DiskStore(store.folder))) == ["1", "3", "4"]
        assert store.verify() == []
    store.append([table_of(["9"])])
    assert sorted(ids_of(store)) == ["1", "3", "4", "9"]


def test_full_disk__while_an_index_is_saved_keeps_the_rows(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    store = create(tmp_path / "gallery", "ivf")
    monkeypatch.setattr("mmet.gallery.disk.save_index", full)
    store.append([table_of([str(n) for n in range(50)])])
    (neighbors,), _ = store.search(vector_of("7")[None], 1, RowFilter())
    assert neighbors[0].row["id"] == "7"
    assert len(DiskStore(store.folder)) == 50


def test_lock_of_the_index__is_no_index(tmp_path, monkeypatch):
    """A killed process leaves it behind, and one that saves keeps it until it is done."""
    seen = []

    def save(folder, index):
        record = save_index(folder, index)
        seen.append((folder / "index" / "_in_use.json").exists())
        return record

    monkeypatch.setattr("mmet.gallery.disk.save_index", save)
    store = create(tmp_path / "gallery", "ivf")
    (store.folder / "index").mkdir()
    (store.folder / "index" / "_in_use.json").write_text('{"pid": 1}\n')
    assert store.verify() == []
    store.append([table_of([str(n) for n in range(50)])])
    assert seen == [True]
    assert store.verify() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_folder__is_searched_and_not_changed(tmp_path):
    store = small_gallery(tmp_path / "gallery")
    store.folder.chmod(0o555)
    try:
        (neighbors,), _ = DiskStore(store.folder).search(vector_of("1")[None], 1, RowFilter())
        assert neighbors[0].row["id"] == "1"
        with pytest.raises(GalleryError, match=r"was not changed"):
            store.remove(["1"])
    finally:
        store.folder.chmod(0o755)


# -- the index ------------------------------------------------------------------------------------------------------


def clustered(rows, dimension=16, seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((40, dimension))
    vectors = centres[generator.integers(40, size=rows)] + 0.5 * generator.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.2, 0.02])
def test_index__recall_with_and_without_a_filter(kind, share):
    vectors = clustered(10_000)
    index: VectorIndex = build_index(kind, [StoredFile("a", 10_000, 0, "")], "", lambda _: vectors)
    allowed = np.random.default_rng(1).random(10_000) < share
    allowed[:2] = True
    selection = Selection(10_000, None if allowed.all() else np.flatnonzero(allowed))
    queries = clustered(50, seed=0)
    _, neighbors = index.search(queries, 10, selection)
    truth = np.argsort(-np.where(allowed, queries @ vectors.T, -np.inf), axis=1)[:, :10]
    hits = [len(set(a) & set(b)) / min(10, allowed.sum()) for a, b in zip(neighbors, truth, strict=True)]
    assert allowed[neighbors[neighbors >= 0]].all()
    assert np.mean(hits) >= 0.95


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_store__with_an_index_answers_as_without(tmp_path, kind):
    """Removed rows, rows that the index does not cover, a damaged and a missing index."""
    store = create(tmp_path / "gallery")
    store.update(settings={"index": kind})
    store.append([table_of([str(n) for n in range(300)])])
    store.append([table_of([str(n) for n in range(300, 330)])])
    store.remove([str(n) for n in range(0, 330, 7)])
    (file,) = (store.folder / "index").glob("*.faiss")
    query = vector_of("7")
    expected = sorted((n for n in range(330) if n % 7), key=lambda n: -float(vector_of(str(n)) @ query))[:5]

    def answer():
        (neighbors,), _ = DiskStore(store.folder).search(query[None], 5, RowFilter())
        return [int(hit.row["id"]) for hit in neighbors]

    assert answer() == expected
    assert store.verify() == []
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "made anew" in store.verify()[0]
    file.write_bytes(content[:100])
    assert answer() == expected
    shutil.rmtree(store.folder / "index")
    assert answer() == expected
    assert list((store.folder / "index").glob("*.faiss"))


def test_open_snapshot__is_the_one_that_is_known_as_long_as_nothing_changes(gallery, gallery_path):
    known = open_snapshot(gallery_path)
    assert open_snapshot(gallery_path, known) is known
    gallery.remove(["a"])
    after = open_snapshot(gallery_path, known)
    assert len(after) == len(known) - 1
    assert after.segments == known.segments  # whose columns are not read again
    next((gallery_path / "columns").iterdir()).unlink()
    with pytest.raises(GalleryError, match="is not a whole gallery"):
        open_snapshot(gallery_path, after)


@pytest.mark.parametrize("part", ["columns", "removed"])
def test_open__a_file_of_the_right_size_that_holds_something_else_is_named(gallery, gallery_path, part):
    gallery.remove(["a"])
    (path,) = (gallery_path / part).iterdir()
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(GalleryError, match=path.name):
        DiskStore(gallery_path).remove(["b"])


@pytest.mark.parametrize(("field", "value"), [("settings", "x"), ("dimension", 0), ("next_row", "1"), ("dtype", "f")])
def test_read_manifest__a_wrong_field_is_named(gallery, gallery_path, field, value):
    write_sealed(gallery_path / MANIFEST, {**read_sealed(gallery_path / MANIFEST), field: value})
    with pytest.raises(GalleryError, match=f"{MANIFEST}.*{field}"):
        DiskStore(gallery_path)
