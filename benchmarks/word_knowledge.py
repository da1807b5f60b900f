"""What words mean to a model: 12 colours x 6 garments on drawn people of a world that it was not trained on.

python benchmarks/word_knowledge.py --model starter --persons 3

Every colour and garment is drawn on several people in two pictures. For each pair, the sentence "a person in a red
jacket" scores all pictures; AUC is the chance that one with it comes before one without. Three kinds without: all
others; the same garment in another colour; and the colour on the other half of the body (red trousers for a red
jacket). Then, colour by colour, which colour's pictures score highest where another was asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mmet.data.synthetic import STYLES
from mmet.data.synthetic.lifelike.people import Garment, Look, Person, draw_garment, draw_person
from mmet.data.synthetic.lifelike.renderer import render_lifelike
from mmet.data.synthetic.lifelike.shades import draw_rgb
from mmet.data.synthetic.style import plan_shots, style_rng
from mmet.evaluation.systems.loading import load_embedder

COLOURS = {
    "black": "black", "white": "white", "grey": "gray", "red": "red", "blue": "blue", "light blue": "light blue",
    "green": "green", "yellow": "yellow", "orange": "orange", "pink": "pink", "purple": "purple", "brown": "brown",
}  # fmt: skip
"""The word, and the drawn world's name for the shade."""

UPPER = {"jacket": "jacket", "coat": "coat", "hoodie": "hoodie", "t-shirt": "t-shirt"}
LOWER = {"trousers": "trousers", "skirt": "skirt"}


@dataclass(frozen=True)
class Drawn:
    """A picture, and the colour and garment of both halves of the body."""

    picture: Image.Image
    upper: tuple[str, str]
    lower: tuple[str, str]


def coloured(rng: np.random.Generator, kind: str, shade: str) -> Garment:
    """A plain garment of a kind and shade, closed."""
    garment = draw_garment(rng, kind)
    return replace(garment, shade=shade, rgb=draw_rgb(rng, shade), pattern="plain", opened=False)


def draw(persons: int, seed: int, style_name: str) -> list[Drawn]:
    """Two pictures each of `persons` people for every colour and garment; the other half is of a random colour."""
    style = STYLES[style_name]
    drawn = []
    number = 0
    for kinds, is_upper in ((UPPER, True), (LOWER, False)):
        for word in kinds:
            for colour in COLOURS:
                for _ in range(persons):
                    number += 1
                    rng = style_rng(style, seed, number)
                    other = str(rng.choice([name for name in COLOURS if name != colour]))
                    upper = (colour, word) if is_upper else (other, str(rng.choice(list(UPPER))))
                    lower = (other, str(rng.choice(list(LOWER)))) if is_upper else (colour, word)
                    person = Person(number, _dressed(rng, draw_person(rng, number=number).appearance, upper, lower))
                    for shot in plan_shots(style, seed=seed, person=number, count=2):
                        picture = render_lifelike(person, shot, style, height=160, width=80).image
                        drawn.append(Drawn(picture, upper, lower))
    return drawn


def _dressed(rng: np.random.Generator, look: Look, upper: tuple[str, str], lower: tuple[str, str]) -> Look:
    """The look in these clothes, with nothing over them."""
    garment = coloured(rng, UPPER[upper[1]], COLOURS[upper[0]])
    outer = garment if upper[1] in ("jacket", "coat") else None
    top = coloured(rng, "t-shirt", "white") if outer is not None else garment
    return replace(
        look,
        top=top,
        outer=outer,
        lower=coloured(rng, LOWER[lower[1]], COLOURS[lower[0]]),
        scarf=None,
        hood_up=False,
    )


@torch.inference_mode()
def embed(model_name: str, pictures: Sequence[Image.Image], sentences: Sequence[str]) -> tuple[NDArray, NDArray]:
    """Embeddings of both, each about its own mean."""
    model: Any
    processor: Any
    model, processor = load_embedder(model_name)
    model.train(False)
    parts = [list(pictures[start : start + 64]) for start in range(0, len(pictures), 64)]
    images = torch.cat([model(**processor(images=part, return_tensors="pt")).embeddings for part in parts]).float()
    texts = model(**processor(text=list(sentences), padding=True, return_tensors="pt")).embeddings.float()
    return (images - images.mean(dim=0)).numpy(), (texts - texts.mean(dim=0)).numpy()


def auc(positive: NDArray, negative: NDArray) -> float:
    """The chance that a positive's score is above a negative's."""
    return float((positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Colours and garments, word by word.")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--persons", type=int, default=3, help="people for each colour and garment (default: 3)")
    parser.add_argument("--style", default="campus", help="drawn world (default: campus)")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    drawn = draw(options.persons, options.seed, options.style)
    pairs = [(colour, word) for word in (*UPPER, *LOWER) for colour in COLOURS]
    sentences = [f"a person in {'' if word == 'trousers' else 'a '}{colour} {word}" for colour, word in pairs]
    images, texts = embed(options.model, [person.picture for person in drawn], sentences)
    scores = texts @ (images / np.linalg.norm(images, axis=1, keepdims=True)).T  # (pairs, pictures)
    worn = [{person.upper, person.lower} for person in drawn]
    rows = []
    for number, (colour, word) in enumerate(pairs):
        half = "upper" if word in UPPER else "lower"
        is_match = np.array([(colour, word) in clothes for clothes in worn])
        same_garment = np.array([getattr(person, half)[1] == word for person in drawn]) & ~is_match
        other_half = np.array(
            [getattr(person, "lower" if half == "upper" else "upper")[0] == colour for person in drawn]
        )
        positive = scores[number, is_match]
        rows.append(
            [auc(positive, scores[number, without]) for without in (~is_match, same_garment, other_half & ~is_match)]
        )
    values = np.array(rows)
    names = ("all others", "same garment, other colour", "same colour, other half")
    print(f"{len(drawn)} pictures, {len(pairs)} sentences of {options.model}; AUC against")
    print("| | " + " | ".join(names) + " |\n" + "| --- " * 4 + "|")
    for label, chosen in [
        *((word, [p[1] == word for p in pairs]) for word in (*UPPER, *LOWER)),
        *((colour, [p[0] == colour for p in pairs]) for colour in COLOURS),
        ("all", [True] * len(pairs)),
    ]:
        print(f"| {label} | " + " | ".join(f"{value:.2f}" for value in values[np.array(chosen)].mean(axis=0)) + " |")
    _print_confusion(drawn, pairs, scores)


def _print_confusion(drawn: Sequence[Drawn], pairs: Sequence[tuple[str, str]], scores: NDArray) -> None:
    """Of the upper garments: for each colour asked, the colours of its best tenth of pictures."""
    print("\ncolours of the upper body in the best tenth of pictures, by the colour asked for")
    colours = np.array([person.upper[0] for person in drawn])
    for colour in COLOURS:
        best = np.concatenate(
            [
                colours[np.argsort(-scores[number])[: len(drawn) // 10]]
                for number, pair in enumerate(pairs)
                if pair[0] == colour and pair[1] in UPPER
            ]
        )
        shares = {name: float((best == name).mean()) for name in COLOURS}
        mistakes = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda x: -x[1])[:4])
        print(f"{colour}: {mistakes}")


if __name__ == "__main__":
    main()
