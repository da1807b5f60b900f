"""The model as cross-encoder: the multimodal encoder reads image and sentence together, and the ITM head scores them.

    matcher = MatchingScorer(MMETForPreTraining.from_pretrained(folder), processor, batch_size=64)
    log_odds = matcher(task, pairs)

Embeddings of picture and sentence come from separate encoders; the cross-encoder reads both at once. This is far
slower, so it is used for the first entries of a ranking only (`mmet.evaluation.rescoring.rescore_first`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from tqdm.auto import tqdm

from layers_mmet import CLASS_TOKEN
from mmet.data.schema import DatasetError
from mmet.evaluation.protocols import Modality, RetrievalTask
from mmet.evaluation.systems.embedding import ItemReader, gather_rows_or_raise

MATCH, MISMATCH = 1, 0
"""Columns of the ITM head's logits."""


@dataclass(frozen=True, eq=False)
class _Chunk:
    """A set of images and all pairs that contain them.

    Attributes:
        images: `(n,)` positions of the images among their items.
        owner: `(P,)` index into `images` of each pair's image.
        texts: `(P,)` positions of the pairs' sentences among their items.
        rows: `(P,)` places of the pairs in the result.
    """

    images: NDArray[np.int64]
    owner: NDArray[np.int64]
    texts: NDArray[np.int64]
    rows: NDArray[np.int64]


class MatchingScorer:
    """Log-odds that an image and a sentence belong together, by the ITM head.

    Args:
        model: `MMETForPreTraining` with a trained `itm_head`; moved to the accelerator's device.
        processor: makes its inputs, as for `embed_items`.
        batch_size: pairs at a time on each process.
        accelerator: processes, device and precision.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor: Callable[..., Any],
        *,
        batch_size: int = 64,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.model: Any = model  # its parts are called by name
        self.processor = processor
        self.batch_size = batch_size
        self.accelerator = accelerator or Accelerator()

    @staticmethod
    def supports(query: Modality, gallery: Modality) -> bool:
        """Whether one side is an image and the other a sentence."""
        return {query, gallery} == {"image", "text"}

    @torch.no_grad()
    def __call__(self, task: RetrievalTask, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the log-odds `(P,)`, float32, of pairs `(P, 2)` of query and gallery positions, on every process.

        Each picture is read and encoded only once, each sentence once in a batch.

        Raises:
            DatasetError: a picture cannot be read.
        """
        images, texts = (task.query, task.gallery) if task.query.modality == "image" else (task.gallery, task.query)
        columns = pairs if task.query.modality == "image" else pairs[:, ::-1]
        self.model.to(self.accelerator.device).eval()
        readers = ItemReader(images.dataset, images), ItemReader(texts.dataset, texts)
        chunks = list(chunk_pairs(columns[:, 0], columns[:, 1], self.batch_size))
        own_chunks = chunks[self.accelerator.process_index :: self.accelerator.num_processes]
        scored: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        failure: DatasetError | None = None
        hide = not self.accelerator.is_main_process
        with tqdm(
            desc="cross-encoder", total=sum(len(c.rows) for c in own_chunks), unit="pair", disable=hide
        ) as progress:
            for chunk in own_chunks:
                try:
                    scored.append((chunk.rows, self._score_chunk(*readers, chunk)))
                except DatasetError as error:
                    failure = error
                    break
                progress.update(len(chunk.rows))
        log_odds = np.empty(len(pairs), dtype=np.float32)
        for rows, values in gather_rows_or_raise(scored, failure, self.accelerator):
            log_odds[rows] = values
        return log_odds

    def _score_chunk(self, images: ItemReader, texts: ItemReader, chunk: _Chunk) -> NDArray[np.float32]:
        """Log-odds `(P,)` of the pairs of a chunk."""
        model = self.model.mmet
        pictures = images.read(chunk.images).images
        pixel_values = self._inputs(images=pictures)["pixel_values"]
        with self.accelerator.autocast():
            states = model.encode_images(pixel_values).pre_norm_hidden_state  # (n, N + 1, D)
            parts = []
            for start in range(0, len(chunk.rows), self.batch_size):
                batch = slice(start, start + self.batch_size)
                distinct, place = np.unique(chunk.texts[batch], return_inverse=True)
                words = self._inputs(text=texts.read(distinct).captions)
                mask = words["attention_mask"]
                text_states = model.encode_texts(words["input_ids"], mask).pre_norm_hidden_state  # (n, L, D)
                owner, text = (torch.from_numpy(rows).to(states.device) for rows in (chunk.owner[batch], place))
                pair_states = states[owner], text_states[text]
                fused = model.fuse(*pair_states, mask[text], read_positions=CLASS_TOKEN)
                logits = self.model.matching_logits(fused.last_hidden_state, *pair_states).float()  # (B, 2)
                parts.append((logits[:, MATCH] - logits[:, MISMATCH]).cpu().numpy())
        return np.concatenate(parts)

    def _inputs(self, **content: Any) -> dict[str, torch.Tensor]:
        inputs = self.processor(**content, padding=True, truncation=True, return_tensors="pt")
        names = ("pixel_values", "input_ids", "attention_mask")
        return {name: inputs[name].to(self.accelerator.device) for name in names if name in inputs}


def chunk_pairs(image: NDArray[np.int64], text: NDArray[np.int64], batch_size: int) -> Iterator[_Chunk]:
    """Group pairs `(P,)` + `(P,)` by image: chunks of at most `batch_size` images, with all their pairs, by text."""
    order = np.argsort(image, kind="stable")
    distinct, first = np.unique(image[order], return_index=True)
    bounds = np.append(first, len(order))
    for start in range(0, len(distinct), batch_size):
        end = min(start + batch_size, len(distinct))
        rows = order[bounds[start] : bounds[end]]
        rows = rows[np.argsort(text[rows], kind="stable")]
        images = distinct[start:end]
        yield _Chunk(images, np.searchsorted(images, image[rows]), text[rows], rows)
