"""Names and paths in a dataset folder: listing, safe joining, and how they are shown.

A downloaded folder is untrusted: names may be malformed, and annotations may point elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from mmet.data.defects import Defect, DefectKind
from mmet.data.schema import DatasetError
from mmet.whole_files import read_regular_file

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes of picture files; their content may be any of `IMAGE_FORMATS`."""


MAX_TEXT_BYTES = 2**31
"""Largest annotation file accepted; the captions of two million pictures take about 0.6 GB."""

_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4_095  # of Linux, the most that common file systems take


class UnsafePathError(ValueError):
    """A path in an annotation is not a plain relative path; the message is the reason."""

    def __init__(self, kind: DefectKind, reason: str) -> None:
        super().__init__(reason)
        self.defect = Defect(kind, reason)


def is_hidden(name: str) -> bool:
    """Whether a file is a dot file, such as the `._*` shadows in archives from macOS."""
    return name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Entries of `folder` with a suffix of `IMAGE_SUFFIXES`, sorted by name; hidden files and others are ignored."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_hidden(entry.name)]
    return [folder / name for name in sorted(names) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]  # noqa: PTH122


def list_folders(folder: Path) -> list[Path]:
    """Visible sub-folders of `folder`, sorted by name, without links to itself or a folder above."""
    with os.scandir(folder) as entries:
        names = [entry for entry in entries if not is_hidden(entry.name) and _is_folder(entry)]
    return sorted(Path(entry.path) for entry in names if not (entry.is_symlink() and _leads_back(Path(entry.path))))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round and round
        return False


def _leads_back(link: Path) -> bool:
    return Path(os.path.realpath(link.parent)).is_relative_to(os.path.realpath(link))


def list_tree(folder: Path) -> tuple[list[Path], list[Path]]:
    """List all pictures in and below a folder, sorted within each folder, and the unreadable folders.

    Links to folders are followed only directly in `folder`.
    """
    pictures: list[Path] = []
    unreadable: list[Path] = []
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            pictures += list_images(place)
            below = list_folders(place)
        except OSError:  # without permission, or too deep to be named
            unreadable.append(place)
            continue
        waiting += reversed([entry for entry in below if place == folder or not os.path.islink(entry)])  # noqa: PTH114
    return pictures, unreadable


def read_bytes(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a regular file. Pipes and devices, which may never end, are not read.

    Raises:
        DatasetError: it is no regular file, or holds more than `max_bytes`.
        OSError: it cannot be read.
    """
    try:
        return read_regular_file(path, max_bytes)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error


def walk_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder in and below `folder` with the names of its files, all sorted; linked folders are not entered.

    As `os.walk`, which goes down by recursion in older versions of Python, and fails in folders a thousand deep.
    """
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:  # without permission, or too deep to be named
            continue
        yield place, [entry.name for entry in entries if not _is_folder(entry)]
        waiting += reversed([entry.path for entry in entries if _is_folder(entry) and not entry.is_symlink()])


def join_inside(base: Path, relative: str) -> Path:
    """Join a path read from an annotation to `base`, refusing any that could lead out of it.

    Backslashes count as separators, since annotations are also written on Windows. Links on disk are examined by
    `find_defects`, together with the picture itself.

    Raises:
        UnsafePathError: the path is empty, absolute, climbs with `..`, or cannot be a file name, such as a longer one
            than a file system takes.
    """
    path = PurePosixPath(relative.replace("\\", "/"))
    if not path.parts:
        raise UnsafePathError(DefectKind.EMPTY_PATH, "empty path")
    if path.is_absolute() or PureWindowsPath(relative).drive:
        raise UnsafePathError(DefectKind.ABSOLUTE_PATH, "absolute path")
    if ".." in path.parts:
        raise UnsafePathError(DefectKind.PATH, "path leaves the dataset folder")
    if "\0" in relative or not is_text(relative):
        raise UnsafePathError(DefectKind.PATH, "path is not a valid file name")
    joined = base.joinpath(*path.parts)
    if any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in path.parts):
        raise UnsafePathError(DefectKind.NAME_TOO_LONG, f"path holds a name of more than {_MAX_NAME_BYTES} bytes")
    if len(os.fsencode(joined)) > _MAX_PATH_BYTES:
        raise UnsafePathError(DefectKind.PATH_TOO_LONG, f"path has more than {_MAX_PATH_BYTES:,} bytes")
    return joined


def is_text(value: str) -> bool:
    """Whether a string can be stored as UTF-8 (broken file names and JSON escapes can hold lone surrogates)."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def layout_error(
    title: str, root: Path, looked_for: Sequence[str], expected_tree: str, advice: str = ""
) -> DatasetError:
    """Make the error for a folder that is not the dataset: what is missing, what exists and what is expected."""
    lines = [f"{root} does not hold {title}: found no {' and no '.join(looked_for)}.", describe_folder(root)]
    if advice:
        lines.append(advice)
    lines.append(f"Expected:\n{expected_tree.rstrip()}")
    return DatasetError("\n".join(lines))


def describe_folder(folder: Path, limit: int = 8) -> str:
    """One line naming the first `limit` entries of a folder."""
    with os.scandir(folder) as entries:
        names = sorted(display(entry.name) + ("/" if entry.is_dir() else "") for entry in entries)
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"It holds: {', '.join(names[:limit]) or 'nothing'}{more}."


def display(name: str) -> str:
    r"""Escape unprintable characters, so that any file name prints on one line.

    >>> print(display("two\nlines.jpg"))
    two\nlines.jpg
    """
    if name.isprintable():
        return name
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in name
    )


def shorten(name: str, limit: int = 200) -> str:
    """Shorten a long name to its beginning and end.

    >>> shorten("0123456789", limit=4)
    '01…89'
    """
    return name if len(name) <= limit else f"{name[: limit // 2]}…{name[-limit // 2 :]}"
