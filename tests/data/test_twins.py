"""Copies of pictures, byte by byte."""

from __future__ import annotations

from pathlib import Path

from mmet.data.twins import find_twins


def test_find_twins__same_content_under_another_name(tmp_path: Path) -> None:
    contents = {"a": b"one", "b": b"two", "c": b"longer", "x": b"two", "y": b"six", "z": b"longer"}
    paths = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    gone = tmp_path / "gone"
    twins = find_twins([paths["a"], paths["b"], paths["c"], gone], [paths["c"], paths["x"], paths["y"], gone])
    assert twins == {paths["b"]: paths["x"]}
    assert find_twins([paths["c"]], [paths["c"], paths["z"]]) == {paths["c"]: paths["z"]}
