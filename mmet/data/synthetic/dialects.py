"""Dialects of captions as data: the same people and pictures, in words that the source style never uses.

`reports` are terse notes of a guard at night; `remarks` are what somebody in a hall says aloud. Both omit things,
sometimes confuse similar colours, and name only what the picture shows. Their words for garments, things and colours
are disjoint from those of the source style's captions, so a model trained on that style has never seen them. To add a
dialect, add a `Dialect` to `DIALECTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.identity import Cloth, Identity
from mmet.data.synthetic.observation import (
    NEAR_COLORS,
    Observation,
    article,
    capital,
    join,
    keep,
    shade_name,
    shorten,
    side,
)

_NEAR_COLOR_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words and sentences of one dialect.

    Attributes:
        nouns: gender -> nouns for the person.
        ages: age -> adjectives; an empty one omits the age.
        words: word of `mmet.data.synthetic.identity` -> words used instead, for garments, things and colours.
        shades: `dark` and `light` -> word used instead.
        moves: visible side of the person -> what the person is doing.
        frames: sentences with `{who}`, `{upper}`, `{lower}` and, optionally, `{move}`.
        extras: continuations with `{things}`, for shoes and things carried.
    """

    nouns: Mapping[str, tuple[str, ...]]
    ages: Mapping[str, tuple[str, ...]]
    words: Mapping[str, tuple[str, ...]]
    shades: Mapping[str, str]
    moves: Mapping[str, tuple[str, ...]]
    frames: tuple[str, ...]
    extras: tuple[str, ...]


def describe(dialect: Dialect, observation: Observation[Identity], rng: np.random.Generator) -> str:
    """Write one caption of a picture."""
    writer = _Writer(dialect, rng)
    look = observation.identity.appearance
    upper = writer.cloth(look.upper, look.upper_kind)
    lower = "" if look.lower_kind == "dress" else writer.cloth(look.lower, look.lower_kind)
    if rng.random() < 0.06:
        lower = ""  # forgotten
    worn = {"upper": article(upper), "lower": lower}
    frames = [frame for frame in dialect.frames if bool(lower) == ("{lower}" in frame)]
    frame = writer.pick(frames)
    text = frame.format(who=writer.who(observation), move=writer.move(observation), **worn)
    things = keep(rng, _seen_details(observation, writer), 0.7)[:3]
    if things:
        text += writer.pick(dialect.extras).format(things=join(things))
    return capital(shorten(text))


@dataclass(frozen=True, slots=True)
class _Writer:
    dialect: Dialect
    rng: np.random.Generator

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def say(self, word: str) -> str:
        return self.pick(self.dialect.words[word])

    def who(self, observation: Observation[Identity]) -> str:
        row = observation.identity.attributes
        age = self.pick(self.dialect.ages[row.age])
        return article(f"{age} {self.pick(self.dialect.nouns[row.gender])}".strip())

    def move(self, observation: Observation[Identity]) -> str:
        return self.pick(self.dialect.moves[side(observation.shot.view)])

    def color(self, cloth: Cloth) -> str:
        """The colour of `cloth`, sometimes a similar one; half of the time with its shade."""
        if self.rng.random() < _NEAR_COLOR_SHARE:
            color_word = self.pick(NEAR_COLORS[cloth.color_name]).split()[-1]
        else:
            color_word = shade_name(cloth.color_name, cloth.rgb) if self.rng.random() < 0.5 else cloth.color_name
        *shade, name = color_word.split()
        return " ".join([*(self.dialect.shades[word] for word in shade), self.say(name)])

    def cloth(self, cloth: Cloth, kind: str) -> str:
        return f"{self.color(cloth)} {self.say(kind)}"


def _seen_details(observation: Observation[Identity], writer: _Writer) -> list[str]:
    """Shoes, bag, hat, glasses and scarf, as far as they are visible."""
    look = observation.identity.appearance
    details = []
    if observation.sees(Part.SHOE):
        shade = writer.dialect.shades[observation.identity.attributes.shoes]
        details.append(f"{shade} {writer.say(look.shoe_kind)}")
    if look.bag_kind and observation.sees(Part.BAG):
        details.append(article(writer.cloth(look.bag, look.bag_kind)))
    if look.hat_kind and observation.sees(Part.HAT):
        details.append(article(writer.cloth(look.hat, look.hat_kind)))
    if look.glasses_kind and observation.pixels.get(Part.RIM, 0) > 0:
        details.append(writer.say(look.glasses_kind))
    if look.scarf and observation.sees(Part.SCARF):
        details.append(article(writer.cloth(look.scarf, "scarf")))
    return details


REPORTS = Dialect(
    nouns={
        "male": ("gentleman", "masculine figure", "individual"),
        "female": ("madam", "feminine figure", "individual"),
    },
    ages={"teenager": ("juvenile", "youthful", ""), "adult": ("", "mature"), "older": ("senior", "aged", "")},
    shades={"dark": "deep-toned", "light": "pale-toned"},
    moves={
        "front": ("approaching", "heading inward"),
        "back": ("leaving", "heading away"),
        "right": ("crossing", "passing through"),
        "left": ("crossing", "passing through"),
    },
    frames=(
        "{who} {move}. Torso: {upper}. Legs: {lower}",
        "{who} clad in {upper} atop {lower}, {move}",
        "logged {who} {move}, garbed in {upper}, {lower} below",
        "{who} {move}. Garb: {upper}",
        "{who} clad in {upper}, {move}",
    ),
    extras=(". Further: {things}", "; noted {things}", ". Also observed: {things}"),
    words={
        "t-shirt": ("tee", "crewneck"),
        "polo shirt": ("collared tee",),
        "shirt": ("button-down",),
        "tunic": ("smock",),
        "long t-shirt": ("longline tee",),
        "sweater": ("jersey", "knit"),
        "hoodie": ("fleece with hood",),
        "jacket": ("windbreaker", "bomber"),
        "blazer": ("suit top",),
        "vest": ("gilet",),
        "coat": ("overcoat",),
        "long cardigan": ("duster",),
        "parka": ("anorak",),
        "dress": ("frock", "gown"),
        "trousers": ("slacks", "chinos"),
        "jeans": ("denims",),
        "shorts": ("bermudas",),
        "skirt": ("kilt",),
        "long skirt": ("maxi",),
        "backpack": ("knapsack", "daypack"),
        "shoulder bag": ("satchel",),
        "handbag": ("clutch",),
        "tote bag": ("carrier",),
        "messenger bag": ("courier pouch",),
        "baseball cap": ("visor",),
        "beanie": ("toque",),
        "sun hat": ("brimmed topper",),
        "bucket hat": ("soft topper",),
        "sneakers": ("runners",),
        "shoes": ("footwear",),
        "boots": ("high footwear",),
        "glasses": ("eyewear",),
        "sunglasses": ("tinted eyewear",),
        "scarf": ("muffler",),
        "black": ("ebony", "jet"),
        "white": ("ivory", "off-white"),
        "gray": ("charcoal", "slate"),
        "red": ("crimson", "scarlet"),
        "purple": ("plum", "mauve"),
        "yellow": ("golden", "mustard"),
        "blue": ("navy", "azure"),
        "green": ("olive", "emerald"),
        "brown": ("tan", "chestnut"),
        "orange": ("amber",),
        "pink": ("rose",),
        "beige": ("sand", "khaki"),
    },
)

REMARKS = Dialect(
    nouns={"male": ("fellow", "bloke", "chap"), "female": ("lass", "gal")},
    ages={
        "teenager": ("schoolkid-like", "teenaged", ""),
        "adult": ("grown-up", "", ""),
        "older": ("silver-haired", "retired", ""),
    },
    shades={"dark": "moody", "light": "pastel"},
    moves={
        "front": ("coming over", "strolling up"),
        "back": ("off again", "wandering off"),
        "right": ("going by", "strolling along"),
        "left": ("going by", "strolling along"),
    },
    frames=(
        "look, {who} sporting {upper} plus {lower}",
        "here's {who} {move}, got {upper} paired to {lower}",
        "{who} {move}, dolled up: {lower}, {upper}",
        "look, {who} sporting {upper}",
        "here's {who} {move}, got {upper}",
    ),
    extras=(", {things} too", ", not forgetting {things}", ". Spot {things}"),
    words={
        "t-shirt": ("cotton tee", "tee"),
        "polo shirt": ("tennis tee",),
        "shirt": ("dressy blouse", "button-up"),
        "tunic": ("overblouse",),
        "long t-shirt": ("oversized tee",),
        "sweater": ("pullover", "jumper"),
        "hoodie": ("hooded sweatshirt",),
        "jacket": ("zip-up", "blouson"),
        "blazer": ("smart topcoat",),
        "vest": ("bodywarmer", "waistcoat"),
        "coat": ("mac", "trench"),
        "long cardigan": ("cardie",),
        "parka": ("puffer",),
        "dress": ("sundress", "gown"),
        "trousers": ("pants", "bottoms"),
        "jeans": ("denim pants",),
        "shorts": ("cut-offs",),
        "skirt": ("mini",),
        "long skirt": ("flowing maxi",),
        "backpack": ("rucksack",),
        "shoulder bag": ("purse",),
        "handbag": ("pocketbook",),
        "tote bag": ("shopper",),
        "messenger bag": ("crossbody",),
        "baseball cap": ("ballcap",),
        "beanie": ("bobble",),
        "sun hat": ("floppy brim",),
        "bucket hat": ("fisherman's brim",),
        "sneakers": ("trainers", "kicks"),
        "shoes": ("loafers",),
        "boots": ("wellies",),
        "glasses": ("spectacles", "specs"),
        "sunglasses": ("shades",),
        "scarf": ("shawl", "wrap"),
        "black": ("inky", "raven"),
        "white": ("cream", "chalk"),
        "gray": ("ash", "silver"),
        "red": ("ruby", "maroon"),
        "purple": ("lilac", "violet"),
        "yellow": ("lemon", "canary"),
        "blue": ("cobalt", "indigo"),
        "green": ("jade", "lime"),
        "brown": ("mocha", "coffee"),
        "orange": ("tangerine",),
        "pink": ("salmon", "coral"),
        "beige": ("fawn", "oatmeal"),
    },
)

DIALECTS: Mapping[str, Dialect] = {"reports": REPORTS, "remarks": REMARKS}
"""Dialects by the name that styles use."""
