"""Embedders that were exported, run by ONNX Runtime or OpenVINO instead of the original model.

model, processor = load_exported(Path("outputs/run/onnx"))      # what `mmet-export outputs/run` writes
model(pixel_values=pixels).embeddings                           # as `MMETForReID`'s
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from configuration_mmet import MMETConfig
from inputs_mmet import check_samples
from mmet.checkpoint_files import read_config
from mmet.digests import digest
from mmet.exported_files import EXPORT_AGAIN, FORMATS, KINDS, check_exported, check_installed, read_manifest
from modeling_mmet import MMETForReIDOutput
from processing_mmet import MMETProcessor

Arrays = Mapping[str, NDArray[Any]]
Graph = Callable[[Arrays], NDArray[np.float32]]
"""A loaded graph: inputs by name to embeddings `(B, D)`."""


class ExportedModel(torch.nn.Module):
    """
    Exported files as a module that is called like `MMETForReID` and gives `.embeddings`. It runs on CPU, with as many
    threads as PyTorch has; what it returns is on the device of its inputs.

    Attributes:
        manifest: manifest of the files.
        config: configuration of the original model.
        weights_fingerprint: fingerprint of the original weights, if the embeddings agree within `TOLERANCE`.

    Args:
        folder: folder of the files, already checked by `check_exported`.
    """

    device = torch.device("cpu")

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.manifest = read_manifest(folder)
        self.config: MMETConfig = read_config(folder)
        self.weights_fingerprint = self.manifest.weights
        if not self.manifest.is_same_model:
            self.weights_fingerprint = digest(text.encode() for text in (self.manifest.weights, *self._digests()))
        self._folder = folder
        self._graphs: dict[str, Graph] = {}

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> MMETForReIDOutput:
        """
        Embed images `(B, 3, H, W)`, captions `(B, L)`, or both; unit vectors `(B, D)`.

        Raises:
            ValueError: no input, one of another shape, dtype or values, or a kind that the model cannot embed.
        """
        captions = {"input_ids": (input_ids, attention_mask)}
        check_samples(self.config, pixel_values, captions, None, None, False)
        if input_ids is not None and attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs = {"pixel_values": pixel_values, "input_ids": input_ids, "attention_mask": attention_mask}
        kind = self._graph_for(pixel_values is not None, input_ids is not None)
        feed = {name: _as_array(inputs[name]) for name in KINDS[kind]}
        device = next(value.device for value in inputs.values() if value is not None)
        vectors = torch.from_numpy(self._graph(kind)(feed)).to(device)
        output: MMETForReIDOutput = cast(Any, MMETForReIDOutput)(embeddings=vectors, pooler_output=vectors)
        return output

    def _digests(self) -> list[str]:
        return [self.manifest.files[name] for name in sorted(self.manifest.files)]

    def _graph_for(self, has_images: bool, has_texts: bool) -> str:
        graphs = [kind for kind in KINDS if self._file(kind) in self.manifest.files]
        modality = "both" if has_images and has_texts else "image" if has_images else "text"
        if modality in graphs:
            return modality
        if modality == "both" and len(graphs) == 1:  # the model would leave the other modality out as well
            return graphs[0]
        raise ValueError(
            f"{self._folder} embeds {', '.join(graphs)} (identity_pooling of its model), received {modality}"
        )

    def _graph(self, kind: str) -> Graph:
        if kind not in self._graphs:
            self._graphs[kind] = open_graph(self._folder / self._file(kind), self.manifest.format)
        return self._graphs[kind]

    def _file(self, kind: str) -> str:
        return kind + FORMATS[self.manifest.format].suffix


def _as_array(values: torch.Tensor | None) -> NDArray[Any]:
    assert values is not None
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array.astype(np.float32 if values.is_floating_point() else np.int64, copy=False)


def open_graph(path: Path, file_format: str) -> Graph:
    """A graph on CPU by the runtime of its format. Raises `ValueError` for a file that is no graph."""
    runtime = FORMATS[file_format].runtime
    check_installed(file_format, runtime)
    try:
        return _OPENERS[file_format](path)
    except Exception as error:  # the runtimes' own kinds have no common base
        raise ValueError(f"{path} cannot be run by {runtime} ({error}): {EXPORT_AGAIN}") from error


def _open_onnx(path: Path) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    # Spinning threads would take the cores from the decoding of pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda arrays: cast(NDArray[np.float32], session.run(["embeddings"], dict(arrays))[0])


def _open_openvino(path: Path) -> Graph:
    import openvino

    # On processors with bfloat16, OpenVINO computes in it unless told otherwise.
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
    return lambda arrays: cast(NDArray[np.float32], compiled(dict(arrays))["embeddings"])


_OPENERS: Mapping[str, Callable[[Path], Graph]] = {"onnx": _open_onnx, "openvino": _open_openvino}


def load_exported(folder: Path) -> tuple[ExportedModel, MMETProcessor]:
    """Load the embedder of a folder and its processor. Raises `ValueError` as `check_exported`."""
    check_exported(folder)
    return ExportedModel(folder).eval(), MMETProcessor.from_pretrained(folder)
