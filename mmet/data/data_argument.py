"""Parse datasets on a command line: `name=folder`, with options after a question mark.

    >>> name, root, options = parse_data_argument("msmt17=/data/MSMT17_V2?train=train")
    >>> name, str(root), options
    ('msmt17', '/data/MSMT17_V2', {'train': 'train'})

    dataset = load_reid_dataset(name, root, **options)

Options are `option=value`, joined by `&`: those of the dataset (`ReidDatasetSpec.options`) and `allow_partial`, which
every dataset has. A folder whose name contains a question mark can be given only in Python.

A source may be given a name, `folder@shop=/data/shop`, which becomes the `domain` of its rows and appears in results.
`parse_data_arguments` names sources that could not be told apart otherwise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence, Set
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from mmet.data.registry import OptionValue, ReidOption, dataset_names, get_spec

COMMON_OPTIONS = (ReidOption("allow_partial", False, "use what is there of an incomplete folder"),)
"""Options of every dataset."""

_ALIAS = re.compile(r"[^=?&|\s](?:[^=?&|]{0,200}[^=?&|\s])?")
_MAX_PARTS = 64
_NAMED_AFTER_FOLDER = "folder"  # the dataset whose rows have the folder's name as their domain


class DataArgument(NamedTuple):
    """A dataset given on a command line; `options` are the given options, as `load_reid_dataset` takes them.

    `str()` writes it as `parse_data_argument` reads it. The name of the source, if it has one, is the option `domain`.
    """

    name: str
    root: Path
    options: dict[str, Any]

    @property
    def label(self) -> str:
        """The source's label in tables: its name, or that of the dataset."""
        return self.options.get("domain") or self.name

    @property
    def folder(self) -> str:
        """The folder with links and dots resolved."""
        return os.path.realpath(self.root.expanduser())

    def __str__(self) -> str:
        options = _options_of(self)
        alias = f"@{self.options['domain']}" if self.options.get("domain") else ""
        return f"{self.name}{alias}={self.root}" + (f"?{options}" if options else "")


def _write(value: OptionValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_data_argument(argument: str) -> DataArgument:
    """Read `name=folder`, `name@alias=folder` or either with `?option=value&option=value` behind it.

    Raises:
        ValueError: there is no `=`, no folder, no dataset of that name, an alias that is no plain word, or an option
            that the dataset does not have or allow.
    """
    source, separator, place = argument.partition("=")
    name, has_alias, alias = source.partition("@")
    folder, _, written = place.partition("?")
    if not separator or not name.strip() or not folder.strip():
        known = ", ".join(dataset_names())
        raise ValueError(f"expected name=folder, such as market1501=/data/market, got {argument!r}; names: {known}")
    if "\0" in folder:
        raise ValueError(f"{argument!r}: expected the name of a folder, received one that holds a NUL")
    spec = get_spec(name.strip())
    try:
        options = _parse_options(written, (*spec.options, *COMMON_OPTIONS))
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error
    if has_alias and not (_ALIAS.fullmatch(alias) and alias.isprintable()):
        raise ValueError(
            f"{argument}: expected name@alias=folder with an alias of up to 202 printable characters without "
            f"'=', '?', '&' and '|', received {alias!r}"
        )
    return DataArgument(spec.name, Path(folder.strip()), {"domain": alias} | options if has_alias else options)


def parse_data_arguments(*lists: Iterable[str]) -> list[list[DataArgument]]:
    """Parse lists of arguments that are used together and name their sources, as `name_sources` does.

    Raises:
        ValueError: as `parse_data_argument` does.
    """
    return name_sources(*([parse_data_argument(argument) for argument in arguments] for arguments in lists))


def name_sources(*lists: Sequence[tuple[str, Path, dict[str, Any]]]) -> list[list[DataArgument]]:
    """Name sources that are used together so that they can be told apart.

    Sources of one name in different folders get the shortest ends of their paths that differ: `folder=A/crops
    folder=B/crops` are called `A/crops` and `B/crops`, `market1501=A market1501=B` are `market1501@A` and
    `market1501@B`. A folder that is named twice stays one source. Names that were given (`name@alias=folder`) stay;
    sources to which the same one was given are one.
    """
    parsed = [[DataArgument(*argument) for argument in arguments] for arguments in lists]
    places: dict[str, set[tuple[str, str]]] = {}
    taken: set[str] = set()
    for argument in chain.from_iterable(parsed):
        if "domain" in argument.options:
            taken.add(argument.options["domain"])
        else:
            places.setdefault(_default_domain(argument), set()).add((argument.name, argument.folder))
    names = {
        place: name
        for domain, clashing in places.items()
        if len({folder for _, folder in clashing}) > 1 or domain in taken
        for place, name in _tell_apart(clashing, taken).items()
    }
    return [[_named(argument, names) for argument in arguments] for arguments in parsed]


def distinct_labels(arguments: Sequence[DataArgument]) -> list[str]:
    """Return a distinct label for each argument, with the end of its path or its options if labels would be equal."""
    folders: dict[str, set[str]] = {}
    for argument in arguments:
        folders.setdefault(argument.label, set()).add(argument.folder)
    labels = []
    for argument in arguments:
        label = argument.label
        if len(folders[label]) > 1:
            end = _path_ends(folders[label])[argument.folder]
            label = end if label == _NAMED_AFTER_FOLDER else f"{label}@{end}"
        labels.append(label)
    texts: dict[str, set[str]] = {}
    for label, argument in zip(labels, arguments, strict=True):
        texts.setdefault(label, set()).add(_options_of(argument))
    return [
        label if len(texts[label]) == 1 else "?".join(filter(None, [label, _options_of(argument)]))
        for label, argument in zip(labels, arguments, strict=True)
    ]


def _options_of(argument: DataArgument) -> str:
    return "&".join(f"{name}={_write(value)}" for name, value in argument.options.items() if name != "domain")


def _default_domain(argument: DataArgument) -> str:
    """The domain of the rows of a source without a name; rows of Parquet keep that of another dataset."""
    return Path(argument.folder).name if argument.name == _NAMED_AFTER_FOLDER else argument.name


def _named(argument: DataArgument, names: dict[tuple[str, str], str]) -> DataArgument:
    name = names.get((argument.name, argument.folder))
    if name is None or "domain" in argument.options:
        return argument
    return argument._replace(options={"domain": name} | argument.options)


def _tell_apart(places: Iterable[tuple[str, str]], taken: Set[str]) -> dict[tuple[str, str], str]:
    """A name for each (dataset, folder): the dataset's own and the end of the path, or that alone for `folder`."""
    chosen = sorted(places)
    for at_least in range(1, _MAX_PARTS):
        ends = _path_ends({folder for _, folder in chosen}, at_least)
        names = {
            (name, folder): ends[folder] if name == _NAMED_AFTER_FOLDER else f"{name}@{ends[folder]}"
            for name, folder in chosen
        }
        if not taken & set(names.values()):
            return names
    raise ValueError(
        f"names for {', '.join(folder for _, folder in chosen)} are taken; name them as name@alias=folder"
    )


def _path_ends(folders: Iterable[str], at_least: int = 1) -> dict[str, str]:
    """The shortest distinct ends of the folders' paths."""
    parts = {folder: PurePath(folder).parts[1:] or ("root",) for folder in folders}
    count = at_least
    while len({part[-count:] for part in parts.values()}) < len(parts):
        count += 1
    return {folder: "/".join(part[-count:]) for folder, part in parts.items()}


def _parse_options(written: str, known: Sequence[ReidOption]) -> dict[str, OptionValue]:
    by_name = {option.name: option for option in known}
    options: dict[str, OptionValue] = {}
    for part in filter(None, written.split("&")):
        name, separator, text = part.partition("=")
        if not separator:
            raise ValueError(f"expected option=value behind the question mark, got {part!r}")
        if name not in by_name:
            raise ValueError(f"there is no option {name!r}; there is: {', '.join(by_name)}")
        if name in options:
            raise ValueError(f"option {name} is given twice")
        options[name] = by_name[name].parse(text)
    return options
