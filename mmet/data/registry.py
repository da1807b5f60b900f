"""The registry of dataset layouts: one `ReidDatasetSpec` a dataset, each declared in a file of its own.

Adding a dataset is one file that declares a spec and one import in `mmet.data`; nothing else branches on names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmet.data.schema import ReidFolder


@dataclass(frozen=True, slots=True)
class SplitCount:
    """Published size of one split: images, person ids (distractor id 0 counted as the papers do), captions if any."""

    images: int
    persons: int
    captions: int = 0


@dataclass(frozen=True, slots=True)
class ReidDatasetSpec:
    """One dataset: how to recognise its folder, read it, and what its publishers say it holds.

    Attributes:
        name: the name users type (`market1501`).
        title: the name in prose (`Market-1501`).
        expected_tree: the folder tree, as shown to a user whose folder does not match.
        read: reads the folder, which exists and is not empty; pictures are checked afterwards. Raises `DatasetError`
            when it is not this dataset at all.
        published_counts: split -> published size; a mismatch is reported, not fatal.
        protocol: how it is evaluated, a name of `mmet.evaluation.protocols`; None for training sets.
        licence: terms in one line, shown in model cards.
    """

    name: str
    title: str
    expected_tree: str
    read: Callable[[Path], ReidFolder]
    published_counts: Mapping[str, SplitCount] = field(default_factory=dict)
    protocol: str | None = None
    licence: str = "see the dataset's own terms"


_REGISTRY: dict[str, ReidDatasetSpec] = {}


def register(spec: ReidDatasetSpec) -> ReidDatasetSpec:
    """Add `spec` to the registry. Raises `ValueError` when the name is taken."""
    if spec.name in _REGISTRY:
        raise ValueError(f"dataset {spec.name!r} is already registered")
    _REGISTRY[spec.name] = spec
    return spec


def get_spec(name: str) -> ReidDatasetSpec:
    """The spec called `name`. Raises `ValueError` with the known names otherwise."""
    if name not in _REGISTRY:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(sorted(_REGISTRY))}")
    return _REGISTRY[name]


def dataset_names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_REGISTRY)
