"""What each tool's protocol makes of one set of embeddings: the measured table of `docs/protocol_differences.md`.

The embeddings are synthetic with Market-1501's structure (`market_like.py`): its counts of persons, cameras, queries,
distractors and junk, and a noise that puts mAP near 50. A row changes one thing of the standard protocol. Rows that
`rank_metrics` has no option for are computed here by a full sort of every query's gallery, as the tools do.

    python benchmarks/protocol_effects.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.market_like import Embeddings, draw_embeddings
from mmet.evaluation.metrics.matches import GalleryMatches
from mmet.evaluation.metrics.ranking import RankMetrics, rank_blocks, rank_metrics
from mmet.evaluation.metrics.reranking import prepare_reranking, reranked_metrics

Figures = tuple[float, float]
"""mAP and Rank-1."""

BLOCK_QUERIES = 256
STRANGER = 10**6
"""Person whom nobody asks for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="size, 1 for Market-1501's")
    parser.add_argument("--length_spread", type=float, default=0.1, help="of embeddings that are not normalised")
    arguments = parser.parse_args()
    with_junk = draw_embeddings(seed=arguments.seed, scale=arguments.scale)
    data = with_junk.select_gallery(with_junk.gallery_person_ids != -1)
    print(f"numpy {np.__version__}, scikit-learn {sklearn.__version__}; {vars(arguments)}")
    num_valid = np.count_nonzero(matches_of(data).counts()[0])
    print(
        f"{len(data.query):,} queries ({num_valid:,} with a true match), {len(data.gallery):,} gallery entries and "
        f"{len(with_junk.gallery) - len(data.gallery):,} junk crops\n"
    )
    print("| variant | mAP | difference | Rank-1 | difference |\n| --- | ---: | ---: | ---: | ---: |")
    standard: Figures | None = None
    for name, compute in variants(data, with_junk, arguments.length_spread).items():
        metrics = compute()
        standard = standard or metrics
        cells = [f"{100 * a:.2f} | {100 * (a - b):+.2f}" for a, b in zip(metrics, standard, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def variants(data: Embeddings, with_junk: Embeddings, length_spread: float) -> dict[str, Callable[[], Figures]]:
    """Every row of the table, the standard first."""
    plain = data.arguments()
    without_distractors = data.select_gallery(data.gallery_person_ids != 0)
    return {
        "standard": lambda: of(rank_metrics(*plain)),
        "AP by trapezoids": lambda: of(rank_metrics(*plain, ap="trapezoid")),
        "means over all queries": lambda: of(rank_metrics(*plain, denominator="all")),
        "both (`market-matlab`)": lambda: of(rank_metrics(*plain, ap="trapezoid", denominator="all")),
        "list cut at 500, AP over the matches found": lambda: by_sorting(data, cut_at_500),
        "float16 scores, ties grouped (scikit-learn)": lambda: by_sorting(data, grouped_ties, np.float16),
        "float16 scores, ties in gallery order": lambda: by_sorting(data, stable, np.float16),
        "float16 scores, ties reversed": lambda: by_sorting(data, reversed_ties, np.float16),
        "float16 scores, unstable sort": lambda: by_sorting(data, unstable, np.float16),
        "float32 scores, ties reversed": lambda: by_sorting(data, reversed_ties),
        "junk kept as wrong candidates": lambda: of(rank_metrics(*junk_as_strangers(with_junk).arguments())),
        "distractors removed": lambda: of(rank_metrics(*without_distractors.arguments())),
        "same-camera images kept (`no-camera`)": lambda: of(rank_metrics(*plain[:4])),
        "Euclidean, embeddings not normalised": lambda: euclidean(data, length_spread),
        "re-ranked, 20/6/0.3": lambda: of(reranked_metrics(*plain, metric="cosine")),
        "re-ranked, 50/15/0.3": lambda: of(reranked_metrics(*plain, k1=50, k2=15, metric="cosine")),
        "re-ranked, 20/6/0.3, junk among the neighbours": lambda: reranked_among_junk(with_junk),
    }


def of(metrics: RankMetrics) -> Figures:
    return metrics.mAP, metrics.rank(1)


def junk_as_strangers(with_junk: Embeddings) -> Embeddings:
    persons = with_junk.gallery_person_ids
    return replace(with_junk, gallery_person_ids=np.where(persons == -1, STRANGER, persons))


def matches_of(data: Embeddings) -> GalleryMatches:
    return GalleryMatches(
        data.query_person_ids, data.gallery_person_ids, data.query_camera_ids, data.gallery_camera_ids
    )


def euclidean(data: Embeddings, spread: float) -> Figures:
    """Embeddings whose lengths vary by some percent, ranked by Euclidean distance."""
    rng = np.random.default_rng(1)
    query, gallery = (
        rows * rng.lognormal(sigma=spread, size=(len(rows), 1)).astype(np.float32)
        for rows in (data.query, data.gallery)
    )
    half_squares = (gallery**2).sum(axis=1) / 2

    def blocks() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(query), BLOCK_QUERIES):  # -distance² / 2, up to the query's own length
            yield query[start : start + BLOCK_QUERIES] @ gallery.T - half_squares

    return of(rank_blocks(blocks(), matches_of(data)))


def reranked_among_junk(with_junk: Embeddings) -> Figures:
    """Junk takes part in neighbour lists and is ignored in the ranking, as where it is marked but not dropped."""
    clean = with_junk.gallery_person_ids != -1
    reranking = prepare_reranking(with_junk.query, with_junk.gallery, metric="cosine")
    blocks = (-distances[:, clean] for _, distances in reranking.blocks())
    return of(rank_blocks(blocks, matches_of(with_junk.select_gallery(clean))))


Row = Callable[[NDArray, NDArray[np.bool_]], Figures]
"""AP and hit at rank 1 of one query from the scores and hits `(n,)` of its gallery in gallery order."""


def by_sorting(data: Embeddings, row: Row, dtype: type = np.float32) -> Figures:
    """Means over the queries with a true match."""
    figures = []
    for start in range(0, len(data.query), BLOCK_QUERIES):
        block = slice(start, start + BLOCK_QUERIES)
        scores: NDArray = (data.query[block] @ data.gallery.T).astype(dtype)
        for ranks, person, camera in zip(
            scores, data.query_person_ids[block], data.query_camera_ids[block], strict=True
        ):
            hits = data.gallery_person_ids == person
            kept = ~(hits & (data.gallery_camera_ids == camera))
            if hits[kept].any():
                figures.append(row(ranks[kept], hits[kept]))
    precision, first = np.mean(figures, axis=0)
    return float(precision), float(first)


def mean_precision(hits: NDArray[np.bool_]) -> float:
    """AP of a ranked list of hits; 0 without any."""
    places = np.flatnonzero(hits) + 1
    return float(np.mean(np.arange(1, len(places) + 1) / places)) if len(places) else 0.0


def stable(scores: NDArray, hits: NDArray[np.bool_]) -> Figures:
    ranked = hits[np.argsort(-scores, kind="stable")]
    return mean_precision(ranked), float(ranked[0])


def unstable(scores: NDArray, hits: NDArray[np.bool_]) -> Figures:
    ranked = hits[np.argsort(-scores, kind="quicksort")]
    return mean_precision(ranked), float(ranked[0])


def reversed_ties(scores: NDArray, hits: NDArray[np.bool_]) -> Figures:
    ranked = hits[np.argsort(scores, kind="stable")[::-1]]
    return mean_precision(ranked), float(ranked[0])


def grouped_ties(scores: NDArray, hits: NDArray[np.bool_]) -> Figures:
    return float(average_precision_score(hits, scores)), stable(scores, hits)[1]


def cut_at_500(scores: NDArray, hits: NDArray[np.bool_]) -> Figures:
    ranked = hits[np.argsort(-scores, kind="stable")][:500]
    return mean_precision(ranked), float(ranked[0])


if __name__ == "__main__":
    main()
