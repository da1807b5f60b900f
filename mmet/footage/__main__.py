"""Command line: videos to a folder of person crops and, on request, a gallery.

python -m mmet.footage entrance.mp4 --output crops --every 4
python -m mmet.footage entrance.mp4 --output crops --every 4 --gallery people --model outputs/demo/model
python -m mmet.footage timeline people --text "a woman in a red jacket" --figure timeline.png
python -m mmet.footage --camera entrance=a.mp4 --camera yard=b.mp4 --output crops --detector PekingU/rtdetr_v2_r18vd
"""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command, show_results
from mmet.field_checks import Range, number_type
from mmet.footage import timeline
from mmet.footage.boxes import FootageError
from mmet.footage.joining import DEFAULT_SIMILARITY
from mmet.footage.reading import name_cameras, read
from mmet.footage.searching import add_to_gallery, check_gallery
from mmet.gallery.command import add_backend
from mmet.gallery.labels import counted
from mmet.starting import program_name


def build_parser() -> argparse.ArgumentParser:
    """The parser; defaults are those of `read`."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(read).parameters.items()}
    parser = OptionParser(
        prog=program_name("python -m mmet.footage"),
        description="Find the persons in videos of fixed cameras and write the best crops of each to a folder.",
        epilog=f"{timeline.PROGRAM} GALLERY … shows when and where a person was seen; a video of that name is "
        f"./{timeline.SUBCOMMAND}.",
    )
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="file, folder of pictures, or rtsp:// address")
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="NAME=VIDEO",
        help="a video and the name of its camera, instead of the file's name; may be repeated",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to create")
    parser.add_argument(
        "--detector",
        default=defaults["detector"],
        metavar="NAME",
        help="hog (offline), an object detection checkpoint of transformers, or a MOTChallenge file, in whose name "
        "{camera} stands for the camera (default: %(default)s)",
    )
    numbers = {
        "every": (int, 1, "use every N-th frame"),
        "crops_per_track": (int, 1, "pictures kept of each track, at most"),
        "min_height": (int, 1, "least height in pixels of a crop"),
        "min_boxes": (int, 1, "least number of boxes of a track"),
        "batch_size": (int, 1, "frames that the detector sees at once"),
    }
    for name, (kind, least, text) in numbers.items():
        allowed = number_type(kind, Range(at_least=least, at_most=10**6))
        parser.add_argument(
            f"--{name}", type=allowed, default=defaults[name], metavar="N", help=f"{text} (default: %(default)s)"
        )
    parser.add_argument(
        "--min_motion",
        type=number_type(float, Range(at_least=0)),
        metavar="X",
        help="least motion of a track in body heights; leaves out objects mistaken for persons (default: "
        "0.3 for hog, else 0)",
    )
    parser.add_argument("--start_time", metavar="TIME", help="when the videos begin, such as 2024-05-01T12:00:00")
    parser.add_argument("--gallery", metavar="PLACE", help="also put the crops into this gallery, new or not")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="embeds the crops of --gallery (default: the gallery's own; for a new one, starter)",
    )
    add_backend(parser)
    parser.add_argument(
        "--join_fragments",
        action="store_true",
        help="in the gallery, join tracks of one camera that look alike to the model and do not overlap in time",
    )
    parser.add_argument(
        "--join_similarity",
        type=number_type(float, Range(at_least=-1, at_most=1)),
        metavar="X",
        help=f"least similarity of the tracks that are joined (default: {DEFAULT_SIMILARITY})",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Read the videos of a command line; returns the exit code, 2 for errors that the user has to correct."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == timeline.SUBCOMMAND:
        return timeline.main(argv[1:])
    parser = build_parser()
    return run_command(
        parser.prog, lambda command: run(parser, argv), after_stop="the same command continues where it stopped"
    )


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
    """Parse the arguments, read the videos and print a summary."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = vars(parser.parse_args(argv))
    place, model, backend = options.pop("gallery"), options.pop("model"), options.pop("backend")
    if place is None and model is not None:
        raise FootageError("--model would have no effect: name a gallery for the crops with --gallery")
    if place is None and backend != "auto":
        raise FootageError("--backend would have no effect: name a gallery for the crops with --gallery")
    joins, similarity = options.pop("join_fragments"), options.pop("join_similarity")
    if similarity is not None and not joins:
        raise FootageError("--join_similarity would have no effect without --join_fragments")
    if joins and place is None:
        raise FootageError("--join_fragments joins tracks in a gallery: name one with --gallery, and its --model")
    if joins and similarity is None:
        similarity = DEFAULT_SIMILARITY
    if place is not None:  # mistakes are told before hours of work
        check_gallery(place, model)
    videos = _cameras(options.pop("videos"), options.pop("camera"))
    reports = read(videos, **options, show_progress=sys.stderr is not None and sys.stderr.isatty())
    persons, crops = sum(report.persons for report in reports), sum(report.crops for report in reports)
    every = f"; one of {options['every']} frames was looked at" if options["every"] > 1 else ""
    totals = f"{counted(persons, 'person')}, {counted(crops, 'crop')}"
    show_results("\n".join(map(str, reports)), f"{options['output']}: {totals}{every}")
    if place is not None and not crops:
        show_results("", f"{place}: nothing was added, since no person was found")
    elif place is not None:
        gallery = add_to_gallery(options["output"], place, model=model, backend=backend, join_similarity=similarity)
        show_results(
            "", f"{place}: {counted(len(gallery), 'crop')}; search with python -m mmet.gallery search {place}"
        )


def _cameras(videos: Sequence[str], named: Sequence[str]) -> dict[str, str]:
    """Sources by camera; those without a name first. Raises `FootageError`."""
    pairs = [pair.partition("=")[::2] for pair in named]
    for (camera, source), pair in zip(pairs, named, strict=True):
        if not camera or not source:
            raise FootageError(f"--camera: expected NAME=VIDEO, received {pair!r}")
    cameras = name_cameras(videos) if videos else {}
    for camera, source in pairs:
        if camera in cameras:
            raise FootageError(f"--camera {camera}: named twice, for {cameras[camera]} and {source}")
        cameras[camera] = source
    return cameras


if __name__ == "__main__":
    sys.exit(main())
