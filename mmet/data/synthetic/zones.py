"""Which pixels of a garment or a head show collars, openings, straps, hair, eyes and glasses, in body coordinates."""

from __future__ import annotations

import numpy as np

from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.identity import Appearance


def garment_zones(look: Appearance, angle: np.ndarray, height: np.ndarray) -> list[tuple[Part, np.ndarray]]:
    """Openings, collars and closures of the upper garment, as (part, mask) in painting order."""
    kind, off = look.upper_kind, np.abs(angle)
    zones: list[tuple[Part, np.ndarray]] = []
    neckline = {"shirt": 0.795, "polo shirt": 0.785, "dress": 0.79, "tunic": 0.78}.get(kind, 0.812)
    if look.opened:
        gap = 0.20 + 0.55 * np.clip((height - 0.62) / 0.2, 0, 1) if kind == "blazer" else 0.34 + 0.1 * (height < 0.6)
        zones.append((Part.INNER, off < gap))
        zones.append((Part.TRIM, (off >= gap) & (off < gap + 0.09)))
        zones.append((Part.SKIN, off * 0.09 < height - 0.795))
        return zones
    if kind in {"jacket", "parka", "vest", "coat", "blazer", "shirt", "polo shirt", "long cardigan"}:
        low = 0.74 if kind == "polo shirt" else 0.0
        zones.append((Part.TRIM, (off < 0.07) & (height > low)))
    if kind in {"blazer", "coat", "long cardigan"}:
        zones.append((Part.INNER, off * 0.1 < (height - 0.73) * 0.55))
    if kind in {"hoodie", "parka"}:
        zones.append((Part.TRIM, (off > 1.7) & (height > 0.785)))
    elif kind in {"shirt", "polo shirt", "blazer", "jacket"}:
        zones.append((Part.TRIM, (height > 0.818) & (off > 0.5)))
    zones.append((Part.SKIN, off * 0.085 < (height - neckline) * 1.1))
    if kind in {"dress", "coat", "parka"}:
        zones.append((Part.TRIM, np.abs(height - 0.595) < 0.012))
    return zones


def strap_zones(look: Appearance, angle: np.ndarray, height: np.ndarray) -> list[np.ndarray]:
    """Straps of a bag across the chest and back."""
    if look.bag_kind == "backpack":
        return [(np.abs(np.abs(angle) - 0.75) < 0.17) & (height > 0.63)]
    if look.bag_kind == "messenger bag":
        along = 0.66 + look.bag_side * np.where(np.abs(angle) < np.pi / 2, -np.sin(angle), -np.sin(angle)) * 0.15
        return [np.abs(height - along) < 0.014]
    return []


def face_zones(look: Appearance, side: np.ndarray, up: np.ndarray, front: np.ndarray) -> list[tuple[Part, np.ndarray]]:
    """Parts of the head by unit direction (to the left, up, to the front), in painting order."""
    body, frontal = look.body, front > 0.15
    eyes = (np.abs(np.abs(side) - 0.38) < 0.14) & (np.abs(up - 0.06) < 0.085) & frontal
    pupils = (np.abs(np.abs(side) - 0.37) < 0.085) & (np.abs(up - 0.06) < 0.085) & frontal
    zones = [
        (Part.EYE_WHITE, eyes),
        (Part.EYE, pupils),
        (
            Part.BROW,
            (np.abs(np.abs(side) - 0.38) < 0.17)
            & (np.abs(up - 0.29 + 1.2 * (np.abs(side) - 0.38) ** 2) < 0.035)
            & frontal,
        ),
        (Part.NOSE, (np.abs(side) < 0.1) & (up < -0.08) & (up > -0.22) & frontal),
        (Part.MOUTH, (np.abs(side) < 0.27) & (np.abs(up + 0.48 - 1.6 * side**2) < 0.05) & frontal),
    ]
    if body.beard == "beard":
        zones.append(
            (Part.BROW, (up < -0.22) & (front > 0.05) & ~((np.abs(side) < 0.22) & (np.abs(up + 0.45) < 0.06)))
        )
    if body.beard == "moustache":
        zones.append((Part.BROW, (np.abs(side) < 0.3) & (np.abs(up + 0.32) < 0.06) & frontal))
    zones.append((Part.HAIR, _hair_zone(body.hair_style, side, up, front)))
    if look.glasses_kind:
        lens = (np.abs(np.abs(side) - 0.4) < 0.25) & (np.abs(up - 0.04) < 0.16) & frontal
        rim = (np.abs(np.abs(side) - 0.4) < 0.32) & (np.abs(up - 0.04) < 0.22) & frontal & ~lens
        temple = (np.abs(up - 0.12) < 0.05) & (front <= 0.35) & (front > -0.25)
        zones.append((Part.RIM, rim | temple))
        zones.append((Part.LENS, lens if look.glasses_kind == "sunglasses" else lens & ~pupils))
    return zones


def _hair_zone(style: str, side: np.ndarray, up: np.ndarray, front: np.ndarray) -> np.ndarray:
    behind: np.ndarray = (front < -0.12) & (up > -0.8)
    hair: np.ndarray
    if style == "receding":
        hair = (front + 0.7 * up < 0.2) & (up < 0.5) & (up > -0.65 - 0.5 * front) & (front < 0.25)
    elif style == "fringe":
        hair = behind | (up > 0.3) | (np.abs(side) > 0.86) & (front < 0.5)
    elif style in {"parted", "wavy", "straight"}:
        parting = up > 0.5 + 0.22 * np.cos(3 * (side - 0.25))
        hair = behind | parting | (np.abs(side) > 0.8) & (front < 0.45) & (up > -0.5)
    elif style == "bob":
        hair = behind | (up > 0.42 + 0.12 * side) | (np.abs(side) > 0.78) & (front < 0.5)
    else:
        hair = behind | (up > 0.5 - 0.1 * side**2) | (np.abs(side) > 0.82) & (front < 0.3) & (up > -0.1)
    return hair
