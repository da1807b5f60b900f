"""How a dataset is named on a command line: `name=folder`, with options behind a question mark.

    name, root, options = parse_data_argument("msmt17=/data/MSMT17_V2?train=train")
    dataset = load_reid_dataset(name, root, **options)

Options are `option=value`, joined by `&`: those of the dataset (`ReidDatasetSpec.options`) and `allow_partial`, which
every dataset has. A folder whose own name holds a question mark can be named in Python alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmet.data.registry import OptionValue, ReidOption, dataset_names, get_spec

COMMON_OPTIONS = (ReidOption("allow_partial", False, "use what is there of an incomplete folder"),)
"""Options of every dataset."""


class DataArgument(NamedTuple):
    """A dataset as named on a command line; `options` holds those that were given, as `load_reid_dataset` takes them.

    `str()` writes it as `parse_data_argument` reads it.
    """

    name: str
    root: Path
    options: dict[str, Any]

    def __str__(self) -> str:
        options = "&".join(f"{name}={_write(value)}" for name, value in self.options.items())
        return f"{self.name}={self.root}" + (f"?{options}" if options else "")


def _write(value: OptionValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_data_argument(argument: str) -> DataArgument:
    """Read `name=folder` or `name=folder?option=value&option=value`.

    Raises:
        ValueError: there is no `=`, no folder, no dataset of that name, or an option that it does not have or allow.
    """
    name, separator, place = argument.partition("=")
    folder, _, written = place.partition("?")
    if not separator or not name.strip() or not folder.strip():
        known = ", ".join(dataset_names())
        raise ValueError(f"expected name=folder, such as market1501=/data/market, got {argument!r}; names: {known}")
    spec = get_spec(name.strip())
    try:
        options = _parse_options(written, (*spec.options, *COMMON_OPTIONS))
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error
    return DataArgument(spec.name, Path(folder.strip()), options)


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
