"""setup.cfg declares every package that the code imports: what another package brings today it may drop tomorrow."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*ROOT.glob("*_mmet.py"), *ROOT.glob("run_*.py"), *(ROOT / "mmet").rglob("*.py")]
OWN = {path.stem for path in ROOT.glob("*.py")} | {"mmet"}
DISTRIBUTIONS = {**packages_distributions(), "openvino": ["openvino"]}  # the extra of which `dev` has no part
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def declared(text: str) -> set[str]:
    """Names of the distributions in a list of requirements."""
    lines = (line.strip() for line in text.splitlines())
    return {canonical(re.split(r"[<>=!\[;]", line)[0]) for line in lines if line and not line.startswith("#")}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level packages that a module imports and this project and Python do not have."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        yield from {name.split(".")[0] for name in names} - OWN - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports__are_declared(path):
    extras = {name: declared(text) for name, text in SETUP["options.extras_require"].items()}
    everything = declared(SETUP["options"]["install_requires"]).union(
        *(packages for name, packages in extras.items() if name != "dev")
    )
    packages = set(imported(ast.parse(path.read_text(encoding="utf-8"))))
    assert {
        package
        for package in packages
        if not {canonical(name) for name in DISTRIBUTIONS.get(package, [package])} & everything
    } == set()


def test_dev__has_every_extra_but_those_of_the_site_and_openvino():
    extras = {name: declared(text) for name, text in SETUP["options.extras_require"].items()}
    assert {
        name: missing
        for name, packages in extras.items()
        if name not in ("docs", "openvino") and (missing := packages - extras["dev"])
    } == {}
