"""The starter model: what it is put together from, and that the shipped one is what its card says and finds people."""

from __future__ import annotations

import itertools
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizer

import mmet
from configuration_mmet import MMETTextConfig
from mmet.data.synthetic.lifelike.people import draw_person
from mmet.data.synthetic.lifelike.renderer import render_lifelike
from mmet.data.synthetic.style import STYLES, plan_shots, style_rng
from mmet.digests import sha256_of
from mmet.evaluation.metrics.ranking import rank_metrics
from mmet.evaluation.systems.loading import load_embedder
from mmet.starter import resolve_model, starter_model
from mmet.starter.phrases import phrases
from mmet.starter.sentences import (
    batches_of_one_length,
    choose_vocabulary,
    distil,
    sentence_vectors,
    start_student,
    texts_to_learn,
)
from mmet.starter.ship import WEIGHTS
from mmet.starter.start import make_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##s", "red", "blue", "coat", "hat", "zebra", "##coat"]


@pytest.fixture
def tokenizer(tmp_path) -> BertTokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=True)


def test_choose_vocabulary__what_the_texts_need_then_frequent_words(tokenizer):
    always = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##s", "red", "hat"]  # special, and short
    assert choose_vocabulary(tokenizer, ["a zebra"], 10) == [*always, "zebra"]
    assert choose_vocabulary(tokenizer, ["a zebra"], 11) == [*always[:-1], "blue", "hat", "zebra"]
    with pytest.raises(ValueError, match="at least 10"):
        choose_vocabulary(tokenizer, ["a zebra"], 9)


def test_student__learns_the_teachers_vectors(tokenizer):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    teacher = BertModel(BertConfig(vocab_size=len(WORDS), **size)).eval()
    texts = [" ".join(words) for words in itertools.product(("a", "red", "blue"), ("red", "blue"), ("coat", "hat"))]
    vectors = sentence_vectors(teacher, tokenizer, texts)
    with torch.no_grad():
        states = teacher(**tokenizer(texts[5], return_tensors="pt")).last_hidden_state[0].mean(dim=0)
    torch.testing.assert_close(vectors[5], states / states.norm(), atol=1e-5, rtol=1e-4)
    config = MMETTextConfig(vocab_size=len(WORDS), max_position_embeddings=8, freeze_token_embedding=True, **size)
    student = start_student(teacher, list(range(len(WORDS))), config)
    words = student.embeddings.token_embedding.weight.detach().clone()
    first = distil(student, tokenizer, texts, vectors, steps=2, batch_size=12, learning_rate=3e-3)
    last = distil(student, tokenizer, texts, vectors, steps=300, batch_size=12, learning_rate=1e-2)
    assert first < 0.3
    assert last > 0.8
    assert torch.equal(student.embeddings.token_embedding.weight, words)


def test_start_student__words_keep_the_teachers_neighbours(tokenizer):
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    teacher = BertModel(BertConfig(vocab_size=len(WORDS), **size))
    config = MMETTextConfig(vocab_size=len(WORDS), max_position_embeddings=8, **size)  # as wide: nothing is lost
    student = start_student(teacher, list(range(len(WORDS))), config)
    ours, theirs = (m.get_input_embeddings().weight.detach().double() for m in (student, teacher))
    distances = [torch.pdist(words - words.mean(dim=0)) for words in (ours, theirs)]
    torch.testing.assert_close(distances[0] / distances[0].mean(), distances[1] / distances[1].mean())


def test_phrases__the_seed_decides_and_articles_fit():
    first, again = (list(itertools.islice(phrases(3), 200)) for _ in range(2))
    assert first == again
    assert len(set(first)) > 150
    assert not [text for text in first if re.search(r"\ba [aeio]|\ban [bcdfgjklmnpqrstvwxyz]", text.lower())]


def test_texts_to_learn__each_once():
    texts = texts_to_learn(["a red coat"] * 5 + ["a blue hat"], 2, 30)
    assert len(texts) == len(set(texts))
    assert {"a red coat", "a blue hat"} < set(texts)


def test_batches_of_one_length__every_text_comes_and_none_twice_in_a_batch():
    texts = ["x" * length for length in range(1, 41)]
    batches = list(itertools.islice(batches_of_one_length(texts, 10, random.Random(3)), 8))  # twice all forty
    assert sorted(row for batch in batches for row in batch) == sorted([*range(40)] * 2)
    assert all(max(batch) - min(batch) == 9 for batch in batches)
    assert len(next(batches_of_one_length(texts[:3], 3, random.Random(3)))) == 3


def test_make_tokenizer__keeps_the_order_of_the_vocabulary():
    tokenizer = make_tokenizer(WORDS, 12)
    assert tokenizer("a red coats")["input_ids"] == [2, 5, 7, 9, 6, 3]
    assert tokenizer.model_max_length == 12


def test_resolve_model__a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model("starter") == str(starter_model()) == str(mmet.starter_model())
    assert resolve_model("org/other") == "org/other"
    (tmp_path / "starter").mkdir()
    assert resolve_model("starter") == "starter"


# --- The shipped model -----------------------------------------------------------------------------------------------


def test_shipped_model__is_the_one_of_its_card():
    card = (starter_model() / "README.md").read_text(encoding="utf-8")
    assert f"`{sha256_of(starter_model() / WEIGHTS)}`" in card
    assert sum(file.stat().st_size for file in starter_model().iterdir() if file.is_file()) <= 24e6


def _pictures(count: int) -> tuple[list[Image.Image], np.ndarray]:
    """Two pictures each of people of a style that it was not trained on."""
    style = STYLES["campus"]
    pictures = []
    for number in range(1, count + 1):
        person = draw_person(style_rng(style, 99, number), number=number)
        for shot in plan_shots(style, seed=99, person=number, count=2):
            pictures.append(render_lifelike(person, shot, style, height=160, width=80).image)
    return pictures, np.repeat(np.arange(count), 2)


@torch.no_grad()
def test_shipped_model__finds_drawn_people_of_an_unseen_world():
    model, processor = load_embedder("starter")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad or "token_embedding" not in str(p)) < 12e6
    pictures, person_ids = _pictures(20)
    embeddings = model.eval()(**processor(images=pictures, return_tensors="pt")).embeddings.numpy()
    cameras = np.arange(40)
    metrics = rank_metrics(embeddings, embeddings, person_ids, person_ids, cameras, cameras)
    assert metrics.mAP > 0.6
    red, blue = Image.new("RGB", (80, 160), (190, 30, 40)), Image.new("RGB", (80, 160), (40, 60, 190))
    sentences = ["a person in a red coat", "a person in a blue coat"]
    words = model(**processor(text=sentences, padding=True, return_tensors="pt")).embeddings
    sheets = model(**processor(images=[red, blue], return_tensors="pt")).embeddings
    scores = words @ sheets.T
    assert scores[0, 0] - scores[0, 1] > 0
    assert scores[1, 1] - scores[1, 0] > 0
