"""Segmenters by name: what is found, and one message for whatever is not one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from mmet.training.segmenter import load_segmenter

MODULE = """
raise_on_import = False

def segment(images):
    return [None] * len(images)

class Segmenter:
    def __call__(self, images):
        return [None] * len(images)

    def method(self, images):
        return [None] * len(images)

instance = Segmenter()
threshold = 0.5
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_segmenter.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "broken_segmenter.py").write_text("import a_module_that_is_not_there\n", encoding="utf-8")
    (tmp_path / "leaving_segmenter.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_segmenter", "broken_segmenter", "leaving_segmenter"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("name", ["segment", "instance", "instance.method"])
def test_load_segmenter__what_a_module_holds(name: str) -> None:
    assert load_segmenter(f"own_segmenter:{name}")([Image.new("RGB", (4, 8))] * 2) == [None, None]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_segmenter", "expected module:function, such as"),
        ("own_segmenter:", "expected module:function, such as"),
        ("own_segmenter.py:segment()", "expected module:function, such as"),
        ("/tmp/own_segmenter.py:segment", "expected module:function, such as"),
        ("own_segmenter:segmemt", "own_segmenter has no segmemt; did you mean segment?"),
        ("own_segmenter:instance.nothing", "own_segmenter has no instance.nothing"),
        ("own_segmenter:Segmenter", "received a class"),
        ("own_segmenter:threshold", "received float"),
        ("no_such_module_at_all:segment", "cannot be imported .*No module named 'no_such_module_at_all'"),
        ("broken_segmenter:segment", "cannot be imported .*No module named 'a_module_that_is_not_there'"),
        ("leaving_segmenter:segment", r"cannot be imported \(SystemExit: 3\)"),
    ],
)
def test_load_segmenter__one_message_that_names_the_argument(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^person_segmenter.*{message}"):
        load_segmenter(path)
