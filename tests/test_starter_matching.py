"""The stage that teaches the starter model's ITM head: what it sees, what it changes, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmet.data.synthetic import write_world
from mmet.starter.matching import EncodedPairs, draw_choices, main, matching_logits, nearest_strangers, teach
from modeling_mmet import MMETForPreTraining

PERSONS, PICTURES = 40, 2
WIDTH = 32


def make_pairs(model: MMETForPreTraining, seed: int = 0) -> EncodedPairs:
    """Pictures and captions whose class tokens, after the model's projections, agree in person but for noise."""
    rng = torch.Generator().manual_seed(seed)
    persons = torch.arange(PERSONS).repeat_interleave(PICTURES)
    traits = torch.randn(PERSONS, WIDTH, generator=rng)[persons]
    mmet = model.mmet
    with torch.no_grad():
        mmet.image_to_multimodal.weight.copy_(torch.eye(WIDTH))
        mmet.text_to_multimodal.weight.copy_(torch.eye(WIDTH))
    image, text = (traits + 0.3 * torch.randn(traits.shape, generator=rng) for _ in range(2))
    return EncodedPairs(
        image_states=image[:, None].repeat(1, 3, 1).half(),
        text_states=text[:, None].repeat(1, 4, 1).half(),
        attention_mask=torch.ones(len(text), 4, dtype=torch.bool),
        image_embeddings=F.normalize(image),
        text_embeddings=F.normalize(text),
        pictures=torch.arange(len(persons)),
        persons=persons,
    )


@pytest.fixture
def model(make_config) -> MMETForPreTraining:
    torch.manual_seed(0)
    return MMETForPreTraining(make_config(matching_comparison_size=16, encoder={"hidden_size": WIDTH})).eval()


def test_nearest_strangers__never_the_captions_own_person(model):
    pairs = make_pairs(model)
    nearest = nearest_strangers(pairs, 10)
    cosines = (pairs.text_embeddings @ pairs.image_embeddings.T).numpy()
    for caption, found in enumerate(nearest):
        others = np.flatnonzero(pairs.persons != pairs.persons[pairs.pictures[caption]])
        best = others[np.argsort(-cosines[caption, others])][:10]
        assert sorted(found) == sorted(best)


def test_draw_choices__the_right_person_first_and_others_after(model):
    pairs = make_pairs(model)
    captions = np.arange(len(pairs.pictures))
    choices = draw_choices(pairs, nearest_strangers(pairs, 10), captions, 5, np.random.default_rng(0))
    same = pairs.persons.numpy()[choices] == pairs.persons.numpy()[pairs.pictures[captions]][:, None]
    assert same[:, 0].all()
    assert not same[:, 1:].any()
    assert len(np.unique(choices[:, 1])) > 30  # one in five comes from all pictures


def test_matching_logits__those_of_the_model(model):
    pairs = make_pairs(model)
    torch.nn.init.normal_(model.itm_head.comparison.fc2.weight)
    pairs = replace(pairs, attention_mask=pairs.attention_mask & (torch.arange(4) < 3))
    logits = matching_logits(model, pairs, np.array([3, 5]), np.array([[0, 1, 2], [7, 8, 9]]))
    assert logits.shape == (2, 3, 2)
    states = pairs.image_states[[8]].float(), pairs.text_states[[5], :3].float()
    fused = model.mmet.fuse(*states).last_hidden_state[:, 0]
    torch.testing.assert_close(logits[1, 1], model.matching_logits(fused, *states)[0], atol=1e-5, rtol=1e-4)


def test_teach__learns_to_match_and_changes_nothing_else(model):
    pairs, before = make_pairs(model), {name: value.clone() for name, value in model.state_dict().items()}
    settings = {"captions_per_step": 16, "negatives": 7, "seed": 0, "learning_rate": 3e-3}
    untrained = teach(model, pairs, steps=1, **settings)
    assert untrained < 0.5
    assert teach(model, pairs, steps=150, **settings) > 0.9
    unseen = make_pairs(model, seed=1)
    captions = np.arange(len(unseen.pictures))
    choices = draw_choices(unseen, nearest_strangers(unseen, 10), captions, 7, np.random.default_rng(0))
    log_odds = matching_logits(model, unseen, captions, choices).diff(dim=-1).squeeze(-1)
    assert (log_odds.argmax(dim=1) == 0).float().mean() > 0.6  # one in eight by chance, on people it has not seen
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} <= {"itm_head", "mmet"}
    assert {name for name in changed if name.startswith("mmet")} <= {
        "mmet.image_to_multimodal.weight",
        "mmet.text_to_multimodal.weight",
    }  # by make_pairs


def test_command__a_folder_that_differs_in_the_head_alone(tmp_path, make_config, processor, capsys):
    run = tmp_path / "run"
    MMETForPreTraining(make_config()).save_pretrained(run)
    processor.save_pretrained(run)
    write_world("finegpr", tmp_path / "world", num_ids=4, images_per_id=2, image_height=64, image_width=32)
    arguments = [
        str(run),
        "--data",
        f"finegpr={tmp_path / 'world'}",
        "--steps",
        "3",
        "--captions_per_step",
        "4",
    ]
    arguments += ["--negatives", "5", "--comparison_size", "8", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    first, last = (MMETForPreTraining.from_pretrained(folder) for folder in (run, tmp_path / "out"))
    assert last.config.matching_comparison_size == 8
    states = first.state_dict()
    same = {name for name, value in last.state_dict().items() if name in states and torch.equal(value, states[name])}
    assert {name.split(".")[0] for name in states.keys() - same} == {"itm_head"}
    assert last.itm_head.comparison.fc2.weight.abs().sum() > 0
    capsys.readouterr()
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert main([str(tmp_path), *arguments[1:-1], str(tmp_path / "other")]) == 2
    assert "config.json" in capsys.readouterr().err
