"""Read the pictures of a gallery's source (folder, dataset, files, arrays or mappings) as one list of entries.

    read_source("crops/")                                # pictures in and below a folder; a table there is read, too
    read_source("market1501=/data/Market-1501")          # any layout of mmet.data
    read_source(["a.jpg", array, pillow_image])          # files, arrays (H, W, 3) uint8, Pillow images
    read_source([{"image": "a.jpg", "camera_id": "gate", "time": 12.5, "shirt": "red"}])
    read_source(dataset)                                 # datasets.Dataset or DatasetDict with a column `image`

The columns `id`, `person_id`, `camera_id`, `track_id`, `time` and `box` have a meaning; all others are the user's.
A folder needs no table. If it holds `annotations.csv` or `annotations.jsonl`, as in the `folder` layout of
`mmet.data`, the pictures and columns of the table are read.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL.Image

from mmet.field_checks import shown
from mmet.gallery.labels import seconds, write_box, write_label
from mmet.gallery.results import GalleryError, Skipped
from mmet.gallery.storage import EMBEDDING, EXTRA

Item = TypeVar("Item")

_MEANINGFUL = ("id", "image", "person_id", "camera_id", "track_id", "time", "box")
_NOT_KEPT = ("person_mask", "person_name", "camera_name", "image_path")


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture, `{"bytes", "path"}` as `datasets` stores one, and the known values of its columns."""

    id: str
    image: Mapping[str, Any]
    person_id: str | None = None
    camera_id: str | None = None
    track_id: str | None = None
    time: float | None = None
    box: list[float] | None = None
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """All entries, and what was left out before any picture was read."""

    name: str
    entries: list[Entry]
    skipped: tuple[Skipped, ...] = ()


def read_source(source: Any, *, first_number: int = 0) -> Source:
    """
    List the entries of a source, without reading the pictures.

    Args:
        source: see the module's examples.
        first_number: id of the first picture without a name; further ones count up.

    Raises:
        GalleryError: there is no such source, it has no pictures, or a value does not fit its column.
    """
    if isinstance(source, (str, Path)):
        pictures = _from_path(str(source))
    elif hasattr(source, "cast_column"):
        pictures = Source("the dataset", _from_datasets(source, first_number))
    elif isinstance(source, (Mapping, bytes, np.ndarray)) or not isinstance(source, Sequence):
        raise GalleryError(
            "source: expected a folder, name=folder, a datasets.Dataset, or a list of files, arrays, Pillow images or "
            f"mappings; received {type(source).__name__}"
        )
    else:
        pictures = Source("the list", [_from_item(item, number + first_number) for number, item in enumerate(source)])
    if not pictures.entries:
        raise GalleryError(f"{pictures.name} holds no pictures: name a folder or a list with at least one")
    return pictures


def _from_path(place: str) -> Source:
    path = Path(place)
    if path.is_dir():
        return _from_folder(path)
    name, separator, _ = place.partition("=")
    if separator and "/" not in name:
        from mmet.data import load_sources, parse_data_argument

        (splits,) = load_sources([parse_data_argument(place)])
        return Source(place, _from_datasets(splits, 0))
    raise GalleryError(f"source: there is no folder {place!r}; name one, or a data set as name=folder")


def _from_folder(folder: Path) -> Source:
    from mmet.data.folder import TABLES
    from mmet.data.paths import display, is_text, list_tree

    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise GalleryError(f"{folder} holds {' and '.join(TABLES)}, which may differ: remove one")
    if tables:
        return _from_table(folder, tables[0])
    pictures, unreadable = list_tree(folder)
    skipped = [Skipped(display(str(place)), "folder cannot be looked into") for place in unreadable]
    entries = []
    for path in pictures:
        name = path.relative_to(folder).as_posix()
        if is_text(str(path)):
            entries.append(Entry(name, {"bytes": None, "path": os.path.abspath(path)}))  # noqa: PTH100
        else:
            skipped.append(Skipped(display(name), "its name is not valid text"))
    return Source(str(folder), entries, tuple(skipped))


def _from_table(folder: Path, table: Path) -> Source:
    """The pictures that a table names. Rows without a usable path are skipped; a picture named twice is one."""
    from mmet.data.annotations import read_csv_entries, read_json_lines
    from mmet.data.paths import UnsafePathError, display, join_inside
    from mmet.data.schema import JUNK_PERSON_ID, DatasetError

    entries: dict[str, Entry] = {}
    skipped = []
    try:
        for line in read_csv_entries(table) if table.suffix == ".csv" else read_json_lines(table):
            name = line.get("image", str)
            try:
                path = join_inside(folder, name)
            except UnsafePathError as error:
                skipped.append(Skipped(f"{table.name}: {line.place}: {display(name)}", str(error)))
                continue
            row = _table_values(line.fields) if table.suffix == ".csv" else line.fields
            if str(row.get("person_id")) == str(JUNK_PERSON_ID):
                skipped.append(Skipped(display(name), "the table calls it a junk detection (person -1)"))
                continue
            name = path.relative_to(folder).as_posix()
            if name not in entries:
                entries[name] = _from_row({"id": name, **row, "image": str(path)}, 0)
    except DatasetError as error:
        raise GalleryError(str(error)) from error
    except GalleryError as error:
        raise GalleryError(f"{table}: {line.place}: {error}") from error
    return Source(str(folder), list(entries.values()), tuple(skipped))


def _table_values(fields: Mapping[str, str]) -> dict[str, Any]:
    """The non-empty cells of a CSV row; times and boxes as numbers."""
    row: dict[str, Any] = {name: value for name, value in fields.items() if value.strip()}
    if "time" in row:
        with suppress(ValueError):
            row["time"] = float(row["time"])
    if "box" in row:
        row["box"] = re.findall(r"[^\s,;\[\]()]+", row["box"])
    return row


def _from_datasets(source: Any, first_number: int) -> list[Entry]:
    import datasets

    splits = source.items() if isinstance(source, Mapping) else [(None, source)]
    entries: list[Entry] = []
    for split, dataset in splits:
        if "image" not in dataset.column_names:
            raise GalleryError(f"the dataset has no column 'image'; it has {', '.join(dataset.column_names)}")
        pictures = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
        rows = dataset.remove_columns([name for name in pictures if name != "image"])
        if "image" in pictures:
            rows = rows.cast_column("image", datasets.Image(decode=False))
        for row in rows:
            values = dict(row) if split is None else {**row, "split": split}
            entries.append(_from_row(_renamed(values), first_number + len(entries)))
    return entries


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `mmet.data` with words instead of their numbers, and an id."""
    for column, words in (("person_id", "person_name"), ("camera_id", "camera_name")):
        if row.get(words) is not None:
            row[column] = row[words]
    if row.get("camera_id") == -1:
        row["camera_id"] = None
    if row.get("id") is None and row.get("image_path"):
        row["id"] = "/".join(filter(None, [row.get("split"), row["image_path"]]))
    return {name: value for name, value in row.items() if name not in _NOT_KEPT and value != []}


def _from_item(item: Any, number: int) -> Entry:
    return _from_row(dict(item) if isinstance(item, Mapping) and "image" in item else {"image": item}, number)


def _from_row(row: Mapping[str, Any], number: int) -> Entry:
    image = _stored_image(row["image"])
    name = row.get("id")
    if name is None:
        name = str(row["image"]) if isinstance(row["image"], (str, Path)) else str(number)
    taken = {EMBEDDING, EXTRA} & row.keys()
    if taken:
        raise GalleryError(f"the column {taken.pop()!r} is the gallery's own: give yours another name")
    return Entry(
        id=str(write_label("id", name)),
        image=image,
        person_id=write_label("person_id", row.get("person_id")),
        camera_id=write_label("camera_id", row.get("camera_id")),
        track_id=write_label("track_id", row.get("track_id")),
        time=seconds("time", row.get("time")),
        box=write_box(row.get("box")),
        row={str(key): value for key, value in row.items() if key not in _MEANINGFUL and value is not None},
    )


def _stored_image(image: Any) -> dict[str, Any]:
    if isinstance(image, (str, Path)):
        return {"bytes": None, "path": os.path.abspath(image)}  # noqa: PTH100
    if isinstance(image, (bytes, bytearray)):
        return {"bytes": bytes(image), "path": None}
    if isinstance(image, Mapping) and {"bytes", "path"} & image.keys():
        return {"bytes": image.get("bytes"), "path": image.get("path")}
    return {"bytes": encode_png(as_picture(image)), "path": None}


def as_picture(image: Any) -> PIL.Image.Image:
    """Convert a Pillow image or an array to a Pillow image in RGB. Raises `GalleryError` for anything else."""
    if isinstance(image, PIL.Image.Image):
        return image.convert("RGB")
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3) and image.size:
        try:
            return PIL.Image.fromarray(image).convert("RGB")
        except TypeError:
            pass
    kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else shown(image)
    raise GalleryError(f"image: expected a file, a Pillow image or an array (H, W, 3) of uint8, received {kind}")


def load_picture(image: Any) -> PIL.Image.Image:
    """Load a query's picture, upright and in RGB. Raises `GalleryError` naming a file that cannot be read."""
    if not isinstance(image, (str, Path, bytes, bytearray, Mapping)):
        return as_picture(image)
    return decode(_stored_image(image), str(image) if isinstance(image, (str, Path)) else "the picture")


def decode(image: Mapping[str, Any], name: str) -> PIL.Image.Image:
    """A stored picture in RGB, upright. Raises `GalleryError`."""
    from mmet.data.decoding import DECODE_ERRORS, decode_rgb

    try:
        return PIL.Image.fromarray(decode_rgb(dict(image)))
    except DECODE_ERRORS as error:
        raise GalleryError(f"cannot read image {name}: {error}") from error


def encode_png(picture: PIL.Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def chunks(entries: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Entries in runs of at most `size`."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
