"""Every argument that a docstring describes under "Args:" exists, in the function or among the fields of the class."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*ROOT.glob("*_mmet.py"), *(ROOT / "mmet").rglob("*.py")])
SECTION = re.compile(r"^Args:\n((?:[ ]+.*\n|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^    (\S[^:(\n]*?)(?: \(.*\))?:(?:\s|$)", re.MULTILINE)
OF_TRANSFORMERS = {"batch_size"}
"""Arguments of `Pipeline.__call__`, which the pipelines' docstrings describe."""


def documented_arguments(docstring: str) -> list[str]:
    """The names under "Args:"; one entry may describe several, with commas between them."""
    section = SECTION.search(docstring + "\n")
    entries = ENTRY.findall(section[1]) if section else []
    return [name.strip(" *`") for entry in entries for name in entry.split(",")]


def accepted_arguments(node: ast.FunctionDef | ast.ClassDef, owner: ast.ClassDef | None) -> set[str]:
    """Parameters of a function, or those of a class: its fields and what its constructor takes."""
    functions, fields = [node], set()
    if isinstance(node, ast.ClassDef):
        owner = node
        functions = [child for child in node.body if getattr(child, "name", "") == "__init__"]
        fields = {child.target.id for child in node.body if isinstance(child, ast.AnnAssign)}
    if owner is not None:
        options = [child for child in owner.body if getattr(child, "name", "") == "_sanitize_parameters"]
        functions, fields = functions + options, fields | (OF_TRANSFORMERS if options else set())
    for function in functions:
        arguments = function.args
        several = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *several]
        fields |= {argument.arg for argument in named}
    return fields


def docstrings() -> Iterator[tuple[str, list[str], set[str]]]:
    """Place, documented names and accepted names of every docstring with such a section."""
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owners = {child: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names = documented_arguments(ast.get_docstring(node) or "")
                if names:
                    place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                    yield place, names, accepted_arguments(node, owners.get(node))


DOCUMENTED = list(docstrings())


def test_documented_arguments__are_found():
    assert len(DOCUMENTED) > 150
    assert documented_arguments("Load.\n\nArgs:\n    a, b: Two.\n    c (`int`): One\n        line: more.\n") == [
        "a",
        "b",
        "c",
    ]


@pytest.mark.parametrize(("place", "names", "accepted"), DOCUMENTED, ids=[place for place, _, _ in DOCUMENTED])
def test_documented_arguments__exist(place, names, accepted):
    assert [name for name in names if name not in accepted] == []
