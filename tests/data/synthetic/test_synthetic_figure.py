"""The drawn person: silhouette, viewpoint, detail beyond attributes, and what cameras do to it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from PIL import ImageFilter

from mmet.data.synthetic import (
    SOURCE,
    TARGET,
    Identity,
    draw_identity,
    person,
    plan_shots,
    render_person,
    render_shot,
    view_degrees,
)
from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.figure import draw_figure
from mmet.data.synthetic.identity import ATTRIBUTE_VALUES, draw_attributes
from mmet.data.synthetic.skeleton import Pose

WALK = Pose(stride=0.4, phase=1.2)


def draw(identity: Identity, view: float, pose: Pose = WALK):
    return draw_figure(identity, pose, view_degrees=view, height=160, width=80)


def someone_with(**wanted: str) -> Identity:
    """A person whose attributes and kinds (`bag_kind`, ...) are as wanted."""
    for number in range(2000):
        identity = draw_identity(np.random.default_rng(number))
        if all(getattr(identity.appearance, name, None) == value for name, value in wanted.items()):
            return identity
    raise AssertionError(f"nobody with {wanted}")


def recolored(thing):
    """`thing` with every colour inverted: same shapes, other pixels."""
    if is_dataclass(thing):
        return replace(
            thing, **{field.name: recolored(getattr(thing, field.name)) for field in fields(thing) if field.init}
        )
    if isinstance(thing, tuple) and len(thing) == 3 and all(isinstance(value, int) for value in thing):
        return tuple((value + 128) % 256 for value in thing)
    return thing


@pytest.mark.parametrize("index", range(6))
def test_mask__is_exactly_where_the_person_changes_the_picture(index: int) -> None:
    identity, shot = person(SOURCE, 3, index), plan_shots(SOURCE, seed=3, person=index, count=8)[index]
    shot = replace(shot, light=4, weather=5)
    inverted = replace(identity, appearance=recolored(identity.appearance))
    pictures = [render_shot(who, shot, SOURCE) for who in (identity, inverted)]
    first, second = (np.asarray(picture.image, dtype=int) for picture in pictures)
    changed = np.abs(first - second).max(axis=2) > 8
    mask = pictures[0].mask
    assert set(np.unique(np.asarray(mask))) == {0, 255}
    inside, near = np.asarray(mask) > 0, np.asarray(mask.filter(ImageFilter.MaxFilter(3))) > 0
    # Eyes, lenses and rims keep their colour, and a colour may come out close to its inverse.
    assert changed[inside].mean() > 0.9
    assert not changed[~near].any()
    assert 0.1 < inside.mean() < 0.5


def test_view__shows_face_in_front_and_backpack_behind() -> None:
    carrier = someone_with(bag_kind="backpack", hat_kind="", glasses_kind="")
    front, back = draw(carrier, 0).pixels, draw(carrier, 180).pixels
    assert front[Part.EYE] > 0
    assert Part.EYE not in back
    assert back[Part.BAG] > 2 * front[Part.BAG]
    assert back[Part.HAIR] > front[Part.HAIR]


def test_view__side_is_narrower_and_opposite_sides_mirror_the_outline() -> None:
    standing, identity = Pose(stride=0.0, arms="hang"), someone_with(bag_kind="", upper_kind="t-shirt")
    front, right, left = (draw(identity, view, standing).alpha for view in (0, 90, 270))
    chest = slice(40, 60)
    assert right[chest].sum() < 0.75 * front[chest].sum()
    assert np.abs(right - left[:, ::-1]).mean() < 0.01


def test_view_degrees__matches_the_published_codes() -> None:
    assert {code: view_degrees(code) for code in (1, 10, 19, 28)} == {1: 90.0, 10: 180.0, 19: 270.0, 28: 0.0}
    assert sorted(view_degrees(code) for code in range(1, 37)) == [float(angle) for angle in range(0, 360, 10)]
    with pytest.raises(ValueError, match=r"1\.\.36"):
        view_degrees(37)


def band_colors(rgb: np.ndarray, weight: np.ndarray, bands: int = 8) -> np.ndarray:
    """Mean colour of the person in horizontal bands, from head to foot: float (bands, 3) of 0..255."""
    rows = np.flatnonzero(weight.sum(axis=1) > 0)
    parts = np.array_split(np.arange(rows[0], rows[-1] + 1), bands)
    return np.stack([(rgb[part] * weight[part, :, None]).sum((0, 1)) / weight[part].sum() for part in parts])


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of band colours, in grey levels."""
    return float(np.abs(first - second).mean())


def figure_bands(identity: Identity, pose: Pose) -> np.ndarray:
    figure = draw(identity, 20, pose)
    return band_colors(figure.rgb / np.maximum(figure.alpha, 1e-3)[..., None], figure.alpha)


def test_identities__with_equal_attributes_differ_more_than_one_person_between_steps() -> None:
    between, within = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        attributes = draw_attributes(rng)
        twins = [draw_identity(rng, attributes=attributes) for _ in range(2)]
        first, two = (figure_bands(twin, WALK) for twin in twins)
        between.append(distance(first, two))
        within.append(distance(first, figure_bands(twins[0], replace(WALK, phase=2.0))))
    assert np.median(between) > 3 * np.median(within)
    assert np.mean(np.array(between) > np.array(within)) >= 0.95


def test_cameras__change_a_person_more_than_her_next_step_does() -> None:
    def bands(number: int, camera: int, moment: int) -> np.ndarray:
        shot = replace(plan_shots(TARGET, seed=1, person=number, count=8)[0], camera=camera, light=4, view=10.0)
        calm = replace(TARGET, occlusion=0.0, exposure=0.0)
        picture = render_shot(person(TARGET, 1, number), replace(shot, seed=(1, number, moment)), calm)
        return band_colors(np.asarray(picture.image, dtype=float), np.asarray(picture.mask) / 255)

    across = [distance(bands(number, 1, 0), bands(number, 5, 0)) for number in range(8)]
    again = [distance(bands(number, 1, 0), bands(number, 1, 1)) for number in range(8)]
    assert np.median(across) > 2 * np.median(again)


def test_render_person__is_deterministic_at_any_size() -> None:
    for height, width in ((48, 24), (100, 52), (101, 53), (256, 128)):
        image, mask = render_person(2, seed=5, style=TARGET, image_height=height, image_width=width)
        again, _ = render_person(2, seed=5, style=TARGET, image_height=height, image_width=width)
        assert image.mode == "RGB"
        assert mask.mode == "L"
        assert image.size == mask.size == (width, height)
        assert image.tobytes() == again.tobytes()


@pytest.mark.parametrize(("height", "width"), [(47, 24), (192, 5), (5000, 96)])
def test_render_person__refuses_absurd_sizes(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=r"image_(height|width): expected .* received"):
        render_person(image_height=height, image_width=width)


def test_attributes__reject_unknown_values() -> None:
    row = draw_attributes(np.random.default_rng(0)).as_row()
    assert list(row) == list(ATTRIBUTE_VALUES)
    with pytest.raises(ValueError, match=r"attribute hat: expected .* received 'fez'"):
        type(draw_attributes(np.random.default_rng(0)))(**{**row, "hat": "fez"})


def test_people__of_other_seeds_and_styles_are_other_people() -> None:
    looks = {person(style, seed, 1).appearance for style in (SOURCE, TARGET) for seed in (0, 1)}
    assert len(looks) == 4


def test_plan_shots__are_all_different_and_bounded() -> None:
    shots = plan_shots(SOURCE, seed=0, person=4, count=60)
    assert len({(shot.camera, shot.weather, shot.light, shot.scene) for shot in shots}) == 60
    assert len({shot.camera for shot in shots}) == 36
    with pytest.raises(ValueError, match="images_per_id: expected at most 120"):
        plan_shots(TARGET, seed=0, person=1, count=121)


def test_weather_and_light__are_shown() -> None:
    identity, shot = person(SOURCE, 0, 1), plan_shots(SOURCE, seed=0, person=1, count=1)[0]

    def background(**conditions: int) -> np.ndarray:
        picture = render_shot(identity, replace(shot, **conditions), SOURCE)
        shown = np.array(picture.image, dtype=float)
        return shown[np.asarray(picture.mask.filter(ImageFilter.MaxFilter(5))) == 0]

    noon, midnight = (background(weather=5, light=light) for light in (4, 1))
    assert noon.mean() > 1.5 * midnight.mean()
    clear, fog = (background(weather=weather, light=4) for weather in (5, 4))
    assert fog.std() < 0.6 * clear.std()
