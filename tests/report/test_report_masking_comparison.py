"""Masked shares and drawn masks against counting pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmet.data import load_reid_dataset
from mmet.report.masking_comparison import STRATEGIES, compare_masking, draw_hidden, draw_strategies, person_share
from mmet.training.masking import num_masked_patches
from processing_mmet import MMETImageProcessor, MMETProcessor


@pytest.fixture
def image_processor():
    return MMETImageProcessor(size={"height": 64, "width": 32}, patch_size=16, patch_stride=12)


def boxes(image_processor):
    """Left, top of every patch, in row-major order."""
    rows, columns = image_processor.patch_grid
    return [(12 * column, 12 * row) for row in range(rows) for column in range(columns)]


@pytest.fixture
def tiny_processor(run):
    return MMETProcessor.from_pretrained(run)


def test_shares_agree_with_counting_pixels_of_hidden_patches(worlds, tiny_processor, image_processor):
    masks = load_reid_dataset("finegpr", worlds["finegpr"])["train"]["person_mask"][:6]
    coverage = tiny_processor.person_patch_coverage(masks).numpy()
    hidden = draw_strategies(coverage, image_processor.patch_grid, 3, np.random.default_rng(0))
    assert set(hidden) == set(STRATEGIES)
    for patches in hidden.values():
        assert (patches.sum(axis=1) == 3).all()
        on_person = total = 0
        for mask, row in zip(masks, patches, strict=True):
            pixels = np.asarray(mask.convert("L").resize((32, 64), Image.Resampling.BOX)) > 127
            for (left, top), is_hidden in zip(boxes(image_processor), row, strict=True):
                if is_hidden:
                    on_person += pixels[top : top + 16, left : left + 16].sum()
                    total += 16 * 16
        assert person_share(coverage, patches) == pytest.approx(on_person / total, abs=1e-6)


def test_pedestrian_masking_hides_more_of_the_person_than_the_ablations(page):
    shares = page.masking.shares
    assert shares["pedestrian"] > shares["random"] + 0.1
    assert shares["random"] == pytest.approx(page.masking.person_share, abs=0.15)
    assert (page.masking.num_images, page.masking.num_masked) == (12, num_masked_patches(0.15, 5 * 2))


def test_nothing_hidden_has_no_share():
    assert np.isnan(person_share(np.ones((2, 4)), np.zeros((2, 4), dtype=bool)))


@pytest.mark.parametrize("scale", [1, 3])
def test_hidden_patches_are_grey_and_nothing_else_changes(tiny_processor, image_processor, scale):
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 100, (64 * scale, 32 * scale, 3), dtype=np.uint8))
    patches = rng.random(10) < 0.3
    expected = np.zeros((64 * scale, 32 * scale), dtype=bool)
    for (left, top), is_hidden in zip(boxes(image_processor), patches, strict=True):
        if is_hidden:
            expected[scale * top : scale * (top + 16), scale * left : scale * (left + 16)] = True
    drawn, before = np.asarray(draw_hidden(picture, patches, tiny_processor, scale)), np.asarray(picture)
    assert (drawn[~expected] == before[~expected]).all()
    assert (drawn[expected] >= 100).all()  # the picture itself is darker


def test_without_silhouettes_there_is_nothing_to_compare(worlds, tiny_processor):
    dataset = load_reid_dataset("market1501", worlds["market1501"])["train"]
    assert compare_masking(dataset, tiny_processor, mask_ratio=0.15, rng=np.random.default_rng(0)) is None
