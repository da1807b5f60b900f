"""Check whether pictures can be used, for every file of a dataset, without fully decoding them all.

A picture may be cut short, lead out of the folder by a link, or claim a billion pixels. The readers count the defects.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from tqdm import tqdm

from mmet.data.defects import Defect, DefectKind
from pictures_mmet import IMAGE_FORMATS, MAX_IMAGE_PIXELS, open_picture, png_has_all_rows, read_rgb

_CHUNK = 512  # pictures a thread takes at once, so that queueing costs nothing beside the check itself
_READ_AT_ONCE_BYTES = 2**18
_SIGNATURES = (b"BM", b"GIF8", b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*")
_DAMAGED = Defect(DefectKind.DAMAGED, "truncated or damaged picture")
_DAMAGED_INSIDE = Defect(DefectKind.DAMAGED, "damaged inside")
_PNG_LAST_CHUNK = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_SCAN_START, _JPEG_END = b"\xff\xda", b"\xff\xd9"  # neither can occur within a scan's compressed data


def find_defects(
    root: Path, paths: Sequence[Path], *, max_pixels: int = MAX_IMAGE_PIXELS, workers: int = 4
) -> dict[Path, Defect]:
    """Examine pictures below `root` in a thread pool and name what is wrong with the unusable ones.

    Args:
        root: the dataset folder. A folder directly in it may be a link (pictures often live on another disk);
            below that no link may lead out.
        paths: pictures to examine.
        max_pixels: largest width times height accepted.
        workers: number of threads, which hide the latency of slow disks; from memory, one is as fast.

    Returns:
        path -> defect, for the unusable ones alone.
    """
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    return _examine(lambda chunk: dict(_chunk_defects(root, chunk, max_pixels)), chunks, "checking pictures", workers)


def find_undecodable(
    paths: Sequence[Path], *, content_of: Callable[[Path], Path | bytes] = lambda path: path, workers: int = 4
) -> dict[Path, Defect]:
    """Decode pictures that `find_defects` accepted. Takes as long as reading them for training once does.

    Args:
        paths: pictures to decode.
        content_of: returns the bytes of a file that does not lie under its own name, as `ReidFolder.content_of` does.
        workers: number of threads.

    Returns:
        path -> defect, for the pictures that cannot be decoded.
    """
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    return _examine(lambda chunk: dict(_undecodable(chunk, content_of)), chunks, "decoding pictures", workers)


def find_content_defects(contents: Mapping[Path, Callable[[], bytes]], *, workers: int = 4) -> dict[Path, Defect]:
    """Examine pictures whose files lie in memory or in shards as `find_defects` does; path -> defect."""
    paths = list(contents)
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]

    def look(chunk: Sequence[Path]) -> dict[Path, Defect]:
        defects = ((path, _content_defect(io.BytesIO(contents[path]()), MAX_IMAGE_PIXELS)) for path in chunk)
        return {path: defect for path, defect in defects if defect}

    return _examine(look, chunks, "checking pictures", workers)


def _undecodable(paths: Iterable[Path], content_of: Callable[[Path], Path | bytes]) -> Iterator[tuple[Path, Defect]]:
    for path in paths:
        try:
            read_rgb(content_of(path))
        except Exception as error:  # as in `_content_defect`
            yield path, Defect(DefectKind.DAMAGED, f"damaged inside ({type(error).__name__})")


def _examine(
    look: Callable[[Sequence[Path]], dict[Path, Defect]], chunks: Sequence[Sequence[Path]], what: str, workers: int
) -> dict[Path, Defect]:
    """Run `look` on all chunks in threads, with a progress bar, and merge the defects."""
    defects: dict[Path, Defect] = {}
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=sum(map(len, chunks)), desc=what, unit="file", disable=None, delay=2, leave=False) as progress,
    ):
        for chunk, of_chunk in zip(chunks, pool.map(look, chunks), strict=True):
            defects.update(of_chunk)
            progress.update(len(chunk))
    return defects


def _chunk_defects(root: Path, paths: Sequence[Path], max_pixels: int) -> Iterator[tuple[Path, Defect]]:
    links = find_outside_links(root, paths)
    yield from links.items()
    for path in paths:
        if path not in links and (defect := image_defect(path, max_pixels=max_pixels)):
            yield path, defect


def find_outside_links(root: Path, paths: Iterable[Path]) -> dict[Path, Defect]:
    """Find pictures that links lead out of the dataset folder, without opening any; path -> defect."""
    outside: dict[Path, Defect] = {}
    folder_leads_out: dict[Path, bool] = {}
    for path in paths:
        first, *rest = path.relative_to(root).parts
        anchor = root / first if rest else root
        if path.parent not in folder_leads_out:
            folder_leads_out[path.parent] = _leads_out(path.parent, anchor)
        if folder_leads_out[path.parent] or (path.is_symlink() and _leads_out(path, anchor)):
            outside[path] = Defect(DefectKind.LINK_LEADS_OUT, "link leads out of the dataset folder")
    return outside


def _leads_out(path: Path, anchor: Path) -> bool:
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(anchor))


def image_defect(path: Path, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Defect | None:
    """Return why a picture cannot be used, or None.

    Reads the header and the last bytes. A JPEG or PNG that ends as its format prescribes counts as whole; others
    are decoded. Then a JPEG is decoded at an eighth of its size; for a PNG, checksums are compared and inflated bytes
    counted. Files of the other, rarer formats are decoded. So training can decode every accepted picture. A JPEG whose
    colours are wrong from some point on is accepted, as decoders accept it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Defect(DefectKind.NO_FILE, "not a regular file")
        if status.st_size == 0:
            return Defect(DefectKind.EMPTY_FILE, "empty file")
        with path.open("rb", buffering=0) as file:
            # Parsing out of memory keeps threads from handing the interpreter over at each of a header's many reads.
            small = status.st_size <= _READ_AT_ONCE_BYTES
            return _content_defect(io.BytesIO(file.read()) if small else io.BufferedReader(file), max_pixels)
    except FileNotFoundError:
        whole_folder = "" if path.parent.is_dir() else f", its whole folder {path.parent.name}/ is not there"
        return Defect(DefectKind.MISSING, f"missing{whole_folder}")
    except OSError as error:
        return Defect(DefectKind.UNREADABLE, f"cannot be read ({error.strerror or error})")


def _content_defect(file: BinaryIO, max_pixels: int) -> Defect | None:
    try:
        image = Image.open(file, formats=IMAGE_FORMATS)
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Defect(DefectKind.TOO_LARGE, f"more than {max_pixels:,} pixels")
    except Exception:  # decoders meet hostile bytes with errors of many kinds; each means the same to the user
        file.seek(0)
        head = file.read(12)
        is_webp = head.startswith(b"RIFF") and b"WEBP".startswith(head[8:])
        if is_webp or head.startswith(_SIGNATURES):
            return _DAMAGED
        return Defect(DefectKind.NO_PICTURE, "not a readable picture (BMP, GIF, JPEG, PNG, TIFF or WebP)")
    if width * height > max_pixels:
        return Defect(DefectKind.TOO_LARGE, f"more than {max_pixels:,} pixels")
    if image.format not in ("JPEG", "MPO", "PNG"):
        return _decoding_defect(file)
    if not (_ends_properly(file, image.format) or _is_whole(file, image.format)):
        return _DAMAGED
    if image.format == "PNG":
        return _png_defect(file, image)
    return None if _can_be_decoded(image) else _DAMAGED_INSIDE


def _can_be_decoded(image: Image.Image) -> bool:
    """Decode a JPEG at an eighth of its size, which finds whatever stops a decoder."""
    try:
        image.draft("L", (1, 1))
        image.load()
    except Exception:  # as above
        return False
    return True


def _png_defect(file: BinaryIO, image: Image.Image) -> Defect | None:
    """Compare the checksums and count the rows, which decoders show black where they are missing."""
    try:
        image.verify()
    except Exception:  # as above
        return _DAMAGED_INSIDE
    return None if png_has_all_rows(file) else Defect(DefectKind.DAMAGED, "damaged inside: rows are missing")


def _decoding_defect(file: BinaryIO) -> Defect | None:
    """Decode a picture whole."""
    file.seek(0)
    try:
        read_rgb(open_picture(file))
    except ValueError as error:
        return Defect(DefectKind.PIXELS, f"its pixels cannot be read: {error}")
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
    """Examine the whole file. Decoding is not enough: decoders fill the missing part with zeros."""
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
