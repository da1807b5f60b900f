"""A folder of Parquet shards as a dataset: any of the others, converted by `python -m mmet.data.to_parquet`.

    dataset = load_reid_dataset("parquet", "/data/finegpr-parquet")

`datasets` copies the shards once into its cache as Arrow files, which are mapped into memory: any row is read at once,
and none stays. The rows keep the `domain` of the dataset they come from. Splits, persons and cameras are what was
converted; pictures were checked then, and `--verify` compares the files' checksums.
"""

from __future__ import annotations

from pathlib import Path

import datasets
from datasets import DatasetDict

from mmet.data.files import layout_error
from mmet.data.parquet import MANIFEST, verify_parquet
from mmet.data.registry import ReidDatasetSpec, register
from mmet.data.schema import REID_FEATURES, DatasetError, ReidFolder

TITLE = "Parquet shards"

EXPECTED_TREE = """\
finegpr-parquet/
├── data/                            train-00000-of-00012.parquet …, a file or more for each split
└── manifest.json                    rows, sizes and checksums (optional)
"""


def load(root: Path) -> DatasetDict:
    """Every split of the folder. Raises `DatasetError` for shards that are not those that were written."""
    if not any(root.glob("data/*.parquet")):
        raise layout_error(TITLE, root, ["data/*.parquet"], EXPECTED_TREE)
    if (root / MANIFEST).exists() and (problems := verify_parquet(root, checksums=False)):
        listed = "\n".join(f"  {problem}" for problem in problems[:5])
        raise DatasetError(f"{TITLE}: {root} is not as it was written:\n{listed}\nRestore it, or convert again.")
    try:
        splits = datasets.load_dataset(str(root))
    except Exception as error:  # a reader of foreign files fails in many ways; each means the same to the user
        raise DatasetError(f"{TITLE}: {root} cannot be read ({error})") from error
    for split, rows in splits.items():
        missing = [name for name in REID_FEATURES if name not in rows.column_names]
        if missing:
            raise DatasetError(
                f"{TITLE}: split {split} of {root} has the columns {', '.join(rows.column_names)}; "
                f"expected {', '.join(REID_FEATURES)}"
            )
    return splits


def read(root: Path) -> ReidFolder:
    """There are no picture files to look at. Raises `DatasetError` that says how shards are checked."""
    if not any(root.glob("data/*.parquet")):
        raise layout_error(TITLE, root, ["data/*.parquet"], EXPECTED_TREE)
    raise DatasetError(
        f"{TITLE}: pictures lie inside the shards of {root}; check these with "
        f"python -m mmet.data.to_parquet --output {root} --verify"
    )


PARQUET = register(
    ReidDatasetSpec(
        name="parquet",
        title=TITLE,
        expected_tree=EXPECTED_TREE,
        read=read,
        load=load,
        licence="that of the dataset it was converted from",
    )
)
