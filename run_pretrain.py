"""Pretrain MMET: masked, contrastive, matching and identity objectives on person images and captions.

    accelerate launch run_pretrain.py recipes/demo.yaml
    accelerate launch run_pretrain.py recipes/demo.yaml --image_masking random --output_dir outputs/random

A recipe is a YAML file of arguments; anything on the command line overrides it (`--help` lists everything).
"""

import logging
import sys

from mmet.command_line import Command, run_command
from mmet.training.arguments import parse_arguments
from mmet.training.pretraining import run_pretraining


def main(argv: list[str]) -> int:
    """
    Exit status: 0 done; 2 for arguments, data or an output folder that cannot be used, and for a loss that is not
    finite (said in one message); 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint saved once training began.
    """
    return run_command("run_pretrain.py", lambda command: pretrain(command, argv))


def pretrain(command: Command, argv: list[str]) -> None:
    """Parse the arguments, train, and say where the model is."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = parse_arguments(argv)
    command.connect()
    if not command.is_main:
        logging.getLogger().setLevel(logging.WARNING)  # what all processes do alike is reported once
    folder = run_pretraining(*arguments)
    if command.is_main:
        print(f"model and processor: {folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
