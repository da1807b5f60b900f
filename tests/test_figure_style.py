"""Colours of figures: told apart by colour-blind readers, and by their lightness or marks in grey print."""

from __future__ import annotations

import itertools
import string

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mmet.figure_style import DARK, LIGHT, drawn_in, font_families, line_style

BLINDNESS = {
    # Linear RGB as it is seen without one kind of cones (Machado, Oliveira and Fernandes, 2009, severity 1).
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(color):
    values = np.array(to_rgb(color))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(color, blindness):
    """CIELAB of a colour as it is seen."""
    seen = XYZ @ np.clip(np.asarray(BLINDNESS[blindness]) @ linear(color), 0, 1) / WHITE
    x, y, z = np.where(seen > 0.008856, np.cbrt(seen), 7.787 * seen + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colors, blindness):
    return min(
        np.linalg.norm(lab(one, blindness) - lab(other, blindness)) for one, other in itertools.combinations(colors, 2)
    )


def contrast(color, ground):
    """As the Web Content Accessibility Guidelines have it."""
    low, high = sorted(float(XYZ[1] @ linear(name)) for name in (color, ground))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours__are_told_apart(theme, blindness):
    assert nearest([theme.match, theme.mismatch], blindness) > 35
    assert nearest(theme.series, blindness) > 18


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours__stand_out_from_the_ground(theme):
    for color in (theme.ink, theme.muted, theme.match, theme.mismatch, theme.accent):
        assert contrast(color, theme.ground) >= 4.5  # they are colours of text too
    for color in theme.series:
        assert contrast(color, theme.ground) >= 3


def test_line_style__neighbours_differ_in_grey_print_and_no_two_of_twenty_are_the_same():
    styles = [(style["color"], style["linestyle"]) for style in map(line_style, range(20))]
    assert len(set(styles)) == 20
    assert all(one[1] != other[1] for one, other in itertools.pairwise(styles))


def test_drawn_in__is_over_after_the_block():
    before = dict(matplotlib.rcParams)
    with drawn_in(DARK):
        ax = Figure().subplots()
        assert ax.set_title(string.ascii_letters).get_fontfamily() == font_families()
        assert ax.xaxis.label.get_color() == DARK.ink
    assert dict(matplotlib.rcParams) == before
