"""The comparison of two runs: equal figures pass, one that differs in the last bit is named."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.same_figures import main

RUN = {
    "log_history": [{"loss": 0.1 + 0.2, "step": 1}, {"train_runtime": 3.5, "step": 2}],
    "results": [{"data": "market1501", "metrics": {"mAP": 0.5, "cmc": [0.25, float("nan")]}, "seconds": 3.0}],
    "created": "today",
}


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        (lambda run: None, 0, "7 figures are equal"),
        (lambda run: run.update(created="tomorrow"), 0, "figures are equal"),
        (lambda run: run["log_history"][1].update(train_runtime=9.0), 0, "figures are equal"),
        (lambda run: run["log_history"][0].update(loss=0.3), 1, "log_history[0].loss: 0.30000000000000004 → 0.3"),
        (
            lambda run: run["results"][0]["metrics"].update(mAP=math.nextafter(0.5, 1)),
            1,
            "results[0].metrics.mAP: 0.5 → 0.5000000000000001",
        ),
        (lambda run: run["results"][0]["metrics"].pop("mAP"), 1, "results[0].metrics.mAP: 0.5 → 'absent'"),
    ],
)
def test_main__says_what_differs(tmp_path, capsys, change, code, line):
    after = json.loads(json.dumps(RUN))
    change(after)
    for name, content in (("before", RUN), ("after", after)):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    assert main([str(tmp_path / "before"), str(tmp_path / "after")]) == code
    assert line in capsys.readouterr().out


def test_main__file_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "No such file" in capsys.readouterr().err
