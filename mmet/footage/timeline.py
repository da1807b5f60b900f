"""When and on which camera a person was seen: a table in order of time, and a picture of it.

python -m mmet.footage timeline people --text "a woman in a red jacket" --figure timeline.png
python -m mmet.footage timeline people --person monday/gate-0003 --min_score 0.6

In the picture, each camera has a line and each sighting a bar from the track's start to its end, darker for a higher
score. The numbers on the bars are those of the table and of the crops below.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageOps

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command, show_results
from mmet.field_checks import SHARE_RANGE, Range, number_type
from mmet.figure_style import LIGHT
from mmet.footage.searching import Sighting, find_sightings, rows_of
from mmet.gallery import Gallery, GalleryError
from mmet.gallery.command import add_model, add_place_and_time, add_query, read_period
from mmet.gallery.labels import counted, show_time
from mmet.gallery.listing import percent
from mmet.gallery.sources import load_picture
from mmet.markdown_table import align_table
from mmet.report.drawing import Drawing
from mmet.starting import program_name
from mmet.whole_files import write_whole

SUBCOMMAND = "timeline"
PROGRAM = f"{program_name('python -m mmet.footage')} {SUBCOMMAND}"

_MAX_SIGHTINGS = 200
_MAX_EMPTY_LINES = 12
"""Up to this number of cameras, those that have not seen the person also get a line."""

_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400)
"""Seconds between the marks of the axis; whole days above."""

_WIDTH, _MARGIN, _LEFT = 1000, 24, 150
_CROP, _GAP = (64, 128), 12
_LINE = 26
_BORDER = "#f1f4f7"


def main(argv: Sequence[str]) -> int:
    """Print and draw the timeline of a command line; returns the exit code, 2 for bad input."""
    parser = build_parser()
    return run_command(parser.prog, lambda _: run(parser.parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog=PROGRAM, description="When and on which camera a person was seen.")
    parser.add_argument("gallery", metavar="GALLERY", help="crops with times and cameras")
    query = parser.add_argument_group("the person (a name in the gallery, or a sentence, an image, or both)")
    query.add_argument("--person", metavar="NAME", help="a crop's id, a track or a person_id of the gallery")
    add_query(query)
    answer = parser.add_argument_group("which tracks count as sightings")
    number = number_type(int, Range(at_least=1, at_most=_MAX_SIGHTINGS))
    answer.add_argument("-k", type=number, default=10, metavar="N", help="largest number of tracks (%(default)s)")
    answer.add_argument("--min_score", type=number_type(float, Range(at_least=-1, at_most=1)), metavar="X")
    answer.add_argument("--min_probability", type=number_type(float, SHARE_RANGE), metavar="X")
    add_place_and_time(answer)
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw it")
    add_model(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Find the sightings, print them and draw them."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if (options.person is None) == (options.text is None and options.image is None):
        raise GalleryError("whom to look for: say --person NAME, or instead --text SENTENCE, --image FILE or both")
    if options.figure is not None and (options.figure.suffix.lower() != ".png" or options.figure.is_dir()):
        raise GalleryError(f"--figure: expected a file name that ends with .png, received {options.figure}")
    period = read_period(options)
    gallery = Gallery.open(options.gallery, model=options.model, backend=options.backend)
    sightings = find_sightings(
        gallery,
        filters={"camera_id": options.camera, "time": period},
        **{name: getattr(options, name) for name in ("person", "text", "image", "k", "min_score", "min_probability")},
    )
    if not sightings:
        show_results("", f"{options.gallery}: no track passes the filters and the least score")
        return
    saved = describe(sightings)
    if options.figure is not None:
        pictures = options.image or [] if options.person is None else rows_of(gallery, options.person)
        images = [load_picture(p) if isinstance(p, str) else p.open_image() for p in pictures[:4]]
        title = " and ".join(filter(None, [options.person or options.text, *map(_file_name, options.image or [])]))
        cameras = options.camera or gallery.cameras
        write_whole(options.figure, draw_timeline(sightings, title=title, images=images, cameras=cameras))
        saved += f"\nTimeline: {options.figure}"
    show_results(write_sightings(sightings), saved)


def _file_name(path: str) -> str:
    return Path(path).name


# -- words ----------------------------------------------------------------------------------------------------------


def write_sightings(sightings: Sequence[Sighting]) -> str:
    """Write the sightings as a Markdown table, in order of time."""
    names = ["#", "from", "to", "camera", "track", "best crop", "score"]
    rows = [
        [
            str(number),
            *map(show_time, (seen.start, seen.end)),
            *map(_word, (seen.camera_id, seen.track_id)),
            seen.best.id,
            f"{seen.score:.3f}",
        ]
        for number, seen in enumerate(sightings, 1)
    ]
    if any(seen.probability is not None for seen in sightings):
        names.append("probability")
        for row, seen in zip(rows, sightings, strict=True):
            row.append("" if seen.probability is None else percent(seen.probability))
    return align_table(names, rows, num_text_columns=6).removesuffix("\n")


def describe(sightings: Sequence[Sighting]) -> str:
    """State how often the person was seen on each camera, in order of the first sighting."""
    cameras = [str(seen.camera_id) for seen in sightings]
    parts = [f"{cameras.count(camera)} on {camera}" for camera in dict.fromkeys(cameras)]
    return f"{counted(len(sightings), 'sighting')}: {', '.join(parts)}"


def _word(label: int | str | None) -> str:
    return "" if label is None else str(label)


# -- picture --------------------------------------------------------------------------------------------------------


def draw_timeline(
    sightings: Sequence[Sighting],
    *,
    title: str,
    images: Sequence[PIL.Image.Image] = (),
    cameras: Sequence[Any] = (),
) -> bytes:
    """
    The picture as the bytes of a PNG file.

    Args:
        sightings: at least one, in the order of time.
        title: description of the person.
        images: pictures of the person.
        cameras: the searched cameras; if there are many, those without a sighting are left out.
    """
    lines = _lines(sightings, cameras)
    per_row = (_WIDTH - 2 * _MARGIN + _GAP) // (_CROP[0] + _GAP)
    top = _MARGIN + (_CROP[1] if images else 48) + 16
    lanes = sum(len(rows) for rows in lines.values()) * _LINE
    crops_top = top + lanes + 44
    height = crops_top + math.ceil(len(sightings) / per_row) * (_CROP[1] + 52) + _MARGIN - 12
    drawing = Drawing(_WIDTH, height, LIGHT)
    left = _MARGIN
    for image in images:
        drawing.picture(left, _MARGIN, *_CROP, _whole(image))
        left += _CROP[0] + 6
    left += 12 if images else 0
    drawing.text(left, _MARGIN, _short(title, (_WIDTH - left) // 10), size=17, bold=True)
    drawing.text(left, _MARGIN + 26, describe(sightings), size=11, color=LIGHT.muted)
    _draw_lines(drawing, top, lanes, lines, sightings)
    for place, seen in enumerate(sightings):
        x = _MARGIN + place % per_row * (_CROP[0] + _GAP)
        _draw_crop(drawing, x, crops_top + place // per_row * (_CROP[1] + 52), place + 1, seen)
    return drawing.png()


def _lines(sightings: Sequence[Sighting], cameras: Sequence[Any]) -> dict[str, list[list[int]]]:
    """Of each camera its rows of bars, each with the places of its sightings; one row, empty, where there is none."""
    names = dict.fromkeys(map(str, cameras)) if len(cameras) <= _MAX_EMPTY_LINES else {}
    places: dict[str, list[int]] = {name: [] for name in names}
    for place, seen in enumerate(sightings):
        places.setdefault(str(seen.camera_id), []).append(place)
    return {
        name: stack_rows([(sightings[p].start, sightings[p].end) for p in numbers], numbers)
        for name, numbers in places.items()
    }


def stack_rows(intervals: Sequence[tuple[float, float]], names: Sequence[int]) -> list[list[int]]:
    """
    Put intervals `(start, end)`, sorted by start, into rows in which none overlap another: as few rows as can be, at
    least one. Returns the names in each row.
    """
    rows: list[list[int]] = []
    ends: list[float] = []
    for (start, end), name in zip(intervals, names, strict=True):
        row = next((row for row, last in enumerate(ends) if last < start), len(rows))
        if row == len(rows):
            rows.append([])
            ends.append(end)
        rows[row].append(name)
        ends[row] = end
    return rows or [[]]


def axis_marks(start: float, end: float, *, most: int = 6) -> list[float]:
    """Moments for the marks of an axis, at most `most`, at whole seconds, minutes, hours or days."""
    days = max(1, math.ceil((end - start) / 86_400 / (most - 1)))
    step = next((step for step in _STEPS if (end - start) / step <= most - 1), 86_400 * days)
    first = math.ceil(start / step) * step
    return [float(first + number * step) for number in range(int((end - first) // step) + 1)]


def _draw_lines(
    drawing: Drawing, top: float, height: float, lines: dict[str, list[list[int]]], sightings: Sequence[Sighting]
) -> None:
    """The bars of all cameras over a common time."""
    start, end = min(seen.start for seen in sightings), max(seen.end for seen in sightings)
    margin = max(0.02 * (end - start), 0.5)
    ax = drawing.axes(_LEFT, top, _WIDTH - _LEFT - _MARGIN, height)
    ax.set(xlim=(start - margin, end + margin), ylim=(height, 0), yticks=[])
    marks = axis_marks(start - margin, end + margin)
    ax.set_xticks(marks, [show_time(mark) for mark in marks])
    scores = np.array([seen.score for seen in sightings])
    strength = 0.35 + 0.65 * (scores - scores.min()) / max(float(np.ptp(scores)), 1e-9)
    y = 0.0
    for name, rows in lines.items():
        middle = y + len(rows) * _LINE / 2
        drawing.text(_LEFT - 12, top + middle - 8, _short(name, 18), size=11, align="right")
        for row in rows:
            for place in row:
                seen = sightings[place]
                length = max(seen.end - seen.start, 0.004 * (end - start + 2 * margin))
                ax.barh(
                    y + _LINE / 2, length, 16, seen.start, color=drawing.theme.accent, alpha=float(strength[place])
                )
                ax.annotate(
                    str(place + 1), (seen.start, y + _LINE / 2), (4, 0), textcoords="offset points", va="center",
                    fontsize=10, fontweight="bold", color="#ffffff" if strength[place] > 0.6 else drawing.theme.ink,
                )  # fmt: skip
            y += _LINE
        ax.axhline(y, color=drawing.theme.line, linewidth=0.6)


def _draw_crop(drawing: Drawing, left: float, top: float, number: int, seen: Sighting) -> None:
    try:
        drawing.picture(left, top, *_CROP, _whole(seen.best.open_image()))
    except GalleryError:  # its file is gone; the sighting stays
        drawing.text(left, top + 50, "no file", size=10, color=drawing.theme.muted)
    drawing.text(left, top + _CROP[1] + 4, f"{number}   {seen.score:.2f}", size=10, bold=True)
    drawing.text(left, top + _CROP[1] + 18, _short(str(seen.camera_id), 11), size=9, color=drawing.theme.muted)
    moment = show_time(seen.best.time).replace(" ", "\n")
    drawing.text(left, top + _CROP[1] + 30, moment, size=8, color=drawing.theme.muted)


def _whole(image: PIL.Image.Image) -> PIL.Image.Image:
    """Pad the crop with borders, so that nothing of it is cut off."""
    return ImageOps.pad(image, (2 * _CROP[0], 2 * _CROP[1]), color=_BORDER)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
