"""Named evaluation protocols: which items ask, which are searched, and which true matches do not count.

    task = build_task(dataset, query="text", gallery="image")      # a dataset's own protocol
    task.protocol, task.query.person_ids, task.gallery.person_ids

An *item* is what one embedding stands for: an image, one caption, or one (image, caption) pair. A protocol names the
splits that items come from and the *exclusion*: the same person's entries that are removed from a query's gallery
because finding them proves nothing.

| protocol | query and gallery | removed from a query's gallery |
| --- | --- | --- |
| `market` | splits `query`, `gallery` | same person, same camera (Zheng et al., Market-1501, 2015) |
| `single-camera` | splits `query`, `gallery` | nothing |
| `text-to-image` | all captions, all images of `test` | nothing; the caption's own image counts too |
| `leave-one-image-out` | split `test` twice | items of the query's own image |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from mmet.data.schema import JUNK_PERSON_ID, DatasetError
from mmet.evaluation.matches import GalleryMatches

Modality = Literal["image", "text", "both"]
MODALITIES: tuple[Modality, ...] = ("image", "text", "both")


class Exclusion(Enum):
    """Which entries of the query's own person are removed from its gallery."""

    SAME_CAMERA = "same camera"
    SAME_IMAGE = "same image"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Protocol:
    """A named way to derive query and gallery from splits; `pairs` are the (query, gallery) modalities allowed."""

    name: str
    query_split: str
    gallery_split: str
    exclusion: Exclusion
    pairs: tuple[tuple[Modality, Modality], ...]

    def fits(self, dataset: Mapping[str, Dataset]) -> bool:
        """Whether the dataset has the splits."""
        return self.query_split in dataset and self.gallery_split in dataset


_ALL_PAIRS = tuple((query, gallery) for query in MODALITIES for gallery in MODALITIES)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("market", "query", "gallery", Exclusion.SAME_CAMERA, _ALL_PAIRS),
        Protocol("single-camera", "query", "gallery", Exclusion.NOTHING, _ALL_PAIRS),
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
"""What a dataset with captions is evaluated on unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Items:
    """What is embedded of one split, one row an embedding.

    Attributes:
        split: name of the split.
        dataset: the split itself.
        modality: what an item consists of.
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


@dataclass(frozen=True, eq=False)
class RetrievalTask:
    """One search to run: every query item against every gallery item.

    Attributes:
        protocol: name of the protocol.
        query: the items that ask.
        gallery: the items that are searched.
        query_exclusion_ids: `(Q,)` camera or image numbers; `rank_metrics` takes them as camera ids. None for no rule.
        gallery_exclusion_ids: `(G,)` likewise.
    """

    protocol: str
    query: Items
    gallery: Items
    query_exclusion_ids: NDArray[np.int64] | None
    gallery_exclusion_ids: NDArray[np.int64] | None

    def matches(self) -> GalleryMatches:
        """The true matches of each query."""
        return GalleryMatches(
            self.query.person_ids, self.gallery.person_ids, self.query_exclusion_ids, self.gallery_exclusion_ids
        )


def build_task(dataset: DatasetDict, query: Modality, gallery: Modality, protocol: str | None = None) -> RetrievalTask:
    """The task of searching `gallery` items by `query` items.

    Junk crops (person id -1) are never items, so they are not embedded either.

    Args:
        dataset: splits with the columns of `mmet.data.schema.REID_FEATURES`.
        query: modality of the queries.
        gallery: modality of the gallery.
        protocol: a name of `PROTOCOLS`; None for the dataset's own (`default_protocol`).

    Raises:
        ValueError: unknown names, a protocol that does not do this pair of modalities, or no query with a true match.
        DatasetError: a split or the captions that it takes are missing.
    """
    for modality in (query, gallery):
        if modality not in MODALITIES:
            raise ValueError(f"expected a modality out of {', '.join(MODALITIES)}, received {modality!r}")
    rules = _get_protocol(protocol) if protocol is not None else default_protocol(dataset, query, gallery)
    if not rules.fits(dataset):
        raise DatasetError(
            f"protocol {rules.name!r} expects the splits {rules.query_split!r} and {rules.gallery_split!r}, "
            f"received {', '.join(dataset) or 'none'}"
        )
    if (query, gallery) not in rules.pairs:
        allowed = ", ".join(f"{q}→{g}" for q, g in rules.pairs)
        raise ValueError(f"protocol {rules.name!r} is defined for {allowed}, received {query}→{gallery}")
    query_items = select_items(dataset[rules.query_split], rules.query_split, query)
    gallery_items = select_items(dataset[rules.gallery_split], rules.gallery_split, gallery)
    task = RetrievalTask(
        rules.name,
        query_items,
        gallery_items,
        _exclusion_ids(query_items, rules.exclusion),
        _exclusion_ids(gallery_items, rules.exclusion),
    )
    task.matches().require_valid_query()  # now, not after hours of embedding
    return task


def default_protocol(dataset: Mapping[str, Dataset], query: Modality, gallery: Modality) -> Protocol:
    """The usual protocol for a dataset with these splits. Raises `DatasetError` when it has none to evaluate on."""
    if PROTOCOLS["market"].fits(dataset):
        return PROTOCOLS["market"]
    if PROTOCOLS["leave-one-image-out"].fits(dataset):
        return PROTOCOLS["text-to-image" if (query, gallery) == ("text", "image") else "leave-one-image-out"]
    raise DatasetError(
        "expected the splits 'query' and 'gallery', or 'test', to evaluate on; "
        f"the dataset has {', '.join(dataset) or 'none'} (training only?)"
    )


def standard_pairs(dataset: Mapping[str, Dataset]) -> tuple[tuple[Modality, Modality], ...]:
    """The (query, gallery) modalities that a dataset is evaluated on unless told otherwise."""
    return (("image", "image"),) if PROTOCOLS["market"].fits(dataset) else STANDARD_TEXT_PAIRS


def select_items(dataset: Dataset, split: str, modality: Modality) -> Items:
    """All items of a split, in its order; captions stay in their image's order.

    Raises:
        DatasetError: no clean image, or no caption where the modality needs one.
    """
    person_ids = _column(dataset, "person_id")
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


def _exclusion_ids(items: Items, exclusion: Exclusion) -> NDArray[np.int64] | None:
    """The numbers of which an entry must not share the query's, `(n,)`; None where there is no rule."""
    if exclusion is Exclusion.SAME_CAMERA:
        return _column(items.dataset, "camera_id")[items.image_index]
    if exclusion is Exclusion.SAME_IMAGE:
        return _image_numbers(items.dataset)[items.image_index]
    return None


def _image_numbers(dataset: Dataset) -> NDArray[np.int64]:
    """A number for each row that rows of one picture share: published splits list some files twice."""
    paths = dataset.select_columns("image_path")[:]["image_path"]
    if not all(paths):
        return np.arange(len(paths))
    return np.unique(np.array(paths), return_inverse=True)[1].astype(np.int64)


def _column(dataset: Dataset, name: str) -> NDArray[np.int64]:
    """An integer column `(rows,)`, read without decoding any picture."""
    return np.array(dataset.select_columns(name)[:][name], dtype=np.int64)
