"""Draw the CMC curves of all rows in one figure.

CmcCurves().figures(records)["cmc.png"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmet.evaluation.analyses.base import Analysis
from mmet.evaluation.analyses.panels import draw_panels, legend_beside, line_label
from mmet.evaluation.record import ResultRecord

RANK_TICKS = (1, 5, 10, 20, 30, 40, 50, 100, 200, 500, 1000)


class CmcCurves(Analysis):
    """The CMC curve of every row: the share of queries with a true match among the first k entries."""

    def figures(self, records: Sequence[ResultRecord]) -> dict[str, Figure]:
        return {"cmc.png": plot_cmc(records)}


def plot_cmc(records: Sequence[ResultRecord]) -> Figure:
    """Draw CMC curves: a panel for each data set and pair of modalities, a line for each system."""
    longest = max((len(record.metrics.cmc) for record in records), default=1)

    def draw(ax: Axes, record: ResultRecord, style: dict[str, Any]) -> None:
        cmc = record.metrics.cmc
        label = f"{line_label(record.system)} ({record.metrics.rank(1):.1%})"
        ax.plot(range(1, len(cmc) + 1), cmc, label=label, **style)

    def finish(ax: Axes) -> None:
        ax.set_xlabel("rank")
        ax.set_ylabel("queries with a true match")
        ax.set_xlim(1, None)
        ax.set_xticks([rank for rank in RANK_TICKS if rank <= longest] or [1])
        legend_beside(ax, "system (Rank-1)")

    return draw_panels(records, draw, finish)
