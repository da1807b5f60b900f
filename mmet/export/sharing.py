"""Store weights that several ONNX graphs share once: those of the three embedders are mostly the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import set_external_data

SHARED = "weights.onnx.data"

_LEAST_BYTES = 1024
"""Smaller weights stay in their graph: runtimes read constants such as shapes before they open this file."""


def share_weights(graphs: Sequence[Path]) -> None:
    """Move the weights of graphs in one folder to the file `SHARED`; equal weights are stored once."""
    places: dict[str, int] = {}
    with (graphs[0].parent / SHARED).open("wb") as file:
        for path in graphs:
            model = onnx.load(str(path))
            for weight in model.graph.initializer:
                content = weight.raw_data
                if len(content) < _LEAST_BYTES:
                    continue
                digest = hashlib.sha256(content).hexdigest()
                if digest not in places:
                    places[digest] = file.tell()
                    file.write(content)
                set_external_data(weight, SHARED, offset=places[digest], length=len(content))
                weight.ClearField("raw_data")
                weight.data_location = TensorProto.EXTERNAL
            path.write_bytes(model.SerializeToString())
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # weights beside a large graph
