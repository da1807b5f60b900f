"""Every test says what it expects: by `assert`, `pytest.raises`, an `assert_…` function, or a helper that does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

EXPECTATIONS = ("raises", "warns", "fail", "run_common_tests")
"""Functions of pytest and transformers that fail a test, beside those whose names begin with `assert`."""


def functions_of(tree: ast.Module) -> dict[str, Function]:
    """All functions, methods and classes of a file by name."""
    return {node.name: node for node in ast.walk(tree) if isinstance(node, Function)}


def called_names(function: Function) -> set[str]:
    """Names of what a function calls, or passes on to be called."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    named = [node for call in calls for node in (call.func, *call.args, *(keyword.value for keyword in call.keywords))]
    return {node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in named}


def _raised(node: ast.AST) -> str:
    return ast.unparse(node.exc) if isinstance(node, ast.Raise) and node.exc else ""


def expects(function: Function, helpers: dict[str, Function], seen: frozenset[str] = frozenset()) -> bool:
    """Whether a function, or one that it calls, can fail a test."""
    if any(isinstance(node, ast.Assert) or "AssertionError" in _raised(node) for node in ast.walk(function)):
        return True
    names = called_names(function) - seen
    if any(name in EXPECTATIONS or name.lstrip("_").startswith("assert") for name in names):
        return True
    return any(expects(helpers[name], helpers, seen | names) for name in names if name in helpers)


def without_expectation(files: dict[str, ast.Module]) -> list[str]:
    """`file::test` of all tests that cannot fail but by a crash."""
    helpers = [tree for file, tree in files.items() if not Path(file).name.startswith("test_")]
    shared = {name: function for tree in helpers for name, function in functions_of(tree).items()}
    return [
        f"{file}::{name}"
        for file, tree in files.items()
        for name, function in functions_of(tree).items()
        if name.startswith("test_") and not expects(function, {**shared, **functions_of(tree)})
    ]


def test_tests__all_expect_something():
    files = {str(path.relative_to(TESTS)): ast.parse(path.read_text("utf-8")) for path in TESTS.rglob("*.py")}
    assert sum(name.startswith("test_") for tree in files.values() for name in functions_of(tree)) > 1000
    assert without_expectation(files) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("assert answer() == 42", True),
        ("with pytest.raises(ValueError): answer()", True),
        ("torch.testing.assert_close(answer(), 42)", True),
        ("check(answer())", True),
        ("outer()", True),
        ("[*map(check, answers())]", True),
        ("answer()", False),
        ("print(answer() == 42)", False),
        ("loop()", False),
    ],
)
def test_expects__by_itself_or_by_a_helper(body, expected):
    helpers = "def check(value):\n    assert value\ndef outer():\n    check(1)\ndef loop():\n    loop()\n"
    tree = ast.parse(f"{helpers}def test_it():\n    {body}\n")
    assert without_expectation({"file.py": tree}) == ([] if expected else ["file.py::test_it"])
