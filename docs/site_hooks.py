"""What the site shows beside docs/: the README as its first page, and other documents at the top of the repository.

Links are written for the repository; here they are turned to where their targets are on the site.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
AT_THE_TOP = {"README.md": "index.md"} | {name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts documents that mkdocs.yml does not place at the end, so that none is lost."""
    placed = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    others = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in placed)
    if others:
        config.nav = [*(config.nav or []), {"More": others}]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the documents at the top as pages."""
    for name, page in AT_THE_TOP.items():
        text = re.sub(r"\]\(docs/", "](", (ROOT / name).read_text(encoding="utf-8"))
        if page == "index.md":
            text = f"---\nhide: [navigation]\n---\n{text}"
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Points links to documents at the top at their pages."""
    return re.sub(r"\]\((?:\.\./)+(README|CONTRIBUTING|CHANGELOG|SECURITY)\.md", _page, markdown)


def _page(match: re.Match[str]) -> str:
    return f"]({AT_THE_TOP[f'{match[1]}.md']}"
