"""What makes synthetic worlds hard: cut boxes, things in front, people who look alike, words never heard before."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mmet.data.synthetic import (
    INDOOR,
    NIGHT,
    SOURCE,
    STYLES,
    TARGET,
    Picture,
    WorldStyle,
    command_options,
    plan_shots,
    render_shot,
    write_world,
)
from mmet.data.synthetic import person as person_of
from mmet.data.synthetic.__main__ import main
from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.captions import tokenize, write_captions
from mmet.data.synthetic.layouts.takes import FAMILY
from mmet.data.synthetic.observation import Observation
from mmet.data.synthetic.occluders import OCCLUDERS, draw_occluder

TARGETS = (TARGET, NIGHT, INDOOR)


def pictures(style: WorldStyle, people: int = 40) -> list[Picture]:
    """One picture of each of the first people."""
    shots = [plan_shots(style, seed=1, person=number, count=1)[0] for number in range(1, people + 1)]
    return [
        render_shot(person_of(style, 1, number), shot, style, height=96, width=48)
        for number, shot in enumerate(shots, start=1)
    ]


@cache
def vocabulary(style: WorldStyle, people: int = 700) -> set[str]:
    """Words of two captions of each of many people, all of whose parts can be seen."""
    words: set[str] = set()
    for number in range(1, people + 1):
        shot = plan_shots(style, seed=0, person=number, count=1)[0]
        observation = Observation(person_of(style, 0, number), shot, dict.fromkeys(Part, 100))
        for caption in write_captions(observation, style.captions, np.random.default_rng(number)):
            words.update(tokenize(caption))
    return words


def test_crop_rate__cuts_its_share_of_pictures_and_leaves_the_others_as_they_were() -> None:
    plain = replace(TARGET, crop=0.0, occlusion=0.0, body_share=(0.8, 0.8), jitter=0.0)
    whole, cut, half = (pictures(replace(plain, crop=rate)) for rate in (0.0, 1.0, 0.5))
    touched = [np.asarray(picture.mask)[[0, -1]].any(axis=1) for picture in cut]
    assert not any(np.asarray(picture.mask)[[0, -1]].any() for picture in whole)
    assert all(head != feet for head, feet in touched), "a cut box misses either the head or the feet"
    assert 15 < sum(feet for _, feet in touched) < 36
    kept = [take.image == other.image for take, other in zip(whole, half, strict=True)]
    assert all(same or take.image == other.image for same, take, other in zip(kept, cut, half, strict=True))
    assert 8 < sum(kept) < 32


def test_crop_rate__takes_hidden_shoes_out_of_what_is_seen() -> None:
    style = replace(TARGET, crop=1.0, occlusion=0.0)
    shoes = [picture.pixels.get(Part.SHOE, 0) for picture in pictures(style)]
    assert sum(count == 0 for count in shoes) > 12


def test_occlusion_rate__hides_a_part_of_the_person() -> None:
    free, covered = (pictures(replace(INDOOR, occlusion=rate, crop=0.0)) for rate in (0.0, 1.0))
    areas = np.array([[np.count_nonzero(picture.mask) for picture in row] for row in (free, covered)])
    assert (areas[1] <= areas[0]).all()
    assert (areas[1] < areas[0]).mean() > 0.6
    assert (areas[1] > 0.3 * areas[0]).all()


@pytest.mark.parametrize("name", sorted(OCCLUDERS))
def test_occluder__covers_something_but_not_everything(name: str) -> None:
    covers = [draw_occluder((name,), np.random.default_rng(seed), 96, 48) for seed in range(12)]
    for cover in covers:
        assert cover.alpha.shape == (96, 48)
        assert 0 <= cover.alpha.min() <= cover.alpha.max() <= 1
        assert (cover.rgb <= 255 * cover.alpha[..., None] + 1e-3).all()
        assert cover.alpha.mean() < 0.6
    assert sum(cover.alpha.mean() > 0.01 for cover in covers) >= 10


def test_lookalikes__share_clothes_and_all_but_two_attributes_with_the_first_of_their_family() -> None:
    style = replace(SOURCE, lookalikes=1.0)
    for number in range(1, 41):
        first = 1 + (number - 1) // FAMILY * FAMILY
        person, model = person_of(style, 0, number), person_of(style, 0, first)
        assert person.number == number
        if number == first:
            assert person == person_of(SOURCE, 0, number)
            continue
        rows = person.attributes.as_row(), model.attributes.as_row()
        different = {name for name in rows[0] if rows[0][name] != rows[1][name]}
        assert len(different) == 2
        assert different <= {"glasses", "hat", "bag", "shoes"}
        assert (person.appearance.upper, person.appearance.lower) == (model.appearance.upper, model.appearance.lower)
        assert person.appearance.body != model.appearance.body
        assert bool(person.appearance.bag_kind) == (person.attributes.bag == "yes")


def test_lookalike_rate__is_the_share_of_those_who_could() -> None:
    style = replace(SOURCE, lookalikes=0.3)
    could = [number for number in range(1, 1201) if number % FAMILY != 1]
    alike = sum(person_of(style, 0, number) != person_of(SOURCE, 0, number) for number in could)
    assert alike / len(could) == pytest.approx(0.3, abs=0.05)


def test_worlds__share_no_place_and_no_person() -> None:
    places = {style.name: {place for camera in style.cameras for place in camera.scenes} for style in STYLES.values()}
    names = list(places)
    for index, world in enumerate(names):
        assert all(not places[world] & places[other] for other in names[index + 1 :])
    looks = {person_of(style, seed, 1).appearance for style in STYLES.values() for seed in (0, 1)}
    assert len(looks) == 2 * len(STYLES)


def test_target_captions__hold_words_that_no_source_caption_holds() -> None:
    source = vocabulary(SOURCE)
    known = {
        "target": {"pants", "pullover", "jumper", "rucksack", "lady", "guy", "purse", "violet", "plaid", "spectacles"},
        "night": {"slacks", "jersey", "knapsack", "crimson", "navy", "charcoal", "frock", "eyewear", "gentleman"},
        "indoor": {"bottoms", "pullover", "rucksack", "ruby", "cobalt", "mocha", "gown", "specs", "bloke", "lass"},
    }
    for style in TARGETS:
        words = vocabulary(style)
        assert known[style.name] <= words
        assert not known[style.name] & source
        assert len(words - source) > 40


@pytest.mark.parametrize("style", [NIGHT, INDOOR], ids=lambda style: style.name)
def test_dialects__say_garments_and_colours_in_words_of_their_own(style: WorldStyle) -> None:
    from mmet.data.synthetic.dialects import DIALECTS

    source = vocabulary(SOURCE)
    for word, others in DIALECTS[style.captions].words.items():
        for other in others:
            assert not set(tokenize(other)) - {"with"} & source, (word, other)


@pytest.mark.parametrize("style", [NIGHT, INDOOR], ids=lambda style: style.name)
def test_dialects__give_readable_and_varied_sentences(style: WorldStyle) -> None:
    shot = plan_shots(style, seed=0, person=1, count=1)[0]
    captions = []
    for number in range(1, 200):
        observation = Observation(person_of(style, 0, number), shot, dict.fromkeys(Part, 100))
        captions += write_captions(observation, style.captions, np.random.default_rng(number))
    assert len(set(captions)) > 0.95 * len(captions)
    for caption in captions:
        assert caption[0].isupper()
        assert caption.endswith(".")
        assert 3 <= len(caption.split()) <= 34
        assert not {"{", "}", "  ", " ,", ",,", "a a", "a e"} & {caption[i : i + 2] for i in range(len(caption))}


def test_rates__are_in_the_provenance_only_where_they_differ_and_the_command_gives_the_world_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"num_ids": 2, "images_per_id": 2, "image_height": 64, "image_width": 32}
    write_world("finegpr", tmp_path / "plain", **small)
    arguments = json.loads((tmp_path / "plain" / "SYNTHETIC.json").read_text())["arguments"]
    assert not {"form", "untidy_rate", "shadow_files", "keypoints"} & arguments.keys()
    assert not {"crop", "lookalikes", "occluders"} & arguments["style"].keys()
    hard = {"occlusion_rate": 0.5, "crop_rate": 0.25, "lookalike_rate": 1.0, "form": "subset"}
    hard |= {"shadow_files": True, "keypoints": True}
    write_world("finegpr", tmp_path / "hard", **small, **hard)
    arguments = json.loads((tmp_path / "hard" / "SYNTHETIC.json").read_text())["arguments"]
    options = command_options(arguments)
    assert {name: options[name] for name in ("occlusion_rate", "crop_rate", "lookalike_rate", "form")} == {
        name: hard[name] for name in ("occlusion_rate", "crop_rate", "lookalike_rate", "form")
    }
    words = [f"--{name}" + ("" if value is None else f" {value}") for name, value in options.items()]
    main([*shlex.split(" ".join(words)), "--output", str(tmp_path / "hard")])
    assert capsys.readouterr().out.strip().endswith("already written")
