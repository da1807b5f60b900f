"""Put a folder of crops into a gallery, and find when and where a person was seen.

    gallery = add_to_gallery("crops", "gallery", model="outputs/demo/model")
    for sighting in find_sightings(gallery, text="a woman in a red jacket"):
        print(sighting.camera_id, sighting.start, sighting.end, sighting.score)

Each track is one entry of the answer. Rows are named after their folder of crops, so that footage of several days can
share a gallery: two cameras called `gate` do not share their tracks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmet.data.annotations import read_json_lines
from mmet.footage.boxes import FootageError
from mmet.footage.joining import join_fragments
from mmet.footage.write import TABLE
from mmet.gallery import Gallery, GalleryError, Match
from mmet.gallery.embedding import Embedder, as_embedder, unit
from mmet.gallery.gallery import store_class
from mmet.gallery.labels import counted, seconds
from mmet.gallery.results import Row
from mmet.gallery.sources import load_picture
from mmet.starter import STARTER

logger = logging.getLogger(__name__)

START, END = "track_start", "track_end"

MAX_QUERY_CROPS = 20
"""Largest number of crops that form the query for a person of the gallery."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A track that may show the person of the query.

    Attributes:
        camera_id, track_id: the camera and the track.
        start, end: when the track begins and ends, in seconds.
        score: cosine similarity of the query and the best crop.
        probability: probability that it shows the person; None without calibration.
        best: that crop.
    """

    camera_id: int | str | None
    track_id: int | str | None
    start: float
    end: float
    score: float
    probability: float | None
    best: Match


def add_to_gallery(
    crops: str | Path,
    place: str | Path,
    *,
    model: Any = None,
    backend: str = "auto",
    join_similarity: float | None = None,
) -> Gallery:
    """
    Put the crops of `read` into a gallery, which is created if needed. Existing crops stay, so that repeating the call
    continues after a stop.

    Args:
        crops: folder that `read` finished.
        place: the gallery's folder or address.
        model: as for `Gallery.build`; None for the model of an existing gallery, or the starter model for a new one.
        backend: as for `Gallery.build`.
        join_similarity: smallest cosine similarity at which tracks of one camera are joined to one, named after the
            first (see `mmet.footage.joining`); None to leave tracks as they are.

    Raises:
        FootageError: there are no crops, or the gallery holds other crops of the same names.
        GalleryError: as `Gallery.build` and `Gallery.add`.
    """
    entries = crop_entries(Path(crops))
    if not entries:
        raise FootageError(f"{crops}: no person was found, so there is nothing to search")
    check_gallery(place, model)
    if not store_class(place).exists(place):
        embedder = as_embedder(STARTER if model is None else model, backend)
        return Gallery.build(_joined(entries, embedder, join_similarity), place, model=embedder)
    gallery = Gallery.open(place, model=model, backend=backend)
    if join_similarity is not None:
        entries = _joined(entries, gallery.embedder, join_similarity)
    if not gallery.info["complete"]:
        return Gallery.build(entries, place, model=gallery.embedder)
    if gallery.known([entry["id"] for entry in entries]):
        _check_same_crops(gallery, entries)
    gallery.add(entries, on_conflict="keep")
    return gallery


def check_gallery(place: str | Path, model: Any = None) -> None:
    """Check gallery and model before long work: `GalleryError` for a damaged gallery, `ValueError` for the model."""
    if store_class(place).exists(place):
        Gallery.open(place)
    elif model is None or isinstance(model, (str, Path)):
        from mmet.evaluation.systems.loading import check_checkpoint

        check_checkpoint(str(STARTER if model is None else model))


def crop_entries(crops: Path) -> list[dict[str, Any]]:
    """
    Make gallery rows of a finished folder of crops, named after the folder. They have no `person_id`, because the
    identities are unknown.

    Raises:
        FootageError: it is not a finished folder of crops.
    """
    table = crops / TABLE
    if not table.is_file():
        raise FootageError(f"{crops}: no finished folder of crops (no {TABLE}); read the videos to their end first")
    name = crops.resolve().name
    entries = []
    for line in read_json_lines(table):
        row = dict(line.fields)
        row.pop("person_id", None)
        row |= {column: seconds(column, row.get(column)) for column in (START, END)}
        image = line.get("image", str)
        row |= {
            "id": f"{name}/{image}",
            "image": str((crops / image).resolve()),
            "track_id": f"{name}/{row['track_id']}",
        }
        entries.append(row)
    return entries


@dataclass(frozen=True, eq=False)
class CameraTracks:
    """
    The tracks of one camera, in the order of time.

    Attributes:
        names: N tracks.
        crops: rows of each track.
        times: (N, 2), start and end.
        embeddings: (N, D), unit vectors: for each track, the mean over its crops.
    """

    names: Sequence[str]
    crops: Sequence[Sequence[Mapping[str, Any]]]
    times: NDArray[np.float64]
    embeddings: NDArray[np.float32]


def embed_tracks(entries: Sequence[Mapping[str, Any]], embedder: Embedder) -> dict[str, CameraTracks]:
    """The tracks of each camera, from the rows of `crop_entries`."""
    cameras: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for entry in sorted(entries, key=lambda entry: entry[START]):
        cameras.setdefault(entry["camera_id"], {}).setdefault(entry["track_id"], []).append(entry)
    embedded = {}
    for camera, tracks in cameras.items():
        times = np.array([(crops[0][START], crops[0][END]) for crops in tracks.values()])
        vectors = [
            embedder.embed([load_picture(crop["image"]) for crop in crops], None).mean(axis=0)
            for crops in tracks.values()
        ]
        embedded[camera] = CameraTracks(list(tracks), list(tracks.values()), times, unit(np.stack(vectors)))
    return embedded


def _joined(entries: list[dict[str, Any]], embedder: Embedder, join_similarity: float | None) -> list[dict[str, Any]]:
    """The rows with joined tracks. A joined track begins with its first fragment and ends with its last."""
    if join_similarity is None:
        return entries
    changes = {}
    for tracks in embed_tracks(entries, embedder).values():
        groups = join_fragments(tracks.times, tracks.embeddings, min_similarity=join_similarity)
        for name, group in zip(tracks.names, groups, strict=True):
            times = tracks.times[groups == group]
            changes[name] = {"track_id": tracks.names[group], START: float(times.min()), END: float(times.max())}
    return [entry | changes[entry["track_id"]] for entry in entries]


def _check_same_crops(gallery: Gallery, entries: list[dict[str, Any]]) -> None:
    known = {entry["id"]: entry for entry in entries}
    for row in gallery:
        entry = known.get(row.id)
        if entry is not None and row.image_path != entry["image"]:
            raise FootageError(
                f"{gallery.path} holds other crops under the name {row.id!r} ({row.image_path}): give the new folder "
                "of crops another name"
            )
        if entry is not None and str(row.track_id) != str(entry["track_id"]):
            raise FootageError(
                f"{gallery.path} holds {row.id!r} in the track {row.track_id}, which would be {entry['track_id']}: "
                "join its fragments as before (--join_fragments, --join_similarity), or name another gallery"
            )


def find_sightings(
    gallery: Gallery,
    *,
    image: Any = None,
    text: str | None = None,
    person: int | str | None = None,
    k: int = 20,
    min_score: float | None = None,
    min_probability: float | None = None,
    filters: Mapping[str, Any] | None = None,
) -> list[Sighting]:
    """
    Find where and when a person was seen: one sighting for each track, in order of time. Rows without time or camera
    are left out, with a warning.

    Args:
        gallery: a gallery of crops with times and cameras.
        image, text: the person, as for `Gallery.search`.
        person: instead, the id of a crop, track or person in the gallery (see `rows_of`), whose crops form the query.
        k: largest number of tracks.
        min_score, min_probability: tracks with lower values are left out.
        filters: `camera_id` and `time`, as for `Gallery.search`.

    Raises:
        GalleryError: as `Gallery.search`; an empty gallery, an unknown person, or no row with time and camera.
    """
    if not len(gallery):
        raise GalleryError(f"{gallery.path}: the gallery holds no crops, so there is nobody to be seen")
    if person is not None:
        image = [row.open_image() for row in rows_of(gallery, person)]
    result = gallery.search(image=image, text=text, k=k, by_track=True, **(filters or {}))
    sightings = [
        _sighting(match) for match in result.matches if _time(match) is not None and match.camera_id is not None
    ]
    missing = len(result.matches) - len(sightings)
    if missing and not sightings:
        raise GalleryError(
            f"{gallery.path}: no crop that was found has both a time and a camera, so nobody can say when and where; "
            "add the crops with the columns time and camera_id (mmet-gallery search answers without)"
        )
    if missing:
        logger.warning("%s: %s without time or camera left out", gallery.path, counted(missing, "match"))
    sightings = [
        sighting
        for sighting in sightings
        if (min_score is None or sighting.score >= min_score)
        and (min_probability is None or (sighting.probability or 0.0) >= min_probability)
    ]
    return sorted(sightings, key=lambda sighting: (sighting.start, sighting.end))


def rows_of(gallery: Gallery, name: int | str) -> list[Row]:
    """
    The rows of the crop, track or person with this name, in this order of preference: at most `MAX_QUERY_CROPS`,
    spread over all.

    Raises:
        GalleryError: nothing has that name.
    """
    rows = list(gallery)
    for column in ("id", "track_id", "person_id"):
        named = [row for row in rows if getattr(row, column) is not None and str(getattr(row, column)) == str(name)]
        if named:
            return named[:: -(-len(named) // MAX_QUERY_CROPS)]
    raise GalleryError(
        f"{name!r} is not a crop, track or person of {gallery.path}; `mmet-gallery search` shows the names of all "
        "three"
    )


def _time(match: Match) -> float | None:
    return match.time if match.time is not None else match.row.get(START)


def _sighting(match: Match) -> Sighting:
    start, end = (float(match.row.get(column, _time(match))) for column in (START, END))
    return Sighting(match.camera_id, match.track_id, start, end, match.score, match.probability, match)
