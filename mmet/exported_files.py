"""Exported files of a model: what their folder holds, whether it is whole, and which model they were made from.

    find_exported("outputs/run", "onnx")              # outputs/run/onnx, as `mmet-export outputs/run` writes it
    read_manifest(Path("outputs/run/onnx")).parity    # how far the embeddings are from the model's

A folder of exported files holds one graph for each kind of input, the configuration, the processor, and a manifest.
`mmet.export` writes it, `mmet.evaluation.systems.exported` runs it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from mmet.digests import sha256_of
from mmet.field_checks import check_choice, check_fields
from mmet.starter import resolve_model
from mmet.whole_files import read_json

MANIFEST = "mmet_export.json"


class Format(NamedTuple):
    """A format of exported files: the suffix of a graph, the package that runs it, and the extra that brings it."""

    suffix: str
    runtime: str
    extra: str


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", "onnxruntime", "export"),
    "openvino": Format(".xml", "openvino", "openvino"),
}
"""By name, which is also that of the subfolder for them in a model's folder, and of the backend that runs them."""

BACKENDS = ("auto", "torch", *FORMATS)
"""`auto` is the format's own runtime for a folder of exported files, and PyTorch for a model."""

DTYPES = ("float32", "int8")

TOLERANCE = 1e-4
"""Largest difference of an exported embedding from the model's for both to count as the same."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "image": ("pixel_values",),
    "text": ("input_ids", "attention_mask"),
    "both": ("pixel_values", "input_ids", "attention_mask"),
}
"""Graphs and what they read; a model whose `identity_pooling` is `image` or `text` has that graph alone."""

EXPORT_AGAIN = "export the model again with mmet-export"
_WEIGHT_FILES = "*.safetensors"


@dataclass(frozen=True)
class Manifest:
    """What a folder of exported files says of itself.

    Attributes:
        source: the model it was made from, as it was named.
        weights: `fingerprint_weights` of that model.
        source_files: SHA-256 of the model's weight files by name; empty for a model of the Hub.
        files: SHA-256 of every exported file by name.
        dtype: of the weights, one of `DTYPES`.
        opset: ONNX opset of the graphs, also of those that were written in another format afterwards.
        parity: by graph and by kind of test input, the largest difference from the model's embeddings.
        versions: of the packages that made the files.
        format: of the graphs, one of `FORMATS`.
    """

    source: str
    weights: str
    source_files: dict[str, str]
    files: dict[str, str]
    dtype: str = field(metadata={"choices": DTYPES})
    opset: int
    parity: dict[str, dict[str, float]]
    versions: dict[str, str]
    format: str = field(default="onnx", metadata={"choices": tuple(FORMATS)})

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def is_same_model(self) -> bool:
        """Whether the embeddings are those of the source within `TOLERANCE`."""
        differences = [value for measured in self.parity.values() for value in measured.values()]
        return bool(differences) and max(differences) <= TOLERANCE

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. Raises `ValueError` where there is none, or one of another form."""
    path = folder / MANIFEST
    try:
        return Manifest(**read_json(path))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a manifest of exported files ({error}): {EXPORT_AGAIN}") from error


def find_exported(name_or_path: str, backend: str = "auto") -> Path | None:
    """
    The folder of exported files that the name of a model stands for; None where PyTorch runs the model.

    Args:
        name_or_path: of exported files, of a model with exported files in a subfolder (`FORMATS`), or of any model.
        backend: one of `BACKENDS`.

    Raises:
        ValueError: an unknown backend, a folder that is not for this one, or that holds half an export.
    """
    check_choice("backend", backend, BACKENDS)
    folder = Path(resolve_model(name_or_path))
    if (folder / MANIFEST).is_file():
        _check_backend(folder, backend)
        return folder
    graphs = any(any(folder.glob(f"*{file_format.suffix}")) for file_format in FORMATS.values())
    if graphs and not any(folder.glob(_WEIGHT_FILES)):
        raise ValueError(
            f"{folder} holds exported files and no {MANIFEST}: expected a finished export; {EXPORT_AGAIN}"
        )
    if backend not in FORMATS:
        return None
    inside = folder / backend
    if (inside / MANIFEST).is_file():
        _check_fresh(inside, folder)
        return inside
    command = f"mmet-export {name_or_path}" + ("" if backend == "onnx" else f" --format {backend}")
    raise ValueError(
        f"{name_or_path}: expected exported files for the backend {backend}, found no {MANIFEST} there or in "
        f"{inside}; write them with {command}"
    )


def _check_backend(folder: Path, backend: str) -> None:
    """Raise `ValueError` where a folder of exported files is not for a backend."""
    manifest = read_manifest(folder)
    if backend == "torch":
        raise ValueError(
            f"{folder} holds exported files and no weights for PyTorch: expected the model that they were made "
            f"from ({manifest.source!r})"
        )
    if backend not in ("auto", manifest.format):
        raise ValueError(f"{folder} holds files for the backend {manifest.format}: expected these, received {backend}")


def _check_fresh(folder: Path, source: Path) -> None:
    """Raise `ValueError` where the weights beside exported files are others than these were made from."""
    manifest = read_manifest(folder)
    present = weight_digests(source)
    if present and manifest.source_files and present != manifest.source_files:
        raise ValueError(
            f"{folder} was exported from other weights than {source} holds now: {EXPORT_AGAIN}, after removing the "
            "old files"
        )


def weight_digests(source: Path) -> dict[str, str]:
    """SHA-256 of the weight files in a model's folder by name; nothing for a name of the Hub."""
    return {path.name: sha256_of(path) for path in sorted(source.glob(_WEIGHT_FILES))}


def check_exported(folder: Path) -> None:
    """
    Check exported files without loading them.

    Raises:
        ValueError: what runs them is not installed; a file is missing, damaged or of another kind.
    """
    from mmet.checkpoint_files import check_processor, read_config

    manifest = read_manifest(folder)
    check_installed(manifest.format, FORMATS[manifest.format].runtime)
    check_processor(folder, read_config(folder))
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ValueError(f"{folder / MANIFEST} names {name!r}, which {folder} does not hold: {EXPORT_AGAIN}")
        if sha256_of(path) != expected:
            raise ValueError(f"{path} is not the file that was exported (its checksum differs): {EXPORT_AGAIN}")


def check_installed(file_format: str, *packages: str) -> None:
    """Raise `ValueError` for packages of a format's extra that are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"exported models need {', '.join(packages)}; not installed: {', '.join(missing)}. "
            f'Install them with pip install "mmet[{FORMATS[file_format].extra}]"'
        )
