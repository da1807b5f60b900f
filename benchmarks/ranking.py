"""Exact mAP, mINP and CMC from embeddings against the bare float32 matrix product: time as a ratio, and peak memory.

The embeddings are synthetic with the structure of Market-1501 (`market_like.py`): as drawn, where many matches are
ahead of most candidates, and with the gallery's rows exchanged at random, so that matches lie anywhere in the ranking.
The bare product is Q×G in blocks that are thrown away, with the same library and as many threads. Both take
turns in a process of its own that loads the embeddings; the ratio is the median over turns of one ranking and the
products right before and after it. Memory is what ranking adds to the imports and to the embeddings in their arrays.

    python benchmarks/ranking.py                                        # Market-1501: 3,368 × 15,913
    python benchmarks/ranking.py --num_queries 11659 --num_gallery 82161 --turns 3                         # MSMT17
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.market_like import Embeddings, draw_exactly
from benchmarks.measuring import memory, start_peak, timed
from mmet.evaluation.metrics.ranking import BLOCK_BYTES, rank_metrics

PAUSE = 0.3
"""Seconds between measurements."""


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments.turns)))
        return
    print(f"numpy {np.__version__}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {vars(arguments)}\n")
    print(
        f"| {arguments.num_queries:,} × {arguments.num_gallery:,}, {arguments.dimension} dimensions "
        "| mAP | product, s | ranking, s | ratio (of CPU seconds) | beyond inputs, MiB | peak, MiB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    size = (arguments.num_queries, arguments.num_gallery, arguments.dimension)
    for name, shuffled in (("as drawn", False), ("rows exchanged", True)):
        costs = measure_apart(draw_exactly(*size, shuffled=shuffled), arguments)
        print(
            f"| {name} | {100 * costs['mAP']:.1f} | {costs['product']:.2f} | {costs['ranking']:.2f} "
            f"| {costs['ratio']:.2f} ({costs['cpu_ratio']:.2f}) | {costs['added']:.0f} | {costs['peak']:.0f} |",
            flush=True,
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_queries", type=int, default=3_368)
    parser.add_argument("--num_gallery", type=int, default=15_913)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_apart(data: Embeddings, arguments: argparse.Namespace) -> dict[str, float]:
    """What a process of its own finds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "embeddings.npz")
        np.savez(path, *data.arguments())
        command = [sys.executable, __file__, "--turns", str(arguments.turns), "--measure", str(path)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(path: Path, turns: int) -> dict[str, float]:
    with np.load(path) as stored:
        data = Embeddings(*(stored[name] for name in stored.files))
    mean_ap = rank_metrics(*data.arguments()).mAP  # also warms up both
    resident = memory("VmRSS")
    start_peak()
    rank_metrics(*data.arguments())
    peak = memory("VmHWM")
    products, rankings = [timed_alone(lambda: bare_product(data.query, data.gallery))], []
    for _ in range(turns):
        rankings.append(timed_alone(lambda: rank_metrics(*data.arguments())))
        products.append(timed_alone(lambda: bare_product(data.query, data.gallery)))
    ratios = [
        [ranking[kind] / ((before[kind] + after[kind]) / 2) for kind in (0, 1)]
        for ranking, before, after in zip(rankings, products, products[1:], strict=False)
    ]
    return {
        "mAP": mean_ap,
        "product": statistics.median(seconds for seconds, _ in products),
        "ranking": statistics.median(seconds for seconds, _ in rankings),
        "ratio": statistics.median(by_clock for by_clock, _ in ratios),
        "cpu_ratio": statistics.median(of_cpu for _, of_cpu in ratios),
        "added": (peak - resident) / 2**20,
        "peak": peak / 2**20,
    }


def timed_alone(work: Callable[[], object]) -> tuple[float, float]:
    """As `timed`, after a pause: BLAS's threads wait busily for a while after a product, and would take part."""
    time.sleep(PAUSE)
    return timed(work)


def bare_product(query: NDArray[np.float32], gallery: NDArray[np.float32]) -> None:
    """Q×G with all of BLAS's threads, a block of scores at a time."""
    block_rows = max(1, BLOCK_BYTES // (len(gallery) * gallery.itemsize))
    buffer = np.empty((min(block_rows, len(query)), len(gallery)), dtype=np.float32)
    for start in range(0, len(query), block_rows):
        rows = query[start : start + block_rows]
        np.matmul(rows, gallery.T, out=buffer[: len(rows)])


if __name__ == "__main__":
    main()
