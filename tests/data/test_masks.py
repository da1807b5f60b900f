"""Measuring masks, against counting their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from reid_trees import add_picture

from mmet.data.masks import measure_masks


def test_measure_masks__shares_and_files_by_kind(tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "picture.jpg")  # 24 wide, 48 high
    rng = np.random.default_rng(0)
    silhouettes = [rng.random((48, 24)) < share for share in (0, 0.2, 0.5, 1)]
    paths = []
    for number, silhouette in enumerate(silhouettes):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(silhouette).save(paths[-1])
    labels, broken, wide = tmp_path / "labels.png", tmp_path / "broken.png", tmp_path / "wide.png"
    Image.fromarray(np.resize(np.arange(3, dtype=np.uint8), (48, 24))).save(labels)
    broken.write_bytes(b"broken")
    Image.fromarray(silhouettes[1].T).save(wide)
    summary = measure_masks([(path, picture) for path in (*paths, labels, broken, wide)], workers=2)
    assert summary.num_masks == 7
    expected = [np.count_nonzero(silhouette) / silhouette.size for silhouette in (*silhouettes, silhouettes[1])]
    np.testing.assert_allclose(summary.covered, expected)
    assert (summary.nobody, summary.everybody, summary.misshapen) == ((paths[0],), (paths[3],), (wide,))
    assert [path for path, _ in summary.ambiguous] == [labels]


def test_measure_masks__of_pictures_that_lie_on_their_side(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    for suffix in ("jpg", "png", "tiff", "webp"):
        picture = tmp_path / f"a.{suffix}"
        Image.new("RGB", (48, 24)).save(picture, exif=tags)
        Image.fromarray(np.eye(48, 24) > 0).save(tmp_path / "mask.png")
        assert measure_masks([(tmp_path / "mask.png", picture)]).misshapen == ()
    assert measure_masks([(tmp_path / "mask.png", tmp_path / "gone.png")]).misshapen == ()


def test_measure_masks__none() -> None:
    assert measure_masks([]).covered.shape == (0,)
