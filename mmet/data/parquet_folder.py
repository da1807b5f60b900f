"""A folder of Parquet shards as a dataset: another dataset converted by `python -m mmet.data.to_parquet`.

    dataset = load_reid_dataset("parquet", "/data/finegpr-parquet")

`datasets` copies the shards once into its cache as Arrow files, which are mapped into memory: any row is read
directly, and none stays in memory. Splits, persons, cameras and `domain` are those of the converted dataset. Its
pictures were checked at the conversion; checksums are compared whenever the files have changed.

Shards of other tools are read as well: `person_id` and `camera_id` may be words, which are numbered as in `folder`. A
picture whose bytes are not in the shards is an error; paths are not followed.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Value

from mmet.data.annotations import parse_id
from mmet.data.parquet import MANIFEST, verify_once
from mmet.data.paths import display, layout_error
from mmet.data.registry import ReidDatasetSpec, register
from mmet.data.schema import (
    JUNK_PERSON_ID,
    NAME_COLUMNS,
    NO_CAMERA,
    REID_FEATURES,
    DatasetError,
    PersonImage,
    ReidFolder,
    number_words,
)

TITLE = "Parquet shards"
_SHARD_NAME = re.compile(r"(?P<split>\w+(?:\.\w+)*?)(?:-[0-9]+(?:-of-[0-9]+)?)?\.parquet")

EXPECTED_TREE = """\
finegpr-parquet/
├── data/                            train-00000-of-00012.parquet …, a file or more for each split
└── manifest.json                    rows, sizes and checksums (optional)
"""


def load(root: Path) -> DatasetDict:
    """Every split of the folder.

    Raises:
        DatasetError: the shards have changed since they were written, or rows do not fit `REID_FEATURES`: missing
            columns, ids that are neither whole numbers nor words, pictures that are not in the shards.
    """
    if not any(root.glob("data/*.parquet")):
        raise layout_error(TITLE, root, ["data/*.parquet"], EXPECTED_TREE)
    if (root / MANIFEST).exists() and (problems := verify_once(root)):
        listed = "\n".join(f"  {problem}" for problem in problems[:5])
        raise DatasetError(f"{TITLE}: {root} is not as it was written:\n{listed}\nRestore it, or convert again.")
    files = {split: [glob.escape(str(path)) for path in paths] for split, paths in _files_by_split(root).items()}
    try:
        splits = datasets.load_dataset("parquet", data_files=files)
    except Exception as error:  # a reader of foreign files fails in many ways; each means the same to the user
        raise DatasetError(f"{TITLE}: {root} cannot be read ({_first_cause(error, root)})") from error
    for split, rows in splits.items():
        missing = [name for name in REID_FEATURES if name not in rows.column_names]
        if missing:
            raise DatasetError(
                f"{TITLE}: split {split} of {root} has the columns {', '.join(rows.column_names)}; "
                f"expected {', '.join(REID_FEATURES)}"
            )
    return _in_schema(DatasetDict({split: splits[split] for split in splits}), root)


def _first_cause(error: BaseException, root: Path) -> str:
    """Why `datasets` could not read shards: of the first that does not open, whose name it keeps to itself, or any."""
    for path in sorted(root.glob("data/*.parquet")):
        if not path.is_file():
            return f"{display(path.name)}: not a regular file"
        try:
            pq.read_schema(path)
        except Exception as problem:  # as above
            return f"{display(path.name)}: {' '.join(str(problem).split())}"
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _files_by_split(root: Path) -> dict[str, list[Path]]:
    """Find the shards below `data/` by their names alone: a README.md could send `datasets` anywhere."""
    files: dict[str, list[Path]] = {}
    for path in sorted(root.glob("data/*.parquet")):
        match = _SHARD_NAME.fullmatch(path.name)
        if match is None:
            raise DatasetError(
                f"{TITLE}: {path}: expected a name such as train-00000-of-00012.parquet or train.parquet"
            )
        files.setdefault(match["split"], []).append(path)
    return files


# -- rows of others -------------------------------------------------------------------------------------------------


def _in_schema(splits: DatasetDict, root: Path) -> DatasetDict:
    """The rows with the types of `REID_FEATURES`; words become numbers, over all splits alike."""
    for split, rows in splits.items():
        for column in ("image", "person_mask"):
            _check_pictures(rows, column, f"{TITLE}: split {split} of {root}", optional=column == "person_mask")
    for column, lowest in (("person_id", JUNK_PERSON_ID), ("camera_id", NO_CAMERA)):
        splits = _number_column(splits, column, lowest, root)
    return DatasetDict({split: _cast(rows, f"{TITLE}: split {split} of {root}") for split, rows in splits.items()})


def _check_pictures(rows: Dataset, column: str, place: str, *, optional: bool) -> None:
    """Raise `DatasetError` for a row whose picture is not in the shards. Reads no picture."""
    stored = rows.select_columns(column).data.column(column)
    first = 0
    for chunk in stored.chunks:
        if pa.types.is_null(chunk.type) and optional:
            continue
        if not pa.types.is_struct(chunk.type) or {field.name for field in chunk.type} < {"bytes", "path"}:
            raise DatasetError(f"{place}: column {column} holds {chunk.type}; expected pictures with bytes and path")
        lacking = pc.is_null(pc.struct_field(chunk, "bytes"))
        if optional:
            named = pc.is_valid(pc.struct_field(chunk, "path"))
            lacking = pc.and_(lacking, pc.and_(pc.is_valid(chunk), named))
        if (number := pc.index(lacking, True).as_py()) >= 0:
            path = (chunk[number].as_py() or {}).get("path")
            content = "no picture" if path is None else f"a path alone, {display(path[:200])!r}"
            raise DatasetError(
                f"{place}: row {first + number}: column {column} holds {content}; expected the picture's bytes: paths "
                "are not followed. Write the shards with python -m mmet.data.to_parquet"
            )
        first += len(chunk)


def _number_column(splits: DatasetDict, column: str, lowest: int, root: Path) -> DatasetDict:
    """The splits with whole numbers in a column of ids, and its words in another one where it has some."""
    if all(_are_numbers(rows, column, lowest) for rows in splits.values()):
        return splits
    values = {split: _ids(rows, column, lowest, f"{TITLE}: split {split} of {root}") for split, rows in splits.items()}
    numbers = number_words(value for ids in values.values() for value in ids)
    return DatasetDict({split: _with_numbers(rows, column, values[split], numbers) for split, rows in splits.items()})


def _are_numbers(rows: Dataset, column: str, lowest: int) -> bool:
    """Whether a column of ids is as it should be, found out without a Python object for each row."""
    stored = rows.data.column(column)
    if not pa.types.is_integer(stored.type) or stored.null_count:
        return False
    least, most = pc.min_max(stored).as_py().values()
    return least is None or (least >= lowest and most < 2**63)


def _ids(rows: Dataset, column: str, lowest: int, place: str) -> list[int | str]:
    """Read the ids of a column. Raises `DatasetError` for the first invalid one."""
    stored = rows.data.column(column)
    kind = stored.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DatasetError(f"{place}: column {column} holds {kind}; expected whole numbers, or words")
    ids: list[int | str] = []
    for number, value in enumerate(stored.to_pylist()):
        known = NO_CAMERA if value is None and column == "camera_id" else value
        try:
            identifier = parse_id("" if known is None else str(known))
        except ValueError as error:
            raise DatasetError(f"{place}: row {number}: column {column} {error}") from error
        if isinstance(identifier, int) and identifier < lowest:
            raise DatasetError(f"{place}: row {number}: column {column} must be {lowest} or more, {identifier} is not")
        ids.append(identifier)
    return ids


def _with_numbers(rows: Dataset, column: str, ids: list[int | str], numbers: Mapping[str, int]) -> Dataset:
    """The rows with numbers in a column of ids and, where there are words anywhere, the row's word in another one."""
    values: dict[str, list[Any]] = {column: [value if isinstance(value, int) else numbers[value] for value in ids]}
    if numbers:
        values[NAME_COLUMNS[column]] = [value if isinstance(value, str) else None for value in ids]
    for name, column_values in values.items():
        rows = _with_column(rows, name, column_values, Value("int64" if name == column else "string"))
    return rows


def _with_column(rows: Dataset, name: str, values: list[Any], feature: Any) -> Dataset:
    """The rows with a column replaced, in its place, or added at the end."""
    names = list(dict.fromkeys([*rows.column_names, name]))
    if name in rows.column_names:
        rows = rows.remove_columns(name)
    return rows.add_column(name, values, feature=feature).select_columns(names)


def _cast(rows: Dataset, place: str) -> Dataset:
    """Rows with the types of `REID_FEATURES`. Raises `DatasetError` where that is not possible."""
    for column in ("image_path", "domain"):
        if rows.data.column(column).null_count:
            raise DatasetError(f"{place}: column {column} has rows without a value; expected text in each")
    if rows.data.column("captions").null_count:
        sentences = [captions or [] for captions in rows.data.column("captions").to_pylist()]
        rows = _with_column(rows, "captions", sentences, REID_FEATURES["captions"])
    for column, feature in REID_FEATURES.items():
        if rows.features[column] == feature:
            continue
        try:
            rows = rows.cast_column(column, feature)
        except (pa.ArrowException, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise DatasetError(f"{place}: column {column} cannot be read as {feature} ({reason})") from error
    return rows


def read(root: Path) -> ReidFolder:
    """The rows as pictures whose files lie inside the shards (`ReidFolder.contents`). Raises as `load` does.

    Persons of several domains are numbered apart. Names of pictures begin with their domain where there are several.
    """
    folder = ReidFolder(root, splits={})
    splits = load(root)
    domains = sorted({domain for rows in splits.values() for domain in rows.unique("domain")})
    keys = (
        (row["domain"], row["person_id"])
        for rows in splits.values()
        for row in rows.select_columns(["domain", "person_id"])
    )
    persons = {key: number for number, key in enumerate(sorted({key for key in keys if key[1] != JUNK_PERSON_ID}))}
    if len(domains) > 1:
        folder.notes.append(f"rows of {len(domains):,} domains: {', '.join(domains)}")
    for split, rows in splits.items():
        undecoded = rows.cast_column("image", datasets.Image(decode=False))
        undecoded = undecoded.cast_column("person_mask", datasets.Image(decode=False))
        masked = pc.is_valid(pc.struct_field(_one_chunk(undecoded, "person_mask"), "bytes")).to_pylist()
        words = undecoded.remove_columns(["image", "person_mask"])
        folder.splits[split] = [
            _picture(folder, undecoded, number, row, persons, has_domain=len(domains) > 1, has_mask=has_mask)
            for number, (row, has_mask) in enumerate(zip(words, masked, strict=True))
        ]
    return folder


def _one_chunk(rows: Dataset, column: str) -> pa.Array:
    return rows.with_format("arrow").select_columns(column)[:][column].combine_chunks()


def _picture(
    folder: ReidFolder,
    rows: Dataset,
    number: int,
    row: Mapping[str, Any],
    persons: Mapping[tuple[str, int], int],
    *,
    has_domain: bool,
    has_mask: bool,
) -> PersonImage:
    """One row; the contents of its files are read when they are asked for."""

    def place(kind: str, column: str) -> Path:
        # The name is what somebody wrote into a shard: "./" keeps an absolute path below the folder.
        name = "/".join(part for part in (row["domain"] if has_domain else "", kind, row["image_path"]) if part)
        path = folder.root / f"./{name}"
        folder.contents[path] = lambda: rows[number][column]["bytes"]
        return path

    key = (row["domain"], row["person_id"])
    mask = place("masks", "person_mask") if has_mask else None
    return PersonImage(
        place("", "image"), persons.get(key, JUNK_PERSON_ID), row["camera_id"], tuple(row["captions"]), mask
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
