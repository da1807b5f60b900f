"""Annotation files: JSON and CSV with errors that name file, line and field, and caption files of several shapes.

`read_captions` reads JSON, JSON lines or CSV that pairs an image name with one sentence or several. It accepts
several formats because that of FineGPR-C's captions is not documented.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmet import whole_files
from mmet.data.defects import Defect, DefectKind
from mmet.data.paths import is_text, read_bytes
from mmet.data.schema import DatasetError

IMAGE_FIELDS = ("image", "image_name", "file_path", "file_name", "img_path")
CAPTION_FIELDS = ("caption", "captions", "text", "sentence", "sentences")

T = TypeVar("T")

_NUMBER = re.compile(r"[+-]?[0-9]{1,4000}")
_NO_VALUES = frozenset({"nan", "none", "null", "n/a", "inf", "infinity"})
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark; the mark is dropped.

    Raises:
        DatasetError: the file is not text, is refused by `read_bytes`, or cannot be read.
    """
    try:
        content = read_bytes(path)
        return content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise DatasetError(
            f"{path}: not UTF-8 text (byte {error.start:,} on line {line}: {error.reason}); save the file as UTF-8"
        ) from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error


def parse_json(text: str, path: Path, first_line: int | None = None) -> Any:
    """Parse JSON that starts on line `first_line` of `path`, or is all of it. Raises `DatasetError` with the place."""
    try:
        return whole_files.parse_json(text)
    except json.JSONDecodeError as error:
        line = (first_line or 1) + error.lineno - 1
        raise DatasetError(f"{path}: line {line}, column {error.colno}: not valid JSON ({error.msg})") from error
    except ValueError as error:  # nested too deep, a key given twice, numbers of thousands of digits
        place = "" if first_line is None else f"line {first_line}: "
        raise DatasetError(f"{path}: {place}{error}") from error


@dataclass(frozen=True, slots=True)
class AnnotationEntry:
    """One object of an annotation file. Reading a field checks its type.

    Attributes:
        path: the file.
        place: position in the file for messages ("entry 17", counted from 1).
        fields: the object's content.
    """

    path: Path
    place: str
    fields: dict[str, Any]

    def get(self, name: str, kind: type[T]) -> T:
        """Field `name`, which must be a `kind`. Raises `DatasetError` naming file, entry and field otherwise."""
        if name not in self.fields:
            raise self.error(f"has no field {name!r}; it has: {', '.join(map(repr, self.fields)) or 'none'}")
        value = self.fields[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(f"field {name!r} must be {_KIND_NAMES[kind]}, not {_shorten(value)}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise self.error(f"field {name!r} must fit into 64 bits, {_shorten(value)} does not")
        return value

    def get_strings(self, name: str) -> list[str]:
        """Field `name`, a list of strings."""
        values: list[Any] = self.get(name, list)
        for number, value in enumerate(values, start=1):
            if not isinstance(value, str):
                raise self.error(f"item {number} of field {name!r} must be text, not {_shorten(value)}")
        return values

    def get_sentences(self, name: str) -> list[str]:
        """Field `name`, one text or a list of them."""
        return [self.get(name, str)] if isinstance(self.fields.get(name), str) else self.get_strings(name)

    def get_number(self, name: str) -> int:
        """Field `name`, a whole number, possibly as text (as in CSV)."""
        value = self.get_id(name)
        return value if isinstance(value, int) else self.get(name, int)

    def get_id(self, name: str) -> int | str:
        """Field `name`, a whole number, possibly as text, or a word that names a person or camera."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            return self.get(name, int)
        try:
            return parse_id(value)
        except ValueError as error:
            raise self.error(f"field {name!r} {error}") from error

    def error(self, problem: str) -> DatasetError:
        """A `DatasetError` that begins with file and place."""
        return DatasetError(f"{self.path}: {self.place}: {problem}")


def parse_id(text: str) -> int | str:
    """Return the whole number in `text`, or else the word, without surrounding whitespace.

    >>> parse_id(" 0012 "), parse_id("alice")
    (12, 'alice')

    Raises:
        ValueError: the text is empty, a number that is not whole or exceeds 64 bits, or a mark for a missing value
            such as `nan`. The message continues "field 'person_id'".
    """
    word = text.strip()
    if _NUMBER.fullmatch(word):
        number = int(word)
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"must fit into 64 bits, {_shorten(word)} does not")
        return number
    is_word = any(map(str.isalpha, word)) and not _is_float(word) and is_text(word)
    if not is_word or word.lower() in _NO_VALUES:
        raise ValueError(f"must be a whole number or a word, not {_shorten(word)}")
    return word


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_KIND_NAMES: dict[type, str] = {int: "a whole number", str: "text", list: "a list", dict: "an object"}


def _shorten(value: Any, limit: int = 40) -> str:
    text = ascii(value)
    return text if len(text) <= limit else text[:limit] + "…"


def read_entries(path: Path) -> list[AnnotationEntry]:
    """Read a JSON file that is a list of objects. Raises `DatasetError` for any other content."""
    content = parse_json(read_text(path), path)
    if not isinstance(content, list):
        raise DatasetError(f"{path}: must be a list of objects, not {_shorten(content)}")
    return list(_entries(path, ((f"entry {number}", item) for number, item in enumerate(content, start=1))))


def _entries(path: Path, items: Iterable[tuple[str, Any]]) -> Iterator[AnnotationEntry]:
    for place, item in items:
        if not isinstance(item, dict):
            raise DatasetError(f"{path}: {place}: must be an object, not {_shorten(item)}")
        yield AnnotationEntry(path, place, item)


def clean_captions(captions: Iterable[str]) -> tuple[list[str], list[Defect]]:
    """Strip whitespace. Return the usable captions, and one defect for each other caption."""
    kept, defects = [], []
    for caption in captions:
        stripped = caption.strip()
        if not stripped:
            defects.append(Defect(DefectKind.EMPTY_CAPTION, "empty caption"))
        elif not is_text(stripped):
            defects.append(Defect(DefectKind.CAPTION_NOT_TEXT, "caption is not valid text"))
        else:
            kept.append(stripped)
    return kept, defects


def read_captions(path: Path) -> dict[str, list[str]]:
    """Read a caption file: image name as written in it -> its sentences in file order, uncleaned.

    Accepted, by suffix: `.json`, a list of objects or an object that maps image name to sentence(s); `.jsonl`, one
    object a line; `.csv`, with a header. Objects and headers name the image by one of `IMAGE_FIELDS` and the
    sentence(s) by one of `CAPTION_FIELDS`. Sentences of repeated images are collected; an image may have none.

    Raises:
        DatasetError: the file cannot be parsed, holds no sentence or lacks a field; names file and line or entry.
    """
    captions: dict[str, list[str]] = {}
    for entry in _caption_entries(path):
        image = entry.get(_fields_of(entry, IMAGE_FIELDS)[0], str)
        for field in _fields_of(entry, CAPTION_FIELDS):
            captions.setdefault(image, []).extend(entry.get_sentences(field))
    if not any(captions.values()):
        raise DatasetError(f"{path}: holds no captions")
    return captions


def _caption_entries(path: Path) -> Iterable[AnnotationEntry]:
    if path.suffix == ".csv":
        return read_csv_entries(path)
    if path.suffix == ".jsonl":
        return read_json_lines(path)
    content = parse_json(read_text(path), path)
    if isinstance(content, dict):
        # One object that maps names to sentences reads as the list of its pairs.
        pairs = content.items()
        return (
            AnnotationEntry(path, f"key {_shorten(name)}", {"image": name, "caption": value}) for name, value in pairs
        )
    if isinstance(content, list):
        return _entries(path, ((f"entry {number}", item) for number, item in enumerate(content, start=1)))
    raise DatasetError(f"{path}: must be a list of objects or an object, not {_shorten(content)}")


def read_json_lines(path: Path) -> Iterator[AnnotationEntry]:
    """Read a file with one JSON object per line. Raises `DatasetError` with file and line."""
    lines = ((number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip())
    return _entries(path, ((f"line {number}", parse_json(line, path, number)) for number, line in lines))


def read_csv_entries(path: Path) -> Iterator[AnnotationEntry]:
    """Read the rows of a CSV file with a header; all fields are text. Raises `DatasetError` with file and line."""
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = _read_header(path, next(rows, []))
        for row in rows:
            if not row:
                continue
            if len(row) > len(header):
                raise DatasetError(f"{path}: line {rows.line_num}: more values than the header has; quote commas")
            if len(row) < len(header):
                raise DatasetError(
                    f"{path}: line {rows.line_num}: has no field {header[len(row)]!r}: expected {len(header)} values, "
                    f"as the header has, received {len(row)}; leave a value empty, not out"
                )
            yield AnnotationEntry(path, f"line {rows.line_num}", dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise DatasetError(f"{path}: line {rows.line_num}: not valid CSV ({error})") from error


def _read_header(path: Path, header: list[str]) -> list[str]:
    """Return the stripped column names. Raises `DatasetError` for a duplicate."""
    names = [name.strip() for name in header]
    for name in names:
        if name and names.count(name) > 1:
            raise DatasetError(
                f"{path}: line 1: column {_shorten(name)} stands twice; rename or remove one of the two"
            )
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise DatasetError(f"{path}: line 1: columns are separated by {word}; expected commas")
    return names


def _fields_of(entry: AnnotationEntry, names: tuple[str, ...]) -> list[str]:
    """Return which of these fields the entry has. Raises `DatasetError` when it has none."""
    if fields := [name for name in names if name in entry.fields]:
        return fields
    raise entry.error(f"needs one of the fields {', '.join(names)}; it has: {', '.join(entry.fields) or 'none'}")


def find_misspelt(names: Iterable[str], known: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Find names that are probably misspelt: name -> the known name that is missing.

    >>> find_misspelt(["image", "persn_id"], {"image": (), "person_id": ("pid",)})
    {'persn_id': 'person_id'}

    Args:
        names: the columns or fields of a file.
        known: names that are read -> synonyms.
    """
    columns = list(names)
    absent = {_plain(name): name for name in known if name not in columns}
    absent |= {_plain(word): name for name in absent.values() for word in known[name]}
    likely = {}
    for name in columns:
        if name not in known and (near := difflib.get_close_matches(_plain(name), absent, n=1, cutoff=0.8)):
            likely[name] = absent[near[0]]
    return likely


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
