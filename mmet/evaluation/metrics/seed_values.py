"""A value measured with several training seeds: its mean and standard deviation.

>>> str(SeedValues((27.0, 28.5, 25.8)))
'27.1 ± 1.4'
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SeedValues:
    """
    Args:
        values: one value per seed, in the order of the seeds; empty if nothing was measured.
    """

    values: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (divisor n - 1); None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if self.mean is None:
            return "—"
        return f"{self.mean:.1f}" + (f" ± {self.std:.1f}" if self.std is not None else "")

    def to_json(self) -> dict[str, Any]:
        """Mean, standard deviation and values for JSON."""
        return {"mean": self.mean, "std": self.std, "values": list(self.values)}
