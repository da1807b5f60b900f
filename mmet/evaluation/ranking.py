"""mAP, mINP and the CMC curve of a retrieval run, exact and in linear memory.

    metrics = rank_metrics(query_embeddings, gallery_embeddings, query_person_ids, gallery_person_ids)
    metrics.mAP, metrics.rank(1)

All three metrics depend only on the ranks of a query's true matches, and the rank of a match is one plus the number of
gallery entries ahead of it. Scores are computed for a block of queries at a time and, for each query, the entries
ahead of every match are counted; the Q×G score matrix is never held and the gallery is never argsorted.

Definitions, for a query whose P true matches have the ranks r_1 < … < r_P (1 = best):

- AP = mean of i / r_i (the mean of the precisions at the matches, as in torchreid, fast-reid, TransReID and IRRA; the
  Matlab code of Market-1501 uses the trapezoid instead);
- INP = P / r_P (Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", 2020);
- CMC at k = 1 if r_1 <= k, else 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mmet.data.schema import JUNK_PERSON_ID, NO_CAMERA

BLOCK_BYTES = 16 * 2**20
"""Default size of a block of scores: small enough for the last-level cache, large enough for a fast matrix product."""

MAX_LENGTH = 1e18
"""Longest embedding whose float32 product with another is certainly finite; one below its inverse counts as zero."""

SAMPLE_STRIDE = 16
"""Of a query's scores, one in this many is looked at to choose between two equally exact ways to count."""


@dataclass(frozen=True, eq=False)
class RankMetrics:
    """The metrics of one retrieval run; every metric is a fraction in [0, 1].

    Attributes:
        mAP: mean average precision over the valid queries.
        mINP: mean inverse negative penalty over the valid queries.
        cmc: `(max_rank,)` float64; `cmc[k - 1]` is the share of valid queries with a true match among the first k.
        num_queries: all queries.
        num_valid_queries: queries with a true match in their gallery; the others are left out of every mean.
        num_gallery: gallery entries, junk not counted.
    """

    mAP: float
    mINP: float
    cmc: NDArray[np.float64]
    num_queries: int
    num_valid_queries: int
    num_gallery: int

    def rank(self, k: int) -> float:
        """Rank-k accuracy. Raises `ValueError` for a k that the curve does not reach."""
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"expected a rank from 1 to {len(self.cmc)} (max_rank), received {k}")
        return float(self.cmc[k - 1])


def rank_metrics(
    query_embeddings: ArrayLike | torch.Tensor,
    gallery_embeddings: ArrayLike | torch.Tensor,
    query_person_ids: ArrayLike | torch.Tensor,
    gallery_person_ids: ArrayLike | torch.Tensor,
    query_camera_ids: ArrayLike | torch.Tensor | None = None,
    gallery_camera_ids: ArrayLike | torch.Tensor | None = None,
    *,
    max_rank: int = 50,
    block_bytes: int = BLOCK_BYTES,
    num_threads: int | None = None,
) -> RankMetrics:
    """Rank the gallery for every query by cosine similarity and average the metrics.

    Scores are cosine similarities in float32 (an all-zero row scores 0 against everything). Entries with equal scores
    keep their gallery order: of two, the one with the smaller index ranks first. Gallery entries with person id -1
    (junk) are ignored; any other person that no query asks for, such as Market-1501's distractors with id 0, stays as
    a wrong candidate. With camera ids, an entry of the query's own person *and* camera is removed from that query's
    gallery; a camera id of -1 is unknown and removes nothing. Queries without a true match left are skipped and
    counted.

    Args:
        query_embeddings: `(Q, D)`, any real dtype.
        gallery_embeddings: `(G, D)`.
        query_person_ids: `(Q,)` integers.
        gallery_person_ids: `(G,)` integers.
        query_camera_ids: `(Q,)` integers, or None for no camera rule.
        gallery_camera_ids: `(G,)` integers, given exactly when `query_camera_ids` is.
        max_rank: length of the CMC curve. It may exceed the gallery, where the curve is 1.
        block_bytes: memory for one block of scores; at least one query's scores are held.
        num_threads: threads that count; None for as many as torch uses. The result does not depend on it.

    Raises:
        ValueError: shapes that do not fit, NaN or infinite embeddings, or no query with a true match.
    """
    person_ids, camera_ids = _checked_ids(query_person_ids, gallery_person_ids, query_camera_ids, gallery_camera_ids)
    query, _ = _matrix_and_lengths(query_embeddings, "query_embeddings")
    gallery, gallery_lengths = _matrix_and_lengths(gallery_embeddings, "gallery_embeddings")
    _check_shapes(query, gallery, person_ids)
    _check_max_rank(max_rank)

    clean = person_ids[1] != JUNK_PERSON_ID  # (G,)
    if not clean.all():
        gallery, gallery_lengths = gallery[clean], gallery_lengths[clean]
    matches = GalleryMatches(person_ids[0], person_ids[1][clean], *_select_cameras(camera_ids, clean))
    matches.require_valid_query()
    blocks = _score_blocks(query, gallery, np.reciprocal(gallery_lengths), block_bytes)
    ranks = _ranks_by_query(blocks, matches, num_threads or torch.get_num_threads())
    return average_ranks(ranks, len(query), len(gallery), max_rank)


class GalleryMatches:
    """Which gallery entries are a query's true matches and which are removed from its gallery.

    Args:
        query_person_ids: `(Q,)`.
        gallery_person_ids: `(G,)`, without junk.
        query_camera_ids: `(Q,)` or None.
        gallery_camera_ids: `(G,)` or None.
    """

    def __init__(
        self,
        query_person_ids: NDArray[np.int64],
        gallery_person_ids: NDArray[np.int64],
        query_camera_ids: NDArray[np.int64] | None = None,
        gallery_camera_ids: NDArray[np.int64] | None = None,
    ) -> None:
        # A stable sort by person keeps gallery order within a person, which the rule for ties relies on.
        self._by_person = np.argsort(gallery_person_ids, kind="stable")
        ordered = gallery_person_ids[self._by_person]
        self._first = np.searchsorted(ordered, query_person_ids, side="left")
        self._last = np.searchsorted(ordered, query_person_ids, side="right")
        self._query_cameras = query_camera_ids
        self._gallery_cameras = gallery_camera_ids
        self.num_queries = len(query_person_ids)
        self.num_gallery = len(gallery_person_ids)

    def same_person(self, query: int) -> NDArray[np.int64]:
        """Ascending gallery indices of the query's person, removed ones included."""
        return self._by_person[self._first[query] : self._last[query]]

    def of_query(self, query: int) -> NDArray[np.int64]:
        """Ascending gallery indices of the query's true matches."""
        same_person = self.same_person(query)
        if self._query_cameras is None or self._gallery_cameras is None:
            return same_person
        camera = self._query_cameras[query]
        if camera == NO_CAMERA:
            return same_person
        return same_person[self._gallery_cameras[same_person] != camera]

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each query, the number of its true matches and of all entries left in its gallery, both `(Q,)`."""
        num_matches = np.array([self.of_query(query).size for query in range(self.num_queries)], dtype=np.int64)
        num_removed = (self._last - self._first) - num_matches
        return num_matches, self.num_gallery - num_removed

    def require_valid_query(self) -> None:
        """Raise `ValueError`, saying why, when no query has a true match."""
        if any(self.of_query(query).size for query in range(self.num_queries)):
            return
        if (self._last > self._first).any():
            raise ValueError(
                "no query has a true match left in its gallery: every gallery entry of a query's person is from the "
                "query's own camera, and the camera rule removes those. With images from a single camera, leave the "
                "camera rule out: protocol 'single-camera', or no camera ids"
            )
        raise ValueError(
            "no query has a true match: query and gallery share no person id; expected one numbering in both"
        )


def _matrix_and_lengths(
    embeddings: ArrayLike | torch.Tensor, name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`embeddings` as float32 `(N, D)`, without a copy where they are, and the lengths of the rows `(N,)`.

    The length of an all-zero row is given as 1, so that dividing by it leaves zeros.
    """
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().float().cpu().numpy()
    with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite and is reported below
        rows = np.asarray(embeddings, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"expected {name} of shape (number, dimension), received shape {rows.shape}")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    bad = np.flatnonzero(~(lengths < MAX_LENGTH))  # NaN compares false
    if bad.size:
        raise ValueError(
            f"expected finite {name} of lengths below {MAX_LENGTH:g}, received NaN, infinite or larger values in "
            f"{bad.size} of {len(rows)} rows (the first is row {bad[0]})"
        )
    lengths[lengths < 1 / MAX_LENGTH] = 1
    return rows, lengths.astype(np.float32)


def _checked_ids(
    query_person_ids: ArrayLike | torch.Tensor,
    gallery_person_ids: ArrayLike | torch.Tensor,
    query_camera_ids: ArrayLike | torch.Tensor | None,
    gallery_camera_ids: ArrayLike | torch.Tensor | None,
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]] | None]:
    """Person ids and, where given, camera ids of (query, gallery) as int64 arrays of equal length."""
    query_persons = _id_array(query_person_ids, "query_person_ids")
    gallery_persons = _id_array(gallery_person_ids, "gallery_person_ids")
    if query_camera_ids is None and gallery_camera_ids is None:
        return (query_persons, gallery_persons), None
    if query_camera_ids is None or gallery_camera_ids is None:
        missing = "query_camera_ids" if query_camera_ids is None else "gallery_camera_ids"
        raise ValueError(f"expected camera ids of both query and gallery, or of neither; {missing} is missing")
    query_cameras = _id_array(query_camera_ids, "query_camera_ids")
    gallery_cameras = _id_array(gallery_camera_ids, "gallery_camera_ids")
    for persons, cameras, side in (
        (query_persons, query_cameras, "query"),
        (gallery_persons, gallery_cameras, "gallery"),
    ):
        if len(persons) != len(cameras):
            raise ValueError(f"expected {len(persons)} {side}_camera_ids, one a person id, received {len(cameras)}")
    return (query_persons, gallery_persons), (query_cameras, gallery_cameras)


def _id_array(ids: ArrayLike | torch.Tensor, name: str) -> NDArray[np.int64]:
    """`ids` as a one-dimensional int64 array."""
    array = ids.detach().cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"expected {name} of shape (number,), received shape {array.shape}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"expected integer {name}, received {array.dtype}")
    return array.astype(np.int64)


def _check_shapes(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    person_ids: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> None:
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"expected query and gallery embeddings of one dimension, received {query.shape[1]} and {gallery.shape[1]}"
        )
    for embeddings, ids, side in ((query, person_ids[0], "query"), (gallery, person_ids[1], "gallery")):
        if len(embeddings) != len(ids):
            raise ValueError(f"expected {len(embeddings)} {side}_person_ids, one an embedding, received {len(ids)}")


def _check_max_rank(max_rank: int) -> None:
    if max_rank < 1:
        raise ValueError(f"expected max_rank of at least 1, received {max_rank}")


def _select_cameras(
    camera_ids: tuple[NDArray[np.int64], NDArray[np.int64]] | None, clean: NDArray[np.bool_]
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """The cameras of all queries and of the clean gallery entries."""
    return (None, None) if camera_ids is None else (camera_ids[0], camera_ids[1][clean])


def _score_blocks(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    gallery_scales: NDArray[np.float32],
    block_bytes: int,
) -> Iterator[NDArray[np.float32]]:
    """Cosine similarities `(B, G)` of consecutive queries, up to each query's own length. Blocks share one buffer.

    A query's length scales all its scores alike and cannot change a rank. The gallery's lengths are divided out of the
    scores, not of the rows, which spares a copy of the gallery.
    """
    block_rows = max(1, min(len(query), block_bytes // (len(gallery) * gallery.itemsize)))
    buffer = np.empty((block_rows, len(gallery)), dtype=np.float32)
    for start in range(0, len(query), block_rows):
        scores = np.matmul(query[start : start + block_rows], gallery.T, out=buffer[: len(query) - start])
        scores *= gallery_scales
        yield scores


def _ranks_by_query(
    blocks: Iterable[NDArray[np.float32]], matches: GalleryMatches, num_threads: int
) -> list[NDArray[np.int64]]:
    """The ascending ranks of each valid query's true matches, in query order."""
    ranks: list[NDArray[np.int64]] = []
    first_query = 0
    with ThreadPoolExecutor(num_threads) as threads:
        for scores in blocks:
            # Sorting releases Python's lock, so threads share the rows; one contiguous share each keeps overhead low.
            shares = np.array_split(np.arange(len(scores)), num_threads)
            for part in threads.map(partial(_ranks_of_rows, scores, first_query, matches), shares):
                ranks.extend(part)
            first_query += len(scores)
    return ranks


def _ranks_of_rows(
    scores: NDArray[np.float32], first_query: int, matches: GalleryMatches, rows: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Ranks for some `rows` of a block of scores `(B, G)` whose first row is query number `first_query`."""
    ranks = []
    for row in rows:
        true_matches = matches.of_query(first_query + row)
        if true_matches.size:
            ranks.append(_match_ranks(scores[row], true_matches, matches.same_person(first_query + row)))
    return ranks


def _match_ranks(
    scores: NDArray[np.float32], true_matches: NDArray[np.int64], same_person: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Ascending ranks `(P,)` of one query's true matches. Overwrites the same-person entries of `scores` `(G,)`."""
    match_scores = scores[true_matches]  # (P,)
    # What remains after this can only be a wrong candidate: the person's entries are true matches or removed ones.
    scores[same_person] = -np.inf
    wrong_ahead = _count_ahead(scores, match_scores, true_matches)
    best_first = np.argsort(-match_scores, kind="stable")
    return wrong_ahead[best_first] + np.arange(1, len(true_matches) + 1)


def _count_ahead(
    scores: NDArray[np.float32], thresholds: NDArray[np.float32], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each threshold, how many scores are greater, or equal and at a smaller index than its position; `(P,)`."""
    lowest = thresholds.min()
    # A good model leaves few contenders. Copying them out pays where it halves the sort, which a sample foretells.
    sample = scores[::SAMPLE_STRIDE]
    few_contenders = 2 * np.count_nonzero(sample >= lowest) < sample.size
    ordered = np.sort(scores[scores >= lowest] if few_contenders else scores)
    not_greater = np.searchsorted(ordered, thresholds, side="right")
    ahead = ordered.size - not_greater
    tied = not_greater - np.searchsorted(ordered, thresholds, side="left")
    for index in np.flatnonzero(tied):
        ahead[index] += np.count_nonzero(scores[: positions[index]] == thresholds[index])
    return ahead


def average_ranks(ranks: list[NDArray[np.int64]], num_queries: int, num_gallery: int, max_rank: int) -> RankMetrics:
    """Means over the valid queries' ranks."""
    counts = np.array([len(query_ranks) for query_ranks in ranks])  # (V,), matches of each valid query
    starts = np.cumsum(counts) - counts
    all_ranks = np.concatenate(ranks)
    nth_match = np.arange(len(all_ranks)) - np.repeat(starts, counts) + 1  # 1, 2, … within each query
    precision_sums = np.add.reduceat(nth_match / all_ranks, starts)
    first, last = all_ranks[starts], all_ranks[starts + counts - 1]
    hits = np.bincount(np.minimum(first, max_rank + 1), minlength=max_rank + 2)[1:-1]  # first match at rank 1, 2, …
    return RankMetrics(
        mAP=float(np.mean(precision_sums / counts)),
        mINP=float(np.mean(counts / last)),
        cmc=np.cumsum(hits) / len(ranks),
        num_queries=num_queries,
        num_valid_queries=len(ranks),
        num_gallery=num_gallery,
    )
