"""The `evaluate` module gives what `rank_metrics` gives, however the rows arrive."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from mmet.evaluation import rank_metrics

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def reid(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)  # as the README has it, offline
    return evaluate.load("mmet/evaluation/reid", cache_dir=str(tmp_path))


@pytest.fixture
def sides():
    """Query and gallery with cameras, junk, and a query without a match."""
    rng = np.random.default_rng(0)
    return {
        "query_embeddings": rng.normal(size=(20, 8)).astype(np.float32),
        "gallery_embeddings": rng.normal(size=(90, 8)).astype(np.float32),
        "query_person_ids": np.append(rng.integers(1, 9, size=19), 77),
        "gallery_person_ids": rng.integers(-1, 9, size=90),
        "query_camera_ids": rng.integers(1, 4, size=20),
        "gallery_camera_ids": rng.integers(1, 4, size=90),
    }


def assert_equal_metrics(results, metrics):
    assert results["mAP"] == pytest.approx(metrics.mAP)
    assert results["mINP"] == pytest.approx(metrics.mINP)
    assert [results[f"rank{k}"] for k in (1, 5, 10)] == pytest.approx([metrics.rank(k) for k in (1, 5, 10)])
    np.testing.assert_allclose(results["cmc"], metrics.cmc)
    assert (results["num_queries"], results["num_valid_queries"]) == (metrics.num_queries, metrics.num_valid_queries)
    assert results["num_gallery"] == metrics.num_gallery


def add_rows(reid, sides, side, rows, as_tensor=False):
    """Add some rows of one side."""
    columns = {name: sides[f"{side}_{name}"][rows] for name in ("embeddings", "person_ids", "camera_ids")}
    if as_tensor:
        columns = {name: torch.from_numpy(column) for name, column in columns.items()}
    reid.add_batch(**columns, is_query=side == "query")


def test_compute__equals_the_function(reid, sides):
    assert_equal_metrics(reid.compute(**sides, max_rank=12), rank_metrics(**sides, max_rank=12))
    without = {name: value for name, value in sides.items() if "camera" not in name}
    assert_equal_metrics(reid.compute(**without), rank_metrics(**without))


def test_add_batch__batches_of_both_sides_in_turn(reid, sides):
    for start in range(0, 90, 13):
        add_rows(reid, sides, "gallery", slice(start, start + 13), as_tensor=start % 2 == 0)
        if start < 20:
            add_rows(reid, sides, "query", slice(start, start + 13))
    assert len(reid) == 110
    assert_equal_metrics(reid.compute(), rank_metrics(**sides))
    assert len(reid) == 0  # nothing is left for the next evaluation


def test_add_batch__mixed_rows_and_no_cameras(reid, sides):
    names = ("embeddings", "person_ids")
    both = {name: np.concatenate([sides[f"query_{name}"], sides[f"gallery_{name}"]]) for name in names}
    is_query = np.arange(110) < 20
    order = np.random.default_rng(1).permutation(110)
    reid.add_batch(**{name: column[order] for name, column in both.items()}, is_query=is_query[order])
    without = {name: value for name, value in sides.items() if "camera" not in name}
    assert_equal_metrics(reid.compute(), rank_metrics(**without))


def test_add__row_by_row(reid, sides):
    for side, size in (("query", 20), ("gallery", 90)):
        for row in range(size):
            reid.add(
                embedding=sides[f"{side}_embeddings"][row],
                person_id=int(sides[f"{side}_person_ids"][row]),
                camera_id=int(sides[f"{side}_camera_ids"][row]),
                is_query=side == "query",
            )
    assert_equal_metrics(reid.compute(), rank_metrics(**sides))


def test_add_batch__several_processes(monkeypatch, tmp_path, sides):
    """Threads stand in for processes, which meet in evaluate's files and locks alone."""
    monkeypatch.chdir(ROOT)
    options = {"num_process": 2, "experiment_id": "test", "cache_dir": str(tmp_path), "timeout": 15}
    modules = [evaluate.load("mmet/evaluation/reid", process_id=process, **options) for process in (0, 1)]
    shares = [(slice(0, 10), slice(0, 45)), (slice(10, None), slice(45, None))]

    def work(process):
        add_rows(modules[process], sides, "query", shares[process][0])
        add_rows(modules[process], sides, "gallery", shares[process][1])
        return modules[process].compute()

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(work, (0, 1))
    assert second is None
    assert_equal_metrics(first, rank_metrics(**sides))


def test_compute__options(reid, sides):
    results = reid.compute(**sides, ap="trapezoid", denominator="all", max_rank=3)
    metrics = rank_metrics(**sides, ap="trapezoid", denominator="all", max_rank=3)
    assert results["mAP"] == pytest.approx(metrics.mAP)
    assert [name for name in results if name.startswith("rank")] == ["rank1"]


def test_compute__errors(reid, sides):
    with pytest.raises(ValueError, match="received none of query"):
        reid.compute()
    with pytest.raises(ValueError, match=r"expected all of query_embeddings.*received query_embeddings$"):
        reid.compute(query_embeddings=sides["query_embeddings"])
    with pytest.raises(ValueError, match="expected 2 person_ids, one per embedding, received 1"):
        reid.add_batch(embeddings=np.ones((2, 3)), person_ids=[1], is_query=True)
    add_rows(reid, sides, "query", slice(0, 5))
    with pytest.raises(ValueError, match=r"received both \(5 rows were added\)"):
        reid.compute(**sides)
