"""Pictures that visitors upload: read within limits, and made into galleries that are deleted after the visit.

picture = read_picture(path)
gallery = OwnGallery.build([("a.jpg", "/tmp/a.jpg")], embedder, Path("/tmp/uploads"))
gallery.offered, gallery.skipped
gallery.delete()
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from mmet.app.catalogue import OfferedGallery
from mmet.app.requests import RequestError
from mmet.gallery import Gallery, GalleryError, Skipped
from mmet.gallery.embedding import Embedder
from mmet.gallery.labels import counted
from mmet.gallery.sources import decode
from mmet.markdown_table import plain_text
from mmet.serving.request_pictures import picture_size
from mmet.whole_files import read_regular_file

OWN_NAME = "My pictures"
"""Name of a visitor's own gallery on the page."""

MAX_FILE_BYTES = 20 * 2**20
"""Largest file of a picture, in bytes."""

MAX_PIXELS = 50_000_000
"""Most pixels of a picture: enough for a large photograph, too few for a decompression bomb."""

MAX_PICTURES = 500
"""Most pictures of a visitor's own gallery."""

_LONGEST_SIDE = 1_024


def read_picture(source: str | Path | bytes, name: str = "This file") -> PIL.Image.Image:
    """
    Read a visitor's picture, upright and in RGB, with sides of at most 1,024 pixels.

    Args:
        source: a file, or its content.
        name: name of the picture in messages.

    Raises:
        RequestError: the file cannot be read, is too large, or is no picture.
    """
    try:
        content = source if isinstance(source, bytes) else read_regular_file(Path(source), MAX_FILE_BYTES)
    except (OSError, ValueError):
        raise RequestError(f"{name} cannot be read, or is larger than {MAX_FILE_BYTES // 2**20} MB.") from None
    if len(content) > MAX_FILE_BYTES:
        raise RequestError(f"{name} is larger than {MAX_FILE_BYTES // 2**20} MB.")
    try:
        width, height = picture_size(content)
    except ValueError:
        raise RequestError(
            f"{name} is not a picture that can be read. Use JPEG, PNG, WebP or another common format."
        ) from None
    if width * height > MAX_PIXELS:
        raise RequestError(
            f"{name} has more than {MAX_PIXELS // 10**6} million pixels. Cut it to the person, or make it smaller."
        )
    try:
        picture = decode({"bytes": content, "path": None}, "")
    except GalleryError:
        raise RequestError(f"{name} is damaged: it begins like a picture but cannot be read to its end.") from None
    if max(picture.size) > _LONGEST_SIDE:
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), PIL.Image.Resampling.LANCZOS)
    return picture


@dataclass(eq=False)
class OwnGallery:
    """
    A visitor's own gallery, in a folder that `delete` removes.

    Attributes:
        offered: the gallery, named `OWN_NAME`.
        folder: folder of the gallery.
        skipped: pictures that could not be used.
    """

    offered: OfferedGallery
    folder: Path
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def build(cls, files: Sequence[tuple[str, str | Path]], embedder: Embedder, parent: Path) -> OwnGallery:
        """
        Embed pictures and build a gallery of them.

        Args:
            files: names and paths of the pictures.
            embedder: embedder of the page's galleries.
            parent: folder for the galleries of all visitors.

        Raises:
            RequestError: there are no pictures, too many, or none that can be read.
        """
        entries, skipped = read_entries(files)
        folder = Path(tempfile.mkdtemp(prefix="own-", dir=parent))
        try:
            gallery = Gallery.build(entries, folder / "gallery", model=embedder, num_workers=1)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(OfferedGallery(OWN_NAME, gallery), folder, (*skipped, *gallery.skipped))

    @property
    def description(self) -> str:
        """How many pictures it holds, and which were left out."""
        words = f"{counted(len(self.offered.gallery), 'picture')} can be searched."
        if self.skipped:
            names = ", ".join(plain_text(skip.name) for skip in self.skipped[:5])
            words += f" Left out, because they cannot be read as pictures: {names}"
            words += f" and {len(self.skipped) - 5} more." if len(self.skipped) > 5 else "."
        return words

    def delete(self) -> None:
        """Remove it and its pictures."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read_entries(files: Sequence[tuple[str, str | Path]]) -> tuple[list[dict[str, object]], list[Skipped]]:
    """Return rows for `Gallery.build` from the files that are pictures, and the other files as skipped.

    Raises:
        RequestError: there are no files, too many, or none that is a picture.
    """
    if not files:
        raise RequestError("Choose the pictures first: crops that show one person each.")
    if len(files) > MAX_PICTURES:
        raise RequestError(
            f"These are {len(files):,} pictures; at most {MAX_PICTURES} can be searched on the page. For more, build "
            "a gallery (mmet-gallery build)."
        )
    entries: list[dict[str, object]] = []
    skipped = []
    taken: set[str] = set()
    for name, path in files:
        try:
            picture = read_picture(path, name)
        except RequestError as error:
            skipped.append(Skipped(name, str(error)))
            continue
        entries.append({"id": _distinct(name, taken), "image": picture})
    if not entries:
        raise RequestError(f"None of these files is a picture that can be read. {skipped[0].reason}")
    return entries, skipped


def _distinct(name: str, taken: set[str]) -> str:
    name = plain_text(name).encode("utf-8", "replace").decode("utf-8")[:200] or "picture"
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name} ({number})", number + 1
    taken.add(candidate)
    return candidate
