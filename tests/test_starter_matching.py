"""The stage that teaches the starter model's ITM head: what it sees, what it changes, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmet.data.synthetic import write_world
from mmet.starter.matching import (
    EncodedPairs,
    compare,
    draw_choices,
    fewest_strangers,
    main,
    nearest_strangers,
    teach,
)
from modeling_mmet import MMETForPreTraining

PERSONS, PICTURES = 40, 2
WIDTH = 32


def make_pairs(seed: int = 0) -> EncodedPairs:
    """Pictures and captions of two sources, whose class tokens agree in person but for noise."""
    rng = torch.Generator().manual_seed(seed)
    persons = torch.arange(PERSONS).repeat_interleave(PICTURES)
    traits = torch.randn(PERSONS, WIDTH, generator=rng)[persons]
    image, text = (traits + 0.5 * torch.randn(traits.shape, generator=rng) for _ in range(2))
    return EncodedPairs(
        image_tokens=image,
        text_tokens=text,
        image_embeddings=F.normalize(image),
        text_embeddings=F.normalize(text),
        pictures=torch.arange(len(persons)),
        persons=persons,
        sources=(persons >= PERSONS // 4).long(),
    )


@pytest.fixture
def comparison(make_config) -> torch.nn.Module:
    torch.manual_seed(0)
    config = make_config(matching_comparison_size=32, encoder={"hidden_size": WIDTH})
    return MMETForPreTraining(config).itm_head.comparison


def test_nearest_strangers__others_of_the_captions_source():
    pairs = make_pairs()
    assert fewest_strangers(pairs) == PICTURES * (PERSONS // 4 - 1)
    nearest = nearest_strangers(pairs, 10)
    cosines = (pairs.text_embeddings @ pairs.image_embeddings.T).numpy()
    for caption, found in enumerate(nearest):
        shown = pairs.pictures[caption]
        others = np.flatnonzero((pairs.persons != pairs.persons[shown]) & (pairs.sources == pairs.sources[shown]))
        assert sorted(found) == sorted(others[np.argsort(-cosines[caption, others])][:10])


def test_fewest_strangers__two_persons_are_needed():
    pairs = make_pairs()
    with pytest.raises(ValueError, match="at least two persons in each source"):
        fewest_strangers(replace(pairs, persons=pairs.sources))


def test_draw_choices__the_right_person_first_and_others_of_the_source_after():
    pairs = make_pairs()
    captions = np.arange(len(pairs.pictures))
    choices = draw_choices(pairs, nearest_strangers(pairs, 10), captions, 5, np.random.default_rng(0))
    same = pairs.persons.numpy()[choices] == pairs.persons.numpy()[pairs.pictures[captions]][:, None]
    assert same[:, 0].all()
    assert not same[:, 1:].any()
    assert (pairs.sources.numpy()[choices] == pairs.sources.numpy()[:, None]).all()
    assert len(np.unique(choices[:, 1])) > 30  # one in five comes from all pictures


def test_teach__learns_to_match_people_that_it_has_not_seen(comparison):
    settings = {"captions_per_step": 16, "negatives": 7, "seed": 0, "learning_rate": 3e-3}
    assert teach(comparison, make_pairs(), steps=1, **settings) == 0  # it starts at zero: all scores are equal
    assert teach(comparison, make_pairs(), steps=200, **settings) > 0.9
    unseen = make_pairs(seed=1)
    captions = np.arange(len(unseen.pictures))
    choices = draw_choices(unseen, nearest_strangers(unseen, 10), captions, 7, np.random.default_rng(0))
    logits = compare(comparison, unseen, captions, choices)
    alone = comparison(unseen.image_tokens[choices[3, [2]]], unseen.text_tokens[[3]])
    torch.testing.assert_close(logits[3, 2], alone[0])
    first = logits.diff(dim=-1).squeeze(-1).argmax(dim=1) == 0
    assert first.float().mean() > 0.5  # one in eight by chance


def test_command__a_folder_that_differs_in_the_comparison_alone(tmp_path, make_config, processor, capsys):
    run = tmp_path / "run"
    MMETForPreTraining(make_config()).save_pretrained(run)
    processor.save_pretrained(run)
    write_world("finegpr", tmp_path / "world", num_ids=4, images_per_id=2, image_height=64, image_width=32)
    arguments = [str(run), "--data", f"finegpr={tmp_path / 'world'}", "--negatives", "5", "--comparison_size", "8"]
    arguments += ["--steps", "3", "--captions_per_step", "4", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    first, last = (MMETForPreTraining.from_pretrained(folder) for folder in (run, tmp_path / "out"))
    assert last.config.matching_comparison_size == 8
    states = first.state_dict()
    same = {name for name, value in last.state_dict().items() if name in states and torch.equal(value, states[name])}
    assert same == states.keys()
    assert last.itm_head.comparison.fc2.weight.abs().sum() > 0
    capsys.readouterr()
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert main([str(tmp_path), *arguments[1:-1], str(tmp_path / "other")]) == 2
    assert "config.json" in capsys.readouterr().err


def exit_code(arguments: list[str]) -> int | str | None:
    """The command's exit code, also where argparse ends it."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--steps", "0"], "argument --steps: expected a whole number of at least 1"),
        (["--negatives", "-3"], "argument --negatives: expected a whole number of at least 1"),
        (["--data", "finegpr=/none"], "--data: FineGPR: /none does not exist"),
        (["--data", "market1501={world}"], "--data: "),
        (["--data", "finegpr"], "--data: "),
    ],
)
def test_command__wrong_input_is_one_message(tmp_path, make_config, processor, capsys, changed, message):
    run = tmp_path / "run"
    MMETForPreTraining(make_config()).save_pretrained(run)
    processor.save_pretrained(run)
    write_world("finegpr", tmp_path / "world", num_ids=2, images_per_id=2, image_height=64, image_width=32)
    changed = [argument.format(world=tmp_path / "world") for argument in changed]
    arguments = [str(run), "--data", f"finegpr={tmp_path / 'world'}", "--output", str(tmp_path / "out"), *changed]
    capsys.readouterr()
    assert exit_code(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_command__leaves_broken_pictures_out_and_says_so(tmp_path, make_config, processor, caplog):
    run = tmp_path / "run"
    MMETForPreTraining(make_config()).save_pretrained(run)
    processor.save_pretrained(run)
    write_world("finegpr", tmp_path / "world", num_ids=2, images_per_id=2, image_height=64, image_width=32)
    broken = sorted((tmp_path / "world").rglob("*.jpg"))[1]
    broken.write_bytes(broken.read_bytes()[:400])
    data = ["--data", f"finegpr={tmp_path / 'world'}", "--steps", "1"]
    assert main([str(run), *data, "--output", str(tmp_path / "out")]) == 0
    assert broken.name in caplog.text
    assert "3 images" in caplog.text
