"""A data set of plain coloured pictures and a model that reads off colours, so that right answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image

from mmet.data.schema import REID_FEATURES

PALETTE = {1: (200, 0, 0), 2: (0, 200, 0), 3: (0, 0, 200), 0: (90, 90, 90), -1: (255, 255, 255)}
WORDS = {1: "red", 2: "green", 3: "blue"}


def make_split(folder, rows):
    """A split of (person_id, camera_id, captions) rows, its pictures saved as PNG files of the person's colour."""
    columns = {name: [] for name in REID_FEATURES}
    for number, (person, camera, captions) in enumerate(rows):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:02d}.png"
        Image.new("RGB", (8, 16), PALETTE[person]).save(path)
        values = (str(path), person, camera, list(captions), None, path.name, "test")
        for name, value in zip(REID_FEATURES, values, strict=True):
            columns[name].append(value)
    return Dataset.from_dict(columns, features=REID_FEATURES)


@pytest.fixture
def market_dataset(tmp_path):
    """Query and gallery with cameras, one junk crop and one distractor."""
    query = [(1, 1, ()), (2, 1, ()), (3, 2, ())]
    gallery = [(1, 1, ()), (1, 2, ()), (2, 2, ()), (3, 1, ()), (-1, 1, ()), (0, 2, ())]
    return DatasetDict(query=make_split(tmp_path / "query", query), gallery=make_split(tmp_path / "gallery", gallery))


@pytest.fixture
def text_dataset(tmp_path):
    """Two images a person; the images have 2, 1, 3, 1, 0 and 2 captions."""
    captions = {person: f"a {word} coat" for person, word in WORDS.items()}
    counts = [(1, 2), (1, 1), (2, 3), (2, 1), (3, 0), (3, 2)]
    rows = [(person, -1, [captions[person]] * count) for person, count in counts]
    return DatasetDict(test=make_split(tmp_path / "test", rows))


class ColourProcessor:
    """Images become their mean colour, sentences the colour they name."""

    def __call__(self, images=None, text=None, padding=None, truncation=None, return_tensors=None):
        assert (padding, truncation, return_tensors) == (True, True, "pt")
        inputs = {}
        if images is not None:
            means = [np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images]
            inputs["pixel_values"] = torch.tensor(np.array(means), dtype=torch.float32)
        if text is not None:
            words = [[word in sentence for word in ("red", "green", "blue")] for sentence in text]
            inputs["input_ids"] = torch.tensor(words, dtype=torch.int64)
            inputs["attention_mask"] = torch.ones(len(text), 3, dtype=torch.int64)
        return inputs


class ColourModel(torch.nn.Module):
    """Sums what it is given; the result is not normalised. Remembers the sizes of its batches."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))
        self.batch_sizes = []

    def forward(self, pixel_values=None, input_ids=None, attention_mask=None):
        assert not self.training
        assert (input_ids is None) == (attention_mask is None)
        parts = [part.float() for part in (pixel_values, input_ids) if part is not None]
        self.batch_sizes.append(len(parts[0]))
        return SimpleNamespace(embeddings=self.scale * sum(parts))


@pytest.fixture
def colour_model():
    return ColourModel()


@pytest.fixture
def colour_processor():
    return ColourProcessor()
