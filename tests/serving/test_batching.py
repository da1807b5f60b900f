"""Batches: what waits is embedded together, everybody gets her own rows, and a bad call fails alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from colour_embedder import ColourEmbedder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmet.serving.batching import BatchingEmbedder, _Call, group_calls


class SlowEmbedder(ColourEmbedder):
    """Embeds when it is let, refuses the word `bad`, and notes the size of each batch."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.sizes = []

    def embed(self, images, texts, *, flip=False):
        self.go.wait(10)
        self.sizes.append(len(images if images is not None else texts))
        if texts is not None and "bad" in texts:
            raise ValueError("bad")
        return super().embed(images, texts, flip=flip)


@pytest.fixture
def inner():
    return SlowEmbedder()


@pytest.fixture
def embedder(inner):
    embedder = BatchingEmbedder(inner)
    yield embedder
    inner.go.set()
    embedder.close()


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_calls_that_wait_share_a_batch(inner, embedder):
    words = ["red", "green", "blue", "grey"] * 5
    with ThreadPoolExecutor(30) as pool:
        first = pool.submit(embedder.embed, None, ["red"])
        wait_until(lambda: embedder.batches == 1)
        rest = [pool.submit(embedder.embed, None, [word, "red"]) for word in words]
        wait_until(lambda: embedder._calls.qsize() == len(words))
        inner.go.set()
        assert first.result().shape == (1, 3)
        for word, answer in zip(words, rest, strict=True):
            assert np.array_equal(answer.result(), ColourEmbedder().embed(None, [word, "red"]))
    assert inner.sizes == [1, 32, 8]  # of 40 rows that waited, at most 32 together


def test_a_bad_call_fails_alone(inner, embedder):
    with ThreadPoolExecutor(8) as pool:
        pool.submit(embedder.embed, None, ["red"])
        wait_until(lambda: embedder.batches == 1)
        answers = [pool.submit(embedder.embed, None, [word]) for word in ("red", "bad", "blue")]
        wait_until(lambda: embedder._calls.qsize() == 3)
        inner.go.set()
        assert answers[0].result().shape == answers[2].result().shape == (1, 3)
        with pytest.raises(ValueError, match="bad"):
            answers[1].result()


def test_kinds_are_kept_apart(inner, embedder):
    inner.go.set()
    red = Image.new("RGB", (4, 8), "red")
    for images, texts in (([red], None), (None, ["red"]), ([red], ["blue"])):
        expected = ColourEmbedder().embed(images, texts)
        assert np.array_equal(embedder.embed(images, texts), expected)
    assert embedder.identity == inner.identity
    assert embedder.unknown_words("红") == (["红"], True)
    assert embedder.calibration("text") is None


def test_after_closing_nothing_waits_for_ever(inner):
    embedder = BatchingEmbedder(inner)
    inner.go.set()
    embedder.close()
    embedder.close()
    with pytest.raises(RuntimeError, match="closed"):
        embedder.embed(None, ["red"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), max_size=30), st.integers(1, 8))
def test_groups_hold_every_call_once_in_order(sizes, most):
    calls = [
        _Call(None if is_text else [None] * n, ["x"] * n if is_text else None, flip) for n, is_text, flip in sizes
    ]
    groups = group_calls(calls, most)
    for kind in {call.kind for call in calls}:
        merged = [call for group in groups for call in group if group[0].kind == kind]
        assert merged == [call for call in calls if call.kind == kind]
    for group in groups:
        assert len({call.kind for call in group}) == 1
        assert len(group) == 1 or sum(map(len, group)) <= most
    assert sum(map(len, groups)) == len(calls)
