"""The command line of the report: stopped by Ctrl-C and run again."""

from __future__ import annotations

import signal

from mmet.report.__main__ import main
from modeling_mmet import MMETForReID


def test_main__ctrl_c_leaves_nothing_half_written_and_the_next_run_is_whole(
    run, results, worlds, tmp_path, monkeypatch, capsys
):
    """Ctrl-C comes while the gallery is embedded, in the first batch."""
    output = tmp_path / "report"
    arguments = ["--run", str(run), "--results", str(results), "--output", str(output)]
    arguments += ["--data", f"market1501={worlds['market1501']}", "--training_data", f"finegpr={worlds['finegpr']}"]
    forward = MMETForReID.forward
    with monkeypatch.context() as patch:
        patch.setattr(MMETForReID, "forward", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        assert main(arguments) == 130
    assert MMETForReID.forward is forward
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == "python -m mmet.report: stopped by Ctrl-C; the report is not complete"
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert not list(output.rglob("*.html")) + list(output.rglob("*.png")) + list(output.rglob("*partial*"))
    assert main(arguments) == 0
    assert (output / "index.html").stat().st_size > 10_000
    assert not list(output.rglob("*partial*"))
