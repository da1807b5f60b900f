"""Masking: exact counts, where masks fall on synthetic silhouettes, and BERT's shares of tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from mmet.training.masking import (
    IMAGE_MASKING,
    PatchRegion,
    block_masking,
    draw_patch_mask,
    mask_tokens,
    mean_coverage_prior,
    num_masked_patches,
    pedestrian_masking,
    pedestrian_prior,
    picture_prior,
    random_masking,
)

GRID = (21, 10)
N = GRID[0] * GRID[1]


def silhouettes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Coverage of patches by crude persons: a head, a trunk and two legs, shifted and scaled. `(count, N)`, in [0, 1].

    Drawn at 12 × 12 pixels a patch with straight edges; not the outline that `pedestrian_prior` uses.
    """
    y, x = np.mgrid[: GRID[0] * 12, : GRID[1] * 12]
    coverages = []
    for _ in range(count):
        height = rng.uniform(0.82, 0.96)
        v = (y / y.max() - rng.uniform(0.02, 0.98 - height)) / height
        u = (x / x.max() - 0.5 - rng.uniform(-0.06, 0.06)) / rng.uniform(0.9, 1.25)
        head = (v / 0.075 - 1) ** 2 + (u / 0.1) ** 2 < 1
        trunk = (v > 0.15) & (v < 0.5) & (np.abs(u) < 0.26)
        stride = rng.uniform(0.02, 0.1)
        legs = (v > 0.5) & (v < 1) & (np.minimum(np.abs(u - stride), np.abs(u + stride)) < 0.1)
        person = (head | trunk | legs).reshape(GRID[0], 12, GRID[1], 12)
        coverages.append(person.mean(axis=(1, 3)).reshape(-1))
    return np.array(coverages)


def region_of(coverage: np.ndarray, **kwargs: float) -> PatchRegion:
    return PatchRegion(coverage, pedestrian_prior(*GRID), GRID, **kwargs)


def share_on_person(mask: np.ndarray, coverage: np.ndarray) -> float:
    return float(coverage[mask].mean())


def test_masks_lie_on_the_person__own_mask_then_prior_then_random() -> None:
    rng = np.random.default_rng(0)
    coverage = silhouettes(200, rng)
    unknown = np.full_like(coverage, np.nan)
    hidden = num_masked_patches(0.15, N)
    share = share_on_person(pedestrian_masking(region_of(coverage), hidden, rng), coverage)
    prior = share_on_person(pedestrian_masking(region_of(unknown), hidden, rng), coverage)
    uniform = share_on_person(random_masking(region_of(coverage), hidden, rng), coverage)
    block = share_on_person(block_masking(region_of(coverage), hidden, rng), coverage)
    assert uniform == pytest.approx(coverage.mean(), abs=0.02)
    assert block < prior
    assert share > 0.93
    assert prior > uniform + 0.3
    assert share > prior + 0.05


def test_measured_prior__masks_the_person_of_other_pictures() -> None:
    rng = np.random.default_rng(1)
    seen, unseen = silhouettes(100, rng), silhouettes(100, rng)
    prior = mean_coverage_prior(np.vstack([seen, np.full((3, N), np.nan)]))
    assert prior == pytest.approx(seen.mean(axis=0) ** 3, rel=1e-5)
    region = PatchRegion(np.full_like(unseen, np.nan), prior, GRID)
    assert share_on_person(pedestrian_masking(region, 32, rng), unseen) > unseen.mean() + 0.4


def test_mean_coverage_prior__needs_a_mask() -> None:
    with pytest.raises(ValueError, match="at least one mask"):
        mean_coverage_prior(np.full((2, 4), np.nan))


def test_mean_coverage_prior__a_row_with_any_gap_is_left_out() -> None:
    prior = mean_coverage_prior([[np.nan, 1.0], [0.5, 0.25], [0.1, 0.75]], sharpness=1)
    np.testing.assert_allclose(prior, [0.3, 0.5], rtol=1e-6)


def test_pedestrian_prior__nobody_above_the_head_or_below_the_feet() -> None:
    """Of 40 rows the first and the last are outside the figure, whose head and feet begin in the second."""
    rows = pedestrian_prior(40, 9, sharpness=1).reshape(40, 9).max(axis=1)
    assert rows[0] < 0.5 * rows[2]
    assert rows[-1] < 0.5 * rows[-3]


@pytest.mark.parametrize("grid", [(21, 10), (8, 4), (16, 8), (1, 1)])
def test_pedestrian_prior__is_a_standing_figure(grid: tuple[int, int]) -> None:
    prior = pedestrian_prior(*grid)
    assert prior.shape == (grid[0] * grid[1],)
    assert prior.dtype == np.float32
    assert (prior > 0).all()
    assert (prior <= 1).all()
    figure = prior.reshape(grid)
    np.testing.assert_allclose(figure, figure[:, ::-1], rtol=1e-5)
    assert (figure[:, grid[1] // 2] >= figure[:, 0]).all()


def test_pedestrian_prior__a_coarser_grid_holds_the_means_of_a_finer_one() -> None:
    """Patches of twice the size cover the same figure, so nothing is shifted by a part of a patch."""
    fine = pedestrian_prior(32, 16, sharpness=1).reshape(16, 2, 8, 2).mean(axis=(1, 3))
    coarse = pedestrian_prior(16, 8, sharpness=1)
    np.testing.assert_allclose(coarse.reshape(16, 8), fine, atol=0.01)
    assert coarse.min() > 0
    assert 0.95 < coarse.max() <= 1  # the trunk fills its patches


def test_pedestrian_prior__sharpness_is_an_exponent() -> None:
    np.testing.assert_allclose(
        pedestrian_prior(*GRID, sharpness=3.0), pedestrian_prior(*GRID, sharpness=1.0) ** 3, rtol=1e-4
    )


def test_picture_prior__patches_as_bright_as_the_picture_there() -> None:
    """8 × 6 pixels in patches of 4 every 2: three rows, two columns; the left half is white, the right a fifth."""
    picture = Image.new("L", (6, 8), 51)
    picture.paste(255, (0, 0, 3, 8))
    weights = picture_prior(picture, (8, 6), 4, 2, sharpness=2)
    left, right = (3 * 1.0 + 1 * 0.2) / 4, (1 * 1.0 + 3 * 0.2) / 4
    np.testing.assert_allclose(weights, np.tile([left**2, right**2], 3), rtol=1e-6)
    stretched = picture_prior(picture.resize((60, 80), Image.Resampling.NEAREST), (8, 6), 4, 2, sharpness=2)
    np.testing.assert_allclose(stretched, weights, rtol=0.05)
    with pytest.raises(ValueError, match="black picture"):
        picture_prior(Image.new("RGB", (6, 8)), (8, 6), 4, 2)


def test_pedestrian_masking__high_sharpness_loses_no_patch_of_the_person() -> None:
    """One per cent of a patch to the power of 20 is below float32's smallest number."""
    coverage = np.zeros((1, 4), dtype=np.float32)
    coverage[0, :2] = 0.001, 1.0
    region = PatchRegion(coverage, np.ones(4), grid=(1, 4), sharpness=20)
    for seed in range(20):
        hidden = pedestrian_masking(region, 2, np.random.default_rng(seed))
        assert hidden.tolist() == [[True, True, False, False]]


def test_own_mask_outweighs_prior_row_by_row() -> None:
    """Only the row with a mask follows it; NaN and a mask with nobody in it follow the prior."""
    corner = np.zeros((3, N))
    corner[0, :40] = 1.0
    corner[1] = np.nan
    drawn = np.stack([pedestrian_masking(region_of(corner), 32, np.random.default_rng(i)) for i in range(50)])
    assert drawn[:, 0, :40].sum() == 50 * 32
    assert drawn[:, 1:, :40].mean() < 0.2
    assert (drawn[:, 1:].sum(axis=2) == 32).all()


def test_pedestrian_masking__each_row_follows_its_own_mask_or_the_prior() -> None:
    """A picture's own mask is at the top; the prior, for a picture without one or an empty one, at the bottom."""
    coverage, prior = np.zeros((3, 12)), np.zeros(12)
    coverage[0, :4], coverage[1] = 0.5, np.nan
    prior[8:] = 0.5
    for seed in range(20):
        hidden = pedestrian_masking(PatchRegion(coverage, prior, (3, 4)), 4, np.random.default_rng(seed))
        assert [np.flatnonzero(row).tolist() for row in hidden] == [[0, 1, 2, 3], [8, 9, 10, 11], [8, 9, 10, 11]]


@pytest.mark.parametrize("name", ["pedestrian", "random", "block"])
@pytest.mark.parametrize(("grid", "count"), [((21, 10), 32), ((8, 4), 5), ((3, 1), 2), ((4, 4), 16), ((5, 5), 0)])
def test_strategies__exact_count_and_seed(name: str, grid: tuple[int, int], count: int) -> None:
    strategy = IMAGE_MASKING[name]
    assert strategy is not None
    coverage = np.random.default_rng(3).random((6, grid[0] * grid[1])) ** 4
    coverage[0], coverage[1], coverage[2, 2:] = 0, np.nan, 0
    region = PatchRegion(coverage, pedestrian_prior(*grid), grid)
    first = strategy(region, count, np.random.default_rng(7))
    assert first.shape == coverage.shape
    assert first.dtype == bool
    assert (first.sum(axis=1) == count).all()
    np.testing.assert_array_equal(first, strategy(region, count, np.random.default_rng(7)))


def test_random_masking__every_patch_equally_often() -> None:
    drawn = random_masking(region_of(np.ones((4000, N))), 32, np.random.default_rng(0))
    frequency = drawn.mean(axis=0)
    expected = 32 / N
    assert np.abs(frequency - expected).max() < 5 * np.sqrt(expected * (1 - expected) / 4000)


def test_block_masking__patches_stick_together() -> None:
    rng = np.random.default_rng(0)
    region = region_of(np.ones((100, N)))

    def masked_neighbours(mask: np.ndarray) -> float:
        """Mean number of masked neighbours (of four) of a masked patch."""
        figure = np.pad(mask.reshape(-1, *GRID), ((0, 0), (1, 1), (1, 1)))
        around = sum(np.roll(figure, shift, axis).astype(int) for shift in (-1, 1) for axis in (1, 2))
        return float(around[figure].mean())

    assert masked_neighbours(block_masking(region, 32, rng)) > 2.3
    assert masked_neighbours(random_masking(region, 32, rng)) < 0.8


def test_block_masking__blocks_lean_to_no_side() -> None:
    """Upright and lying blocks are as frequent, and no half of the picture is hidden more often than the other."""
    grid, rng = (12, 12), np.random.default_rng(0)
    region = PatchRegion(np.ones((3000, 144)), np.ones(144), grid)
    masks = block_masking(region, 6, rng).reshape(-1, *grid)
    heights, widths = (np.array([np.ptp(np.flatnonzero(line)) for line in masks.any(axis=axis)]) for axis in (2, 1))
    assert (heights > widths).mean() == pytest.approx((heights < widths).mean(), abs=0.06)
    assert (heights > widths).mean() > 0.3
    share = masks.mean(axis=0)
    for half, other in ((share[:6], share[6:]), (share[:, :6], share[:, 6:])):
        assert half.mean() == pytest.approx(other.mean(), rel=0.06)


def test_draw_patch_mask__follows_the_weights() -> None:
    """Successive sampling of 2 from weights 1:2:3:4, inclusion probabilities summed over ordered pairs on paper."""
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    p = weights / weights.sum()
    expected = np.zeros(4)
    for i in range(4):
        for j in range(4):
            if i != j:
                pair = p[i] * p[j] / (1 - p[i])
                expected[[i, j]] += pair
    drawn = draw_patch_mask(np.tile(weights, (40_000, 1)), 2, np.random.default_rng(0), grid=(2, 2))
    np.testing.assert_allclose(drawn.mean(axis=0), expected, atol=0.01)


def test_draw_patch_mask__too_small_region_grows_from_its_border() -> None:
    weights = np.zeros((300, 25))
    weights[:, 12] = 1e-300  # the centre of a 5 × 5 grid, with hardly any weight
    four = draw_patch_mask(weights, 4, np.random.default_rng(0), grid=(5, 5))
    cross = [7, 11, 13, 17]
    assert four[:, 12].all()
    assert (four[:, cross].sum(axis=1) == 3).all()
    assert np.ptp(four[:, cross].mean(axis=0)) < 0.15  # ties at random: each in about three quarters
    nine = draw_patch_mask(weights, 9, np.random.default_rng(0), grid=(5, 5))
    square = np.zeros((5, 5), dtype=bool)
    square[1:4, 1:4] = True
    assert (nine == square.reshape(-1)).all()


def test_draw_patch_mask__enough_weight_never_leaves_the_region() -> None:
    weights = np.random.default_rng(0).random((200, 30)) * (np.arange(30) < 12)
    assert not draw_patch_mask(weights, 12, np.random.default_rng(1), grid=(6, 5))[:, 12:].any()


@settings(max_examples=80, deadline=None)
@given(
    weights=st_numpy.arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.just(12)),
        elements=st.one_of(st.just(0.0), st.floats(0, 1e300, allow_nan=False)),
    ),
    count=st.integers(0, 12),
)
def test_draw_patch_mask__never_fails(weights: np.ndarray, count: int) -> None:
    mask = draw_patch_mask(weights, count, np.random.default_rng(0), grid=(4, 3))
    assert (mask.sum(axis=1) == count).all()
    for row, drawn in zip(weights, mask, strict=True):
        inside = int((row > 0).sum())
        if inside:
            assert drawn[row > 0].sum() == min(inside, count)


@pytest.mark.parametrize(
    ("weights", "count"), [(np.ones((2, 5)), 1), (np.ones(6), 1), (-np.ones((1, 6)), 1), (np.ones((1, 6)), 7)]
)
def test_draw_patch_mask__rejects(weights: np.ndarray, count: int) -> None:
    with pytest.raises(ValueError, match=r"expected .*"):
        draw_patch_mask(weights, count, np.random.default_rng(0), grid=(2, 3))


def test_patch_region__rejects_other_shapes() -> None:
    with pytest.raises(ValueError, match="received"):
        PatchRegion(np.ones((2, 12)), np.ones(11), (3, 4))


def test_num_masked_patches() -> None:
    assert num_masked_patches(0.15, 32) == 5
    assert num_masked_patches(0.15, 210) == 32  # 31.5: half to the even number
    assert num_masked_patches(0.15, 30) == 4  # 4.5
    assert num_masked_patches(0.0, 210) == 0
    with pytest.raises(ValueError, match=r"received 1\.5"):
        num_masked_patches(1.5, 210)


CLS, SEP, PAD, MASK, VOCAB = 101, 102, 0, 103, 30_000


def caption_ids(rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, VOCAB, size=(rows, length))
    ids[:, 0], ids[:, -3], ids[:, -2:] = CLS, SEP, PAD
    return ids, np.isin(ids, [CLS, SEP, PAD])


def test_mask_tokens__shares_are_those_of_bert() -> None:
    ids, special = caption_ids(2000, 43)
    before = ids.copy()
    masked, labels = mask_tokens(
        ids, special, mask_token_id=MASK, vocab_size=VOCAB, mlm_probability=0.15, rng=np.random.default_rng(1)
    )
    np.testing.assert_array_equal(ids, before)
    chosen = labels != -100
    assert not chosen[special].any()
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    assert chosen[~special].mean() == pytest.approx(0.15, abs=0.005)
    assert (masked[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.015)
    assert (masked[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.01)
    random_tokens = masked[chosen & (masked != MASK) & (masked != ids)]
    assert random_tokens.mean() == pytest.approx(VOCAB / 2, rel=0.05)
    assert random_tokens.max() < VOCAB


@pytest.mark.parametrize("length", [1, 2, 6, 7, 20])
def test_mask_tokens__short_captions_are_masked_as_much_as_long_ones(length: int) -> None:
    """Six tokens used to lose 21 % of themselves, two 50 %, where one was masked in any case."""
    ids = np.full((20_000, length + 2), 2000)
    ids[:, 0], ids[:, -1] = CLS, SEP
    _, labels = mask_tokens(ids, ids < 1000, mask_token_id=MASK, vocab_size=VOCAB, rng=np.random.default_rng(0))
    chosen = labels[:, 1:-1] != -100
    assert chosen.mean() == pytest.approx(0.15, abs=1 / chosen.size)  # to one token of the whole batch
    due = 0.15 * length
    assert set(np.unique(chosen.sum(axis=1))) <= {math.floor(due), math.ceil(due)}
    share = chosen.mean(axis=0)
    assert share == pytest.approx(0.15, abs=4 * math.sqrt(0.15 * 0.85 / 20_000))  # no place is preferred


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    probability=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_mask_tokens__counts_are_the_share_of_every_caption_and_of_the_batch(
    lengths: list[int], probability: float, seed: int
) -> None:
    maskable = np.arange(12)[None, :] < np.array(lengths)[:, None]
    ids = np.where(maskable, 2000, PAD)
    _, labels = mask_tokens(
        ids,
        ~maskable,
        mask_token_id=MASK,
        vocab_size=VOCAB,
        mlm_probability=probability,
        rng=np.random.default_rng(seed),
    )
    counts = (labels != -100).sum(axis=1)
    assert (np.abs(counts - probability * np.array(lengths)) < 1 + 1e-9).all()
    assert abs(counts.sum() - probability * sum(lengths)) < 1 + 1e-9
    assert not (labels != -100)[~maskable].any()


def test_mask_tokens__the_mean_over_draws_is_the_share_whatever_the_neighbours() -> None:
    maskable = np.arange(9)[None, :] < np.array([3, 9, 1, 6])[:, None]
    ids = np.where(maskable, 2000, PAD)
    rng = np.random.default_rng(3)
    draws = [
        (mask_tokens(ids, ~maskable, mask_token_id=MASK, vocab_size=VOCAB, rng=rng).labels != -100).sum(axis=1)
        for _ in range(4000)
    ]
    assert np.mean(draws, axis=0) == pytest.approx([0.45, 1.35, 0.15, 0.9], abs=0.035)  # four standard errors


@pytest.mark.parametrize("probability", [0.0, 1.1])
def test_mask_tokens__rejects_probability(probability: float) -> None:
    with pytest.raises(ValueError, match=f"received {probability}"):
        mask_tokens(
            [[5]], [[0]], mask_token_id=1, vocab_size=9, mlm_probability=probability, rng=np.random.default_rng(0)
        )


def test_mask_tokens__rejects_shapes() -> None:
    with pytest.raises(ValueError, match="one shape"):
        mask_tokens([[5, 6]], [[0]], mask_token_id=1, vocab_size=9, rng=np.random.default_rng(0))
