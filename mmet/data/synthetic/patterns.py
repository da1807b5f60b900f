"""Patterns of cloth, decided for each pixel in body coordinates: stripes, checks, dots, prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mmet.data.synthetic.identity import Cloth


def pattern_mask(cloth: Cloth, angle: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Where `cloth` shows its second colour.

    Args:
        angle: azimuth on the body in radians, broadcastable with `height`.
        height: height above the ground in body heights.

    Returns:
        A boolean array of the broadcast shape.
    """
    return _PATTERN_RULES[cloth.pattern](angle * 0.1, height, cloth.pattern_size, cloth.pattern_phase)


def _plain(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    return np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=bool)


def _striped(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    return ((v / (0.036 * size) + phase) % 1 < 0.3 + 0.3 * phase) | (u > np.inf)


def _pinstriped(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    return (u / (0.026 * size) % 1 < 0.26) & (v < np.inf)


def _checked(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    period = 0.044 * size
    return (u / period % 1 < 0.3) ^ ((v / period + phase) % 1 < 0.34)


def _dotted(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    period = 0.038 * size
    row = np.floor(v / period + phase)
    du = (u / period + 0.5 * (row % 2)) % 1 - 0.5
    dv = (v / period + phase) % 1 - 0.5
    return du**2 + dv**2 < 0.075


def _two_tone(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    split = 0.64 + 0.1 * phase
    return ((v > split) if phase < 0.5 else (v < split)) & (u < np.inf)


def _banded(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    centre = 0.63 + 0.1 * phase
    return (np.abs(v - centre) < 0.02 * size) & (u < np.inf)


def _logo(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    """A print on the chest, and for half the people on the back too; its shape depends on the phase."""
    around = np.where(np.abs(u) < 0.157, u, (np.abs(u) - 0.314) if phase > 0.5 else np.inf)
    reach, dv = 0.042 * size, v - 0.705
    shapes = (
        around**2 + dv**2 < reach**2,
        np.abs(around) + np.abs(dv) < reach * 1.15,
        (np.abs(around) < reach * 1.2) & (np.abs(dv) < reach) & ((dv / reach * 2.5) % 1 < 0.55),
        (np.abs(around) < reach) & (np.abs(dv) < reach * 0.8),
        (np.abs(dv + np.abs(around) * 0.8 - 0.01) < reach * 0.35) & (np.abs(around) < reach * 1.5),
    )
    return shapes[int(phase * 10) % len(shapes)]


_PATTERN_RULES: Mapping[str, Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]] = {
    "plain": _plain,
    "striped": _striped,
    "pinstriped": _pinstriped,
    "checked": _checked,
    "dotted": _dotted,
    "two-tone": _two_tone,
    "banded": _banded,
    "logo": _logo,
}
