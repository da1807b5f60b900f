"""Irregularities of real data: people with one picture, people in one camera, repeated annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmet.data.synthetic.layouts.base import Job, WorldRequest
from mmet.data.synthetic.style import style_rng

_TIDY_SPLITS = frozenset({"junk", "distractor"})


def make_untidy(request: WorldRequest, jobs: Sequence[Job]) -> list[Job]:
    """Make a share `request.untidy_rate` of the people irregular, in three ways in turn.

    The first person of every split stays regular, so that every split has a person with several pictures and cameras.
    """
    seen: set[str] = set()
    result = []
    for job in jobs:
        drawn = style_rng(request.style, request.seed, job.number, 4).random() < request.untidy_rate
        result.append(_untidy(request, job) if drawn and job.split in seen else job)
        seen |= {job.split} - _TIDY_SPLITS
    return result


def _untidy(request: WorldRequest, job: Job) -> Job:
    style = request.style
    in_one_camera = len(style.weather) * len(style.light) * len(style.cameras[0].scenes)
    ways = (
        replace(job, images=1),
        replace(job, images=min(job.images, in_one_camera), cameras=1),
        replace(job, repeated=True),
    )
    return ways[job.number % len(ways)]
