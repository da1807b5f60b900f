"""Log lines for people."""

from __future__ import annotations

from mmet.training.callbacks import format_log


def test_format_log__three_digits_and_no_quotes():
    logs = {"loss": 4.20987, "learning_rate": 0.00012345, "epoch": 1.0, "total_flos": 1.0}
    assert format_log(logs, 40, 300) == "step 40/300  loss 4.21  learning_rate 0.000123  epoch 1"
