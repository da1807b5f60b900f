"""Usage lines in module docstrings and documents: the names are there, and calls fit the signatures.

Lines that need a trained model or somebody's data cannot run here. So each block is followed as a reader would: names
are looked up in the module (or imported as the block says), arguments are bound to signatures, and attributes are
looked up on what the annotations say a call returns.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*ROOT.glob("*_mmet.py"), *(ROOT / "mmet").rglob("*.py")])
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "mmet").rglob("*.md")])
UNKNOWN = object()
"""What nothing is known about: names of the reader's own, results without an annotation."""


READERS_OWN = ("model", "processor", "DataLoader", "Path", "save_file")
"""Called in usage lines, and not the project's."""


class Instance(typing.NamedTuple):
    """A value of which the class is known."""

    of: type


class Bound(typing.NamedTuple):
    """A method of a value of which the class is known."""

    function: Any
    owner: Instance


def blocks_of(docstring: str) -> Iterator[ast.Module]:
    """The paragraphs of a docstring that are Python with a call in it."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        text = inspect.cleandoc(re.sub(r"^\s*(>>>|\.\.\.) ?", "", paragraph, flags=re.MULTILINE)).replace(
            ": ...", ": pass"
        )
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        if any(isinstance(node, ast.Call) for node in ast.walk(tree)):
            yield tree


def usages() -> Iterator[tuple[str, str, ast.Module]]:
    """Place, module whose names are known, and each block."""
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""
        for number, tree in enumerate(blocks_of(docstring)):
            yield f"{name}-{number}", name, tree
    for path in DOCUMENTS:
        for number, text in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)):
            yield f"{path.name}-{number}", "mmet", ast.parse(text)


@functools.cache
def everywhere() -> dict[str, Any]:
    """Every public function and class of the project by its name, for lines that stand in another module."""
    public = {}
    for path in MODULES:
        if path.stem != "__main__":
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            module = importlib.import_module(name)
            public |= {key: value for key, value in vars(module).items() if getattr(value, "__module__", "") == name}
    return public


USAGES = {place: (module, tree) for place, module, tree in usages()}


def test_usage_lines_are_found():
    assert len(USAGES) > 60


@pytest.mark.parametrize("place", USAGES)
def test_usage_line(place):
    module_name, tree = USAGES[place]
    if module_name.endswith("__main__"):
        module_name = module_name.removesuffix(".__main__")
    Reader(vars(importlib.import_module(module_name))).visit(tree)


class Reader(ast.NodeVisitor):
    """Follows a block of usage lines; an `AssertionError` says what does not exist or does not fit."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = dict(names)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.names[alias.asname or alias.name] = importlib.import_module(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = importlib.import_module(node.module or "")
        for alias in node.names:
            assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
            self.names[alias.asname or alias.name] = getattr(module, alias.name)

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.value_of(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.names[target.id] = value
            elif isinstance(target, ast.Tuple):
                self.names |= {part.id: UNKNOWN for part in target.elts if isinstance(part, ast.Name)}

    def visit_Expr(self, node: ast.Expr) -> None:
        self.value_of(node.value)

    def value_of(self, node: ast.expr) -> Any:
        """What an expression stands for, as far as annotations say; every part of it is looked at."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, everywhere().get(node.id, UNKNOWN))
        if isinstance(node, ast.Attribute):
            return attribute_of(self.value_of(node.value), node.attr)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                name = node.func.id
                is_there = name in self.names or name in everywhere() or hasattr(builtins, name) or name in READERS_OWN
                assert is_there, f"there is no {name}"
            arguments = [self.value_of(argument) for argument in node.args if not isinstance(argument, ast.Starred)]
            keywords = {word.arg: self.value_of(word.value) for word in node.keywords}
            is_whole = None not in keywords and len(arguments) == len(node.args)
            return result_of(self.value_of(node.func), arguments, keywords, is_whole)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value_of(child)
        return UNKNOWN


def attribute_of(owner: Any, name: str) -> Any:
    """An attribute of an object, or of an instance of a class."""
    if owner is UNKNOWN:
        return UNKNOWN
    if not isinstance(owner, Instance):
        assert hasattr(owner, name), f"{getattr(owner, '__name__', owner)} has no {name}"
        return getattr(owner, name)
    kind = owner.of
    attribute = inspect.getattr_static(kind, name, UNKNOWN)
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    is_open = not fields and ("self." + name) in source_of(kind)
    assert attribute is not UNKNOWN or name in fields or is_open or hasattr(kind, "__getattr__"), (
        f"{kind.__name__} has no {name}"
    )
    if isinstance(attribute, property):
        return instance_of(attribute.fget)
    if name in fields:
        return instance_by(hints_of(kind).get(name))
    return Bound(attribute, owner) if inspect.isfunction(attribute) else getattr(kind, name, UNKNOWN)


def result_of(function: Any, arguments: list[Any], keywords: dict[str | None, Any], is_whole: bool) -> Any:
    """The value of a call, once its arguments are bound to the signature."""
    if isinstance(function, Bound):
        function, arguments = function.function, [function.owner, *arguments]
    if function is UNKNOWN or isinstance(function, Instance) or not callable(function):
        return UNKNOWN
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a built-in
        return UNKNOWN
    bind = signature.bind if is_whole and ... not in arguments else signature.bind_partial
    try:
        bind(*arguments, **{name: value for name, value in keywords.items() if name is not None})
    except TypeError as error:
        raise AssertionError(f"{getattr(function, '__qualname__', function)}{signature}: {error}") from error
    return Instance(function) if inspect.isclass(function) else instance_of(function)


def instance_of(function: Any) -> Any:
    """An instance of what a function is annotated to return."""
    return instance_by(hints_of(inspect.unwrap(getattr(function, "__func__", function))).get("return"))


def instance_by(hint: Any) -> Any:
    """An instance of a class that an annotation names; unknown for every other annotation."""
    return Instance(hint) if inspect.isclass(hint) and hint not in (type(None), Any) else UNKNOWN


def hints_of(annotated: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(annotated)
    except (NameError, TypeError):
        return {}


def source_of(kind: type) -> str:
    try:
        return "".join(
            inspect.getsource(base) for base in kind.__mro__ if base.__module__.startswith(("mmet", "modeling"))
        )
    except (OSError, TypeError):
        return ""
