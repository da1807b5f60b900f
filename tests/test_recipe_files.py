"""Recipes are read or refused with one line: numbers, repeated names, deep nesting, aliases, files that are none."""

from __future__ import annotations

import os

import pytest

from mmet.recipe_files import MAX_BYTES, merge_deeply, parse_mapping, parse_yaml, read_mapping_file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2.5E+4", 2.5e4),
        (".5", 0.5),
        ("-7", -7),
        ("450_000", 450_000),
        ("true", True),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("off", "off"),
        ("12:30:00", "12:30:00"),
        ("2026-01-31", "2026-01-31"),
        ('{"a":[1,2.0e0],"b":null}', {"a": [1, 2.0], "b": None}),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_parse_yaml__values(text, value):
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


def alias_bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 12):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nlearning_rate: 2\nseed: 3", "'seed' is given twice.*line 3"),
        ('{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        (alias_bomb(), "at most 10,000 values"),
        ("a: &a [*a]", "refers to what it is part of"),
        ("a: !!python/object/apply:os.system [ls]", "not YAML"),
        ("a: 1\n---\nb: 2", "not YAML"),
        ("a: [1", "not YAML"),
        ("- a\n- b", "expected a mapping"),
        ("7", "expected a mapping"),
        ("{1: 2}", "names that are text"),
        ("? [a, b]\n: 1", "not YAML"),
    ],
)
def test_parse_mapping__refuses_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_mapping(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", "is a folder"),
        ("fifo", "is no ordinary file"),
        ("missing", "does not exist"),
        ("huge", "bytes, more than"),
        ("binary", "not YAML"),
        ("long", "cannot be read"),
        ("link", "is no ordinary file"),
    ],
)
def test_read_mapping_file__files_that_are_no_recipe(tmp_path, kind, message):
    path = tmp_path / "recipe.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        path.write_bytes(b"#" * (MAX_BYTES + 1))
    elif kind == "binary":
        path.write_bytes(bytes(range(256)))
    elif kind == "long":
        path = tmp_path / ("x" * 300)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=message) as error:
        read_mapping_file(path)
    assert str(path)[:200] in str(error.value)
    assert "\n" not in str(error.value)


def test_read_mapping_file__with_a_byte_order_mark(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert read_mapping_file(tmp_path / "recipe.yaml") == {"seed": 3}


def test_merge_deeply__level_by_level():
    base = {"image": {"size": 768, "act": "gelu"}, "margin": 0.3, "mix": [1, 2]}
    changes = {"image": {"size": 96}, "margin": None, "mix": [3]}
    assert merge_deeply(base, changes) == {"image": {"size": 96, "act": "gelu"}, "margin": None, "mix": [3]}
    assert base["image"] == {"size": 768, "act": "gelu"}
