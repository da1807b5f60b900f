"""Join fragments of tracks of one camera: their embeddings are similar, and they do not overlap in time.

groups = join_fragments(times, embeddings, min_similarity=0.8)         # [0, 1, 0]: the third continues the first
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEFAULT_SIMILARITY = 0.95
"""Smallest cosine similarity of joined tracks; chosen on drawn films, see `docs/footage.md`."""


def join_fragments(
    times: NDArray[np.float64], embeddings: NDArray[np.float32], *, min_similarity: float = DEFAULT_SIMILARITY
) -> NDArray[np.int64]:
    """
    Repeatedly join the most similar pair of groups. Two groups can be joined only if every track of one is similar to
    every track of the other and overlaps none of them in time.

    Args:
        times: (N, 2), start and end of each track.
        embeddings: (N, D), unit vectors.
        min_similarity: least cosine similarity of two tracks of a group.

    Returns:
        int64 (N,): for each track, the index of the first track in its group.
    """
    similarity = np.asarray(embeddings @ embeddings.T, dtype=np.float64)
    overlap = (times[:, None, 0] <= times[None, :, 1]) & (times[None, :, 0] <= times[:, None, 1])
    # Between groups, the similarity of the least similar tracks; of those that cannot be joined, minus infinity.
    similarity[overlap | (similarity < min_similarity)] = -np.inf
    np.fill_diagonal(similarity, -np.inf)
    groups = np.arange(len(times))
    while len(groups) and np.isfinite(similarity.max()):
        first, second = sorted(np.unravel_index(int(similarity.argmax()), similarity.shape))
        groups[groups == second] = first
        similarity[first] = similarity[:, first] = np.minimum(similarity[first], similarity[second])
        similarity[second] = similarity[:, second] = -np.inf
    return groups
