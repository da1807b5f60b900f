"""The training set: examples of every kind of batch, loaded by `Draw`, from any number of datasets in the one schema.

An example is a pure function of its draw: which caption is taken and how the picture is augmented follow from the
draw's seed, whichever worker process loads it.

    dataset = TrainingDataset(paired=[finegpr["train"]], image=[market["train"]], augmentation=PersonAugmentation())
    sampler = MixedBatchSampler(dataset.sizes, mix={"paired": 0.7, "image": 0.3}, batch_size=64)
    samples = [dataset[draw] for draw in sampler]
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import torch.utils.data
from numpy.typing import NDArray

from mmet.data.decoding import DECODE_ERRORS, decode_person_mask, decode_rgb
from mmet.data.schema import REID_FEATURES, DatasetError
from mmet.training.augmentation import PersonAugmentation
from mmet.training.sampling import IDENTITY_KINDS, Draw
from pictures_mmet import AmbiguousMaskError

UNKNOWN_PERSON = -100
"""Label of a person without a number in the training set (`ignore_index` of the losses)."""

Decoded = TypeVar("Decoded")

_ROWS_PER_READ = 65_536

_MAX_STAND_INS = 100
"""Number of unreadable pictures in a row that are replaced before the error is raised."""


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """One example, augmented and not yet a tensor.

    Attributes:
        kind: kind of batch it is for, one of `mmet.training.sampling.BATCH_KINDS`.
        seed: seed of the draw, from which the collator derives its masks.
        image: RGB picture, uint8 `(height, width, 3)`; None in text batches.
        person_mask: mode L, 255 on the person, else 0, of the picture's size; None if there is none or none is needed.
        caption: one of the picture's sentences; None if there is none or none is needed.
        person_label: number of the person in `range(num_identities)`, or -100.
        image_path: name of the picture for messages; empty in text batches of unpaired sentences.
        skipped: path and reason of the undecodable pictures that this one replaces.
    """

    kind: str
    seed: int
    image: NDArray[np.uint8] | None = None
    person_mask: PIL.Image.Image | None = None
    caption: str | None = None
    person_label: int = UNKNOWN_PERSON
    image_path: str = ""
    skipped: tuple[tuple[str, str], ...] = ()


class TrainingDataset(torch.utils.data.Dataset[TrainingSample]):
    """Loads examples by `Draw`; iterate it through a `MixedBatchSampler`.

    `paired` sources give the `paired` batches (their rows with captions) and the `identity` batches (all their rows,
    also those without a caption). The `identity_image` batches, pictures alone, have the rows of `paired` and `image`
    sources, each picture once: an `image` row whose domain and path came before is left out. Persons are numbered over
    both, those of `paired` first: rows of the same domain and person id are one person, in whichever source they
    stand; negative ids are unknown persons, which no identity batch shows.

    Args:
        paired: datasets with the columns of `REID_FEATURES`.
        image: datasets whose pictures are used alone.
        text: datasets whose captions are used alone; the columns `captions` and `image_path` are enough.
        augmentation: augmentation of every picture, or None.
        skip_bad_images: whether a picture that cannot be decoded is replaced by another one, drawn from the draw's
            seed: in identity batches one of the same person, as long as there is any.

    Attributes:
        sizes: number of examples of each kind, as `MixedBatchSampler` takes them; `paired` and `text` leave out rows
            without a caption.
        person_labels: int64, the person of each example of kind `identity`; -100 where unknown.
        num_identities: number of persons among all examples.

    Raises:
        DatasetError: a source lacks columns; or, on loading, a picture cannot be decoded.
    """

    def __init__(
        self,
        *,
        paired: Sequence[datasets.Dataset] = (),
        image: Sequence[datasets.Dataset] = (),
        text: Sequence[datasets.Dataset] = (),
        augmentation: PersonAugmentation | None = None,
        skip_bad_images: bool = False,
    ) -> None:
        self._augmentation = augmentation
        self._skip_bad_images = skip_bad_images
        persons = _PersonNumbers([*paired, *image])
        self.num_identities = persons.count
        pictures = distinct([*paired, *image])
        paired_labels = persons.labels(paired)
        picture, sentence = ["image", "image_path"], ["captions", "image_path"]
        self._examples = {
            "paired": _Examples(
                paired, [*picture, "person_mask", "captions"], paired_labels, _rows_with_caption(paired)
            ),
            "identity": _Examples(paired, [*picture, "captions"], paired_labels),
            "identity_image": _Examples(
                pictures, picture, persons.labels(pictures), _rows_not_repeated(pictures, len(distinct(paired)))
            ),
            "image": _Examples(image, [*picture, "person_mask"], persons.labels(image)),
            "text": _Examples(text, sentence, None, _rows_with_caption(text)),
        }
        self.sizes = {kind: len(examples) for kind, examples in self._examples.items()}

    @property
    def person_labels(self) -> NDArray[np.int64]:
        return self._examples["identity"].labels()

    def persons(self) -> dict[str, NDArray[np.int64]]:
        """The person of each example of the identity kinds, -100 where unknown, as `MixedBatchSampler` takes them."""
        return {kind: self._examples[kind].labels() for kind in IDENTITY_KINDS}

    def count_identities(self, kinds: Collection[str]) -> int:
        """Number of classes for the persons of these identity kinds; those of `identity` come first."""
        return max((int(self._examples[kind].labels().max(initial=-1)) + 1 for kind in kinds), default=0)

    def domains(self) -> dict[str, NDArray[np.int64]]:
        """The number of the domain of each example of each kind, as `MixedBatchSampler` takes them to balance."""
        return {kind: examples.domains() for kind, examples in self._examples.items()}

    def __len__(self) -> int:
        """Number of rows of all sources that some kind of batch uses."""
        return self.sizes["identity"] + self.sizes["image"] + self.sizes["text"]

    def __getitem__(self, draw: Draw) -> TrainingSample:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[TrainingSample]:
        """Samples of one batch, their rows read together (`torch.utils.data.DataLoader` calls this)."""
        samples: dict[int, TrainingSample] = {}
        for kind in dict.fromkeys(draw.kind for draw in draws):
            places = [place for place, draw in enumerate(draws) if draw.kind == kind]
            examples = self._examples[kind].read([draws[place].index for place in places])
            for place, (row, person_label) in zip(places, examples, strict=True):
                samples[place] = self._sample_or_stand_in(draws[place], row, person_label)
        return [samples[place] for place in range(len(draws))]

    def _sample_or_stand_in(self, draw: Draw, row: dict[str, Any], person_label: int) -> TrainingSample:
        """The draw's sample or, if its picture cannot be decoded and may be skipped, that of another example."""
        skipped: list[tuple[str, str]] = []
        tried = [draw.index]
        while True:
            try:
                sample = self._sample(draw, row, person_label)
            except DatasetError as error:
                if not self._skip_bad_images or len(tried) > _MAX_STAND_INS:
                    raise
                skipped.append((row["image_path"], str(error)))
                tried.append(self._stand_in(draw, tried))
                ((row, person_label),) = self._examples[draw.kind].read(tried[-1:])
            else:
                return replace(sample, skipped=tuple(skipped)) if skipped else sample

    def _stand_in(self, draw: Draw, tried: list[int]) -> int:
        """Another example of the kind; in identity batches one of the same person, as long as one is untried."""
        rng = np.random.default_rng([draw.seed, len(tried)])
        if draw.kind in IDENTITY_KINDS:
            labels = self._examples[draw.kind].labels()
            same_person = np.flatnonzero(labels == labels[draw.index])
            untried = np.setdiff1d(same_person, tried)
            if len(untried):
                return int(rng.choice(untried))
        return int(rng.integers(self.sizes[draw.kind]))

    def _sample(self, draw: Draw, row: dict[str, Any], person_label: int) -> TrainingSample:
        rng = np.random.default_rng(draw.seed)
        caption = _draw_caption(row.get("captions"), rng)
        image = person_mask = None
        if "image" in row:
            image, person_mask = self._picture(row, rng)
        return TrainingSample(draw.kind, draw.seed, image, person_mask, caption, person_label, row["image_path"] or "")

    def _picture(
        self, row: dict[str, Any], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], PIL.Image.Image | None]:
        """The row's picture and mask, augmented; a mask of another size is resized to the picture."""
        image = _decode(row, "image", decode_rgb)
        size = (image.shape[1], image.shape[0])
        person_mask = None
        if row.get("person_mask") is not None:
            person_mask = _decode(row, "person_mask", decode_person_mask)
            if person_mask.size != size:
                person_mask = person_mask.resize(size, PIL.Image.Resampling.NEAREST)
        if self._augmentation is None:
            return image, person_mask
        augmented, person_mask = self._augmentation(PIL.Image.fromarray(image), person_mask, rng)
        return np.asarray(augmented), person_mask


class _Examples:
    """The examples of one kind: some or all rows of several datasets, one after another, pictures undecoded."""

    def __init__(
        self,
        sources: Sequence[datasets.Dataset],
        columns: list[str],
        labels: NDArray[np.int64] | None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self._whole = list(sources)
        self._sources = [_undecoded(source, columns) for source in sources]
        self._ends = np.cumsum([len(source) for source in sources], dtype=np.int64)
        self._labels = labels
        self._rows = rows

    def __len__(self) -> int:
        if self._rows is not None:
            return len(self._rows)
        return int(self._ends[-1]) if len(self._ends) else 0

    def labels(self) -> NDArray[np.int64]:
        """The person of each example, -100 where unknown."""
        if self._labels is None:
            return np.full(len(self), UNKNOWN_PERSON, dtype=np.int64)
        return self._labels if self._rows is None else self._labels[self._rows]

    def domains(self) -> NDArray[np.int64]:
        """The number of each example's domain, in the order of their names."""
        rows = [domains_and_persons(source) for source in self._whole]
        number_of = {
            name: number for number, name in enumerate(sorted({name for names, _, _ in rows for name in names}))
        }
        parts = [np.array([number_of[name] for name in names], dtype=np.int64)[codes] for names, codes, _ in rows]
        numbers = np.concatenate([np.empty(0, dtype=np.int64), *parts])
        return numbers if self._rows is None else numbers[self._rows]

    def read(self, indices: Sequence[int]) -> list[tuple[dict[str, Any], int]]:
        """Row and person label of each example; one read for each source that they stand in."""
        rows = np.asarray(indices) if self._rows is None else self._rows[indices]
        numbers = np.searchsorted(self._ends, rows, side="right")
        row_of: dict[int, dict[str, Any]] = {}
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            source = self._sources[number]
            first = int(self._ends[number]) - len(source)
            row_of |= zip(places.tolist(), source.__getitems__((rows[places] - first).tolist()), strict=True)
        labels = np.full(len(rows), UNKNOWN_PERSON) if self._labels is None else self._labels[rows]
        return [(row_of[place], label) for place, label in enumerate(labels.tolist())]


class _PersonNumbers:
    """Numbers the persons of some datasets from 0: a person is a domain and an id in it."""

    def __init__(self, sources: Sequence[datasets.Dataset]) -> None:
        self._numbers: dict[tuple[str, int], int] = {}
        for source in sources:
            names, codes, person_ids = domains_and_persons(source)
            for code, domain in sorted(enumerate(names), key=lambda item: item[1]):
                for person_id in np.unique(person_ids[codes == code]).tolist():
                    if person_id >= 0:
                        self._numbers.setdefault((domain, person_id), len(self._numbers))

    @property
    def count(self) -> int:
        return len(self._numbers)

    def labels(self, sources: Sequence[datasets.Dataset]) -> NDArray[np.int64]:
        """The number of each row's person, -100 where it has none."""
        parts = [np.empty(0, dtype=np.int64)]
        for source in sources:
            names, codes, person_ids = domains_and_persons(source)
            labels = np.full(len(source), UNKNOWN_PERSON, dtype=np.int64)
            for code, domain in enumerate(names):
                in_domain = codes == code
                ids, inverse = np.unique(person_ids[in_domain], return_inverse=True)
                numbers = [self._numbers.get((domain, person_id), UNKNOWN_PERSON) for person_id in ids.tolist()]
                labels[in_domain] = np.array(numbers, dtype=np.int64)[inverse]
            parts.append(labels)
        return np.concatenate(parts)


def domains_and_persons(source: datasets.Dataset) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]]:
    """The names of the domains; and of every row the number of its domain among them, and its person id.

    Reads only these two columns and keeps 12 bytes per row.
    """
    _check_columns(source, ["domain", "person_id"])
    table = source.select_columns(["domain", "person_id"]).with_format("arrow")[:]
    domains = table["domain"].dictionary_encode().combine_chunks()
    names = domains.dictionary.to_pylist()
    return names, domains.indices.to_numpy(zero_copy_only=False), table["person_id"].to_numpy()


def distinct(sources: Sequence[datasets.Dataset]) -> list[datasets.Dataset]:
    """The distinct sources: a dataset may be used as pairs and as images."""
    return list({id(source): source for source in sources}.values())


def _rows_not_repeated(sources: Sequence[datasets.Dataset], num_trusted: int) -> NDArray[np.int64] | None:
    """
    Numbers of the rows, over all sources one after another, without those of the later sources whose picture (domain
    and path) an earlier source has as well; None for all rows. The first `num_trusted` sources keep all of theirs.
    """
    tables = [domains_and_persons(source) for source in sources]
    seen: dict[str, set[str]] = {}
    kept, first = [np.empty(0, dtype=np.int64)], 0
    for number, (source, (names, codes, _)) in enumerate(zip(sources, tables, strict=True)):
        repeated = np.zeros(len(source), dtype=bool)
        to_come = {name for later, _, _ in tables[max(number + 1, num_trusted) :] for name in later}
        for code, domain in enumerate(names):
            rows = np.flatnonzero(codes == code)
            if number >= num_trusted and domain in seen:
                repeated[rows] = [path in seen[domain] for path in _paths(source, rows)]
            if domain in to_come:
                seen.setdefault(domain, set()).update(_paths(source, rows))
        kept.append(first + np.flatnonzero(~repeated))
        first += len(source)
    rows = np.concatenate(kept)
    return None if len(rows) == first else rows


def _paths(source: datasets.Dataset, rows: NDArray[np.int64]) -> list[str]:
    """`image_path` of these rows."""
    column = source.select_columns(["image_path"]).with_format("arrow")[:]["image_path"]
    paths: list[str] = column.take(pa.array(rows)).to_pylist()
    return paths


def _rows_with_caption(sources: Sequence[datasets.Dataset]) -> NDArray[np.int64]:
    """Numbers of the rows, over all sources one after another, that have a caption which is not blank."""
    with_caption, first = [np.empty(0, dtype=np.int64)], 0
    for source in sources:
        _check_columns(source, ["captions"])
        captions = source.select_columns(["captions"]).with_format("arrow")
        for start in range(0, len(source), _ROWS_PER_READ):
            column = captions[start : start + _ROWS_PER_READ]["captions"].combine_chunks()
            written = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(pc.list_flatten(column))), 0)
            rows = pc.list_parent_indices(column).filter(written, null_selection_behavior="drop").unique().to_numpy()
            with_caption.append(first + start + rows.astype(np.int64))
        first += len(source)
    return np.concatenate(with_caption)


def _check_columns(source: datasets.Dataset, needed: list[str]) -> None:
    missing = sorted(set(needed) - set(source.column_names))
    if missing:
        raise DatasetError(
            f"expected a training dataset with the columns {', '.join(REID_FEATURES)}; this one, with "
            f"{', '.join(source.column_names)}, lacks {', '.join(missing)}"
        )


def _undecoded(source: datasets.Dataset, columns: list[str]) -> datasets.Dataset:
    """The needed columns, with pictures as `{"bytes", "path"}`, so that decoding errors can name the picture."""
    _check_columns(source, columns)
    source = source.select_columns(columns).with_format(None)
    for column in {"image", "person_mask"} & set(columns):
        source = source.cast_column(column, datasets.Image(decode=False))
    return source


def _decode(row: dict[str, Any], column: str, decode: Callable[[dict[str, Any]], Decoded]) -> Decoded:
    try:
        return decode(row[column])
    except DECODE_ERRORS as error:
        stored = row[column].get("path") or row["image_path"]
        problem = "is ambiguous: it" if isinstance(error, AmbiguousMaskError) else "cannot be decoded:"
        raise DatasetError(
            f"{stored}: the {column} of {row['image_path']} {problem} {error}; correct, restore or remove the file"
        ) from error


def _draw_caption(captions: list[str] | None, rng: np.random.Generator) -> str | None:
    """One of the captions that are not blank, or None."""
    written = [caption for caption in captions or () if caption and caption.strip()]
    return written[rng.integers(len(written))] if written else None
