"""Lifelike people: who they are, what tells twins apart, what captions say, and what part masks show."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmet.data.synthetic import (
    CAMPUS,
    PART_CLASSES,
    PLAZA,
    STREET,
    TARGET,
    Person,
    Picture,
    WorldStyle,
    plan_shots,
    render_shot,
    write_world,
)
from mmet.data.synthetic import person as person_of
from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.captions import tokenize, write_captions
from mmet.data.synthetic.lifelike.body import Body
from mmet.data.synthetic.lifelike.people import CUTS, draw_person, draw_twin
from mmet.data.synthetic.lifelike.places import place
from mmet.data.synthetic.lifelike.poses import draw_posture, place_joints
from mmet.data.synthetic.lifelike.relief import Lens, Relief
from mmet.data.synthetic.lifelike.shades import SHADES, draw_rgb
from mmet.data.synthetic.lifelike.wardrobe import BAG_WORDS, HAIR_WORDS, HAT_WORDS, SHOE_WORDS
from mmet.data.synthetic.observation import Observation
from mmet.data.synthetic.style import PLAIN_STYLES
from mmet.data.synthetic.video import write_films

STYLES = (STREET, PLAZA, CAMPUS)
OPEN = replace(STREET, occlusion=0.0, crop=0.0, lookalikes=0.0)


def take(style: WorldStyle, number: int, index: int = 0, height: int = 80, width: int = 40) -> tuple[Person, Picture]:
    """A person and one picture of them."""
    who = person_of(style, 3, number)
    assert isinstance(who, Person)
    shot = plan_shots(style, seed=3, person=number, count=index + 1)[index]
    return who, render_shot(who, shot, style, height=height, width=width)


def test_render_shot__equal_arguments_give_equal_pixels_of_the_size_asked_for() -> None:
    first, again = (take(STREET, 5, height=96, width=40)[1] for _ in range(2))
    assert first.image.size == first.mask.size == first.parts.size == (40, 96)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.parts.tobytes() == again.parts.tobytes()


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_places__each_can_be_painted(style: WorldStyle) -> None:
    for camera in style.cameras[::3]:
        (name,) = camera.scenes
        assert np.asarray(place(name, 1, camera.elevation, "hall" in name)).std() > 1


def test_part_masks__lie_within_the_silhouette_and_show_what_is_worn() -> None:
    shown: Counter[str] = Counter()
    names = {number: name for name, number in PART_CLASSES.items()}
    for number in range(1, 41):
        who, picture = take(OPEN, number)
        parts, mask = np.asarray(picture.parts), np.asarray(picture.mask)
        assert set(np.unique(parts)) <= set(names)
        assert not parts[mask == 0].any()
        seen = {names[value] for value in np.unique(parts)}
        look = who.appearance
        for name, worn in (("bag", look.bag), ("hat", look.hat), ("scarf", look.scarf), ("thing", look.carried)):
            assert worn or name not in seen
        assert look.lower or look.outer or "lower" not in seen
        shown.update(seen)
    assert all(shown[name] >= 30 for name in ("upper", "lower", "shoes"))
    assert shown.keys() == set(names.values())


def _middle_row(shown: np.ndarray) -> float:
    rows = np.nonzero(shown)[0]
    return float(rows.mean()) if rows.size else float("nan")


def test_part_masks__head_above_jacket_above_trousers_above_shoes() -> None:
    order = []
    for number in range(1, 31):
        parts = np.asarray(take(OPEN, number)[1].parts)
        order.append([_middle_row(parts == PART_CLASSES[name]) for name in ("face", "upper", "lower", "shoes")])
    middle = np.nanmedian(np.asarray(order), axis=0)
    assert (np.diff(middle) > 5).all()


def test_part_masks__colour_of_the_jacket_is_that_of_the_garment() -> None:
    plain = replace(OPEN, cameras=(replace(STREET.cameras[0], gain=(1, 1, 1), gamma=1, saturation=1, contrast=1),))
    for shade, channel in (("red", 0), ("green", 1), ("blue", 2)):
        who = person_of(plain, 3, 4)
        assert isinstance(who, Person)
        top = replace(
            who.appearance.outermost, shade=shade, rgb=draw_rgb(np.random.default_rng(0), shade), opened=False
        )
        look = replace(who.appearance, outer=replace(top, kind="jacket", pattern="plain"))
        shot = plan_shots(plain, seed=3, person=4, count=1)[0]
        picture = render_shot(Person(4, look), shot, plain, height=80, width=40)
        inside = np.asarray(picture.parts) == PART_CLASSES["upper"]
        assert np.asarray(picture.image)[inside].mean(axis=0).argmax() == channel


def test_part_masks__of_plain_people_too() -> None:
    who = person_of(TARGET, 1, 2)
    picture = render_shot(who, plan_shots(TARGET, seed=1, person=2, count=1)[0], TARGET, height=96, width=48)
    parts, mask = np.asarray(picture.parts), np.asarray(picture.mask)
    assert {PART_CLASSES["upper"], PART_CLASSES["face"]} & set(np.unique(parts))
    assert not parts[mask == 0].any()


def test_draw_twin__differs_in_one_thing() -> None:
    rng = np.random.default_rng(0)
    changed: Counter[frozenset[str]] = Counter()
    for number in range(150):
        model = draw_person(rng, number=number)
        look, other = model.appearance, draw_twin(rng, model, number=999).appearance
        names = {field.name for field in fields(look) if getattr(look, field.name) != getattr(other, field.name)}
        changed[frozenset(names - {"hair_color", "hair_rgb", "hood_up"}) or frozenset({"hair"})] += 1
    assert all(len(names) == 1 for names in changed), changed
    assert {"top", "outer", "lower", "shoes", "bag", "hat", "hair", "scarf"} == frozenset().union(*changed)


def test_swapped__the_same_clothes_with_both_colours_exchanged() -> None:
    style = replace(STREET, lookalikes=1.0, swapped=1.0)
    swapped = 0
    for number in range(2, 80, 4):  # people come in families of four, whose first one the others resemble
        model, other = (person_of(style, 5, n).appearance for n in (number - 1, number))
        if model.lower is None or model.lower.shade == model.outermost.shade:
            assert other != model
            continue
        swapped += 1
        assert (other.outermost.kind, other.lower.kind) == (model.outermost.kind, model.lower.kind)
        assert (other.outermost.rgb, other.lower.rgb) == (model.lower.rgb, model.outermost.rgb)
        assert (other.outermost.shade, other.lower.shade) == (model.lower.shade, model.outermost.shade)
        assert (other.shoes, other.hat, other.bag, other.hair) == (model.shoes, model.hat, model.bag, model.hair)
    assert swapped > 10


def test_skirts__more_of_them_and_other_clothes_as_before() -> None:
    def share(factor: float) -> float:
        looks = [draw_person(np.random.default_rng(n), number=n, skirts=factor).appearance for n in range(300)]
        worn = [look.lower.kind for look in looks if look.gender == "female" and look.lower is not None]
        assert not [
            look for look in looks if look.gender == "male" and look.lower and look.lower.kind.endswith("skirt")
        ]
        return sum(kind.endswith("skirt") for kind in worn) / len(worn)

    assert 0.1 < share(1.0) < 0.3  # 5.5 of 26.2, and fewer in summer
    assert share(1.0) + 0.12 < share(3.0) < 0.6
    assert share(0.0) == 0
    assert draw_person(np.random.default_rng(3), skirts=1.0) == draw_person(np.random.default_rng(3))


def test_lookalike_rate__share_of_twins() -> None:
    twins = 0
    style = replace(STREET, lookalikes=0.5)
    for number in range(1, 201):
        person, other = (person_of(replace(style, lookalikes=rate), 0, number) for rate in (0.0, 0.5))
        twins += person != other
    assert 50 <= twins <= 100  # half of three of four


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_captions__name_what_is_seen_in_peoples_words(style: WorldStyle) -> None:
    words: Counter[str] = Counter()
    captions = set()
    for number in range(1, 400):
        who = person_of(style, 0, number)
        shot = plan_shots(style, seed=0, person=number, count=1)[0]
        drawn = write_captions(
            Observation(who, shot, dict.fromkeys(Part, 9)), style.captions, np.random.default_rng(number)
        )
        captions.update(drawn)
        for caption in drawn:
            assert 1 <= len(tokenize(caption)) <= 36
            words.update(set(tokenize(caption)))
    assert len(captions) > 700
    assert not {"no", "not", "without", "none"} & words.keys()
    synonyms = {"crimson", "navy", "burgundy", "charcoal", "olive", "teal", "beige", "maroon", "khaki", "tan", "grey"}
    assert len(synonyms & words.keys()) >= 9
    assert {"person", "someone"} <= words.keys()


def test_captions__say_nothing_about_what_is_not_seen() -> None:
    for number in range(1, 60):
        who = person_of(STREET, 0, number)
        assert isinstance(who, Person)
        shot = plan_shots(STREET, seed=0, person=number, count=1)[0]
        observation = Observation(who, shot, {Part.FACE: 100, Part.UPPER: 300})
        for caption in write_captions(observation, "witness", np.random.default_rng(number), count=4):
            words = set(tokenize(caption))
            for things in (BAG_WORDS["backpack"], HAT_WORDS["beanie"], SHOE_WORDS["trainers"]):
                assert not words & {word for word in things if " " not in word and word != "hat"}


def test_captions__trousers_alone_are_searched_for_too() -> None:
    shares = {}
    for phrasing in ("witness", "notice", "chat"):
        alone = total = 0
        for number in range(1, 150):
            who = draw_person(np.random.default_rng(number), number=number)
            look = who.appearance
            if look.lower is None:
                continue
            shot = plan_shots(STREET, seed=0, person=number, count=1)[0]
            observation = Observation(who, shot, dict.fromkeys(Part, 9))
            for caption in write_captions(observation, phrasing, np.random.default_rng(number), count=4):
                names = [
                    any(word in caption.lower() for word in cut.words) for cut in (look.lower.cut, look.outermost.cut)
                ]
                alone += names == [True, False]
                total += 1
        shares[phrasing] = alone / total
    assert min(shares["witness"], shares["notice"]) > shares["chat"] + 0.04, shares


def test_wardrobe__every_kind_can_be_drawn_with_words() -> None:
    rng = np.random.default_rng(1)
    for kind, cut in CUTS.items():
        assert cut.words
        assert cut.hem[0] <= cut.hem[1], kind
        assert cut.colors is None or cut.colors.keys() <= SHADES.keys()
    assert all(set(shade.near) <= SHADES.keys() for shade in SHADES.values())
    drawn = [draw_person(rng).appearance for _ in range(1500)]
    kinds = {garment.kind for look in drawn for garment in (look.top, look.outer, look.lower) if garment}
    assert kinds == CUTS.keys()
    assert {look.hair for look in drawn} == HAIR_WORDS.keys()


def test_relief__nearer_surface_wins_and_normals_point_outwards() -> None:
    relief = Relief(40, 40)
    relief.sweep((20, 20, 0), (20, 20, 0), (10, 10, 10), 1.0, 1)
    relief.sweep((20, 20, 5), (20, 20, 5), (4, 4, 4), 1.0, 2)  # its front is at 9: behind the other's at 10
    assert relief.surface[20, 20] == 1
    relief.sweep((20, 20, 8), (20, 20, 8), (4, 4, 4), 1.0, 3)
    assert relief.surface[20, 20] == 3
    assert relief.nx[20, 28] > 0.8
    assert relief.ny[12, 20] < -0.7
    assert relief.surface[0, 0] == 0
    assert (relief.surface > 0).sum() == pytest.approx(np.pi * 100, rel=0.05)


def test_relief__sweep_of_a_growing_sphere() -> None:
    relief = Relief(30, 60)
    relief.sweep((10, 15, 0), (45, 15, 0), (4, 4, 4), 2.5, 1, along=(0.2, 0.9))
    assert (relief.surface[:, 10] > 0).sum() == pytest.approx(8, abs=1)
    assert (relief.surface[:, 45] > 0).sum() == pytest.approx(20, abs=1)
    assert relief.along[15, 10] == pytest.approx(0.2, abs=0.02)
    assert relief.along[15, 45] == pytest.approx(0.9, abs=0.02)


def test_lens__from_above_the_legs_are_shorter() -> None:
    lengths = []
    for degrees in (0, 50):
        lens = Lens(0.3, np.radians(degrees), 0.0, 100, (50, 95), 0.0)
        (_, top, _), (_, low, _) = lens((0.0, 0.5, 0.0)), lens((0.0, 0.0, 0.0))
        lengths.append(low - top)
    assert lengths[1] == pytest.approx(lengths[0] * np.cos(np.radians(50)))


def test_body__left_hand_is_on_the_right_of_a_front_view() -> None:
    rng = np.random.default_rng(2)
    look = replace(draw_person(rng).appearance, bag=None, carried=None, side=1)
    posture = replace(draw_posture(rng, look), arms=("hang", "hang"))
    joints = place_joints(look.build, posture)
    relief = Relief(120, 80)
    lens = Lens(0.0, 0.1, 0.0, 100, (40, 112), 0.0)
    Body(look, joints, posture, lens, relief).build()
    assert lens(joints.wrists[1])[0] > lens(joints.wrists[0])[0]
    assert (relief.surface > 0).any()


@pytest.mark.parametrize(
    ("layout", "folder", "images"), [("finegpr", "FineGPR_parts", "FineGPR"), ("folder", "parts", ".")]
)
def test_write_world__part_masks_beside_the_pictures(layout: str, folder: str, images: str, tmp_path: Path) -> None:
    counts = {"num_ids": 2} if layout == "finegpr" else {"num_train_ids": 1, "num_test_ids": 1, "untidy_rate": 0.0}
    size = {"images_per_id": 3, "image_height": 64, "image_width": 32}
    write_world(layout, tmp_path / "with", style="street", part_masks=True, **size, **counts)  # type: ignore[arg-type]
    write_world(layout, tmp_path / "without", style="street", **size, **counts)  # type: ignore[arg-type]
    masks = sorted((tmp_path / "with" / folder).rglob("*.png"))
    assert len(masks) >= 6
    for path in masks:
        picture = tmp_path / "with" / images / path.relative_to(tmp_path / "with" / folder).with_suffix(".jpg")
        assert picture.is_file()
        assert np.asarray(Image.open(path)).max() <= max(PART_CLASSES.values())
    assert not (tmp_path / "without" / folder).exists()
    for path in (tmp_path / "without").rglob("*.jpg"):
        assert path.read_bytes() == (tmp_path / "with" / path.relative_to(tmp_path / "without")).read_bytes()


def test_write_world__part_masks_where_the_dataset_has_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="part_masks: Market-1501 has none; expected False"):
        write_world("market1501", tmp_path / "world", part_masks=True)


def test_write_films__lifelike_people_are_for_pictures(tmp_path: Path) -> None:
    assert "street" not in PLAIN_STYLES
    with pytest.raises(ValueError, match=r"style: expected one of .*target.*received .street."):
        write_films(tmp_path / "films", style="street")
