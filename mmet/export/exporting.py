"""From a model to a folder of exported files, whole or not at all, after they were compared with the model.

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
"""What the graphs of every format are written with; a format's runtime comes to these."""

INT8_TOLERANCE = 0.5
"""Largest difference of an 8-bit embedding, a unit vector, from the model's: beyond it something is broken."""

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
    Export the image, the text and the image-and-text embedder of a model.

    Args:
        source: folder or Hub name of the model, or `starter`.
        output: folder to create; None for one in the model's folder, named by the format.
        dtype: `float32`, or `int8` (ONNX alone) for smaller files whose embeddings are not those of the model.
        tolerance: largest difference of `float32` embeddings from the model's that is accepted.
        file_format: `onnx` for ONNX Runtime, `openvino` for OpenVINO.

    Raises:
        ValueError: a package of the format's extra is missing, `source` holds no whole model, the output is there
            already, `int8` of another format than ONNX, or the exported files compute something else.
        OSError: the folder cannot be written.
    """
    check_choice("file_format", file_format, tuple(FORMATS))
    check_choice("dtype", dtype, DTYPES)
    if dtype == "int8" and file_format != "onnx":
        raise ValueError(f"expected float32 for the format {file_format}, received int8, which is of ONNX files alone")
    check_installed(file_format, *PACKAGES, FORMATS[file_format].runtime)
    source = resolve_model(str(source))
    output = default_output(source, file_format) if output is None else Path(output)
    if output.exists():
        raise ValueError(f"{output} is there already: remove it, or name another folder (--output)")
    model, processor = load_embedder(source)
    model.train(False)
    with whole_folder(output) as draft:
        _write_parts(model, processor, Path(source), draft)
        manifest = _write_graphs(model, processor, source, draft, dtype, file_format)
        _require_parity(manifest, tolerance if dtype == "float32" else INT8_TOLERANCE)
    return manifest


def default_output(source: str, file_format: str = "onnx") -> Path:
    """Where a format's files are in a model's folder. Raises `ValueError` for a model that has no folder here."""
    folder = Path(resolve_model(source))
    if not folder.is_dir():
        raise ValueError(f"{source}: expected the folder of a model, or --output for one of the Hub")
    return folder / file_format


def _write_parts(model: MMETForReID, processor: MMETProcessor, source: Path, folder: Path) -> None:
    """Configuration, processor and tokenizer, and the calibration where the model has one."""
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    if (source / _CALIBRATION).is_file():
        shutil.copyfile(source / _CALIBRATION, folder / _CALIBRATION)


def _write_graphs(
    model: MMETForReID, processor: MMETProcessor, source: str, folder: Path, dtype: str, file_format: str
) -> Manifest:
    """The graphs and the manifest. It is written twice: the files are compared with the model as they are run."""
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
