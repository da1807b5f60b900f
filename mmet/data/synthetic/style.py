"""The style of a synthetic camera network: `WorldStyle`, its cameras, and the conditions of each shot.

`source` is modelled on FineGPR: 36 viewpoints, 7 kinds of weather, 7 of light and 9 scenes, each shown in the picture
and coded in the file name. `target` is modelled on surveillance crops: six cameras with their own colours, places and
habits, low resolution, occlusion and careless boxes. `night` and `indoor` are two more target worlds, which share no
place and no wording with the others, and show people cut, covered and alike. A new style is one more `WorldStyle` in
`STYLES`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mmet.data.synthetic.scene import SCENES, VARIANTS

WEATHER = ("sunny", "clouds", "overcast", "foggy", "neutral", "blizzard", "snowlight")
"""Names of FineGPR's weather codes w01..w07."""

LIGHT = ("midnight", "dawn", "forenoon", "noon", "afternoon", "dusk", "night")
"""Names of FineGPR's light codes l01..l07."""

COMMON_OCCLUDERS = ("bicycle", "pole", "shrub", "boxes")

TOLD_IF_SET = "told_if_set"
"""Metadata of style fields that `SYNTHETIC.json` omits if they have their default."""

SOURCE_SCENES = tuple(SCENES)[:9]
"""Scenes p01..p09; FineGPR calls p03, p05 and p08 wild and the others urban."""


def view_degrees(viewpoint: int) -> float:
    """Angle of FineGPR's viewpoint code 1..36: 10 degree steps, c01 = 90, c10 = 180, c19 = 270, c28 = 0 (front)."""
    if not 1 <= viewpoint <= 36:
        raise ValueError(f"viewpoint: expected 1..36, received {viewpoint}")
    return float((viewpoint * 10 + 80) % 360)


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera: its place, its usual view, and its effects on pictures.

    Attributes:
        scenes: places where it may stand; a camera of a network has one.
        view: usual view angle in degrees (0 front, 90 right, 180 back) and its standard deviation.
        elevation: angle in degrees by which it looks down.
        gain: factors on red, green and blue.
        gamma, saturation, contrast: 1 leaves the picture unchanged.
        resolution: smallest and largest share of the crop's pixels per side that it resolves.
        noise: standard deviation of the sensor noise in grey levels.
        quality: lowest and highest JPEG quality.
    """

    scenes: tuple[str, ...]
    view: tuple[float, float]
    elevation: float = 7.0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    saturation: float = 1.0
    contrast: float = 1.0
    resolution: tuple[float, float] = (1.0, 1.0)
    noise: float = 1.5
    quality: tuple[int, int] = (90, 94)


@dataclass(frozen=True, slots=True)
class WorldStyle:
    """The look of a world and the wording of its captions.

    Attributes:
        name: name of the style on the command line.
        cameras: cameras 1..n; file names count from 1.
        weather, light: indices into `WEATHER` and `LIGHT` that occur.
        captions: name of a wording in `mmet.data.synthetic.captions.WORDINGS`.
        jitter: standard deviation of the box position, as a share of its size.
        body_share: smallest and largest share of the crop height that the body takes; above 1 cuts it.
        occlusion: probability that something stands in front.
        exposure: standard deviation of the brightness of single shots, as a factor.
        shots_per_camera: pictures of a person in one camera before those of the next.
        crop: probability that the box cuts off the feet or the head.
        lookalikes: probability that a person resembles another one and shares most of their attributes.
        occluders: what may stand in front: names of `mmet.data.synthetic.occluders.OCCLUDERS`.
        people: kind of the people: `plain` (`mmet.data.synthetic.identity`) or `lifelike`
            (`mmet.data.synthetic.lifelike`).
        skirts: factor on how often lifelike women wear skirts rather than trousers.
        swapped: share of lifelike look-alikes that wear the other's two colours the other way round.
    """

    name: str
    cameras: tuple[Camera, ...]
    captions: str
    weather: tuple[int, ...] = tuple(range(7))
    light: tuple[int, ...] = tuple(range(7))
    jitter: float = 0.01
    body_share: tuple[float, float] = (0.86, 0.92)
    occlusion: float = 0.0
    exposure: float = 0.03
    shots_per_camera: int = 1
    crop: float = field(default=0.0, metadata={TOLD_IF_SET: True})
    lookalikes: float = field(default=0.0, metadata={TOLD_IF_SET: True})
    occluders: tuple[str, ...] = field(default=COMMON_OCCLUDERS, metadata={TOLD_IF_SET: True})
    people: str = field(default="plain", metadata={TOLD_IF_SET: True})
    skirts: float = field(default=1.0, metadata={TOLD_IF_SET: True})
    swapped: float = field(default=0.0, metadata={TOLD_IF_SET: True})

    @property
    def key(self) -> int:
        """A number for seeding that differs between styles."""
        return zlib.crc32(self.name.encode("utf-8"))


@dataclass(frozen=True, slots=True)
class Shot:
    """The conditions of one picture. Codes count from 1, as in file names."""

    camera: int
    weather: int
    light: int
    scene: int
    view: float
    scene_name: str
    variant: int
    seed: tuple[int, ...] = field(default=())


def draw_cameras(name: str, count: int, *, seed: int, indoor: float, steep: tuple[float, float]) -> tuple[Camera, ...]:
    """`count` cameras of the network `name`, a share `indoor` of them in halls; they look down by `steep` degrees."""
    rng = np.random.default_rng([seed, count])
    return tuple(_draw_camera(rng, name, number, indoor, steep) for number in range(1, count + 1))


def _draw_camera(
    rng: np.random.Generator, name: str, number: int, indoor: float, steep: tuple[float, float]
) -> Camera:
    kind = "hall" if rng.random() < indoor else "place"
    cast, green = rng.normal(0, 0.06), rng.normal(0, 0.03)
    poor = rng.random()
    best = round(float(rng.uniform(0.7, 1.1)) if poor < 0.7 else float(rng.uniform(0.45, 0.7)), 2)
    low, high = sorted(rng.uniform(*steep, 2))
    return Camera(
        scenes=(f"{name} {kind} {number}",),
        view=(round(float(rng.uniform(0, 360))), round(float(rng.uniform(40, 120)))),
        elevation=round(float(rng.uniform(low, high)), 1),
        gain=(round(1 + cast, 3), round(1 + green, 3), round(1 - cast, 3)),
        gamma=round(float(rng.lognormal(0, 0.2)), 2),
        saturation=round(float(rng.normal(0.95, 0.18)), 2),
        contrast=round(float(rng.normal(1.05, 0.12)), 2),
        resolution=(round(best * 0.6, 2), best),
        noise=round(min(6.0, float(rng.gamma(2.0, 1.1))), 1),
        quality=(int(rng.integers(45, 75)), int(rng.integers(78, 95))),
    )


def lifelike_style(
    name: str,
    *,
    captions: str,
    cameras: int,
    seed: int,
    indoor: float,
    steep: tuple[float, float],
    skirts: float = 1.0,
    swapped: float = 0.0,
) -> WorldStyle:
    """Make a world of lifelike people, seen by cameras that differ in all respects."""
    return WorldStyle(
        name=name,
        cameras=draw_cameras(name, cameras, seed=seed, indoor=indoor, steep=steep),
        captions=captions,
        weather=(0, 1, 2, 4),
        light=(1, 2, 3, 4, 5),
        jitter=0.02,
        body_share=(0.86, 1.0),
        occlusion=0.2,
        exposure=0.14,
        shots_per_camera=2,
        crop=0.15,
        lookalikes=0.3,
        occluders=("car", "pole", "railing", "suitcase", "hedge", "shrub", "bicycle"),
        people="lifelike",
        skirts=skirts,
        swapped=swapped,
    )


SOURCE = WorldStyle(
    name="source",
    cameras=tuple(Camera(scenes=SOURCE_SCENES, view=(view_degrees(code), 0.0)) for code in range(1, 37)),
    captions="attributes",
)

TARGET = WorldStyle(
    name="target",
    cameras=(
        Camera(("campus road",), (0, 30), 9, (1.12, 1.00, 0.83), 0.95, 1.1, 1.05, (0.5, 0.9), 4.0, (70, 88)),
        Camera(("supermarket",), (180, 30), 14, (0.84, 0.99, 1.14), 1.12, 0.8, 0.9, (0.45, 0.8), 5.0, (60, 80)),
        Camera(("market square",), (90, 35), 10, (1.00, 1.09, 0.88), 0.82, 0.75, 0.82, (0.5, 1.0), 3.0, (70, 90)),
        Camera(("corridor",), (270, 35), 16, (1.17, 0.93, 0.78), 1.2, 0.9, 1.1, (0.45, 0.85), 6.0, (60, 80)),
        Camera(("station",), (30, 50), 12, (0.90, 0.96, 1.16), 1.3, 1.05, 1.15, (0.4, 0.75), 5.0, (55, 80)),
        Camera(("boulevard",), (160, 50), 6, (1.03, 0.90, 1.07), 0.9, 1.25, 0.95, (0.5, 0.95), 4.0, (70, 88)),
    ),
    captions="sentences",
    weather=(0, 1, 2, 4),
    light=(1, 2, 3, 4, 5),
    jitter=0.045,
    body_share=(0.84, 1.08),
    occlusion=0.22,
    exposure=0.14,
    shots_per_camera=2,
)

NIGHT = WorldStyle(
    name="night",
    cameras=(
        Camera(("underpass",), (0, 35), 24, (0.98, 1.05, 0.98), 0.62, 0.12, 1.1, (0.35, 0.6), 9.0, (45, 70)),
        Camera(("bus stop",), (190, 40), 18, (1.16, 0.98, 0.74), 0.7, 0.7, 1.05, (0.4, 0.7), 8.0, (50, 75)),
        Camera(("back street",), (80, 40), 22, (0.82, 0.96, 1.2), 0.66, 0.55, 1.1, (0.35, 0.7), 9.0, (45, 70)),
        Camera(("petrol station",), (280, 40), 16, (1.02, 1.06, 0.94), 0.8, 0.8, 1.0, (0.45, 0.8), 7.0, (50, 78)),
        Camera(("loading bay",), (150, 50), 26, (1.0, 1.02, 1.0), 0.6, 0.08, 1.15, (0.35, 0.6), 10.0, (45, 65)),
    ),
    captions="reports",
    weather=(1, 2, 3),
    light=(0, 5, 6),
    jitter=0.05,
    body_share=(0.8, 1.05),
    occlusion=0.25,
    exposure=0.2,
    shots_per_camera=2,
    crop=0.15,
    lookalikes=0.2,
    occluders=("car", "pole", "railing", "suitcase", "hedge"),
)

INDOOR = WorldStyle(
    name="indoor",
    cameras=(
        Camera(("airport hall",), (10, 35), 12, (1.0, 1.02, 1.04), 0.92, 0.95, 0.95, (0.6, 1.0), 3.0, (75, 92)),
        Camera(("library",), (170, 35), 10, (1.12, 1.0, 0.84), 1.05, 0.95, 1.0, (0.55, 0.95), 3.5, (70, 90)),
        Camera(("mall",), (95, 40), 16, (1.06, 0.97, 1.06), 0.88, 1.2, 1.05, (0.6, 1.0), 3.0, (75, 92)),
        Camera(("canteen",), (265, 40), 14, (1.06, 1.03, 0.88), 1.0, 1.05, 0.92, (0.5, 0.9), 4.0, (70, 88)),
        Camera(("escalator",), (20, 60), 20, (0.9, 1.0, 1.12), 1.1, 0.85, 1.1, (0.5, 0.9), 4.0, (65, 88)),
    ),
    captions="remarks",
    weather=(1, 4),
    light=(2, 3, 4),
    jitter=0.04,
    body_share=(0.84, 1.1),
    occlusion=0.3,
    exposure=0.1,
    shots_per_camera=2,
    crop=0.25,
    lookalikes=0.3,
    occluders=("counter", "suitcase", "railing", "boxes", "pole"),
)

# Two worlds to train on: more skirts than in a street, and people who differ only in where they wear a colour.
STREET = lifelike_style(
    "street", captions="witness", cameras=24, seed=1, indoor=0.2, steep=(3, 38), skirts=3.0, swapped=0.4
)
PLAZA = lifelike_style(
    "plaza", captions="notice", cameras=20, seed=2, indoor=0.3, steep=(8, 48), skirts=3.0, swapped=0.4
)
CAMPUS = lifelike_style("campus", captions="chat", cameras=12, seed=3, indoor=0.35, steep=(4, 40))

STYLES: Mapping[str, WorldStyle] = {
    style.name: style for style in (SOURCE, TARGET, NIGHT, INDOOR, STREET, PLAZA, CAMPUS)
}


PLAIN_STYLES = tuple(name for name, style in STYLES.items() if style.people == "plain")
"""Styles with plain people, the ones that films can show."""


def style_rng(style: WorldStyle, *path: int) -> np.random.Generator:
    """Make the random generator of one thing in a world, identified by the seed and further numbers, `path`."""
    return np.random.default_rng([style.key, *path])


def plan_shots(style: WorldStyle, *, seed: int, person: int, count: int, cameras: int | None = None) -> list[Shot]:
    """Plan `count` different shots of a person, in as many cameras as `shots_per_camera` allows.

    `cameras` sets the number of cameras that see the person. Raises `ValueError` when that many have fewer than
    `count` different conditions.
    """
    shape = (len(style.weather), len(style.light), len(style.cameras[0].scenes))
    per_camera = shape[0] * shape[1] * shape[2]
    most = per_camera * min(cameras or len(style.cameras), len(style.cameras))
    if count > most:
        raise ValueError(f"images_per_id: expected at most {most} for style {style.name!r}, received {count}")
    rng = style_rng(style, seed, person, 1)
    order = rng.permutation(len(style.cameras))
    seen_by = order[: cameras or max(2, count // style.shots_per_camera)]
    orders = [rng.permutation(per_camera) for _ in seen_by]
    shots = []
    for index in range(count):
        turn = index % len(seen_by)
        weather, light, scene = np.unravel_index(orders[turn][index // len(seen_by)], shape)
        shots.append(
            _shot(style, rng, int(seen_by[turn]), int(weather), int(light), int(scene), (seed, person, 2, index))
        )
    return shots


def _shot(
    style: WorldStyle,
    rng: np.random.Generator,
    camera: int,
    weather: int,
    light: int,
    scene: int,
    seed: tuple[int, ...],
) -> Shot:
    mean, spread = style.cameras[camera].view
    return Shot(
        camera=camera + 1,
        weather=style.weather[weather] + 1,
        light=style.light[light] + 1,
        scene=scene + 1,
        view=float(rng.normal(mean, spread)) % 360 if spread else mean,
        scene_name=style.cameras[camera].scenes[scene],
        variant=int(rng.integers(VARIANTS)),
        seed=seed,
    )
