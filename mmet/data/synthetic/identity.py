"""The identity of a synthetic person: FineGPR's thirteen attributes, and details that no attribute names.

`Attributes` holds the axes published with FineGPR (https://github.com/JeremyXSC/FineGPR). `Appearance` holds the rest:
the exact shade behind a colour name, patterns, garment cuts, build, hair style, the kind of bag or hat. Two people
with equal attributes therefore still look different, which is what re-identification is about.

    identity = draw_identity(np.random.default_rng(0))
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

RGB = tuple[int, int, int]

COLOR_NAMES = ("black", "white", "red", "purple", "gray", "yellow", "blue", "green", "brown")

ATTRIBUTE_VALUES: Mapping[str, tuple[str, ...]] = {
    "gender": ("male", "female"),
    "hair": ("long", "short"),
    "age": ("teenager", "adult", "older"),
    "glasses": ("yes", "no"),
    "short_sleeve": ("yes", "no"),
    "dress": ("yes", "no"),
    "boots": ("yes", "no"),
    "hat": ("yes", "no"),
    "bag": ("yes", "no"),
    "top_length": ("long", "short"),
    "shoes": ("dark", "light"),
    "upper_color": COLOR_NAMES,
    "lower_color": COLOR_NAMES,
}
"""Allowed values of each attribute, in the order of the columns of `attributes.csv`."""

_HSV_RANGES: Mapping[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "black": ((200, 260), (0.00, 0.25), (0.09, 0.19)),
    "white": ((30, 230), (0.00, 0.06), (0.88, 0.97)),
    "gray": ((200, 240), (0.00, 0.08), (0.40, 0.66)),
    "red": ((-12, 6), (0.68, 0.90), (0.52, 0.85)),
    "purple": ((265, 296), (0.36, 0.62), (0.40, 0.72)),
    "yellow": ((43, 54), (0.58, 0.86), (0.80, 0.95)),
    "blue": ((204, 232), (0.45, 0.85), (0.32, 0.84)),
    "green": ((92, 162), (0.32, 0.72), (0.30, 0.66)),
    "brown": ((18, 32), (0.42, 0.66), (0.30, 0.52)),
    "orange": ((18, 28), (0.72, 0.90), (0.84, 0.96)),
    "pink": ((332, 350), (0.25, 0.50), (0.84, 0.96)),
    "beige": ((32, 42), (0.18, 0.32), (0.76, 0.90)),
}
"""Hue in degrees, saturation and value of every colour name; the last three only serve as second colours."""

SECOND_COLORS = tuple(_HSV_RANGES)

PATTERNS = ("plain", "striped", "checked", "logo", "two-tone", "dotted", "banded", "pinstriped")

UPPER_KINDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("yes", "short"): ("t-shirt", "polo shirt", "shirt"),
    ("yes", "long"): ("tunic", "long t-shirt"),
    ("no", "short"): ("sweater", "hoodie", "jacket", "shirt", "blazer", "vest"),
    ("no", "long"): ("coat", "long cardigan", "parka"),
}
"""Upper garments by (short_sleeve, top_length)."""

OPEN_KINDS = frozenset({"jacket", "blazer", "coat", "long cardigan", "parka", "vest", "hoodie"})
"""Garments that can be worn open over something else."""

BAG_KINDS = ("backpack", "shoulder bag", "handbag", "tote bag", "messenger bag")
HAT_KINDS = ("baseball cap", "beanie", "sun hat", "bucket hat")

_SKIN_TONES: tuple[RGB, ...] = (
    (246, 214, 190),
    (236, 196, 166),
    (222, 176, 142),
    (198, 148, 112),
    (160, 112, 80),
    (120, 82, 58),
    (88, 60, 44),
)
_HAIR_COLORS: tuple[RGB, ...] = (
    (28, 24, 24),
    (44, 32, 26),
    (74, 48, 32),
    (110, 70, 38),
    (164, 118, 66),
    (206, 168, 104),
    (128, 56, 32),
)


@dataclass(frozen=True, slots=True)
class Attributes:
    """FineGPR's thirteen attributes; a field outside `ATTRIBUTE_VALUES[name]` raises `ValueError`."""

    gender: str
    hair: str
    age: str
    glasses: str
    short_sleeve: str
    dress: str
    boots: str
    hat: str
    bag: str
    top_length: str
    shoes: str
    upper_color: str
    lower_color: str

    def __post_init__(self) -> None:
        for name, allowed in ATTRIBUTE_VALUES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"attribute {name}: expected one of {allowed}, received {getattr(self, name)!r}")

    def as_row(self) -> dict[str, str]:
        """Attribute name -> value, in column order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Cloth:
    """A colour with an optional second one: `color_name` is what a sentence calls `rgb`."""

    color_name: str
    rgb: RGB
    second_name: str
    second_rgb: RGB
    pattern: str = "plain"
    pattern_size: float = 1.0
    pattern_phase: float = 0.0


@dataclass(frozen=True, slots=True)
class Physique:
    """Build, as factors on an average figure (1.0), and the colours of skin and hair."""

    shoulders: float
    hips: float
    girth: float
    head: float
    legs: float
    stoop: float
    gait: float
    skin: RGB
    hair: RGB
    hair_style: str
    beard: str


@dataclass(frozen=True, slots=True)
class Appearance:
    """Details that the attributes leave open. The `*_kind` fields are the words of captions; "" means not worn."""

    body: Physique
    upper_kind: str
    upper: Cloth
    sleeve: str
    opened: bool
    inner: Cloth
    lower_kind: str
    lower: Cloth
    leg_width: float
    hem: float
    legwear: RGB
    shoe_kind: str
    shoe: RGB
    sole: RGB
    bag_kind: str
    bag: Cloth
    bag_side: int
    hat_kind: str
    hat: Cloth
    glasses_kind: str
    scarf: Cloth | None


@dataclass(frozen=True, slots=True)
class Identity:
    """One person: coded attributes and free appearance. `number` is the person id in the data set it is written to."""

    number: int
    attributes: Attributes
    appearance: Appearance


def draw_rgb(rng: np.random.Generator, name: str) -> RGB:
    """A random shade that people would call `name`, as 8-bit sRGB."""
    hue, saturation, value = (rng.uniform(low, high) for low, high in _HSV_RANGES[name])
    red, green, blue = colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_attributes(rng: np.random.Generator) -> Attributes:
    """Draw attributes about as frequent as in a street: few hats, dresses on women only, more black than purple."""
    gender = _choose(rng, ("male", "female"))
    female = gender == "female"
    dress = _yes(rng, 0.2 * female)
    upper_color = _choose(rng, COLOR_NAMES, (3, 3, 2, 1.3, 2, 1.5, 2.5, 1.7, 1.5))
    lower_color = _choose(rng, COLOR_NAMES, (4, 1.3, 0.7, 0.6, 2.2, 0.5, 3.5, 1, 1.8))
    return Attributes(
        gender=gender,
        hair=_choose(rng, ("long", "short"), (0.75, 0.25) if female else (0.1, 0.9)),
        age=_choose(rng, ATTRIBUTE_VALUES["age"], (0.25, 0.55, 0.2)),
        glasses=_yes(rng, 0.25),
        short_sleeve=_yes(rng, 0.45),
        dress=dress,
        boots=_yes(rng, 0.3 if female else 0.15),
        hat=_yes(rng, 0.25),
        bag=_yes(rng, 0.55),
        top_length=_choose(rng, ("long", "short"), (0.25, 0.75)),
        shoes=_choose(rng, ("dark", "light")),
        upper_color=upper_color,
        lower_color=upper_color if dress == "yes" else lower_color,
    )


def draw_identity(rng: np.random.Generator, *, number: int = 1, attributes: Attributes | None = None) -> Identity:
    """Draw a random person, with the given `attributes` if any; equal generator states give the same person."""
    attributes = attributes or draw_attributes(rng)
    return Identity(number, attributes, _draw_appearance(rng, attributes))


def draw_lookalike(rng: np.random.Generator, person: Identity, model: Identity) -> Identity:
    """Return `person` dressed as `model`; build, hair style and two attributes still differ.

    Gender, age, garments with their exact shades and patterns, and the colours of skin and hair are the model's; two
    of `_TELLING` are the opposite of the model's, so that a careful description or look still tells them apart.
    """
    changed = rng.choice(len(_TELLING), 2, replace=False)
    opposite = {
        name: next(value for value in ATTRIBUTE_VALUES[name] if value != getattr(model.attributes, name))
        for name in (_TELLING[int(index)] for index in changed)
    }
    attributes = replace(model.attributes, **opposite)
    drawn, look = _draw_appearance(rng, attributes), model.appearance
    garments = {name: getattr(look, name) for name in _GARMENTS}
    body = replace(drawn.body, skin=look.body.skin, hair=look.body.hair)
    return Identity(person.number, attributes, replace(drawn, body=body, **garments))


_TELLING = ("glasses", "hat", "bag", "shoes")
_GARMENTS = (
    "upper_kind", "upper", "sleeve", "opened", "inner", "lower_kind", "lower", "leg_width", "hem", "legwear", "scarf",
)  # fmt: skip


def _draw_appearance(rng: np.random.Generator, attributes: Attributes) -> Appearance:
    upper_kind, opened = _draw_upper_kind(rng, attributes)
    upper = _draw_cloth(rng, attributes.upper_color, _draw_pattern(rng, upper_kind))
    dressed = attributes.dress == "yes"
    lower_kind = "dress" if dressed else _draw_lower_kind(rng, attributes)
    lower = upper if dressed else _draw_cloth(rng, attributes.lower_color, _draw_lower_pattern(rng, lower_kind))
    bare_legs = rng.random() < 0.6
    skin = _SKIN_TONES[rng.choice(len(_SKIN_TONES), p=(0.2, 0.25, 0.2, 0.13, 0.1, 0.07, 0.05))]
    body = _draw_body(rng, attributes, skin)
    return Appearance(
        body=body,
        upper_kind=upper_kind,
        upper=upper,
        sleeve="short" if attributes.short_sleeve == "yes" else "long",
        opened=opened,
        inner=_draw_cloth(rng, _choose(rng, _others(SECOND_COLORS, upper.color_name)), "plain"),
        lower_kind=lower_kind,
        lower=lower,
        leg_width=rng.uniform(0.85, 1.35),
        hem={"skirt": rng.uniform(0.29, 0.37), "long skirt": rng.uniform(0.1, 0.18)}.get(
            lower_kind, rng.uniform(0.22, 0.34)
        ),
        legwear=skin if bare_legs else draw_rgb(rng, _choose(rng, ("black", "gray", "brown", "white"))),
        shoe_kind="boots" if attributes.boots == "yes" else _choose(rng, ("sneakers", "shoes")),
        shoe=draw_rgb(
            rng, _choose(rng, ("black", "brown", "blue") if attributes.shoes == "dark" else ("white", "beige", "pink"))
        ),
        sole=draw_rgb(rng, _choose(rng, ("white", "black", "brown", "gray"))),
        bag_kind=_choose(rng, BAG_KINDS) if attributes.bag == "yes" else "",
        bag=_draw_cloth(rng, _choose(rng, SECOND_COLORS), "plain"),
        bag_side=int(rng.choice((-1, 1))),
        hat_kind=_choose(rng, HAT_KINDS) if attributes.hat == "yes" else "",
        hat=_draw_cloth(rng, _choose(rng, SECOND_COLORS), "plain"),
        glasses_kind=_choose(rng, ("glasses", "sunglasses"), (0.65, 0.35)) if attributes.glasses == "yes" else "",
        scarf=_draw_cloth(rng, _choose(rng, _others(SECOND_COLORS, upper.color_name)), "striped")
        if attributes.short_sleeve == "no" and rng.random() < 0.2
        else None,
    )


def _draw_body(rng: np.random.Generator, attributes: Attributes, skin: RGB) -> Physique:
    female, age = attributes.gender == "female", attributes.age
    seen = [color for color in _HAIR_COLORS if abs(sum(color) - sum(skin)) > 110]
    hair = seen[int(rng.integers(len(seen)))]
    if age == "older":
        shade = int(rng.integers(150, 215)) - 40 * (sum(skin) > 500)
        hair = (shade, shade, min(shade + 6, 255))
    girth = rng.uniform(0.86, 1.28) * {"teenager": 0.9, "adult": 1.0, "older": 1.1}[age]
    styles = {
        ("long", True): ("straight", "ponytail", "bun", "wavy", "fringe"),
        ("long", False): ("straight", "ponytail", "bun"),
        ("short", True): ("bob", "cropped", "curly"),
        ("short", False): ("cropped", "parted", "curly", "receding"),
    }[attributes.hair, female]
    beards = ("none",) if female or age == "teenager" else ("none", "none", "beard", "moustache")
    return Physique(
        shoulders=rng.uniform(0.86, 0.97) if female else rng.uniform(1.0, 1.16),
        hips=rng.uniform(1.0, 1.16) if female else rng.uniform(0.9, 1.02),
        girth=girth,
        head=rng.uniform(1.0, 1.1) * (1.08 if age == "teenager" else 1.0),
        legs=rng.uniform(0.95, 1.06),
        stoop=rng.uniform(0.02, 0.07) if age == "older" else rng.uniform(-0.01, 0.02),
        gait=rng.uniform(0.6, 1.15) * (0.75 if age == "older" else 1.0),
        skin=skin,
        hair=hair,
        hair_style=_choose(rng, styles),
        beard=_choose(rng, beards),
    )


def _draw_upper_kind(rng: np.random.Generator, attributes: Attributes) -> tuple[str, bool]:
    if attributes.dress == "yes":
        return "dress", False
    kind = _choose(rng, UPPER_KINDS[attributes.short_sleeve, attributes.top_length])
    return kind, kind in OPEN_KINDS and bool(rng.random() < 0.6)


def _draw_lower_kind(rng: np.random.Generator, attributes: Attributes) -> str:
    kinds = ["trousers"]
    if attributes.lower_color in {"blue", "black", "gray"}:
        kinds += ["jeans", "jeans"]
    if attributes.boots == "no":
        kinds += ["shorts"]
    if attributes.gender == "female":
        kinds += ["skirt", "long skirt"]
    return _choose(rng, kinds)


def _draw_pattern(rng: np.random.Generator, kind: str) -> str:
    choices = {
        "blazer": ("plain", "pinstriped", "checked"),
        "coat": ("plain", "checked", "two-tone"),
        "shirt": ("plain", "striped", "checked", "pinstriped", "dotted"),
        "dress": ("plain", "striped", "dotted", "checked", "banded"),
    }.get(kind, ("plain", "striped", "logo", "two-tone", "banded", "checked", "dotted"))
    return _choose(rng, choices)


def _draw_lower_pattern(rng: np.random.Generator, kind: str) -> str:
    if kind in {"skirt", "long skirt"}:
        return _choose(rng, ("plain", "plain", "checked", "dotted", "striped"))
    return _choose(rng, ("plain", "plain", "side-striped")) if kind in {"trousers", "shorts"} else "plain"


def _draw_cloth(rng: np.random.Generator, name: str, pattern: str) -> Cloth:
    second = _choose(rng, _contrasting(name))
    return Cloth(
        name,
        draw_rgb(rng, name),
        second,
        draw_rgb(rng, second),
        pattern,
        rng.uniform(0.75, 1.5),
        rng.uniform(0.0, 1.0),
    )


def _contrasting(name: str) -> Sequence[str]:
    """Second colours that are visible on the colour `name`; a pattern in a similar colour could not be seen."""
    alike = (
        {"black", "brown", "purple"},
        {"white", "beige", "yellow"},
        {"red", "brown", "orange", "pink"},
        {"gray", "beige"},
    )
    banned = set().union({name}, *(group for group in alike if name in group))
    return [other for other in SECOND_COLORS if other not in banned]


def _others(names: Sequence[str], name: str) -> Sequence[str]:
    return [other for other in names if other != name]


def _choose(rng: np.random.Generator, options: Sequence[str], weights: Sequence[float] | None = None) -> str:
    if weights is None:
        return options[int(rng.integers(len(options)))]
    share = np.asarray(weights, dtype=float)
    return options[int(rng.choice(len(options), p=share / share.sum()))]


def _yes(rng: np.random.Generator, probability: float) -> str:
    return "yes" if rng.random() < probability else "no"
