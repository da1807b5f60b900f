"""The cross-encoder against the pretraining model's own matching logits, pair by pair."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from process_group import run_processes

from mmet.data.schema import DatasetError
from mmet.evaluation import build_task
from mmet.evaluation.systems.cross_encoder import MatchingScorer, chunk_pairs
from modeling_mmet import MMETForPreTraining

CONFTEST = Path(__file__).parents[1] / "conftest.py"
ROWS = [(1, 1, ["a man in red coat"]), (2, 1, ["a woman", "a woman with bag"]), (3, 1, ["a blue coat"]), (1, 2, [])]


def make_dataset(folder):
    shared = runpy.run_path(str(CONFTEST))
    dataset = shared["make_split"](folder, ROWS)
    rng = np.random.default_rng(0)
    for number in range(len(ROWS)):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return {"test": dataset}


@pytest.fixture
def model(config):
    return MMETForPreTraining(config).eval()


def reference(model, processor, dataset, image, sentence):
    """Log-odds from `MMETForPreTraining`'s forward pass with nothing masked."""
    inputs = processor(images=[dataset["test"][image]["image"]], text=[sentence], return_tensors="pt")
    with torch.no_grad():
        output = model(
            pixel_values=inputs["pixel_values"],
            input_ids_masked=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            bool_masked_pos=torch.zeros(1, model.config.image_config.num_patches, dtype=torch.bool),
            mim_labels=torch.zeros(1, model.config.image_config.num_patches, dtype=torch.long),  # no codebook needed
            itm_labels=torch.ones(1, dtype=torch.long),
        )
    mismatch, match = output.itm_logits[0].tolist()
    return match - mismatch


SENTENCES = [(0, 0), (1, 0), (1, 1), (2, 0)]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("query", ["text", "image"])
def test_matching_scorer__every_pair_as_the_pretraining_model_sees_it(tmp_path, model, processor, query, batch_size):
    dataset = make_dataset(tmp_path)
    gallery = {"text": "image", "image": "text"}[query]
    task = build_task(dataset, query, gallery)
    scorer = MatchingScorer(model, processor, batch_size=batch_size)
    pairs = np.array([(q, g) for q in range(len(task.query)) for g in range(len(task.gallery))])[::-1]
    scores = scorer(task, pairs)
    for (q, g), log_odds in zip(pairs, scores, strict=True):
        text, image = (q, g) if query == "text" else (g, q)
        row, caption = SENTENCES[text]
        expected = reference(model, processor, dataset, int(image), ROWS[row][2][caption])
        assert log_odds == pytest.approx(expected, abs=1e-4)
    assert scores.std() > 1e-3


def test_matching_scorer__needs_an_image_and_a_sentence():
    assert MatchingScorer.supports("text", "image")
    assert MatchingScorer.supports("image", "text")
    assert not any(
        MatchingScorer.supports(*pair) for pair in (("image", "image"), ("both", "image"), ("text", "both"))
    )


def test_matching_scorer__names_an_unreadable_image(tmp_path, model, processor):
    dataset = make_dataset(tmp_path)
    task = build_task(dataset, "text", "image")
    (tmp_path / "02.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"02\.png"):
        MatchingScorer(model, processor)(task, np.array([[0, 0], [0, 2]]))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40), st.integers(1, 6))
@settings(deadline=None)
def test_chunk_pairs__every_pair_once_and_every_image_in_one_chunk(pairs, batch_size):
    image, text = np.array(pairs).T
    chunks = list(chunk_pairs(image, text, batch_size))
    assert sorted(np.concatenate([chunk.rows for chunk in chunks]).tolist()) == list(range(len(pairs)))
    for chunk in chunks:
        assert chunk.images[chunk.owner].tolist() == image[chunk.rows].tolist()
        assert chunk.texts.tolist() == text[chunk.rows].tolist()
        assert len(chunk.images) <= batch_size
    assert len(np.concatenate([chunk.images for chunk in chunks])) == len(set(image.tolist()))


class _Model:
    """Stands in for the pretraining model: log-odds are the picture's red plus ten times the first word."""

    def __init__(self):
        self.mmet = self

    def to(self, device):
        return self

    def eval(self):
        return self

    def encode_images(self, pixel_values):
        return SimpleNamespace(pre_norm_hidden_state=pixel_values[:, None])

    def encode_texts(self, input_ids, attention_mask):
        return SimpleNamespace(pre_norm_hidden_state=10 * input_ids.float()[:, None])

    def fuse(self, image_states, text_states, attention_mask, read_positions):
        return SimpleNamespace(last_hidden_state=(image_states + text_states)[:, 0])

    def matching_logits(self, cls_states, image_states, text_states):
        return torch.stack([torch.zeros(len(cls_states)), cls_states[:, 0]], dim=1)


def score_in_process(rank, folder, conftest):
    from accelerate import Accelerator

    shared = runpy.run_path(conftest)
    dataset = {"test": shared["make_split"](folder / str(rank), [(1, 1, ["red"]), (2, 1, ["green"]), (1, 2, ["red"])])}
    task = build_task(dataset, "text", "image")
    scorer = MatchingScorer(_Model(), shared["ColourProcessor"](), batch_size=1, accelerator=Accelerator(cpu=True))
    return scorer(task, np.array([[0, 0], [0, 1], [1, 0], [1, 2]])).tolist()


@pytest.mark.slow
def test_matching_scorer__two_processes_give_every_process_all_pairs(tmp_path):
    assert run_processes(score_in_process, tmp_path, tmp_path, str(CONFTEST)) == [[210.0, 10.0, 200.0, 200.0]] * 2
