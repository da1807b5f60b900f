"""Pretrain MMET: masked, contrastive, matching and identity objectives on person images and captions.

    accelerate launch run_pretrain.py recipes/demo.yaml
    accelerate launch run_pretrain.py recipes/demo.yaml --image_masking random --output_dir outputs/random

A recipe is a YAML file of arguments; anything on the command line overrides it (`--help` lists everything).
"""

import logging
import signal
import sys

from mmet.arguments import parse_arguments
from mmet.command_line import report_error
from mmet.distributed import ErrorChannel, close_process_group
from mmet.pretraining import run_pretraining
from mmet.trainer import NonFiniteLossError, TrainingStopped

STOPPED = 128 + signal.SIGTERM


def main(argv: list[str]) -> int:
    """
    Exit status: 0 done; 2 for arguments, data or an output folder that cannot be used, and for a loss that is not
    finite (said in one message); 143 after a SIGTERM, with a checkpoint saved.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    channel = None
    try:
        arguments = parse_arguments(argv)
        channel = ErrorChannel()
        is_main = arguments[-1].process_index == 0
        if not is_main:
            logging.getLogger().setLevel(logging.WARNING)  # what all processes do alike is reported once
        folder = run_pretraining(*arguments)
    except (ValueError, OSError, NonFiniteLossError) as error:
        report_error("run_pretrain.py", error, channel)
        return 2
    except TrainingStopped as stopped:
        if is_main:
            print(f"run_pretrain.py: {stopped}", file=sys.stderr)
        close_process_group()
        return STOPPED
    if is_main:
        print(f"model and processor: {folder}")
    close_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
