"""What the scripts share: arguments whose mistakes are one message, and errors that several processes tell once.

parser = ArgumentParser([Arguments])
...
except ValueError as error:
    report_error("run_pretrain.py", error, channel)
"""

from __future__ import annotations

import sys

from accelerate import PartialState
from accelerate.utils import get_int_from_env

from mmet.argument_parser import ArgumentParser as ArgumentParser
from mmet.distributed import ErrorChannel


def report_error(program: str, error: Exception, channel: ErrorChannel | None) -> None:
    """
    Print an error to standard error: once where all processes have it, by the process itself where it is alone.

    Args:
        program: whose error it is.
        error: of this process.
        channel: None as long as processes do not know of each other. What is wrong with arguments and recipes is the
            same for all processes of a machine: the first one there prints it.
    """
    if channel is None:
        # As accelerate finds a process's place, before it has one.
        if get_int_from_env(["LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK"], 0) == 0:
            print(f"{program}: {error}", file=sys.stderr)
        return
    state, messages = PartialState(), channel.exchange(str(error))
    if messages is None:
        print(f"{program}: process {state.process_index} alone: {error}", file=sys.stderr)
    elif state.is_main_process:
        for message in dict.fromkeys(messages):
            print(f"{program}: {message}", file=sys.stderr)
