"""Search your own pictures of people: build a gallery from pictures, then search it by image, sentence or both.

    gallery = Gallery.build("crops/", "my_gallery", model="outputs/run")
    gallery = Gallery.open("my_gallery")
    gallery.search(text="a woman in a red jacket", k=20, camera_id="gate").matches[0].image_path

A gallery is a folder with one writer at a time (`mmet.gallery.storage` describes its files), or a collection on a
Milvus server.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmet.distributed import compute_on_all, compute_once, join_processes
from mmet.evaluation.analyses.calibration import MatchCalibration, Method, read_fields
from mmet.exported_files import BACKENDS
from mmet.field_checks import Range, check_choice, check_number
from mmet.gallery.disk import DiskStore
from mmet.gallery.embedding import Embedder, as_embedder, check_same_model
from mmet.gallery.filters import RowFilter, write_ids
from mmet.gallery.index import IndexKind, check_kind
from mmet.gallery.labelled import learn_from_rows
from mmet.gallery.labels import Label, counted, read_label
from mmet.gallery.probability import EVIDENCE_ROWS, in_gallery, match_probability
from mmet.gallery.queries import EmbeddedQuery, Query, embed_query
from mmet.gallery.results import AddReport, GalleryError, Match, Row, SearchResult, Skipped
from mmet.gallery.rows import RowMaker, check_same_entries
from mmet.gallery.sources import Entry, read_source
from mmet.gallery.storage import (
    DTYPES,
    EMBEDDING,
    EXTRA,
    FIXED_COLUMNS,
    infer_schema,
    vectors_of,
)
from mmet.gallery.store import (
    KEEP_SECONDS,
    ON_CONFLICT,
    Description,
    Hit,
    OnConflict,
    Store,
    centred,
    check_distinct,
    conflict_message,
)
from mmet.starter import STARTER

logger = logging.getLogger(__name__)

CALIBRATION = "calibration"
"""The setting that holds what `calibrate` learnt."""

ROWS_PER_COMMIT = 2_048
"""Pictures that a killed build embeds again, at most."""

_NAMED_SKIPS = 5
_LISTED_SKIPS = 100
_COPIED_TABLES = 64


class Gallery:
    """A searchable collection of pictures of people, made by `build` and loaded by `open`.

    Attributes:
        skipped: pictures that `build` could not read.
    """

    def __init__(self, store: Store, embedder: Embedder | None = None, backend: str = "auto") -> None:
        self._store = store
        self._embedder = embedder
        self._backend = backend
        self.skipped: tuple[Skipped, ...] = ()

    @classmethod
    def build(
        cls,
        source: Any,
        path: str | Path,
        *,
        model: Any = STARTER,
        backend: str = "auto",
        batch_size: int = 64,
        num_workers: int = 2,
        dtype: str = "float16",
        index: IndexKind = "auto",
        flip: bool = False,
        centre: bool = False,
        keep_images: bool = False,
        rows_per_commit: int = ROWS_PER_COMMIT,
    ) -> Gallery:
        """
        Embed all pictures of a source into a new gallery. To continue a build that was killed, repeat the call.
        Under `accelerate launch` or `torchrun`, all processes embed and the main one writes.

        Args:
            source: a folder, `name=folder`, a list of pictures or mappings, or a dataset; see `mmet.gallery.sources`.
            path: the new folder, or an address such as `milvus+http://host:19530/name`.
            model: a checkpoint's folder or Hub name, exported files, or an `Embedder`; by default the model that comes
                with the package.
            backend: how a model given by name runs: `torch`, `onnx`, or `auto` for what its folder holds.
            batch_size: number of pictures embedded at once.
            num_workers: number of threads that decode pictures.
            dtype: data type of the stored embeddings, `float16` or `float32`.
            index: `auto`, `exact`, `ivf` or `hnsw`; see `mmet.gallery.index`.
            flip: whether each row is the mean embedding of a picture and its mirror image.
            centre: whether embeddings are compared after subtracting their mean (see `set_centre`).
            keep_images: whether the pictures' files are copied into the gallery; otherwise their paths are stored.
            rows_per_commit: number of pictures after which the work so far is saved.

        Raises:
            PlaceError: the launcher's environment variables do not match the running processes.
            GalleryError: nothing to embed, duplicate ids, a gallery that is complete or was begun with another model,
                or a folder that cannot be written.
        """
        check_choice("dtype", dtype, DTYPES)
        check_kind(index)
        for name, value in (
            ("batch_size", batch_size),
            ("num_workers", num_workers),
            ("rows_per_commit", rows_per_commit),
        ):
            check_number(name, value, int, Range(at_least=1))
        join_processes()
        pictures = compute_on_all(lambda: read_source(source))
        ids = [entry.id for entry in pictures.entries]
        check_distinct(ids)
        check_same_entries(pictures)
        embedder = compute_on_all(lambda: as_embedder(model, backend))
        kind, settings = store_class(path), {"index": index, "flip": flip, "keep_images": keep_images}
        is_new = compute_once(lambda: not kind.exists(path))
        compute_once(lambda: _begin(path, embedder, dtype, settings))
        gallery = cls(compute_on_all(lambda: kind(path)), embedder)
        store = gallery._store
        pending = _without(pictures.entries, compute_once(lambda: store.present_ids(ids)))
        schema = infer_schema(entry.row for entry in pictures.entries)
        maker = RowMaker(embedder, store.description, schema, batch_size, num_workers)
        skipped = list(pictures.skipped)
        for tables, unreadable in maker.parts(pending, rows_per_commit, done=len(ids) - len(pending)):
            skipped += unreadable
            compute_once(lambda tables=tables: store.append(tables))  # type: ignore[misc]
        if not compute_once(lambda: len(store)):
            if is_new:
                compute_once(store.delete)
            raise GalleryError(f"{pictures.name}: no picture could be read. {_skip_words(skipped)}")
        compute_once(lambda: gallery._complete(centre))
        compute_on_all(store.refresh)
        gallery.skipped = tuple(skipped)
        compute_once(lambda: _warn(skipped))
        return gallery

    def _complete(self, centre: bool) -> None:
        """End a build."""
        self._store.compact(keep_seconds=0)
        self._store.update(complete=True)
        if centre:
            self.set_centre()

    @classmethod
    def open(cls, path: str | Path, *, model: Any = None, backend: str = "auto") -> Gallery:
        """
        Open an existing gallery.

        Args:
            path: its folder or address.
            model: as for `build`; None for the model that the gallery names, which is loaded when a query needs it.
            backend: as for `build`.

        Raises:
            GalleryError: there is no gallery, it is incomplete, or another model embedded it.
        """
        store = store_class(path)(path)
        if not store.description.complete:
            logger.warning(
                "%s: its build has not come to its end (%d rows so far); run the same build again", path, len(store)
            )
        check_choice("backend", backend, BACKENDS)
        embedder = None if model is None else as_embedder(model, backend)
        if embedder is not None:
            check_same_model(store.description.embedding, embedder.identity, str(path))
        return cls(store, embedder, backend)

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | str:
        """The folder, or the address of a gallery on a server."""
        return self._store.place

    @property
    def info(self) -> dict[str, Any]:
        """Rows, cameras, model, settings and size, for display."""
        description = self._store.description
        return {
            "rows": len(self),
            "complete": description.complete,
            **self._store.info,
            "dimension": description.dimension,
            "dtype": description.dtype,
            "centred": bool(description.centre),
            "cameras": self.cameras,
            **description.settings,
            CALIBRATION: list(description.settings.get(CALIBRATION, ())),
            **description.embedding,
        }

    @property
    def cameras(self) -> list[Label]:
        """Ids of all cameras, numbers or words."""
        return [label for word in self._store.cameras() if (label := read_label(word)) is not None]

    def __len__(self) -> int:
        return len(self._store)

    def __contains__(self, row_id: object) -> bool:
        return bool(self.known([str(row_id)]))

    def known(self, ids: Sequence[str]) -> set[str]:
        """The subset of the given ids that are in the gallery."""
        return self._store.present_ids(ids)

    def __iter__(self) -> Iterator[Row]:
        """All rows of one generation, in the order in which they were added."""
        for table in self._store.tables():
            for values in _rows(table):
                yield Row(**values)

    def embeddings(self) -> NDArray[np.float32]:
        """The stored unit vectors of all rows, float32 `(rows, D)`, in the order of iteration."""
        dimension = self._store.description.dimension
        parts = [vectors_of(table.column(EMBEDDING), dimension) for table in self._store.tables()]
        return np.concatenate([np.empty((0, dimension), dtype=np.float32), *parts])

    def find(self, ids: Sequence[str]) -> list[Row]:
        """The rows with some ids, in the order of the gallery; ids that are not in it are no error."""
        wanted = pa.array(list(ids), pa.string())
        parts = [table.filter(pc.is_in(table["id"], wanted)) for table in self._store.tables()]
        return [Row(**values) for part in parts for values in _rows(part)]

    def refresh(self) -> None:
        """Load what other processes have changed since this gallery was opened."""
        self._store.refresh()

    def search(
        self,
        image: Any = None,
        text: str | None = None,
        *,
        k: int = 10,
        camera_id: Any = None,
        time: Any = None,
        track_id: Any = None,
        by_track: bool = False,
        exclude: Any = None,
        embedding: Any = None,
        blend: float | None = None,
        flip: bool = False,
    ) -> SearchResult:
        """
        Find the rows most similar to an image, a sentence, or both.

        Args:
            image, text, embedding, blend, flip: the query; see `mmet.gallery.queries.Query`.
            k: largest number of matches.
            camera_id, track_id: one id or several to search; None for all.
            time: `(start, end)`, both included, None for an open end; seconds, datetimes or ISO 8601 text.
            by_track: whether to return tracks, each by its best crop; a crop without a track counts as one.
            exclude: ids of rows to leave out.

        Returns:
            At most `k` matches, best first, with the probability that the person is in the gallery.

        Raises:
            GalleryError: no query, an unreadable picture, a sentence without a known word, an unknown camera, or a
                model other than the gallery's.
            ValueError: `k` is not a whole number above 0.
        """
        query = Query(image, text, embedding, blend, flip)
        return self.search_batch(
            [query], k=k, camera_id=camera_id, time=time, track_id=track_id, by_track=by_track, exclude=exclude
        )[0]

    def search_batch(
        self,
        queries: Sequence[Query],
        *,
        k: int = 10,
        camera_id: Any = None,
        time: Any = None,
        track_id: Any = None,
        by_track: bool = False,
        exclude: Any = None,
    ) -> list[SearchResult]:
        """Several searches with the same filters; see `search`."""
        check_number("k", k, int, Range(at_least=1))
        row_filter = RowFilter.of(camera_id=camera_id, track_id=track_id, time=time, exclude=exclude)
        if not queries:
            return []
        description = self._store.description
        needs_model = any(query.embedding is None for query in queries)
        embedder = self.embedder if needs_model else self._embedder
        embedded = [embed_query(embedder, query, description.dimension) for query in queries]
        vectors = np.concatenate(
            [
                centred(query.vector[None], description.centre.get("text" if query.modality == "text" else "image"))
                for query in embedded
            ]
        )
        answers, total = self._store.search(vectors, max(k, EVIDENCE_ROWS), row_filter, by_track=by_track)
        return [self._result(query, hits, total, k) for query, hits in zip(embedded, answers, strict=True)]

    @property
    def embedder(self) -> Embedder:
        """The gallery's model, loaded on first use. Raises `GalleryError` if the model at its place is now another."""
        if self._embedder is None:
            name = self._store.description.embedding.get("model")
            try:
                embedder = as_embedder(name, self._backend)
            except (OSError, ValueError) as error:
                raise GalleryError(
                    f"{self.path} was embedded by {name!r}, which cannot be loaded: {error}. Say where it is now: "
                    "--model, or Gallery.open(path, model=…)"
                ) from error
            check_same_model(self._store.description.embedding, embedder.identity, str(self.path))
            self._embedder = embedder
        return self._embedder

    def _result(self, query: EmbeddedQuery, hits: Sequence[Hit], total: int, k: int) -> SearchResult:
        """The answer that the best rows make; at least `EVIDENCE_ROWS` of them say whether the person is there."""
        scores = [hit.score for hit in hits]
        learnt = self._store.description.settings.get(CALIBRATION, {}).get(query.modality)
        calibration: MatchCalibration | None
        if learnt is not None:
            calibration = read_fields(learnt)
        else:  # the model's, learnt on cosines that no gallery has centred
            calibration = None if self._embedder is None else self._embedder.calibration(query.modality)
            scores = [
                hit.score if hit.embedding is None else float(np.dot(query.vector, hit.embedding)) for hit in hits
            ]
        present: float | None = None
        probabilities: Sequence[float | None] = [None] * len(hits)
        if calibration is not None:
            present = in_gallery(calibration, scores, total)
            probabilities = match_probability(calibration, scores, total, is_own=learnt is not None)
        matches = [
            Match(**_row_values(hit.row), score=hit.score, probability=probability)
            for hit, probability in zip(hits[:k], probabilities, strict=False)
        ]
        return SearchResult(matches, present, query.notes, total)

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(
        self, source: Any, *, on_conflict: OnConflict = "error", batch_size: int = 64, num_workers: int = 2
    ) -> AddReport:
        """
        Add pictures in one change: all of them, or none after an error or a kill. Processes share the work as in
        `build`.

        Args:
            source: as for `build`.
            on_conflict: what to do with ids that exist: `error`, `replace` the row, or `keep` it.
            batch_size, num_workers: as for `build`.

        Raises:
            GalleryError: as `build`; the gallery is then as it was.
        """
        check_choice("on_conflict", on_conflict, ON_CONFLICT)
        join_processes()
        store = self._store
        compute_on_all(store.refresh)
        pictures = compute_on_all(lambda: read_source(source, first_number=store.description.next_row))
        entries = pictures.entries
        ids = [entry.id for entry in entries]
        check_distinct(ids)
        check_same_entries(pictures)
        present = compute_once(lambda: store.present_ids(ids))
        if present and on_conflict == "error":
            raise GalleryError(conflict_message(self.path, sorted(present)))
        kept = len(present) if on_conflict == "keep" else 0
        pending = _without(entries, present) if kept else entries
        schema = infer_schema(entry.row for entry in entries)
        maker = RowMaker(compute_on_all(lambda: self.embedder), store.description, schema, batch_size, num_workers)
        skipped, tables = list(pictures.skipped), []
        for part, unreadable in maker.parts(pending, ROWS_PER_COMMIT):
            skipped += unreadable
            tables += part
        if pending and not tables:
            raise GalleryError(f"{pictures.name}: no picture could be read. {_skip_words(skipped)}")
        report = compute_once(lambda: store.append(tables, on_conflict=on_conflict))
        compute_on_all(store.refresh)
        compute_once(lambda: _warn(skipped))
        return AddReport(report.added, report.replaced, kept + report.kept, tuple(skipped))

    def remove(self, ids: Any) -> int:
        """Remove rows by one id or several; return how many. An unknown id is a `GalleryError` and removes nothing."""
        return self._store.remove(write_ids(ids))

    def merge(self, other: Gallery | str | Path, *, on_conflict: OnConflict = "error") -> AddReport:
        """
        Add all rows of another gallery, without embedding anything.

        Raises:
            GalleryError: the models differ, or an id is in both galleries; nothing is added then.
        """
        check_choice("on_conflict", on_conflict, ON_CONFLICT)
        source = other if isinstance(other, Gallery) else Gallery.open(other)
        check_same_model(self._store.description.embedding, source._store.description.embedding, str(self.path))
        report = self._store.append(list(source._store.tables()), on_conflict=on_conflict)
        return AddReport(report.added, report.replaced, report.kept)

    def copy(self, path: str | Path) -> Gallery:
        """
        Copy everything to a new gallery, such as one on a server, without embedding anything. To continue a copy that
        was killed, repeat the call.

        Args:
            path: the new folder or address.

        Raises:
            GalleryError: the place already holds a gallery, or cannot be written.
        """
        kind, source = store_class(path), self._store.description
        if kind.exists(path):
            target = kind(path)
            check_same_model(target.description.embedding, source.embedding, str(path))
            if target.description.complete:
                raise GalleryError(f"{target.place} is a gallery already: merge into it, or name another place")
        else:
            target = kind.create(path, Description(source.embedding, source.dimension, source.dtype, source.settings))
        tables = self._store.tables()
        while part := list(itertools.islice(tables, _COPIED_TABLES)):
            target.append(part, on_conflict="keep")
        target.compact(keep_seconds=0)
        if source.centre:
            target.update(centre=source.centre)
        target.update(complete=True)
        return Gallery(target, self._embedder)

    def compact(self, *, keep_seconds: float = KEEP_SECONDS) -> None:
        """Free the space of removed rows and join small segments; readers at work have `keep_seconds` to finish."""
        self._store.compact(keep_seconds=keep_seconds)

    def set_centre(self, on: bool = True, *, text_mean: Any = None) -> None:
        """
        Compare embeddings after subtracting the mean of the present rows, which is kept in the manifest. This removes
        the gallery's calibration, because scores change.

        Args:
            on: False to compare plain embeddings again.
            text_mean: `(D,)` mean embedding of sentences, such as the training captions, that is subtracted from
                queries by sentence; None for the rows' mean.
        """
        settings = {name: value for name, value in self._store.description.settings.items() if name != CALIBRATION}
        if not on or not len(self):
            self._store.update(centre={}, settings=settings)
            return
        dimension = self._store.description.dimension
        total = sum(vectors_of(t[EMBEDDING], dimension).sum(axis=0, dtype=np.float64) for t in self._store.tables())
        mean = np.asarray(total, dtype=np.float64) / len(self)
        text = mean if text_mean is None else np.asarray(text_mean, dtype=np.float64)
        if text.shape != (dimension,) or not np.isfinite(text).all():
            raise GalleryError(f"text_mean: expected {dimension} finite numbers, received the shape {text.shape}")
        centre = {"image": tuple(mean.tolist()), "text": tuple(text.tolist())}
        self._store.update(centre=centre, settings=settings)

    def calibrate(self, *, captions: str | None = None, method: Method | None = None, seed: int = 0) -> dict[str, int]:
        """
        Learn match probabilities from the rows that have a `person_id`, and keep them in the gallery.

        Searches then use them instead of the model's calibration. Pairs of one person from one camera are too easy and
        count only if no cameras are known.

        Args:
            captions: the column of sentences, for queries by sentence and by both; None for `captions` or `caption`,
                if the rows have one.
            method: `platt` or `isotonic` (see `fit_calibration`); None for `isotonic` if there are at least 1,000
                pairs of one person, else `platt`.
            seed: seed of the rows that are drawn if there are many.

        Returns:
            The number of pairs of one person that were used, by the query's modality.

        Raises:
            ValueError: too few labels, an unknown column, or scikit-learn is missing; nothing is changed.
        """
        learnt = learn_from_rows(self._store, lambda: self.embedder, captions=captions, method=method, seed=seed)
        fields = {modality: asdict(calibration) for modality, calibration in learnt.items()}
        self._store.update(settings={**self._store.description.settings, CALIBRATION: fields})
        return {name: int((calibration.about or {})["num_matching_pairs"]) for name, calibration in learnt.items()}

    def verify(self) -> list[str]:
        """Compare all files with their checksums. Returns one sentence for each problem; empty if there is none."""
        return self._store.verify()


def store_class(path: str | Path) -> type[Store]:
    """What keeps the rows of a gallery at a path or an address."""
    if re.match(r"milvus[+:]", str(path)):
        from mmet.gallery.milvus import MilvusStore

        return MilvusStore
    return DiskStore


def _begin(path: str | Path, embedder: Embedder, dtype: str, settings: Mapping[str, Any]) -> None:
    """Make a new store, or check that of a build that was killed."""
    kind = store_class(path)
    if not kind.exists(path):
        dimension = embedder.embed([PIL.Image.new("RGB", (64, 128))], None).shape[1]
        kind.create(path, Description(dict(embedder.identity), dimension, dtype, dict(settings)))
        return
    store = kind(path)
    if store.description.complete:
        raise GalleryError(
            f"{path} is a gallery already: add to it (mmet-gallery add, Gallery.add), or name another place"
        )
    check_same_model(store.description.embedding, embedder.identity, str(path))
    begun = {**store.description.settings, "dtype": store.description.dtype}
    if begun != {**settings, "dtype": dtype}:
        raise GalleryError(f"{path} was begun with {begun}: go on with the same options, or remove it")
    logger.info("%s: %d rows are there already", path, len(store))


def _without(entries: Sequence[Entry], ids: set[str]) -> list[Entry]:
    return [entry for entry in entries if entry.id not in ids]


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The fields of `Row` of every row of a table."""
    for row in table.drop_columns([EMBEDDING]).to_pylist():
        yield _row_values(row)


def _row_values(stored: Mapping[str, Any]) -> dict[str, Any]:
    user_row = {
        name: value
        for name, value in stored.items()
        if value is not None and name not in FIXED_COLUMNS and name not in (EMBEDDING, EXTRA)
    }
    return {
        "id": stored["id"],
        "image_path": stored["image"]["path"],
        "image": stored["image"]["bytes"],
        **{name: read_label(stored[name]) for name in ("person_id", "camera_id", "track_id")},
        "time": stored["time"],
        "box": None if stored["box"] is None else tuple(stored["box"]),
        "row": user_row | json.loads(stored[EXTRA]) if stored[EXTRA] else user_row,
    }


def _skip_words(skipped: Sequence[Skipped]) -> str:
    named = "; ".join(f"{skip.name}: {skip.reason}" for skip in skipped[:_NAMED_SKIPS])
    return named + (f"; and {len(skipped) - _NAMED_SKIPS} more" if len(skipped) > _NAMED_SKIPS else "")


def _warn(skipped: Sequence[Skipped]) -> None:
    """List what was left out, a picture a line."""
    if skipped:
        lines = [f"  {skip.name}: {skip.reason}" for skip in skipped[:_LISTED_SKIPS]]
        lines += [f"  and {len(skipped) - _LISTED_SKIPS} more"] if len(skipped) > _LISTED_SKIPS else []
        logger.warning("%s left out:\n%s", counted(len(skipped), "picture"), "\n".join(lines))
