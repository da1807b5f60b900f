"""The order of the training examples: homogeneous batches of several kinds, mixed in exact proportions.

A batch holds examples of one kind only: `paired` (masked image and text), `identity` (P persons × K images with their
sentences), `identity_image` (the same without sentences), `image` (images alone) or `text` (sentences alone).
`MixedBatchSampler` yields one `Draw` an example, so that it is an ordinary
sampler for `torch.utils.data.DataLoader`: every `batch_size` consecutive draws are one batch, and every
`num_processes` consecutive batches, which accelerate deals to the processes one each, are of one kind, so that all
processes compute the same losses.

Every step is a pure function of the seed, the epoch and its number. Training therefore sees the same examples with
the same captions, augmentation and masks for any number of data loading workers and after a resume. If a global batch
is split over more processes, examples, captions and augmentation stay the same; masks, noise and mismatched captions
change, since the collator draws them for a process's whole batch.

    >>> sampler = MixedBatchSampler({"paired": 6, "text": 2}, mix={"paired": 0.75, "text": 0.25}, batch_size=2)
    >>> sorted(f"{draw.kind} {draw.index}" for draw in sampler)  # an epoch shows every example once
    ['paired 0', 'paired 1', 'paired 2', 'paired 3', 'paired 4', 'paired 5', 'text 0', 'text 1']

    loader = DataLoader(dataset, batch_size=64, sampler=sampler, collate_fn=collator)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from mmet.field_checks import Range, check_number, suggestion

BATCH_KINDS = ("paired", "identity", "image", "text", "identity_image")
"""The kinds of batch. The position of a name seeds its shuffling: append new ones at the end."""

IDENTITY_KINDS = ("identity", "identity_image")
"""The kinds whose batches show P persons with K images each."""

MAX_SEED = 2**63

MAX_BATCH_SIZE = 2**16
"""Largest batch size of one process."""

MAX_BATCHES_PER_EPOCH = 2**24
"""Largest number of batches in an epoch, whose kinds are planned at once."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One example to load: the kind of batch it is for, its number within the kind, the seed of its randomness."""

    kind: str
    index: int
    seed: int


@dataclass(frozen=True, slots=True)
class IdentityBatchShape:
    """P × K: every identity batch shows `persons` persons with `images_per_person` images each."""

    persons: int
    images_per_person: int

    def __post_init__(self) -> None:
        if self.persons < 2 or self.images_per_person < 1:
            raise ValueError(
                f"expected identity batches of at least 2 persons with 1 image each, "
                f"received {self.persons} × {self.images_per_person}"
            )


class MixedBatchSampler(Sampler[Draw]):
    """Yields the draws of one epoch; see the module's first paragraphs.

    Within a kind, examples go through shuffled passes: each appears once before any appears again, across epochs too.
    Identity batches pass through the persons in the same way (a few of them twice, where the number of persons is no
    multiple of those in a step), with images drawn anew each time.

    Args:
        sizes: number of examples of each kind that `mix` names, but for the identity kinds.
        mix: proportion of batches of each kind; zero leaves a kind out. They need not add up to one.
        batch_size: examples in the batch of one process.
        person_labels: person of each example of the identity kinds, which require it; negative for unknown persons,
            who are not drawn. One array for both kinds, or one for each by its name.
        identity_shape: P × K with `P * K == batch_size`. Only for the identity kinds.
        num_processes: number of processes that consecutive batches are dealt to.
        domains: number of the domain (0, 1, …) of each example, for each kind; every batch then draws equally from the
            domains of its kind, those with few examples more often than once a pass. None draws in proportion to size.
        batches_per_epoch: batches of *each process* in an epoch; None for the fewest that show every example (every
            person, for the identity kinds) once.
        seed: seed of all randomness.

    Raises:
        ValueError: unknown kinds, no kind in the mix, kinds without examples, fewer persons than in a batch, shapes
            that do not match, or epochs too short for a batch of every kind.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        mix: Mapping[str, float],
        batch_size: int,
        person_labels: ArrayLike | Mapping[str, ArrayLike] | None = None,
        identity_shape: IdentityBatchShape | None = None,
        num_processes: int = 1,
        domains: Mapping[str, ArrayLike] | None = None,
        batches_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        if batch_size < 1 or num_processes < 1:
            raise ValueError(
                f"expected batch_size and num_processes of at least 1, received {batch_size}, {num_processes}"
            )
        proportions = check_mix(mix)
        self.batch_size = batch_size
        self.num_processes = num_processes
        self.seed = seed
        self.epoch = 0
        self._streams: dict[str, _ShuffledExamples | _PersonBatches | _BalancedExamples] = {}
        for kind in proportions:
            kind_seed = (seed, 1 + BATCH_KINDS.index(kind))
            groups = _examples_by_domain(domains, kind)
            if kind in IDENTITY_KINDS:
                shape = _checked_shape(identity_shape, batch_size)
                labels = person_labels.get(kind) if isinstance(person_labels, Mapping) else person_labels
                self._streams[kind] = _PersonBatches(kind, labels, shape, num_processes, kind_seed, groups)
            elif len(groups) > 1:
                self._streams[kind] = _BalancedExamples(groups, batch_size * num_processes, kind_seed)
            else:
                self._streams[kind] = _ShuffledExamples(
                    kind, sizes.get(kind, 0), batch_size * num_processes, kind_seed
                )
        if batches_per_epoch is None:
            batches_per_epoch = _batches_that_show_all(
                {kind: stream.steps_per_pass for kind, stream in self._streams.items()}, proportions
            )
        self.batches_per_epoch = batches_per_epoch
        self.batch_counts = apportion(batches_per_epoch, proportions)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of draws in an epoch, over all processes."""
        return self.batches_per_epoch * self.num_processes * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        kinds = self.kinds_of_epoch()
        done = {kind: self.epoch * count for kind, count in self.batch_counts.items()}
        for step, kind in enumerate(kinds, start=self.epoch * self.batches_per_epoch):
            rng = np.random.default_rng((self.seed, 0, step))
            seeds = rng.integers(MAX_SEED, size=self.batch_size * self.num_processes)
            indices = self._streams[kind].indices_of_step(done[kind], rng)
            done[kind] += 1
            for index, seed in zip(indices.tolist(), seeds.tolist(), strict=True):
                yield Draw(kind, index, seed)

    def kinds_of_epoch(self) -> list[str]:
        """The kind of each step of the current epoch: exact counts, every kind spread evenly, in a shuffled order."""
        rng = np.random.default_rng((self.seed, 1 + len(BATCH_KINDS), self.epoch))
        kinds = [kind for kind, count in self.batch_counts.items() for _ in range(count)]
        # The i-th of n batches of a kind falls at random into the i-th n-th part of the epoch.
        times = [(np.arange(count) + rng.random(count)) / count for count in self.batch_counts.values()]
        return [kinds[i] for i in np.argsort(np.concatenate(times), kind="stable")]


def draw_examples(sizes_by_kind: Mapping[str, int], kinds: Sequence[str], num_examples: int, seed: int) -> list[Draw]:
    """
    Draws of different examples of these kinds, up to `num_examples`.

    Raises:
        ValueError: there is none.
    """
    sizes = np.array([sizes_by_kind[kind] for kind in kinds])
    if not sizes.sum():
        raise ValueError(f"no images to look at: give {' or '.join(f'--{kind}_data' for kind in kinds)}")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(sizes.sum(), min(num_examples, sizes.sum()), replace=False)
    numbers = np.searchsorted(np.cumsum(sizes), chosen, side="right")
    indices = chosen - (np.cumsum(sizes) - sizes)[numbers]
    seeds = rng.integers(MAX_SEED, size=len(chosen))
    return [
        Draw(kinds[number], index, draw_seed)
        for number, index, draw_seed in zip(numbers.tolist(), indices.tolist(), seeds.tolist(), strict=True)
    ]


def apportion(total: int, proportions: Mapping[str, float]) -> dict[str, int]:
    """Split `total` into whole counts in the given proportions, by largest remainder; ties go to the kind named first.

    Raises `ValueError` when a kind with a positive proportion would get nothing: it would silently never be trained.
    """
    whole = sum(proportions.values())
    exact = {kind: total * proportion / whole for kind, proportion in proportions.items()}
    # A share of 2.9999999999999996 is a rounding error away from 3.
    counts = {kind: math.floor(share + 1e-9) for kind, share in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: counts[kind] - exact[kind])
    for kind in by_remainder[: total - sum(counts.values())]:
        counts[kind] += 1
    missed = [kind for kind, count in counts.items() if count == 0 and proportions[kind] > 0]
    if missed:
        raise ValueError(
            f"expected enough batches per epoch for at least one of every kind in the mix {dict(proportions)}, "
            f"received {total}: none would be of kind {', '.join(missed)}"
        )
    return counts


def check_mix(mix: Mapping[str, float]) -> dict[str, float]:
    """
    The positive proportions, summing to one, in the order of `BATCH_KINDS`.

    Raises:
        ValueError: a kind is unknown, a proportion is not a number of at least 0, or all are 0.
    """
    unknown = sorted(set(mix) - set(BATCH_KINDS))
    if unknown:
        raise ValueError(
            f"batch_mix: expected batch kinds among {', '.join(BATCH_KINDS)}, received {', '.join(map(str, unknown))}"
            f"{suggestion(unknown[0], BATCH_KINDS)}"
        )
    shares = {kind: check_number(f"batch_mix.{kind}", share, float, Range(at_least=0)) for kind, share in mix.items()}
    largest = max(shares.values(), default=0.0)
    if not largest:
        raise ValueError(f"batch_mix: expected proportions of at least 0 and one above it, received {dict(mix)}")
    scaled = {kind: share / largest for kind, share in shares.items()}  # the sum of huge ones is finite, too
    return {kind: scaled[kind] / sum(scaled.values()) for kind in BATCH_KINDS if scaled.get(kind)}


def _batches_that_show_all(steps_per_pass: Mapping[str, int], proportions: Mapping[str, float]) -> int:
    """The fewest batches, in these proportions, that hold a whole pass of every kind."""
    needed = {kind: steps / proportions[kind] for kind, steps in steps_per_pass.items()}
    kind = max(needed, key=needed.__getitem__)
    if needed[kind] > MAX_BATCHES_PER_EPOCH:
        raise ValueError(
            f"batch_mix: an epoch that shows every example of kind {kind} once would have {needed[kind]:.3g} batches, "
            f"more than {MAX_BATCHES_PER_EPOCH:,}; raise the share of {kind}, received {proportions[kind]:.3g} of all"
        )
    return math.ceil(needed[kind] - 1e-9)


def _checked_shape(shape: IdentityBatchShape | None, batch_size: int) -> IdentityBatchShape:
    if shape is None or shape.persons * shape.images_per_person != batch_size:
        raise ValueError(f"expected an identity_shape with P × K = batch_size = {batch_size}, received {shape}")
    return shape


def _examples_by_domain(domains: Mapping[str, ArrayLike] | None, kind: str) -> list[NDArray[np.int64]]:
    """The examples of each domain of a kind; none where domains do not count."""
    if domains is None or kind not in domains:
        return []
    numbers = np.asarray(domains[kind], dtype=np.int64)
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]


class _Passes:
    """Endless shuffled passes over `size` elements. Each pass has a seed of its own and does not depend on earlier
    ones."""

    def __init__(self, size: int, seed: tuple[int, ...]) -> None:
        self._size = size
        self._seed = seed
        self._number = -1
        self._order = np.empty(0, dtype=np.int64)

    def order(self, number: int) -> NDArray[np.int64]:
        """The permutation of pass `number`; the latest one is kept, since passes are read in sequence."""
        if number != self._number:
            self._number = number
            self._order = np.random.default_rng((*self._seed, number)).permutation(self._size)
        return self._order


class _ShuffledExamples:
    """Examples of one kind: `per_step` consecutive ones of the endless stream of passes in every step."""

    def __init__(self, kind: str, size: int, per_step: int, seed: tuple[int, int]) -> None:
        if size < 1:
            raise ValueError(f"expected examples for {kind} batches, which the mix asks for, received {size}")
        self._size = size
        self._per_step = per_step
        self._passes = _Passes(size, seed)

    @property
    def steps_per_pass(self) -> int:
        return math.ceil(self._size / self._per_step)

    def indices_of_step(self, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The examples of a step. `rng`, the step's own, is not needed: passes are shuffled as wholes."""
        position, end = step * self._per_step, (step + 1) * self._per_step
        parts = []
        while position < end:
            number, start = divmod(position, self._size)
            parts.append(self._passes.order(number)[start : start + end - position])
            position += len(parts[-1])
        return np.concatenate(parts)


class _BalancedExamples:
    """Examples of one kind that take turns between the domains; each domain is an endless stream of passes."""

    def __init__(self, groups: list[NDArray[np.int64]], per_step: int, seed: tuple[int, int]) -> None:
        self._groups = groups
        self._per_step = per_step
        self._passes = [_Passes(len(group), (*seed, number)) for number, group in enumerate(groups)]

    @property
    def steps_per_pass(self) -> int:
        return math.ceil(max(map(len, self._groups)) * len(self._groups) / self._per_step)

    def indices_of_step(self, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The examples of a step: positions of the common stream belong to the domains in turn."""
        positions = np.arange(step * self._per_step, (step + 1) * self._per_step)
        indices = np.empty(len(positions), dtype=np.int64)
        for number, (group, passes) in enumerate(zip(self._groups, self._passes, strict=True)):
            in_domain = positions % len(self._groups) == number
            indices[in_domain] = _read_passes(passes, group, positions[in_domain] // len(self._groups))
        return indices


def _read_passes(passes: _Passes, group: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The examples at ascending positions of the endless passes through a group."""
    numbers, places = np.divmod(positions, len(group))
    return np.concatenate(
        [np.empty(0, dtype=np.int64)]
        + [group[passes.order(number)[places[numbers == number]]] for number in np.unique(numbers).tolist()]
    )


class _PersonBatches:
    """P × K examples for each process and step; passes through the persons as others do through examples.

    The persons of one step differ between the processes wherever there are enough of them. A person with fewer than K
    images shows all of them, and then repeats.
    """

    def __init__(
        self,
        kind: str,
        person_labels: ArrayLike | None,
        shape: IdentityBatchShape,
        num_processes: int,
        seed: tuple[int, int],
        groups: list[NDArray[np.int64]],
    ) -> None:
        labels = np.asarray(() if person_labels is None else person_labels, dtype=np.int64)
        known = np.flatnonzero(labels >= 0)
        self._examples = known[np.argsort(labels[known], kind="stable")]  # grouped by person
        _, self._starts, self._counts = np.unique(labels[self._examples], return_index=True, return_counts=True)
        if len(self._counts) < shape.persons:
            raise ValueError(
                f"expected at least {shape.persons} labelled persons for identity batches of {shape.persons} × "
                f"{shape.images_per_person}, received {len(self._counts)} for the kind {kind}"
            )
        self.shape = shape
        self._per_step = shape.persons * num_processes
        # Persons are distinct within a unit: a whole step where there are enough of them, else one process's batch.
        self._unit = self._per_step if len(self._counts) >= self._per_step else shape.persons
        self._padded = math.ceil(len(self._counts) / self._unit) * self._unit
        self._passes = _Passes(len(self._counts), seed)
        self._domains = self._persons_by_domain(groups) if len(groups) > 1 else []
        self._domain_passes = [_Passes(len(persons), (*seed, number)) for number, persons in enumerate(self._domains)]

    def _persons_by_domain(self, groups: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """The persons of each domain: a person's examples are of one domain."""
        first = self._examples[self._starts]
        domains = [np.flatnonzero(np.isin(first, group)) for group in groups]
        share = math.ceil(self._unit / len(domains))
        fewest = min(map(len, domains))
        if fewest < share:
            raise ValueError(
                f"expected at least {share} persons of every domain, to balance {len(domains)} domains in identity "
                f"batches of {self._unit} persons, received {fewest}; lower persons_per_batch or do not balance"
            )
        return domains

    @property
    def steps_per_pass(self) -> int:
        if self._domains:
            return math.ceil(max(map(len, self._domains)) * len(self._domains) / self._per_step)
        return math.ceil(self._padded / self._per_step)

    def indices_of_step(self, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`P * K` examples for each process in turn, the images of a person beside each other."""
        first = step * self._per_step
        units = [self._persons_of_unit(start) for start in range(first, first + self._per_step, self._unit)]
        return np.concatenate([self._draw_images(person, rng) for person in np.concatenate(units).tolist()])

    def _persons_of_unit(self, position: int) -> NDArray[np.int64]:
        """The distinct persons from `position` of the stream; the last unit of a pass is filled up from its start."""
        if self._domains:
            return self._balanced_unit(position // self._unit)
        number, start = divmod(position, self._padded)
        order = self._passes.order(number)
        return order[np.arange(start, start + self._unit) % len(order)]

    def _balanced_unit(self, unit: int) -> NDArray[np.int64]:
        """The persons of a unit, of the domains in turn; which domain begins changes from unit to unit."""
        count = len(self._domains)
        turns = (np.arange(self._unit) + unit * self._unit) % count  # domain of each place
        share = math.ceil(self._unit / count)
        persons = np.empty(self._unit, dtype=np.int64)
        for number, (domain, passes) in enumerate(zip(self._domains, self._domain_passes, strict=True)):
            # Persons are distinct within a pass, and a unit reads a domain's share from one pass.
            per_pass = len(domain) // share
            order = passes.order(unit // per_pass)
            in_domain = turns == number
            persons[in_domain] = domain[order[(unit % per_pass) * share :][: in_domain.sum()]]
        return persons

    def _draw_images(self, person: int, rng: np.random.Generator) -> NDArray[np.int64]:
        count, wanted = int(self._counts[person]), self.shape.images_per_person
        chosen = rng.choice(count, min(count, wanted), replace=False)
        examples: NDArray[np.int64] = self._examples[self._starts[person] + np.resize(chosen, wanted)]
        return examples
