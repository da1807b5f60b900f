"""Figures of a gallery: the plane they are drawn on by hand, and pictures that hold what they should."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from mmet.figure_style import LIGHT
from mmet.gallery import Gallery, GalleryError, Query
from mmet.gallery.command import main
from mmet.gallery.figures import map_figure, principal_plane, ranked_figure


def colours(png):
    return set(map(tuple, np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)))


def test_principal_plane__as_scikit_learn():
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    plane, share = principal_plane(vectors)
    reference = PCA(2).fit(vectors)
    expected = reference.transform(vectors)
    for axis in (0, 1):
        sign = np.sign(plane[:, axis] @ expected[:, axis])
        np.testing.assert_allclose(sign * plane[:, axis], expected[:, axis], atol=1e-3)
    assert share == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-5)


def test_embeddings__in_the_order_of_the_rows(gallery):
    vectors = gallery.embeddings()
    assert vectors.shape == (len(gallery), gallery.info["dimension"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    for row, vector in zip(gallery, vectors, strict=True):
        assert gallery.search(embedding=vector, k=1).matches[0].score == pytest.approx(1, abs=1e-3), row.id


def test_ranked_figure__shows_the_crops_with_frames(gallery, entries):
    query = Query(image=entries[0]["image"], text="a red coat")
    (result,) = gallery.search_batch([query], k=3)
    png = ranked_figure(query, result)
    assert tuple(int(LIGHT.muted[i : i + 2], 16) for i in (1, 3, 5)) in colours(png)  # no calibration: grey frames
    assert all(match.open_image().getpixel((0, 0)) in colours(png) for match in result.matches)


def test_map_figure__crops_at_their_places(gallery):
    png = map_figure(gallery, color_by="camera_id")
    assert sum(row.open_image().getpixel((0, 0)) in colours(png) for row in gallery) >= 2
    with pytest.raises(ValueError, match="color_by: expected one of person_id"):
        map_figure(gallery, color_by="time")


def test_map_figure__one_row(tmp_path, embedder):
    rows = [{"id": "a", "image": Image.new("RGB", (4, 8))}]
    with pytest.raises(GalleryError, match="at least 2 rows"):
        map_figure(Gallery.build(rows, tmp_path / "g", model=embedder))


def test_command__map(gallery, tmp_path, capsys):
    target = tmp_path / "map.png"
    assert main(["map", str(gallery.path), "--output", str(target), "--color_by", "camera"]) == 0
    assert Image.open(target).format == "PNG"
    assert main(["map", str(gallery.path), "--output", str(tmp_path)]) == 2
    assert "--output: expected the name of a file" in capsys.readouterr().err
