"""Export a model to a folder; the folder appears only after its files agree with the model.

manifest = export_model("outputs/run", "exported")
manifest.parity["image"]      # largest difference from the model's embeddings, on random and on drawn inputs
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from mmet.digests import sha256_of
from mmet.evaluation.systems.cache import fingerprint_weights
from mmet.evaluation.systems.exported import ExportedModel
from mmet.evaluation.systems.loading import load_embedder
from mmet.export.graphs import OPSET, graphs_of, write_graph
from mmet.export.trials import measure_parity, random_batch, trial_batches
from mmet.exported_files import (
    DTYPES,
    FORMATS,
    MANIFEST,
    TOLERANCE,
    Manifest,
    check_installed,
    weight_digests,
)
from mmet.field_checks import check_choice
from mmet.starter import resolve_model
from mmet.versions import installed_versions
from mmet.whole_files import whole_folder
from modeling_mmet import MMETForReID
from processing_mmet import MMETProcessor

PACKAGES = ("onnx", "onnxscript")
"""Packages that write the graphs of every format; a format also needs its runtime."""

INT8_TOLERANCE = 0.5
"""Largest accepted difference between elements of 8-bit embeddings and the model's; a larger one means a defect."""

_CALIBRATION = "calibration.json"


def export_model(
    source: str | Path,
    output: str | Path | None = None,
    *,
    dtype: str = "float32",
    tolerance: float = TOLERANCE,
    file_format: str = "onnx",
) -> Manifest:
    """
    Export the image, text and image-and-text embedders of a model, or the one that it has.

    Args:
        source: folder or Hub name of the model, or `starter`.
        output: folder to create; None for `onnx` or `openvino` in the model's folder.
        dtype: `float32`, or `int8` (ONNX only) for smaller files with somewhat different embeddings.
        tolerance: largest accepted difference between elements of `float32` embeddings and the model's.
        file_format: `onnx` for ONNX Runtime, `openvino` for OpenVINO.

    Returns:
        The manifest of the folder, with the differences that were measured.

    Raises:
        ValueError: a package of the format's extra is missing, `source` holds no complete model, the output exists,
            the format does not support `int8`, or the embeddings differ by more than the tolerance.
        OSError: the folder cannot be written.
    """
    check_choice("file_format", file_format, tuple(FORMATS))
    check_choice("dtype", dtype, DTYPES)
    if dtype == "int8" and file_format != "onnx":
        raise ValueError(f"expected float32 for the format {file_format}, received int8, which is for ONNX only")
    check_installed(file_format, *PACKAGES, FORMATS[file_format].runtime)
    source = resolve_model(str(source))
    output = default_output(source, file_format) if output is None else Path(output)
    if output.exists():
        raise ValueError(f"{output} exists already: remove it, or name another folder (--output)")
    model, processor = load_embedder(source)
    model.train(False)
    with whole_folder(output) as draft:
        _write_parts(model, processor, Path(source), draft)
        manifest = _write_graphs(model, processor, source, draft, dtype, file_format)
        _require_parity(manifest, tolerance if dtype == "float32" else INT8_TOLERANCE)
    return manifest


def default_output(source: str, file_format: str = "onnx") -> Path:
    """The folder of a format's files in a model's folder. Raises `ValueError` for a model without a local folder."""
    folder = Path(resolve_model(source))
    if not folder.is_dir():
        raise ValueError(f"{source}: expected the folder of a model; for a model of the Hub, give --output")
    return folder / file_format


def _write_parts(model: MMETForReID, processor: MMETProcessor, source: Path, folder: Path) -> None:
    """Write configuration, processor and tokenizer, and the calibration if the model has one."""
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    if (source / _CALIBRATION).is_file():
        shutil.copyfile(source / _CALIBRATION, folder / _CALIBRATION)


def _write_graphs(
    model: MMETForReID, processor: MMETProcessor, source: str, folder: Path, dtype: str, file_format: str
) -> Manifest:
    """Write the graphs and the manifest: first to run the files, then with the differences that were measured."""
    kinds, parts = graphs_of(model), set(folder.iterdir())
    runtime = FORMATS[file_format].runtime
    traced = random_batch(model, 3, 5)
    for kind in kinds:
        path = folder / f"{kind}.onnx"
        write_graph(model, kind, traced, path)
        if dtype == "int8":
            from mmet.export.quantization import quantize

            quantize(path)
        if file_format == "openvino":
            from mmet.export.openvino_files import convert

            convert(path)
    if file_format == "onnx" and len(kinds) > 1:
        from mmet.export.sharing import share_weights

        share_weights([folder / f"{kind}.onnx" for kind in kinds])
    manifest = Manifest(
        source=source,
        weights=fingerprint_weights(model),
        source_files=weight_digests(Path(source)),
        files={path.name: sha256_of(path) for path in sorted(set(folder.iterdir()) - parts)},
        dtype=dtype,
        opset=OPSET,
        parity={},
        versions={**installed_versions(), **{name: version(name) for name in (*PACKAGES, runtime)}},
        format=file_format,
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    exported, batches = ExportedModel(folder), trial_batches(model, processor)
    manifest.parity.update({kind: measure_parity(model, exported, kind, batches) for kind in kinds})
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _require_parity(manifest: Manifest, tolerance: float) -> None:
    worst = {kind: max(measured.values()) for kind, measured in manifest.parity.items()}
    if wrong := {kind: value for kind, value in worst.items() if value > tolerance}:
        raise ValueError(
            f"{manifest.source}: expected exported embeddings within {tolerance:.0e} of the model's, received "
            + ", ".join(f"{value:.1e} ({kind})" for kind, value in wrong.items())
            + "; nothing was written"
        )
