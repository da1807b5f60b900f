"""The subcommands of `mmet-gallery`: build, search, add, remove, merge, compact, calibrate, map, info, verify.

main(["build", "crops", "--model", "outputs/demo/model", "--output", "people"])
main(["search", "people", "--image", "query.jpg", "--camera", "gate", "--html", "answer.html"])
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging as transformers_logging

from mmet.argument_parser import OptionParser
from mmet.command_line import Command, run_command, show_results
from mmet.distributed import compute_on_all, compute_once, join_processes
from mmet.evaluation.analyses.calibration import METHODS
from mmet.exported_files import BACKENDS
from mmet.field_checks import SHARE_RANGE, Range, number_type
from mmet.gallery.gallery import Gallery
from mmet.gallery.index import KINDS
from mmet.gallery.labels import counted, read_time
from mmet.gallery.listing import describe_presence, write_csv, write_json, write_table
from mmet.gallery.queries import Query
from mmet.gallery.results import GalleryError, SearchResult
from mmet.gallery.storage import DTYPES
from mmet.gallery.store import ON_CONFLICT
from mmet.starter import STARTER
from mmet.whole_files import write_whole

PROGRAM = "mmet-gallery"
DAMAGED_EXIT_CODE = 1
MAX_MATCHES = 10_000
"""Largest `-k`; nobody looks at more rows."""


class Subcommand(NamedTuple):
    """A subcommand: its function, its message after a stop, and whether processes share the work."""

    work: Callable[[argparse.Namespace], int | None]
    add_options: Callable[[argparse.ArgumentParser], None]
    help: str
    after_stop: str = ""
    is_shared: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code, 2 for errors that the user has to correct."""
    options = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if sys.stderr is None or not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    subcommand = SUBCOMMANDS[options.subcommand]

    def work(command: Command) -> int | None:
        if subcommand.is_shared:
            join_processes()
            command.connect()
            if not command.is_main:
                logging.getLogger().setLevel(logging.ERROR)  # all of them read the same files
        return subcommand.work(options)

    return run_command(f"{PROGRAM} {options.subcommand}", work, after_stop=subcommand.after_stop)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = OptionParser(
        prog=PROGRAM,
        description="Search your own crops of people by image, sentence or both. docs/search.md has examples.",
        epilog=f"{PROGRAM} COMMAND --help lists the options of a command.",
    )
    commands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND", title="commands")
    for name, subcommand in SUBCOMMANDS.items():
        below = commands.add_parser(
            name, help=subcommand.help, description=f"{subcommand.help[0].upper()}{subcommand.help[1:]}."
        )
        subcommand.add_options(below)
    return parser


# -- options --------------------------------------------------------------------------------------------------------


def add_build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="folder of crops, or a data set as name=folder")
    parser.add_argument(
        "--model", default=STARTER, metavar="MODEL", help="checkpoint folder or Hub name (default: starter)"
    )
    add_backend(parser)
    parser.add_argument("--output", required=True, metavar="GALLERY", help="folder to create")
    add_embedding_options(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of stored embeddings")
    parser.add_argument("--index", choices=KINDS, default="auto", help="how it is searched (default: by size)")
    parser.add_argument("--flip", action="store_true", help="embed each picture together with its mirror image")
    parser.add_argument("--centre", action="store_true", help="compare embeddings about their mean")
    parser.add_argument("--keep_images", action="store_true", help="copy the pictures into the gallery")


def add_embedding_options(parser: argparse.ArgumentParser) -> None:
    whole = number_type(int, Range(at_least=1, at_most=2**16))
    parser.add_argument("--batch_size", type=whole, default=64, metavar="N", help="pictures at once (%(default)s)")
    parser.add_argument("--num_workers", type=whole, default=2, metavar="N", help="decoding threads (%(default)s)")


def add_query(group: argparse._ArgumentGroup) -> None:
    """Add the options that describe the query."""
    group.add_argument("--text", metavar="SENTENCE", help='such as "a woman in a red jacket"')
    group.add_argument("--image", nargs="+", action="extend", metavar="FILE", help="one or several of one person")


def add_place_and_time(group: argparse._ArgumentGroup) -> None:
    """Add the options for cameras and times."""
    group.add_argument("--camera", nargs="+", action="extend", metavar="NAME", help="of these cameras")
    group.add_argument("--after", metavar="TIME", help="from this moment on: 12.5, 1:02:05 or 2024-05-01T12:00:00")
    group.add_argument("--before", metavar="TIME", help="up to this moment")


def add_search_options(parser: argparse.ArgumentParser) -> None:
    add_gallery(parser)
    query = parser.add_argument_group("what is searched for (a sentence, an image, or both)")
    add_query(query)
    query.add_argument(
        "--blend",
        type=number_type(float, SHARE_RANGE),
        metavar="X",
        help="with both: share of the sentence, from 0 to 1; without it, one vector reads both",
    )
    query.add_argument("--flip", action="store_true", help="embed each query image together with its mirror image")
    rows = parser.add_argument_group("which rows are searched (all, unless said otherwise)")
    add_place_and_time(rows)
    rows.add_argument("--track", nargs="+", action="extend", metavar="NAME", help="of these tracks")
    rows.add_argument("--exclude", nargs="+", action="extend", metavar="ID", help="leave these rows out")
    answer = parser.add_argument_group("the answer")
    matches = number_type(int, Range(at_least=1, at_most=MAX_MATCHES))
    answer.add_argument("-k", type=matches, default=10, metavar="N", help="matches at most (%(default)s)")
    answer.add_argument("--by_track", action="store_true", help="tracks, each by its best crop, instead of crops")
    forms = answer.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON instead of a table")
    forms.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    answer.add_argument("--html", type=Path, metavar="FILE", help="write a contact sheet, a page of its own")
    answer.add_argument("--figure", type=Path, metavar="FILE", help="write the ranked list as a PNG picture")
    add_model(answer)


def add_add_options(parser: argparse.ArgumentParser) -> None:
    add_gallery(parser)
    parser.add_argument("source", metavar="SOURCE", help="folder of crops, or a data set as name=folder")
    add_conflict(parser)
    add_embedding_options(parser)
    add_model(parser)


def add_map_options(parser: argparse.ArgumentParser) -> None:
    add_gallery(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="PNG picture to write")
    colors = ("person", "camera", "track")
    parser.add_argument("--color_by", choices=colors, default="person", help="what has a colour of its own")


def add_remove_options(parser: argparse.ArgumentParser) -> None:
    add_gallery(parser)
    parser.add_argument("ids", nargs="+", metavar="ID", help="as the search shows it")


def add_merge_options(parser: argparse.ArgumentParser) -> None:
    add_gallery(parser)
    parser.add_argument("other", metavar="OTHER", help="gallery whose rows are added")
    add_conflict(parser)


def add_calibrate_options(parser: argparse.ArgumentParser) -> None:
    add_gallery(parser)
    parser.add_argument("--captions", metavar="COLUMN", help="sentences of the rows (captions or caption, if present)")
    parser.add_argument("--method", choices=METHODS, help="kind of curve (default: by the number of pairs)")
    add_model(parser)


def add_info_options(parser: argparse.ArgumentParser) -> None:
    add_gallery(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_gallery(parser: Any) -> None:
    parser.add_argument("gallery", metavar="GALLERY", help="folder that build made")


def add_model(parser: Any) -> None:
    parser.add_argument("--model", metavar="MODEL", help="where the gallery's model is now, if it was moved")
    add_backend(parser)


def add_backend(parser: Any) -> None:
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what runs the model: PyTorch, or the files of mmet-export (default: what its folder holds)",
    )


def add_conflict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on_conflict", choices=ON_CONFLICT, default="error", help="for ids that are there already (%(default)s)"
    )


# -- work -----------------------------------------------------------------------------------------------------------


def build(options: argparse.Namespace) -> None:
    """Embed a folder of crops."""
    begin = time.monotonic()
    gallery = Gallery.build(
        options.source,
        options.output,
        model=options.model,
        backend=options.backend,
        **{name: getattr(options, name) for name in ("batch_size", "num_workers", "dtype", "index")},
        **{name: getattr(options, name) for name in ("flip", "centre", "keep_images")},
    )
    seconds = time.monotonic() - begin
    skipped = f"; {counted(len(gallery.skipped), 'picture')} left out" if gallery.skipped else ""
    rows = f"{counted(len(gallery), 'row')}{_cameras(gallery)}"
    compute_once(lambda: print(f"{options.output}: {rows}, {seconds:.0f} s{skipped}"))


def read_period(options: argparse.Namespace) -> tuple[float | None, float | None] | None:
    """The range of --after and --before; None if neither is given. Raises `GalleryError` for invalid moments."""
    after, before = (
        None if text is None else read_time(f"--{name}", text)
        for name, text in (("after", options.after), ("before", options.before))
    )
    return None if after is None and before is None else (after, before)


def search(options: argparse.Namespace) -> None:
    """Print the answer to a query, and write it as a contact sheet."""
    if options.text is None and options.image is None:
        raise GalleryError('nothing to search for: say --text "a sentence", --image FILE, or both')
    query = Query(options.image, options.text, blend=options.blend, flip=options.flip)
    period = read_period(options)
    for name in ("html", "figure"):
        check_file_name(name, getattr(options, name))
    gallery = Gallery.open(options.gallery, model=options.model, backend=options.backend)
    (result,) = gallery.search_batch(
        [query],
        k=options.k,
        camera_id=options.camera,
        track_id=options.track,
        time=period,
        by_track=options.by_track,
        exclude=options.exclude,
    )
    saved = []
    if options.html is not None:
        from mmet.gallery.sheet import render_sheet

        write_whole(options.html, render_sheet(gallery, query, result, describe_filters(options)))
        saved.append(f"Contact sheet: {options.html}")
    if options.figure is not None:
        from mmet.gallery.figures import ranked_figure

        write_whole(options.figure, ranked_figure(query, result))
        saved.append(f"Figure: {options.figure}")
    if options.json or options.csv:
        saved = []
    write = write_json if options.json else write_csv if options.csv else describe_result
    show_results("", "\n".join([write(result), *saved]))


def check_file_name(name: str, path: Path | None) -> None:
    """Raise `GalleryError` if a file to be written is a folder."""
    if path is not None and path.is_dir():
        raise GalleryError(f"--{name}: expected the name of a file, {path} is a folder")


def draw_map(options: argparse.Namespace) -> None:
    """Write a picture of all rows, with similar ones close together."""
    from mmet.gallery.figures import map_figure

    check_file_name("output", options.output)
    write_whole(options.output, map_figure(Gallery.open(options.gallery), color_by=f"{options.color_by}_id"))
    show_results("", str(options.output))


def describe_result(result: SearchResult) -> str:
    """The answer in the terminal: table, verdict and notes."""
    if not result.matches:
        return f"No match: {counted(result.searched, 'row')} searched"
    notes = [f"Note: {note}" for note in result.notes]
    return "\n".join([write_table(result), *filter(None, [describe_presence(result)]), *notes])


def describe_filters(options: argparse.Namespace) -> list[str]:
    """Which rows were searched, a phrase each."""
    phrases = []
    for name in ("camera", "track"):
        labels = getattr(options, name)
        if labels:
            phrases.append(f"{name}{'s' if len(labels) > 1 else ''} {', '.join(labels)}")
    phrases += [f"{name} {getattr(options, name)}" for name in ("after", "before") if getattr(options, name)]
    if options.exclude:
        phrases.append(f"without {', '.join(options.exclude)}")
    return phrases + (["tracks by their best crop"] if options.by_track else [])


def add(options: argparse.Namespace) -> None:
    """Embed more crops."""
    gallery = compute_on_all(lambda: Gallery.open(options.gallery, model=options.model, backend=options.backend))
    report = gallery.add(
        options.source,
        **{name: getattr(options, name) for name in ("on_conflict", "batch_size", "num_workers")},
    )
    compute_once(lambda: print(_describe_change(options.gallery, gallery, report)))


def remove(options: argparse.Namespace) -> None:
    """Remove rows."""
    gallery = Gallery.open(options.gallery)
    count = gallery.remove(options.ids)
    print(f"{options.gallery}: {counted(count, 'row')} removed, {counted(len(gallery), 'row')} left")


def merge(options: argparse.Namespace) -> None:
    """Add another gallery's rows."""
    gallery = Gallery.open(options.gallery)
    report = gallery.merge(options.other, on_conflict=options.on_conflict)
    print(_describe_change(options.gallery, gallery, report))


def compact(options: argparse.Namespace) -> None:
    """Free the space of removed rows."""
    gallery = Gallery.open(options.gallery)
    gallery.compact()
    print(f"{options.gallery}: {counted(len(gallery), 'row')}, the space of removed ones is free")


def calibrate(options: argparse.Namespace) -> None:
    """Learn match probabilities from labelled rows."""
    gallery = Gallery.open(options.gallery, model=options.model, backend=options.backend)
    pairs = gallery.calibrate(captions=options.captions, method=options.method)
    learnt = ", ".join(f"{modality} ({count:,} pairs of one person)" for modality, count in pairs.items())
    print(f"{options.gallery}: probabilities learnt for queries by {learnt}")


def info(options: argparse.Namespace) -> None:
    """Print a description of a gallery."""
    fields = Gallery.open(options.gallery).info
    if options.json:
        print(json.dumps(fields, indent=1, ensure_ascii=False, default=str))
        return
    width = max(map(len, fields))
    for name, value in fields.items():
        words = (
            ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}" if type(value) is int else value
        )
        print(f"{name.ljust(width)}  {words}")


def verify(options: argparse.Namespace) -> int:
    """Compare all files with their checksums; exit code 1 if one is damaged."""
    gallery = Gallery.open(options.gallery)
    problems = gallery.verify()
    if problems:
        print("\n".join(problems))
        return DAMAGED_EXIT_CODE
    print(f"{options.gallery}: {counted(len(gallery), 'row')}, all files are as they were written")
    return 0


def _describe_change(place: str, gallery: Gallery, report: Any) -> str:
    parts = [f"{counted(report.added, 'row')} added"]
    parts += [f"{report.replaced:,} of them in the place of others"] if report.replaced else []
    parts += [f"{report.kept:,} left as they were"] if report.kept else []
    parts += [f"{counted(len(report.skipped), 'picture')} left out"] if report.skipped else []
    return f"{place}: {', '.join(parts)}; {counted(len(gallery), 'row')} now"


def _cameras(gallery: Gallery) -> str:
    count = len(gallery.cameras)
    return f" of {counted(count, 'camera')}" if count else ""


SUBCOMMANDS = {
    "build": Subcommand(
        build,
        add_build_options,
        "embed a folder of crops into a new gallery",
        "the same command continues where it stopped",
        is_shared=True,
    ),
    "search": Subcommand(search, add_search_options, "find people by image, sentence or both"),
    "add": Subcommand(add, add_add_options, "embed more crops into a gallery", "nothing was added", is_shared=True),
    "remove": Subcommand(remove, add_remove_options, "remove rows"),
    "merge": Subcommand(merge, add_merge_options, "add the rows of another gallery by the same model"),
    "compact": Subcommand(compact, add_gallery, "free the space of removed rows and join small segments"),
    "calibrate": Subcommand(calibrate, add_calibrate_options, "learn match probabilities from rows with a person_id"),
    "map": Subcommand(
        draw_map, add_map_options, "draw a picture of all rows on which those that are alike lie together"
    ),
    "info": Subcommand(info, add_info_options, "say what a gallery is: rows, cameras, model, size"),
    "verify": Subcommand(
        verify, add_gallery, "compare all files with their checksums; exit code 1 for a damaged gallery"
    ),
}
