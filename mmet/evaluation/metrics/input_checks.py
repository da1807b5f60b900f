"""Check the inputs of ranking and re-ranking: embeddings become float32 matrices, ids become integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mmet.field_checks import Range, check_choice, check_number

MAX_LENGTH = 1e18
"""Embeddings must be shorter, so that their float32 products are finite; those shorter than its inverse are zero."""

UNIT_LENGTH_TOLERANCE = 1e-5
"""Rows whose length differs from 1 by at most this are not normalised again."""

MAX_PADDED_RANKS = 1000
"""A CMC curve may be this long in any gallery; a longer one ends with the gallery."""


def matrix_and_lengths(
    embeddings: ArrayLike | torch.Tensor, name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return `embeddings` as float32 `(N, D)` (not copied if they are), and the lengths of the rows `(N,)`.

    The length of an all-zero row is given as 1, so that dividing by it leaves zeros.

    Raises:
        ValueError: the argument is no matrix of finite real numbers.
    """
    rows = _real_array(embeddings, name)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"expected {name} of shape (number, dimension), received shape {rows.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.vecdot(rows, rows))
    bad = np.flatnonzero(~(lengths < MAX_LENGTH))  # NaN compares false
    if bad.size:
        raise ValueError(
            f"expected finite {name} of lengths below {MAX_LENGTH:g}, received NaN, infinite or larger values in "
            f"{bad.size} of {len(rows)} rows (the first is row {bad[0]})"
        )
    lengths[lengths < 1 / MAX_LENGTH] = 1
    return rows, lengths


def unit_rows(embeddings: ArrayLike | torch.Tensor, name: str, count: int | None = None) -> NDArray[np.float32]:
    """Return `embeddings` as float32 `(N, D)` with rows of length 1 (not copied if they are); zeros stay zeros.

    Args:
        embeddings: `(N, D)` of any real dtype and length.
        name: name of the argument, for errors.
        count: expected number of rows; None for any.

    Raises:
        ValueError: as in `matrix_and_lengths`, or the number of rows differs.
    """
    rows, lengths = matrix_and_lengths(embeddings, name)
    if count is not None and len(rows) != count:
        raise ValueError(f"expected {count} {name}, one per item of the task, received {len(rows)}")
    return rows if (np.abs(lengths - 1) <= UNIT_LENGTH_TOLERANCE).all() else rows / lengths[:, None]


def unit_pair(
    query_embeddings: ArrayLike | torch.Tensor,
    gallery_embeddings: ArrayLike | torch.Tensor,
    counts: tuple[int, int] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Normalise query and gallery as in `unit_rows`; `counts` are their expected numbers of rows.

    Raises:
        ValueError: as in `unit_rows`, or their dimensions differ.
    """
    num_queries, num_gallery = counts or (None, None)
    query = unit_rows(query_embeddings, "query_embeddings", num_queries)
    gallery = unit_rows(gallery_embeddings, "gallery_embeddings", num_gallery)
    check_dimensions(query, gallery)
    return query, gallery


def check_ranking_options(max_rank: int, ap: str, denominator: str, block_bytes: int, num_threads: int | None) -> None:
    """Raise `ValueError`, naming the argument, for an invalid option of the metrics."""
    check_number("max_rank", max_rank, int, Range(at_least=1))
    check_choice("ap", ap, ("mean-precision", "trapezoid"))
    check_choice("denominator", denominator, ("valid", "all"))
    check_work(block_bytes, num_threads)


def check_work(block_bytes: int, num_threads: int | None) -> None:
    """Raise `ValueError` unless memory and threads are positive integers; None means torch's number of threads."""
    check_number("block_bytes", block_bytes, int, Range(at_least=1))
    if num_threads is not None:
        check_number("num_threads", num_threads, int, Range(at_least=1))


def curve_length(max_rank: int, num_gallery: int) -> int:
    """Length of the stored CMC curve: `max_rank`, but not far beyond the gallery, where nothing changes."""
    return max_rank if max_rank <= max(num_gallery, MAX_PADDED_RANKS) else num_gallery


def _real_array(values: ArrayLike | torch.Tensor, name: str) -> NDArray[np.float32]:
    """Convert numbers of any real dtype to float32; those beyond its range become infinite."""
    if isinstance(values, torch.Tensor):
        is_real = not values.is_complex() and values.dtype != torch.bool
        kind = str(values.dtype)
        array: NDArray[Any] = values.detach().float().cpu().numpy() if is_real else np.empty(0)
    else:
        try:
            array = np.asarray(values)
        except ValueError as error:  # rows of unequal length
            raise ValueError(f"expected {name} of shape (number, dimension): {error}") from error
        is_real, kind = array.dtype.kind in "fiu", str(array.dtype)
    if not is_real:
        raise ValueError(f"expected {name} of real numbers, received {kind}")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def check_ids(
    query_person_ids: ArrayLike | torch.Tensor,
    gallery_person_ids: ArrayLike | torch.Tensor,
    query_camera_ids: ArrayLike | torch.Tensor | None,
    gallery_camera_ids: ArrayLike | torch.Tensor | None,
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]] | None]:
    """Return person ids and, if given, camera ids of (query, gallery) as int64 arrays. Raises `ValueError`."""
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
            raise ValueError(f"expected {len(persons)} {side}_camera_ids, one per person id, received {len(cameras)}")
    return (query_persons, gallery_persons), (query_cameras, gallery_cameras)


def _id_array(ids: ArrayLike | torch.Tensor, name: str) -> NDArray[np.int64]:
    """`ids` as a one-dimensional int64 array."""
    try:
        array = ids.detach().cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
    except ValueError as error:  # rows of unequal length
        raise ValueError(f"expected {name} of shape (number,): {error}") from error
    if array.ndim != 1:
        raise ValueError(f"expected {name} of shape (number,), received shape {array.shape}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"expected integer {name}, received {array.dtype}")
    if array.size and array.max() > np.iinfo(np.int64).max:  # unsigned, and would become negative
        raise ValueError(f"expected {name} of at most {np.iinfo(np.int64).max}, received {array.max()}")
    return array.astype(np.int64)


def check_dimensions(query: NDArray[np.float32], gallery: NDArray[np.float32]) -> None:
    """Raise `ValueError` if query and gallery embeddings differ in dimension."""
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"expected query and gallery embeddings of one dimension, received {query.shape[1]} and {gallery.shape[1]}"
        )


def check_shapes(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    person_ids: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> None:
    """Raise `ValueError` if query and gallery differ in dimension, or embeddings and ids differ in number."""
    check_dimensions(query, gallery)
    for embeddings, ids, side in ((query, person_ids[0], "query"), (gallery, person_ids[1], "gallery")):
        if len(embeddings) != len(ids):
            raise ValueError(f"expected {len(embeddings)} {side}_person_ids, one per embedding, received {len(ids)}")


def select_cameras(
    camera_ids: tuple[NDArray[np.int64], NDArray[np.int64]] | None, clean: NDArray[np.bool_]
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """The cameras of all queries, and those of the gallery entries selected by `clean`; None without cameras."""
    return (None, None) if camera_ids is None else (camera_ids[0], camera_ids[1][clean])
