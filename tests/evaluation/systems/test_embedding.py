"""Order, batching and errors of embedding extraction, on one process and on two."""

from __future__ import annotations

import runpy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from process_group import run_processes

from mmet.data.schema import DatasetError
from mmet.evaluation import Items, embed_items, select_items
from mmet.evaluation.systems.embedding import pack_items


def embed(dataset, modality, model, processor, **options):
    items = select_items(dataset["test"], "test", modality)
    return items, embed_items(model, processor, dataset["test"], items, modality, **({"batch_size": 4} | options))


@pytest.mark.parametrize("modality", ["image", "text", "both"])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_embed_items__one_normalised_row_an_item_in_order(
    text_dataset, colour_model, colour_processor, modality, batch_size, num_workers
):
    items, embeddings = embed(
        text_dataset, modality, colour_model, colour_processor, batch_size=batch_size, num_workers=num_workers
    )
    assert embeddings.dtype == np.float32
    # Every picture and every caption of persons 1, 2, 3 is pure red, green, blue.
    np.testing.assert_allclose(embeddings, np.eye(3)[items.person_ids - 1], atol=1e-6)


def test_embed_items__decodes_an_image_with_many_captions_once(
    text_dataset, colour_model, colour_processor, monkeypatch
):
    opened = []
    original = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: opened.append(mode) or original(self, mode))
    embed(text_dataset, "both", colour_model, colour_processor, batch_size=2)
    assert len(opened) == 5  # five images have the nine captions
    assert colour_model.batch_sizes == [2, 1, 3, 1, 2]  # whole images, at most two items unless one image has more


def test_embed_items__reads_no_image_for_text(tmp_path, text_dataset, colour_model, colour_processor):
    for path in (tmp_path / "test").glob("*.png"):
        path.write_bytes(b"")
    items, embeddings = embed(text_dataset, "text", colour_model, colour_processor)
    assert len(embeddings) == len(items) == 9


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("damage", ["not a picture", "truncated", "absent"])
def test_embed_items__names_an_unreadable_image(
    tmp_path, text_dataset, colour_model, colour_processor, num_workers, damage
):
    path = tmp_path / "test" / "03.png"
    content = {"not a picture": b"hello", "truncated": path.read_bytes()[:50], "absent": None}[damage]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"^cannot read image .*test.03\.png: ") as error:
        embed(text_dataset, "image", colour_model, colour_processor, num_workers=num_workers)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_embed_items__names_what_the_processor_refuses(text_dataset, colour_model, processor, num_workers):
    blank = text_dataset["test"].map(lambda row, number: {"captions": ["a man", " "][number:][:1]}, with_indices=True)
    dataset = {"test": blank}
    message = r"^split 'test', rows 0 to 1: 2 text items cannot be processed: text\[1\]: .* an empty one$"
    with pytest.raises(DatasetError, match=message):
        embed(dataset, "text", colour_model, processor, num_workers=num_workers)


@pytest.mark.parametrize("training", [True, False])
def test_embed_items__restores_training_mode(text_dataset, colour_model, colour_processor, training):
    colour_model.train(training)
    embed(text_dataset, "image", colour_model, colour_processor)
    assert colour_model.training is training


def test_embed_items__rejects_another_modality_and_empty_batches(text_dataset, colour_model, colour_processor):
    items = select_items(text_dataset["test"], "test", "image")
    with pytest.raises(ValueError, match=r"expected 'image'.*received 'text'"):
        embed_items(colour_model, colour_processor, text_dataset["test"], items, "text", batch_size=4)
    with pytest.raises(ValueError, match=r"batch_size: .*at least 1, received 0"):
        embed(text_dataset, "image", colour_model, colour_processor, batch_size=0)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(1, 10))
def test_pack_items__covers_all_items_once_and_splits_no_image(counts, batch_size):
    image_index = np.repeat(np.arange(len(counts)), counts)
    items = Items("test", None, "both", image_index, np.zeros_like(image_index), image_index)
    batches = pack_items(items, batch_size)
    assert np.concatenate(batches).tolist() == list(range(len(items)))
    images = [set(image_index[batch].tolist()) for batch in batches]
    assert sum(map(len, images)) == len(counts)
    assert all(len(batch) <= batch_size or len(pictures) == 1 for batch, pictures in zip(batches, images, strict=True))
    # As few batches as whole images in order allow: the next image would not have fitted.
    for batch, following in pairwise(batches):
        first_image = np.sum(image_index == image_index[following[0]])
        assert len(batch) + first_image > batch_size


def embed_in_process(rank, folder):
    """Embeddings of every modality against the right ones; then what a picture broken on the second process raises."""
    shared = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    model, processor = shared["ColourModel"](), shared["ColourProcessor"]()
    rows = [(1, 1, ["red"]), (2, 1, ["green"] * 3), (3, 1, ["blue"]), (2, 2, ["green"]), (1, 2, [])]
    dataset = shared["make_split"](folder / str(rank), rows)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    for modality, batch_size in (("image", 1), ("both", 2), ("text", 100)):
        items = select_items(dataset, "test", modality)
        embeddings = embed_items(
            model, processor, dataset, items, modality, batch_size=batch_size, accelerator=accelerator
        )
        np.testing.assert_allclose(embeddings, np.eye(3)[items.person_ids - 1], atol=1e-6)
    if rank == 1:
        (folder / "1" / "01.png").write_bytes(b"")  # the first process must hear of it and not wait
    with pytest.raises(DatasetError, match=r"01\.png"):
        embed_items(
            model,
            processor,
            dataset,
            select_items(dataset, "test", "image"),
            "image",
            batch_size=1,
            accelerator=accelerator,
        )


@pytest.mark.slow
def test_embed_items__two_processes_give_every_process_all_rows(tmp_path):
    run_processes(embed_in_process, tmp_path, tmp_path)


def test_embed_items__flip_adds_the_mirror_image(tmp_path, processor, config):
    """Against the same model on pictures mirrored by Pillow; sentences have no mirror image."""
    import torch

    from modeling_mmet import MMETForReID

    shared = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    dataset = shared["make_split"](tmp_path, [(1, 1, ["a red coat"]), (2, 1, ["a blue bag"])])
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (52, 28, 3), dtype=np.uint8)) for _ in range(2)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number:02d}.png")
    model = MMETForReID(config).eval()

    def reference(images):
        with torch.no_grad():
            return model(**processor(images=images, return_tensors="pt")).embeddings.numpy()

    mirrored = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    summed = reference(pictures) + reference(mirrored)
    expected = summed / np.linalg.norm(summed, axis=1, keepdims=True)
    embeddings = {
        (modality, flip): embed({"test": dataset}, modality, model, processor, flip=flip)[1]
        for modality in ("image", "text")
        for flip in (True, False)
    }
    np.testing.assert_allclose(embeddings["image", True], expected, atol=1e-5)
    assert np.abs(embeddings["image", True] - embeddings["image", False]).max() > 1e-3
    np.testing.assert_allclose(embeddings["text", True], embeddings["text", False], atol=1e-6)
