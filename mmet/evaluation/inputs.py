"""Checked inputs of ranking and re-ranking: embeddings as float32 matrices, ids as integers, lengths that fit."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

MAX_LENGTH = 1e18
"""Longest embedding whose float32 product with another is certainly finite; one below its inverse counts as zero."""


def matrix_and_lengths(
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


def check_ids(
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


def check_shapes(
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


def select_cameras(
    camera_ids: tuple[NDArray[np.int64], NDArray[np.int64]] | None, clean: NDArray[np.bool_]
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """The cameras of all queries and of the clean gallery entries."""
    return (None, None) if camera_ids is None else (camera_ids[0], camera_ids[1][clean])
