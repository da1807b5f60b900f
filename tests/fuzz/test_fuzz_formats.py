"""Every file format that is read, damaged: an answer, or one message; no traceback, no hang, memory bounded.

`make fuzz-formats` reads ten thousand files, all in this process. What the check of pictures takes for whole must be
decoded.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_embedder import ColourEmbedder
from fuzz.house import write_crops
from fuzz.mutations import (
    damage_file,
    damage_header,
    mutate_text,
    mutate_tree,
    replace_file,
)
from fuzz.running import Attempt, fuzz, remove, run
from PIL import Image

from mmet.command_line import run_command
from mmet.data import load_reid_dataset, to_parquet
from mmet.data.annotations import read_captions
from mmet.data.decoding import DECODE_ERRORS, decode_rgb
from mmet.data.loading import read_reid_folder
from mmet.data.picture_checks import image_defect
from mmet.data.synthetic import write_world
from mmet.footage.mot import read_mot
from mmet.gallery import Gallery

MEMORY = 2**30
"""Bytes of address space that reading may take; the files have a few kilobytes."""


def build_lines(root: Path) -> None:
    """The crops with a table of one object a line."""
    write_crops(root)
    header, *lines = (root / "annotations.csv").read_text(encoding="utf-8").splitlines()
    rows = (dict(zip(header.split(","), line.split(","), strict=True)) for line in lines)
    (root / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (root / "annotations.csv").unlink()


def build_world(root: Path) -> None:
    """CUHK-PEDES, whose annotations are one JSON file."""
    sizes = {"num_train_ids": 2, "num_test_ids": 2, "num_val_ids": 2, "image_height": 48, "image_width": 24}
    write_world("cuhk_pedes", root, images_per_id=2, seed=3, **sizes)


def build_captions(root: Path) -> None:
    """The same captions in each form that is read."""
    root.mkdir()
    captions = {f"{number}.png": [f"a person in colour {number}", "a bag"] for number in range(6)}
    (root / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    rows = [{"image": name, "captions": texts} for name, texts in captions.items()]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = [f"{name},{text}" for name, texts in captions.items() for text in texts]
    (root / "captions.csv").write_text("\n".join(["image,caption", *lines]) + "\n", encoding="utf-8")


def build_detections(root: Path) -> None:
    root.mkdir()
    lines = [f"{frame},{track},{5 + track},10,30,60,0.9,-1,-1,-1" for frame in range(1, 7) for track in (1, 2)]
    (root / "det.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_gallery(root: Path) -> None:
    """A gallery with an index and removed rows."""
    pictures = [{"id": str(number), "image": _picture(number), "camera_id": "gate"} for number in range(12)]
    Gallery.build(pictures, root, model=ColourEmbedder(), index="hnsw").remove(["3"])


def build_shards(root: Path) -> None:
    write_crops(root.with_name("crops"))
    assert to_parquet.main([f"folder={root.with_name('crops')}", "--output", str(root), "--shard_size", "5kB"]) == 0


def build_pictures(root: Path) -> None:
    """A picture in each format and mode that readers meet."""
    root.mkdir()
    for suffix in ("bmp", "gif", "jpg", "png", "tif", "webp"):
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I;16"):
            with contextlib.suppress(OSError, KeyError, ValueError):  # not every format has every mode
                image = _picture(1) if mode == "RGB" else Image.new(mode, (8, 16)) if mode == "I;16" else None
                (image or _picture(1).convert(mode)).save(root / f"{mode.replace(';', '')}.{suffix}")
    _picture(1).save(root / "progressive.jpg", progressive=True)
    _picture(1).save(root / "deflated.tif", compression="tiff_deflate")
    _picture(1).save(root / "moving.gif", save_all=True, append_images=[_picture(2)])


def _picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 8, 3), dtype=np.uint8))


def read_folder(root: Path, path: Path) -> None:
    load_reid_dataset("folder", root)


def read_pedes(root: Path, path: Path) -> None:
    load_reid_dataset("cuhk_pedes", root)


def read_caption_file(root: Path, path: Path) -> None:
    assert all(isinstance(text, str) for captions in read_captions(path).values() for text in captions)


def read_detections(root: Path, path: Path) -> None:
    assert all(np.isfinite(found.boxes).all() for found in read_mot(path).values())


def read_gallery(root: Path, path: Path) -> None:
    gallery = Gallery.open(root, model=ColourEmbedder())
    assert len(gallery.search(text="red", k=5).matches) <= 5


def read_shards(root: Path, path: Path) -> None:
    """Rows and pictures of the shards, without the checksums that would find any damage."""
    (root / "manifest.json").unlink(missing_ok=True)
    folder = read_reid_folder("parquet", root)
    for image in itertools.chain(*folder.splits.values()):
        decode_whole({"bytes": folder.contents[image.image_path](), "path": None})


def read_picture(root: Path, path: Path) -> None:
    if image_defect(path) is None:
        decode_whole({"bytes": path.read_bytes(), "path": str(path)})


def decode_whole(stored: dict[str, Any]) -> None:
    """Decode what the check took for whole. An error here is no message to a user: it fails the test."""
    try:
        assert decode_rgb(stored).ndim == 3
    except DECODE_ERRORS as error:
        raise AssertionError("it was taken for whole") from error


Reader = Callable[[Path, Path], None]
FORMATS: dict[str, tuple[Callable[[Path], None], str, Reader]] = {
    "table": (write_crops, "annotations.csv", read_folder),
    "lines of JSON": (build_lines, "annotations.jsonl", read_folder),
    "JSON": (build_world, "reid_raw.json", read_pedes),
    "captions": (build_captions, "captions.*", read_caption_file),
    "MOT": (build_detections, "det.txt", read_detections),
    "manifest": (build_gallery, "**/*.json", read_gallery),
    "Parquet": (build_shards, "data/*.parquet", read_shards),
    "pictures": (build_pictures, "*", read_picture),
}
"""What builds a folder, which of its files are damaged, and what reads it."""


def damage(rng: random.Random, path: Path) -> str:
    """Damage a file as its format allows."""
    kinds = [damage_file, damage_header, replace_file]
    if path.suffix in (".csv", ".jsonl", ".txt", ".json"):
        kinds += [_damage_text] * 4
    if path.suffix == ".json":
        kinds += [_damage_tree] * 4
    return rng.choice(kinds)(rng, path)


def _damage_text(rng: random.Random, path: Path) -> str:
    text = mutate_text(rng, path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return f"{path.name}: {text[:300]}"


def _damage_tree(rng: random.Random, path: Path) -> str:
    text = json.dumps(mutate_tree(rng, json.loads(path.read_text(encoding="utf-8"))))
    path.write_text(text, encoding="utf-8")
    return f"{path.name}: {text[:300]}"


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(tmp_path, inputs, name):
    build, pattern, read = FORMATS[name]
    kept, root = tmp_path / "kept", tmp_path / "root"
    build(kept)

    def attempt(rng: random.Random) -> Attempt:
        remove(root)
        shutil.copytree(kept, root)
        path = rng.choice(sorted(root.glob(pattern)))
        change = damage(rng, path)
        outcome = run(lambda arguments: run_command("read", lambda command: read(root, path)), [], memory_bytes=MEMORY)
        return Attempt(change, outcome, (path.name, str(root)))

    fuzz(f"formats: {name}", inputs, attempt)
