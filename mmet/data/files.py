"""Files of a dataset folder: listing, safe joining, and a check of pictures short of decoding them whole.

Everything here treats a downloaded folder as untrusted: names may be malformed, annotations may point elsewhere, a
picture may be cut short or claim a billion pixels. Functions return reasons as text; the readers count them.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from PIL import Image
from tqdm import tqdm

from mmet.data.schema import DatasetError
from mmet.whole_files import read_regular_file
from processing_mmet import IMAGE_FORMATS, MAX_IMAGE_PIXELS, open_picture, png_has_all_rows, read_rgb

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes of the files that are taken for pictures; what is in them may be any of `IMAGE_FORMATS`."""

_CHUNK = 512  # pictures a thread takes at once, so that queueing costs nothing beside the check itself
_READ_AT_ONCE_BYTES = 2**18
_SIGNATURES = (b"BM", b"GIF8", b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*")
_DAMAGED = "truncated or damaged picture"
_PNG_LAST_CHUNK = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_SCAN_START, _JPEG_END = b"\xff\xda", b"\xff\xd9"  # neither can occur within a scan's compressed data


MAX_TEXT_BYTES = 2**31
"""Largest annotation file accepted; the captions of two million pictures have some 0.6 GB."""

_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4_095  # of Linux, the most that common file systems take


class UnsafePathError(ValueError):
    """A path written in an annotation is not a plain relative path; the message is the reason in a few words."""


def is_hidden(name: str) -> bool:
    """Whether a file is none of the dataset's: dot files, among them the `._*` shadows that macOS archives carry."""
    return name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Entries of `folder` with a suffix of `IMAGE_SUFFIXES`, sorted by name; hidden files and others are ignored."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_hidden(entry.name)]
    return [folder / name for name in sorted(names) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]  # noqa: PTH122


def list_folders(folder: Path) -> list[Path]:
    """Sub-folders of `folder` that are not hidden, sorted by name; without links to itself or to a folder above."""
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
    """All pictures in and below a folder, sorted within each; and the folders that could not be looked into.

    Linked folders are entered directly in `folder` alone.
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
        waiting += reversed([one for one in below if place == folder or not os.path.islink(one)])  # noqa: PTH114
    return pictures, unreadable


def walk_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder in and below `folder` with the names of its files, all sorted; linked folders are not entered.

    As `os.walk`, which goes down by recursion in older versions of Python, and fails in folders a thousand deep.
    """
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:  # without permission, or too deep to be named
            continue
        yield place, [entry.name for entry in entries if not _is_folder(entry)]
        waiting += reversed([entry.path for entry in entries if _is_folder(entry) and not entry.is_symlink()])


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


def join_inside(base: Path, relative: str) -> Path:
    """Join a path read from an annotation to `base`, refusing whatever could lead out of it.

    Backslashes count as separators, since annotations are also written on Windows. Links on disk are examined by
    `find_defects`, together with the picture itself.

    Raises:
        UnsafePathError: the path is empty, absolute, climbs with `..`, or cannot be a file name, such as a longer one
            than a file system takes.
    """
    path = PurePosixPath(relative.replace("\\", "/"))
    if not path.parts:
        raise UnsafePathError("empty path")
    if path.is_absolute() or PureWindowsPath(relative).drive:
        raise UnsafePathError("absolute path")
    if ".." in path.parts:
        raise UnsafePathError("path leaves the dataset folder")
    if "\0" in relative or not is_text(relative):
        raise UnsafePathError("path is no valid file name")
    joined = base.joinpath(*path.parts)
    if any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in path.parts):
        raise UnsafePathError(f"path holds a name of more than {_MAX_NAME_BYTES} bytes")
    if len(os.fsencode(joined)) > _MAX_PATH_BYTES:
        raise UnsafePathError(f"path has more than {_MAX_PATH_BYTES:,} bytes")
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
    """The error for a folder that is not the dataset: what was looked for, what is there, what should be there."""
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
    """A file name that can be printed anywhere on one line, whatever bytes it was made of."""
    if name.isprintable():
        return name
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in name
    )


def shorten(name: str, limit: int = 200) -> str:
    """A name as it can be shown among others: its beginning and its end."""
    return name if len(name) <= limit else f"{name[: limit // 2]}…{name[-limit // 2 :]}"


def find_defects(
    root: Path, paths: Sequence[Path], *, max_pixels: int = MAX_IMAGE_PIXELS, workers: int = 4
) -> dict[Path, str]:
    """Examine pictures below `root` in a thread pool and name what is wrong with the unusable ones.

    Args:
        root: the dataset folder. A folder directly in it may be a link (pictures often live on another disk);
            below that no link may lead out.
        paths: pictures to examine.
        max_pixels: largest width times height accepted.
        workers: threads. They hide the latency of slow disks; from memory one is as fast as many.

    Returns:
        path -> reason, for the unusable ones alone.
    """
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    return _examine(lambda chunk: dict(_chunk_defects(root, chunk, max_pixels)), chunks, "checking pictures", workers)


def find_undecodable(paths: Sequence[Path], *, workers: int = 4) -> dict[Path, str]:
    """Decode pictures that `find_defects` accepted; path -> reason for those that cannot be. Takes as long as reading
    them for training once does."""
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    return _examine(lambda chunk: dict(_undecodable(chunk)), chunks, "decoding pictures", workers)


def _undecodable(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        try:
            read_rgb(path)
        except Exception as error:  # as in `_content_defect`
            yield path, f"damaged inside ({type(error).__name__})"


def _examine(
    look: Callable[[Sequence[Path]], dict[Path, str]], chunks: Sequence[Sequence[Path]], what: str, workers: int
) -> dict[Path, str]:
    """What `look` finds in all chunks, looked at in threads, with progress."""
    defects: dict[Path, str] = {}
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=sum(map(len, chunks)), desc=what, unit="file", disable=None, delay=2, leave=False) as progress,
    ):
        for chunk, found in zip(chunks, pool.map(look, chunks), strict=True):
            defects.update(found)
            progress.update(len(chunk))
    return defects


def _chunk_defects(root: Path, paths: Iterable[Path], max_pixels: int) -> Iterator[tuple[Path, str]]:
    folder_leads_out: dict[Path, bool] = {}
    for path in paths:
        first, *rest = path.relative_to(root).parts
        anchor = root / first if rest else root
        if path.parent not in folder_leads_out:
            folder_leads_out[path.parent] = _leads_out(path.parent, anchor)
        if folder_leads_out[path.parent] or (path.is_symlink() and _leads_out(path, anchor)):
            yield path, "link leads out of the dataset folder"
        elif reason := image_defect(path, max_pixels=max_pixels):
            yield path, reason


def _leads_out(path: Path, anchor: Path) -> bool:
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(anchor))


def image_defect(path: Path, *, max_pixels: int = MAX_IMAGE_PIXELS) -> str | None:
    """Why a picture cannot be used, or None.

    Reads the header and the last bytes. A JPEG or PNG that ends as its format prescribes is taken to be whole; any
    other is decoded. Then a JPEG is decoded at an eighth of its size; of a PNG, checksums are compared and the bytes
    that its data inflates to are counted. Of the other formats, which are rare, each file is decoded. So training can
    decode what is accepted; a JPEG with wrong colours from some place on is accepted, as decoders accept it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_size == 0:
            return "empty file"
        with path.open("rb", buffering=0) as file:
            # Parsing out of memory keeps threads from handing the interpreter over at each of a header's many reads.
            small = status.st_size <= _READ_AT_ONCE_BYTES
            return _content_defect(io.BytesIO(file.read()) if small else io.BufferedReader(file), max_pixels)
    except FileNotFoundError:
        return "missing" if path.parent.is_dir() else f"missing, its whole folder {path.parent.name}/ is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _content_defect(file: BinaryIO, max_pixels: int) -> str | None:
    try:
        image = Image.open(file, formats=IMAGE_FORMATS)
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"more than {max_pixels:,} pixels"
    except Exception:  # decoders meet hostile bytes with errors of many kinds; each means the same to the user
        file.seek(0)
        head = file.read(12)
        is_webp = head.startswith(b"RIFF") and b"WEBP".startswith(head[8:])
        if is_webp or head.startswith(_SIGNATURES):
            return _DAMAGED
        return "not a readable picture (BMP, GIF, JPEG, PNG, TIFF or WebP)"
    if width * height > max_pixels:
        return f"more than {max_pixels:,} pixels"
    if image.format not in ("JPEG", "MPO", "PNG"):
        return _decoding_defect(file)
    if not (_ends_properly(file, image.format) or _is_whole(file, image.format)):
        return _DAMAGED
    if image.format == "PNG":
        return _png_defect(file, image)
    return None if _can_be_decoded(image) else "damaged inside"


def _can_be_decoded(image: Image.Image) -> bool:
    """Decode a JPEG at an eighth of its size, which meets whatever stops a decoder."""
    try:
        image.draft("L", (1, 1))
        image.load()
    except Exception:  # as above
        return False
    return True


def _png_defect(file: BinaryIO, image: Image.Image) -> str | None:
    """Compare the checksums and count the rows, which decoders show black where they are missing."""
    try:
        image.verify()
    except Exception:  # as above
        return "damaged inside"
    return None if png_has_all_rows(file) else "damaged inside: rows are missing"


def _decoding_defect(file: BinaryIO) -> str | None:
    """Decode a picture whole."""
    file.seek(0)
    try:
        read_rgb(open_picture(file))
    except ValueError as error:
        return f"its pixels cannot be read: {error}"
    except Exception:  # as above
        return _DAMAGED
    return None


def _ends_properly(file: BinaryIO, image_format: str | None) -> bool:
    file.seek(-min(len(_PNG_LAST_CHUNK), file.seek(0, os.SEEK_END)), os.SEEK_END)
    tail = file.read()
    if image_format == "PNG":
        return tail == _PNG_LAST_CHUNK
    return tail.endswith(_JPEG_END)


def _is_whole(file: BinaryIO, image_format: str | None) -> bool:
    """Examine the whole file. Decoding alone would not do: decoders take zeros for the missing part of a picture."""
    try:
        file.seek(0)
        Image.open(file, formats=IMAGE_FORMATS).verify()  # a PNG's chunks and their checksums; nothing for a JPEG
        file.seek(0)
        Image.open(file, formats=IMAGE_FORMATS).load()
    except Exception:  # as above
        return False
    file.seek(0)
    content = file.read()
    return image_format == "PNG" or content.rfind(_JPEG_END) > content.rfind(_JPEG_SCAN_START)
