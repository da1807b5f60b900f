"""Pipelines in one process with the package: kinds of inputs, batches, galleries, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from mmet.gallery import Gallery
from modeling_mmet import MMETForReID, MMETModel
from pipelines_mmet import MMETEmbeddingPipeline, MMETPersonSearchPipeline, read_query


@pytest.fixture(scope="module")
def model(make_config):
    torch.manual_seed(0)
    return MMETForReID(make_config()).eval()


@pytest.fixture
def embed(model, processor):
    return MMETEmbeddingPipeline(model, processor=processor, task="feature-extraction", device="cpu")


@pytest.fixture
def crops(tmp_path):
    """Five pictures with transparency, which not every way of reading composites on white."""
    (tmp_path / "crops").mkdir()
    pixels = np.random.default_rng(3).integers(0, 256, (5, 40, 20, 4), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "crops" / f"{number}.png")
    return tmp_path / "crops"


def of_model(model, processor, **content):
    with torch.no_grad():
        return model(**processor(**content, return_tensors="pt")).embeddings


def test_embed__every_kind_of_input_is_the_models_embedding(embed, model, processor, crops):
    file, sentence = str(crops / "0.png"), "a man in red"
    image = of_model(model, processor, images=[file])
    text = of_model(model, processor, text=[sentence])
    both = of_model(model, processor, images=[file], text=[sentence])
    for received, expected in (
        (embed(file), image),
        (embed(Image.open(file)), image),
        (embed({"image": file}), image),
        (embed(sentence), text),
        (embed({"image": file, "text": sentence}), both),
        (embed(images=file, text=sentence), both),
        (embed(text=sentence), text),
    ):
        torch.testing.assert_close(torch.tensor(received), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_embed__lists_in_order(embed, model, processor, crops, batch_size):
    files = [str(file) for file in sorted(crops.iterdir())]
    sentences = ["a man in red", "a woman with a blue bag in a red coat", "a coat", "red", "blue coat"]
    received = torch.tensor(embed(images=files, text=sentences, batch_size=batch_size))[:, 0]
    torch.testing.assert_close(
        received, of_model(model, processor, images=files, text=sentences), atol=1e-5, rtol=1e-5
    )
    assert embed([]) == []


def test_pipeline__an_image_task_reads_strings_as_files(model_folder, model, processor, crops):
    embed = pipeline(
        "image-feature-extraction", model=str(model_folder), pool=True, trust_remote_code=True, device="cpu"
    )
    received = torch.tensor(embed([str(crops / "0.png"), str(crops / "3.png")]))[:, 0]
    expected = of_model(model, processor, images=[str(crops / "0.png"), str(crops / "3.png")])
    torch.testing.assert_close(received, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"no such picture file: .a man in red"):
        embed("a man in red")
    assert "MMETForReID" in repr(embed.model.config)  # loading left nothing in it that cannot be written


def test_pipeline__saved_again_is_whole(model_folder, tmp_path, model, processor):
    embed = pipeline("feature-extraction", model=str(model_folder), trust_remote_code=True, device="cpu")
    embed.save_pretrained(tmp_path / "again")
    again = pipeline("feature-extraction", model=str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    expected = of_model(model, processor, text=["a man in red"])
    torch.testing.assert_close(torch.tensor(again("a man in red")), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("crop.jpg", "'crop.jpg', which is no file"),
        ({}, "by these names, received \\[\\]"),
        ({"picture": 1}, "received \\['picture'\\]"),
        ({"text": None}, "received \\['text'\\]"),
    ],
)
def test_read_query__refuses(inputs, message):
    with pytest.raises(ValueError, match=message):
        read_query(inputs)


def test_read_query__a_sentence_may_speak_of_a_file():
    assert read_query("a man as in crop.jpg") == {"text": "a man as in crop.jpg"}


def test_embed__refuses(embed, crops, make_config, processor):
    with pytest.raises(ValueError, match="nothing to embed"):
        embed()
    with pytest.raises(ValueError, match="received 2 images, 1 texts"):
        embed(images=[str(crops / "0.png")] * 2, text=["a man"])
    with pytest.raises(ValueError, match="received both"):
        embed("a man", text="a man")
    with pytest.raises(ValueError, match="MMETModel makes no embeddings"):
        MMETEmbeddingPipeline(MMETModel(make_config()), processor=processor)


def search_of(model, processor, **options):
    return MMETPersonSearchPipeline(model, processor=processor, task="person-search", device="cpu", **options)


def test_person_search__folder_list_and_gallery_of_the_package_agree(model_folder, model, processor, crops, tmp_path):
    files = [str(file) for file in sorted(crops.iterdir())]
    Gallery.build(crops, tmp_path / "people", model=str(model_folder), dtype="float32")
    search = search_of(model, processor)
    scores = of_model(model, processor, images=files) @ of_model(model, processor, text=["a man in red"])[0]
    expected = sorted(range(5), key=lambda place: -scores[place])[:3]
    for gallery in (str(crops), files, tmp_path / "people", Gallery.open(tmp_path / "people")):
        answer = search("a man in red", gallery=gallery, top_k=3)
        assert [match["image"] for match in answer] == [files[place] for place in expected]
        assert [match["score"] for match in answer] == pytest.approx([scores[k].item() for k in expected], abs=1e-5)
    assert [len(answer) for answer in search(["a man", files[0]], gallery=files, top_k=9)] == [5, 5]


def test_person_search__what_cannot_be_read(model, processor, crops, caplog):
    (crops / "broken.jpg").write_bytes(b"no picture")
    search = search_of(model, processor, gallery=str(crops))
    assert len(search("a man", top_k=9)) == 5
    with pytest.raises(ValueError, match=r"gallery\[1\]: .*identify"):
        search("a man", gallery=[str(crops / "0.png"), str(crops / "broken.jpg")])
    (crops / "none").mkdir()
    for gallery, message in ((str(crops / "none"), "received none"), (str(crops / "absent"), "which is none")):
        with pytest.raises(ValueError, match=message):
            search_of(model, processor, gallery=gallery)
    with pytest.raises(ValueError, match="nothing to search"):
        search_of(model, processor)("a man")
    with pytest.raises(ValueError, match="top_k"):
        search("a man", top_k=0)


def test_zero_shot__refuses_no_classes(model_folder, crops):
    classify = pipeline(
        "zero-shot-image-classification", model=str(model_folder), trust_remote_code=True, device="cpu"
    )
    for labels in ([], "red coat"):
        with pytest.raises(ValueError, match="candidate_labels"):
            classify(str(crops / "0.png"), candidate_labels=labels)
    long = classify(str(crops / "0.png"), candidate_labels=["red coat " * 30, "blue"], hypothesis_template="{}")
    assert len(long) == 2
