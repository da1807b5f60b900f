"""Datasets of people, each brought from its published layout to one schema.

    from mmet.data import load_reid_dataset

    dataset = load_reid_dataset("market1501", "/data/Market-1501-v15.09.15")

`docs/data_formats.md` describes the layouts and how to add one.
"""

from mmet.data import cuhk_pedes, finegpr, market1501  # importing a reader registers it
from mmet.data.loading import (
    SplitTotals,
    count_split,
    load_reid_dataset,
    parse_data_argument,
    read_reid_folder,
    summarize,
    to_dataset_dict,
)
from mmet.data.parquet import save_parquet
from mmet.data.registry import ReidDatasetSpec, SplitCount, dataset_names, get_spec, register
from mmet.data.schema import (
    DISTRACTOR_PERSON_ID,
    JUNK_PERSON_ID,
    NO_CAMERA,
    REID_FEATURES,
    DatasetError,
    PersonImage,
    ReidFolder,
    SkippedFile,
)

__all__ = [
    "DISTRACTOR_PERSON_ID",
    "JUNK_PERSON_ID",
    "NO_CAMERA",
    "REID_FEATURES",
    "DatasetError",
    "PersonImage",
    "ReidDatasetSpec",
    "ReidFolder",
    "SkippedFile",
    "SplitCount",
    "SplitTotals",
    "count_split",
    "cuhk_pedes",
    "dataset_names",
    "finegpr",
    "get_spec",
    "load_reid_dataset",
    "market1501",
    "parse_data_argument",
    "read_reid_folder",
    "register",
    "save_parquet",
    "summarize",
    "to_dataset_dict",
]
