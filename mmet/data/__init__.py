"""Datasets of people, read from their published layouts into one schema.

    from mmet.data import load_reid_dataset

    dataset = load_reid_dataset("market1501", "/data/Market-1501-v15.09.15")

`docs/data_formats.md` describes the layouts and how to add one.
"""

from mmet.data import (  # importing a reader registers it
    cuhk03,
    cuhk_pedes,
    dukemtmc,
    finegpr,
    folder,
    icfg_pedes,
    market1501,
    msmt17,
    parquet_folder,
    randperson,
    rstpreid,
)
from mmet.data.data_argument import (
    DataArgument,
    distinct_labels,
    name_sources,
    parse_data_argument,
    parse_data_arguments,
)
from mmet.data.loading import (
    SplitTotals,
    count_split,
    load_reid_dataset,
    load_sources,
    load_training_splits,
    read_reid_folder,
    summarize,
    to_dataset_dict,
    training_split,
)
from mmet.data.parquet import save_parquet, verify_parquet
from mmet.data.registry import ReidDatasetSpec, ReidOption, SplitCount, dataset_names, get_spec, register
from mmet.data.schema import (
    DISTRACTOR_PERSON_ID,
    JUNK_PERSON_ID,
    NAME_COLUMNS,
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
    "NAME_COLUMNS",
    "NO_CAMERA",
    "REID_FEATURES",
    "DataArgument",
    "DatasetError",
    "PersonImage",
    "ReidDatasetSpec",
    "ReidFolder",
    "ReidOption",
    "SkippedFile",
    "SplitCount",
    "SplitTotals",
    "count_split",
    "cuhk03",
    "cuhk_pedes",
    "dataset_names",
    "distinct_labels",
    "dukemtmc",
    "finegpr",
    "folder",
    "get_spec",
    "icfg_pedes",
    "load_reid_dataset",
    "load_sources",
    "load_training_splits",
    "market1501",
    "msmt17",
    "name_sources",
    "parquet_folder",
    "parse_data_argument",
    "parse_data_arguments",
    "randperson",
    "read_reid_folder",
    "register",
    "rstpreid",
    "save_parquet",
    "summarize",
    "to_dataset_dict",
    "training_split",
    "verify_parquet",
]
