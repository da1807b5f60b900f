"""`mmet-data`: one name before all tools for data."""

from __future__ import annotations

import sys

import pytest

from mmet.data.__main__ import TOOLS, main
from mmet.starting import program_name


@pytest.mark.parametrize("tool", TOOLS)
def test_main__each_tool_has_its_own_help(tool, capsys):
    with pytest.raises(SystemExit) as ended:
        main([tool, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m {TOOLS[tool].module.removesuffix('.__main__')} " in capsys.readouterr().out


def test_main__a_tool_does_its_work_and_returns_its_exit_code(tmp_path, capsys):
    options = ["--num_ids", "2", "--images_per_id", "2", "--image_height", "60", "--image_width", "30"]
    assert main(["draw", "--layout", "finegpr", "--output", str(tmp_path / "drawn"), *options]) == 0
    assert main(["doctor", f"finegpr={tmp_path / 'drawn'}"]) == 1  # not all of FineGPR
    assert main(["doctor", f"finegpr={tmp_path / 'absent'}"]) in (1, 2)
    assert "NOT FIT" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["drew"], [], ["--layout", "finegpr"]])
def test_main__an_unknown_tool_is_one_line(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m mmet.data: error: ")
    assert error.count("\n") == 1


def test_main__lists_the_tools(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and tool.help in shown for name, tool in TOOLS.items())


def test_main__messages_of_an_installed_command_begin_with_its_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/bin/mmet-data", "draw", "--layout", "nothing"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("mmet-data draw: error: argument --layout: invalid choice: 'nothing'")


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/mmet-eval"], "mmet-eval"),
        (["C:/Scripts/mmet-eval.exe"], "mmet-eval"),
        (["mmet-data draw"], "mmet-data draw"),
        (["/work/mmet/evaluation/__main__.py"], "run_reid_eval.py"),
        (["run_reid_eval.py"], "run_reid_eval.py"),
        ([], "run_reid_eval.py"),
    ],
)
def test_program_name__installed_commands_are_called_by_their_name(argv, name, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    assert program_name("run_reid_eval.py") == name
