"""The work of `mmet-pretrain` and `run_pretrain.py`: parse a recipe and its changes, train, print the result's place.

main(["demo", "--max_steps", "100"])
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from mmet.command_line import Command, run_command
from mmet.starting import program_name
from mmet.training.arguments import parse_arguments
from mmet.training.pretraining import run_pretraining
from mmet.training.recipes import describe_recipes

LIST_RECIPES = "--list_recipes"


def main(argv: Sequence[str] | None = None) -> int:
    """
    Exit status: 0 done; 2 for arguments, data or an output folder that cannot be used, and for a loss that is not
    finite (said in one message); 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint saved once training began.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    return run_command(program_name("run_pretrain.py"), lambda command: pretrain(command, arguments))


def pretrain(command: Command, argv: Sequence[str]) -> None:
    """Parse the arguments, train, and print where the model is."""
    if LIST_RECIPES in argv:
        print(describe_recipes())
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = parse_arguments(argv)
    command.connect()
    if not command.is_main:
        logging.getLogger().setLevel(logging.WARNING)  # what all processes do alike is reported once
    folder = run_pretraining(*arguments)
    if command.is_main:
        print(f"model and processor: {folder}")
