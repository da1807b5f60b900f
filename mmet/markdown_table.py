"""Markdown tables whose columns are aligned, for files and for the console.

print(align_table(("system", "mAP"), [("model", "28.3")], num_text_columns=1))
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

UNSHOWN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of what breaks a line, a table or an encoding."""


def plain_text(text: str) -> str:
    """`text` in one line that can be shown anywhere: no control characters, line ends or halves of surrogates."""
    return "".join("\ufffd" if unicodedata.category(character) in UNSHOWN else character for character in text)


def align_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_text_columns: int) -> str:
    """A Markdown table; the first columns are text and flush left, the others are numbers and flush right.

    A pipe in a cell is written `\\|`, which shows as one and ends no cell.
    """
    rows = [[plain_text(cell).replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rules = ["-" * w if c < num_text_columns else "-" * (w - 1) + ":" for c, w in enumerate(widths)]
    return "\n".join(_aligned(row, widths, num_text_columns) for row in (header, rules, *rows)) + "\n"


def _aligned(cells: Sequence[str], widths: Sequence[int], num_text_columns: int) -> str:
    padded = [
        cell.ljust(width) if column < num_text_columns else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"
