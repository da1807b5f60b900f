"""Two processes that embed one gallery: the rows that one process makes, errors of one on both, no work twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from accelerate import PartialState
from colour_embedder import ColourEmbedder
from PIL import Image
from process_group import run_processes

from mmet.distributed import PlaceError, compute_once
from mmet.gallery import Gallery, GalleryError
from mmet.gallery.disk import DiskStore
from modeling_mmet import MMETForReID

REPOSITORY = Path(__file__).parents[2]
NAMES = [f"{number:02d}.png" for number in range(23)]


@pytest.fixture
def crops(tmp_path):
    """Twenty-three colours, and a file that is no picture."""
    return draw_crops(tmp_path / "crops")


def draw_crops(folder):
    folder.mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (4, 8), (10 * number, 255 - 10 * number, 3 * number)).save(folder / name)
    (folder / "torn.png").write_bytes(b"no picture")
    return folder


class Counting(ColourEmbedder):
    """Raises a number of pictures after the first, if told so, where the other process goes on."""

    def __init__(self, limit=None):
        super().__init__()
        self.limit = limit

    def embed(self, images, texts, *, flip=False):
        if self.limit is not None and self.calls >= self.limit:
            raise GalleryError("this process ran out of memory")
        return super().embed(images, texts, flip=flip)


def rows_of(place):
    store = Gallery.open(place)._store
    tables = [table.to_pylist() for table in store.tables()]
    return [row for table in tables for row in table]


def build_in_process(rank, crops, place):
    """A build that fails on the second process, the same again, and one row more; what each of them saw."""
    options = {"batch_size": 2, "rows_per_commit": 4}
    with pytest.raises(GalleryError) as error:
        Gallery.build(crops, place, model=Counting(limit=6 if rank else None), **options)
    rows_before = compute_once(lambda: len(Gallery.open(place)))
    embedder = Counting()
    gallery = Gallery.build(crops, place, model=embedder, **options)
    embedded = embedder.calls
    skipped = [skip.name for skip in gallery.skipped]
    new = Path(crops).with_name("new.png")
    compute_once(lambda: Image.new("RGB", (4, 8), (200, 10, 10)).save(new))
    report = gallery.add([{"id": "new", "image": str(new)}])
    with pytest.raises(GalleryError, match=r"already"):
        gallery.add([{"id": "new", "image": str(new)}])
    with pytest.raises(GalleryError, match=r"all machines have to see the same files"):
        gallery.add([{"id": f"of process {rank}", "image": str(new)}])
    ids = [match.id for match in gallery.search(text="red", k=3)]
    return {
        "error": str(error.value),
        "rows": (rows_before, len(gallery)),
        "embedded": embedded,
        "skipped": skipped,
        "added": report.added,
        "found": ids,
    }


def test_two_processes__make_the_gallery_of_one(tmp_path, crops):
    first, second = run_processes(build_in_process, tmp_path, str(crops), str(tmp_path / "two"))
    assert {first["error"], second["error"]} == {"this process ran out of memory"}
    assert first["rows"] == second["rows"] == (8, 24)  # one commit of two times four rows, before the error
    assert (first["skipped"], first["added"], first["found"]) == (second["skipped"], second["added"], second["found"])
    assert first["skipped"] == ["torn.png"]
    assert 7 <= second["embedded"] <= 8 <= first["embedded"] <= 9  # 15 are left, and the form of the vectors is asked

    gallery = Gallery.build(crops, tmp_path / "one", model=ColourEmbedder())
    gallery.add([{"id": "new", "image": str(tmp_path / "new.png")}])
    expected, received = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert [row["id"] for row in received] == [*NAMES, "new"]
    for ours, theirs in zip(expected, received, strict=True):
        np.testing.assert_array_equal(ours.pop("embedding"), theirs.pop("embedding"))
        assert ours == theirs
    assert Gallery.open(tmp_path / "two").verify() == []


def test_build__where_the_other_processes_cannot_be_joined(tmp_path, crops, monkeypatch):
    """Without a word to accelerate that there is no GPU, each would take itself for the only one."""
    PartialState()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlaceError, match=r"WORLD_SIZE announces 2 .* finds 1: set ACCELERATE_USE_CPU=true"):
        Gallery.build(crops, tmp_path / "gallery", model=ColourEmbedder())
    assert not (tmp_path / "gallery").exists()


@pytest.mark.slow
def test_torchrun__a_killed_build_goes_on_on_all_processes(tmp_path, crops, config, processor):
    """The documented command with a real model, killed while it embeds and run again."""
    MMETForReID(config).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    for number in range(7000):
        Image.new("RGB", (28, 52), (number % 256, number // 256, 99)).save(tmp_path / "crops" / f"more-{number}.png")
    place = tmp_path / "two"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "mmet.gallery", "build"]
    options = ["--model", tmp_path / "model", "--output", place, "--dtype", "float32"]
    command = [sys.executable, *launcher, *map(str, [crops, *options])]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def start():
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes)

    killed = start()
    while not (DiskStore.exists(place) and len(DiskStore(place))) and killed.poll() is None:
        time.sleep(0.02)
    for process in [*psutil.Process(killed.pid).children(recursive=True), killed]:
        process.kill()
    killed.communicate()
    assert len(DiskStore(place)) == 4096  # two processes with a commit of 2,048 each
    assert not DiskStore(place).description.complete
    again = start()
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert out.count("7,023 rows") == 1
    assert err.count("torn.png: cannot read image") == 1

    Gallery.build(crops, tmp_path / "one", model=tmp_path / "model", dtype="float32")
    expected, received = rows_of(tmp_path / "one"), rows_of(place)
    assert [row["id"] for row in received] == [row["id"] for row in expected]
    ours, theirs = (np.array([row["embedding"] for row in rows]) for rows in (expected, received))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
