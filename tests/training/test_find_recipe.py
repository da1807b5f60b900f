"""Shipped recipes are found by name and by the path that documents show, from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmet.training.arguments import parse_arguments
from mmet.training.command import main
from mmet.training.recipes import find_recipe, recipe_names, recipes_folder

CHECKOUT = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["demo", "recipes/demo.yaml", "./recipes/demo.yaml"])
def test_find_recipe__the_shipped_one_from_any_folder(name, elsewhere):
    assert find_recipe(name) == CHECKOUT / "demo.yaml"


def test_find_recipe__every_shipped_recipe_has_a_name():
    assert recipes_folder() == CHECKOUT
    assert recipe_names() == sorted(path.stem for path in CHECKOUT.glob("*.yaml"))
    assert all(find_recipe(name) == CHECKOUT / f"{name}.yaml" for name in recipe_names())


@pytest.mark.parametrize("name", ["recipes/demo.yaml", "demo.yaml", "own/demo.yaml"])
def test_find_recipe__a_file_that_is_there_comes_first(name, elsewhere):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("seed: 1", encoding="utf-8")
    assert find_recipe(name) == Path(name)


@pytest.mark.parametrize("name", ["demo.yaml", "own/demo.yaml", "recipes/absent.yaml", "recipes/../demo.yaml"])
def test_find_recipe__other_paths_are_taken_as_they_are(name, elsewhere):
    assert find_recipe(name) == Path(name)


@pytest.mark.parametrize("name", ["demoo", "", "a\0b", "..", "accelerate"])
def test_find_recipe__an_unknown_name_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"there is no recipe .*one of demo, lora, paper_text, .*ends in \.yaml"):
        find_recipe(name)


def test_find_recipe__suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'demo'"):
        find_recipe("demoo")


def test_parse_arguments__a_name_gives_the_fields_of_the_file(elsewhere):
    by_name, by_path = parse_arguments(["demo", "--seed", "3"]), parse_arguments([str(CHECKOUT / "demo.yaml")])
    assert by_name[:3] == by_path[:3]
    assert by_name[3].seed == 3


def test_main__lists_recipes_and_their_folder(capsys):
    assert main(["--list_recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == recipe_names()
    assert lines[-1] == f"in {CHECKOUT}"
    assert "The demo: the whole method" in lines[0]


def test_main__an_unknown_name_is_one_line(capsys):
    assert main(["demoo"]) == 2
    start = "run_pretrain.py: error: there is no recipe 'demoo'; did you mean 'demo'?"
    assert capsys.readouterr().err.startswith(start)
