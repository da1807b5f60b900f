"""Sentences made from FineGPR's attributes, for copies of the dataset that have no caption file.

FineGPR-C's sentences were generated from the attributes as well, "dynamically": the attributes come in another order,
and in another frame, from caption to caption. This does the same in words of its own. A sentence is a pure function of
attributes, conditions and generator, so that one seed always gives one text.

    write_caption({"gender": "female", "hair": "long", …}, Conditions.of(1, 1, 3), np.random.default_rng(0))

Codes as in the readme of https://github.com/JeremyXSC/FineGPR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

COLORS = ("black", "white", "red", "purple", "gray", "yellow", "blue", "green", "brown")
_YES_NO = ("yes", "no")

ATTRIBUTE_VALUES: Mapping[str, tuple[str, ...]] = {
    "gender": ("male", "female"),
    "hair": ("long", "short"),
    "age": ("teenager", "adult", "older"),
    "glasses": _YES_NO,
    "short_sleeve": _YES_NO,
    "dress": _YES_NO,
    "boots": _YES_NO,
    "hat": _YES_NO,
    "bag": _YES_NO,
    "top_length": ("long", "short"),
    "shoes": ("dark", "light"),
    "upper_color": COLORS,
    "lower_color": COLORS,
}
"""Values of each attribute in the order of their codes, which count from 1."""

WEATHER = ("sunny", "cloudy", "overcast", "foggy", "neutral", "snowy", "lightly snowy")
LIGHT = ("midnight", "dawn", "forenoon", "noon", "afternoon", "dusk", "night")
SIDES = ("front", "right", "back", "left")

MAX_CAMERA = 36


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a picture's name says of it: the side it is seen from, the weather and the time of day, in words."""

    side: str
    weather: str
    light: str

    @classmethod
    def of(cls, camera: int, weather: int, light: int) -> Conditions:
        """From the codes c01 to c36 (c01 is 90 degrees, c28 the front), w01 to w07, l01 to l07.

        Raises:
            ValueError: a code that FineGPR does not have.
        """
        for name, code, highest in (
            ("c", camera, MAX_CAMERA),
            ("w", weather, len(WEATHER)),
            ("l", light, len(LIGHT)),
        ):
            if not 1 <= code <= highest:
                raise ValueError(f"code {name} must be from 1 to {highest}, got {code}")
        degrees = (camera * 10 + 80) % 360
        return cls(SIDES[(degrees + 45) // 90 % 4], WEATHER[weather - 1], LIGHT[light - 1])


def attribute_value(name: str, written: str) -> str:
    """An attribute's value from a word ("male") or a code ("1", "01"). Raises `ValueError` for any other."""
    values = ATTRIBUTE_VALUES[name]
    word = written.strip().lower()
    if word in values:
        return word
    if word.isascii() and word.isdecimal() and len(word) < 4 and 1 <= int(word) <= len(values):
        return values[int(word) - 1]
    raise ValueError(f"must be one of {', '.join(values)} or a code from 1 to {len(values)}, is {written[:40]!r}")


def write_caption(attributes: Mapping[str, str], conditions: Conditions, rng: np.random.Generator) -> str:
    """One sentence that says all attributes in an order and a frame drawn from `rng`.

    Args:
        attributes: name -> value, from `ATTRIBUTE_VALUES`, all of them.
        conditions: of the picture.
        rng: advanced by a few draws.
    """
    frame = _FRAMES[rng.integers(len(_FRAMES))]
    parts = _Parts(
        person=_person(attributes, rng),
        hair=f"{attributes['hair']} hair",
        clothes=_clothes(attributes, rng),
        extras=_extras(attributes, rng),
        circumstances=_circumstances(conditions, rng),
    )
    text = frame(parts)
    return text[0].upper() + text[1:] + "."


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a frame arranges: noun phrases but for `extras` (verb phrases) and `circumstances` (when, from where)."""

    person: str
    hair: str
    clothes: list[str]
    extras: list[str]
    circumstances: list[str]


def _pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[rng.integers(len(choices))]


def _shuffled(rng: np.random.Generator, phrases: list[str]) -> list[str]:
    return [phrases[index] for index in rng.permutation(len(phrases))]


def _enumerate(phrases: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _person(attributes: Mapping[str, str], rng: np.random.Generator) -> str:
    gender = attributes["gender"]
    nouns = {
        ("teenager", "male"): ("a teenage boy", "a male teenager", "a young male"),
        ("teenager", "female"): ("a teenage girl", "a female teenager", "a young female"),
        ("adult", "male"): ("a man", "a male adult", "an adult man"),
        ("adult", "female"): ("a woman", "a female adult", "an adult woman"),
        ("older", "male"): ("an older man", "an elderly man", "an old male"),
        ("older", "female"): ("an older woman", "an elderly woman", "an old female"),
    }
    return _pick(rng, *nouns[attributes["age"], gender])


def _clothes(attributes: Mapping[str, str], rng: np.random.Generator) -> list[str]:
    """Phrases that follow "wears"."""
    sleeves = "with short sleeves" if attributes["short_sleeve"] == "yes" else "with long sleeves"
    length, above, below = (attributes[name] for name in ("top_length", "upper_color", "lower_color"))
    if attributes["dress"] == "yes":
        body = [f"a {length} dress {sleeves}, {above} above and {below} below"]
    else:
        upper = _pick(rng, "upper-body clothes", "clothes on the upper body")
        lower = _pick(rng, "lower-body clothes", "clothes on the lower body")
        body = [f"{length} {above} {upper} {sleeves}", f"{below} {lower}"]
    feet = "boots" if attributes["boots"] == "yes" else "shoes"
    return _shuffled(rng, [*body, f"{attributes['shoes']} {feet}"])


def _extras(attributes: Mapping[str, str], rng: np.random.Generator) -> list[str]:
    """Clauses with a verb each."""
    glasses = _pick(rng, "wears {}glasses", "has {}glasses on")
    hat = _pick(rng, "wears {}hat", "has {}hat on")
    bag = _pick(rng, "carries {}bag", "takes {}bag along")
    return _shuffled(
        rng,
        [
            glasses.format("" if attributes["glasses"] == "yes" else "no "),
            hat.format("a " if attributes["hat"] == "yes" else "no "),
            bag.format("a " if attributes["bag"] == "yes" else "no "),
        ],
    )


def _circumstances(conditions: Conditions, rng: np.random.Generator) -> list[str]:
    """When and from where: adverbial phrases."""
    weather = f"{conditions.weather} {conditions.light}"
    if conditions.weather == "neutral":
        when = (
            f"at {conditions.light}"
            if conditions.light not in ("forenoon", "afternoon")
            else f"in the {conditions.light}"
        )
    else:
        when = f"{_pick(rng, 'in', 'on')} {'an' if weather[0] in 'aeiou' else 'a'} {weather}"
    where = _pick(rng, f"seen from the {conditions.side}", f"with the {conditions.side} in view")
    return _shuffled(rng, [when, where])


def _person_first(parts: _Parts) -> str:
    circumstances = ", ".join(parts.circumstances)
    return (
        f"{parts.person} with {parts.hair} wears {_enumerate(parts.clothes)}, "
        f"this person also {_enumerate(parts.extras)}, {circumstances}"
    )


def _there_is(parts: _Parts) -> str:
    first, second = parts.circumstances
    return (
        f"there is {parts.person} with {parts.hair}, {first}, "
        f"who wears {_enumerate(parts.clothes)}, {second}, and {_enumerate(parts.extras)}"
    )


def _circumstances_first(parts: _Parts) -> str:
    description = _enumerate([f"wears {_enumerate(parts.clothes)}", *parts.extras])
    return f"{', '.join(parts.circumstances)}, {parts.person}, who has {parts.hair}, {description}"


def _extras_first(parts: _Parts) -> str:
    circumstances = ", ".join(parts.circumstances)
    return (
        f"{parts.person} {_enumerate(parts.extras)}; "
        f"this person has {parts.hair} and wears {_enumerate(parts.clothes)}, {circumstances}"
    )


_FRAMES = (_person_first, _there_is, _circumstances_first, _extras_first)
