"""Export of MMET models to files that ONNX Runtime or OpenVINO run without PyTorch's overhead: `mmet-export`.

    export_model("outputs/run")                                  # writes outputs/run/onnx
    export_model("outputs/run", "small", dtype="int8")           # weights in 8 bits
    export_model("outputs/run", file_format="openvino")          # writes outputs/run/openvino

Commands that embed accept such a folder in the place of a model (`mmet.evaluation.systems.exported`).
"""

from mmet.export.exporting import export_model

__all__ = ["export_model"]
