"""How faithful explanations are, on drawn pictures whose silhouettes and part masks are known: three tables.

python benchmarks/explanation.py --model outputs/demo/model --persons 60

Image to image, and sentence to image: deletion and insertion are the mean cosine while pixels are replaced by the mean
colour, or put back, from the highest value of the map on (lower and higher is better). Pointing: how often the highest
value is on the person. Energy: share of the map on the person; the silhouette's share of the area is what a map
without information has. Random weights: rank correlation with the map of a model whose weights were drawn anew; near
1, the map does not depend on the model.

Words: each phrase of a sentence such as "a woman with a red jacket, blue jeans" is explained by itself, and the map
should lie on the garment that it names. Pointing, energy and area are those of that part; "gain" is energy over area,
and "right part" how often the mean of the map is higher on the named part than on every other one named.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr

from mmet.data.synthetic import PART_CLASSES, STYLES, Identity, Person, Picture, person, plan_shots, render_shot
from mmet.evaluation.systems.loading import load_embedder
from mmet.explain import METHODS, Explainer

STEPS = 10
SEED = 7
LEAST_AREA = 0.01
"""Share of the picture that a part takes at least: smaller ones are no fair target on a map of 32 to 200 patches."""

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A picture, another one of the same person, and a sentence with its phrases by the part that each names."""

    picture: Picture
    other: Picture
    sentence: str
    phrases: dict[str, str]


def cases(style_name: str, count: int) -> Iterator[Case]:
    """One case for each of the first persons of a style."""
    style = STYLES[style_name]
    for number in range(1, count + 1):
        who = person(style, SEED, number)
        shots = plan_shots(style, seed=SEED, person=number, count=2)
        picture, other = (render_shot(who, shot, style, height=192, width=96) for shot in shots)
        areas = np.bincount(np.asarray(picture.parts).ravel(), minlength=len(PART_CLASSES)) / (192 * 96)
        worn = {part: words for part, words in worn_words(who).items() if areas[PART_CLASSES[part]] >= LEAST_AREA}
        noun = "woman" if who.attributes.gender == "female" else "man"
        yield Case(picture, other, f"a {noun} with {', '.join(worn.values())}", worn)


def worn_words(who: Identity | Person) -> dict[str, str]:
    """What a person wears, colour first, by the part that it covers."""
    if isinstance(who, Person):
        look = who.appearance
        words = {"upper": f"{look.outermost.shade} {look.outermost.kind}", "shoes": f"{look.shoes.shade} shoes"}
        words |= {"lower": f"{look.lower.shade} {look.lower.kind}"} if look.lower else {}
        things = {"bag": look.bag, "hat": look.hat}
        return words | {part: f"{thing.shade} {thing.kind}" for part, thing in things.items() if thing}
    plain = who.appearance
    words = {"upper": f"{plain.upper.color_name} {plain.upper_kind}", "shoes": f"{who.attributes.shoes} shoes"}
    words |= {} if plain.lower_kind == "dress" else {"lower": f"{plain.lower.color_name} {plain.lower_kind}"}
    words |= {"bag": f"{plain.bag.color_name} {plain.bag_kind}"} if plain.bag_kind else {}
    return words | ({"hat": f"{plain.hat.color_name} {plain.hat_kind}"} if plain.hat_kind else {})


def curve(explainer: Explainer, picture: Image.Image, query: torch.Tensor, values: Map, *, insert: bool) -> float:
    """Mean cosine over the steps of deletion or insertion."""
    pixels = np.asarray(picture)
    blank = np.broadcast_to(pixels.mean(axis=(0, 1)).round().astype(np.uint8), pixels.shape)
    start, end = (blank, pixels) if insert else (pixels, blank)
    ranks = np.argsort(np.argsort(-values, axis=None, kind="stable")).reshape(values.shape)
    images = [
        Image.fromarray(np.where((ranks < step * values.size / STEPS)[..., None], end, start))
        for step in range(STEPS + 1)
    ]
    inputs = explainer.processor(images=images, return_tensors="pt")
    with torch.inference_mode():
        embeddings = explainer.model(**inputs)["embeddings"]
    return float((embeddings @ query).mean())


def measure(method: str, explainer: Explainer, blind: Explainer, case: Case, *, by_text: bool) -> list[float]:
    """Deletion, insertion, pointing, energy, area share and correlation with random weights of one picture."""
    picture, inside = case.picture.image, np.asarray(case.picture.mask) > 0
    image, text = (None, case.sentence) if by_text else (case.other.image, None)
    if method == "chance":
        values = chance(picture)
        correlation = float("nan")
    else:
        values, other = (each.explain(picture, image=image, text=text, method=method) for each in (explainer, blind))
        correlation = float(spearmanr(values.ravel(), other.ravel()).statistic)
    query = explainer.embed(image, text)
    deletion, insertion = (curve(explainer, picture, query, values, insert=insert) for insert in (False, True))
    return [deletion, insertion, *on_part(values, inside), correlation]


def chance(picture: Image.Image) -> Map:
    """A map without information, smooth as the others are."""
    rng = np.random.default_rng(list(picture.tobytes()[:3]))
    coarse = Image.fromarray(rng.random((8, 4), dtype=np.float32))
    return np.asarray(coarse.resize(picture.size, Image.Resampling.BILINEAR))


def on_part(values: Map, inside: NDArray[np.bool_]) -> list[float]:
    """Pointing, energy and area of a part."""
    energy = float(values[inside].sum()) / max(float(values.sum()), 1e-9)
    return [float(inside.flat[values.argmax()]), energy, float(inside.mean())]


def measure_words(method: str, explainer: Explainer, case: Case) -> dict[str, list[float]]:
    """By part: pointing, energy, area, gain, and whether the map is higher there than on the other parts named."""
    labels = np.asarray(case.picture.parts)
    places = {part: labels == PART_CLASSES[part] for part in case.phrases}
    phrases = list(case.phrases.values())
    if method == "chance":
        maps = [chance(case.picture.image)] * len(phrases)
    else:
        word_maps = explainer.explain_words(case.picture.image, case.sentence, phrases=phrases, method=method)
        maps = [values for _, values in word_maps]
    rows = {}
    for part, values in zip(places, maps, strict=False):  # phrases beyond the text length have no map
        pointing, energy, area = on_part(values, places[part])
        means = {name: float(values[place].mean()) for name, place in places.items()}
        right = float("nan") if len(means) < 2 else float(max(means, key=means.__getitem__) == part)
        rows[part] = [pointing, energy, area, energy / area, right]
    return rows


def show(title: str, columns: Sequence[str], rows: dict[str, list[list[float]]]) -> None:
    """A table of means, with the largest standard error below it."""
    print(f"\n{title}\n\n| method | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    errors = []
    for name, values in rows.items():
        table = np.asarray(values, dtype=np.float64)
        means = np.nanmean(table, axis=0) if not np.isnan(table).all(axis=0).any() else table.mean(axis=0)
        errors.append(np.nanstd(table[:, :3], axis=0) / np.sqrt(len(table)))
        print(f"| {name} | " + " | ".join("" if np.isnan(value) else f"{value:.3f}" for value in means) + " |")
    largest = np.max(errors, axis=0)
    print(f"\nStandard errors: at most {', '.join(f'{error:.3f}' for error in largest)} in the first three columns.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--persons", type=int, default=60)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--style", choices=list(STYLES), default="target")
    options = parser.parse_args()
    model, processor = load_embedder(options.model)
    torch.manual_seed(0)
    explainer, blind = Explainer(model, processor), Explainer(type(model)(model.config).eval(), processor)
    shown = list(cases(options.style, options.persons))
    names = [*options.methods, "chance"]
    columns = ("deletion", "insertion", "pointing", "energy", "area", "random weights")
    for by_text, title in ((False, "Image to image"), (True, "Sentence to image")):
        rows = {name: [measure(name, explainer, blind, case, by_text=by_text) for case in shown] for name in names}
        show(f"{title}, {len(shown)} pictures", columns, rows)
    words = {name: [measure_words(name, explainer, case) for case in shown] for name in names}
    of_words = ("pointing", "energy", "area", "gain", "right part")
    by_method = {name: [row for scores in each for row in scores.values()] for name, each in words.items()}
    show(f"Words, {len(by_method['chance'])} phrases", of_words, by_method)
    for part in PART_CLASSES:
        by_part = {name: [scores[part] for scores in each if part in scores] for name, each in words.items()}
        if by_part["chance"]:
            show(f"Words that name {part}, {len(by_part['chance'])} phrases", of_words, by_part)


if __name__ == "__main__":
    main()
