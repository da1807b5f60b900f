"""A dataset as sharded Parquet that carries its pictures: one folder to copy, stream and train from in flat memory.

    save_parquet(load_reid_dataset("finegpr", "/data/FineGPR_Dataset"), "/data/finegpr-parquet")
    datasets.load_dataset("/data/finegpr-parquet", split="train", streaming=True)

`Dataset.to_parquet` writes the paths of pictures on this machine; here the files themselves go in, unchanged.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import embed_table_storage
from tqdm import tqdm

_ROWS_PER_GROUP = 256  # about 1 MB of person crops: what a reader of the file has to hold at once


def save_parquet(splits: Mapping[str, Dataset], folder: str | Path, *, rows_per_shard: int = 16_384) -> list[Path]:
    """Write every split as `data/<split>-00000-of-00012.parquet` below `folder`, which appears only when complete.

    Args:
        splits: datasets with picture columns, such as the result of `load_reid_dataset`.
        folder: to be created; must not exist.
        rows_per_shard: rows in a file. One shard is in memory at a time.

    Returns:
        The files written.

    Raises:
        ValueError: `rows_per_shard` is less than one.
        FileExistsError: `folder` exists.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
    target = Path(folder)
    if target.exists():
        raise FileExistsError(f"{target} exists; name a folder to be created")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    names: list[Path] = []
    for split, dataset in splits.items():
        names += _save_split(partial, split, dataset, rows_per_shard)
    partial.rename(target)
    return [target / name for name in names]


def _save_split(folder: Path, split: str, dataset: Dataset, rows_per_shard: int) -> list[Path]:
    count = max(1, math.ceil(len(dataset) / rows_per_shard))
    names = [Path("data", f"{split}-{index:05d}-of-{count:05d}.parquet") for index in range(count)]
    arrow = dataset.with_format("arrow")
    for index, name in enumerate(tqdm(names, desc=f"writing {split}", unit="file", disable=None)):
        start = index * rows_per_shard
        table = arrow[start : start + rows_per_shard].cast(dataset.features.arrow_schema)
        pq.write_table(embed_table_storage(table), folder / name, row_group_size=_ROWS_PER_GROUP)
    return names
