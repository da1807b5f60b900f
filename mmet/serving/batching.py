"""One model for many threads: calls that arrive while another is computed are embedded together, in one batch.

    embedder = BatchingEmbedder(ModelEmbedder.load("outputs/demo/model"))
    embedder.embed(None, ["a man in a red coat"])       # from any number of threads at once
    embedder.close()

No call waits for a batch to fill: the first starts at once, and those that arrive meanwhile are the next batch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from mmet.gallery.embedding import Embedder

MAX_BATCH = 32
"""Largest number of pictures or sentences in a batch."""


@dataclass(eq=False)
class _Call:
    """One call of `embed`, and the future of its answer."""

    images: Sequence[PIL.Image.Image] | None
    texts: Sequence[str] | None
    flip: bool
    answer: Future[NDArray[np.float32]] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """Whether the call has images, has texts, flips; calls of one kind can share a batch."""
        return self.images is not None, self.texts is not None, self.flip

    def __len__(self) -> int:
        return len(self.images if self.images is not None else self.texts or ())


class BatchingEmbedder:
    """
    An `Embedder` that other threads call, and that computes everything in one thread of its own.

    Attributes:
        inner: the embedder that does the work.
        batches: number of batches computed so far.
    """

    def __init__(self, inner: Embedder, *, max_batch: int = MAX_BATCH) -> None:
        self.inner = inner
        self.batches = 0
        self._max_batch = max_batch
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._is_closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="embedder", daemon=True)
        self._thread.start()

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Embedder`."""
        return self.inner.identity

    def embed(
        self, images: Sequence[PIL.Image.Image] | None, texts: Sequence[str] | None, *, flip: bool = False
    ) -> NDArray[np.float32]:
        """See `Embedder`. Raises what the embedder raises, and `RuntimeError` after `close`."""
        call = _Call(images, texts, flip)
        with self._lock:  # nothing may follow the None of `close`
            if self._is_closed:
                raise RuntimeError("the embedder was closed")
            self._calls.put(call)
        return call.answer.result()

    def unknown_words(self, text: str) -> tuple[list[str], bool]:
        """See `Embedder`."""
        return self.inner.unknown_words(text)

    def calibration(self, query: str) -> Any | None:
        """See `Embedder`."""
        return self.inner.calibration(query)

    def close(self) -> None:
        """Finish the waiting calls, then end the thread."""
        with self._lock:
            if not self._is_closed:
                self._calls.put(None)
            self._is_closed = True
        self._thread.join()

    def _work(self) -> None:
        is_open = True
        while is_open:
            calls = [self._calls.get()]
            while True:
                try:
                    calls.append(self._calls.get_nowait())
                except queue.Empty:
                    break
            is_open = None not in calls
            for group in group_calls([call for call in calls if call is not None], self._max_batch):
                self._answer(group)

    def _answer(self, calls: Sequence[_Call]) -> None:
        """Embed calls of one kind together; if that fails, one by one, so that only the invalid ones fail."""
        self.batches += 1
        try:
            vectors = self._embed(calls)
        except Exception as error:
            if len(calls) == 1:
                calls[0].answer.set_exception(error)
            else:
                for call in calls:
                    self._answer([call])
            return
        ends = np.cumsum([len(call) for call in calls])
        for call, part in zip(calls, np.split(vectors, ends[:-1]), strict=True):
            call.answer.set_result(part)

    def _embed(self, calls: Sequence[_Call]) -> NDArray[np.float32]:
        has_images, has_texts, flip = calls[0].kind
        images = [image for call in calls for image in call.images or ()] if has_images else None
        texts = [text for call in calls for text in call.texts or ()] if has_texts else None
        return self.inner.embed(images, texts, flip=flip)


def group_calls(calls: Sequence[_Call], max_batch: int) -> list[list[_Call]]:
    """Group calls by kind in their order of arrival: at most `max_batch` rows together, unless one call has more."""
    groups: list[list[_Call]] = []
    latest: dict[tuple[bool, bool, bool], list[_Call]] = {}
    for call in calls:
        group = latest.get(call.kind)
        if group is None or sum(map(len, group)) + len(call) > max_batch:
            group = latest[call.kind] = []
            groups.append(group)
        group.append(call)
    return groups
