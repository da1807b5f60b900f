"""The recipes that come with MMET, found by name or path wherever the package is installed.

find_recipe("demo")                 # the shipped recipe
find_recipe("recipes/demo.yaml")    # a file of that name if there is one here, else the shipped recipe
"""

from __future__ import annotations

import os
from pathlib import Path

from mmet.field_checks import shown, suggestion

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")


def recipes_folder() -> Path:
    """The folder of the recipes: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir())


def recipe_names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(path.stem for path in recipes_folder().glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """
    Find the file of a recipe: at this path, or among the shipped recipes for `demo` or a missing `recipes/demo.yaml`.

    Raises:
        ValueError: no shipped recipe has this name.
    """
    path = Path(name)
    is_name = path.name == name and path.suffix not in RECIPE_SUFFIXES
    shipped = recipes_folder() / (f"{name}.yaml" if is_name else path.name)
    if is_name and not shipped.is_file():
        raise ValueError(
            f"there is no recipe {shown(name)}{suggestion(name, recipe_names())}; expected one of "
            f"{', '.join(recipe_names())}, or a file that ends in {' or '.join(RECIPE_SUFFIXES)}"
        )
    is_shipped = is_name or (path.parent == Path("recipes") and not os.path.lexists(path) and shipped.is_file())
    return shipped if is_shipped else path


def describe_recipes() -> str:
    """List the shipped recipes with the first line of each, and their folder."""
    lines = {name: (recipes_folder() / f"{name}.yaml").read_text(encoding="utf-8") for name in recipe_names()}
    width = max(map(len, lines))
    listed = [f"{name:{width}}  {text.partition(chr(10))[0].lstrip('# ')}" for name, text in lines.items()]
    return "\n".join([*listed, f"in {recipes_folder()}"])
