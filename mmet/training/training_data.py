"""Load the data of a run: sources by use, validation persons, and their descriptions.

data = load_data(data_arguments)
data.sources.paired        # training splits, without the validation persons
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

import datasets
import numpy as np
import pyarrow.compute as pc

from mmet.data import (
    DataArgument,
    distinct_labels,
    get_spec,
    load_reid_dataset,
    load_training_splits,
    parse_data_arguments,
)
from mmet.data.synthetic import PROVENANCE_FILE
from mmet.distributed import compute_once
from mmet.training.arguments import TRAINING_STREAMS, DataArguments
from mmet.training.dataset import distinct
from mmet.training.run_record import DataRecord
from mmet.training.validation import (
    Persons,
    RetrievalSet,
    choose_persons,
    evaluation_set,
    split_persons,
    validation_sets,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSources:
    """The training splits of the requested datasets, by use."""

    paired: list[datasets.Dataset]
    image: list[datasets.Dataset]
    text: list[datasets.Dataset]

    @classmethod
    def load(cls, arguments: DataArguments) -> TrainingSources:
        """Load every `name=folder` once, even if it has several uses. Raises `DatasetError` for an invalid folder."""
        wanted = parse_data_arguments(arguments.paired_data, arguments.image_data, arguments.text_data)
        loaded = iter(load_training_splits(list(chain(*wanted))))
        return cls(*(list(islice(loaded, len(sources))) for sources in wanted))

    def distinct(self) -> list[datasets.Dataset]:
        """Every source once, even if it is used several times."""
        return distinct([*self.paired, *self.image, *self.text])

    def without(self, persons: Persons) -> TrainingSources:
        """The sources without the rows of these persons."""
        if not persons:
            return self
        kept = {id(source): split_persons(source, persons)[0] for source in self.distinct()}
        return TrainingSources(
            *([kept[id(source)] for source in sources] for sources in (self.paired, self.image, self.text))
        )

    def captions(self) -> Iterator[str]:
        """Yield all captions, those of several images several times."""
        for source in distinct([*self.paired, *self.text]):
            yield from chain.from_iterable(source["captions"])


@dataclass(frozen=True)
class SourceSummary:
    """Description of one training dataset: names, uses, size, licence."""

    name: str
    title: str
    uses: tuple[str, ...]
    images: int
    persons: int
    captions: int
    held_out_persons: int
    licence: str
    synthetic: bool


@dataclass(frozen=True)
class TrainingData:
    """
    The data of a run. `summaries` are for the result file and the model card; `records` are compared on a resume.
    """

    sources: TrainingSources
    evaluation_sets: list[RetrievalSet]
    summaries: list[SourceSummary]
    records: dict[str, DataRecord]


def load_data(arguments: DataArguments) -> TrainingData:
    """
    Load the training sources without the validation persons, and the evaluation sets: these persons, and `eval_data`.

    Raises:
        DatasetError: a folder is invalid.
        ValueError: the data has too few persons for the validation.
    """
    sources = TrainingSources.load(arguments)
    held_out = choose_persons(
        sources.distinct(), amount=arguments.validation_identities, seed=arguments.validation_seed
    )
    sets = validation_sets(
        sources.distinct(),
        held_out,
        images_per_person=arguments.validation_images_per_identity,
        seed=arguments.validation_seed,
    )
    (evaluated,) = parse_data_arguments(arguments.eval_data)
    for label, (name, folder, options) in zip(distinct_labels(evaluated), evaluated, strict=True):
        dataset = load_reid_dataset(name, folder, **options)
        sets.append(evaluation_set(label, dataset, split=arguments.eval_split))
    summaries = summarize_sources(arguments, sources, held_out)
    return TrainingData(
        sources.without(held_out), sets, summaries, compute_once(lambda: record_data(arguments, sources))
    )


def record_data(arguments: DataArguments, sources: TrainingSources) -> dict[str, DataRecord]:
    """Record each source under a name that does not depend on its folder, in the order of first use."""
    records: dict[str, DataRecord] = {}
    for argument, split, uses in _sources_in_use(arguments, sources):
        number = sum(known.partition(" ")[0] == argument.name for known in records)
        records[f"{argument.name} {number + 1}" if number else argument.name] = DataRecord.of(split, uses)
    return records


def _sources_in_use(
    arguments: DataArguments, sources: TrainingSources
) -> Iterator[tuple[DataArgument, datasets.Dataset, list[str]]]:
    """Yield each source once, with its training split and its uses, in the order of first use."""
    kinds = ("paired", "image", "text")
    uses: dict[str, list[str]] = {}
    splits: dict[str, tuple[DataArgument, datasets.Dataset]] = {}
    parsed = parse_data_arguments(*(getattr(arguments, f"{use}_data") for use in kinds))
    for use, named in zip(kinds, parsed, strict=True):
        for argument, split in zip(named, getattr(sources, use), strict=True):
            uses.setdefault(str(argument), []).append(use)
            splits[str(argument)] = argument, split
    yield from ((argument, split, uses[written]) for written, (argument, split) in splits.items())


def summarize_sources(arguments: DataArguments, sources: TrainingSources, held_out: Persons) -> list[SourceSummary]:
    """Summarise each `name=folder`, in the order of first use."""
    summaries = []
    for argument, split, uses in _sources_in_use(arguments, sources):
        spec = get_spec(argument.name)
        columns = split.select_columns(["person_id", "captions"]).with_format("arrow")[:]
        person_ids = np.unique(columns["person_id"].to_numpy())
        held = np.concatenate([np.asarray(held_out.get(domain, ()), np.int64) for domain in split.unique("domain")])
        captions = int(pc.sum(pc.list_value_length(columns["captions"])).as_py() or 0)
        summaries.append(
            SourceSummary(
                name=argument.label,
                title=spec.title,
                uses=tuple(uses),
                images=len(split),
                persons=int((person_ids >= 0).sum()),
                captions=captions,
                held_out_persons=int(np.isin(person_ids, held).sum()),
                licence=spec.licence,
                synthetic=any(argument.root.glob(PROVENANCE_FILE)),
            )
        )
    return summaries


def log_training_data(arguments: DataArguments) -> None:
    """Log the data of each stream and where it was set."""
    for stream in TRAINING_STREAMS:
        sources = getattr(arguments, stream)
        place = arguments.data_places.get(stream)
        logger.info("%s: %s%s", stream, " ".join(sources) or "none", f" ({place})" if place and sources else "")
    places = {arguments.data_places.get(stream) for stream in TRAINING_STREAMS if getattr(arguments, stream)}
    if len(places) > 1:
        logger.warning("training data of the recipe and of the command line are mixed; --data replaces all of it")
