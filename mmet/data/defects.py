"""Defects of a file or an annotation: a kind for programs, and a reason for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class DefectKind(Enum):
    """Kinds of defects; `mmet.data.diagnosis.FIXES` says how to fix each."""

    ABSOLUTE_PATH = auto()
    CAPTION_NOT_TEXT = auto()
    CAPTION_WITHOUT_PICTURE = auto()
    CONTRADICTION = auto()
    DAMAGED = auto()
    EMPTY_CAPTION = auto()
    EMPTY_FILE = auto()
    EMPTY_PATH = auto()
    FOLDER_CLOSED = auto()
    LINK_LEADS_OUT = auto()
    LISTED_TWICE = auto()
    MASK = auto()
    MASK_WITHOUT_PICTURE = auto()
    MISSING = auto()
    NAME = auto()
    NAME_NOT_TEXT = auto()
    NAME_TOO_LONG = auto()
    NAME_TWICE = auto()
    NO_ATTRIBUTES = auto()
    NO_FILE = auto()
    NO_PICTURE = auto()
    PATH = auto()
    PATH_TOO_LONG = auto()
    PATTERN = auto()
    PIXELS = auto()
    TOO_LARGE = auto()
    UNREADABLE = auto()


@dataclass(frozen=True, slots=True)
class Defect:
    """
    Why a file or annotation is left out.

    Attributes:
        kind: what is wrong.
        reason: the same for people, in a few words; left-out files are counted by it.
    """

    kind: DefectKind
    reason: str

    def __str__(self) -> str:
        return self.reason

    def of_mask(self) -> Defect:
        """Return this defect for a mask, without which its picture can still be used."""
        return Defect(DefectKind.MASK, f"mask: {self.reason}")
