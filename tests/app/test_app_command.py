"""`mmet-app` and `mmet-serve`: what they refuse in one line, and whom they answer to."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from mmet.app import command as app_command
from mmet.serving import command as serve_command
from mmet.serving.options import check_extra, describe_reach, host_names
from mmet.stopping import RunError

ROOT = Path(__file__).resolve().parents[2]


def run(main, *words, capsys):
    try:
        code = main(list(words))
    except SystemExit as stopped:
        code = stopped.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--gallery"),
        (["--gallery", "{absent}"], "absent"),
        (["--gallery", "{absent}", "--port", "70000"], "argument --port: expected a whole number"),
        (["--gallery", "{absent}", "--auth", "{absent}"], "--auth: .*absent cannot be read"),
        (["--gallery", "{absent}", "--log_queries", "{absent}/x"], "--log_queries: .* cannot be written"),
        (["--gallery", "{absent}", "--threads", "0"], "argument --threads"),
        (["--gallery", "{absent}", "--writeable"], "unknown option --writeable; did you mean '--writable'"),
    ],
)
def test_the_page_says_in_one_line_what_is_wrong(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    words = [word.format(absent=tmp_path / "absent") for word in words]
    code, text = run(app_command.main, *words, capsys=capsys)
    assert code == 2
    assert re.search(message, text.splitlines()[-1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "{absent}"], "absent"),
        (["--model", "{absent}", "--api_keys", "{absent}"], "--api_keys: .* cannot be read"),
        (["--model", "{absent}", "--api_keys", "{empty}"], "holds no key"),
        (["--model", "{absent}", "--max_items", "0"], "argument --max_items"),
    ],
)
def test_the_server_says_in_one_line_what_is_wrong(words, message, tmp_path, capsys):
    (tmp_path / "empty").write_text("\n")
    words = [word.format(absent=tmp_path / "absent", empty=tmp_path / "empty") for word in words]
    code, text = run(serve_command.main, *words, capsys=capsys)
    assert code == 2
    assert re.search(message, text.splitlines()[-1])


@pytest.mark.parametrize(
    ("host", "names", "expected"),
    [
        ("127.0.0.1", None, {"127.0.0.1", "localhost", "::1"}),
        ("0.0.0.0", None, None),
        ("0.0.0.0", ["page.example.org"], {"127.0.0.1", "localhost", "::1", "0.0.0.0", "page.example.org"}),
    ],
)
def test_to_which_names_a_server_answers(host, names, expected):
    names_served = host_names(argparse.Namespace(host=host, name=names))
    assert (None if names_served is None else set(names_served)) == expected


@pytest.mark.parametrize(
    ("host", "is_guarded", "warns"),
    [
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("localhost", False, False),
        ("0.0.0.0", False, True),
        ("10.0.0.1", True, False),
        ("example.org", False, True),
    ],
)
def test_who_is_warned(host, is_guarded, warns):
    assert bool(describe_reach(host, is_guarded=is_guarded, how="--auth FILE")) is warns


def test_a_missing_extra_is_named():
    with pytest.raises(RunError, match=r"pip install 'mmet\[app\]'"):
        check_extra("no_such_module", "app")


@pytest.mark.slow
def test_a_server_ends_well(tmp_path, config, processor):
    """A port that is taken is one line; SIGTERM is 143 after requests were answered."""
    from modeling_mmet import MMETForReID

    MMETForReID(config).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    words = [sys.executable, "-m", "mmet.serving", "--model", str(tmp_path / "model"), "--port"]
    options = {"cwd": ROOT, "text": True, "env": {**os.environ, "HF_HUB_OFFLINE": "1"}}
    with subprocess.Popen([*words, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as server:
        address = re.search(r"http://127.0.0.1:(\d+)", server.stdout.readline())
        assert b"ok" in urllib.request.urlopen(f"{address[0]}/health", timeout=60).read()
        second = subprocess.run([*words, address[1]], capture_output=True, check=False, timeout=300, **options)
        assert second.returncode == 2
        assert "cannot listen on 127.0.0.1" in second.stderr
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=120)
    assert server.returncode == 143
    assert errors.strip().splitlines()[-1] == "mmet-serve: stopped by SIGTERM"
