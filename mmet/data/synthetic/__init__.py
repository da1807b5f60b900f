"""The synthetic world: procedural pedestrians in the folder layouts of published data sets.

Access to person re-identification data takes weeks, so this package draws people who do not exist and writes them in
the form of the real data sets; the same loaders read both. It is for demos, tests and method checks. Nothing measured
on it is a result on a real data set, and every folder says so in `SYNTHETIC.json`.

    python -m mmet.data.synthetic --layout finegpr --output data/synthetic_finegpr --num_ids 200

    write_world("market1501", "data/synthetic_market", num_train_ids=20, num_test_ids=100)

    >>> image, mask = render_person(number=7, view=90)
    >>> image.size, mask.getextrema()
    ((96, 192), (0, 255))
"""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from mmet.data.synthetic.identity import ATTRIBUTE_VALUES, Attributes, Identity, draw_identity
from mmet.data.synthetic.layouts import LAYOUTS
from mmet.data.synthetic.layouts.takes import person
from mmet.data.synthetic.lifelike.people import Person
from mmet.data.synthetic.part_masks import PART_CLASSES
from mmet.data.synthetic.picture import Picture
from mmet.data.synthetic.renderer import render_shot
from mmet.data.synthetic.style import (
    CAMPUS,
    INDOOR,
    NIGHT,
    PLAZA,
    SOURCE,
    STREET,
    STYLES,
    TARGET,
    Camera,
    Shot,
    WorldStyle,
    plan_shots,
    view_degrees,
)
from mmet.data.synthetic.world import PROVENANCE_FILE, command_options, write_world


def render_person(
    number: int = 1,
    *,
    seed: int = 0,
    style: WorldStyle = SOURCE,
    index: int = 0,
    images_per_id: int = 8,
    view: float | None = None,
    image_height: int = 192,
    image_width: int = 96,
) -> tuple[Image.Image, Image.Image]:
    """Draw picture `index` of person `number`; `write_world` with equal arguments draws the same.

    Args:
        number: number of the person, from 1.
        seed: random seed of the world.
        style: look of the world.
        index: which of the person's pictures, from 0.
        images_per_id: pictures of each person.
        view: view angle in degrees (0 front, 90 right, 180 back, 270 left) instead of the planned one.
        image_height, image_width: size in pixels.

    Returns:
        The RGB image and its silhouette (mode L: 255 person, 0 elsewhere), both `image_width` x `image_height` pixels.

    Raises:
        ValueError: the size is out of range.
    """
    shot = plan_shots(style, seed=seed, person=number, count=images_per_id)[index]
    shot = shot if view is None else replace(shot, view=view % 360)
    picture = render_shot(person(style, seed, number), shot, style, height=image_height, width=image_width)
    return picture.image, picture.mask


__all__ = [
    "ATTRIBUTE_VALUES",
    "CAMPUS",
    "INDOOR",
    "LAYOUTS",
    "NIGHT",
    "PART_CLASSES",
    "PLAZA",
    "PROVENANCE_FILE",
    "SOURCE",
    "STREET",
    "STYLES",
    "TARGET",
    "Attributes",
    "Camera",
    "Identity",
    "Person",
    "Picture",
    "Shot",
    "WorldStyle",
    "command_options",
    "draw_identity",
    "person",
    "plan_shots",
    "render_person",
    "render_shot",
    "view_degrees",
    "write_world",
]
