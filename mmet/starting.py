"""Ctrl-C while a command is still being imported: one line and exit code 130, no traceback.

Imports take seconds, in which nothing has begun that could be left half done. Importing this module first is enough;
`mmet.command_line.run_command` takes over afterwards. A program of somebody else that imports the package keeps its
own handler.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType

_SCRIPTS = ("run_pretrain.py", "run_reid_eval.py")
_INSTALLED = "mmet-"
"""What the names of the installed commands begin with."""


def _is_command() -> bool:
    """Whether this process was started as one of the scripts, installed or not, or as `python -m mmet.…`."""
    if parent_process() is not None or not sys.argv:
        return False
    if sys.argv[0] != "-m":  # which stands there while the packages around a module are imported
        name = Path(sys.argv[0]).name
        return name in _SCRIPTS or name.startswith(_INSTALLED)
    return any(re.fullmatch(r"(-\w*m)?mmet(\.\w+)*", option) for option in sys.orig_argv)


def program_name(otherwise: str) -> str:
    """The name of the installed command that this process is, such as `mmet-eval`, else `otherwise`."""
    name = Path(sys.argv[0]).name.removesuffix(".exe") if sys.argv else ""
    return name if name.startswith(_INSTALLED) else otherwise


def _end(number: int, frame: FrameType | None) -> None:
    if os.environ.get("LOCAL_RANK", "") in ("", "-1", "0"):  # of several processes, the first one speaks
        os.write(2, b"stopped by Ctrl-C\n")
    os._exit(128 + number)


if _is_command() and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, _end)
