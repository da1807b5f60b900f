"""Values that look like options of the parser itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mmet.argument_parser import ArgumentParser, OptionParser


@dataclass
class Places:
    """Where things are."""

    output: str


def test_option_parser__two_dashes_are_a_value_behind_an_equals_sign():
    parser = OptionParser(prog="program")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--names", nargs="+")
    options = parser.parse_args(["--output=--", "--names=--"])
    assert (options.output, options.names) == (Path("--"), ["--"])


def test_option_parser__two_dashes_are_checked_as_other_values_are(capsys):
    parser = OptionParser(prog="program")
    parser.add_argument("--format", choices=["onnx", "openvino"])
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--format=--"])
    assert "invalid choice: '--'" in capsys.readouterr().err


def test_argument_parser__two_dashes_are_a_value_behind_an_equals_sign():
    assert ArgumentParser([Places]).parse_args_into_dataclasses(["--output=--"]) == (Places("--"),)
