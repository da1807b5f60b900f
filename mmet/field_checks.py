"""Check values by declared type and range: fields of dataclasses, entries of mappings, single arguments.

Values from recipes, command lines and Python code go through the same checks. Every error names the argument, what is
expected and what was received.

    >>> check_number("k1", 20, int, Range(at_least=1))
    20
    >>> check_number("k1", 1.5, int, Range(at_least=1))
    Traceback (most recent call last):
    ValueError: k1: expected a whole number of at least 1, received 1.5
    >>> @dataclasses.dataclass
    ... class Options:
    ...     seed: int = dataclasses.field(default=0, metadata={"range": SEED_RANGE})
    ...     def __post_init__(self) -> None:
    ...         check_fields(self)
    >>> Options(seed=2**70)
    Traceback (most recent call last):
    ValueError: seed: expected a whole number of at least 0 and at most 4294967295, received 1180591620717411303424
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import enum
import math
import numbers
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

Number = TypeVar("Number", int, float)

_SHOWN_CHARACTERS = 80


@dataclasses.dataclass(frozen=True)
class Range:
    """A range of numbers; None for no bound on that side. NaN and infinite numbers are in no range."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {"of at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)


SEED_RANGE = Range(at_least=0, at_most=2**32 - 1)
"""The seeds that NumPy, PyTorch and `random` all accept."""

SHARE_RANGE = Range(at_least=0, at_most=1)


def check_number(name: str, value: Any, kind: type[Number], allowed: Range | None = None) -> Number:
    """
    Return `value` as an `int` or a `float`.

    Booleans, NaN and infinity are refused, and for a whole number also floats such as 1.0.

    Raises:
        ValueError: the value has another type or is outside the range.
    """
    abstract = numbers.Integral if kind is int else numbers.Real
    is_number = isinstance(value, abstract) and not isinstance(value, (bool, np.bool_))
    if not is_number or not _is_finite(value, kind) or (allowed is not None and value not in allowed):
        expected = ("a whole number" if kind is int else "a number") + (f" {allowed}" if allowed else "")
        raise ValueError(f"{name}: expected {expected}, received {shown(value)}")
    return kind(value)


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return `value` if it is one of `choices`. Raises `ValueError` naming them all, and the nearest one."""
    choices = list(choices)
    if value not in choices or isinstance(value, bool) != isinstance(choices[choices.index(value)], bool):
        expected = ", ".join(map(str, choices))
        raise ValueError(f"{name}: expected one of {expected}; received {shown(value)}{suggestion(value, choices)}")
    return value


def check_value(name: str, value: Any, hint: Any, metadata: Mapping[str, Any] | None = None) -> Any:
    """
    Return `value` as the type that `hint` declares.

    Args:
        name: the argument's name in errors.
        value: what was set.
        hint: a resolved type hint: plain types, `list[...]`, `tuple[...]`, `dict[...]`, `Literal`, enumerations and
            unions of them. A value of a type hint that is none of these is returned as it is.
        metadata: `range`, a `Range` of numbers, `choices`, the allowed values, and `reader`, which raises
            `ValueError` for text that it cannot read; for a list or mapping, they apply to its elements.

    Raises:
        ValueError: the value has another type, is outside the range or not among the choices.
    """
    metadata = metadata or {}
    members = _members(hint)
    if value is None and (type(None) in members or Any in members):
        return None
    members = [member for member in members if member is not type(None)]
    errors = []
    for member in members:
        try:
            return _check_member(name, value, member, metadata)
        except ValueError as error:
            errors.append(error)
    # A union is as good as its member that comes nearest: the one of the value's own kind, else the first.
    kinds = [get_origin(member) or member for member in members]
    nearest = next((i for i, kind in enumerate(kinds) if isinstance(kind, type) and isinstance(value, kind)), 0)
    raise errors[nearest]


def option(default: Any, text: str, **metadata: Any) -> Any:
    """
    A field of a dataclass of arguments.

    Args:
        default: of the field; `list` or `dict` for an empty one of its own in each instance.
        text: help on the command line.
        metadata: `range`, `choices` and `reader`, see `check_value`, and what `mmet.argument_parser` reads.
    """
    metadata["help"] = text
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_fields(instance: Any, ranges: Mapping[str, Range] | None = None) -> None:
    """
    Check every field of a dataclass instance by its declared type and its metadata; see `check_value`.

    For `__post_init__`. Values are set to their declared types, so that a 1 given for a `float` becomes 1.0.

    Args:
        instance: of a dataclass; a frozen one is fine.
        ranges: of fields whose metadata cannot say them, such as inherited ones.

    Raises:
        ValueError: a field does not hold what it declares; names the first one.
    """
    hints = get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        metadata = {**field.metadata, **({"range": ranges[field.name]} if ranges and field.name in ranges else {})}
        value = check_value(field.name, getattr(instance, field.name), hints[field.name], metadata)
        object.__setattr__(instance, field.name, value)


@contextmanager
def errors_about(name: str) -> Iterator[None]:
    """A `ValueError` or `OSError` in the block becomes a `ValueError` that names the argument first."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {error}") from error


def number_type(kind: type[Number], allowed: Range | None = None) -> Callable[[str], Number]:
    """The `type` of an argparse option that takes numbers of a range."""

    def convert(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            number = text  # type: ignore[assignment]  # check_number says what was expected
        try:
            return check_number("", number, kind, allowed)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None

    return convert


def suggestion(value: Any, known: Iterable[Any]) -> str:
    """`; did you mean 'x'?` for the known name nearest to `value`, or nothing."""
    near = difflib.get_close_matches(str(value), [str(name) for name in known], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    """A value for an error message: its `repr`, shortened."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or an integer of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def without_password(text: str) -> str:
    """Text for messages and records: addresses in it (`rtsp://user:password@host`) lose what is before the host."""
    return re.sub(r"(?<=:)//[^/\s]*@", "//", text)


def _is_finite(value: Any, kind: type) -> bool:
    try:
        return math.isfinite(kind(value))
    except OverflowError:  # an integer beyond all floats
        return kind is int


def _members(hint: Any) -> list[Any]:
    """Return the members of a union; for another hint, the hint itself."""
    if get_origin(hint) not in (Union, types.UnionType):
        return [hint]
    members = list(get_args(hint))
    if any(isinstance(member, type) and issubclass(member, enum.Enum) for member in members):
        return [member for member in members if member is not str]  # text names a member of the enumeration
    return members


def _check_member(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    origin = get_origin(hint) or hint
    if origin in (list, tuple):
        return _check_sequence(name, value, origin, get_args(hint), metadata)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _check_mapping(name, value, get_args(hint), metadata)
    if origin is Literal:
        return check_choice(name, value, get_args(hint))
    if "choices" in metadata:
        return check_choice(name, value, metadata["choices"])
    if origin in (int, float):
        return check_number(name, value, origin, metadata.get("range"))
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return _check_enum(name, value, origin)
    if origin in _NAMES and not isinstance(value, origin):
        raise ValueError(f"{name}: expected {_NAMES[origin]}, received {shown(value)}")
    if "reader" in metadata:
        with errors_about(name):
            metadata["reader"](value)
    return value


_NAMES: dict[Any, str] = {str: "text", bool: "true or false"}


def _check_enum(name: str, value: Any, kind: type[enum.Enum]) -> Any:
    if isinstance(value, kind):
        return value
    return check_choice(name, value, [member.value for member in kind])


def _check_sequence(
    name: str, value: Any, origin: type, arguments: tuple[Any, ...], metadata: Mapping[str, Any]
) -> Any:
    if not isinstance(value, (list, tuple)):
        example = f", such as [{value}]" if isinstance(value, str) and value else ""
        raise ValueError(f"{name}: expected a list{example}, received {shown(value)}")
    fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
    if fixed and len(value) != len(arguments):
        raise ValueError(f"{name}: expected {len(arguments)} values, received {shown(value)}")
    hints = arguments if fixed else [(arguments or (Any,))[0]] * len(value)
    return origin(
        check_value(f"{name}[{i}]", item, hint, metadata)
        for i, (item, hint) in enumerate(zip(value, hints, strict=True))
    )


def _check_mapping(name: str, value: Any, arguments: tuple[Any, ...], metadata: Mapping[str, Any]) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: expected a mapping such as {{name: value}}, received {shown(value)}")
    key_hint, value_hint = arguments or (Any, Any)
    return {
        check_value(f"{name}: a name", key, key_hint): check_value(f"{name}.{key}", item, value_hint, metadata)
        for key, item in value.items()
    }
