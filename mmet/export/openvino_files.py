"""Convert ONNX graphs to OpenVINO's own format."""

from __future__ import annotations

from pathlib import Path


def convert(path: Path) -> None:
    """Replace an ONNX graph, `image.onnx`, by `image.xml` and its weights in 32 bits, `image.bin`.

    `openvino.convert_model` is not used, because it reports each use to its makers.
    """
    import openvino

    openvino.save_model(openvino.Core().read_model(path), path.with_suffix(".xml"), compress_to_fp16=False)
    path.unlink()
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # weights beside a large graph
