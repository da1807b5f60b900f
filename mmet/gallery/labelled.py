"""Match probabilities learnt from the labelled rows of a gallery; see `Gallery.calibrate`.

calibrations = learn_from_rows(store, lambda: embedder)
calibrations["image"](0.83)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmet.evaluation.analyses.calibration import MatchCalibration, Method, PairSample, fit_calibration
from mmet.gallery.embedding import Embedder
from mmet.gallery.results import GalleryError
from mmet.gallery.sources import chunks, decode
from mmet.gallery.storage import EMBEDDING, user_rows_of, vectors_of
from mmet.gallery.store import Store, centred

MAX_ROWS, MAX_QUERIES, MAX_WRONG_PAIRS = 5_000, 500, 200_000
"""Limits of the sample: rows, rows among them used as queries, and pairs of different persons."""

ENOUGH_MATCHES = 1_000
"""Number of pairs of one person from which `isotonic` is used instead of `platt`."""

CAPTION_COLUMNS = ("captions", "caption")
_BATCH = 64


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows of known persons.

    Attributes:
        vectors: `(n, D)`, as searches compare them.
        persons: `(n,)` labels.
        cameras: `(n,)` labels; empty text for none.
        images: pictures as they are stored.
        captions: one sentence for each row, or None.
        share: share of the gallery's labelled rows.
    """

    vectors: NDArray[np.float32]
    persons: NDArray[np.str_]
    cameras: NDArray[np.str_]
    images: list[dict[str, object]]
    captions: list[str | None]
    share: float


def learn_from_rows(
    store: Store,
    embedder: Callable[[], Embedder],
    *,
    captions: str | None = None,
    method: Method | None = None,
    seed: int = 0,
) -> dict[str, MatchCalibration]:
    """
    Learn calibrations for each modality of the query: `image`, and with captions `text` and `both`.

    Args:
        store: the gallery's store.
        embedder: returns the embedder; called only if sentences are embedded.
        captions, method, seed: see `Gallery.calibrate`.

    Raises:
        GalleryError: too few labels, or an unknown column.
        ValueError: scikit-learn is missing.
    """
    generator = np.random.default_rng(seed)
    rows = read_labelled(store, captions, generator)
    order = generator.permutation(len(rows.persons))
    centre = store.description.centre
    learnt = {"image": _learn(rows, order[:MAX_QUERIES], rows.vectors[order[:MAX_QUERIES]], method, generator)}
    asking = [number for number in order.tolist() if rows.captions[number] is not None][:MAX_QUERIES]
    if asking:
        for modality in ("text", "both"):
            vectors = centred(
                _embed(embedder(), rows, asking, modality), centre.get("text" if modality == "text" else "image")
            )
            learnt[modality] = _learn(rows, np.array(asking), vectors, method, generator)
    return learnt


def read_labelled(store: Store, captions: str | None, generator: np.random.Generator) -> LabelledRows:
    """Read all rows of as many persons as `MAX_ROWS` allows. Raises `GalleryError` for an unknown captions column."""
    counts: dict[str, int] = {}
    for table in store.tables():
        for entry in pc.value_counts(table["person_id"].drop_null()).to_pylist():
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    names = sorted(counts)
    chosen: list[str] = []
    num_rows = 0
    for place in generator.permutation(len(names)).tolist():
        if len(chosen) < 2 or num_rows + counts[names[place]] <= MAX_ROWS:
            chosen.append(names[place])
            num_rows += counts[names[place]]
    wanted = pa.array(chosen, pa.string())
    tables = [table.filter(pc.is_in(table["person_id"], value_set=wanted)) for table in store.tables()]
    table = pa.concat_tables(tables)
    user_rows = [row for part in tables for row in user_rows_of(part)]
    columns = CAPTION_COLUMNS if captions is None else (captions,)
    if captions is not None and user_rows and not any(captions in row for row in user_rows):
        known = ", ".join(sorted({name for row in user_rows for name in row})) or "none"
        raise GalleryError(f"captions: no labelled row has a column {captions!r}; the rows' own columns are {known}")
    return LabelledRows(
        vectors=centred(
            vectors_of(table[EMBEDDING], store.description.dimension), store.description.centre.get("image")
        ),
        persons=np.array(table["person_id"].to_pylist(), dtype=np.str_),
        cameras=np.array([camera or "" for camera in table["camera_id"].to_pylist()], dtype=np.str_),
        images=table["image"].to_pylist(),
        captions=[_sentence(row, columns) for row in user_rows],
        share=num_rows / max(sum(counts.values()), 1),
    )


def _sentence(row: dict[str, object], columns: tuple[str, ...]) -> str | None:
    for name in columns:
        value = row.get(name)
        sentence = value[0] if isinstance(value, list) and value else value
        if isinstance(sentence, str) and sentence.strip():
            return sentence
    return None


def _embed(embedder: Embedder, rows: LabelledRows, asking: list[int], modality: str) -> NDArray[np.float32]:
    vectors = []
    for part in chunks(asking, _BATCH):
        texts = [str(rows.captions[number]) for number in part]
        pictures = [decode(rows.images[number], str(rows.images[number].get("path"))) for number in part]
        vectors.append(embedder.embed(None if modality == "text" else pictures, texts))
    return np.concatenate(vectors)


def _learn(
    rows: LabelledRows,
    asking: NDArray[np.int64],
    queries: NDArray[np.float32],
    method: Method | None,
    generator: np.random.Generator,
) -> MatchCalibration:
    """Learn from the scores of some rows, as queries, against all other rows."""
    scores = queries @ rows.vectors.T
    is_match = rows.persons[asking][:, None] == rows.persons[None]
    cameras = rows.cameras[asking][:, None]
    is_easy = is_match & (cameras == rows.cameras[None]) & (cameras != "")
    is_easy[np.arange(len(asking)), asking] = True  # with itself
    matching, others = scores[is_match & ~is_easy], scores[~is_match]
    if not len(matching) or not len(others):
        raise GalleryError(
            "calibrate: expected rows with a person_id of at least two persons, one of them seen by two cameras (or "
            f"twice, where cameras are unknown); received {len(matching)} pairs of one person and {len(others)} of two"
        )
    kept = generator.permutation(len(others))[:MAX_WRONG_PAIRS]
    return fit_pairs(matching, others[kept], weight=len(others) / len(kept) / rows.share, method=method)


def fit_pairs(
    matching: NDArray[np.float32], others: NDArray[np.float32], *, weight: float = 1.0, method: Method | None = None
) -> MatchCalibration:
    """
    Fit a calibration to scores.

    Args:
        matching, others: scores of pairs of one person, and of pairs of two.
        weight: number of pairs that each of `others` represents.
        method: `platt` or `isotonic`; None chooses by the number of `matching`.

    Raises:
        ValueError: scikit-learn is missing.
    """
    sample = PairSample(
        scores=np.concatenate([matching, others]),
        is_match=np.repeat([True, False], [len(matching), len(others)]),
        weights=np.repeat([1.0, weight], [len(matching), len(others)]),
    )
    counts = {"num_matching_pairs": len(matching), "num_different_pairs": round(len(others) * weight)}
    method = method or ("isotonic" if len(matching) >= ENOUGH_MATCHES else "platt")
    return fit_calibration(sample, method=method, about=counts)
