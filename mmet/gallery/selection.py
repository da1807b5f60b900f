"""The positions of a gallery that a search covers, as a list, as a bitmap, or as all."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


class Selection:
    """Some of the positions `0 … total - 1`.

    Args:
        total: number of positions, selected or not.
        positions: the selected positions, ascending; None if `removed` says which are left out.
        removed: the positions that are left out.
    """

    def __init__(self, total: int, positions: Positions | None = None, removed: Positions | None = None) -> None:
        self.total = total
        self._listed = positions
        self._removed = np.empty(0, dtype=np.int64) if removed is None else removed
        self.vectors: NDArray[np.float32] | None = None
        """`(count, D)`, where a search kept them for the next one."""

    def __len__(self) -> int:
        return self.total - len(self._removed) if self._listed is None else len(self._listed)

    @property
    def is_all(self) -> bool:
        return len(self) == self.total

    def without(self, positions: Positions) -> Selection:
        """This selection without the given positions."""
        if not len(positions):
            return self
        if self._listed is None:
            return Selection(self.total, removed=np.union1d(self._removed, positions))
        return Selection(self.total, self._listed[~_among(self._listed, positions)])

    def has(self, positions: Positions) -> NDArray[np.bool_]:
        """For each of these positions, whether it is selected."""
        if self._listed is None:
            return ~_among(positions, self._removed)
        return _among(positions, self._listed)

    @cached_property
    def positions(self) -> Positions:
        return np.flatnonzero(self.mask(0, self.total)) if self._listed is None else self._listed

    def mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether each position from `start` to before `stop` is selected."""
        listed = self._removed if self._listed is None else self._listed
        mask = np.full(stop - start, self._listed is None)
        first, last = np.searchsorted(listed, [start, stop])
        mask[listed[first:last] - start] = self._listed is not None
        return mask

    def count_below(self, stop: int) -> int:
        """How many positions before `stop` are selected."""
        listed = self._removed if self._listed is None else self._listed
        below = int(np.searchsorted(listed, stop))
        return min(stop, self.total) - below if self._listed is None else below

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """One bit for each position, the lowest bit of each byte first."""
        return np.packbits(self.mask(0, self.total), bitorder="little")


def _among(positions: Positions, listed: Positions) -> NDArray[np.bool_]:
    """For each position, whether it is among others, which ascend."""
    if not len(listed):
        return np.zeros(len(positions), dtype=bool)
    return np.asarray(listed[np.minimum(np.searchsorted(listed, positions), len(listed) - 1)] == positions)
