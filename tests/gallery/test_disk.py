"""The store alone: any operations agree with a dictionary; kills, readers, flipped bits, copies and full disks."""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from PIL import Image
from stores import Child, create, ids_of, read, table_of, vector_of

from mmet.gallery.disk import DiskStore
from mmet.gallery.filters import RowFilter
from mmet.gallery.index import VectorIndex, build_index
from mmet.gallery.results import GalleryError
from mmet.gallery.selection import Selection
from mmet.gallery.storage import StoredFile

NAMES = st.lists(st.integers(0, 40).map(str), min_size=1, max_size=5, unique=True)


def machine(folder_factory):
    """The operations beside a dictionary of id -> camera."""

    class Operations(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.store = create(folder_factory())
            self.model = {}

        @rule(
            names=NAMES,
            camera=st.sampled_from(["1", "gate"]),
            on_conflict=st.sampled_from(["error", "replace", "keep"]),
        )
        def add(self, names, camera, on_conflict):
            if on_conflict == "error" and self.model.keys() & set(names):
                with pytest.raises(GalleryError, match=r"already"):
                    self.store.append([table_of(names, camera)])
                return
            self.store.append([table_of(names, camera)], on_conflict=on_conflict)
            new = dict.fromkeys(names, camera)
            self.model = {**new, **self.model} if on_conflict == "keep" else {**self.model, **new}

        @rule(names=NAMES)
        def remove(self, names):
            if set(names) <= self.model.keys():
                assert self.store.remove(names) == len(names)
                for name in names:
                    del self.model[name]
            else:
                with pytest.raises(GalleryError, match=r"nothing was removed"):
                    self.store.remove(names)

        @rule(data=st.data())
        def remove_some(self, data):
            if self.model:
                self.remove([data.draw(st.sampled_from(sorted(self.model)))])

        @rule()
        def compact(self):
            self.store.compact(keep_seconds=0)

        @rule()
        def reopen(self):
            self.store = DiskStore(self.store.folder)

        @rule(number=st.integers(0, 99), k=st.integers(1, 9), camera=st.sampled_from([None, "1", "gate"]))
        def search(self, number, k, camera):
            query = vector_of(str(number))
            if camera is not None and camera not in self.store.cameras():
                return
            expected = [name for name, place in self.model.items() if camera in (None, place)]
            expected.sort(key=lambda name: -float(vector_of(name) @ query))
            cameras = None if camera is None else frozenset([camera])
            (found,), total = self.store.search(query[None], k, RowFilter(cameras=cameras))
            assert total == len(expected)
            assert [hit.row["id"] for hit in found] == expected[:k]

        @invariant()
        def holds_the_same_rows(self):
            assert len(self.store) == len(self.model)
            assert sorted(ids_of(self.store)) == sorted(self.model)

    return Operations


def run_operations(tmp_path, examples, steps):
    numbers = itertools.count()
    options = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine(lambda: tmp_path / str(next(numbers))), settings=options)


def test_random_operations__agree_with_a_dictionary(tmp_path):
    run_operations(tmp_path, examples=5, steps=20)


@pytest.mark.slow
def test_ten_thousand_random_operations__agree_with_a_dictionary(tmp_path):
    run_operations(tmp_path, examples=100, steps=100)


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


def test_kill__leaves_what_was_acknowledged(tmp_path):
    create(tmp_path / "gallery", "ivf").append([table_of([str(n) for n in range(8)])])
    check_kill(tmp_path / "gallery", 0, "remove", random.Random(0))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["add", "remove", "compact"])
@pytest.mark.parametrize("index", ["exact", "ivf"])
def test_twenty_kills__leave_what_was_acknowledged(tmp_path, step, index):
    folder = tmp_path / "gallery"
    create(folder, index)
    generator = random.Random(0)
    for seed in range(20):
        check_kill(folder, seed, step, generator)


def build_killed_at(folder, crops, moments):
    """Kill builds of 40 pictures; the rows after each, as long as the folder has a gallery."""
    counts = []
    for moment in moments:
        child = Child("build", folder, crops)
        assert child.hear() == "go"
        child.process.join(moment)
        child.kill()
        if (folder / "manifest.json").exists():
            store = DiskStore(folder)
            assert store.verify() == []
            assert len(set(ids_of(store))) == len(store)
            counts.append(len(store))
    return counts


@pytest.fixture
def forty_crops(tmp_path):
    (tmp_path / "crops").mkdir()
    for number in range(40):
        Image.new("RGB", (4, 8), (number, 0, 0)).save(tmp_path / "crops" / f"{number:02d}.png")
    return tmp_path / "crops"


@pytest.mark.slow
def test_twenty_kills__a_build_goes_on_where_it_stopped(tmp_path, forty_crops):
    generator, done = random.Random(1), 0
    for number in range(5):
        folder = tmp_path / f"gallery-{number}"
        counts = build_killed_at(folder, forty_crops, [generator.uniform(0, 0.4) for _ in range(4)])
        assert counts == sorted(counts)
        done += counts[-1] if counts else 0
        if not (folder / "manifest.json").exists() or not DiskStore(folder).manifest.complete:
            assert "built" in Child("build", folder, forty_crops).hear_all()
        assert sorted(ids_of(DiskStore(folder))) == [f"{number:02d}.png" for number in range(40)]
    assert done  # a killed build had saved rows


@pytest.mark.slow
@pytest.mark.parametrize("index", ["exact", "ivf"])
def test_eight_readers__beside_a_writer_see_no_error_and_no_half_state(tmp_path, index):
    folder = tmp_path / "gallery"
    create(folder, index).append([table_of([str(n) for n in range(20)])])
    readers = [Child("read", folder, 20) for _ in range(8)]
    writer = Child("add", folder, 0)
    counts = [reader.hear_all() for reader in readers]
    steps = writer.kill()
    assert [reader.process.exitcode for reader in readers] == [0] * 8
    assert all(int(count) > 1 for (count,) in counts)
    assert len(steps) > 20


def test_reader__beside_a_writer_sees_no_error_and_no_half_state(tmp_path):
    folder = tmp_path / "gallery"
    create(folder).append([table_of([str(n) for n in range(20)])])
    writer = Child("add", folder, 0)
    writer.hear()
    counts = []
    read(folder, 1, counts.append)
    assert len(writer.kill()) > 2
    assert counts != ["0"]


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
    (found,), _ = reader.search(vector_of("3")[None], 9, RowFilter())
    assert {hit.row["id"] for hit in found} == set("012345678") - {"3"}


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


@contextmanager
def full_disk(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


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
    (found,), _ = store.search(vector_of("7")[None], 1, RowFilter())
    assert found[0].row["id"] == "7"
    assert len(DiskStore(store.folder)) == 50


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_folder__is_searched_and_not_changed(tmp_path):
    store = small_gallery(tmp_path / "gallery")
    store.folder.chmod(0o555)
    try:
        (found,), _ = DiskStore(store.folder).search(vector_of("1")[None], 1, RowFilter())
        assert found[0].row["id"] == "1"
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
    _, found = index.search(queries, 10, selection)
    truth = np.argsort(-np.where(allowed, queries @ vectors.T, -np.inf), axis=1)[:, :10]
    hits = [len(set(a) & set(b)) / min(10, allowed.sum()) for a, b in zip(found, truth, strict=True)]
    assert allowed[found[found >= 0]].all()
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
        (found,), _ = DiskStore(store.folder).search(query[None], 5, RowFilter())
        return [int(hit.row["id"]) for hit in found]

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
