"""Write captions of a picture, in several wordings.

`attributes` resembles FineGPR-C: dense lists of coded attributes in changing order, with weather, time of day,
viewpoint, and one or two details. `sentences` resembles CUHK-PEDES: people describe what they see, with synonyms,
confused colours and omissions. `mmet.data.synthetic.dialects` has two more, and
`mmet.data.synthetic.lifelike.wording` those of lifelike people. All are incomplete on purpose, and describe what the
picture shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.dialects import DIALECTS, describe
from mmet.data.synthetic.identity import Cloth, Identity
from mmet.data.synthetic.lifelike.wording import PHRASINGS, describe_person
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
from mmet.data.synthetic.style import LIGHT, WEATHER

_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "trousers": ("trousers", "pants", "pants", "slacks"),
    "jeans": ("jeans", "denim pants"),
    "shirt": ("shirt", "shirt", "top", "blouse"),
    "polo shirt": ("polo shirt", "shirt", "top"),
    "tunic": ("tunic", "top", "shirt"),
    "long t-shirt": ("long t-shirt", "t-shirt", "top"),
    "coat": ("coat", "long coat", "jacket"),
    "long cardigan": ("long cardigan", "cardigan", "coat"),
    "sweater": ("sweater", "pullover", "jumper", "top"),
    "hoodie": ("hoodie", "hooded sweatshirt", "sweatshirt"),
    "t-shirt": ("t-shirt", "tee shirt", "shirt"),
    "jacket": ("jacket", "jacket", "coat"),
    "blazer": ("blazer", "suit jacket", "jacket"),
    "parka": ("parka", "long coat", "jacket"),
    "vest": ("vest", "sleeveless jacket"),
    "backpack": ("backpack", "backpack", "rucksack", "bag on the back"),
    "shoulder bag": ("shoulder bag", "bag", "purse"),
    "handbag": ("handbag", "purse", "bag"),
    "tote bag": ("tote bag", "shopping bag", "bag"),
    "messenger bag": ("messenger bag", "cross-body bag", "bag"),
    "baseball cap": ("baseball cap", "cap"),
    "beanie": ("beanie", "knit cap", "hat"),
    "sneakers": ("sneakers", "trainers", "tennis shoes"),
    "shoes": ("shoes", "loafers"),
    "gray": ("gray", "grey"),
    "purple": ("purple", "purple", "violet"),
    "striped": ("striped", "striped", "stripy"),
    "checked": ("checked", "plaid", "checkered"),
    "dotted": ("dotted", "spotted", "polka dot"),
    "glasses": ("glasses", "spectacles", "eyeglasses"),
}


Wording = Callable[[Observation[Any], np.random.Generator], str]


def write_captions(observation: Observation[Any], wording: str, rng: np.random.Generator, count: int = 2) -> list[str]:
    """Write `count` captions of one picture in a wording of `WORDINGS`."""
    return [WORDINGS[wording](observation, rng) for _ in range(count)]


def tokenize(caption: str) -> list[str]:
    """Split a caption into lower-case words without punctuation, as in CUHK-PEDES' `processed_tokens`."""
    return re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", caption.lower())


# -- attribute-dense, as generated from codes ----------------------------------------------------------------------


def _attribute_caption(observation: Observation[Identity], rng: np.random.Generator) -> str:
    kind = ("plain", "there is", "setting")[int(rng.integers(3))]
    opening, linked = _opening(kind, observation, rng)
    wears = keep(rng, _worn_clauses(observation, rng), 0.8, least=2)
    extra = keep(rng, _extra_clauses(observation, hair_is_known=kind == "there is"), 0.4)[:2]
    sentence = f"{opening}{linked}{join(wears)}"
    if kind != "setting" and rng.random() < 0.4:
        sentence += f", {_setting(observation, rng)}"
    if extra:
        sentence += f", this person also {join(extra)}"
    return capital(shorten(sentence))


def _opening(kind: str, observation: Observation[Identity], rng: np.random.Generator) -> tuple[str, str]:
    """The words for the person, and those that lead to the clothes."""
    row = observation.identity.attributes
    if kind == "plain":
        who = f"older {row.gender}" if row.age == "older" else f"{row.gender} {row.age}"
        return article(who), " wears "
    if kind == "there is":
        return f"there is {article(_young_or_old(observation))}", f" with {row.hair} hair, who wears "
    return f"{_setting(observation, rng)}, {article(_young_or_old(observation))}", " wears "


def _young_or_old(observation: Observation[Identity]) -> str:
    row = observation.identity.attributes
    return f"{({'teenager': 'young', 'adult': 'adult', 'older': 'older'})[row.age]} {row.gender}"


def _setting(observation: Observation[Identity], rng: np.random.Generator) -> str:
    weather = {"blizzard": "snowy", "snowlight": "lightly snowy", "clouds": "cloudy", "neutral": "calm"}
    word = WEATHER[observation.shot.weather - 1]
    when = f"in {article(f'{weather.get(word, word)} {LIGHT[observation.shot.light - 1]}')}"
    where_from = side(observation.shot.view)
    where = (
        f"with {where_from} viewpoint" if where_from in {"front", "back"} else f"when looking from the {where_from}"
    )
    return {0: when, 1: where, 2: f"{when}, {where}"}[int(rng.integers(3))]


def _worn_clauses(observation: Observation[Identity], rng: np.random.Generator) -> list[str]:
    look, row = observation.identity.appearance, observation.identity.attributes
    sleeve = "short-sleeved " if row.short_sleeve == "yes" and rng.random() < 0.6 else ""
    pattern = (
        f"{look.upper.pattern} "
        if look.upper.pattern not in {"plain", "logo", "banded"} and rng.random() < 0.6
        else ""
    )
    upper = (
        f"{row.upper_color} upper-body clothes"
        if rng.random() < 0.35
        else f"{row.upper_color} {pattern}{look.upper_kind}"
    )
    clauses = [
        f"{sleeve}{upper}" if upper.endswith("clothes") else article(f"{sleeve}{upper}"),
        f"{row.shoes} {look.shoe_kind}",
    ]
    if row.dress == "no":
        lower = (
            f"{row.lower_color} lower-body clothes" if rng.random() < 0.35 else f"{row.lower_color} {look.lower_kind}"
        )
        clauses.append(article(lower) if lower.endswith("skirt") else lower)
    if look.opened and observation.sees(Part.INNER):
        clauses.append(f"{article(look.inner.color_name)} shirt underneath")
    return clauses


def _extra_clauses(observation: Observation[Identity], hair_is_known: bool) -> list[str]:
    look, row = observation.identity.appearance, observation.identity.attributes
    clauses = [] if hair_is_known else [f"has {row.hair} hair"]
    clauses.append(f"wears {look.glasses_kind}" if look.glasses_kind else "wears no glasses")
    clauses.append(
        f"carries {article(f'{look.bag.color_name} {look.bag_kind}')}" if look.bag_kind else "carries no bag"
    )
    clauses.append(f"takes {article(f'{look.hat.color_name} {look.hat_kind}')}" if look.hat_kind else "takes no hat")
    if look.scarf:
        clauses.append(f"wears {article(look.scarf.color_name)} scarf")
    return clauses


# -- as people write -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Speaker:
    """The author of a caption: words for the person, synonyms, and mistakes with colours."""

    rng: np.random.Generator
    subject: str
    pronoun: str

    def say(self, word: str) -> str:
        options = _SYNONYMS.get(word, (word,))
        return options[int(self.rng.integers(len(options)))]

    def color(self, cloth: Cloth, second: bool = False) -> str:
        """The colour of `cloth`; sometimes a similar one, rarely any other."""
        name = cloth.second_name if second else cloth.color_name
        slip = self.rng.random()
        if slip < 0.10:
            near = NEAR_COLORS[name]
            return near[int(self.rng.integers(len(near)))]
        if slip < 0.12:
            return list(NEAR_COLORS)[int(self.rng.integers(len(NEAR_COLORS)))]
        shade = shade_name(name, cloth.second_rgb if second else cloth.rgb) if self.rng.random() < 0.5 else name
        return " ".join(self.say(word) for word in shade.split())


def _human_caption(observation: Observation[Identity], rng: np.random.Generator) -> str:
    speaker = _speaker(observation, rng)
    clothes = keep(rng, _clothes_phrases(observation, speaker), 0.9, least=2)
    rest = keep(rng, _feature_phrases(observation, speaker), 0.75)[:2]
    verb = ("is wearing", "wears", "is dressed in", "has on")[int(rng.integers(4))]
    first = f"{speaker.subject} {verb} {join(clothes)}"
    if not rest:
        return f"{capital(shorten(first))}"
    if rng.random() < 0.35:
        lead = rest.pop()
        first = f"{speaker.subject} {lead} and {verb} {join(clothes)}"
    second = f". {capital(speaker.pronoun)} {join(rest)}" if rest else ""
    return capital(shorten(first + second))


def _speaker(observation: Observation[Identity], rng: np.random.Generator) -> _Speaker:
    row = observation.identity.attributes
    female = row.gender == "female"
    nouns = ("woman", "lady", "female") if female else ("man", "guy", "male")
    if row.age == "teenager" and rng.random() < 0.5:
        nouns = ("girl", "young woman", "young lady") if female else ("boy", "young man", "young guy")
    if row.age == "older" and rng.random() < 0.5:
        nouns = ("elderly woman", "older woman", "old lady") if female else ("elderly man", "older man", "old man")
    noun = nouns[int(rng.integers(len(nouns)))]
    opening = (f"the {noun}", article(noun), f"this {noun}")[int(rng.integers(3))]
    return _Speaker(rng, opening, "she" if female else "he")


def _clothes_phrases(observation: Observation[Identity], speaker: _Speaker) -> list[str]:
    look, rng = observation.identity.appearance, speaker.rng
    phrases = [_upper_phrase(observation, speaker)]
    if look.opened and observation.sees(Part.INNER) and rng.random() < 0.6:
        phrases[0] += f" over {article(speaker.color(look.inner))} shirt"
    if look.lower_kind != "dress":
        pattern = (
            f"{speaker.say(look.lower.pattern)} " if look.lower.pattern in {"checked", "dotted", "striped"} else ""
        )
        if look.lower.pattern == "side-striped" and observation.sees(Part.LOWER2):
            pattern = "side-striped " if rng.random() < 0.5 else ""
        lower = f"{speaker.color(look.lower)} {pattern}{speaker.say(look.lower_kind)}"
        phrases.append(article(lower) if look.lower_kind.endswith("skirt") else lower)
    if rng.random() < 0.5 and observation.sees(Part.SHOE):
        shade = "dark" if observation.identity.attributes.shoes == "dark" else "light"
        phrases.append(f"{shade} {speaker.say(look.shoe_kind)}")
    return phrases


def _upper_phrase(observation: Observation[Identity], speaker: _Speaker) -> str:
    look, rng = observation.identity.appearance, speaker.rng
    sleeve = "short sleeve " if look.sleeve == "short" and rng.random() < 0.4 else ""
    color, kind, pattern = speaker.color(look.upper), speaker.say(look.upper_kind), look.upper.pattern
    noticed = pattern != "plain" and observation.sees(Part.UPPER2) and rng.random() < 0.6
    if noticed and pattern in {"logo", "banded"}:
        mark = "logo" if pattern == "logo" else "stripe"
        return f"{article(f'{color} {sleeve}{kind}')} with {article(speaker.color(look.upper, second=True))} {mark}"
    if noticed and pattern in {"two-tone", "striped", "pinstriped"} and rng.random() < 0.6:
        other = speaker.color(look.upper, second=True)
        return article(f"{color} and {other} {'' if pattern == 'two-tone' else 'striped '}{sleeve}{kind}")
    return article(f"{color} {speaker.say(pattern) + ' ' if noticed else ''}{sleeve}{kind}")


def _feature_phrases(observation: Observation[Identity], speaker: _Speaker) -> list[str]:
    look, row, rng = observation.identity.appearance, observation.identity.attributes, speaker.rng
    phrases = []
    if rng.random() < 0.5 and not look.hat_kind:
        tone = "gray" if row.age == "older" else "dark" if sum(look.body.hair) < 200 else "light"
        style = (
            f"{tone} hair in a {look.body.hair_style}"
            if look.body.hair_style in {"ponytail", "bun"}
            else f"{row.hair} {tone} hair"
        )
        phrases.append(f"has {style}")
    if look.bag_kind and (observation.sees(Part.BAG) or rng.random() < 0.06):
        verb = ("is carrying", "carries", "has")[int(rng.integers(3))]
        phrases.append(f"{verb} {article(f'{speaker.color(look.bag)} {speaker.say(look.bag_kind)}')}")
    if look.glasses_kind and observation.pixels.get(Part.RIM, 0) > 0:
        phrases.append(f"wears {speaker.say(look.glasses_kind)}")
    if look.hat_kind and observation.sees(Part.HAT):
        phrases.append(f"has {article(f'{speaker.color(look.hat)} {speaker.say(look.hat_kind)}')}")
    if look.scarf and observation.sees(Part.SCARF):
        phrases.append(f"has {article(speaker.color(look.scarf))} scarf around the neck")
    if rng.random() < 0.12:
        action = {"front": "is walking towards the camera", "back": "is walking away"}
        phrases.append(action.get(side(observation.shot.view), "is walking past"))
    return [phrases[i] for i in rng.permutation(len(phrases))]


WORDINGS: Mapping[str, Wording] = {
    "attributes": _attribute_caption,
    "sentences": _human_caption,
    **{name: partial(describe, dialect) for name, dialect in DIALECTS.items()},
    **{name: partial(describe_person, phrasing) for name, phrasing in PHRASINGS.items()},
}
"""Wordings by the name that styles use."""
