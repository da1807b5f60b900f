"""The documentation as a site: pages and names that it lists exist, and it builds without a warning."""

from __future__ import annotations

import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = sorted((ROOT / "docs" / "api").glob("*.md"))
NAMES = [
    name for page in REFERENCE for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
]
AT_THE_TOP = {"index.md": "README.md"} | {name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}


def pages(nav) -> list[str]:
    """The pages of a `nav` of mkdocs, from top to bottom."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in nav for page in pages(entry if isinstance(nav, list) else nav[entry])]


def test_site__every_page_it_lists_exists_once():
    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(listed) == len(set(listed)) > 20
    assert [page for page in listed if not (ROOT / AT_THE_TOP.get(page, f"docs/{page}")).is_file()] == []
    assert {f"api/{page.name}" for page in REFERENCE} <= set(listed)


@pytest.mark.parametrize("name", NAMES)
def test_reference__every_name_exists_and_is_documented(name):
    assert pydoc.locate(name) is not None
    assert pydoc.locate(name).__doc__


def test_version__is_the_same_in_the_citation():
    import mmet

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (mmet.__version__, "Apache-2.0")
    assert f"## {mmet.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_site__builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages_built = {path.parent.name for path in (tmp_path / "site").rglob("index.html")}
    assert {"quick_start", "faq", "gallery", "CHANGELOG"} <= pages_built
