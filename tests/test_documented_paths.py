"""Documents name files and links that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
OWN = re.compile(r"`((?:mmet|tests|docs|recipes|benchmarks)/[\w./-]*)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents__every_file_they_name_exists(document):
    text = document.read_text(encoding="utf-8")
    missing = [name for name in OWN.findall(text) if not (ROOT / name).exists()]
    missing += [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert missing == []


def test_documents__are_found():
    names = {path.name for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "architecture.md"} <= names
