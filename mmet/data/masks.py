"""Measure person masks: how much of the picture they cover, and how many show nobody, everybody or nothing clear.

    shares = measure_masks([(mask_path, picture_path), ...])
    shares.covered.mean(), shares.nobody, shares.ambiguous

A mask that decodes can still be useless: all of it person, all of it ground, a map of class labels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from pictures_mmet import (
    IMAGE_FORMATS,
    READ_ERRORS,
    AmbiguousMaskError,
    has_proportions,
    read_person_mask,
    upright_size,
)


@dataclass(frozen=True)
class MaskSummary:
    """Figures of a set of masks.

    Attributes:
        num_masks: number of masks examined.
        covered: `(n,)` share of its picture that each readable mask covers.
        nobody: masks without a pixel on the person.
        everybody: masks without a pixel beside the person.
        ambiguous: mask and reason, for masks that do not show which pixels are the person.
        misshapen: masks with other proportions than their picture.
    """

    num_masks: int
    covered: NDArray[np.float64]
    nobody: tuple[Path, ...]
    everybody: tuple[Path, ...]
    ambiguous: tuple[tuple[Path, str], ...]
    misshapen: tuple[Path, ...]


@dataclass(frozen=True)
class _Reading:
    covered: float | None = None
    problem: str = ""
    misshapen: bool = False


def measure_masks(
    masks: Sequence[tuple[Path, Path]],
    *,
    content_of: Callable[[Path], Path | bytes] = lambda path: path,
    workers: int = 4,
) -> MaskSummary:
    """Read masks in threads, each with its picture. Undecodable files count as examined.

    Args:
        masks: mask and picture.
        content_of: returns the bytes of a file that does not lie under its own name, as `ReidFolder.content_of` does.
        workers: number of threads.
    """

    def read(pair: tuple[Path, Path]) -> _Reading:
        return _read(*map(content_of, pair))

    with ThreadPoolExecutor(workers) as pool:
        readings = list(
            tqdm(pool.map(read, masks), total=len(masks), desc="reading masks", disable=None, delay=2, leave=False)
        )
    paths = [mask for mask, _ in masks]
    pairs = list(zip(paths, readings, strict=True))
    return MaskSummary(
        num_masks=len(masks),
        covered=np.array([reading.covered for reading in readings if reading.covered is not None], dtype=np.float64),
        nobody=tuple(path for path, reading in pairs if reading.covered == 0),
        everybody=tuple(path for path, reading in pairs if reading.covered == 1),
        ambiguous=tuple((path, reading.problem) for path, reading in pairs if reading.problem),
        misshapen=tuple(path for path, reading in pairs if reading.misshapen),
    )


def _read(mask_file: Path | bytes, picture: Path | bytes) -> _Reading:
    try:
        mask = read_person_mask(mask_file)
    except AmbiguousMaskError as error:
        return _Reading(problem=str(error))
    except READ_ERRORS:
        return _Reading()
    return _Reading(float(np.mean(np.asarray(mask) > 0)), misshapen=_is_misshapen(mask, picture))


def _is_misshapen(mask: Image.Image, picture: Path | bytes) -> bool:
    try:
        with Image.open(
            io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=IMAGE_FORMATS
        ) as image:
            return not has_proportions(mask.size, upright_size(image))
    except Exception:  # decoders meet hostile bytes with errors of many kinds; the check of pictures names them
        return False
