"""The identity of a lifelike person: build, hair, and everything worn and carried, each with its own colours.

person = draw_person(np.random.default_rng(0), number=1)
twin = draw_twin(rng, person, number=2)        # differs in one thing only
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmet.data.synthetic.identity import RGB, Attributes
from mmet.data.synthetic.lifelike import shades
from mmet.data.synthetic.lifelike.shades import SHADES, Weights, between, draw_cloth_name, draw_name, draw_rgb
from mmet.data.synthetic.lifelike.wardrobe import DRESSES, LOWER, OUTER, TOPS, Cut

CUTS: Mapping[str, Cut] = {**TOPS, **OUTER, **LOWER, **DRESSES}


@dataclass(frozen=True, slots=True)
class Garment:
    """One garment as worn: `kind` is a key of `CUTS`, `shade` and `second` are keys of `SHADES`."""

    kind: str
    shade: str
    rgb: RGB
    second: str
    second_rgb: RGB
    pattern: str
    size: float
    phase: float
    hem: float
    bulk: float
    opened: bool
    hood: bool

    @property
    def cut(self) -> Cut:
        return CUTS[self.kind]

    @property
    def warm_pockets(self) -> bool:
        """Whether it has pockets that show."""
        return self.cut.warm and self.phase > 0.4


@dataclass(frozen=True, slots=True)
class Thing:
    """A bag, hat, scarf or pair of shoes: kind, colour and a second colour."""

    kind: str
    shade: str
    rgb: RGB
    second: str
    second_rgb: RGB
    size: float = 1.0


@dataclass(frozen=True, slots=True)
class Build:
    """Body proportions, as factors on an average figure (1.0)."""

    shoulders: float
    hips: float
    girth: float
    belly: float
    legs: float
    head: float
    stoop: float
    gait: float


@dataclass(frozen=True, slots=True)
class Look:
    """The visible features of a person. None means not worn; `hair` and the kinds are keys of the wardrobe's words."""

    gender: str
    age: str
    build: Build
    skin: RGB
    hair: str
    hair_color: str
    hair_rgb: RGB
    beard: bool
    glasses: str
    top: Garment
    outer: Garment | None
    lower: Garment | None
    legwear: RGB
    shoes: Thing
    sole: RGB
    hat: Thing | None
    hood_up: bool
    scarf: Thing | None
    bag: Thing | None
    carried: Thing | None
    side: int

    @property
    def outermost(self) -> Garment:
        """The garment that the upper body shows."""
        return self.outer or self.top

    @property
    def dress(self) -> bool:
        return self.lower is None


@dataclass(frozen=True, slots=True)
class Person:
    """One person; `number` is the person id in the data set it is written to."""

    number: int
    appearance: Look

    @property
    def attributes(self) -> Attributes:
        """The person in FineGPR's thirteen attributes; its colours are the nearest of FineGPR's nine."""
        look, yes = self.appearance, {True: "yes", False: "no"}
        upper = SHADES[look.outermost.shade].basic
        return Attributes(
            gender=look.gender,
            hair="long" if look.hair in LONG_HAIR else "short",
            age=look.age,
            glasses=yes[bool(look.glasses)],
            short_sleeve=yes[look.outermost.cut.sleeve != "long"],
            dress=yes[look.dress],
            boots=yes[look.shoes.kind in {"boots", "ankle boots"}],
            hat=yes[look.hat is not None],
            bag=yes[look.bag is not None],
            top_length="long" if look.outermost.hem < 0.42 else "short",
            shoes="dark" if sum(look.shoes.rgb) < 330 else "light",
            upper_color=upper,
            lower_color=upper if look.lower is None else SHADES[look.lower.shade].basic,
        )


LONG_HAIR = frozenset({"long", "long curly", "ponytail", "bun", "bob"})

_SEASONS = {"warm": 0.3, "mild": 0.35, "cold": 0.35}
_TOPS: Mapping[str, Weights] = {
    "warm": {"t-shirt": 9, "short-sleeved shirt": 2, "polo shirt": 2, "tank top": 1.5, "shirt": 2.5, "blouse": 1.5},
    "mild": {
        "long-sleeved top": 3, "shirt": 4, "jumper": 4, "sweatshirt": 3, "hoodie": 5, "t-shirt": 4, "turtleneck": 1.5,
        "polo shirt": 1, "blouse": 1.5, "tunic": 1,
    },
    "cold": {"jumper": 5, "shirt": 4, "turtleneck": 3, "sweatshirt": 2, "hoodie": 3, "long-sleeved top": 4},
}  # fmt: skip
_OUTER: Mapping[str, Weights] = {
    "mild": {
        "jacket": 6, "leather jacket": 3, "denim jacket": 3, "windbreaker": 2, "track jacket": 2, "fleece": 2,
        "blazer": 3, "cardigan": 3, "raincoat": 1.5, "vest": 1.5,
    },
    "cold": {
        "jacket": 6, "padded jacket": 7, "coat": 5, "long coat": 3, "hooded coat": 3, "parka": 4,
        "leather jacket": 2.5, "windbreaker": 1, "fleece": 1, "raincoat": 1, "vest": 1,
    },
}  # fmt: skip
_LOWER: Mapping[str, Weights] = {
    "male": {"jeans": 9, "trousers": 6, "chinos": 3, "joggers": 3, "cargo trousers": 2},
    "female": {
        "jeans": 8, "trousers": 4, "leggings": 5, "joggers": 2, "chinos": 1, "skirt": 2, "short skirt": 2,
        "long skirt": 1.5, "cargo trousers": 0.7,
    },
}  # fmt: skip
_HAIR: Mapping[str, Weights] = {
    "male": {"short": 7, "cropped": 5, "receding": 2.5, "bald": 2, "curly": 2, "afro": 0.7, "long": 0.7, "bun": 0.4,
             "ponytail": 0.4, "bob": 0.4},
    "female": {"long": 6, "long curly": 3.5, "ponytail": 3.5, "bun": 2, "bob": 3, "short": 1.5, "curly": 2,
               "afro": 0.7},
}  # fmt: skip
_HAIR_COLORS: Weights = {
    "black": 5, "dark brown": 6, "brown": 4, "light brown": 2.5, "blonde": 3.5, "ginger": 1, "gray": 0.6,
}  # fmt: skip
_OLD_HAIR: Weights = {"gray": 6, "white": 3, "dark brown": 1, "blonde": 0.5}
_DARK_HAIR: Weights = {"black": 9, "dark brown": 2}
_BAGS: Mapping[str, Weights] = {
    "male": {"backpack": 7, "crossbody bag": 3, "shoulder bag": 2, "carrier bag": 2, "briefcase": 1.5, "suitcase": 1.5,
             "tote bag": 0.7},
    "female": {"backpack": 4, "crossbody bag": 3, "shoulder bag": 5, "handbag": 4, "tote bag": 3, "carrier bag": 2,
               "suitcase": 1.5},
}  # fmt: skip
_SHOES: Mapping[str, Weights] = {
    "male": {"trainers": 8, "shoes": 6, "ankle boots": 3, "boots": 0.4},
    "female": {"trainers": 7, "shoes": 3, "ankle boots": 4, "boots": 2.5, "heels": 2},
}
_CARRIED = {"papers": 2, "cup": 1.5, "phone": 2, "umbrella": 1}


def draw_person(rng: np.random.Generator, *, number: int = 1, skirts: float = 1.0) -> Person:
    """A random person, the same for the same generator state; `skirts` is a factor on how often women wear them."""
    gender = "male" if rng.random() < 0.5 else "female"
    age = draw_name(rng, {"teenager": 0.18, "adult": 0.6, "older": 0.22})
    season = draw_name(rng, _SEASONS)
    top, outer, lower = _draw_clothes(rng, gender, season, skirts)
    skin = _draw_skin(rng)
    hair, hair_color = _draw_hair(rng, gender, age, skin)
    cold = season == "cold"
    hood = (outer or top).hood
    hood_up = hood and rng.random() < 0.2
    look = Look(
        gender=gender,
        age=age,
        build=_draw_build(rng, gender, age),
        skin=skin,
        hair=hair,
        hair_color=hair_color,
        hair_rgb=between(rng, *shades.HAIR[hair_color][0]),
        beard=gender == "male" and age != "teenager" and rng.random() < 0.3,
        glasses=draw_name(rng, {"": 0.72, "glasses": 0.17, "sunglasses": 0.11}),
        top=top,
        outer=outer,
        lower=lower,
        legwear=skin if season == "warm" or rng.random() < 0.3 else draw_rgb(rng, draw_name(rng, _TIGHTS)),
        shoes=_draw_shoes(rng, gender, season),
        sole=draw_rgb(rng, draw_name(rng, {"white": 4, "black": 4, "brown": 1, "beige": 1})),
        hat=None if hood_up else _draw_hat(rng, gender, season),
        hood_up=hood_up,
        scarf=draw_thing(rng, "scarf", None) if rng.random() < (0.28 if cold else 0.06) else None,
        bag=draw_bag(rng, gender) if rng.random() < 0.55 else None,
        carried=draw_thing(rng, draw_name(rng, _CARRIED), None) if rng.random() < 0.16 else None,
        side=1 if rng.random() < 0.5 else -1,
    )
    return Person(number, look)


_TIGHTS: Weights = {"black": 6, "charcoal": 1, "beige": 2, "white": 0.5, "navy": 0.7, "burgundy": 0.5}

Change = Callable[[np.random.Generator, Look], dict[str, object]]


def _other_cloth(rng: np.random.Generator, garment: Garment) -> Garment:
    """The same garment in another shade."""
    weights = garment.cut.colors or dict.fromkeys(SHADES, 1.0)
    shade = draw_name(rng, {name: share for name, share in weights.items() if name not in _alike(garment.shade)})
    return replace(garment, shade=shade, rgb=draw_rgb(rng, shade))


def _other_kind(rng: np.random.Generator, garment: Garment, kinds: Mapping[str, Cut]) -> Garment:
    """Another garment in the same colour."""
    kind = draw_name(rng, {name: 1.0 for name in kinds if name != garment.kind})
    drawn = draw_garment(rng, kind)
    kept = {name: getattr(garment, name) for name in ("shade", "rgb", "second", "second_rgb")}
    return replace(drawn, **kept)


def _upper_field(look: Look) -> str:
    return "outer" if look.outer else "top"


_CHANGES: Mapping[str, Change] = {
    "upper color": lambda rng, look: {_upper_field(look): _other_cloth(rng, look.outermost)},
    "upper kind": lambda rng, look: {
        _upper_field(look): _other_kind(rng, look.outermost, OUTER if look.outer else DRESSES if look.dress else TOPS)
    },
    "lower color": lambda rng, look: {"lower": look.lower and _other_cloth(rng, look.lower)},
    "lower kind": lambda rng, look: {"lower": look.lower and _other_kind(rng, look.lower, LOWER)},
    "shoes": lambda rng, look: {"shoes": _draw_shoes(rng, look.gender, "mild")},
    "bag": lambda rng, look: {"bag": None if look.bag else draw_bag(rng, look.gender)},
    "bag color": lambda rng, look: {"bag": look.bag and draw_thing(rng, look.bag.kind, shades.BAGS)},
    "hat": lambda rng, look: {"hat": None if look.hat else _any_hat(rng, look.gender), "hood_up": False},
    "hair": lambda rng, look: dict(
        zip(("hair", "hair_color"), _draw_hair(rng, look.gender, look.age, look.skin), strict=True)
    ),
    "scarf": lambda rng, look: {"scarf": None if look.scarf else draw_thing(rng, "scarf", None)},
}
"""Differences between twins, by name: each draws some fields of the look again."""


def draw_twin(rng: np.random.Generator, model: Person, *, number: int) -> Person:
    """Draw a person who looks like `model` except for one thing: colour, garment, shoes, bag, hat, hair or scarf."""
    names = tuple(_CHANGES)
    for _ in range(20):  # a change may leave things as they are, for example the colour of a bag not carried
        changed = _CHANGES[names[int(rng.integers(len(names)))]](rng, model.appearance)
        if "hair_color" in changed:
            changed["hair_rgb"] = between(rng, *shades.HAIR[str(changed["hair_color"])][0])
        look = replace(model.appearance, **changed)  # type: ignore[arg-type]  # each change gives values of its fields' types
        if look != model.appearance:
            return Person(number, look)
    return Person(number, replace(model.appearance, scarf=draw_thing(rng, "scarf", None)))


def draw_swapped(rng: np.random.Generator, model: Person, *, number: int) -> Person:
    """Draw a person in the model's clothes with both colours exchanged: blue jacket, red trousers for red and blue.

    Those in a dress, or in two garments of one colour, get an ordinary twin.
    """
    look = model.appearance
    if look.lower is None or look.lower.shade == look.outermost.shade:
        return draw_twin(rng, model, number=number)
    upper = replace(look.outermost, shade=look.lower.shade, rgb=look.lower.rgb)
    lower = replace(look.lower, shade=look.outermost.shade, rgb=look.outermost.rgb)
    changed: dict[str, Any] = {_upper_field(look): upper, "lower": lower}
    return Person(number, replace(look, **changed))


def draw_garment(rng: np.random.Generator, kind: str) -> Garment:
    """A garment of `kind` in a random colour and pattern."""
    cut = CUTS[kind]
    shade = draw_name(rng, cut.colors) if cut.colors else draw_cloth_name(rng)
    second = draw_name(rng, {name: share for name, share in _SECOND.items() if name not in _alike(shade)})
    pattern = draw_name(rng, cut.patterns) if cut.patterns else "plain"
    if pattern == "camouflage":
        shade, second = "olive", "khaki"
    return Garment(
        kind=kind,
        shade=shade,
        rgb=draw_rgb(rng, shade),
        second=second,
        second_rgb=draw_rgb(rng, second),
        pattern=pattern,
        size=float(rng.uniform(0.7, 1.5)),
        phase=float(rng.random()),
        hem=float(rng.uniform(*cut.hem)),
        bulk=float(rng.uniform(*cut.bulk)),
        opened=bool(rng.random() < cut.opened),
        hood=bool(rng.random() < cut.hood),
    )


_SECOND: Weights = {
    "white": 5, "black": 4, "gray": 2, "light gray": 2, "navy": 3, "red": 3, "cream": 1.5, "blue": 2,
    "light blue": 1.5, "yellow": 1, "green": 1, "burgundy": 1, "pink": 1, "orange": 0.7, "beige": 1,
    "teal": 0.5, "brown": 0.7,
}  # fmt: skip
_FAMILIES = (
    {"black", "charcoal", "navy", "dark brown", "dark green"},
    {"white", "cream", "light gray"},
    {"navy", "blue", "denim"},
    {"light blue", "light gray"},
    {"gray", "charcoal", "light gray"},
    {"beige", "khaki", "camel", "cream"},
    {"red", "burgundy", "magenta"},
    {"brown", "dark brown", "rust", "camel"},
    {"green", "dark green", "olive", "lime"},
    {"yellow", "mustard"},
    {"orange", "rust", "red"},
    {"pink", "lilac", "magenta"},
    {"purple", "burgundy", "lilac"},
)


def _alike(shade: str) -> set[str]:
    """Shades that are hard to tell from `shade`, itself included."""
    return {shade}.union(*(family for family in _FAMILIES if shade in family))


def draw_thing(rng: np.random.Generator, kind: str, colors: Weights | None) -> Thing:
    """A thing of `kind` in two colours."""
    shade = draw_name(rng, colors) if colors else draw_cloth_name(rng)
    if kind == "papers":
        shade = "white"
    second = draw_name(rng, {name: share for name, share in _SECOND.items() if name not in _alike(shade)})
    return Thing(kind, shade, draw_rgb(rng, shade), second, draw_rgb(rng, second), float(rng.uniform(0.85, 1.2)))


def draw_bag(rng: np.random.Generator, gender: str) -> Thing:
    kind = draw_name(rng, _BAGS[gender])
    return draw_thing(
        rng, kind, {"white": 4, "blue": 1, "red": 1, "yellow": 1} if kind == "carrier bag" else shades.BAGS
    )


def _draw_clothes(
    rng: np.random.Generator, gender: str, season: str, skirts: float
) -> tuple[Garment, Garment | None, Garment | None]:
    """Top or dress, outer garment and lower garment."""
    worn_over = {"warm": 0.0, "mild": 0.55, "cold": 0.92}[season]
    outer = draw_garment(rng, draw_name(rng, _OUTER[season])) if rng.random() < worn_over else None
    if gender == "female" and rng.random() < 0.14:
        return draw_garment(rng, draw_name(rng, dict.fromkeys(DRESSES, 1.0))), outer, None
    tops = {kind: share for kind, share in _TOPS[season].items() if not (outer and kind == "hoodie")}
    if gender == "male":
        tops = {kind: share for kind, share in tops.items() if kind not in {"blouse", "tunic"}}
    top = draw_garment(rng, draw_name(rng, tops))
    lower = {kind: share * (skirts if kind.endswith("skirt") else 1) for kind, share in _LOWER[gender].items()}
    if season == "warm":
        lower["shorts"] = 8
    return top, outer, draw_garment(rng, draw_name(rng, lower))


def _draw_skin(rng: np.random.Generator) -> RGB:
    tones = [tone for tone, _ in shades.SKIN]
    shares = np.cumsum([share for _, share in shades.SKIN])
    first = int(np.searchsorted(shares / shares[-1], rng.random()))
    return between(rng, tones[first], tones[min(first + 1, len(tones) - 1)])


def _draw_hair(rng: np.random.Generator, gender: str, age: str, skin: RGB) -> tuple[str, str]:
    """Style and colour."""
    style = draw_name(rng, _HAIR[gender])
    if age == "teenager" and style in {"bald", "receding"}:
        style = "short"
    colors = _DARK_HAIR if sum(skin) < 380 else _OLD_HAIR if age == "older" else _HAIR_COLORS
    return style, draw_name(rng, colors)


def _draw_build(rng: np.random.Generator, gender: str, age: str) -> Build:
    female = gender == "female"
    girth = rng.normal({"teenager": 0.92, "adult": 1.0, "older": 1.07}[age], 0.11)
    return Build(
        shoulders=float(rng.normal(0.9 if female else 1.05, 0.05)),
        hips=float(rng.normal(1.08 if female else 0.97, 0.06)),
        girth=float(np.clip(girth, 0.78, 1.4)),
        belly=float(max(0.0, rng.normal(0.0, 0.12) + (girth - 1) * 0.6)),
        legs=float(rng.normal(1.0, 0.035)),
        head=float(rng.normal(1.04 if female else 1.0, 0.04) * (1.06 if age == "teenager" else 1.0)),
        stoop=float(rng.uniform(0.02, 0.1) if age == "older" else rng.uniform(-0.01, 0.04)),
        gait=float(rng.uniform(0.75, 1.15) * (0.75 if age == "older" else 1.0)),
    )


def _draw_shoes(rng: np.random.Generator, gender: str, season: str) -> Thing:
    kinds = dict(_SHOES[gender])
    if season == "warm":
        kinds["sandals"] = 3
    kind = draw_name(rng, kinds)
    return draw_thing(rng, kind, shades.TRAINERS if kind == "trainers" else shades.SHOES)


def _draw_hat(rng: np.random.Generator, gender: str, season: str) -> Thing | None:
    if rng.random() >= {"warm": 0.2, "mild": 0.14, "cold": 0.32}[season]:
        return None
    kinds = {"warm": {"cap": 6, "brimmed hat": 3}, "mild": {"cap": 6, "beanie": 2, "brimmed hat": 1}}
    weights = dict(kinds.get(season, {"beanie": 7, "bobble hat": 2.5, "cap": 2}))
    if gender == "female":
        weights["headscarf"] = 1.5
    return draw_thing(rng, draw_name(rng, weights), None)


def _any_hat(rng: np.random.Generator, gender: str) -> Thing:
    kinds = {"cap": 3.0, "beanie": 3.0, "brimmed hat": 1.5, "bobble hat": 1.0}
    return draw_thing(rng, draw_name(rng, kinds), None)
