"""Batch sampling: exact mixtures, passes, P × K, several processes, epochs and resuming."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from mmet.training.sampling import (
    BATCH_KINDS,
    IDENTITY_KINDS,
    Draw,
    IdentityBatchShape,
    MixedBatchSampler,
    apportion,
    draw_examples,
)

SIZES = {"paired": 50, "image": 23, "text": 7}
MIX = {"paired": 0.5, "image": 0.2, "text": 0.1, "identity": 0.2}
LABELS = np.array([0] * 5 + [1] + [-100] * 2 + [2] * 4 + [3] * 2 + [4] * 9 + [5] * 4 + [6, 6, 6, 7, 7, 7, 7])


def sampler_of(**changes: Any) -> MixedBatchSampler:
    arguments: dict[str, Any] = {
        "sizes": SIZES,
        "mix": MIX,
        "batch_size": 8,
        "person_labels": LABELS,
        "identity_shape": IdentityBatchShape(2, 4),
        "batches_per_epoch": 20,
    }
    return MixedBatchSampler(**(arguments | changes))


def batches(sampler: Iterable[Draw], batch_size: int) -> list[list[Draw]]:
    draws = list(sampler)
    assert len(draws) % batch_size == 0
    return [draws[i : i + batch_size] for i in range(0, len(draws), batch_size)]


def kind_of(batch: list[Draw]) -> str:
    (kind,) = {draw.kind for draw in batch}
    return kind


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_batches_are_homogeneous_and_in_exact_proportion(num_processes: int) -> None:
    sampler = sampler_of(num_processes=num_processes)
    drawn = batches(sampler, 8)
    assert len(drawn) * 8 == len(sampler) == 20 * 8 * num_processes
    kinds = [kind_of(batch) for batch in drawn]
    assert Counter(kinds[::num_processes]) == {"paired": 10, "image": 4, "text": 2, "identity": 4}
    for step in range(20):
        assert len(set(kinds[step * num_processes : (step + 1) * num_processes])) == 1


def test_draw_examples__different_ones_of_all_kinds_up_to_as_many() -> None:
    sizes = {"paired": 6, "image": 4, "text": 3}
    few = draw_examples(sizes, ("paired", "image"), 5, seed=0)
    assert len({(draw.kind, draw.index) for draw in few}) == 5
    everything = draw_examples(sizes, ("paired", "image"), 99, seed=0)
    assert sorted((draw.kind, draw.index) for draw in everything) == sorted(
        [("paired", index) for index in range(6)] + [("image", index) for index in range(4)]
    )
    assert draw_examples(sizes, ("paired", "image"), 5, seed=0) == few
    with pytest.raises(ValueError, match="give --text_data"):
        draw_examples({"text": 0}, ("text",), 5, seed=0)


def test_one_example_is_enough() -> None:
    sampler = sampler_of(sizes={"image": 1}, mix={"image": 1}, batches_per_epoch=3)
    assert [draw.index for draw in sampler] == [0] * 24


@pytest.mark.parametrize(("persons", "num_processes", "steps"), [(2, 1, 4), (2, 2, 2), (3, 1, 3), (6, 1, 2)])
def test_an_epoch_of_identity_batches_shows_every_person(persons: int, num_processes: int, steps: int) -> None:
    """Eight persons in units of `persons` for each process: as many steps as that takes."""
    sampler = sampler_of(
        sizes={},
        mix={"identity": 1},
        identity_shape=IdentityBatchShape(persons, 4),
        batch_size=4 * persons,
        num_processes=num_processes,
        batches_per_epoch=None,
    )
    assert sampler.batch_counts == {"identity": steps}
    assert {int(LABELS[draw.index]) for draw in sampler} == set(range(8))


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_meet_the_same_kind_when_accelerate_deals_the_batches(num_processes: int) -> None:
    sampler = sampler_of(num_processes=num_processes)
    dealt = [
        list(BatchSamplerShard(BatchSampler(sampler, 8, drop_last=True), num_processes, rank))
        for rank in range(num_processes)
    ]
    for at_once in zip(*dealt, strict=True):
        assert len({kind_of(batch) for batch in at_once}) == 1


def test_kinds_are_spread_over_the_epoch() -> None:
    sampler = sampler_of(batches_per_epoch=200)
    for kind, count in sampler.batch_counts.items():
        steps = [step for step, step_kind in enumerate(sampler.kinds_of_epoch()) if step_kind == kind]
        share = 200 / count
        assert len(steps) == count
        # The i-th batch stands in the i-th part of the epoch, give or take the rounding of the other kinds.
        assert all((i - 1) * share - 3 <= step <= (i + 2) * share + 3 for i, step in enumerate(steps))


def test_every_example_once_a_pass_and_across_epochs() -> None:
    sampler = sampler_of(sizes={"paired": 50}, mix={"paired": 1.0}, batches_per_epoch=5)
    stream: list[int] = []
    for epoch in range(10):  # 10 × 40 draws are 8 passes through 50 examples
        sampler.set_epoch(epoch)
        stream.extend(draw.index for draw in sampler)
    passes = [stream[i : i + 50] for i in range(0, 400, 50)]
    assert all(sorted(order) == list(range(50)) for order in passes)
    assert len({tuple(order) for order in passes}) == 8


def test_fewer_examples_than_a_batch_wrap_around() -> None:
    sampler = sampler_of(sizes={"text": 3}, mix={"text": 1}, batches_per_epoch=3)
    counts = Counter(draw.index for draw in sampler)
    assert counts == {0: 8, 1: 8, 2: 8}


@pytest.mark.parametrize("kind", IDENTITY_KINDS)
@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize(("persons", "images"), [(2, 4), (4, 2), (8, 1), (3, 5)])
def test_identity_batches_are_p_times_k(persons: int, images: int, num_processes: int, kind: str) -> None:
    sampler = sampler_of(
        mix={kind: 1.0},
        batch_size=persons * images,
        identity_shape=IdentityBatchShape(persons, images),
        num_processes=num_processes,
        batches_per_epoch=12,
    )
    available = Counter(LABELS.tolist())
    drawn = batches(sampler, persons * images)
    for batch in drawn:
        shown = [[draw.index for draw in batch[i : i + images]] for i in range(0, len(batch), images)]
        labels = [{int(LABELS[index]) for index in group} for group in shown]
        assert all(len(label) == 1 for label in labels)
        distinct = set.union(*labels)
        assert len(distinct) == persons
        assert -100 not in distinct
        for group, (label,) in zip(shown, labels, strict=True):
            assert len(set(group)) == min(images, available[label])
    for step in range(12):
        together = itertools.chain.from_iterable(drawn[step * num_processes : (step + 1) * num_processes])
        shown_persons = {int(LABELS[draw.index]) for draw in together}
        if persons * num_processes <= 8:
            assert len(shown_persons) == persons * num_processes


def test_identity_batches_show_every_person_in_a_pass() -> None:
    sampler = sampler_of(mix={"identity": 1.0}, batch_size=6, identity_shape=IdentityBatchShape(3, 2))
    drawn = batches(sampler, 6)
    for start in range(0, 18, 3):  # 8 persons, 3 a batch: a pass is 3 batches, in which one person comes twice
        counts = Counter(int(LABELS[draw.index]) for batch in drawn[start : start + 3] for draw in batch)
        assert set(counts) == set(range(8))
        assert sorted(counts.values()) == [2] * 7 + [4]


def test_images_of_a_person_are_drawn_anew() -> None:
    sampler = sampler_of(mix={"identity": 1.0}, batches_per_epoch=400)
    counts = Counter(draw.index for draw in sampler if LABELS[draw.index] == 4)
    assert len(counts) == 9
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_kinds_of_one_size_have_orders_of_their_own() -> None:
    sampler = sampler_of(sizes={"image": 40, "text": 40}, mix={"image": 1, "text": 1}, batches_per_epoch=10)
    image, text = ([draw.index for draw in sampler if draw.kind == kind] for kind in ("image", "text"))
    assert sorted(image) == sorted(text) == list(range(40))
    assert image != text


def test_persons_come_in_another_order_in_every_pass() -> None:
    sampler = sampler_of(mix={"identity_image": 1}, batches_per_epoch=40)  # 8 persons, 2 a batch: 10 passes
    shown = [int(LABELS[draw.index]) for draw in sampler][::4]
    passes = {tuple(shown[i : i + 8]) for i in range(0, 80, 8)}
    assert all(sorted(order) == list(range(8)) for order in passes)
    assert len(passes) == 10


def test_a_person_with_too_few_images_repeats_each_of_them_as_often() -> None:
    sampler = sampler_of(
        mix={"identity": 1},
        batch_size=6,
        identity_shape=IdentityBatchShape(2, 3),
        person_labels=[0, 0, 1, 1],
        batches_per_epoch=400,
    )
    counts = Counter(draw.index for draw in sampler)
    assert min(counts.values()) > 0.9 * max(counts.values())


def test_a_global_batch_is_the_same_however_it_is_split() -> None:
    whole = sampler_of(batch_size=16, identity_shape=IdentityBatchShape(4, 4))
    split = sampler_of(batch_size=8, identity_shape=IdentityBatchShape(2, 4), num_processes=2)
    assert list(whole) == list(split)


def test_resuming_equals_never_having_stopped() -> None:
    uninterrupted = sampler_of()
    for epoch in range(3):
        uninterrupted.set_epoch(epoch)
        expected = list(uninterrupted)
    resumed = sampler_of()
    resumed.set_epoch(2)
    assert list(itertools.islice(resumed, 5 * 8, None)) == expected[5 * 8 :]
    assert list(resumed) == expected  # iterating again starts again


def test_seed_and_epoch_change_everything() -> None:
    first, other_seed, other_epoch = sampler_of(), sampler_of(seed=1), sampler_of()
    other_epoch.set_epoch(1)
    for other in (other_seed, other_epoch):
        assert [draw.kind for draw in first] != [draw.kind for draw in other]
        assert not {draw.seed for draw in first} & {draw.seed for draw in other}
    assert len({draw.seed for draw in first}) == len(first)


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ({"paired": 0.5, "image": 1.5}, {"paired": 5, "image": 14}),  # 4.75 : 14.25 of 19
        ({"paired": 1, "identity": 0, "text": 2}, {"paired": 6, "text": 13}),  # 6.33 : 12.67
    ],
)
def test_proportions_need_not_sum_to_one(mix: dict[str, float], expected: dict[str, int]) -> None:
    assert sampler_of(mix=mix, batches_per_epoch=19).batch_counts == expected


@settings(deadline=None)
@given(
    proportions=st.dictionaries(st.sampled_from(BATCH_KINDS), st.floats(0.05, 1.0), min_size=1),
    total=st.integers(120, 3000),
)
def test_apportion__every_kind_is_within_a_batch_of_its_share(proportions: dict[str, float], total: int) -> None:
    counts = apportion(total, proportions)
    assert sum(counts.values()) == total
    for kind, proportion in proportions.items():
        assert abs(counts[kind] - total * proportion / sum(proportions.values())) < 1 + 1e-6


@settings(deadline=None, max_examples=25)
@given(
    counts=st.lists(st.integers(1, 9), min_size=6, max_size=20),
    persons=st.integers(2, 6),
    images=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_identity_batches__exactly_p_persons_with_k_images(
    counts: list[int], persons: int, images: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    sampler = MixedBatchSampler(
        {},
        mix={"identity_image": 1},
        batch_size=persons * images,
        person_labels={"identity_image": labels, "identity": []},
        identity_shape=IdentityBatchShape(persons, images),
        batches_per_epoch=8,
        seed=seed,
    )
    for batch in batches(sampler, persons * images):
        shown = [int(labels[draw.index]) for draw in batch]
        assert Counter(shown) == dict.fromkeys(shown, images)
        assert len(set(shown)) == persons
        for person in set(shown):  # as many different images as there are
            distinct = {draw.index for draw in batch if labels[draw.index] == person}
            assert len(distinct) == min(images, counts[person])


def test_apportion__is_exact_for_thirds_and_tenths() -> None:
    assert apportion(30, {"a": 0.1, "b": 0.2, "c": 0.7}) == {"a": 3, "b": 6, "c": 21}
    assert apportion(10, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}) == {"a": 4, "b": 3, "c": 3}


def test_default_epoch_shows_every_example() -> None:
    sampler = sampler_of(mix={"paired": 0.8, "text": 0.2}, batches_per_epoch=None)
    shown = {kind: {draw.index for draw in sampler if draw.kind == kind} for kind in ("paired", "text")}
    assert shown == {"paired": set(range(50)), "text": set(range(7))}
    assert sampler.batches_per_epoch == 9  # 7 batches of 8 show 50 pairs, and are 80 % of 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": {"paired": 1, "video": 1}}, "received video"),
        ({"mix": {"paired": 0.0}}, "one above it"),
        ({"mix": {}}, "one above it"),
        ({"mix": {"paired": 1, "text": -0.1}}, "at least 0"),
        ({"mix": {"paired": float("nan")}}, "at least 0"),
        ({"sizes": {"paired": 50, "image": 0, "text": 7}}, "examples for image batches"),
        ({"sizes": {"paired": 50, "image": 3}}, "examples for text batches"),
        ({"person_labels": None}, "received 0"),
        ({"person_labels": [3, 3, 3, -100]}, "received 1"),
        ({"identity_shape": None}, "received None"),
        ({"identity_shape": IdentityBatchShape(3, 4)}, "P × K = batch_size = 8"),
        ({"identity_shape": IdentityBatchShape(9, 1), "batch_size": 9}, "at least 9 labelled persons"),
        ({"batch_size": 0}, "received 0"),
        ({"num_processes": 0}, "received"),
        ({"batches_per_epoch": 3}, "none would be of kind"),
        ({"batches_per_epoch": 0}, "none would be of kind"),
    ],
)
def test_unusable_inputs_are_rejected_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler_of(**changes)


SMALL_AND_LARGE = np.repeat([0, 1, 2], [20_000, 200, 3])
"""Domains whose sizes differ by orders of magnitude."""


@pytest.mark.parametrize("num_processes", [1, 2])
def test_balanced_domains_share_every_batch(num_processes: int) -> None:
    sampler = sampler_of(
        sizes={"image": len(SMALL_AND_LARGE)},
        mix={"image": 1},
        domains={"image": SMALL_AND_LARGE},
        num_processes=num_processes,
        batches_per_epoch=90,
    )
    for batch in batches(sampler, 8):
        counts = Counter(SMALL_AND_LARGE[draw.index].item() for draw in batch)
        assert sorted(counts.values()) == [2, 3, 3]
    drawn = Counter(draw.index for draw in sampler)
    assert all(drawn[index] == 80 * num_processes for index in range(20_200, 20_203)), "the smallest wraps around"
    middle = [drawn[index] for index in range(20_000, 20_200)]
    assert sum(middle) == 240 * num_processes
    assert max(middle) - min(middle) == 1, "every example comes again only after all others"
    assert max(drawn[index] for index in range(20_000)) == 1


def test_balanced_domains_are_reshuffled_in_every_pass() -> None:
    sampler = sampler_of(
        sizes={"image": 30}, mix={"image": 1}, domains={"image": np.repeat([0, 1], [26, 4])}, batches_per_epoch=20
    )
    small = [draw.index for draw in sampler if draw.index >= 26]
    passes = [tuple(small[i : i + 4]) for i in range(0, 80, 4)]
    assert all(sorted(order) == [26, 27, 28, 29] for order in passes)
    assert len(set(passes)) > 8


@pytest.mark.parametrize("num_processes", [1, 2])
def test_balanced_identity_batches_share_persons_between_domains(num_processes: int) -> None:
    labels = np.concatenate([np.repeat(np.arange(300), 5), 300 + np.repeat(np.arange(9), 5)])
    domains = (labels >= 300).astype(int)
    sampler = sampler_of(
        mix={"identity": 1},
        batch_size=8,
        identity_shape=IdentityBatchShape(4, 2),
        person_labels=labels,
        domains={"identity": domains},
        num_processes=num_processes,
        batches_per_epoch=60,
    )
    shown: Counter[int] = Counter()
    for batch in batches(sampler, 8):
        persons = {int(labels[draw.index]) for draw in batch}
        assert len(persons) == 4
        assert Counter(person >= 300 for person in persons) == {True: 2, False: 2}
        shown.update(persons)
    assert set(range(300, 309)) <= set(shown)
    with pytest.raises(ValueError, match="at least 2 persons of every domain"):
        sampler_of(
            mix={"identity": 1},
            identity_shape=IdentityBatchShape(4, 2),
            person_labels=labels,
            domains={"identity": (labels >= 308).astype(int)},
        )


def test_balanced_domains__orders_of_their_own_and_an_epoch_that_shows_the_larger_one() -> None:
    sampler = sampler_of(
        sizes={"image": 70}, mix={"image": 1}, domains={"image": np.repeat([0, 1], [40, 30])}, batches_per_epoch=None
    )
    assert sampler.batches_per_epoch == 10  # 40 of the larger domain, 4 a batch
    first, second = ([draw.index - start for draw in sampler if draw.index // 40 == start // 40] for start in (0, 40))
    assert set(first) == set(range(40))
    equal = sampler_of(
        sizes={"image": 40}, mix={"image": 1}, domains={"image": np.repeat([0, 1], 20)}, batches_per_epoch=5
    )
    first, second = ([draw.index % 20 for draw in equal if draw.index // 20 == domain] for domain in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


@pytest.mark.parametrize("persons", [2, 3, 5])
def test_balanced_identity_batches__domains_take_turns_to_be_more(persons: int) -> None:
    """With an odd number of persons one domain is shown once more; over ten batches both are shown as often.

    Each domain has just as many persons as a batch needs of it, or twice as many, all of whom come before any again.
    """
    share = -(-persons // 2)
    labels = np.arange(3 * share)
    domains = (labels >= share).astype(int)  # so many of domain 0, twice as many of domain 1
    sampler = sampler_of(
        mix={"identity": 1},
        batch_size=persons,
        identity_shape=IdentityBatchShape(persons, 1),
        person_labels=labels,
        domains={"identity": domains},
        batches_per_epoch=None,
    )
    assert sampler.batches_per_epoch == -(-4 * share // persons)  # the larger domain once, at half of the places
    sampler = sampler_of(
        mix={"identity": 1},
        batch_size=persons,
        identity_shape=IdentityBatchShape(persons, 1),
        person_labels=labels,
        domains={"identity": domains},
        batches_per_epoch=60,
    )
    shown = Counter(int(domains[draw.index]) for draw in sampler)
    assert shown[0] == shown[1]
    counts = Counter(draw.index for draw in sampler)
    assert set(counts) == set(range(3 * share))
    assert max(counts[person] for person in range(share, 3 * share)) <= 1.3 * 30 * persons / (2 * share)


def test_balanced_identity_batches__domains_of_one_size_have_orders_of_their_own() -> None:
    sampler = sampler_of(
        mix={"identity": 1},
        batch_size=2,
        identity_shape=IdentityBatchShape(2, 1),
        person_labels=np.arange(24),
        domains={"identity": np.repeat([0, 1], 12)},
        batches_per_epoch=12,
    )
    first, second = ([draw.index % 12 for draw in sampler if draw.index // 12 == domain] for domain in (0, 1))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_balanced_identity_batches__nobody_comes_again_before_all_others() -> None:
    """Two of four persons of either domain are in a batch: two batches show all eight."""
    sampler = sampler_of(
        mix={"identity": 1},
        batch_size=4,
        identity_shape=IdentityBatchShape(4, 1),
        person_labels=np.arange(8),
        domains={"identity": np.repeat([0, 1], 4)},
        batches_per_epoch=20,
    )
    shown = [draw.index for draw in sampler]
    assert all(sorted(shown[start : start + 8]) == list(range(8)) for start in range(0, 80, 8))


def test_balanced_domains__split_and_resume_like_any_other() -> None:
    changes = {"sizes": {"image": 30}, "mix": {"image": 1}, "domains": {"image": np.repeat([0, 1], [26, 4])}}
    assert list(sampler_of(batch_size=16, **changes)) == list(sampler_of(num_processes=2, **changes))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_sizes_that_differ_by_orders_of_magnitude_keep_the_proportions(num_processes: int) -> None:
    sampler = sampler_of(
        sizes={"paired": 40, "image": 100_000, "text": 3},
        mix={"paired": 0.2, "image": 0.7, "text": 0.1},
        num_processes=num_processes,
        batches_per_epoch=100,
    )
    draws = list(sampler)
    kinds = Counter(draw.kind for draw in draws)
    assert kinds == {
        kind: count * 8 * num_processes for kind, count in {"paired": 20, "image": 70, "text": 10}.items()
    }
    pairs = Counter(draw.index for draw in draws if draw.kind == "paired")
    assert set(pairs.values()) == {4 * num_processes}, "160 draws are four passes through 40 pairs"
    assert max(Counter(draw.index for draw in draws if draw.kind == "image").values()) == 1


@pytest.mark.parametrize(("persons", "images"), [(1, 8), (4, 0)])
def test_identity_batch_shape__rejects(persons: int, images: int) -> None:
    with pytest.raises(ValueError, match=f"received {persons} × {images}"):
        IdentityBatchShape(persons, images)


def test_two_million_examples() -> None:
    """FineGPR's size: the sampler holds a few int64 arrays, and the first batch is there at once."""
    labels = np.repeat(np.arange(1150), 1764)
    tracemalloc.start()
    begin = time.process_time()
    sampler = MixedBatchSampler(
        {"paired": len(labels)},
        mix={"paired": 0.5, "identity": 0.5},
        batch_size=64,
        person_labels=labels,
        identity_shape=IdentityBatchShape(16, 4),
    )
    list(itertools.islice(sampler, 64 * 200))
    seconds = time.process_time() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 10
    assert peak < 200e6
