"""Store the weights of matrix products and word embeddings in 8 bits: a quarter of their size.

Activations are quantised at run time (dynamic quantisation).
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from mmet.export.graphs import quiet

QUANTIZED_OPERATORS = ["MatMul", "Gemm", "Gather"]
"""Convolutions stay in 32 bits: with activations quantised at run time they would be slower."""


def quantize(path: Path) -> None:
    """Replace a graph by its 8-bit form, with one scale for each output channel."""
    model = onnx.load(str(path))
    # The quantizer transposes weights, and fails if the file still states their former shapes.
    weights = {initializer.name for initializer in model.graph.initializer}
    shapes = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # weights beside a large graph
    with quiet():
        quantize_dynamic(
            model,
            str(path),
            op_types_to_quantize=QUANTIZED_OPERATORS,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
