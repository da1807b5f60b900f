"""What all fuzz tests share: how many attempts to make, and the folders that they damage copies of."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from fuzz.house import build_ablation, build_house
from fuzz.running import remove


@pytest.fixture
def inputs(request) -> int:
    """Attempts in each area."""
    return request.config.getoption("--fuzz-inputs")


@pytest.fixture(scope="session")
def house(tmp_path_factory) -> Path:
    """See `build_house`."""
    root = tmp_path_factory.mktemp("house")
    build_house(root)
    return root


@pytest.fixture(scope="session")
def ablation(house) -> Path:
    """The house with a measured table in `ablate`."""
    build_ablation(house)
    return house


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """
    Relative paths of mutated inputs end here, several folders deep; so do the shards that `datasets` copies. What is
    too deep for pytest is removed.
    """
    folder = tmp_path / "a" / "b" / "c" / "d"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    yield
    monkeypatch.undo()
    remove(tmp_path)
