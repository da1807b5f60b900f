"""Generate phrases about people, in many more words than the drawn worlds use; the text encoder is distilled on them.

next(phrases(seed=0))       # "a person in a crimson parka and dark jeans"
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib import resources

import yaml

_WORDS: dict[str, list[str]] = yaml.safe_load(resources.files(__package__).joinpath("words.yaml").read_text("utf-8"))


def phrases(seed: int = 0) -> Iterator[str]:
    """Yield phrases without end, determined by the seed."""
    rng = random.Random(seed)
    while True:
        yield _phrase(rng)


def _phrase(rng: random.Random) -> str:
    """Draw a phrase: a garment alone, a short description, or a sentence of several parts."""
    kind = rng.random()
    if kind < 0.25:
        return _garment(rng)
    if kind < 0.35:
        return f"{_word(rng, 'people')} {rng.choice(('with', 'wearing', 'and'))} {_word(rng, 'heads', 'things')}"
    parts = rng.sample([_top, _legs, _shoes], rng.randint(1, 3))
    text = f"{_word(rng, 'people')} {rng.choice(('in', 'wearing', 'who wears', 'dressed in', 'with'))} "
    text += _joined([part(rng) for part in parts])
    if rng.random() < 0.4:
        text += rng.choice((" with ", " and ", ", carrying ", ", wearing ")) + _word(rng, "heads", "things")
    if rng.random() < 0.15:
        text += f", {_word(rng, 'doings')}"
    return text[0].upper() + text[1:] + "." if rng.random() < 0.3 else text


def _word(rng: random.Random, *lists: str) -> str:
    """Draw a word from these lists of `words.yaml`."""
    return rng.choice([word for name in lists for word in _WORDS[name]])


def _garment(rng: random.Random) -> str:
    return rng.choice((_top, _legs, _shoes))(rng).removeprefix("a ").removeprefix("an ")


def _colour(rng: random.Random) -> str:
    """Draw a colour, or an empty string."""
    draw = rng.random()
    return _word(rng, "colours") if draw < 0.65 else _word(rng, "mixed_colours") if draw < 0.9 else ""


def _top(rng: random.Random) -> str:
    words = f"{_colour(rng)} {_word(rng, 'tops' if rng.random() < 0.6 else 'kinds_of_top')}".strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _legs(rng: random.Random) -> str:
    return f"{_colour(rng)} {_word(rng, 'legs')}".strip()


def _shoes(rng: random.Random) -> str:
    return f"{_colour(rng)} {_word(rng, 'shoes')}".strip()


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
