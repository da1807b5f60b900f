"""Draw films of the synthetic world: people walk through the scenes of several cameras, with true boxes and tracks.

    python -m mmet.data.synthetic.video --output data/films --num_people 6 --num_cameras 2 --seconds 18

    from mmet.data.synthetic.video import write_films
    write_films("data/films", num_people=6, num_cameras=2, seconds=18.0)

People meet, pass in front of each other and behind objects, leave and come back. The folder holds `camera1.mp4`,
`camera1/gt/gt.txt` and `camera1/seqinfo.ini` (in MOTChallenge's formats) for each camera, and `persons.json`, which
describes the people in sentences and names their tracks. A person who leaves the picture and returns has a new track.
A box is that of the whole person, cut at the edges of the picture; a person with less than a quarter in the picture
has none.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from tqdm import tqdm

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command
from mmet.data.synthetic.captions import write_captions
from mmet.data.synthetic.figure import Figure, draw_figure
from mmet.data.synthetic.identity import Identity
from mmet.data.synthetic.layouts.base import write_json
from mmet.data.synthetic.layouts.takes import person
from mmet.data.synthetic.observation import Observation
from mmet.data.synthetic.occluders import Cover, draw_object
from mmet.data.synthetic.renderer import LIGHTS, Weather, expose, ground_shadow, lit_person
from mmet.data.synthetic.scene import VARIANTS, backdrop
from mmet.data.synthetic.skeleton import Pose, draw_pose
from mmet.data.synthetic.style import PLAIN_STYLES, STYLES, TARGET, Camera, Shot, WorldStyle, style_rng
from mmet.data.synthetic.walks import Place, Walk, plan_walks
from mmet.data.synthetic.world import PROVENANCE_FILE, already_there, folder_totals
from mmet.field_checks import SEED_RANGE, Range, check_choice, check_number, number_type
from mmet.folder_lock import locked_target
from mmet.starting import program_name
from mmet.whole_files import FolderDraft, whole_folder

if TYPE_CHECKING:  # an extra of its own
    from av import VideoStream

PERSONS_FILE = "persons.json"
VERSION = 1

_RANGES = {
    "num_people": Range(at_least=1, at_most=1000),
    "num_cameras": Range(at_least=1, at_most=100),
    "seconds": Range(above=0, at_most=3600),
    "fps": Range(at_least=1, at_most=60),
    "image_height": Range(at_least=96, at_most=1080),
    "image_width": Range(at_least=96, at_most=1080),
    "seed": SEED_RANGE,
}
_WEATHER = Weather(shadow=0.28)
_BODY_OF_WAY_DOWN = 0.95
"""Height of a person over the distance of the feet from the horizon: the camera stands a little above the heads."""

_LEAST_IN_PICTURE = 0.25
_STREAM_FILMS = 7
"""Distinguishes the random streams of films from the style's other streams; see `layouts.takes.person`."""

_NOTICE = (
    "Synthetic films drawn by `python -m mmet.data.synthetic.video`: no real person is shown, and figures measured on "
    "them say nothing about real footage."
)


@dataclass(frozen=True, slots=True)
class FilmRequest:
    """The arguments of `write_films`."""

    style: WorldStyle
    num_people: int
    num_cameras: int
    seconds: float
    fps: int
    image_height: int
    image_width: int
    seed: int

    @property
    def num_frames(self) -> int:
        """Number of frames of each camera."""
        return max(1, round(self.seconds * self.fps))


@dataclass(frozen=True, slots=True)
class TrueBox:
    """
    A person in a frame.

    Attributes:
        person: number from 0.
        box: left, top, width and height of the whole person, cut at the picture's edges, in pixels.
        visibility: share of the whole person's pixels that are in the picture and not covered, 0..1.
        observation: what the author of a caption sees of the person.
    """

    person: int
    box: tuple[int, int, int, int]
    visibility: float
    observation: Observation[Identity]


def write_films(
    output: str | Path,
    *,
    num_people: int = 6,
    num_cameras: int = 2,
    seconds: float = 18.0,
    fps: int = 10,
    image_height: int = 270,
    image_width: int = 480,
    seed: int = 0,
    style: str | WorldStyle = TARGET,
    show_progress: bool = False,
) -> bool:
    """
    Write the films of all cameras; the folder appears only when complete.

    Args:
        output: folder to create; may exist when empty, or when it already holds exactly these films.
        num_people: people in all. In films of up to 13 seconds each person is in one camera; in longer ones, in
            several in turn.
        num_cameras: number of films. Each camera of the style has its own scene and colours; further ones repeat them.
        seconds, fps: length and frame rate of each film.
        image_height, image_width: size of the pictures, even numbers.
        seed: random seed; equal seeds and styles give the same people as in `write_world`.
        style: a name of `PLAIN_STYLES`, or any style with plain people.
        show_progress: show a progress bar over frames.

    Returns:
        True when the films were written, False when they were already there.

    Raises:
        ValueError: an argument is outside its range, or PyAV is not installed.
        DatasetError: `output` holds something else.
        OSError: `output` cannot be written.
    """
    numbers = {"num_people": num_people, "num_cameras": num_cameras, "fps": fps, "seed": seed}
    numbers |= {"image_height": image_height, "image_width": image_width}
    checked = {name: check_number(name, value, int, _RANGES[name]) for name, value in numbers.items()}
    for name in ("image_height", "image_width"):
        if checked[name] % 2:
            raise ValueError(f"{name}: expected an even number, as video codecs need, received {checked[name]}")
    seconds = check_number("seconds", seconds, float, _RANGES["seconds"])
    look = STYLES[check_choice("style", style, PLAIN_STYLES)] if isinstance(style, str) else style
    check_choice("people of the style", look.people, ("plain",))
    request = FilmRequest(look, seconds=seconds, **checked)
    output = Path(output)
    with locked_target(output):
        provenance = _provenance(request)
        if already_there(output, provenance):
            return False
        with whole_folder(output) as root:
            _write(request, root, show_progress)
            write_json(FolderDraft(root), PROVENANCE_FILE, {**provenance, **folder_totals(root)})
    return True


def _provenance(request: FilmRequest) -> dict[str, Any]:
    arguments = asdict(request)
    del arguments["style"]["people"]  # always plain; films drawn before there were others are still recognised
    content = {"synthetic": True, "notice": _NOTICE, "films_version": VERSION, "arguments": arguments}
    return cast(dict[str, Any], json.loads(json.dumps(content)))


def _write(request: FilmRequest, root: Path, show_progress: bool) -> None:
    progress = tqdm(
        total=request.num_cameras * request.num_frames, desc="films", unit="frame", disable=not show_progress
    )
    persons = _Persons(request)
    with progress:
        for camera in range(request.num_cameras):
            name = f"camera{camera + 1}"
            truth = _Truth(request, name, persons)
            images = truth.follow(film(request, camera))
            encode_film(root / f"{name}.mp4", map(partial(_tick, progress), images), request.fps)
            truth.write(root / name)
    write_json(FolderDraft(root), PERSONS_FILE, persons.as_json())


def _tick(progress: tqdm, image: np.ndarray) -> np.ndarray:
    progress.update()
    return image


# -- pictures -------------------------------------------------------------------------------------------------------


def film(request: FilmRequest, camera: int) -> Iterator[tuple[np.ndarray, list[TrueBox]]]:
    """Yield the frames of a camera (numbered from 0), uint8 (H, W, 3), with the people in them."""
    view = _CameraView(request, camera)
    rng = style_rng(request.style, request.seed, 0, _STREAM_FILMS)
    walks = plan_walks(
        num_people=request.num_people, num_cameras=request.num_cameras, seconds=request.seconds, rng=rng
    )
    camera_walks = sorted(
        (walk for walk in walks if walk.camera == camera), key=lambda walk: walk.y
    )  # the nearest come last
    for index in range(request.num_frames):
        yield view.picture(camera_walks, index / request.fps, index)


class _CameraView:
    """The background of a camera, and the people who walk through it."""

    def __init__(self, request: FilmRequest, camera: int) -> None:
        self.request, self.number = request, camera
        self.height, self.width = request.image_height, request.image_width
        style = request.style
        rng = style_rng(style, request.seed, camera + 1, _STREAM_FILMS)
        self.camera: Camera = replace(style.cameras[camera % len(style.cameras)], resolution=(1.0, 1.0))
        self.light_code = int(rng.choice(style.light))
        self.scene_name = self.camera.scenes[int(rng.integers(len(self.camera.scenes)))]
        rgb, glow, self.horizon = backdrop(
            self.scene_name,
            variant=int(rng.integers(VARIANTS)),
            turn_degrees=float(rng.uniform(0, 360)),
            zoom=float(rng.uniform(0.8, 0.95)),
            drop=1.0,
            height=self.height,
            width=self.width,
        )
        light = LIGHTS[self.light_code]
        self.backdrop = rgb * np.asarray(light.place, dtype=np.float32)
        self.backdrop += (glow * np.float32(light.glow))[..., None] * np.array([215, 170, 96], dtype=np.float32)
        self.brightness = float(rng.lognormal(0, style.exposure / 2))
        self.people: dict[int, tuple[Identity, Pose]] = {}
        self.occluder, self.occluder_left = self._draw_object(rng)

    def _draw_object(self, rng: np.random.Generator) -> tuple[Cover, int]:
        """An object in front of everybody, and its left edge."""
        width = self.width // 4
        cover = draw_object(self.request.style.occluders, rng, self.height, width)
        return cover, int(rng.uniform(0.2, 0.8) * (self.width - width))

    def picture(self, walks: Sequence[Walk], time: float, index: int) -> tuple[np.ndarray, list[TrueBox]]:
        """One frame and the people in it. `walks` go from the farthest to the nearest."""
        rgb = self.backdrop.copy()
        owner = np.full((self.height, self.width), -1, dtype=np.int32)
        drawn = []
        for number, walk in enumerate(walks):
            place = walk.at(time)
            if place is not None:
                drawn.append((number, walk, self._draw(rgb, owner, number, walk, place, time)))
        window = slice(self.occluder_left, self.occluder_left + self.occluder.alpha.shape[1])
        rgb[:, window] = rgb[:, window] * (1 - self.occluder.alpha[..., None]) + self.occluder.rgb
        owner[:, window][self.occluder.alpha >= 0.5] = -1
        boxes = [self._true_box(owner, number, walk, *drawing) for number, walk, drawing in drawn]
        rng = style_rng(self.request.style, self.request.seed, self.number + 1, _STREAM_FILMS, index)
        image = expose(rgb, self.camera, 1.0, self.brightness, rng)
        return np.asarray(image), [box for box in boxes if box is not None]

    def _draw(
        self, rgb: np.ndarray, owner: np.ndarray, number: int, walk: Walk, place: Place, time: float
    ) -> tuple[Figure, Shot, int, int]:
        """Draw a person into the picture and mark the pixels; return the figure and the position of its corner."""
        foot_x, foot_y = place.x * self.width, place.y * self.height
        body = _BODY_OF_WAY_DOWN * (foot_y - self.horizon)
        identity, habit = self._person(walk.person)
        phase = walk.steps(time, body / self.width)
        pose = replace(habit, stride=max(0.3, habit.stride) if place.walks else 0.06, phase=phase)
        high = math.ceil(body / 0.86)
        figure = draw_figure(
            identity,
            pose,
            view_degrees=place.view,
            height=high,
            width=math.ceil(body),
            elevation_degrees=self.camera.elevation,
            body_share=body / high,
        )
        left, top = round(foot_x - figure.foot[0]), round(foot_y - figure.foot[1])
        in_frame, in_figure = _overlap(figure.alpha.shape, left, top, owner.shape)
        alpha = figure.alpha[in_figure]
        shadow = ground_shadow(figure, _WEATHER.shadow, np.random.default_rng(self.number), *figure.alpha.shape)
        rgb[in_frame] *= (shadow[in_figure] * (1 - alpha))[..., None]
        rgb[in_frame] += lit_person(figure, _WEATHER, LIGHTS[self.light_code])[in_figure]
        owner[in_frame][alpha >= 0.5] = number
        shot = Shot(
            self.number + 1,
            5,
            self.light_code + 1,
            1,
            place.view,
            self.scene_name,
            0,
            (self.request.seed, walk.person),
        )
        return figure, shot, left, top

    def _person(self, number: int) -> tuple[Identity, Pose]:
        if number not in self.people:
            style, seed = self.request.style, self.request.seed
            habit = draw_pose(style_rng(style, seed, number + 1, _STREAM_FILMS, 0, 0))
            identity = person(style, seed, number + 1)
            assert isinstance(identity, Identity)  # the people of a plain style
            self.people[number] = identity, habit
        return self.people[number]

    def _true_box(
        self, owner: np.ndarray, number: int, walk: Walk, figure: Figure, shot: Shot, left: int, top: int
    ) -> TrueBox | None:
        """The box of a drawn person; None if less than a quarter of the person is in the picture."""
        solid = figure.alpha >= 0.5
        _, in_figure = _overlap(solid.shape, left, top, owner.shape)
        inside = np.zeros_like(solid)
        inside[in_figure] = solid[in_figure]
        if inside.sum() < _LEAST_IN_PICTURE * solid.sum() or not solid.any():
            return None
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        size = int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
        box = (int(columns[0]) + left, int(rows[0]) + top, *size)
        identity, _ = self._person(walk.person)
        visible = float((owner == number).sum() / solid.sum())
        return TrueBox(walk.person, box, visible, Observation(identity, shot, figure.pixels))


def _overlap(
    size: tuple[int, ...], left: int, top: int, picture: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a window of `size` at (left, top) lies in the picture, and which part of the window that is."""
    x0, x1 = np.clip((left, left + size[1]), 0, picture[1])
    y0, y1 = np.clip((top, top + size[0]), 0, picture[0])
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def encode_film(path: Path, images: Iterator[np.ndarray], fps: int | Fraction) -> None:
    """Write uint8 (H, W, 3) frames of equal, even size to a video file: H.264, or MPEG-4 where there is no encoder.

    Raises `ValueError` when PyAV is not installed, and `OSError` when the file cannot be written.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError("writing films needs PyAV: pip install 'mmet[footage]'") from error
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    quality = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"qscale": "3"}
    with av.open(str(path), "w") as container:
        stream: VideoStream | None = None
        for image in images:
            if stream is None:
                stream = cast("VideoStream", container.add_stream(codec, rate=fps, options=quality))
                stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
                stream.thread_count = 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode(None))


# -- truth ----------------------------------------------------------------------------------------------------------


class _Persons:
    """The people of the films: their descriptions and tracks."""

    def __init__(self, request: FilmRequest) -> None:
        self.request = request
        self.best: dict[int, TrueBox] = {}
        self.tracks: dict[int, list[dict[str, Any]]] = {number: [] for number in range(request.num_people)}

    def see(self, box: TrueBox) -> None:
        """Remember the observation that shows most of the person."""
        known = self.best.get(box.person)
        size = box.visibility * box.box[3]
        if known is None or size > known.visibility * known.box[3]:
            self.best[box.person] = box

    def as_json(self) -> list[dict[str, Any]]:
        style, seed = self.request.style, self.request.seed
        return [
            {
                "person_id": number + 1,
                "captions": write_captions(
                    self.best[number].observation,
                    style.captions,
                    style_rng(style, seed, number + 1, _STREAM_FILMS, 1),
                    count=3,
                ),
                "attributes": self.best[number].observation.identity.attributes.as_row(),
                "tracks": tracks,
            }
            for number, tracks in self.tracks.items()
            if number in self.best
        ]


class _Truth:
    """The true tracks of one film."""

    def __init__(self, request: FilmRequest, name: str, persons: _Persons) -> None:
        self.request, self.name, self.persons = request, name, persons
        self.rows: list[str] = []
        self.open: dict[int, dict[str, Any]] = {}
        self.count = 0

    def follow(self, frames: Iterator[tuple[np.ndarray, list[TrueBox]]]) -> Iterator[np.ndarray]:
        """Yield the images of `frames`, and collect their boxes as rows of `gt.txt`."""
        for frame, (image, boxes) in enumerate(frames, start=1):
            seen = {box.person for box in boxes}
            self.open = {number: track for number, track in self.open.items() if number in seen}
            for box in boxes:
                self._add(frame, box)
            yield image

    def _add(self, frame: int, box: TrueBox) -> None:
        if box.person not in self.open:
            self.count += 1
            track = {"camera": self.name, "track": self.count, "first_frame": frame}
            self.open[box.person] = track
            self.persons.tracks[box.person].append(track)
        track = self.open[box.person]
        track["last_frame"] = frame
        left, top, width, height = box.box
        self.rows.append(f"{frame},{track['track']},{left + 1},{top + 1},{width},{height},1,1,{box.visibility:.3f}")
        self.persons.see(box)

    def write(self, folder: Path) -> None:
        """Write `gt/gt.txt` and `seqinfo.ini`."""
        (folder / "gt").mkdir(parents=True)
        (folder / "gt" / "gt.txt").write_text("".join(f"{row}\n" for row in self.rows), encoding="utf-8")
        request = self.request
        (folder / "seqinfo.ini").write_text(
            f"[Sequence]\nname={self.name}\nframeRate={request.fps}\nseqLength={request.num_frames}\n"
            f"imWidth={request.image_width}\nimHeight={request.image_height}\n",
            encoding="utf-8",
        )


# -- command line ---------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; defaults are those of `write_films`."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(write_films).parameters.items()}
    parser = OptionParser(
        prog=program_name("python -m mmet.data.synthetic.video"),
        description="Draw films of synthetic people who walk through the scenes of several cameras, with true boxes, "
        "tracks and descriptions. For demos, tests and method checks: no real person is shown.",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder to create")
    parser.add_argument("--style", choices=PLAIN_STYLES, default=TARGET.name, help="look (default: %(default)s)")
    texts = {
        "num_people": "people in all",
        "num_cameras": "films, one of each camera",
        "seconds": "length of each film",
        "fps": "frames per second",
        "image_height": "height of the pictures in pixels, even",
        "image_width": "width of the pictures in pixels, even",
        "seed": "equal seeds give equal films",
    }
    for name, text in texts.items():
        kind = number_type(float if name == "seconds" else int, _RANGES[name])
        parser.add_argument(
            f"--{name}", type=kind, default=defaults[name], metavar="N", help=f"{text} (default: %(default)s)"
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the films that the command line asks for; return the exit code, 2 for errors that the user can correct."""
    parser = build_parser()
    return run_command(parser.prog, lambda command: draw(parser, arguments), after_stop="nothing was written")


def draw(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    """Parse the arguments, write the films and print their folder."""
    options = vars(parser.parse_args(arguments))
    written = write_films(**options, show_progress=sys.stderr is not None and sys.stderr.isatty())
    print(f"{options['output']}: {'written' if written else 'already written'}")


if __name__ == "__main__":
    sys.exit(main())
