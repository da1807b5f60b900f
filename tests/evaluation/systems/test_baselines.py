"""Baselines against enumeration, sampling and pictures whose colours are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel

from mmet.evaluation import (
    ChanceSystem,
    ColorHistogramSystem,
    EvaluationOptions,
    ModelSystem,
    build_task,
    untrained_model,
)
from mmet.evaluation.systems.baselines import color_histogram


def test_chance_system__evaluates_any_task(text_dataset):
    tasks = [build_task(text_dataset, "text", "image"), build_task(text_dataset, "both", "both")]
    first, second = ChanceSystem().evaluate(tasks, EvaluationOptions(max_rank=10))
    assert first.metrics.rank(1) == pytest.approx(2 / 6)  # two of six images are the person's
    assert (first.metrics.num_queries, second.metrics.num_queries) == (9, 9)


def test_color_histogram__dot_product_is_mean_bhattacharyya():
    red, blue = Image.new("RGB", (8, 12), "red"), Image.new("RGB", (8, 12), "blue")
    mixed = red.copy()
    mixed.paste(blue.crop((0, 0, 8, 6)), (0, 0))  # blue above, red below
    descriptors = [color_histogram(image) for image in (red, blue, mixed)]
    assert all(d.shape == (6 * 3 * 16,) and d.dtype == np.float32 for d in descriptors)
    similarity = np.stack(descriptors) @ np.stack(descriptors).T
    # Pure red and blue share saturation and value, so two of three channels agree; `mixed` agrees with each in half
    # of its stripes: (1 + 2/3) / 2.
    np.testing.assert_allclose(similarity, [[1, 2 / 3, 5 / 6], [2 / 3, 1, 5 / 6], [5 / 6, 5 / 6, 1]], atol=1e-6)


def test_color_histogram__rejects_a_picture_without_six_rows():
    with pytest.raises(ValueError, match="at least 6 pixels height, received 5"):
        color_histogram(Image.new("RGB", (8, 5)))


def test_color_histogram_system__finds_equal_colours_and_searches_images_only(market_dataset):
    system = ColorHistogramSystem()
    assert system.supports("image", "image")
    assert not system.supports("text", "image")
    assert not system.supports("image", "both")
    (result,) = system.evaluate([build_task(market_dataset, "image", "image")], EvaluationOptions())
    metrics = result.metrics
    assert (metrics.mAP, metrics.num_valid_queries, metrics.num_gallery) == (1.0, 3, 5)


def test_model_system__embeds_shared_items_once(text_dataset, colour_model, colour_processor):
    system = ModelSystem(colour_model, colour_processor, batch_size=100)
    pairs = [("text", "image"), ("both", "both"), ("image", "image"), ("text", "text")]
    results = system.evaluate([build_task(text_dataset, *pair) for pair in pairs], EvaluationOptions())
    assert [result.metrics.mAP for result in results] == [1.0] * 4
    assert sorted(colour_model.batch_sizes) == [6, 9, 9]  # images, captions, pairs


def test_untrained_model__is_seeded_and_leaves_the_random_state():
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=11)
    before = torch.random.get_rng_state()
    first, again, other = (untrained_model(BertModel, config, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [model.embeddings.word_embeddings.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
