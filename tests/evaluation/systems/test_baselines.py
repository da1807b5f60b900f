"""Baselines against enumeration, sampling and pictures whose colours are known."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel

from mmet.evaluation import (
    ChanceSystem,
    ColorHistogramSystem,
    ModelSystem,
    build_task,
    expected_random_metrics,
    rank_metrics,
    untrained_model,
)
from mmet.evaluation.metrics.matches import GalleryMatches
from mmet.evaluation.systems.baselines import color_histogram


def trapezoid_average_precision(ranks):
    """The loop of Market-1501's Matlab code over one ranking, with the ranks of its true matches."""
    area, found, old_recall, old_precision = 0.0, 0, 0.0, 1.0
    for rank in range(1, ranks[-1] + 1):
        found += rank in ranks
        recall, precision = found / len(ranks), found / rank
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


@pytest.mark.parametrize(("num_matches", "num_candidates"), [(1, 1), (1, 5), (2, 5), (3, 3), (4, 6), (6, 7)])
def test_expected_random_metrics__trapezoids_and_all_queries(num_matches, num_candidates):
    orders = np.array(list(permutations(range(num_candidates))))
    areas = [trapezoid_average_precision(np.flatnonzero(order < num_matches) + 1) for order in orders]
    persons = np.where(np.arange(num_candidates) < num_matches, 1, 2)
    matches = GalleryMatches(np.array([1, 9, 9]), persons)  # two queries without a match
    valid = expected_random_metrics(matches, max_rank=4, ap="trapezoid")
    assert valid.mAP == pytest.approx(np.mean(areas))
    over_all = expected_random_metrics(matches, max_rank=4, ap="trapezoid", denominator="all")
    assert over_all.mAP == pytest.approx(np.mean(areas) / 3)
    assert over_all.mINP == pytest.approx(valid.mINP / 3)
    np.testing.assert_allclose(over_all.cmc, valid.cmc / 3)


@pytest.mark.parametrize(("num_matches", "num_candidates"), [(1, 1), (1, 5), (2, 5), (3, 3), (4, 6), (6, 7)])
def test_expected_random_metrics__equals_the_mean_over_all_orders(num_matches, num_candidates):
    relevance = np.arange(num_candidates) < num_matches
    precision, penalty, first = [], [], []
    for order in permutations(range(num_candidates)):
        ranks = np.flatnonzero(relevance[list(order)]) + 1
        precision.append(np.mean(np.arange(1, num_matches + 1) / ranks))
        penalty.append(num_matches / ranks[-1])
        first.append(ranks[0])
    persons = np.where(relevance, 1, 2)
    metrics = expected_random_metrics(GalleryMatches(np.array([1]), persons), max_rank=8)
    assert metrics.mAP == pytest.approx(np.mean(precision))
    assert metrics.mINP == pytest.approx(np.mean(penalty))
    np.testing.assert_allclose(metrics.cmc, [np.mean(np.array(first) <= k) for k in range(1, 9)], atol=1e-12)


def test_expected_random_metrics__agrees_with_rank_metrics_on_random_embeddings():
    """Different numbers of matches, removed cameras, a query without a match; 200 random galleries."""
    rng = np.random.default_rng(0)
    query_persons, gallery_persons = np.append(rng.integers(0, 8, 20), 99), rng.integers(0, 10, 60)
    query_cameras, gallery_cameras = rng.integers(1, 4, 21), rng.integers(1, 4, 60)
    ids = (query_persons, gallery_persons, query_cameras, gallery_cameras)
    samples = [
        rank_metrics(rng.standard_normal((21, 32)), rng.standard_normal((60, 32)), *ids, num_threads=1)
        for _ in range(200)
    ]
    expected = expected_random_metrics(GalleryMatches(*ids), max_rank=50)
    assert expected.num_valid_queries == samples[0].num_valid_queries == 20
    assert expected.num_gallery == samples[0].num_gallery
    assert expected.mAP == pytest.approx(np.mean([m.mAP for m in samples]), abs=0.005)
    assert expected.mINP == pytest.approx(np.mean([m.mINP for m in samples]), abs=0.005)
    np.testing.assert_allclose(expected.cmc, np.mean([m.cmc for m in samples], axis=0), atol=0.02)


def test_chance_system__evaluates_any_task(text_dataset):
    tasks = [build_task(text_dataset, "text", "image"), build_task(text_dataset, "both", "both")]
    first, second = ChanceSystem().evaluate(tasks, max_rank=10)
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
    (result,) = system.evaluate([build_task(market_dataset, "image", "image")], max_rank=10)
    metrics = result.metrics
    assert (metrics.mAP, metrics.num_valid_queries, metrics.num_gallery) == (1.0, 3, 5)


def test_model_system__embeds_shared_items_once(text_dataset, colour_model, colour_processor):
    system = ModelSystem(colour_model, colour_processor, batch_size=100)
    pairs = [("text", "image"), ("both", "both"), ("image", "image"), ("text", "text")]
    results = system.evaluate([build_task(text_dataset, *pair) for pair in pairs], max_rank=10)
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
