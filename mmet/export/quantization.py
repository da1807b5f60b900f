"""Weights of matrix products and embeddings of words in 8 bits: a quarter of their size.

Activations are rounded as they come.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from mmet.export.graphs import quiet

QUANTIZED_OPERATORS = ["MatMul", "Gemm", "Gather"]
"""Convolutions stay as they are: with activations rounded at run time they are slower than before."""


def quantize(path: Path) -> None:
    """Replace a graph by its 8-bit form, each output channel with a scale of its own."""
    model = onnx.load(str(path))
    # The quantizer transposes weights and trips over the shapes that were inferred for them before.
    weights = {initializer.name for initializer in model.graph.initializer}
    shapes = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # weights that lay beside a large graph
    with quiet():
        quantize_dynamic(
            model,
            str(path),
            op_types_to_quantize=QUANTIZED_OPERATORS,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
