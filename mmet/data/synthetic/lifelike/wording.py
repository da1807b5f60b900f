"""Captions of lifelike people: complete sentences, notes, and the few words that people type into a search box.

Garments, things and colours have several names each. Captions mention only what the picture shows, always omit a part,
sometimes confuse similar colours, and never say what is missing. To add a phrasing, add a `Phrasing` to `PHRASINGS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.lifelike.people import Garment, Look, Person, Thing
from mmet.data.synthetic.lifelike.shades import HAIR, SHADES
from mmet.data.synthetic.lifelike.wardrobe import BAG_WORDS, CARRIED_WORDS, HAIR_WORDS, HAT_WORDS, SHOE_WORDS
from mmet.data.synthetic.observation import Observation, article, capital, join, shorten

_QUERY_SHARE = 0.22
_NEAR_SHARE = 0.06
_BASIC_SHARE = 0.08
_PATTERN_WORDS: Mapping[str, tuple[str, ...]] = {
    "striped": ("striped", "striped", "stripy"),
    "pinstriped": ("pinstriped", "pinstripe"),
    "checked": ("checked", "plaid", "tartan", "checkered"),
    "dotted": ("dotted", "polka dot", "spotted"),
    "floral": ("floral", "flowery", "flower-patterned"),
    "camouflage": ("camouflage", "camo"),
}
_NOUNS: Mapping[str, tuple[str, ...]] = {
    "male": ("man", "man", "guy", "male", "gentleman"),
    "female": ("woman", "woman", "lady", "female"),
    "teenager male": ("boy", "young man", "teenage boy", "young guy"),
    "teenager female": ("girl", "young woman", "teenage girl", "young lady"),
    "older male": ("older man", "elderly man", "old man"),
    "older female": ("older woman", "elderly woman", "old lady"),
    "anyone": ("person", "person", "someone", "individual", "pedestrian", "figure"),
}


@dataclass(frozen=True, slots=True)
class Phrasing:
    """The sentences of one kind of author.

    Attributes:
        frames: sentences with `{who}` and `{clothes}`.
        more: second sentences with `{things}`, which follow the first.
        unisex: share of captions that do not tell the gender.
        queries: share of captions that are only a few words.
        lower: share of these short captions that name only the lower garment. Other captions name the upper body
            first; a model trained on them alone would look for the colour of trousers there.
    """

    frames: tuple[str, ...]
    more: tuple[str, ...]
    unisex: float = 0.4
    queries: float = _QUERY_SHARE
    lower: float = 0.0


def describe_person(phrasing: Phrasing, observation: Observation[Person], rng: np.random.Generator) -> str:
    """Write one caption of a picture."""
    teller = _Teller(rng)
    look = observation.identity.appearance
    clothes, things = _clothes(teller, observation), _things(teller, observation)
    if rng.random() < phrasing.queries or not clothes:
        if phrasing.lower and rng.random() < phrasing.lower and (lower := _lower(teller, observation)):
            clothes, things = [lower], []
        return _query(teller, look, clothes or things, things)
    kept = [phrase for phrase in clothes if rng.random() < 0.85] or clothes[:1]
    things = [phrase for phrase in things if rng.random() < 0.6]
    rng.shuffle(things)
    who = _who(teller, look, phrasing.unisex)
    text = teller.pick(phrasing.frames).format(who=who, clothes=join(kept))
    if things and rng.random() < 0.45:
        text += f" {join(_with(teller, things[:2]))}"
    elif things:
        text += teller.pick(phrasing.more).format(things=join(things[:3]))
    return capital(shorten(text))


@dataclass(frozen=True, slots=True)
class _Teller:
    rng: np.random.Generator

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def color(self, shade: str) -> str:
        """A word for the shade, at times for a neighbour of it, or the name of the family."""
        slip = self.rng.random()
        if slip < _NEAR_SHARE:
            near = self.pick(SHADES[shade].near)
            return near if near != "denim" else "blue"
        if slip < _NEAR_SHARE + _BASIC_SHARE and shade not in {"cream", "beige", "khaki", "pink", "orange", "magenta"}:
            return SHADES[shade].basic
        return self.pick(SHADES[shade].words)

    def thing(self, thing: Thing, words: Mapping[str, tuple[str, ...]]) -> str:
        name = self.pick(words[thing.kind])
        return f"{self.color(thing.shade)} {name}" if self.rng.random() < 0.85 else name


def _query(teller: _Teller, look: Look, clothes: list[str], things: list[str]) -> str:
    """A few words, as somebody types them: "red jacket", "person with a black backpack"."""
    rng = teller.rng
    choices = [*clothes, *(thing for thing in things if rng.random() < 0.5)]
    if not choices:
        return f"{_who(teller, look, 0.5)}."
    order = rng.permutation(len(choices))[: 1 + int(rng.random() < 0.4)]
    phrases = [choices[int(index)] for index in order]
    if rng.random() < 0.5:
        bare = (phrase.removeprefix("a ").removeprefix("an ") for phrase in phrases)
        return teller.pick((" and ", ", ", " ")).join(bare)
    verb = teller.pick(("in", "wearing", "with")) if phrases[0] in clothes else "with"
    return f"{_who(teller, look, 0.6)} {verb} {join(phrases)}"


def _who(teller: _Teller, look: Look, unisex: float) -> str:
    rng = teller.rng
    if rng.random() < unisex:
        noun = teller.pick(_NOUNS["anyone"])
        return noun if noun == "someone" else _article(teller, noun)
    group = f"{look.age} {look.gender}" if look.age != "adult" and rng.random() < 0.5 else look.gender
    return _article(teller, teller.pick(_NOUNS[group]))


def _article(teller: _Teller, noun: str) -> str:
    return teller.pick((article(noun), article(noun), f"the {noun}", f"this {noun}"))


# -- clothes ----------------------------------------------------------------------------------------------------------


def _clothes(teller: _Teller, observation: Observation[Person]) -> list[str]:
    """Upper garment, lower garment and shoes, as far as they are seen."""
    look, phrases = observation.identity.appearance, []
    if observation.sees(Part.UPPER) or observation.sees(Part.SLEEVE):
        phrases.append(_upper(teller, observation))
    if lower := _lower(teller, observation):
        phrases.append(lower)
    elif look.lower is None and look.outer and observation.sees(Part.LOWER):
        phrases.append(article(_garment(teller, look.top)))
    if teller.rng.random() < 0.55 and observation.sees(Part.SHOE):
        phrases.append(teller.thing(look.shoes, SHOE_WORDS))
    return phrases


def _lower(teller: _Teller, observation: Observation[Person]) -> str:
    """Trousers or a skirt, as far as they are seen; else nothing."""
    worn = observation.identity.appearance.lower
    if worn is None or not (observation.sees(Part.TROUSER_LEG) or observation.sees(Part.LOWER)):
        return ""
    phrase = _garment(teller, worn)
    return article(phrase) if worn.kind.endswith("skirt") else phrase


def _upper(teller: _Teller, observation: Observation[Person]) -> str:
    look, rng = observation.identity.appearance, teller.rng
    garment = look.outermost
    phrase = article(_garment(teller, garment))
    if garment.pattern in {"yoke", "sleeves"} and observation.sees(Part.SLEEVE) and rng.random() < 0.6:
        part = "sleeves" if garment.pattern == "sleeves" else teller.pick(("shoulders", "shoulders and sleeves"))
        return f"{phrase} with {teller.color(garment.second)} {part}"
    if garment.pattern in {"logo", "banded"} and observation.sees(Part.UPPER2) and rng.random() < 0.4:
        mark = teller.pick(("a logo", "a print") if garment.pattern == "logo" else ("a stripe", "a band"))
        return f"{phrase} with {mark}"
    if look.outer and garment.opened and observation.sees(Part.INNER) and rng.random() < 0.65:
        over = teller.pick(("over", "over", "and under it"))
        return f"{phrase} {over} {article(_garment(teller, look.top))}"
    if garment.hood and rng.random() < (0.6 if look.hood_up else 0.15):
        return f"{phrase} {teller.pick(('with the hood up', 'and hood up') if look.hood_up else ('with a hood',))}"
    return phrase


def _garment(teller: _Teller, garment: Garment) -> str:
    kind = teller.pick(garment.cut.words)
    color = teller.color(garment.shade)
    pattern = garment.pattern if teller.rng.random() < 0.75 else "plain"
    if pattern in {"striped", "checked", "dotted"} and teller.rng.random() < 0.5:
        color = f"{color} and {teller.color(garment.second)}"
    if pattern == "camouflage":
        return f"{teller.pick(_PATTERN_WORDS[pattern])} {kind}"
    return " ".join(word for word in (color, teller.pick(_PATTERN_WORDS.get(pattern, ("",))), kind) if word)


# -- the rest ---------------------------------------------------------------------------------------------------------


def _things(teller: _Teller, observation: Observation[Person]) -> list[str]:
    """Hair, hat, bag, scarf, glasses, beard and what is held, as far as they are seen."""
    look, rng, phrases = observation.identity.appearance, teller.rng, []
    if observation.sees(Part.HAIR) and rng.random() < 0.7:
        phrases.append(_hair(teller, look))
    elif look.hair == "bald" and not look.hat and observation.sees(Part.FACE) and rng.random() < 0.7:
        phrases.append(article(teller.pick(HAIR_WORDS["bald"])))
    if look.hat and observation.sees(Part.HAT):
        phrases.append(article(teller.thing(look.hat, HAT_WORDS)))
    if look.bag and observation.sees(Part.BAG):
        phrases.append(article(teller.thing(look.bag, BAG_WORDS)))
    if look.scarf and observation.sees(Part.SCARF):
        phrases.append(article(f"{teller.color(look.scarf.shade)} scarf"))
    if look.glasses and observation.pixels.get(Part.RIM, 0) > 3:
        phrases.append(
            teller.pick((look.glasses, look.glasses, "dark glasses" if look.glasses != "glasses" else "spectacles"))
        )
    if look.beard and observation.pixels.get(Part.MOUTH, 0) > 0 and rng.random() < 0.5:
        phrases.append("a beard")
    if look.carried and observation.sees(Part.THING):
        held = (
            teller.thing(look.carried, CARRIED_WORDS)
            if look.carried.kind == "umbrella"
            else teller.pick(CARRIED_WORDS[look.carried.kind])
        )
        phrases.append(held if look.carried.kind == "papers" else article(held))
    return phrases


def _hair(teller: _Teller, look: Look) -> str:
    style, color = teller.pick(HAIR_WORDS[look.hair]), teller.pick(HAIR[look.hair_color][1])
    if teller.rng.random() < 0.25 and look.hair not in {"bun", "ponytail", "afro"}:
        return f"{color} hair"
    if style in {"ponytail", "bun", "afro"}:
        return f"{article(color)} {style}"
    if style in {"hair", "hair in a ponytail", "hair tied back", "hair in a bun", "hair tied up", "hair in a bob"}:
        return f"{color} {style}"
    if style in {"balding head", "big curly hair"}:
        return style if style != "balding head" else article(style)
    first, *rest = style.split(" ")
    return " ".join((first, color, *rest)) if teller.rng.random() < 0.9 else style


def _with(teller: _Teller, things: list[str]) -> list[str]:
    return [f"{teller.pick(('with', 'with', 'and'))} {things[0]}", *things[1:]]


WITNESS = Phrasing(
    frames=(
        "{who} wearing {clothes}",
        "{who} in {clothes}",
        "{who} is wearing {clothes}",
        "{who} wears {clothes}",
        "{who} dressed in {clothes}",
        "{who} walking in {clothes}",
        "{who} is dressed in {clothes}",
        "{who} has on {clothes}",
    ),
    more=(". They have {things}", ". Also {things}", ", {things}", ". With {things}", ". There is {things} too"),
    queries=0.3,
    lower=0.4,
)

NOTICE = Phrasing(
    frames=(
        "looking for {who} in {clothes}",
        "{clothes}, {who}",
        "find {who} who wears {clothes}",
        "{who}, last seen wearing {clothes}",
        "last seen in {clothes}: {who}",
        "clothing: {clothes}",
        "description: {who}, {clothes}",
        "{who}; {clothes}",
    ),
    more=("; {things}", ". Further: {things}", ". Noticeable: {things}", ". Has {things}", ", {things}"),
    unisex=0.5,
    queries=0.35,
    lower=0.4,
)

CHAT = Phrasing(
    frames=(
        "there goes {who} in {clothes}",
        "can you see {who} with {clothes}",
        "that is {who} who has {clothes} on",
        "it was {who} in {clothes}",
        "the one in {clothes}",
        "over there, {who} with {clothes} on",
        "I mean {who} in {clothes}",
    ),
    more=(", you know, with {things}", ", the one with {things}", " and {things}", ", got {things} as well"),
)

PHRASINGS: Mapping[str, Phrasing] = {"witness": WITNESS, "notice": NOTICE, "chat": CHAT}
"""Phrasings by the name that styles use."""
