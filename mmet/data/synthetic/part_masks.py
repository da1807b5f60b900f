"""Part masks: which pixels of a picture show hair, jacket, trousers, shoes, bag, by the numbers of `PART_CLASSES`.

A part mask is a mode L image of the size of the picture; 0 is everything but the person, including things in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from mmet.data.synthetic.canvas import Part

PART_CLASSES: Mapping[str, int] = {
    "background": 0,
    "skin": 1,
    "face": 2,
    "hair": 3,
    "hat": 4,
    "upper": 5,
    "inner": 6,
    "lower": 7,
    "shoes": 8,
    "bag": 9,
    "scarf": 10,
    "glasses": 11,
    "thing": 12,
}
"""Number of each class. `upper` is the outermost garment of the upper body, or a dress; `inner` is what an open one
shows; `lower` is trousers, shorts or a skirt; `thing` is an umbrella, papers, a cup or a phone."""

_CLASS_OF: Mapping[Part, str] = {
    Part.SKIN: "skin",
    Part.FACE: "face",
    Part.NOSE: "face",
    Part.MOUTH: "face",
    Part.EYE: "face",
    Part.EYE_WHITE: "face",
    Part.BROW: "face",
    Part.HAIR: "hair",
    Part.HAT: "hat",
    Part.HAT2: "hat",
    Part.UPPER: "upper",
    Part.UPPER2: "upper",
    Part.SLEEVE: "upper",
    Part.SLEEVE2: "upper",
    Part.TRIM: "upper",
    Part.INNER: "inner",
    Part.LOWER: "lower",
    Part.LOWER2: "lower",
    Part.TROUSER_LEG: "lower",
    Part.LEGWEAR: "skin",
    Part.SHOE: "shoes",
    Part.SOLE: "shoes",
    Part.BAG: "bag",
    Part.BAG2: "bag",
    Part.SCARF: "scarf",
    Part.RIM: "glasses",
    Part.LENS: "glasses",
    Part.THING: "thing",
}


@cache
def part_classes() -> np.ndarray:
    """uint8 (max(Part) + 1,): the class of each `Part`; number 0 stays 0."""
    classes = np.zeros(max(Part) + 1, dtype=np.uint8)
    for part in Part:
        classes[part] = PART_CLASSES[_CLASS_OF[part]]
    classes.flags.writeable = False
    return classes
