"""Command-line parsers for dataclasses and for argparse options; an error is one line.

    parser = ArgumentParser([ModelArguments, TrainingArguments])
    model, training = parser.parse(["--learning_rate", "1e-3"], recipe={"seed": 3})

Recipe values are converted like values of the command line, and the dataclasses check types and ranges
(`mmet.field_checks.check_fields`). The error for an unknown option or value suggests the nearest known one.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, get_args, get_origin

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from mmet.field_checks import shown, suggestion
from mmet.recipe_files import merge_deeply, parse_mapping

_FOR_CHECKS = ("range", "reader", "replaced_whole")
"""Metadata of fields that argparse does not support."""

_ABSENT = object()


class _HelpFormatter(argparse.HelpFormatter):
    """Lists every option once with its type, and the default after the help."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        metavar = action.metavar if isinstance(action.metavar, str) else _metavar(action)
        values = self._format_args(action, metavar) if action.nargs != 0 else ""
        return f"{action.option_strings[0]} {values}".rstrip()

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if "%(default)" in text or action.default in (None, argparse.SUPPRESS, []) or action.nargs == 0:
            return text
        return f"{text} (default: %(default)s)"


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None:
        return f"{{{','.join(map(str, action.choices))}}}"
    return {int: "N", float: "X", string_to_bool: "true|false"}.get(action.type, "VALUE")


class _OneLineErrors(argparse.ArgumentParser):
    """Adds the nearest known option or value to argparse's messages, and refuses empty values."""

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        # The script that wrote "$FOLDER" meant no folder "", which would be the current one. What belongs to a
        # subcommand is looked at by the subcommand's own parser, which can name the option.
        is_subcommands = action.nargs == argparse.PARSER
        if not is_subcommands and not arg_string.strip() and arg_string != action.default:
            raise argparse.ArgumentError(
                action, "expected a value, received an empty one; leave it out for its default"
            )
        if "\0" in arg_string:  # from a recipe or a program; no command line of the system can hold one
            raise argparse.ArgumentError(action, f"expected text without NUL, received {shown(arg_string)}")
        return super()._get_value(action, arg_string)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # Before Python 3.13, argparse drops the value of `--output=--` and sets an empty list.
        if action.option_strings and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value if action.nargs in (None, argparse.OPTIONAL) else [value]
        return super()._get_values(action, arg_strings)

    def describe(self, message: str) -> str:
        """One line for argparse's `message`."""
        unknown = re.fullmatch(r"unrecognized arguments: (.*)", message, flags=re.DOTALL)
        if unknown:
            return self.describe_unknown(unknown[1].split() or [unknown[1]])
        choice = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)$", message, flags=re.DOTALL)
        near = suggestion(choice[1], [text.strip(" '") for text in choice[2].split(",")]) if choice else ""
        message = re.sub(r"^argument (--\w+)(/--[\w-]+)+", r"argument \1", " ".join(message.split()))
        return message + near

    def describe_unknown(self, arguments: Sequence[str]) -> str:
        """One line for arguments that no option takes."""
        name = next((argument for argument in arguments if argument.startswith("-")), arguments[0])
        known = [option for option in self._option_string_actions if not option.startswith("--no_")]
        what = "unknown option" if name.startswith("-") else "unexpected argument"
        return f"{what} {shown(name)[1:-1]}{suggestion(name.partition('=')[0], known)}"


class OptionParser(_OneLineErrors):
    """argparse's parser for scripts without dataclasses: an error is one line and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        """As argparse's, but unknown arguments are an error here, where the subcommand that they are for is known."""
        values, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return values, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {self.describe(message)} (--help lists all options)\n")


class ArgumentParser(_OneLineErrors, HfArgumentParser):
    """
    transformers' parser for dataclasses; errors are `ValueError`s.

    Each dataclass has a heading of its own in `--help`: the first line of its docstring. A field that holds a mapping
    takes YAML or JSON. Metadata of fields, beside argparse's: `range`, see `check_fields`, and `replaced_whole` for a
    mapping that replaces a recipe's instead of being merged into it.
    """

    def __init__(self, dataclass_types: Any, **kwargs: Any) -> None:
        super().__init__(dataclass_types, **{"allow_abbrev": False, "formatter_class": _HelpFormatter, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{self.describe(message)} (--help lists all arguments)")

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        dtype._argument_group_name = (dtype.__doc__ or dtype.__name__).strip().partition("\n")[0].rstrip(".")
        super()._add_dataclass_arguments(dtype)

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
        metadata = {name: value for name, value in field.metadata.items() if name not in _FOR_CHECKS}
        if isinstance(metadata.get("help"), str):
            metadata["help"] = " ".join(metadata["help"].split())
        plain: Any = dataclasses.field(metadata=metadata)
        plain.default, plain.default_factory = field.default, field.default_factory
        plain.name, plain.type = field.name, field.type
        takes_mapping = _takes_mapping(field.type)
        if takes_mapping:
            plain.type = str | None
        HfArgumentParser._parse_dataclass_field(parser, plain)
        if takes_mapping:
            action = parser._option_string_actions[f"--{field.name}"]
            action.type = _text_or_mapping if str in get_args(field.type) else _mapping

    def parse(self, argv: Sequence[str], recipe: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """
        The dataclasses, filled from `recipe` and, over it, from the command line.

        Raises:
            ValueError: a name is unknown, or a value cannot be converted or is refused by a dataclass.
        """
        return self.build(self.merge(self.convert(recipe or {}), self.read_options(argv)))

    def build(self, fields: Mapping[str, Any]) -> tuple[Any, ...]:
        """Build the dataclasses of these fields. Raises `ValueError` for a value that a dataclass refuses."""
        return tuple(
            kind(**{f.name: fields[f.name] for f in dataclasses.fields(kind) if f.init and f.name in fields})
            for kind in self.dataclass_types
        )

    def parse_args_into_dataclasses(self, args: Any = None, *_: Any, **__: Any) -> tuple[Any, ...]:
        """As `parse`, by default with the arguments of the process."""
        return self.parse(sys.argv[1:] if args is None else args)

    def read_options(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values of the options on a command line, without defaults."""
        names = {action.dest for action in self._actions}
        namespace = argparse.Namespace(**dict.fromkeys(names, _ABSENT))
        values, unknown = self.parse_known_args(list(argv), namespace)
        if unknown:
            raise ValueError(f"{self.describe_unknown(unknown)} (--help lists all arguments)")
        return {name: value for name, value in vars(values).items() if value is not _ABSENT and name in names}

    def convert(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """
        A recipe's values, text as the command line would read it.

        Raises:
            ValueError: a field does not exist (the message names the nearest), or text cannot be converted.
        """
        actions = {action.dest: action for action in self._actions if action.dest != "help"}
        values = {}
        for name, value in recipe.items():
            if name not in actions:
                raise ValueError(f"unknown field {shown(name)}{suggestion(name, actions)}")
            values[name] = self._convert_text(actions[name], value) if isinstance(value, str) else value
        return values

    def _convert_text(self, action: argparse.Action, text: str) -> Any:
        if action.nargs in ("+", "*"):
            return text  # the dataclass says that it wants a list
        try:
            value = self._get_value(action, text)
            self._check_value(action, value)
        except argparse.ArgumentError as error:
            raise ValueError(f"{action.dest}: {self.describe(error.message)}") from None
        return value

    def merge(self, recipe: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """Merge the command line's fields over a recipe's; mappings are merged level by level."""
        whole = {
            field.name
            for kind in self.dataclass_types
            for field in dataclasses.fields(kind)
            if field.metadata.get("replaced_whole")
        }
        merged = merge_deeply(recipe, {name: value for name, value in options.items() if name not in whole})
        return merged | {name: value for name, value in options.items() if name in whole}


def _takes_mapping(hint: Any) -> bool:
    return any((get_origin(member) or member) is dict for member in (hint, *get_args(hint)))


def _mapping(text: str) -> dict[str, Any]:
    try:
        return parse_mapping(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error  # of other errors argparse drops the message


def _text_or_mapping(text: str) -> Any:
    """Parse a mapping if the text is one; else return the text, the name of a file or preset."""
    return _mapping(text) if text.lstrip().startswith("{") else text
