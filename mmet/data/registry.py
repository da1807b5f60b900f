"""The registry of dataset layouts: one `ReidDatasetSpec` for each dataset, declared in its own file.

Adding a dataset is one file that declares a spec and one import in `mmet.data`; nothing else branches on names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from mmet.data.schema import ReidFolder

OptionValue = str | int | bool


@dataclass(frozen=True, slots=True)
class SplitCount:
    """Published size of one split: images, person ids (distractor id 0 counted as the papers do), captions if any."""

    images: int
    persons: int
    captions: int = 0


@dataclass(frozen=True, slots=True)
class ReidOption:
    """A choice that loading a dataset offers, given as a keyword or, in the scripts, as `name=folder?option=value`.

    Attributes:
        name: the keyword.
        default: its default value, whose type (text, whole number, true or false) is the option's.
        help: description in one line.
        choices: the allowed values; empty for any value of the type.
        minimum: smallest whole number allowed.
        maximum: largest whole number allowed.
    """

    name: str
    default: OptionValue
    help: str
    choices: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = 2**32 - 1

    def check(self, value: object) -> OptionValue:
        """Return `value` if it is allowed. Raises `ValueError` with the allowed values."""
        if type(value) is not type(self.default) or (self.choices and value not in self.choices):
            raise ValueError(f"option {self.name} must be {self.allowed}, got {value!r}")
        if type(value) is int and not self.minimum <= value <= self.maximum:
            raise ValueError(f"option {self.name} must be {self.allowed}, got {value!r}")
        return value  # of the type of the default

    def parse(self, text: str) -> OptionValue:
        """Convert text to the option's type. Raises `ValueError` as `check` does.

        >>> ReidOption("split", 1, "which classic split", minimum=1, maximum=20).parse("7")
        7
        """
        if isinstance(self.default, bool):
            return self.check({"true": True, "false": False}.get(text.lower(), text))
        if isinstance(self.default, int) and text.isascii() and text.isdecimal() and len(text) < 19:
            return self.check(int(text))
        return self.check(text)

    @property
    def allowed(self) -> str:
        """The values allowed, in words."""
        if self.choices:
            return " or ".join(self.choices)
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, int):
            return f"a whole number from {self.minimum} to {self.maximum}"
        return "text"


@dataclass(frozen=True, slots=True)
class ReidDatasetSpec:
    """A dataset layout: how to recognise and read its folder, and its published counts.

    Attributes:
        name: the name users type (`market1501`).
        title: the name in prose (`Market-1501`).
        expected_tree: the folder tree, as shown to a user whose folder does not match.
        read: `read(root, **options)` reads the folder, which exists and is not empty, with every option of `options`
            as a keyword; pictures are checked afterwards. Raises `DatasetError` if it is not this dataset at all.
        published_counts: split -> published size; a mismatch is reported, not fatal.
        variant_counts: the same for each `ReidFolder.variant` with other counts; an empty mapping if they are unknown.
        options: options of `read`.
        distractor_id: person id of distractors, wrong candidates that are never queries; None if every id from 0 is a
            person.
        protocol: name of its protocol in `mmet.evaluation.protocols`; None for training sets.
        licence: terms in one line, shown in model cards.
        notice: other facts for users, such as a withdrawal by the authors; empty for none.
        load: for data that holds rows instead of picture files: `load(root)` returns the splits.
    """

    name: str
    title: str
    expected_tree: str
    read: Callable[..., ReidFolder]
    published_counts: Mapping[str, SplitCount] = field(default_factory=dict)
    variant_counts: Mapping[str, Mapping[str, SplitCount]] = field(default_factory=dict)
    options: Sequence[ReidOption] = ()
    distractor_id: int | None = None
    protocol: str | None = None
    licence: str = "see the dataset's own terms"
    notice: str = ""
    load: Callable[[Path], DatasetDict] | None = None

    def counts_of(self, variant: str) -> Mapping[str, SplitCount]:
        """Return the published counts of a variant, or those of the dataset if it has none."""
        return self.variant_counts.get(variant, self.published_counts)

    def complete_options(self, values: Mapping[str, Any]) -> dict[str, OptionValue]:
        """Check the options' values and add defaults for the others.

        Raises:
            ValueError: an option does not exist for this dataset, or its value is not allowed.
        """
        known = {option.name: option for option in self.options}
        for name in values:
            if name not in known:
                offered = ", ".join(known) or "none"
                raise ValueError(f"{self.name} has no option {name!r}; it has: {offered}")
        try:
            return {name: option.check(values.get(name, option.default)) for name, option in known.items()}
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error


_REGISTRY: dict[str, ReidDatasetSpec] = {}


def register(spec: ReidDatasetSpec) -> ReidDatasetSpec:
    """Add `spec` to the registry. Raises `ValueError` if the name is taken."""
    if spec.name in _REGISTRY:
        raise ValueError(f"dataset {spec.name!r} is already registered")
    _REGISTRY[spec.name] = spec
    return spec


def get_spec(name: str) -> ReidDatasetSpec:
    """Return the spec called `name`. Raises `ValueError` with the known names if there is none."""
    if name not in _REGISTRY:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(sorted(_REGISTRY))}")
    return _REGISTRY[name]


def dataset_names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_REGISTRY)
