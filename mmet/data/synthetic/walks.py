"""Plan where and when the people of a film walk: crossings, meetings, and people who leave and come back.

    walks = plan_walks(num_people=6, num_cameras=2, seconds=12.0, rng=rng)
    walks[0].at(3.5)

Positions are shares of the picture: `x` of its width, with 0 at the left edge, and `y`, the row of the feet, of its
height. People take turns in the cameras: whoever was seen by camera 1 is seen by camera 2 next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WAVE_SECONDS = 9.0
"""About how many seconds a person takes through the picture; longer films have several waves of people."""

_OUTSIDE = 0.14
_NEAREST, _FARTHEST = 0.96, 0.76
"""Rows of the feet of the nearest and the farthest person."""

_STEP = 0.85
"""Body heights that a person covers in two steps."""


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a person at a moment: `x`, `y`, the direction of the walk as a view angle, and whether they walk."""

    x: float
    y: float
    view: float
    walks: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """
    One person's way through the picture of one camera.

    Attributes:
        person, camera: numbers from 0.
        times: seconds of the turning points, ascending, (K,).
        xs: positions at these times, (K,).
        y: row of the feet.
    """

    person: int
    camera: int
    times: tuple[float, ...]
    xs: tuple[float, ...]
    y: float

    def at(self, time: float) -> Place | None:
        """Position of the person at `time` in seconds; None before they come and after they have gone."""
        if not self.times[0] <= time <= self.times[-1]:
            return None
        leg = min(int(np.searchsorted(self.times, time, side="right")) - 1, len(self.times) - 2)
        way = self.xs[leg + 1] - self.xs[leg]
        x = float(np.interp(time, self.times, self.xs))
        if way == 0:  # stands, and looks at whoever is met
            return Place(x, self.y, 60.0 if self.xs[0] < 0.5 else 300.0, walks=False)
        return Place(x, self.y, 90.0 if way > 0 else 270.0, walks=True)

    def steps(self, time: float, body_share: float) -> float:
        """Phase of the gait in radians, from the way covered; `body_share` is body height over picture width."""
        turning = [moment for moment in self.times if moment < time]
        way = np.abs(np.diff([*(np.interp([*turning, time], self.times, self.xs))])).sum()
        return float(way) / (_STEP * body_share) * 2 * math.pi


def plan_walks(*, num_people: int, num_cameras: int, seconds: float, rng: np.random.Generator) -> list[Walk]:
    """Plan the walks of all people: each person is in one camera per wave, and in the next camera in the next wave."""
    waves = max(1, round(seconds / WAVE_SECONDS))
    walks = []
    for wave in range(waves):
        for camera in range(num_cameras):
            people = [person for person in range(num_people) if (person + wave) % num_cameras == camera]
            start, end = seconds * wave / waves, seconds * (wave + 1) / waves
            walks += _wave(people, camera, start, end, rng)
    return walks


def _wave(people: Sequence[int], camera: int, start: float, end: float, rng: np.random.Generator) -> list[Walk]:
    """Walks of those who come at the same time: two meet, one leaves and comes back, one crosses, and so on."""
    rows = rng.permutation(np.linspace(_FARTHEST, _NEAREST, max(2, len(people))))
    walks = []
    for place, person in enumerate(people):
        others = len(people) - place + place % 4  # of this group of four
        kind = ("meet", "meet", "return", "cross")[place % 4] if others > 1 else "cross"
        side = -1 if kind == "meet" and place % 2 else 1
        if kind != "meet" and rng.random() < 0.5:
            side = -1
        times, xs = _way(kind, start, end, rng)
        mirrored = tuple(xs if side == 1 else [1 - x for x in xs])
        walks.append(Walk(person, camera, tuple(times), mirrored, float(rows[place])))
    return walks


def _way(kind: str, start: float, end: float, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Times and positions of a person who comes from the left."""
    first = start + (end - start) * rng.uniform(0, 0.08)
    last = end - (end - start) * rng.uniform(0, 0.08)
    enter, leave, length = -_OUTSIDE, 1 + _OUTSIDE, last - first
    if kind == "meet":
        first, last, length = start + 0.02 * (end - start), end, end - start
        return [first, first + 0.42 * length, first + 0.58 * length, last], [enter, 0.455, 0.455, leave]
    if kind == "return":
        return [first, first + 0.46 * length, first + 0.54 * length, last], [enter, leave, leave, enter]
    return [first, last], [enter, leave]
