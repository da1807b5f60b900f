"""Choose the patches and tokens that are hidden from the model: masking of the pedestrian region, and its ablations.

Everything here is a pure function of its arguments and of the `numpy.random.Generator` it is given, and works on
whole batches. A patch mask is a boolean array `(batch, num_patches)`, patches in row-major order of the patch grid;
True marks a patch that is hidden and has to be predicted. Person coverage is the share of a patch's pixels that lie on
the person.

    num_masked = num_masked_patches(0.15, 21 * 10)
    hidden = IMAGE_MASKING["pedestrian"](PatchRegion(coverage, prior, grid=(21, 10)), num_masked, rng)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

IGNORED_LABEL = -100
"""Label of a position that is not predicted (`ignore_index` of `torch.nn.functional.cross_entropy`)."""


# Outline of a standing person in a detector's crop: (height from the top, half width), both as shares of the crop.
# Measured on no dataset: head, neck, shoulders, hips, knees and feet of an upright figure, with room for a stride.
_FIGURE_HEIGHTS = (0.03, 0.07, 0.14, 0.18, 0.24, 0.40, 0.52, 0.70, 0.86, 0.97)
_FIGURE_HALF_WIDTHS = (0.02, 0.11, 0.12, 0.14, 0.27, 0.29, 0.25, 0.20, 0.16, 0.15)
# How gradually the mean of many silhouettes falls from person to background, as shares of the width and of the height.
_FIGURE_SIDE_SOFTNESS = 0.05
_FIGURE_END_SOFTNESS = 0.015
_POINTS_PER_PATCH = 8  # in each direction, over which a patch's coverage is averaged


def num_masked_patches(mask_ratio: float, num_patches: int) -> int:
    """
    Return `round(mask_ratio * num_patches)`; halves round to the even number.

    >>> num_masked_patches(0.15, 21 * 10)
    32

    Raises:
        ValueError: the ratio is outside [0, 1].
    """
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"expected a mask_ratio in [0, 1], received {mask_ratio}")
    return round(mask_ratio * num_patches)


def pedestrian_prior(grid_height: int, grid_width: int, *, sharpness: float = 3.0) -> NDArray[np.float32]:
    """Where a person stands in a crop without a mask: a smooth parametric figure, as sampling weights.

    Args:
        grid_height: rows of the patch grid.
        grid_width: columns of the patch grid.
        sharpness: exponent on the figure's coverage. 1 samples in proportion to it; 3 keeps the patches on the trunk.

    Returns:
        Weights in (0, 1] of shape `(grid_height * grid_width,)`, float32.
    """
    if grid_height < 1 or grid_width < 1:
        raise ValueError(f"expected a patch grid of at least 1 × 1, received {grid_height} × {grid_width}")
    fine = _figure(grid_height * _POINTS_PER_PATCH, grid_width * _POINTS_PER_PATCH)
    patches = fine.reshape(grid_height, _POINTS_PER_PATCH, grid_width, _POINTS_PER_PATCH)
    return _sharpened(patches.mean(axis=(1, 3)).reshape(-1), sharpness)


def _figure(height: int, width: int) -> NDArray[np.floating]:
    """Probability that a point lies on the person, at `height` × `width` points of the crop."""
    heights = (np.arange(height) + 0.5) / height
    offsets = np.abs((np.arange(width) + 0.5) / width - 0.5)
    half_widths = np.interp(heights, _FIGURE_HEIGHTS, _FIGURE_HALF_WIDTHS)
    across = _sigmoid((half_widths[:, None] - offsets[None, :]) / _FIGURE_SIDE_SOFTNESS)
    below_top = _sigmoid((heights - _FIGURE_HEIGHTS[0]) / _FIGURE_END_SOFTNESS)
    above_feet = _sigmoid((_FIGURE_HEIGHTS[-1] - heights) / _FIGURE_END_SOFTNESS)
    return across * (below_top * above_feet)[:, None]


def mean_coverage_prior(coverages: ArrayLike, *, sharpness: float = 3.0) -> NDArray[np.float32]:
    """The prior measured on training masks: their mean coverage, sharpened; `(num_patches,)`, float32.

    `coverages` is `(num_masks, num_patches)`. Rows that hold NaN (pictures without a mask) are left out; `ValueError`
    when no other row shows a person.
    """
    coverages = np.asarray(coverages, dtype=np.float64)
    if coverages.ndim != 2:
        raise ValueError(f"expected coverages of shape (num_masks, num_patches), received {coverages.shape}")
    known = coverages[~np.isnan(coverages).any(axis=1)]
    if not len(known) or not known.any():
        raise ValueError(f"expected at least one mask that shows a person, received {len(known)} masks, all empty")
    return _sharpened(known.mean(axis=0), sharpness)


def picture_prior(
    picture: Image.Image, size: tuple[int, int], patch_size: int, patch_stride: int, *, sharpness: float = 3.0
) -> NDArray[np.float32]:
    """
    The prior of a grey picture of a crop: white where persons always are, black where they never are.

    Args:
        picture: of any size and mode; it is stretched to the model's images.
        size: height and width of the model's images.
        patch_size: pixels of a patch in each direction.
        patch_stride: pixels from patch to patch.
        sharpness: exponent on the mean brightness of a patch.

    Returns:
        Weights in [0, 1] of shape `(num_patches,)`, float32.

    Raises:
        ValueError: the picture is all black.
    """
    grey = picture.convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(grey) / 255, (patch_size, patch_size))
    coverage = windows[::patch_stride, ::patch_stride].mean(axis=(2, 3)).reshape(-1)
    if not coverage.any():
        raise ValueError("expected a prior that is bright where persons are, received a black picture")
    return _sharpened(coverage, sharpness)


def _sharpened(coverage: NDArray[np.floating], sharpness: float) -> NDArray[np.float32]:
    return (coverage**sharpness).astype(np.float32)


def _sigmoid(values: NDArray[np.floating]) -> NDArray[np.floating]:
    shares: NDArray[np.floating] = 1 / (1 + np.exp(-values))
    return shares


def draw_patch_mask(
    weights: ArrayLike, num_masked: int, rng: np.random.Generator, *, grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """Draw `num_masked` patches per row without replacement, with probability following the weight.

    Successive sampling by the Gumbel top-k trick: the first patch is drawn with probability proportional to its
    weight, the next one in the same way among those left, and so on (Efraimidis and Spirakis, 2006). Where fewer than
    `num_masked` patches of a row have any weight, all of those are taken and the rest follows from the region's border
    outwards, by Euclidean distance on the grid, ties at random. A row without any weight is drawn uniformly.

    Args:
        weights: `(batch, num_patches)`, finite and not negative.
        num_masked: how many patches of each row to mask.
        rng: source of randomness.
        grid: rows and columns of the patch grid.

    Returns:
        Boolean `(batch, num_patches)` with exactly `num_masked` True per row.
    """
    weights = np.asarray(weights, dtype=np.float64)
    num_patches = grid[0] * grid[1]
    if weights.ndim != 2 or weights.shape[1] != num_patches:
        raise ValueError(f"expected weights of shape (batch, {num_patches}) for grid {grid}, received {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("expected finite weights that are not negative")
    _check_num_masked(num_masked, num_patches)

    weights = np.where(weights.any(axis=1, keepdims=True), weights, 1.0)
    region = weights > 0
    with np.errstate(divide="ignore"):
        score = np.log(weights) + rng.gumbel(size=weights.shape)  # (B, N), -inf outside the region
    jitter = rng.random(weights.shape)
    too_small = region.sum(axis=1) < num_masked
    if too_small.any():
        # A log-weight is never below -745 in double precision, so that everything outside ranks after the region. Two
        # distances on the grid differ by 1e-4 at least on any grid a model can have: the jitter only breaks ties.
        outside = -1e6 - _distance_to_region(region[too_small], grid) - 1e-5 * jitter[too_small]
        score[too_small] = np.where(region[too_small], score[too_small], outside)
    return _top_k(score, num_masked)


def _check_num_masked(num_masked: int, num_patches: int) -> None:
    if not 0 <= num_masked <= num_patches:
        raise ValueError(f"expected num_masked between 0 and the {num_patches} patches, received {num_masked}")


def _distance_to_region(region: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Euclidean distance, in patches, from every patch to the nearest one of its row's region: `(B, N)`."""
    positions = np.stack(np.unravel_index(np.arange(grid[0] * grid[1]), grid), axis=1)
    between = np.linalg.norm(positions[:, None] - positions[None, :], axis=-1)  # (N, N)
    return np.stack([between[:, inside].min(axis=1) for inside in region])


def _top_k(score: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """True at the `count` largest scores of each row."""
    chosen = np.zeros(score.shape, dtype=bool)
    if count:
        best = np.argpartition(-score, count - 1, axis=1)[:, :count]
        np.put_along_axis(chosen, best, True, axis=1)
    return chosen


@dataclass(frozen=True, slots=True)
class PatchRegion:
    """The positions of the persons in a batch, as far as known.

    Attributes:
        coverage: `(batch, num_patches)`, share of each patch on the person; rows of NaN where a picture has no mask.
        prior: `(num_patches,)`, sampling weights for pictures without a mask (see `pedestrian_prior`).
        grid: rows and columns of the patch grid.
        sharpness: exponent on `coverage` that turns it into sampling weights.
    """

    coverage: NDArray[np.floating]
    prior: NDArray[np.floating]
    grid: tuple[int, int]
    sharpness: float = 3.0

    def __post_init__(self) -> None:
        num_patches = self.grid[0] * self.grid[1]
        if self.coverage.ndim != 2 or self.coverage.shape[1] != num_patches or self.prior.shape != (num_patches,):
            raise ValueError(
                f"expected coverage (batch, {num_patches}) and prior ({num_patches},) for the grid {self.grid}, "
                f"received {self.coverage.shape} and {self.prior.shape}"
            )


def pedestrian_masking(region: PatchRegion, num_masked: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask patches on the person: by the sample's mask, or by the prior if there is no mask or it is empty."""
    coverage = np.nan_to_num(region.coverage).astype(np.float64) ** region.sharpness
    weights = np.where(coverage.any(axis=1, keepdims=True), coverage, region.prior)
    return draw_patch_mask(weights, num_masked, rng, grid=region.grid)


def random_masking(region: PatchRegion, num_masked: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask patches anywhere with equal probability (the paper's ablation)."""
    return draw_patch_mask(np.ones_like(region.coverage), num_masked, rng, grid=region.grid)


def block_masking(region: PatchRegion, num_masked: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask rectangles of random area and aspect ratio (BEiT, FLAVA), cut so that the count is exact."""
    _check_num_masked(num_masked, region.coverage.shape[1])
    return np.stack([_draw_blocks(region.grid, num_masked, rng) for _ in range(len(region.coverage))])


def _draw_blocks(
    grid: tuple[int, int],
    num_masked: int,
    rng: np.random.Generator,
    min_block: int = 4,
    max_aspect_ratio: float = 3.3,
) -> NDArray[np.bool_]:
    """One picture's blocks, `(num_patches,)`. Every block covers at least one new patch, so that the loop ends."""
    rows, columns = grid
    masked = np.zeros(grid, dtype=bool)
    remaining = num_masked
    while remaining:
        free = np.flatnonzero(~masked)
        row, column = divmod(int(free[rng.integers(len(free))]), columns)  # a patch that the block will cover
        area = rng.uniform(min(min_block, remaining), remaining)
        aspect_ratio = max_aspect_ratio ** rng.uniform(-1, 1)
        height = min(max(round(math.sqrt(area * aspect_ratio)), 1), rows)
        width = min(max(round(math.sqrt(area / aspect_ratio)), 1), columns)
        top = min(max(row - int(rng.integers(height)), 0), rows - height)
        left = min(max(column - int(rng.integers(width)), 0), columns - width)
        block = np.zeros(grid, dtype=bool)
        block[top : top + height, left : left + width] = True
        new = np.flatnonzero(block & ~masked)[:remaining]
        masked.flat[new] = True
        remaining -= len(new)
    return masked.reshape(-1)


MaskingStrategy = Callable[[PatchRegion, int, np.random.Generator], NDArray[np.bool_]]

IMAGE_MASKING: dict[str, MaskingStrategy | None] = {
    "pedestrian": pedestrian_masking,
    "random": random_masking,
    "block": block_masking,
    "none": None,
}
"""The masking strategies by the name that recipes use; `none` switches image masking off."""


class MaskedTokens(NamedTuple):
    """Masked tokens and their labels, both int64 `(batch, length)`."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def mask_tokens(
    input_ids: ArrayLike,
    special_tokens_mask: ArrayLike,
    *,
    mask_token_id: int,
    vocab_size: int,
    mlm_probability: float = 0.15,
    rng: np.random.Generator,
) -> MaskedTokens:
    """Mask tokens as BERT does (Devlin et al., 2019): of the chosen ones, 80 % become [MASK], 10 % a random token.

    Of a caption with n tokens to choose from, `mlm_probability * n` are chosen, rounded up or down at random so that
    the mean over many draws is exactly that, whatever the length; over the whole batch the number is right to one. A
    caption so short that less than one token is due (below seven tokens at 15 %) therefore has none in some draws.

    Args:
        input_ids: `(batch, length)` token ids; not modified.
        special_tokens_mask: `(batch, length)`, true at special and padding tokens, which are never chosen.
        mask_token_id: id of [MASK].
        vocab_size: random replacements are drawn from `range(vocab_size)`.
        mlm_probability: share of tokens to choose; every token of a caption is as likely as the others.
        rng: source of randomness.

    Returns:
        The ids with the chosen tokens hidden, and labels that hold the original id there and -100 elsewhere.
    """
    check_mlm_probability(mlm_probability)
    input_ids = np.asarray(input_ids, dtype=np.int64)
    maskable = ~np.asarray(special_tokens_mask, dtype=bool)
    if input_ids.ndim != 2 or input_ids.shape != maskable.shape:
        raise ValueError(
            f"expected input_ids and special_tokens_mask of one shape (batch, length), "
            f"received {input_ids.shape} and {maskable.shape}"
        )
    chosen = _choose_tokens(maskable, mlm_probability, rng)
    action = rng.random(input_ids.shape)
    masked = np.where(chosen & (action < 0.8), mask_token_id, input_ids)
    replaced = chosen & (action >= 0.9)
    masked = np.where(replaced, rng.integers(vocab_size, size=input_ids.shape), masked)
    return MaskedTokens(masked, np.where(chosen, input_ids, IGNORED_LABEL))


def check_mlm_probability(mlm_probability: float) -> None:
    """Raise `ValueError` unless it is in (0, 1]."""
    if not 0 < mlm_probability <= 1:
        raise ValueError(f"expected mlm_probability in (0, 1], received {mlm_probability}")


def _choose_tokens(maskable: NDArray[np.bool_], probability: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose the due number of maskable tokens of each row, uniformly."""
    due = np.cumsum(probability * maskable.sum(axis=1))
    counts = np.diff(
        np.floor(due + rng.random()), prepend=0
    )  # one random offset rounds all rows (systematic sampling)
    order = np.where(maskable, rng.random(maskable.shape), np.inf).argsort(axis=1)
    chosen = np.zeros(maskable.shape, dtype=bool)
    np.put_along_axis(chosen, order, np.arange(maskable.shape[1]) < counts[:, None], axis=1)
    return chosen
