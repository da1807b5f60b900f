"""Read mappings that people write: recipes as YAML or JSON files, and values of single options.

Both go through one YAML 1.2 reader: `1e-3` is a number and `no` is text (options that are true or false understand
it). A name that stands twice, a file that is no ordinary one, and nesting or repetition beyond all use are errors.

    >>> parse_mapping("{paired: 0.5, identity: 1e-1}")
    {'paired': 0.5, 'identity': 0.1}
    >>> parse_mapping("{paired: 1, paired: 2}")
    Traceback (most recent call last):
    ValueError: 'paired' is given twice (line 1)
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**20
"""Size of the largest recipe that is read."""

MAX_VALUES = 10_000
"""Values in a mapping, those of aliases counted wherever they are repeated."""

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values, and every name once."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as in PyYAML)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge"]
        seen: set[Any] = set()
        for key in keys:
            name = self.construct_object(key)
            if name in seen:
                raise ValueError(f"{name!r} is given twice (line {key.start_mark.line + 1})")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


# The first pattern that fits decides.
for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_mapping_file(path: Path, what: str = "recipe") -> dict[str, Any]:
    """
    The mapping that a YAML or JSON file holds.

    Args:
        path: of the file.
        what: it is, for errors.

    Raises:
        ValueError: for a file that is missing, not an ordinary one, too large, not readable as YAML, or no mapping.
    """
    text = _read_text(path, what)
    try:
        return parse_mapping(text)
    except ValueError as error:
        raise ValueError(f"{what} {path}: {error}") from error


def parse_mapping(text: str) -> dict[str, Any]:
    """The mapping that `text` writes in YAML or JSON. Raises `ValueError` for anything else."""
    value = parse_yaml(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping such as {{name: value}}, received {type(value).__name__}")
    unnamed = [name for name in value if not isinstance(name, str)]
    if unnamed:
        raise ValueError(f"expected names that are text, received {unnamed[0]!r}")
    return value


def parse_yaml(text: str) -> Any:
    """The value that `text` writes in YAML or JSON. Raises `ValueError` where it cannot be read."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count_values(node, {}) > MAX_VALUES:
            raise ValueError(f"expected at most {MAX_VALUES:,} values, received more (aliases are counted repeatedly)")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ValueError("nested too deep") from None
    finally:
        if loader is not None:
            loader.dispose()


def merge_deeply(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: where both hold a mapping under a name, these are merged; all else is replaced."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge_deeply(merged[name], value) if both else value
    return merged


def _read_text(path: Path, what: str) -> str:
    try:
        mode, size = path.stat().st_mode, path.stat().st_size
        if not stat.S_ISREG(mode):
            raise ValueError(f"{what} {path} is {'a folder' if stat.S_ISDIR(mode) else 'no ordinary file'}")
        if size > MAX_BYTES:
            raise ValueError(f"{what} {path} has {size:,} bytes, more than the {MAX_BYTES:,} that are read")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{what} {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {path} is not YAML: it is not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be read: {error.strerror}") from error


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """The values below a node, itself included. Raises `ValueError` for a node that holds itself."""
    if id(node) not in counted:
        counted[id(node)] = -1
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        counted[id(node)] = 1 + sum(_count_values(child, counted) for child in children)
    if counted[id(node)] < 0:
        raise ValueError(f"an alias refers to what it is part of (line {node.start_mark.line + 1})")
    return counted[id(node)]
