"""The `evaluate` module beside the function it calls, at Market-1501 size: seconds and their ratio.

Three ways take turns in one process: `rank_metrics`, `compute` with query and gallery, and `add_batch` in batches with
`compute` after them. Medians over the turns are printed, and that all figures are equal is checked.

    python benchmarks/evaluate_module.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.market_like import Embeddings, draw_embeddings
from mmet.evaluation.metrics.ranking import rank_metrics

MODULE = Path(__file__).resolve().parents[1] / "mmet" / "evaluation" / "reid"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=256)
    arguments = parser.parse_args()
    data = draw_embeddings(junk=False)
    reid = evaluate.load(str(MODULE))
    ways: dict[str, Callable[[], float]] = {
        "`rank_metrics`": lambda: rank_metrics(*data.arguments()).mAP,
        "`compute`": lambda: reid.compute(**sides(data))["mAP"],
        "`add_batch`, `compute`": lambda: in_batches(reid, data, arguments.batch_size),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    figures = set()
    for _ in range(arguments.turns):
        for name, run in ways.items():
            start = time.perf_counter()
            figures.add(run())
            seconds[name].append(time.perf_counter() - start)
    if len(figures) != 1:
        raise SystemExit(f"expected one mAP, received {figures}")
    print(f"numpy {np.__version__}, evaluate {evaluate.__version__}, {os.cpu_count()} cores; {vars(arguments)}\n")
    print(f"| {len(data.query):,} × {len(data.gallery):,} | seconds | of the function's |\n| --- | ---: | ---: |")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median / medians['`rank_metrics`']:.2f} |")


def sides(data: Embeddings) -> dict[str, Any]:
    names = ("query_embeddings", "gallery_embeddings", "query_person_ids", "gallery_person_ids")
    return dict(zip((*names, "query_camera_ids", "gallery_camera_ids"), data.arguments(), strict=True))


def in_batches(reid: evaluate.EvaluationModule, data: Embeddings, size: int) -> float:
    """Query and gallery batch by batch, as a model gives them."""
    columns = sides(data)
    for side in ("query", "gallery"):
        for start in range(0, len(columns[f"{side}_embeddings"]), size):
            batch = slice(start, start + size)
            reid.add_batch(
                embeddings=columns[f"{side}_embeddings"][batch],
                person_ids=columns[f"{side}_person_ids"][batch],
                camera_ids=columns[f"{side}_camera_ids"][batch],
                is_query=side == "query",
            )
    return reid.compute()["mAP"]


if __name__ == "__main__":
    main()
