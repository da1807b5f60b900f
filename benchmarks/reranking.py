"""k-reciprocal re-ranking: seconds and peak memory beside the bare matrix product, and equality with the dense code.

The embeddings are synthetic with the structure of Market-1501 (`market_like.py`). Time and memory are taken in a
process of its own that loads the embeddings, so that memory is what re-ranking and the ranking after it need beyond
imports and embeddings. The bare product is N×N with N = Q + G, in blocks, in float32, with the same library and
threads, timed right before and after. CPU seconds are those of all threads; where the machine is shared they tell more
than the clock.

    python benchmarks/reranking.py                                        # Market-1501: 3,368 × 15,913, and equality
    python benchmarks/reranking.py --num_queries 11659 --num_gallery 82161 --skip_dense            # MSMT17

The named peer is torchreid's `re_ranking`: 43 s after 7.6 s of distances and 8.8 GB at Market-1501 size on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.market_like import Embeddings, draw_embeddings, draw_exactly
from benchmarks.measuring import memory, start_peak, timed
from mmet.evaluation.metrics.ranking import rank_metrics
from mmet.evaluation.metrics.reranking import reranked_metrics

PEER_SECONDS, PEER_GIGABYTES = 43.0, 8.8
DENSE_SCALE = 0.15
"""Size of the data on which the dense code runs, of Market-1501's."""


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments)))
        return
    print(f"numpy {np.__version__}, {os.cpu_count()} cores; {vars(arguments)}\n")
    report_speed(arguments)
    if not arguments.skip_dense:
        report_equality(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_queries", type=int, default=3_368)
    parser.add_argument("--num_gallery", type=int, default=15_913)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--k1", type=int, default=20)
    parser.add_argument("--k2", type=int, default=6)
    parser.add_argument("--lambda_value", type=float, default=0.3)
    parser.add_argument("--skip_dense", action="store_true", help="leave out the comparison with the dense code")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"k1": arguments.k1, "k2": arguments.k2, "lambda_value": arguments.lambda_value, "metric": "cosine"}


def report_speed(arguments: argparse.Namespace) -> None:
    data = draw_exactly(arguments.num_queries, arguments.num_gallery, arguments.dimension)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "embeddings.npz")
        np.savez(path, *data.arguments())
        output = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--measure", path], capture_output=True, text=True, check=True
        ).stdout
    figures = json.loads(output.splitlines()[-1])
    product, reranked = figures["product"], figures["reranked"]
    size = f"{arguments.num_queries:,} × {arguments.num_gallery:,}"
    print(f"| {size}, {arguments.dimension} dimensions | seconds | CPU seconds | share of the product | peak memory |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| bare product, N × N | {product[0]:.1f} | {product[1]:.1f} | 1.00 | |")
    print(
        f"| re-ranking and ranking | {reranked[0]:.1f} | {reranked[1]:.1f} | {reranked[0] / product[0]:.2f} "
        f"(CPU: {reranked[1] / product[1]:.2f}) | {figures['peak'] / 1e9:.2f} GB |"
    )
    print(f"\nmAP {figures['plain']:.4f} → {figures['mAP']:.4f} re-ranked")
    print(
        f"torchreid at 3,368 × 15,913 on a machine of this kind: {PEER_SECONDS:.0f} s after the distances, "
        f"{PEER_GIGABYTES} GB\n"
    )


def measure(path: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """What the process of its own finds."""
    with np.load(path) as stored:
        data = Embeddings(*(stored[name] for name in stored.files))
    plain = rank_metrics(*data.arguments()).mAP
    points = np.concatenate([data.query, data.gallery])
    before = timed(lambda: bare_product(points))
    del points
    resident = memory("VmRSS")
    start_peak()
    results = []
    reranked = timed(lambda: results.append(reranked_metrics(*data.arguments(), **parameters(arguments))))
    peak = memory("VmHWM") - resident
    points = np.concatenate([data.query, data.gallery])
    after = timed(lambda: bare_product(points))
    product = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
    return {"product": product, "reranked": reranked, "peak": peak, "plain": plain, "mAP": results[0].mAP}


def bare_product(points: NDArray[np.float32], block_rows: int = 512) -> None:
    buffer = np.empty((block_rows, len(points)), dtype=np.float32)
    for start in range(0, len(points), block_rows):
        rows = points[start : start + block_rows]
        np.matmul(rows, points.T, out=buffer[: len(rows)])


def report_equality(arguments: argparse.Namespace) -> None:
    """mAP of the dense code and of ours, on data small enough for square matrices."""
    data = draw_embeddings(scale=DENSE_SCALE, junk=False, dimension=arguments.dimension)
    ours = reranked_metrics(*data.arguments(), **parameters(arguments))
    distances = dense_distances(data.query, data.gallery, arguments.k1, arguments.k2, arguments.lambda_value)
    dense = mean_average_precision(distances, data)
    print(
        f"{len(data.query):,} × {len(data.gallery):,}: mAP {ours.mAP:.6f}, by square matrices in float64 {dense:.6f}, "
        f"difference {abs(ours.mAP - dense):.1e}"
    )
    if abs(ours.mAP - dense) > 1e-4:
        raise SystemExit("expected equal mAP to 1e-4")


def dense_distances(query: NDArray, gallery: NDArray, k1: int, k2: int, lambda_value: float) -> NDArray[np.float64]:
    """The paper with square matrices, on normalised rows; `(Q, G)`."""
    points = np.concatenate([query, gallery]).astype(np.float64)
    distances = np.maximum(1 - points @ points.T, 0)
    distances /= distances.max(axis=1, keepdims=True)
    order = np.argsort(distances, axis=1, kind="stable")
    place = np.argsort(order, axis=1)
    reciprocal = (place <= k1) & (k1 >= place.T)
    half = int(np.around(k1 / 2))
    reciprocal_half = (place <= half) & (half >= place.T)
    weights = np.zeros_like(distances)
    for point, neighbors in enumerate(reciprocal):
        sets = reciprocal_half[neighbors]
        accepted = 3 * (sets & neighbors).sum(axis=1) > 2 * sets.sum(axis=1)
        members = neighbors | sets[accepted].any(axis=0)
        weights[point, members] = np.exp(-distances[point, members])
    weights /= weights.sum(axis=1, keepdims=True)
    if k2 > 1:
        weights = np.stack([weights[row[:k2]].mean(axis=0) for row in order])
    smaller = np.stack([np.minimum(row, weights[len(query) :]).sum(axis=1) for row in weights[: len(query)]])
    jaccard = 1 - smaller / (2 - smaller)
    return lambda_value * distances[: len(query), len(query) :] + (1 - lambda_value) * jaccard


def mean_average_precision(distances: NDArray[np.float64], data: Embeddings) -> float:
    """mAP of the standard protocol by a full sort of every row."""
    precisions = []
    for row, person, camera in zip(distances, data.query_person_ids, data.query_camera_ids, strict=True):
        kept = (data.gallery_person_ids != person) | (data.gallery_camera_ids != camera)
        hits = (data.gallery_person_ids == person)[kept][np.argsort(row[kept], kind="stable")]
        if hits.any():
            precisions.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return float(np.mean(precisions))


if __name__ == "__main__":
    main()
