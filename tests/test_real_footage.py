"""The benchmark on labelled footage: CLIP, SigLIP and MMET in one table, and how far match probabilities hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from benchmarks import real_footage
from mmet.evaluation.analyses.calibration import CALIBRATION_FILE, MatchCalibration, save_calibrations
from tests.evaluation.systems.test_backbones import dual_encoder, save
from tests.export.conftest import save_model

TRACKS = ((1, 1, 2), (3, 4, 4), (5, 6, 7))  # of the crops of three persons
SENTENCES = ("a man in red", "a woman with a bag")


@pytest.fixture
def video(tmp_path, monkeypatch):
    """A film of nine random frames, in each of which one crop is labelled."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(9)]
    crops = iter(range(9))
    persons = [
        {
            "sentences": [f"{sentence} {person}" for sentence in SENTENCES],
            "crops": [{"frame": next(crops), "box": [2, 4, 20, 30], "track": track} for track in tracks],
        }
        for person, tracks in enumerate(TRACKS)
    ]
    (tmp_path / "people.json").write_text(json.dumps({"persons": persons}))
    monkeypatch.setattr(real_footage, "LABELS", tmp_path / "people.json")
    monkeypatch.setattr(real_footage, "_frames", lambda path, wanted: [(n, frames[n]) for n in sorted(wanted)])
    return frames


def mean_precision(scores, matches, removed):
    """mAP / Rank-1 in percent by loops over queries."""
    precisions, first = [], []
    for row, match, gone in zip(scores, matches, removed, strict=True):
        hits = [match[place] for place in np.argsort(-row, kind="stable") if not gone[place]]
        precisions.append(np.mean([sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit]))
        first.append(hits[0])
    return f"{100 * np.mean(precisions):.1f} / {100 * np.mean(first):.1f}"


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_backbones__stand_beside_the_model_with_their_own_figures(video, kind, tmp_path, tokenizer, capsys):
    folder = save(tmp_path / kind, *dual_encoder(kind, tokenizer))
    real_footage.main(["vtest.avi", "--models", "--backbones", folder])
    rows = {cells(line)[0]: cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("|")}
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    sentences = [f"{sentence} {person}" for person in range(3) for sentence in SENTENCES]
    crops = [frame.crop((2, 4, 22, 34)) for frame in video]
    words = {"padding": "max_length", "max_length": 8, "truncation": True}
    with torch.no_grad():
        output = model(**processor(text=sentences, images=crops, return_tensors="pt", **words))
    images, texts = output.image_embeds.numpy(), output.text_embeds.numpy()
    persons, tracks = np.repeat(np.arange(3), 3), np.concatenate(TRACKS)
    same = persons[:, None] == persons
    own = same & (tracks[:, None] == tracks)
    assert rows[kind][1] == mean_precision(images @ images.T, same & ~own, own)
    asked = np.repeat(np.arange(3), 2)[:, None] == persons
    assert rows[kind][3] == mean_precision(texts @ images.T, asked, np.zeros_like(asked))
    assert rows["chance"][0] == "chance"


def test_reliability__of_a_calibration_that_says_a_half_for_every_pair(
    video, tmp_path, make_config, tokenizer, capsys
):
    """Its error is how far the share of matches is from a half; with the share itself for a prior there is none."""
    model = save_model(tmp_path / "model", make_config(encoder={"num_hidden_layers": 1}), tokenizer)
    half = MatchCalibration("platt", prior=0.5)
    save_calibrations(model / CALIBRATION_FILE, {("image", "image"): half, ("text", "image"): half})
    real_footage.main(["vtest.avi", "--models", str(model), "--reliability", str(tmp_path / "figures")])
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if "→image" in line and "prior" in line]
    # Image: 4 + 4 + 6 matches, in galleries of 9 less the query's own track: 7 + 7 + 8, twice, and three of 8.
    shares = {"image": 14 / (7 + 7 + 8 + 8 + 7 + 7 + 8 + 8 + 8), "text": 1 / 3}
    assert [(row[0], row[1], row[2].split(" (")[0]) for row in rows] == [
        ("model", f"{query}→image", f"prior {prior}") for query in shares for prior in ("as learnt", "of the footage")
    ]
    for row, share in zip(rows[::2], shares.values(), strict=True):
        assert float(row[3]) == pytest.approx(0.5 - share, abs=1e-4)
        assert float(row[4]) == pytest.approx(0.25)
    assert [float(row[3]) for row in rows[1::2]] == pytest.approx([0, 0], abs=1e-4)
    assert Image.open(tmp_path / "figures" / "model.png").size[0] > 500


def test_message__for_a_folder_without_a_model(video, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        real_footage.main(["vtest.avi", "--models", "--backbones", str(tmp_path / "absent")])
    assert ended.value.code == 2
    assert "cannot load a backbone with its processor from" in capsys.readouterr().err
