"""A saved folder as a `SentenceTransformer`: the same embeddings, evaluators, search, training and saving."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmet import MMETForPreTraining, MMETForReID, MMETModel

sentence_transformers = pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer, util  # noqa: E402
from sentence_transformers.sentence_transformer.evaluation import (  # noqa: E402
    InformationRetrievalEvaluator,
    TripletEvaluator,
)

SENTENCES = ["a man in red", "a woman with a blue bag", "a woman in a red coat with a bag"]


@pytest.fixture(scope="module")
def model(make_config):
    """Encoders of three widths, none of them the contrastive space's."""
    torch.manual_seed(0)
    model = MMETForReID(make_config(text={"hidden_size": 16})).eval()
    model.identity_head.bnneck.running_mean.normal_()
    return model


@pytest.fixture
def crops(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (3, 40, 20, 3), dtype=np.uint8)
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    for file, picture in zip(files, pixels, strict=True):
        Image.fromarray(picture).save(file)
    return files


def of_model(model, processor, **content):
    with torch.no_grad():
        return model(**processor(**content, return_tensors="pt")).embeddings.numpy()


@pytest.mark.parametrize("trust_remote_code", [True, False])
def test_encode__the_models_embeddings(model_folder, model, processor, crops, trust_remote_code):
    loaded = SentenceTransformer(str(model_folder), trust_remote_code=trust_remote_code, device="cpu")
    pairs = [{"image": crop, "text": sentence} for crop, sentence in zip(crops, SENTENCES, strict=True)]
    for inputs, content in (
        (SENTENCES, {"text": SENTENCES}),
        (crops, {"images": crops}),
        ([Image.open(crop) for crop in crops], {"images": crops}),
        (pairs, {"images": crops, "text": SENTENCES}),
    ):
        received, expected = loaded.encode(inputs, batch_size=2), of_model(model, processor, **content)
        np.testing.assert_allclose(received, expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(received, axis=1), 1, atol=1e-5)
    assert loaded.get_embedding_dimension() == 32
    assert loaded.modalities == ["image", "text", ("image", "text")]
    assert loaded.similarity_fn_name == "cosine"


def test_encode__a_processor_that_cut_captions_before_it_was_saved(model_folder, model, processor):
    processor(text=SENTENCES, truncation=True, max_length=5, padding="max_length", return_tensors="pt")
    processor.save_pretrained(model_folder)
    received = SentenceTransformer(str(model_folder), device="cpu").encode(SENTENCES, batch_size=2)
    np.testing.assert_allclose(received, of_model(model, processor, text=SENTENCES), atol=1e-5)


def test_encode__of_a_pretraining_checkpoint(make_config, processor, tmp_path):
    MMETForPreTraining(make_config()).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    embedder = MMETForReID.from_pretrained(tmp_path).eval()
    received = SentenceTransformer(str(tmp_path), device="cpu").encode(SENTENCES)
    np.testing.assert_allclose(received, of_model(embedder, processor, text=SENTENCES), atol=1e-5)


def test_encode__of_an_embedder_of_images_alone(make_config, processor, crops, tmp_path):
    model = MMETForReID(make_config(identity_pooling="image", image={"hidden_size": 48})).eval()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(loaded.encode(crops), of_model(model, processor, images=crops), atol=1e-5)
    assert loaded.get_embedding_dimension() == 48
    with pytest.raises(ValueError, match="text"):
        loaded.encode(SENTENCES)


def test_save_pretrained__three_encoders_alone_are_no_embedder(make_config, tmp_path):
    MMETModel(make_config()).save_pretrained(tmp_path)
    assert not (tmp_path / "modules.json").exists()


def test_semantic_search__ranks_by_cosine(model_folder, model, processor, crops):
    loaded = SentenceTransformer(str(model_folder), device="cpu")
    query = loaded.encode(SENTENCES[0], convert_to_tensor=True)
    hits = util.semantic_search(query, loaded.encode(crops, convert_to_tensor=True), top_k=3)[0]
    scores = of_model(model, processor, images=crops) @ of_model(model, processor, text=SENTENCES[:1])[0]
    assert [hit["corpus_id"] for hit in hits] == sorted(range(3), key=lambda place: -scores[place])
    assert [hit["score"] for hit in hits] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)


def test_evaluators__read_sentences_and_pictures(model_folder, model, processor, crops):
    loaded = SentenceTransformer(str(model_folder), device="cpu")
    scores = of_model(model, processor, text=SENTENCES) @ of_model(model, processor, images=crops).T
    retrieval = InformationRetrievalEvaluator(
        queries={str(number): sentence for number, sentence in enumerate(SENTENCES)},
        corpus={str(number): crop for number, crop in enumerate(crops)},
        relevant_docs={str(number): {str(number)} for number in range(3)},
        accuracy_at_k=[1],
        precision_recall_at_k=[1],
        mrr_at_k=[1],
        ndcg_at_k=[1],
        map_at_k=[1],
    )
    expected = np.mean(scores.argmax(axis=1) == np.arange(3))
    assert retrieval(loaded)["cosine_accuracy@1"] == pytest.approx(expected)
    triplets = TripletEvaluator(anchors=SENTENCES, positives=crops, negatives=crops[1:] + crops[:1])
    expected = np.mean(scores.diagonal() > np.roll(scores, -1, axis=1).diagonal())
    assert triplets(loaded)["cosine_accuracy"] == pytest.approx(expected)


def test_save__loads_as_either(model_folder, model, processor, tmp_path):
    SentenceTransformer(str(model_folder), device="cpu").save(str(tmp_path / "again"))
    expected = of_model(model, processor, text=SENTENCES)
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(again.encode(SENTENCES), expected, atol=1e-5)
    plain = MMETForReID.from_pretrained(tmp_path / "again").eval()
    np.testing.assert_allclose(of_model(plain, processor, text=SENTENCES), expected, atol=1e-5)
    names = [module["type"] for module in json.loads((tmp_path / "again" / "modules.json").read_text("utf-8"))]
    assert len(names) == 2
