"""Format search results as text: a table for the terminal, JSON and CSV for programs, and the verdict in words.

print(write_table(result))
print(describe_presence(result))
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mmet.gallery.labels import show_time
from mmet.gallery.results import Match, SearchResult
from mmet.markdown_table import align_table

LIKELY, UNLIKELY = 2 / 3, 1 / 3
"""From the first probability on, a person is probably there; up to the second, probably not; between, unknown."""

_NAMES = tuple(
    dict.fromkeys(["id", "score", "probability", *(field.name for field in fields(Match) if field.name != "image")])
)


def verdict(in_gallery: float) -> str:
    """Express the probability that the person is there in words."""
    if in_gallery >= LIKELY:
        return "Probably here"
    return "Probably not here" if in_gallery <= UNLIKELY else "Cannot tell whether the person is here"


def describe_presence(result: SearchResult) -> str:
    """State in a sentence whether the person is in the gallery; empty without a calibration."""
    if result.in_gallery is None:
        return ""
    rows = "the row that was" if result.searched == 1 else f"the {result.searched:,} rows that were"
    chance = percent(result.in_gallery)
    return f"{verdict(result.in_gallery)} ({chance}: the probability that this person is among {rows} searched)."


def percent(probability: float) -> str:
    """Format a probability in percent, never as 0 % or 100 %, which no calibration can promise."""
    if probability < 0.01:
        return "<1 %"
    return ">99 %" if probability > 0.99 else f"{100 * probability:.0f} %"


def write_table(result: SearchResult) -> str:
    """Write the matches as a Markdown table; columns without a value are left out."""
    texts = {
        "id": [match.id for match in result],
        "person": [_word(match.person_id) for match in result],
        "camera": [_word(match.camera_id) for match in result],
        "track": [_word(match.track_id) for match in result],
        "time": [show_time(match.time) for match in result],
    }
    texts = {name: values for name, values in texts.items() if any(values)}
    numbers = {"score": [f"{match.score:.3f}" for match in result]}
    if any(match.probability is not None for match in result):
        numbers["probability"] = ["" if m.probability is None else percent(m.probability) for m in result]
    ranks = [str(number) for number in range(1, len(result) + 1)]
    columns = {"#": ranks, **texts, **numbers}
    rows = list(zip(*columns.values(), strict=True))
    return align_table(list(columns), rows, num_text_columns=1 + len(texts)).removesuffix("\n")


def write_json(result: SearchResult, *, indent: int | None = 1) -> str:
    """Write the whole result as JSON, without pictures that the gallery holds."""
    answer = {
        "in_gallery": result.in_gallery,
        "searched": result.searched,
        "notes": list(result.notes),
        "matches": [{"rank": number, **_fields(match)} for number, match in enumerate(result, 1)],
    }
    return json.dumps(answer, indent=indent, ensure_ascii=False, default=str)


def write_csv(result: SearchResult) -> str:
    """Write one match per line as CSV; the user's own columns are named `row.…`."""
    rows = []
    for number, match in enumerate(result, 1):
        columns = _fields(match)
        user_row: Mapping[str, Any] = columns.pop("row")
        rows.append({"rank": number, **columns, **{f"row.{name}": value for name, value in user_row.items()}})
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["rank", "id", "score"]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().removesuffix("\n")


def _fields(match: Match) -> dict[str, Any]:
    return {name: getattr(match, name) for name in _NAMES}


def _word(label: int | str | None) -> str:
    return "" if label is None else str(label)
