"""Any changes of a store, step by step, beside a plain dictionary."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from stores import ids_of, table_of, vector_of

from mmet.gallery.filters import RowFilter
from mmet.gallery.results import GalleryError

NAMES = st.lists(st.integers(0, 40).map(str), min_size=1, max_size=5, unique=True)
CAMERAS = ("1", "gate", 'the "old" gate\\', "it\u2019s\nmine'")


def machine(new_store):
    """The operations beside a dictionary of id -> (camera, track) in the order of adding."""

    class Operations(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.store = new_store()
            self.model = {}

        @rule(
            names=NAMES,
            camera=st.sampled_from(CAMERAS),
            track=st.sampled_from([None, "1", "2"]),
            on_conflict=st.sampled_from(["error", "replace", "keep"]),
        )
        def add(self, names, camera, track, on_conflict):
            if on_conflict == "error" and self.model.keys() & set(names):
                with pytest.raises(GalleryError, match=r"already"):
                    self.store.append([table_of(names, camera, track)])
                return
            self.store.append([table_of(names, camera, track)], on_conflict=on_conflict)
            for name in names:
                if on_conflict != "keep":
                    self.model.pop(name, None)
                self.model.setdefault(name, (camera, track))

        @rule(names=NAMES)
        def remove(self, names):
            if set(names) <= self.model.keys():
                assert self.store.remove(names) == len(names)
                for name in names:
                    del self.model[name]
            else:
                with pytest.raises(GalleryError, match=r"nothing was removed"):
                    self.store.remove(names)

        @rule(data=st.data())
        def remove_some(self, data):
            if self.model:
                self.remove([data.draw(st.sampled_from(sorted(self.model)))])

        @rule()
        def compact(self):
            self.store.compact(keep_seconds=0)

        @rule()
        def reopen(self):
            self.store = type(self.store)(self.store.place)

        @rule(
            number=st.integers(0, 99),
            k=st.integers(1, 9),
            camera=st.sampled_from([None, *CAMERAS]),
            by_track=st.booleans(),
        )
        def search(self, number, k, camera, by_track):
            query = vector_of(str(number))
            if camera is not None and camera not in self.store.cameras():
                return
            expected = [name for name, (place, _) in self.model.items() if camera in (None, place)]
            total = len(expected)
            expected.sort(key=lambda name: -float(vector_of(name) @ query))
            if by_track:
                best = {}
                for name in expected:
                    place, track = self.model[name]
                    best.setdefault((place, track) if track else name, name)
                expected = list(best.values())
            cameras = None if camera is None else frozenset([camera])
            (neighbors,), searched = self.store.search(query[None], k, RowFilter(cameras=cameras), by_track=by_track)
            assert searched == total
            assert [hit.row["id"] for hit in neighbors] == expected[:k]

        @invariant()
        def holds_the_same_rows(self):
            assert len(self.store) == len(self.model)
            assert ids_of(self.store) == list(self.model)
            assert self.store.verify() == []

    return Operations


def run_operations(new_store, examples, steps):
    """Any operations on empty stores of one kind agree with a dictionary."""
    options = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine(new_store), settings=options)
