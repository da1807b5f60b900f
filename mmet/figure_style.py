"""The one look of all figures: fonts, colours that colour-blind readers tell apart, lines that differ in grey print.

    with drawn_in(LIGHT):
        figure = Figure()
        figure.subplots().plot(values, **line_style(0))

Charts of an evaluation are matplotlib's (`mmet.evaluation.analyses.panels`), pictures of the report, of galleries and
of explanations are laid out by hand (`mmet.report.drawing`), and pages have style sheets; all take their colours here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
from matplotlib import font_manager

FONTS = ("Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans")
"""Preferred fonts; the last comes with matplotlib."""

_DASHES = ("-", (0, (6, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (1.5, 1)))


@dataclass(frozen=True)
class Theme:
    """Colours of one look. `systems` has an entry for each baseline; the trained model is drawn in `accent`.

    `others` are those of backbones and further checkpoints in their order, again from the first when they are used up.
    """

    ground: str
    ink: str
    muted: str
    line: str
    accent: str
    match: str
    mismatch: str
    systems: Mapping[str, str]
    others: tuple[str, ...]

    def color(self, system: str, variant: int | None = None) -> str:
        """Colour of a system's bars and lines; `variant` counts backbones and further checkpoints."""
        if variant is not None:
            return self.others[variant % len(self.others)]
        return self.systems.get(system, self.accent)

    @property
    def series(self) -> tuple[str, ...]:
        """Colours of systems that are no baselines, in their order."""
        return self.accent, *self.others


LIGHT = Theme(
    ground="#ffffff",
    ink="#1b1f24",
    muted="#626c77",
    line="#dde1e6",
    accent="#0b62a8",
    match="#00664f",
    mismatch="#c8500a",
    systems={"chance": "#c3cad2", "histogram": "#9ba5b0", "untrained": "#6f7985"},
    others=("#c27c00", "#33195c", "#2a9d8f", "#b0134f"),
)
DARK = Theme(
    ground="#15181c",
    ink="#e7eaee",
    muted="#9aa4af",
    line="#323940",
    accent="#5fb0f2",
    match="#5ad1b0",
    mismatch="#f47b3e",
    systems={"chance": "#59636e", "histogram": "#7a8591", "untrained": "#9ba5b0"},
    others=("#ffd08a", "#e3d7ff", "#a8f0d8", "#e8548c"),
)


@cache
def font_families() -> list[str]:
    """Return the installed ones of `FONTS`."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FONTS if name in installed]


def line_style(number: int, theme: Theme = LIGHT) -> dict[str, Any]:
    """Colour, dashes and width of the line of the `number`-th series."""
    return {
        "color": theme.series[number % len(theme.series)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "linewidth": 1.8,
    }


@contextmanager
def drawn_in(theme: Theme) -> Iterator[None]:
    """Have matplotlib draw in a theme's fonts and colours inside the block."""
    settings = {
        "font.family": font_families(),
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.line,
        "axes.labelsize": 9.5,
        "axes.axisbelow": True,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.major.size": 0,
        "grid.color": theme.line,
        "grid.linewidth": 0.6,
        "figure.facecolor": theme.ground,
        "axes.facecolor": theme.ground,
    }
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        yield
