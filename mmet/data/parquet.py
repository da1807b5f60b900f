"""Write a dataset as Parquet shards that contain its pictures: one folder to copy, stream and train from.

    save_parquet(load_reid_dataset("finegpr", "/data/FineGPR_Dataset"), "/data/finegpr-parquet")
    verify_parquet("/data/finegpr-parquet")  # []: nothing is wrong
    datasets.load_dataset("/data/finegpr-parquet", split="train", streaming=True)

`Dataset.to_parquet` writes the paths of pictures on this machine; this module writes the files themselves, unchanged.
Shards are written to `<folder>.partial`, and every finished one is listed in a manifest with its checksum. A killed
conversion continues after its last finished shard, and the folder gets its final name only when complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import embed_table_storage
from tqdm import tqdm

from mmet.data.annotations import parse_json, read_text
from mmet.data.paths import walk_files
from mmet.data.schema import DatasetError
from mmet.digests import sha256_of
from mmet.field_checks import Range, check_fields
from mmet.folder_lock import locked_target
from mmet.whole_files import clear_leftovers, read_json, sync, whole_file, write_whole

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""File in the folder that lists its shards with their rows, sizes and SHA-256."""

DEFAULT_SHARD_BYTES = 500_000_000

_FORMAT = 1
_ROWS_PER_GROUP = 256  # about 1 MB of person crops: what the writer and a reader of the file hold at once
_ROWS_PER_READ = 16_384
_SAMPLED_ROWS = 1_024  # whose pictures' sizes tell how many rows fill a shard


@dataclass(frozen=True, slots=True)
class Shard:
    """One Parquet file: its name below the folder, its split, and what it must hold, each checked by type."""

    file: str
    split: str
    rows: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_fields(self, {"rows": Range(at_least=0), "bytes": Range(at_least=0)})


@dataclass(frozen=True, slots=True)
class _PlannedShard:
    file: str
    split: str
    start: int
    stop: int


def save_parquet(
    splits: Mapping[str, Dataset],
    folder: str | Path,
    *,
    rows_per_shard: int | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> list[Path]:
    """Write every split as `data/<split>-00000-of-00012.parquet` below `folder`, which appears only when complete.

    Memory holds one row group of 256 rows at a time, whatever a shard's size. After a kill, the same call keeps the
    finished shards of `<folder>.partial` and continues; at most one shard is written twice.

    Args:
        splits: datasets with picture columns, such as the result of `load_reid_dataset`.
        folder: folder to create; must not exist.
        rows_per_shard: number of rows in a file; None chooses it by `shard_bytes` and a sample of pictures.
        shard_bytes: approximate size of a file.

    Returns:
        The written files.

    Raises:
        ValueError: `rows_per_shard` or `shard_bytes` is less than one.
        FileExistsError: `folder` exists.
        DatasetError: `<folder>.partial` was begun with other data or shard sizes, or a picture cannot be read.
        OSError: the folder cannot be written, or a written shard is missing or truncated at the end.
    """
    for name, value in (("rows_per_shard", rows_per_shard), ("shard_bytes", shard_bytes)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    target = Path(folder)
    with locked_target(target):
        return _save(splits, target, rows_per_shard, shard_bytes)


def _save(splits: Mapping[str, Dataset], target: Path, rows_per_shard: int | None, shard_bytes: int) -> list[Path]:
    if target.exists():
        raise FileExistsError(f"{target} exists; name a folder to be created")
    partial = target.with_name(target.name + ".partial")
    plan = [
        shard
        for split, dataset in splits.items()
        for shard in _plan(split, len(dataset), rows_per_shard or _rows_that_fill(dataset, shard_bytes))
    ]
    manifest = _begin(partial, _fingerprint(splits, plan))
    _write_shards(partial, manifest, splits, plan)
    if problems := verify_parquet(partial, checksums=False):
        raise OSError(f"{partial}: {problems[0]}; something changed it during the work: run the same command again")
    sync(partial / "data")
    partial.rename(target)
    sync(target.parent)
    return [target / shard.file for shard in plan]


def _plan(split: str, num_rows: int, rows_per_shard: int) -> list[_PlannedShard]:
    count = max(1, math.ceil(num_rows / rows_per_shard))
    starts = [index * rows_per_shard for index in range(count)]
    return [
        _PlannedShard(
            f"data/{split}-{index:05d}-of-{count:05d}.parquet", split, start, min(start + rows_per_shard, num_rows)
        )
        for index, start in enumerate(starts)
    ]


def _rows_that_fill(dataset: Dataset, shard_bytes: int) -> int:
    """Rows whose pictures come to about `shard_bytes`, by the mean of rows that are spread over the dataset."""
    if not len(dataset):
        return 1
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(_SAMPLED_ROWS, len(dataset))).astype(np.int64))
    table = _embedded(dataset.select(rows))
    return int(max(1, round(shard_bytes * len(rows) / max(1, table.nbytes))))


def _fingerprint(splits: Mapping[str, Dataset], plan: Sequence[_PlannedShard]) -> str:
    """SHA-256 of the plan and of all columns but the pictures (`image_path` names these)."""
    digest = hashlib.sha256(json.dumps([_FORMAT, [asdict(shard) for shard in plan]]).encode())
    for split, dataset in splits.items():
        pictures = [name for name, feature in dataset.features.items() if type(feature).__name__ == "Image"]
        digest.update(json.dumps([split, str(dataset.features)]).encode())
        words = dataset.remove_columns(pictures).with_format("arrow")
        for start in range(0, len(dataset), _ROWS_PER_READ):
            digest.update(json.dumps(words[start : start + _ROWS_PER_READ].to_pydict()).encode())
    return digest.hexdigest()


def _begin(partial: Path, fingerprint: str) -> dict[str, Any]:
    """The manifest of the work in progress: a new one, or that of an interrupted conversion of the same data."""
    (partial / "data").mkdir(parents=True, exist_ok=True)
    if not (partial / MANIFEST).exists():
        manifest = {"format": _FORMAT, "fingerprint": fingerprint, "shards": []}
        _write_manifest(partial, manifest)
        return cast(dict[str, Any], manifest)
    manifest = read_manifest(partial)
    if manifest.get("fingerprint") != fingerprint:
        raise DatasetError(
            f"{partial} was begun from other data or with other shard sizes; continue with the arguments it was begun "
            "with, or remove it"
        )
    return cast(dict[str, Any], manifest)


def _write_shards(
    partial: Path, manifest: dict[str, Any], splits: Mapping[str, Dataset], plan: Sequence[_PlannedShard]
) -> None:
    """Write the shards that the manifest does not list yet, and list them."""
    done = {entry["file"] for entry in manifest["shards"]}
    kept = [shard for shard in plan if shard.file in done and (partial / shard.file).is_file()]
    manifest["shards"] = [entry for entry in manifest["shards"] if entry["file"] in {shard.file for shard in kept}]
    if kept:
        logger.info("%s: %d of %d shards are there already", partial, len(kept), len(plan))
    clear_leftovers(partial / "data")
    with tqdm(total=sum(shard.stop - shard.start for shard in plan), unit="row", unit_scale=True, disable=None) as bar:
        bar.update(sum(shard.stop - shard.start for shard in kept))
        for shard in plan:
            if shard not in kept:
                bar.set_description(f"writing {Path(shard.file).name}")
                manifest["shards"].append(asdict(_write_shard(partial, shard, splits[shard.split], bar)))
                _write_manifest(partial, manifest)
    manifest["shards"].sort(key=lambda entry: [shard.file for shard in plan].index(entry["file"]))
    _write_manifest(partial, manifest)


def _write_shard(partial: Path, shard: _PlannedShard, dataset: Dataset, bar: tqdm) -> Shard:
    """One file, row group by row group, under a temporary name until it is on the disk."""
    path = partial / shard.file
    schema = dataset.features.arrow_schema
    with whole_file(path) as draft:
        with pq.ParquetWriter(draft, schema, use_dictionary=["domain"], write_page_index=False) as writer:
            for start in range(shard.start, shard.stop, _ROWS_PER_GROUP):
                rows = range(start, min(start + _ROWS_PER_GROUP, shard.stop))
                writer.write_table(_embedded(dataset, rows), row_group_size=_ROWS_PER_GROUP)
                bar.update(len(rows))
            if shard.start == shard.stop:
                writer.write_table(schema.empty_table())
        checksum = sha256_of(draft)
    return Shard(shard.file, shard.split, shard.stop - shard.start, path.stat().st_size, checksum)


def _embedded(dataset: Dataset, rows: range | None = None) -> pa.Table:
    """Rows with their pictures' files in them. Raises `DatasetError` for a file that cannot be read."""
    arrow = dataset.with_format("arrow")
    table = arrow[:] if rows is None else arrow[rows.start : rows.stop]
    try:
        return embed_table_storage(table.cast(dataset.features.arrow_schema))
    except OSError as error:
        raise DatasetError(
            f"{error.filename or 'a picture'} cannot be read ({error.strerror or error}); restore it and run the same "
            "command again, which continues where it stopped"
        ) from error


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, completely or not at all."""
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1))


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read the manifest of a folder. Raises `DatasetError` if it is missing or unreadable."""
    path = Path(folder) / MANIFEST
    try:
        if not path.exists():
            raise FileNotFoundError("there is no such file")
        manifest = parse_json(read_text(path), path)
        if manifest["format"] != _FORMAT:
            raise DatasetError(f"{path}: expected format {_FORMAT}, received {manifest['format']!r}")
        [Shard(**entry) for entry in manifest["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not a manifest of Parquet shards ({error})") from error
    return cast(dict[str, Any], manifest)


def shards_of(folder: str | Path) -> list[Shard]:
    """The shards that a folder's manifest lists. Raises `DatasetError` as `read_manifest` does."""
    return [Shard(**entry) for entry in read_manifest(folder)["shards"]]


def verify_parquet(folder: str | Path, *, checksums: bool = True) -> list[str]:
    """Compare the shards with the manifest: files, sizes, numbers of rows and, unless switched off, SHA-256.

    Returns:
        One sentence for each problem; empty if all shards are unchanged.

    Raises:
        DatasetError: there is no readable manifest.
    """
    root = Path(folder)
    shards = shards_of(root)
    listed = {shard.file for shard in shards}
    present = {
        Path(place, name).relative_to(root).as_posix()
        for place, names in walk_files(root)
        for name in names
        if name.endswith(".parquet")
    }
    problems = [f"{file}: is not listed in {MANIFEST}" for file in sorted(present - listed)]
    for shard in tqdm(shards, desc="verifying", unit="file", disable=None, delay=2):
        problems += [f"{shard.file}: {problem}" for problem in _problems(root / shard.file, shard, checksums)]
    return problems


def verify_once(folder: str | Path) -> list[str]:
    """Verify as `verify_parquet` does, but skip checksums of files that have not changed since they last agreed.

    The result is kept in the cache of `datasets`, keyed by size, times and inode of each file.
    """
    root = Path(folder).resolve()
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
    seal = Path(datasets.config.HF_DATASETS_CACHE, "mmet_checksums", f"{name}.json")
    state = {shard.file: [shard.sha256, *_state_of(root / shard.file)] for shard in shards_of(root)}
    try:
        is_known = read_json(seal) == state
    except (OSError, ValueError):
        is_known = False
    problems = verify_parquet(root, checksums=not is_known)
    if not problems and not is_known:
        with suppress(OSError):
            seal.parent.mkdir(parents=True, exist_ok=True)
            write_whole(seal, json.dumps(state))
    return problems


def _state_of(path: Path) -> list[int]:
    """Size, modification time, change time (which nobody can set) and inode of a file."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _problems(path: Path, shard: Shard, checksums: bool) -> Iterator[str]:
    if not path.is_file():
        yield "is missing"
    elif path.stat().st_size != shard.bytes:
        yield f"expected {shard.bytes:,} bytes, received {path.stat().st_size:,}"
    elif checksums and sha256_of(path) != shard.sha256:
        yield f"SHA-256 is not {shard.sha256}, as it was written"
    else:
        try:
            rows = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            yield f"is not a Parquet file ({error})"
        else:
            if rows != shard.rows:
                yield f"expected {shard.rows:,} rows, received {rows:,}"
