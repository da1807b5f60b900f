"""Wrong values, broken text and damaged files for the fuzz tests. Everything is drawn from a `random.Random`."""

from __future__ import annotations

import codecs
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, 10**9, 10**12, 2**63, 2**70, -(2**64), 1e-12, 1e308),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "nan", "1e309", "true", "none", "abc", "Ünïcode", "人", "💥", "a|b", r"$\frac{", "{", "a" * 300),
    *("../..", "x/" * 2_100 + "x", "no/such/folder", "/dev/null", "/dev/zero", "name=", "=folder", "a=b=c", "a?b=c"),
    *([], [1, 2], ["a"], {}, {"a": 1}, {"a": {"b": []}}, [[[]]], [None]),
)
"""What a field of a recipe, a JSON file or a command line may wrongly hold."""

TEXTS: tuple[str, ...] = (
    *("", "0", "-1", "1.5", "1e309", "nan", "18446744073709551615", "9" * 400, "alice", "front-door", "  ", "\t"),
    *('"', "'", '"unclosed', "a,b", "a;b", "\x00", "\ufeff", "é", "人", "../up.png", "/etc/hostname", "a\nb", "=1+1"),
    *("https://example.org/a.png", "x" * 300 + ".png", "d/" * 2_100 + "a.png", "[]", "{}", "null"),
)
"""What a cell of a table may wrongly hold."""


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234567\n"


def write_value(value: Any) -> str:
    """A value as somebody would type it behind an option."""
    return value if isinstance(value, str) else json.dumps(value)


def mutate_arguments(rng: random.Random, arguments: list[str], options: list[str]) -> list[str]:
    """Change one to three things about a command line: a value, an option, or what is there at all."""
    arguments = list(arguments)
    for _ in range(rng.randint(1, 3)):
        position = rng.randrange(len(arguments) + 1)
        action = rng.choice(("add", "add", "add", "replace", "remove", "repeat", "misspell"))
        if action == "add":
            arguments += [f"--{rng.choice(options)}", write_value(rng.choice(VALUES))]
        elif position == len(arguments):
            arguments.append(write_value(rng.choice(VALUES)))
        elif action == "replace":
            arguments[position] = write_value(rng.choice(VALUES))
        elif action == "remove":
            del arguments[position]
        elif action == "repeat":
            arguments.insert(position, arguments[position])
        else:
            arguments[position] = misspell(rng, arguments[position])
    return [argument.replace("\x00", "") for argument in arguments]  # no shell passes a NUL on


def misspell(rng: random.Random, text: str) -> str:
    """Drop, double or exchange a character."""
    if not text:
        return "-"
    place = rng.randrange(len(text))
    return text[:place] + rng.choice(("", text[place] * 2, "x")) + text[place + 1 :]


def mutate_tree(rng: random.Random, tree: Any) -> Any:
    """A copy of nested dictionaries and lists with one value, key or branch changed somewhere."""
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        key = rng.choice(list(tree))
        changed = dict(tree)
        action = rng.choice(("deeper", "deeper", "deeper", "value", "remove", "rename"))
        if action == "deeper":
            changed[key] = mutate_tree(rng, tree[key])
        elif action == "value":
            changed[key] = rng.choice(VALUES)
        else:
            value = changed.pop(key)
            if action == "rename":
                changed[misspell(rng, str(key))] = value
        return changed
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        place = rng.randrange(len(tree))
        return [*tree[:place], mutate_tree(rng, tree[place]), *tree[place + 1 :]]
    return rng.choice(VALUES)


def mutate_text(rng: random.Random, text: str) -> str:
    """Change a cell, a line or a delimiter of a table or of any text made of lines."""
    lines = text.splitlines()
    place = rng.randrange(len(lines)) if lines else 0
    changes: dict[str, Callable[[], list[str]]] = {
        "cell": lambda: _replace_cell(rng, lines, place),
        "drop": lambda: lines[:place] + lines[place + 1 :],
        "double": lambda: [*lines[: place + 1], *lines[place:]],
        "cut": lambda: [*lines[:place], lines[place][: rng.randrange(len(lines[place]) + 1)]] if lines else [],
        "header": lambda: [misspell(rng, lines[0]), *lines[1:]] if lines else ["x"],
        "semicolons": lambda: [line.replace(",", ";") for line in lines],
        "nested": lambda: ["[" * 100_000],
        "empty": lambda: [],
    }
    return "\n".join(changes[rng.choice((*changes, "cell", "cell", "cell", "cell"))]()) + rng.choice(
        ("\n", "", "\r\n")
    )


def _replace_cell(rng: random.Random, lines: list[str], place: int) -> list[str]:
    if not lines:
        return [rng.choice(TEXTS)]
    cells = lines[place].split(",")
    cells[rng.randrange(len(cells))] = rng.choice(TEXTS)
    return [*lines[:place], ",".join(cells), *lines[place + 1 :]]


def damage_bytes(rng: random.Random, content: bytes) -> bytes:
    """Cut, flip, fill or replace a part of a file."""
    if not content:
        return bytes(rng.randrange(256) for _ in range(64))
    place, length = rng.randrange(len(content)), rng.choice((1, 1, 4, 64, 4_096))
    action = rng.choice(("cut", "flip", "flip", "zeros", "noise", "insert", "empty", "front", "pointer"))
    if action == "cut":
        return content[:place]
    if action == "flip":
        return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
    if action == "empty":
        return b""
    if action == "front":
        return content[place:]
    if action == "pointer":  # what Git leaves of a large file that was not fetched
        return _POINTER
    filling = bytes(length) if action == "zeros" else rng.randbytes(length)
    return content[:place] + filling + content[place + (0 if action == "insert" else length) :]


def damage_header(rng: random.Random, path: Path) -> str:
    """Write extreme numbers over the first or last bytes of a file, where formats keep sizes and places."""
    content = bytearray(path.read_bytes())
    places = []
    for _ in range(rng.randint(1, 4)):
        number = rng.choice(
            (b"\xff", b"\0", b"\x7f\xff\xff\xff", b"\xff\xff", b"\0\0\0\1", rng.randbytes(rng.randint(1, 4)))
        )
        place = rng.randrange(min(256, len(content) + 1))
        place = max(len(content) - 1 - place, 0) if rng.random() < 0.3 else place
        content[place : place + len(number)] = number
        places.append(f"{number.hex()} at {place}")
    path.write_bytes(content)
    return f"{', '.join(places)} of {path.name}"


def damage_file(rng: random.Random, path: Path) -> str:
    """Damage, empty, remove or replace one file; what was done, for the report of a failure."""
    action = rng.choice(("bytes", "bytes", "bytes", "bytes", "remove", "folder", "text"))
    if action == "bytes":
        path.write_bytes(damage_bytes(rng, path.read_bytes()))
    elif action == "text":
        path.write_text(
            rng.choice(("", "[]", "null", "{}", "[" * 100_000, "\ufeff{}", "0", '"', "NaN")), encoding="utf-8"
        )
    else:
        path.unlink()
        if action == "folder":
            path.mkdir()
    return f"{action} of {path.name}"


def replace_file(rng: random.Random, path: Path) -> str:
    """Put something else in the place of a text file; what it is, for the report of a failure."""
    content = path.read_bytes()
    text = content.decode("utf-8", "replace")
    contents = {
        "nothing": b"",
        "spaces": b" \n",
        **{name: name.encode() for name in ("[]", "{}", "null", "0", '"a"', "NaN", "[{}]", '{"a": 1}', "tru")},
        "half": content[: len(content) // 2],
        "all but the end": content.rstrip()[:-1],
        "more behind": content + b"{}",
        "twice": content * 2,
        "open lists": b"[" * 100_000,
        "nested lists": b"[" * 100_000 + b"]" * 100_000,
        "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "a byte order mark": codecs.BOM_UTF8 + content,
        "UTF-16": text.encode("utf-16"),
        "zeros": bytes(len(content)),
        "a zero inside": content[: len(content) // 2] + b"\0" + content[len(content) // 2 :],
        "no UTF-8": b'{"\xe9": 1}',
        "a pointer": _POINTER,
        "every key twice": re.sub(r'("\w+"): ', r"\1: 0, \1: ", text).encode(),
        "long numbers": re.sub(r": -?[0-9.]+", ": " + "9" * 5_000, text).encode(),
        "huge numbers": re.sub(r": -?[0-9.]+", ": 1e309", text).encode(),
        "no numbers": re.sub(r": -?[0-9.]+", ": NaN", text).encode(),
        "negative numbers": re.sub(r": ([0-9])", r": -1\1", text).encode(),
        "lone surrogates": re.sub(r'": "', r'": "\\ud800', text).encode(),
    }
    others: dict[str, Callable[[], None]] = {
        "nothing at all": lambda: None,
        "a folder": path.mkdir,
        "a pipe": lambda: os.mkfifo(path),
        "an endless device": lambda: path.symlink_to("/dev/zero"),
        "a link to nothing": lambda: path.symlink_to("nowhere"),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a large file": lambda: os.truncate(_touched(path), 2**40),
    }
    what = rng.choice([*contents, *others])
    path.unlink()
    if what in contents:
        path.write_bytes(contents[what])
    else:
        others[what]()
    return f"{what} in place of {path.name}"


def damage_json(rng: random.Random, path: Path) -> str:
    """Change a value, key or branch of a JSON file, or put something else in its place."""
    if rng.random() < 0.5:
        return replace_file(rng, path)
    path.write_text(json.dumps(mutate_tree(rng, json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    return f"{path.name} changed: {path.read_text()[:400]}"


def _touched(path: Path) -> Path:
    path.touch()
    return path
