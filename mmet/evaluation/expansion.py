"""Improve queries by their embeddings: average query expansion, and one query from several pictures of a person.

task, query = merge_queries(task, query)
query = expand_queries(task, query, gallery, count=5)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmet.data.schema import JUNK_PERSON_ID, integer_column
from mmet.evaluation.metrics.input_checks import unit_pair, unit_rows
from mmet.evaluation.pairs import best_entries, pair_blocks
from mmet.evaluation.protocols import RetrievalTask
from mmet.field_checks import Range, check_number


def expand_queries(
    task: RetrievalTask, query_embeddings: NDArray[np.float32], gallery_embeddings: NDArray[np.float32], *, count: int
) -> NDArray[np.float32]:
    """Average query expansion (Chum et al., "Total Recall", ICCV 2007; AQE in Arandjelović and Zisserman, CVPR 2012).

    A query becomes the normalised mean of itself and of the `count` entries that rank first in its gallery, right or
    wrong. Entries that the protocol removes are not in a query's gallery and are not averaged.

    Args:
        task: whose embeddings these are.
        query_embeddings: `(Q, D)`, rows L2-normalised.
        gallery_embeddings: `(G, D)`, likewise.
        count: number of entries to average with; all, if a gallery holds fewer.

    Returns:
        `(Q, D)` float32, rows L2-normalised.

    Raises:
        ValueError: `count` is not a positive whole number, or `pair_blocks` refuses the embeddings.
    """
    check_number("count", count, int, Range(at_least=1))
    query_embeddings, gallery_embeddings = unit_pair(
        query_embeddings, gallery_embeddings, (len(task.query), len(task.gallery))
    )
    expanded = query_embeddings.copy()
    for block in pair_blocks(task, query_embeddings, gallery_embeddings):
        block.scores[block.is_removed] = -np.inf
        for query, scores in enumerate(block.scores, block.queries.start):
            expanded[query] += gallery_embeddings[best_entries(scores, count)].sum(axis=0)
    return normalized(expanded)


def merge_queries(
    task: RetrievalTask, query_embeddings: NDArray[np.float32]
) -> tuple[RetrievalTask, NDArray[np.float32]]:
    """Multi-query search: the queries of one person from one camera become one, their normalised mean.

    This is the multi-query setting of Market-1501 (Zheng et al. 2015, average pooling) over the given queries. Under a
    protocol with the exclusion by image, the captions of one image are merged instead.

    Args:
        task: whose queries these are.
        query_embeddings: `(Q, D)`, rows L2-normalised.

    Returns:
        The task with the first query item of each group, in order, and the embeddings `(groups, D)`. Queries of
        unknown persons (-1) are not merged.

    Raises:
        ValueError: embeddings are not finite real numbers, or not one for each item.
    """
    items = task.query
    query_embeddings = unit_rows(query_embeddings, "query_embeddings", len(items))
    places = task.query_exclusion_ids
    if places is None:
        places = integer_column(items.dataset, "camera_id")[items.image_index]
    alone = np.where(items.person_ids == JUNK_PERSON_ID, np.arange(len(items)), -1)
    keys = np.stack([items.person_ids, places, alone], axis=1)
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), query_embeddings.shape[1]), dtype=np.float32)
    np.add.at(sums, group.reshape(-1), query_embeddings)
    order = np.argsort(first)
    return task.select_queries(first[order]), normalized(sums[order])


def normalized(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length; rows of zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, np.where(lengths > 0, lengths, 1), dtype=np.float32)
