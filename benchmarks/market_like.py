"""Synthetic embeddings with the structure of Market-1501's test split, for benchmarks of evaluation.

    data = draw_embeddings(seed=0)
    data.query, data.gallery, data.query_person_ids, data.gallery_camera_ids, …

Drawn to the published counts: 750 persons, six cameras, 3,368 queries (one of a person in a camera), 13,115 gallery
images of these persons, 2,798 distractors (person 0) and 3,819 junk crops (person -1). Which person was seen how often
by which camera is drawn, not copied. An embedding is the person's direction, plus one of the person as this camera
sees it, plus noise, normalised; the noise of `NOISE` puts mAP near 50. A distractor is a person of its own that is
seen once, and a junk crop is a bad crop of a test person.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_PERSONS, NUM_CAMERAS = 750, 6
NUM_QUERIES, NUM_PERSON_IMAGES, NUM_DISTRACTORS, NUM_JUNK = 3_368, 13_115, 2_798, 3_819
DIMENSION = 768
CAMERA, NOISE, JUNK_NOISE = 0.5, 0.62, 0.9
SPREAD = 24
"""Dimensions that persons differ in: few, as in a trained model, so that different persons can look alike."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings `(n, D)` float32, rows normalised, and ids `(n,)` of queries and gallery."""

    query: NDArray[np.float32]
    gallery: NDArray[np.float32]
    query_person_ids: NDArray[np.int64]
    gallery_person_ids: NDArray[np.int64]
    query_camera_ids: NDArray[np.int64]
    gallery_camera_ids: NDArray[np.int64]

    def arguments(self) -> tuple[NDArray, ...]:
        """In the order that `rank_metrics` takes them."""
        return (
            self.query,
            self.gallery,
            self.query_person_ids,
            self.gallery_person_ids,
            self.query_camera_ids,
            self.gallery_camera_ids,
        )

    def select_gallery(self, chosen: NDArray[np.bool_]) -> Embeddings:
        """With some of the gallery."""
        gallery = (self.gallery[chosen], self.gallery_person_ids[chosen], self.gallery_camera_ids[chosen])
        return Embeddings(self.query, gallery[0], self.query_person_ids, gallery[1], self.query_camera_ids, gallery[2])


def draw_embeddings(
    *, seed: int = 0, scale: float = 1.0, junk: bool = True, noise: float = NOISE, dimension: int = DIMENSION
) -> Embeddings:
    """Draw a test split.

    Args:
        seed: of everything that is drawn.
        scale: size of the split, 1 for Market-1501's; persons and images grow alike.
        junk: whether the gallery holds junk crops.
        noise: length of an image's own deviation, the person's direction having length 1.
        dimension: of the embeddings.
    """
    rng = np.random.default_rng(seed)
    num_persons = max(2, round(scale * NUM_PERSONS))
    places = rng.permutation(num_persons * NUM_CAMERAS)[: round(scale * NUM_QUERIES)]  # a person in a camera
    query_ids, query_cameras = np.sort(places) // NUM_CAMERAS + 1, np.sort(places) % NUM_CAMERAS
    # Gallery images fall on the places that queries are from, most on few, as people linger.
    shares = rng.exponential(size=len(places))
    picked = rng.choice(np.sort(places), size=round(scale * NUM_PERSON_IMAGES), p=shares / shares.sum())
    counts = [round(scale * NUM_DISTRACTORS), round(scale * NUM_JUNK) if junk else 0]
    gallery_ids = np.concatenate([picked // NUM_CAMERAS + 1, np.repeat([0, -1], counts)])
    cameras = np.concatenate([picked % NUM_CAMERAS, rng.integers(NUM_CAMERAS, size=sum(counts))])
    order = np.argsort(gallery_ids, kind="stable")  # file names sort junk and distractors first

    basis = np.linalg.qr(rng.normal(size=(dimension, min(SPREAD, dimension))))[0].T

    def directions(count: int) -> NDArray[np.float64]:
        return rng.normal(size=(count, len(basis))) / np.sqrt(len(basis))

    persons = directions(num_persons + 1)
    seen = CAMERA * directions((num_persons + 1) * NUM_CAMERAS)

    def embed(ids: NDArray, camera_ids: NDArray, deviation: NDArray) -> NDArray[np.float32]:
        vectors = persons[ids] + seen[ids * NUM_CAMERAS + camera_ids] + deviation[:, None] * directions(len(ids))
        rows = vectors @ basis + 0.1 * rng.normal(size=(len(ids), dimension)) / np.sqrt(dimension)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    shown = gallery_ids.copy()  # whom a crop shows: junk is of test persons, distractors are set apart below
    shown[gallery_ids == -1] = rng.integers(1, num_persons + 1, size=counts[1])
    deviation = np.where(gallery_ids == -1, JUNK_NOISE, noise)
    gallery = embed(shown, cameras, deviation)
    loners = directions(counts[0]) * np.sqrt(1 + CAMERA**2 + noise**2) @ basis
    gallery[gallery_ids == 0] = loners / np.linalg.norm(loners, axis=1, keepdims=True)
    return Embeddings(
        embed(query_ids, query_cameras, np.full(len(query_ids), noise)),
        gallery[order],
        query_ids,
        gallery_ids[order],
        query_cameras,
        cameras[order],
    )


def draw_exactly(num_queries: int, num_gallery: int, dimension: int, *, shuffled: bool = False) -> Embeddings:
    """Embeddings of exactly this size, without junk; `shuffled` gives gallery images each other's embeddings."""
    scale = max(num_queries / NUM_QUERIES, num_gallery / (NUM_PERSON_IMAGES + NUM_DISTRACTORS)) * 1.002
    data = draw_embeddings(scale=scale, junk=False, dimension=dimension)
    rng = np.random.default_rng(0)
    queries = np.sort(rng.permutation(len(data.query))[:num_queries])
    entries = np.sort(rng.permutation(len(data.gallery))[:num_gallery])
    return Embeddings(
        data.query[queries],
        data.gallery[rng.permutation(entries) if shuffled else entries],
        data.query_person_ids[queries],
        data.gallery_person_ids[entries],
        data.query_camera_ids[queries],
        data.gallery_camera_ids[entries],
    )
