"""The public class with an untrained MMET model: every score equals the one that calling the model by hand gives."""

from __future__ import annotations

import copy
import shutil

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from mmet.gallery import Gallery, ModelEmbedder
from modeling_mmet import MMETForReID

SENTENCE = "a woman in a red coat"


@pytest.fixture
def model(config):
    return MMETForReID(config).eval()


@pytest.fixture
def pictures():
    """Crops of the model's own size, of which none is its own mirror image."""
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (52, 28, 3), dtype=np.uint8)) for _ in range(6)]


@pytest.fixture
def by_hand(model, processor):
    """Unit vectors of pictures, sentences or both, as the model's card says to compute them."""

    @torch.no_grad()
    def embed(images=None, text=None):
        texts = None if text is None else [text] * (len(images) if images else 1)
        inputs = processor(images=images, text=texts, return_tensors="pt", padding=True)
        return unit(model(**inputs).embeddings.numpy())

    return embed


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def scores(result):
    return {match.id: match.score for match in result}


def expected(query, rows):
    return {str(number): pytest.approx(float(score), abs=1e-5) for number, score in enumerate(rows @ query)}


@pytest.fixture
def gallery(tmp_path, model_folder, pictures):
    return Gallery.build(pictures, tmp_path / "gallery", model=model_folder, dtype="float32", batch_size=4)


def test_search__by_image_by_text_and_by_both_in_one_vector(gallery, pictures, by_hand):
    rows = by_hand(pictures)
    image, text, both = by_hand(pictures[:1]), by_hand(text=SENTENCE), by_hand(pictures[:1], SENTENCE)
    assert scores(gallery.search(image=pictures[0])) == expected(image[0], rows)
    assert scores(gallery.search(text=SENTENCE)) == expected(text[0], rows)
    assert scores(gallery.search(image=pictures[0], text=SENTENCE)) == expected(both[0], rows)
    assert gallery.search(image=pictures[0]).matches[0].id == "0"
    assert not np.allclose(both, image, atol=1e-2)
    assert not np.allclose(both, text, atol=1e-2)


def test_search__a_blend_is_the_weighted_sum_of_both_vectors(gallery, pictures, by_hand):
    blend = 0.7 * by_hand(pictures[2:3]) + 0.3 * by_hand(text=SENTENCE)
    result = gallery.search(image=pictures[2], text=SENTENCE, blend=0.3)
    assert scores(result) == expected(unit(blend)[0], by_hand(pictures))


def test_search__several_pictures_and_their_mirror_images(gallery, pictures, by_hand):
    rows, two = by_hand(pictures), pictures[2:4]
    assert scores(gallery.search(image=two)) == expected(unit(by_hand(two).mean(axis=0)), rows)
    mirrored = by_hand([ImageOps.mirror(picture) for picture in two])
    assert not np.allclose(mirrored, by_hand(two), atol=1e-2)
    both = unit(unit(by_hand(two) + mirrored).mean(axis=0))
    assert scores(gallery.search(image=two, flip=True)) == expected(both, rows)


def test_build__with_mirror_images(tmp_path, model_folder, pictures, by_hand):
    gallery = Gallery.build(pictures, tmp_path / "flipped", model=model_folder, dtype="float32", flip=True)
    rows = unit(by_hand(pictures) + by_hand([ImageOps.mirror(picture) for picture in pictures]))
    assert scores(gallery.search(text=SENTENCE)) == expected(by_hand(text=SENTENCE)[0], rows)
    gallery.add([{"id": "6", "image": pictures[0].rotate(180)}])
    added = [pictures[0].rotate(180)]
    rows = np.concatenate([rows, unit(by_hand(added) + by_hand([ImageOps.mirror(added[0])]))])
    assert scores(gallery.search(text=SENTENCE)) == expected(by_hand(text=SENTENCE)[0], rows)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_build__keeps_vectors_in_the_precision_that_was_asked_for(tmp_path, model_folder, pictures, by_hand, dtype):
    Gallery.build(pictures, tmp_path / "gallery", model=model_folder, dtype=dtype)
    (segment,) = (tmp_path / "gallery" / "segments").glob("*.parquet")
    column = pq.read_table(segment)["embedding"]
    stored = np.array(column.to_pylist(), dtype=np.float64)
    assert str(column.type.value_type) == {"float16": "halffloat", "float32": "float"}[dtype]
    error = np.abs(stored - by_hand(pictures)).max()
    assert error < {"float16": 3e-4, "float32": 1e-6}[dtype]
    assert (error > 1e-5) == (dtype == "float16")


def test_build__of_the_market1501_layout(tmp_path, model_folder, pictures, by_hand):
    names = {
        "bounding_box_train/0002_c1s1_000451_03.jpg": ("2", 1),
        "query/0001_c3s1_000551_00.jpg": ("1", 3),
        "bounding_box_test/0001_c5s1_001426_01.jpg": ("1", 5),
        "bounding_box_test/0007_c2s3_070952_01.jpg": ("7", 2),
    }
    for name, picture in zip(names, pictures, strict=False):
        (tmp_path / "market" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "market" / name)
    source = f"market1501={tmp_path / 'market'}"
    gallery = Gallery.build(source, tmp_path / "gallery", model=model_folder, dtype="float32")
    assert {row.image_path: (str(row.person_id), row.camera_id) for row in gallery} == {
        str(tmp_path / "market" / name): labels for name, labels in names.items()
    }
    scores = {match.image_path: match.score for match in gallery.search(text=SENTENCE)}
    for name in names:
        (vector,) = by_hand([Image.open(tmp_path / "market" / name)])
        score = float(vector @ by_hand(text=SENTENCE)[0])
        assert scores[str(tmp_path / "market" / name)] == pytest.approx(score, abs=1e-5)
    assert {match.camera_id for match in gallery.search(text=SENTENCE, camera_id=[3, 5])} == {3, 5}


def test_build__of_a_dataset_with_columns_of_its_own(tmp_path, model_folder, pictures, by_hand):
    rows = {"image": pictures, "camera_id": ["gate", "hall"] * 3, "shirt": list("abcdef")}
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    gallery = Gallery.build(dataset, tmp_path / "gallery", model=model_folder, dtype="float32")
    result = gallery.search(image=pictures[4])
    assert scores(result) == expected(by_hand(pictures[4:5])[0], by_hand(pictures))
    assert (result.matches[0].camera_id, result.matches[0].row) == ("gate", {"shirt": "e"})


def test_build__keeps_pictures_that_are_gone(tmp_path, model_folder, pictures):
    """A copy of each file, bit by bit, that outlives it."""
    (tmp_path / "crops").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "crops" / f"{number}.jpg", quality=80)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "crops").iterdir()}
    gallery = Gallery.build(tmp_path / "crops", tmp_path / "gallery", model=model_folder, keep_images=True)
    queries = [Image.open(tmp_path / "crops" / name).convert("RGB") for name in contents]
    for path in (tmp_path / "crops").iterdir():
        path.unlink()
    for name, query in zip(contents, queries, strict=True):
        match = Gallery.open(tmp_path / "gallery").search(image=query, k=1).matches[0]
        assert (match.id, match.image) == (name, contents[name])
        assert np.array_equal(np.asarray(match.open_image()), np.asarray(query))
    gallery.add([{"id": "new", "image": pictures[0]}])
    assert gallery.search(image=pictures[0], k=1).matches[0].open_image().size == (28, 52)


def test_embedder__is_told_apart_by_its_weights_and_its_preprocessing(tmp_path, model_folder):
    first, second = ModelEmbedder.load(model_folder), ModelEmbedder.load(shutil.copytree(model_folder, tmp_path / "b"))
    assert first.identity == {**second.identity, "model": str(model_folder)}
    with torch.no_grad():
        next(first.model.parameters()).view(-1)[0] += 1
    changed = ModelEmbedder(first.model, first.processor, "b").identity
    assert changed["weights"] != second.identity["weights"]
    assert changed["preprocessing"] == second.identity["preprocessing"]
    first.processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    changed = ModelEmbedder(second.model, first.processor, "b").identity
    assert changed["weights"] == second.identity["weights"]
    assert changed["preprocessing"] != second.identity["preprocessing"]


def test_unknown_words__leave_the_settings_of_the_embedding_alone(model, processor):
    """Servers look words up in other threads than the one that embeds, whose padding must stay as it is."""
    processor = copy.deepcopy(processor)
    embedder = ModelEmbedder(model, processor, "model")
    backend = processor.tokenizer.backend_tokenizer
    backend.enable_padding(length=9)
    backend.enable_truncation(max_length=9)
    assert embedder.unknown_words("a woman in zzqx") == (["zzqx"], False)
    assert embedder.unknown_words("") == ([], True)
    assert backend.padding["length"] == 9
    assert backend.truncation["max_length"] == 9
