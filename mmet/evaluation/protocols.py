"""Named evaluation protocols: which items are queries, which are searched, and which true matches do not count.

    task = build_task(dataset, query="text", gallery="image")      # a dataset's own protocol
    task.protocol, task.query.person_ids, task.gallery.person_ids

An *item* has one embedding: an image, one caption, or one (image, caption) pair. A protocol names the splits that
items come from, the *exclusion* (the same person's entries that are removed from a query's gallery because finding
them proves nothing), and how metrics follow from ranks. `Protocol.describe` writes all of this into every result file.

- `market`: splits `query` and `gallery`; the same person's entries of the query's camera are removed (Zheng et al.,
  Market-1501, 2015); AP is the mean of precisions, and means are over queries with a true match.
- `market-matlab`: the same, but AP by trapezoids and means over all queries, as in Market-1501's Matlab code.
- `cuhk03-np`: as `market`; CUHK03's new split (Zhong et al. 2017) was made for these rules.
- `cuhk03-classic`: as `market`, but a gallery has one image of each of 100 persons, drawn from cameras other than the
  query's; means over ten draws from a seed.
- `no-camera`: as `market`, but nothing is removed.
- `text-to-image`: all captions are queries, all images of `test` are searched; the caption's own image counts too.
- `leave-one-image-out`: split `test` twice; items of the query's own image are removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from mmet.data.schema import JUNK_PERSON_ID, NO_CAMERA, DatasetError, has_captions, integer_column
from mmet.evaluation.metrics.matches import GalleryMatches
from mmet.evaluation.metrics.ranking import AveragePrecision, Denominator

Modality = Literal["image", "text", "both"]
MODALITIES: tuple[Modality, ...] = ("image", "text", "both")


class Exclusion(Enum):
    """Which entries of the query's own person are removed from its gallery."""

    SAME_CAMERA = "same camera"
    SAME_IMAGE = "same image"
    NOTHING = "nothing"


@dataclass(frozen=True)
class SingleShot:
    """A gallery of one image for each person, drawn `repeats` times from the seed."""

    repeats: int
    seed: int
    num_persons: int


@dataclass(frozen=True)
class Protocol:
    """A named way to derive query and gallery from splits and metrics from ranks.

    Attributes:
        name: as in `PROTOCOLS`.
        query_split, gallery_split: splits that items come from.
        exclusion: what is removed from a query's gallery.
        pairs: the (query, gallery) modalities allowed.
        ap: formula of the average precision, see `rank_metrics`.
        denominator: which queries the means are over, likewise.
        single_shot: how galleries are drawn; None for all entries.
    """

    name: str
    query_split: str
    gallery_split: str
    exclusion: Exclusion
    pairs: tuple[tuple[Modality, Modality], ...]
    ap: AveragePrecision = "mean-precision"
    denominator: Denominator = "valid"
    single_shot: SingleShot | None = None

    def fits(self, dataset: Mapping[str, Dataset]) -> bool:
        """Whether the dataset has the splits."""
        return self.query_split in dataset and self.gallery_split in dataset

    def describe(self) -> dict[str, Any]:
        """Everything except the embeddings that affects the figures, as JSON values for result files."""
        return {
            "name": self.name,
            "query_split": self.query_split,
            "gallery_split": self.gallery_split,
            "removed_from_gallery": _EXCLUSION_WORDS[self.exclusion],
            "junk": "person -1 is dropped",
            "distractors": "persons that no query asks for stay as wrong candidates",
            "similarity": "cosine, float32",
            "ties": "the entry with the smaller index ranks first",
            "ap": self.ap,
            "denominator": self.denominator,
            "gallery": _gallery_words(self.single_shot),
        }


_EXCLUSION_WORDS = {
    Exclusion.SAME_CAMERA: "same person and same camera; where the camera is unknown (-1), same person and same image",
    Exclusion.SAME_IMAGE: "same person and same image",
    Exclusion.NOTHING: "nothing",
}


def _gallery_words(single_shot: SingleShot | None) -> str:
    if single_shot is None:
        return "all entries"
    return (
        f"one image a person, drawn from other cameras than the query's; mean over {single_shot.repeats} draws "
        f"(seed {single_shot.seed})"
    )


_ALL_PAIRS = tuple((query, gallery) for query in MODALITIES for gallery in MODALITIES)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("market", "query", "gallery", Exclusion.SAME_CAMERA, _ALL_PAIRS),
        Protocol("market-matlab", "query", "gallery", Exclusion.SAME_CAMERA, _ALL_PAIRS, "trapezoid", "all"),
        Protocol("cuhk03-np", "query", "gallery", Exclusion.SAME_CAMERA, _ALL_PAIRS),
        Protocol(
            "cuhk03-classic",
            "query",
            "gallery",
            Exclusion.SAME_CAMERA,
            _ALL_PAIRS,
            single_shot=SingleShot(repeats=10, seed=0, num_persons=100),
        ),
        Protocol("no-camera", "query", "gallery", Exclusion.NOTHING, _ALL_PAIRS),
        Protocol("text-to-image", "test", "test", Exclusion.NOTHING, (("text", "image"),)),
        Protocol("leave-one-image-out", "test", "test", Exclusion.SAME_IMAGE, _ALL_PAIRS),
    )
}

STANDARD_TEXT_PAIRS: tuple[tuple[Modality, Modality], ...] = (
    ("text", "image"),
    ("both", "both"),
    ("image", "image"),
    ("text", "text"),
)
"""Default (query, gallery) modalities of a dataset with captions."""


@dataclass(frozen=True, eq=False)
class Items:
    """The items of one split; each gets one embedding.

    Attributes:
        split: name of the split.
        dataset: the split itself.
        modality: content of an item, `image`, `text` or `both`.
        image_index: `(n,)` row of the item's image in `dataset`; ascending.
        caption_index: `(n,)` position of the item's caption among its image's captions; -1 for items without one.
        person_ids: `(n,)`.
    """

    split: str
    dataset: Dataset
    modality: Modality
    image_index: NDArray[np.int64]
    caption_index: NDArray[np.int64]
    person_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def identity(self) -> tuple[str, str, bytes, bytes]:
        """A key that is equal for the same items of the same data, and only for these."""
        fingerprint = self.dataset._fingerprint  # of `datasets`: its content and all that was done to it
        return fingerprint, self.modality, self.image_index.tobytes(), self.caption_index.tobytes()

    def select(self, kept: NDArray[np.int64] | NDArray[np.bool_]) -> Items:
        """Some of the items: their positions, or a mask `(n,)`."""
        return replace(
            self,
            image_index=self.image_index[kept],
            caption_index=self.caption_index[kept],
            person_ids=self.person_ids[kept],
        )


@dataclass(frozen=True, eq=False)
class RetrievalTask:
    """One search to run: every query item against every gallery item.

    Attributes:
        protocol: name of the protocol.
        query: the query items.
        gallery: the searched items.
        query_exclusion_ids: `(Q,)` camera or image numbers; `rank_metrics` takes them as camera ids. None for no rule.
        gallery_exclusion_ids: `(G,)` likewise.
    """

    protocol: str
    query: Items
    gallery: Items
    query_exclusion_ids: NDArray[np.int64] | None
    gallery_exclusion_ids: NDArray[np.int64] | None

    @property
    def rules(self) -> Protocol:
        """The protocol itself. Raises `ValueError` for an unknown name."""
        return _get_protocol(self.protocol)

    def select_queries(self, kept: NDArray[np.int64]) -> RetrievalTask:
        """The task with a subset of its queries, given by position."""
        exclusion = self.query_exclusion_ids
        exclusion = None if exclusion is None else exclusion[kept]
        return replace(self, query=self.query.select(kept), query_exclusion_ids=exclusion)

    def matches(self) -> GalleryMatches:
        """The true matches of each query."""
        return GalleryMatches(
            self.query.person_ids, self.gallery.person_ids, self.query_exclusion_ids, self.gallery_exclusion_ids
        )


def build_task(dataset: DatasetDict, query: Modality, gallery: Modality, protocol: str | None = None) -> RetrievalTask:
    """Build the task of searching `gallery` items with `query` items.

    Junk crops (person id -1) are never items, so they are not embedded either.

    Args:
        dataset: splits with the columns of `mmet.data.schema.REID_FEATURES`.
        query: modality of the queries.
        gallery: modality of the gallery.
        protocol: a name of `PROTOCOLS`; None for the dataset's own (`default_protocol`).

    Raises:
        ValueError: an unknown name, a pair of modalities outside the protocol, or no query with a true match.
        DatasetError: a required split or its captions are missing.
    """
    for modality in (query, gallery):
        if modality not in MODALITIES:
            raise ValueError(f"expected a modality out of {', '.join(MODALITIES)}, received {modality!r}")
    rules = _get_protocol(protocol) if protocol is not None else default_protocol(dataset, query, gallery)
    if not rules.fits(dataset):
        splits = dict.fromkeys([rules.query_split, rules.gallery_split])
        expected = f"the split{'s' * (len(splits) > 1)} {' and '.join(map(repr, splits))}"
        raise DatasetError(f"protocol {rules.name!r} expects {expected}, received {', '.join(dataset) or 'none'}")
    if (query, gallery) not in rules.pairs:
        allowed = ", ".join(f"{q}→{g}" for q, g in rules.pairs)
        raise ValueError(f"protocol {rules.name!r} is defined for {allowed}, received {query}→{gallery}")
    query_items = select_items(dataset[rules.query_split], rules.query_split, query)
    gallery_items = select_items(dataset[rules.gallery_split], rules.gallery_split, gallery)
    task = RetrievalTask(
        rules.name, query_items, gallery_items, *_exclusion_ids(query_items, gallery_items, rules.exclusion)
    )
    _check_task(task)  # now, not after hours of embedding
    return task


def _check_task(task: RetrievalTask) -> None:
    """Raise `ValueError` if a protocol makes no sense for the data, and name one that does."""
    shot = task.rules.single_shot
    if shot is not None:
        persons = [len(np.unique(side.person_ids)) for side in (task.query, task.gallery)]
        if persons != [shot.num_persons] * 2:
            raise ValueError(
                f"protocol {task.protocol!r} expects the {shot.num_persons} test persons of one of CUHK03's 20 splits "
                f"in query and gallery, received {persons[0]} and {persons[1]}; for the new split of 700 persons "
                "choose 'cuhk03-np', for other data 'market'"
            )
    matches = task.matches()
    by_person_alone = GalleryMatches(task.query.person_ids, task.gallery.person_ids)
    removes_all = not matches.counts()[0].any() and by_person_alone.counts()[0].any()
    if removes_all and task.rules.exclusion is Exclusion.SAME_CAMERA:
        raise ValueError(_one_camera_words(task))
    matches.require_valid_query()


def _one_camera_words(task: RetrievalTask) -> str:
    cameras = np.unique(
        np.concatenate([integer_column(side.dataset, "camera_id") for side in (task.query, task.gallery)])
    )
    seen = f"all images are from camera {cameras[0]}" if len(cameras) == 1 else "no person is seen by two cameras"
    return (
        f"no query has a true match left in its gallery: {seen}, and protocol {task.protocol!r} removes the gallery "
        "entries of the query's own person and camera. Choose protocol 'no-camera' (--protocol no-camera), which "
        "removes nothing; or, where camera ids are wrong, correct them (-1 stands for unknown)"
    )


def default_protocol(dataset: Mapping[str, Dataset], query: Modality, gallery: Modality) -> Protocol:
    """Return the usual protocol for a dataset with these splits. Raises `DatasetError` without a test split."""
    if PROTOCOLS["market"].fits(dataset):
        return PROTOCOLS["market"]
    if PROTOCOLS["leave-one-image-out"].fits(dataset):
        return PROTOCOLS["text-to-image" if (query, gallery) == ("text", "image") else "leave-one-image-out"]
    raise DatasetError(
        "expected the splits 'query' and 'gallery', or 'test', to evaluate on; "
        f"the dataset has {', '.join(dataset) or 'none'} (training only?)"
    )


def standard_pairs(dataset: Mapping[str, Dataset]) -> tuple[tuple[Modality, Modality], ...]:
    """Return the (query, gallery) modalities that a dataset is evaluated on by default."""
    if PROTOCOLS["market"].fits(dataset) or ("test" in dataset and not has_captions(dataset["test"])):
        return (("image", "image"),)
    return STANDARD_TEXT_PAIRS


def prepare_tasks(
    dataset: DatasetDict,
    query: Modality | None = None,
    gallery: Modality | None = None,
    protocol: str | None = None,
) -> list[RetrievalTask]:
    """Build the requested task, or the dataset's standard tasks.

    Args:
        dataset: splits with the columns of `mmet.data.schema.REID_FEATURES`.
        query: modality of the queries; None for the standard tasks.
        gallery: modality of the gallery; None for images, or that of the standard tasks.
        protocol: a name of `PROTOCOLS`; None for the data set's own.

    Raises:
        ValueError: as `build_task` does, or a gallery modality without a query modality.
    """
    if query is not None:
        return [build_task(dataset, query, gallery or "image", protocol)]
    if gallery is not None:
        raise ValueError(f"expected a query modality with gallery {gallery!r}, received none")
    if protocol == "text-to-image":
        return [build_task(dataset, "text", "image", protocol)]
    return [build_task(dataset, *pair, protocol) for pair in standard_pairs(dataset)]


def select_items(dataset: Dataset, split: str, modality: Modality) -> Items:
    """All items of a split, in its order; captions keep the order of their image.

    Raises:
        DatasetError: there is no usable image, or no caption although the modality needs one.
    """
    person_ids = integer_column(dataset, "person_id")
    images = np.flatnonzero(person_ids != JUNK_PERSON_ID)
    if images.size == 0:
        raise DatasetError(f"split {split!r} has no image of a person to evaluate on ({len(dataset)} rows)")
    captions = np.full(len(images), -1)
    if modality != "image":
        counts = np.array([len(captions) for captions in dataset.select_columns("captions")[:]["captions"]])[images]
        if counts.sum() == 0:
            raise DatasetError(
                f"split {split!r} has no captions, which {modality!r} items need; this dataset is searched image→image"
            )
        captions = np.concatenate([np.arange(count) for count in counts])
        images = np.repeat(images, counts)
    return Items(split, dataset, modality, images, captions, person_ids[images])


def _get_protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise ValueError(f"expected a protocol out of {', '.join(PROTOCOLS)}, received {name!r}")
    return PROTOCOLS[name]


_Ids = NDArray[np.int64]


def _exclusion_ids(query: Items, gallery: Items, exclusion: Exclusion) -> tuple[_Ids, _Ids] | tuple[None, None]:
    """Numbers `(Q,)` and `(G,)`; an entry with the query's number is excluded. None if there is no rule."""
    if exclusion is Exclusion.NOTHING:
        return None, None
    if exclusion is Exclusion.SAME_CAMERA:
        by_query, by_gallery = (integer_column(items.dataset, "camera_id") for items in (query, gallery))
        if (by_query == NO_CAMERA).any():
            by_query, by_gallery = _pictures_as_cameras(query.dataset, gallery.dataset, by_query, by_gallery)
    else:
        by_query, by_gallery = _image_numbers(query.dataset, gallery.dataset)
    return by_query[query.image_index], by_gallery[gallery.image_index]


def _pictures_as_cameras(query: Dataset, gallery: Dataset, by_query: _Ids, by_gallery: _Ids) -> tuple[_Ids, _Ids]:
    """Camera numbers; pictures of unknown cameras get a number each, shared by query and gallery."""
    images, others = _image_numbers(query, gallery)
    of_query = (by_query == NO_CAMERA) & np.isin(images, others)
    of_gallery = (by_gallery == NO_CAMERA) & np.isin(others, images[of_query])
    first = NO_CAMERA - 1
    return np.where(of_query, first - images, by_query), np.where(of_gallery, first - others, by_gallery)


def _image_numbers(query: Dataset, gallery: Dataset) -> tuple[_Ids, _Ids]:
    """A number for each row, shared by rows of the same picture: published splits list some files twice."""
    names = [dataset.select_columns("image_path")[:]["image_path"] for dataset in (query, gallery)]
    if not all(map(all, names)):  # rows without a name are pictures of their own, or the same split's
        return np.arange(len(names[0])), np.arange(len(names[1])) + (0 if query is gallery else len(names[0]))
    numbers = np.unique(np.array([*names[0], *names[1]]), return_inverse=True)[1].astype(np.int64)
    return numbers[: len(names[0])], numbers[len(names[0]) :]
