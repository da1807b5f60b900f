"""How faithful explanations are, on drawn pictures with known silhouettes: a table of methods, image to image.

python benchmarks/explanation.py --model outputs/demo/model --persons 12

Deletion and insertion: mean cosine while pixels are replaced by the mean colour, or put back, from the highest value
of the map on (lower and higher is better). Pointing: how often the highest value is on the person. Energy: share of
the map on the person; its silhouette's share of the area is what a map without information has. Random weights: rank
correlation with the map of a model whose weights were drawn anew; near 1, the map does not depend on the model.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr

from mmet.data.synthetic import TARGET, render_person
from mmet.evaluation.systems.loading import load_embedder
from mmet.explain import METHODS, Explainer

STEPS = 10


def curve(
    explainer: Explainer, picture: Image.Image, query: torch.Tensor, values: NDArray[np.float32], *, insert: bool
) -> float:
    """Mean cosine over the steps of deletion or insertion."""
    pixels = np.asarray(picture)
    blank = np.broadcast_to(pixels.mean(axis=(0, 1)).round().astype(np.uint8), pixels.shape)
    start, end = (blank, pixels) if insert else (pixels, blank)
    ranks = np.argsort(np.argsort(-values, axis=None, kind="stable")).reshape(values.shape)
    scores = []
    for step in range(STEPS + 1):
        changed = (ranks < step * values.size / STEPS)[..., None]
        scores.append(float(explainer.embed(Image.fromarray(np.where(changed, end, start)), None) @ query))
    return float(np.mean(scores))


def measure(method: str, explainer: Explainer, blind: Explainer, persons: int) -> NDArray[np.float64]:
    """Mean of deletion, insertion, pointing, energy, area share and correlation with random weights."""
    rows = []
    for number in range(1, persons + 1):
        picture, mask = render_person(number, seed=7, style=TARGET, index=0)
        query, _ = render_person(number, seed=7, style=TARGET, index=1)
        inside = np.asarray(mask) > 0
        if method == "chance":
            values = np.random.default_rng(number).random((picture.height, picture.width), dtype=np.float32)
            other = values
        else:
            values = explainer.explain(picture, image=query, method=method)
            other = blind.explain(picture, image=query, method=method)
        vector = explainer.embed(query, None)
        rows.append(
            (
                curve(explainer, picture, vector, values, insert=False),
                curve(explainer, picture, vector, values, insert=True),
                float(inside.flat[values.argmax()]),
                float(values[inside].sum()) / max(float(values.sum()), 1e-9),
                float(inside.mean()),
                float("nan") if method == "chance" else spearmanr(values.ravel(), other.ravel()).statistic,
            )
        )
    return np.asarray(rows, dtype=np.float64).mean(axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--persons", type=int, default=12)
    options = parser.parse_args()
    model, processor = load_embedder(options.model)
    torch.manual_seed(0)
    explainer, blind = Explainer(model, processor), Explainer(type(model)(model.config).eval(), processor)
    print("| method | deletion | insertion | pointing | energy | area | random weights |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for method in [*METHODS, "chance"]:
        values = measure(method, explainer, blind, options.persons)
        print(f"| {method} | " + " | ".join(f"{value:.3f}" for value in values) + " |", flush=True)


if __name__ == "__main__":
    main()
