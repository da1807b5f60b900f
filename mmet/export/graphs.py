"""Write the graph of an embedder as ONNX (`torch.onnx`), for any batch size and text length."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import Dim

from configuration_mmet import MMETTextConfig
from mmet.exported_files import KINDS
from modeling_mmet import MMETForReID

OPSET = 20
"""Version of the ONNX operators; ONNX Runtime runs it since version 1.17."""


def graphs_of(model: MMETForReID) -> tuple[str, ...]:
    """The kinds of input that a model embeds (names of `KINDS`); each gets a graph."""
    pooling = model.config.identity_pooling
    return (pooling,) if pooling in ("image", "text") else tuple(KINDS)


def write_graph(model: MMETForReID, kind: str, inputs: Mapping[str, torch.Tensor], path: Path) -> None:
    """
    Write the graph of one kind of input.

    Args:
        model: the model, in evaluation mode, on the CPU.
        kind: a name of `KINDS`.
        inputs: a batch of at least two samples to trace, with any values; only the inputs of `kind` are used.
        path: the ONNX file. Weights of more than 1.5 GB go into a second file beside it.

    Raises:
        ValueError: ONNX cannot express an operation of the model.
    """
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                _Embeddings(model).eval(),
                kwargs={name: inputs[name] for name in KINDS[kind]},
                input_names=KINDS[kind],
                output_names=["embeddings"],
                dynamic_shapes=_dynamic_shapes(model, kind),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the {kind} embedder of this model cannot be written as ONNX: {reason}") from error
    assert program is not None
    program.save(str(path))


class _Embeddings(torch.nn.Module):
    """A model that returns only the embeddings."""

    def __init__(self, model: MMETForReID) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        output = self.model(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask)
        return cast(torch.Tensor, output.embeddings)


def _dynamic_shapes(model: MMETForReID, kind: str) -> dict[str, dict[int, Any]]:
    longest = cast(MMETTextConfig, model.config.text_config).max_position_embeddings
    batch, length = Dim("batch", min=1), Dim("length", min=2, max=longest)
    return {name: {0: batch} if name == "pixel_values" else {0: batch, 1: length} for name in KINDS[kind]}


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings that exporters give about their own internals; errors are raised as usual."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
