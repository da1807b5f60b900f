"""The wardrobe: cuts of garments, and bags, hats and shoes, with the words for them.

CUTS["parka"].words     # ("parka", "anorak", "hooded coat", ...)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmet.data.synthetic.lifelike import shades
from mmet.data.synthetic.lifelike.shades import Weights


@dataclass(frozen=True, slots=True)
class Cut:
    """A kind of garment.

    Attributes:
        words: words for it; usual ones are listed more than once.
        hem: body height at which it ends, lowest and highest (upper garments, skirts and dresses).
        bulk: factors on the width of the body, smallest and largest.
        sleeve: long, short or none.
        texture: material, which decides folds and shine: smooth, knit, denim, leather, padded, heavy.
        collar: round, v, shirt, polo, high, lapels, or none.
        hood: share of these garments with a hood.
        opened: share of them worn open over another garment.
        patterns: patterns with their weights.
        colors: shades with their weights; None for the usual ones.
        warm: whether it is an outer garment.
    """

    words: tuple[str, ...]
    hem: tuple[float, float] = (0.46, 0.5)
    bulk: tuple[float, float] = (1.0, 1.08)
    sleeve: str = "long"
    texture: str = "smooth"
    collar: str = "round"
    hood: float = 0.0
    opened: float = 0.0
    patterns: Mapping[str, float] | None = None
    colors: Weights | None = None
    warm: bool = False


_PLAIN = {"plain": 1.0}
_TOPS = {"plain": 0.62, "striped": 0.12, "logo": 0.16, "banded": 0.04, "sleeves": 0.06}
_SHIRTS = {"plain": 0.6, "checked": 0.2, "striped": 0.06, "pinstriped": 0.08, "dotted": 0.03, "floral": 0.03}
_JACKETS = {"plain": 0.8, "yoke": 0.09, "sleeves": 0.07, "banded": 0.03, "camouflage": 0.01}
_DRESSES = {"plain": 0.55, "floral": 0.18, "dotted": 0.09, "striped": 0.1, "checked": 0.08}

TOPS: Mapping[str, Cut] = {
    "t-shirt": Cut(("t-shirt", "t-shirt", "tee", "tee shirt", "short-sleeved top"), sleeve="short", patterns=_TOPS),
    "long-sleeved top": Cut(("long-sleeved top", "long-sleeve t-shirt", "top"), patterns=_TOPS),
    "shirt": Cut(("shirt", "shirt", "button-up shirt", "button-down"), collar="shirt", patterns=_SHIRTS, opened=0.08),
    "short-sleeved shirt": Cut(
        ("short-sleeved shirt", "shirt", "summer shirt"), sleeve="short", collar="shirt", patterns=_SHIRTS
    ),
    "polo shirt": Cut(("polo shirt", "polo", "collared t-shirt"), sleeve="short", collar="polo", patterns=_TOPS),
    "tank top": Cut(("tank top", "vest top", "sleeveless top"), sleeve="none", collar="v"),
    "jumper": Cut(
        ("jumper", "sweater", "sweater", "pullover", "knitted top"), (0.45, 0.49), (1.06, 1.18), texture="knit",
        patterns={"plain": 0.74, "striped": 0.14, "banded": 0.06, "checked": 0.03, "logo": 0.03},
    ),
    "turtleneck": Cut(
        ("turtleneck", "polo neck", "roll-neck sweater"), bulk=(1.0, 1.1), texture="knit", collar="high"
    ),
    "sweatshirt": Cut(
        ("sweatshirt", "sweatshirt", "crewneck"), (0.45, 0.49), (1.08, 1.2), texture="heavy", patterns=_TOPS
    ),
    "hoodie": Cut(
        ("hoodie", "hoodie", "hooded sweatshirt", "hooded top"), (0.44, 0.48), (1.1, 1.24), texture="heavy", hood=1.0,
        opened=0.2, patterns=_TOPS, warm=True,
    ),
    "blouse": Cut(("blouse", "top", "blouse"), (0.43, 0.48), (1.0, 1.12), collar="v", patterns=_DRESSES),
    "tunic": Cut(("tunic", "long top", "long shirt"), (0.33, 0.4), (1.0, 1.12), collar="v", patterns=_DRESSES),
}  # fmt: skip
"""Worn next to the body; a jumper or a hoodie may be all that is worn."""

OUTER: Mapping[str, Cut] = {
    "jacket": Cut(
        ("jacket", "jacket", "jacket", "short coat"), (0.44, 0.49), (1.12, 1.26), texture="heavy", collar="high",
        hood=0.15, opened=0.35, patterns=_JACKETS, warm=True,
    ),
    "leather jacket": Cut(
        ("leather jacket", "leather jacket", "jacket", "biker jacket"), (0.45, 0.49), (1.1, 1.2), texture="leather",
        collar="shirt", opened=0.4, colors=shades.LEATHER, warm=True,
    ),
    "denim jacket": Cut(
        ("denim jacket", "jean jacket", "jacket"), (0.46, 0.5), (1.1, 1.18), texture="denim", collar="shirt",
        opened=0.5, colors=shades.DENIM, warm=True,
    ),
    "padded jacket": Cut(
        ("padded jacket", "puffer jacket", "down jacket", "quilted jacket", "puffy coat", "jacket"), (0.43, 0.49),
        (1.24, 1.45), texture="padded", collar="high", hood=0.35, opened=0.25, patterns=_JACKETS, warm=True,
    ),
    "windbreaker": Cut(
        ("windbreaker", "rain jacket", "sports jacket", "light jacket"), (0.43, 0.49), (1.14, 1.28), collar="high",
        hood=0.6, opened=0.3,
        patterns={"plain": 0.6, "yoke": 0.2, "sleeves": 0.1, "banded": 0.1}, warm=True,
    ),
    "track jacket": Cut(
        ("track jacket", "tracksuit top", "zip-up top"), (0.45, 0.49), (1.06, 1.16), collar="high", opened=0.3,
        patterns={"plain": 0.5, "sleeves": 0.2, "yoke": 0.2, "banded": 0.1}, warm=True,
    ),
    "fleece": Cut(
        ("fleece", "fleece jacket", "zip-up fleece"), (0.45, 0.49), (1.12, 1.22), texture="knit", collar="high",
        opened=0.3, patterns={"plain": 0.8, "yoke": 0.2}, warm=True,
    ),
    "blazer": Cut(
        ("blazer", "suit jacket", "sports coat", "jacket"), (0.42, 0.46), (1.06, 1.14), collar="lapels", opened=0.55,
        patterns={"plain": 0.84, "checked": 0.08, "pinstriped": 0.08}, colors=shades.SUITS, warm=True,
    ),
    "cardigan": Cut(
        ("cardigan", "cardigan", "knitted jacket"), (0.38, 0.47), (1.06, 1.16), texture="knit", collar="v",
        opened=0.65, patterns={"plain": 0.8, "striped": 0.12, "checked": 0.08}, warm=True,
    ),
    "coat": Cut(
        ("coat", "coat", "overcoat", "three-quarter coat"), (0.31, 0.4), (1.12, 1.26), texture="heavy",
        collar="lapels", opened=0.35, patterns={"plain": 0.9, "checked": 0.1}, warm=True,
    ),
    "long coat": Cut(
        ("long coat", "long coat", "overcoat", "trench coat"), (0.2, 0.3), (1.1, 1.24), texture="heavy",
        collar="lapels", opened=0.4, patterns={"plain": 0.92, "checked": 0.08}, warm=True,
    ),
    "hooded coat": Cut(
        ("hooded coat", "coat with a hood", "hooded jacket", "coat"), (0.3, 0.42), (1.14, 1.28), texture="heavy",
        collar="high", hood=1.0, opened=0.25, warm=True,
    ),
    "parka": Cut(
        ("parka", "parka", "anorak", "hooded coat", "winter coat"), (0.33, 0.42), (1.2, 1.36), texture="heavy",
        collar="high", hood=1.0, opened=0.3,
        colors={"olive": 5, "black": 4, "navy": 4, "khaki": 3, "dark green": 2, "gray": 1, "beige": 1, "burgundy": 1,
                "red": 0.7, "mustard": 0.7, "blue": 0.7, "white": 0.5, "pink": 0.5},
        warm=True,
    ),
    "raincoat": Cut(
        ("raincoat", "rain coat", "waterproof coat"), (0.32, 0.42), (1.12, 1.24), collar="high", hood=0.8,
        opened=0.15,
        colors={"yellow": 4, "navy": 3, "red": 2, "green": 2, "blue": 2, "olive": 2, "beige": 2, "black": 2,
                "teal": 1},
        warm=True,
    ),
    "vest": Cut(
        ("vest", "gilet", "body warmer", "sleeveless jacket"), (0.45, 0.49), (1.14, 1.28), sleeve="none",
        texture="padded", collar="high", opened=0.45, warm=True,
    ),
}  # fmt: skip
"""Worn over a top."""

LOWER: Mapping[str, Cut] = {
    "jeans": Cut(
        ("jeans", "jeans", "jeans", "denim trousers", "denims"), bulk=(0.86, 1.3), texture="denim", colors=shades.JEANS
    ),
    "trousers": Cut(
        ("trousers", "pants", "pants", "slacks"), bulk=(0.95, 1.32),
        patterns={"plain": 0.94, "checked": 0.03, "pinstriped": 0.03}, colors=shades.TROUSERS,
    ),
    "chinos": Cut(
        ("chinos", "trousers", "pants"), bulk=(0.92, 1.16),
        colors={"beige": 5, "khaki": 4, "navy": 3, "camel": 3, "olive": 3, "gray": 2, "burgundy": 1, "brown": 1},
    ),
    "joggers": Cut(
        ("joggers", "tracksuit bottoms", "sweatpants", "track pants"), bulk=(1.05, 1.35), texture="heavy",
        patterns={"plain": 0.6, "side stripes": 0.4}, colors=shades.TROUSERS,
    ),
    "cargo trousers": Cut(
        ("cargo trousers", "cargo pants", "combat trousers"), bulk=(1.15, 1.42), texture="heavy",
        patterns={"plain": 0.85, "camouflage": 0.15},
        colors={"khaki": 4, "olive": 5, "black": 3, "beige": 3, "gray": 2, "navy": 1},
    ),
    "leggings": Cut(
        ("leggings", "leggings", "tight trousers", "skinny pants"), bulk=(0.74, 0.82),
        colors={"black": 12, "charcoal": 3, "navy": 3, "gray": 2, "burgundy": 1, "purple": 1, "pink": 0.7,
                "teal": 0.7},
    ),
    "shorts": Cut(
        ("shorts", "shorts", "short trousers"), (0.29, 0.38), (1.02, 1.35), colors=shades.TROUSERS,
        patterns={"plain": 0.84, "checked": 0.08, "camouflage": 0.04, "side stripes": 0.04},
    ),
    "short skirt": Cut(
        ("short skirt", "mini skirt", "skirt"), (0.33, 0.39), (1.0, 1.3), patterns=_DRESSES, colors=shades.TROUSERS
    ),
    "skirt": Cut(("skirt", "knee-length skirt", "skirt"), (0.25, 0.31), (1.0, 1.4), patterns=_DRESSES),
    "long skirt": Cut(("long skirt", "maxi skirt", "ankle-length skirt"), (0.08, 0.18), (1.0, 1.5), patterns=_DRESSES),
}  # fmt: skip

DRESSES: Mapping[str, Cut] = {
    "dress": Cut(("dress", "dress", "summer dress"), (0.25, 0.36), (1.0, 1.4), "short", patterns=_DRESSES, collar="v"),
    "sleeveless dress": Cut(
        ("sleeveless dress", "dress", "sundress"), (0.25, 0.36), (1.0, 1.4), "none", patterns=_DRESSES, collar="v"
    ),
    "long dress": Cut(("long dress", "maxi dress", "gown"), (0.07, 0.18), (1.0, 1.5), "long", patterns=_DRESSES),
}

BAG_WORDS: Mapping[str, tuple[str, ...]] = {
    "backpack": ("backpack", "backpack", "rucksack", "bag on the back"),
    "shoulder bag": ("shoulder bag", "bag over the shoulder", "bag", "purse"),
    "handbag": ("handbag", "handbag", "purse", "bag"),
    "tote bag": ("tote bag", "tote", "shopping bag", "cloth bag"),
    "crossbody bag": ("crossbody bag", "messenger bag", "satchel", "bag across the body"),
    "carrier bag": ("carrier bag", "plastic bag", "shopping bag"),
    "suitcase": ("suitcase", "trolley", "rolling suitcase", "wheeled case"),
    "briefcase": ("briefcase", "laptop bag", "bag"),
}

HAT_WORDS: Mapping[str, tuple[str, ...]] = {
    "cap": ("cap", "baseball cap", "cap"),
    "beanie": ("beanie", "knitted hat", "woolly hat", "hat"),
    "bobble hat": ("bobble hat", "woolly hat", "winter hat with a pompom"),
    "brimmed hat": ("brimmed hat", "sun hat", "hat"),
    "headscarf": ("headscarf", "hijab", "head covering"),
}

SHOE_WORDS: Mapping[str, tuple[str, ...]] = {
    "trainers": ("trainers", "sneakers", "sneakers", "running shoes", "sports shoes"),
    "shoes": ("shoes", "shoes", "leather shoes", "loafers"),
    "ankle boots": ("ankle boots", "boots", "short boots"),
    "boots": ("boots", "tall boots", "knee-high boots"),
    "sandals": ("sandals", "open shoes", "flip-flops"),
    "heels": ("heels", "high heels", "high-heeled shoes"),
}

HAIR_WORDS: Mapping[str, tuple[str, ...]] = {
    "bald": ("bald head", "shaved head"),
    "receding": ("short hair", "thin hair", "balding head"),
    "cropped": ("short hair", "cropped hair"),
    "short": ("short hair", "hair"),
    "curly": ("curly hair", "short curly hair"),
    "afro": ("afro", "big curly hair"),
    "bob": ("chin-length hair", "hair in a bob", "medium hair"),
    "long": ("long hair", "long straight hair"),
    "long curly": ("long curly hair", "long wavy hair", "curly hair"),
    "ponytail": ("hair in a ponytail", "ponytail", "hair tied back"),
    "bun": ("hair in a bun", "bun", "hair tied up"),
}

CARRIED_WORDS: Mapping[str, tuple[str, ...]] = {
    "umbrella": ("umbrella", "umbrella"),
    "papers": ("papers", "sheets of paper"),
    "cup": ("cup", "coffee"),
    "phone": ("phone", "mobile"),
}
