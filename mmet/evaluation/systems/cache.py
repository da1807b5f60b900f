"""Cache embeddings on disk: nothing is computed twice, and a killed run continues where it stopped.

    identity = {"model": fingerprint_model(model, processor), "items": fingerprint_items(items)}
    cache = EmbeddingCache(Path("outputs/eval/cache"), identity)
    embeddings = embed_items(model, processor, items.dataset, items, "image", batch_size=64, cache=cache)

A matrix of embeddings has a folder named after a digest of everything that it depends on, so that another model,
another processor or changed pictures use another folder. It holds *shards*: safetensors files of rows and their
positions, each with a checksum, written under a temporary name and then renamed.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import tempfile
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmet import whole_files
from mmet.digests import digest
from mmet.evaluation.protocols import Items
from mmet.whole_files import clear_leftovers, whole_file, write_whole

logger = logging.getLogger(__name__)

Rows = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions `(n,)` and their embeddings `(n, D)`."""

_LOADED_OFFLINE = (b'"local_files_only": true', b'"local_files_only": false')
"""Values that a processor saves if it was loaded without network, and their usual values."""

FLUSH_SECONDS = 20.0
"""Seconds of work that a killed process may have to repeat."""

NUMERIC_PACKAGES = ("numpy", "pillow", "tokenizers", "torch", "transformers")


class EmbeddingCache:
    """The shards of one matrix of embeddings.

    Args:
        root: folder of all cached embeddings; created if needed.
        identity: everything that the embeddings depend on, as JSON values; also saved beside the shards.

    Raises:
        ValueError: the folder cannot be written.
    """

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        description = json.dumps(identity, indent=1, sort_keys=True, ensure_ascii=False)
        self.key = digest([description.encode()])
        self.folder = root / self.key
        check_writable(self.folder, "embeddings", "Choose another --cache_dir, or evaluate with --no_use_cache")
        clear_leftovers(self.folder)
        write_whole(self.folder / "identity.json", description)

    def load(self, count: int) -> list[Path]:
        """Load the valid shards of a matrix with `count` rows; others are reported and removed."""
        shards = []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                positions, _ = self.read(path)
                if positions.size and not 0 <= positions.min() <= positions.max() < count:
                    raise ValueError(f"it holds rows {positions.min()} to {positions.max()} of {count}")
                shards.append(path)
            except (OSError, MemoryError, ValueError, KeyError, SafetensorError) as error:
                logger.warning("%s is not usable (%s): what it held is computed again", path, error)
                path.unlink(missing_ok=True)
        return shards

    def read(self, path: Path) -> Rows:
        """Read the rows of a shard. Raises `ValueError` if it is damaged or belongs to other embeddings."""
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            positions, embeddings = file.get_tensor("positions"), file.get_tensor("embeddings")
        if metadata.get("key") != self.key:
            raise ValueError("it holds the embeddings of another model, other data or other options")
        if metadata.get("checksum") != _checksum(positions, embeddings):
            raise ValueError("its checksum does not fit its content")
        return positions, embeddings

    def write(self, positions: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
        """Save rows as one shard, completely or not at all. Raises `OSError` if that fails."""
        path = self.folder / f"rows-{positions.min():09d}.safetensors"  # no two shards share a row
        metadata = {"key": self.key, "checksum": _checksum(positions, embeddings)}
        try:
            with whole_file(path) as draft:
                save_file({"positions": positions, "embeddings": embeddings}, draft, metadata)
        except SafetensorError as error:  # a full disk, among others
            raise OSError(f"cannot write {path}: {error}") from error


class ShardWriter:
    """Gathers rows and writes them as shards at intervals, and when it ends for any reason.

    If a shard cannot be written, this is reported once, and the evaluation continues without cache.

    Args:
        cache: the cache; None writes nothing.
        flush_seconds: seconds between shards.
    """

    def __init__(self, cache: EmbeddingCache | None, flush_seconds: float = FLUSH_SECONDS) -> None:
        self._cache = cache
        self._flush_seconds = flush_seconds
        self._pending: list[Rows] = []
        self._last_flush = time.monotonic()

    def add(self, positions: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
        """Add the rows of a batch."""
        if self._cache is None:
            return
        self._pending.append((positions, embeddings))
        if time.monotonic() - self._last_flush >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the rows gathered since the last shard."""
        if self._cache is not None and self._pending:
            positions, embeddings = zip(*self._pending, strict=True)
            try:
                self._cache.write(np.concatenate(positions), np.concatenate(embeddings))
            except OSError as error:
                logger.warning("embeddings are not cached any more: %s", error)
                self._cache = None
        self._pending.clear()
        self._last_flush = time.monotonic()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def fingerprint_model(model: torch.nn.Module, processor: Any) -> dict[str, str]:
    """Digests of everything that a model's embeddings depend on: weights, configuration, processor, code, packages.

    Args:
        model: a module; its `config`, if it has one, has `to_json_string`.
        processor: has `save_pretrained`.

    Raises:
        TypeError: the processor cannot be saved.
    """
    config = getattr(model, "config", None)
    return {
        "class": f"{type(model).__module__.rsplit('.', 1)[-1]}.{type(model).__qualname__}",
        "weights": fingerprint_weights(model),
        "config": "" if config is None else digest([config.to_json_string().encode()]),
        "processor": fingerprint_processor(processor),
        "code": fingerprint_code(type(model), type(processor)),
        **{name: version(name) for name in NUMERIC_PACKAGES},
    }


def fingerprint_weights(model: torch.nn.Module) -> str:
    """
    A digest of the names, dtypes, shapes and values of all saved weights and buffers. For an exported model, it is
    `weights_fingerprint`.
    """
    if (known := getattr(model, "weights_fingerprint", None)) is not None:
        return str(known)

    def parts() -> Iterable[bytes | memoryview]:
        for name, tensor in sorted(model.state_dict().items()):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
            yield memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())

    return digest(parts())


def fingerprint_processor(processor: Any) -> str:
    """
    A digest of the files that the processor saves, as it is after loading: how it was loaded (online or not) and the
    padding and truncation of its last call do not count. Raises `TypeError` for one that cannot be saved.
    """
    if not hasattr(processor, "save_pretrained"):
        raise TypeError(f"expected a processor with save_pretrained, received {type(processor).__name__}")
    processor = copy.deepcopy(processor)
    backend = getattr(getattr(processor, "tokenizer", None), "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        contents = [path.read_bytes().replace(*_LOADED_OFFLINE) for path in files]
        return digest(
            part for path, content in zip(files, contents, strict=True) for part in (path.name.encode(), content)
        )


def fingerprint_code(*classes: type) -> str:
    """A digest of the source files that define the classes; classes without a file do not count."""
    files = [_source(cls) for cls in classes]
    return digest(path.read_bytes() for path in files if path is not None)


def fingerprint_items(items: Items) -> str:
    """A digest of the items, their captions, and their pictures by path, size and modification time.

    Pictures stored in the dataset itself, as in Parquet files, are digested by content.
    """
    parts = [items.modality.encode(), items.image_index.tobytes(), items.caption_index.tobytes()]
    if items.modality != "image":
        parts.append(json.dumps(items.dataset.select_columns("captions")[:]["captions"]).encode())
    if items.modality != "text":
        parts.extend(_pictures(items.dataset))
    return digest(parts)


def check_writable(folder: Path, content: str, advice: str) -> None:
    """Create a folder and test that it can be written. Raises `ValueError` with `content` and `advice`."""
    try:
        whole_files.check_writable(folder)
    except OSError as error:
        raise ValueError(f"cannot write {content} to {folder}: {error.strerror or error}. {advice}") from error


def _pictures(dataset: Dataset) -> Iterable[bytes]:
    for picture in dataset.select_columns("image").cast_column("image", ImageFeature(decode=False))[:]["image"]:
        if picture["bytes"] is not None:
            yield picture["bytes"]
            continue
        yield picture["path"].encode()
        try:
            status = Path(picture["path"]).stat()
            yield f"{status.st_size} {status.st_mtime_ns}".encode()
        except OSError:  # reported with the picture's name when it is read
            yield b"absent"


def _source(cls: type) -> Path | None:
    try:
        file = inspect.getsourcefile(cls)
    except (TypeError, OSError):
        return None
    return Path(file) if file and Path(file).is_file() else None


def _checksum(positions: NDArray[np.int64], embeddings: NDArray[np.float32]) -> str:
    return digest([str(embeddings.shape).encode(), positions.tobytes(), embeddings.tobytes()])
