"""The true matches of each query, and the entries removed from its gallery; all other entries are wrong.

    matches = GalleryMatches(query_person_ids, gallery_person_ids, query_camera_ids, gallery_camera_ids)
    matches.of_query(0), matches.counts()

This depends on ids only, so it is computed once per task, for any embeddings and scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmet.data.schema import JUNK_PERSON_ID, NO_CAMERA

QUERIES_AT_A_TIME = 256
"""Number of queries whose entries are listed together, which bounds memory if a person has very many."""


@dataclass(frozen=True, eq=False)
class PersonEntries:
    """The gallery entries of the queries' own persons, for some consecutive queries; `n` in all.

    Attributes:
        rows: `(n,)` int64, ascending; numbers of these queries, from 0.
        columns: `(n,)` int64, ascending within a row; positions in the gallery.
        is_match: `(n,)` bool; the others are removed from that query's gallery.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    is_match: NDArray[np.bool_]


class GalleryMatches:
    """The true matches of each query, and the entries removed from its gallery.

    Args:
        query_person_ids: `(Q,)`. An unknown person (-1) has no match.
        gallery_person_ids: `(G,)`, without junk.
        query_camera_ids: `(Q,)`, or None for no camera rule.
        gallery_camera_ids: `(G,)`, or None.
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
        last = np.searchsorted(ordered, query_person_ids, side="right")
        self._last = np.where(query_person_ids == JUNK_PERSON_ID, self._first, last)
        self._query_cameras = query_camera_ids
        self._gallery_cameras = gallery_camera_ids
        self.num_queries = len(query_person_ids)
        self.num_gallery = len(gallery_person_ids)

    def entries(self, start: int, stop: int) -> PersonEntries:
        """The entries of the persons of queries `start` to `stop - 1`."""
        first, last = self._first[start:stop], self._last[start:stop]
        sizes = last - first
        rows = np.repeat(np.arange(len(sizes)), sizes)
        within_row = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        columns = self._by_person[first[rows] + within_row]
        if self._query_cameras is None or self._gallery_cameras is None:
            return PersonEntries(rows, columns, np.ones(len(rows), dtype=bool))
        cameras = self._query_cameras[start:stop][rows]
        return PersonEntries(rows, columns, (self._gallery_cameras[columns] != cameras) | (cameras == NO_CAMERA))

    def of_query(self, query: int) -> NDArray[np.int64]:
        """Ascending gallery positions of the query's true matches."""
        entries = self.entries(query, query + 1)
        return entries.columns[entries.is_match]

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each query, the number of its true matches and of all entries left in its gallery, both `(Q,)`."""
        num_matches = np.zeros(self.num_queries, dtype=np.int64)
        for start in range(0, self.num_queries, QUERIES_AT_A_TIME):
            entries = self.entries(start, start + QUERIES_AT_A_TIME)
            num_matches[start : start + QUERIES_AT_A_TIME] = np.bincount(
                entries.rows[entries.is_match], minlength=min(QUERIES_AT_A_TIME, self.num_queries - start)
            )
        num_removed = (self._last - self._first) - num_matches
        return num_matches, self.num_gallery - num_removed

    def require_valid_query(self) -> None:
        """Raise `ValueError` with the reason if no query has a true match."""
        if self.counts()[0].any():
            return
        if (self._last > self._first).any():
            raise ValueError(
                "no query has a true match left in its gallery: every gallery entry of a query's person is from the "
                "query's own camera, and the camera rule removes those. For images from a single camera, switch the "
                "camera rule off: use protocol 'no-camera', or give no camera ids"
            )
        raise ValueError(
            "no query has a true match: query and gallery share no person id; expected one numbering in both"
        )
