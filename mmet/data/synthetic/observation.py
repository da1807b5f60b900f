"""What the author of a caption sees, and the grammar that all wordings share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.identity import RGB, Identity
from mmet.data.synthetic.lifelike.people import Person
from mmet.data.synthetic.style import Shot

_VISIBLE_SHARE = 0.004
_MAX_WORDS = 34

NEAR_COLORS: Mapping[str, tuple[str, ...]] = {
    "black": ("dark blue", "dark gray"),
    "white": ("light gray", "beige"),
    "gray": ("white", "blue", "black"),
    "red": ("orange", "brown", "pink"),
    "purple": ("blue", "pink"),
    "yellow": ("orange", "beige"),
    "blue": ("gray", "purple", "black"),
    "green": ("gray", "blue"),
    "brown": ("black", "red", "beige"),
    "orange": ("yellow", "red"),
    "pink": ("red", "white"),
    "beige": ("white", "brown", "yellow"),
}
"""Colours that each colour may be mistaken for."""


Who = TypeVar("Who", Identity, Person)


@dataclass(frozen=True, slots=True)
class Observation(Generic[Who]):
    """What the author of a caption sees: the person, the conditions, and how much of each part is visible."""

    identity: Who
    shot: Shot
    pixels: Mapping[Part, int]

    def sees(self, part: Part) -> bool:
        """Whether `part` takes a noticeable share of the person."""
        return self.pixels.get(part, 0) > _VISIBLE_SHARE * sum(self.pixels.values())


def shade_name(name: str, rgb: RGB) -> str:
    """A colour name, with `dark` or `light` if the colour is clearly dark or light."""
    brightness = max(rgb) / 255
    if name in {"blue", "green", "red", "purple", "gray", "brown"}:
        low, high = (0.42, 0.45) if name == "brown" else (0.46, 0.7)
        if brightness < low - 0.04 * (name == "brown"):
            return f"dark {name}"
        if brightness > high and name not in {"red", "brown"}:
            return f"light {name}" if name != "gray" else name
    return name


def side(view: float) -> str:
    """The side that a view angle shows."""
    return ("front", "right", "back", "left")[round(view / 90) % 4]


def keep(rng: np.random.Generator, clauses: Sequence[str], probability: float, least: int = 0) -> list[str]:
    """Choose clauses with a probability each, at least `least` of them, in random order."""
    order = rng.permutation(len(clauses))
    kept = [i for i in order if rng.random() < probability]
    kept += [i for i in order if i not in kept][: max(0, least - len(kept))]
    return [clauses[i] for i in kept]


def join(parts: Sequence[str]) -> str:
    """Join parts to an enumeration with commas and "and"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def article(phrase: str) -> str:
    """`phrase` after "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def capital(text: str) -> str:
    """`text` with a capital first letter."""
    return text[0].upper() + text[1:]


def shorten(text: str) -> str:
    """Add a full stop; cut a text that exceeds the usual length of a caption at a comma or full stop."""
    words = text.split()
    if len(words) > _MAX_WORDS:
        text = " ".join(words[:_MAX_WORDS])
        text = text[: max(text.rfind(","), text.rfind(". "), len(text) // 2)]
        text = re.sub(r"(?:[,.]| and| with| over| a| an| has| wears| this person also)+$", "", text)
    return text + "."
