"""Embedders that were exported to ONNX files and run by ONNX Runtime, in the place of the model they were made from.

model, processor = load_exported(Path("outputs/run/onnx"))      # what `mmet-export outputs/run` writes
model(pixel_values=pixels).embeddings                           # as `MMETForReID`'s
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from configuration_mmet import MMETConfig
from inputs_mmet import check_samples
from mmet.checkpoint_files import read_config
from mmet.digests import digest
from mmet.exported_files import EXPORT_AGAIN, KINDS, check_exported, check_installed, read_manifest
from modeling_mmet import MMETForReIDOutput
from processing_mmet import MMETProcessor


class ExportedModel(torch.nn.Module):
    """
    Exported files as a module that is called like `MMETForReID` and gives `.embeddings`. It runs on CPU, with as many
    threads as PyTorch has; what it returns is on the device of its inputs.

    Attributes:
        manifest: of the files.
        config: of the model that they were made from.
        weights_fingerprint: that of the source where the embeddings are the same within `TOLERANCE`.

    Args:
        folder: of the files, which `check_exported` passed.
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
        self._sessions: dict[str, Any] = {}

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
        (embeddings,) = self._session(kind).run(["embeddings"], feed)
        device = next(value.device for value in inputs.values() if value is not None)
        vectors = torch.from_numpy(embeddings).to(device)
        output: MMETForReIDOutput = cast(Any, MMETForReIDOutput)(embeddings=vectors, pooler_output=vectors)
        return output

    def _digests(self) -> list[str]:
        return [self.manifest.files[name] for name in sorted(self.manifest.files)]

    def _graph_for(self, has_images: bool, has_texts: bool) -> str:
        graphs = [kind for kind in KINDS if f"{kind}.onnx" in self.manifest.files]
        modality = "both" if has_images and has_texts else "image" if has_images else "text"
        if modality in graphs:
            return modality
        if modality == "both" and len(graphs) == 1:  # the model would leave the other modality out as well
            return graphs[0]
        raise ValueError(
            f"{self._folder} embeds {', '.join(graphs)} (identity_pooling of its model), received {modality}"
        )

    def _session(self, kind: str) -> Any:
        if kind not in self._sessions:
            self._sessions[kind] = open_session(self._folder / f"{kind}.onnx")
        return self._sessions[kind]


def _as_array(values: torch.Tensor | None) -> NDArray[Any]:
    assert values is not None
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array.astype(np.float32 if values.is_floating_point() else np.int64, copy=False)


def open_session(path: Path) -> Any:
    """An `onnxruntime.InferenceSession` on CPU. Raises `ValueError` for a file that is no graph."""
    check_installed("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    # Waiting threads would take the cores that decode pictures meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own kinds have no common base
        raise ValueError(f"{path} cannot be run by ONNX Runtime ({error}): {EXPORT_AGAIN}") from error


def load_exported(folder: Path) -> tuple[ExportedModel, MMETProcessor]:
    """The embedder of a folder and its processor. Raises `ValueError` as `check_exported`."""
    check_exported(folder)
    return ExportedModel(folder).eval(), MMETProcessor.from_pretrained(folder)
