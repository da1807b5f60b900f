"""Usage examples with `>>>` in the package's docstrings run and give what they say.

Examples in the files that travel with a checkpoint need a checkpoint; `tests/test_usage_lines.py` checks their names
and arguments.
"""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "mmet").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_docstrings__examples_give_what_they_say(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert results.attempted
    assert not results.failed


def test_docstrings__examples_are_found():
    assert len(MODULES) >= 12
