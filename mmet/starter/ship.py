"""Make the starter model's folder, as the package ships it, from a finished training run.

    python -m mmet.starter.ship outputs/starter/model --output outputs/starter/shipped

Weights are stored in half precision (except the BNNeck, the codebook and the temperature) and loaded in single
precision. The classifier of the training persons is left out, and so is the code that other checkpoints carry, because
the package has it. The command prints the SHA-256 of the weights for the model card.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmet.argument_parser import OptionParser
from mmet.checkpoint_files import CONFIG_FILE, check_model
from mmet.command_line import run_command
from mmet.digests import sha256_of
from mmet.whole_files import write_whole
from modeling_mmet import MMETForPreTraining
from processing_mmet import MMETProcessor

KEPT_WHOLE = ("bnneck", "image_codebook", "logit_scale")
"""Weights with such a part in their name stay in single precision: they are small, and half precision harms them."""

WEIGHTS = "model.safetensors"


def build_parser() -> OptionParser:
    """Build the parser of the command."""
    parser = OptionParser(
        prog="python -m mmet.starter.ship", description="Make the starter model's folder from a training run."
    )
    parser.add_argument("run", type=Path, help="output folder of run_pretrain.py")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `run_command` for its exit codes."""
    parser = build_parser()
    return run_command(parser.prog, lambda command: ship(parser.parse_args(argv)))


def ship(arguments: Namespace) -> None:
    """
    Write the folder.

    Raises:
        ValueError: the run's folder holds no complete model.
        FileExistsError: the output exists.
    """
    if arguments.output.exists():
        raise FileExistsError(f"{arguments.output} exists; name a folder to be created")
    check_model(str(arguments.run))
    halved(arguments.run).save_pretrained(arguments.output)
    MMETProcessor.from_pretrained(arguments.run).save_pretrained(arguments.output)
    for file in arguments.output.glob("*.py"):
        file.unlink()
    for file in arguments.output.glob("*config.json"):
        fields = without_code(json.loads(file.read_text(encoding="utf-8")))
        if file.name == CONFIG_FILE:
            fields["dtype"] = "float32"
        write_whole(file, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    print(f"{arguments.output}: {WEIGHTS} {sha256_of(arguments.output / WEIGHTS)}")


@torch.no_grad()
def halved(run: Path) -> MMETForPreTraining:
    """Load the run's model without its classifier, in half precision except for `KEPT_WHOLE`."""
    model: MMETForPreTraining = MMETForPreTraining.from_pretrained(run, use_safetensors=True, dtype=torch.float32)
    model.config.num_identities = 0
    model.identity_head.classifier = None
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not any(part in name for part in KEPT_WHOLE):
            tensor.data = tensor.data.half()
    return model


def without_code(fields: Any) -> Any:
    """Remove the fields `auto_map`, which name classes in code files, at all levels."""
    if not isinstance(fields, dict):
        return fields
    return {name: without_code(value) for name, value in fields.items() if name != "auto_map"}


if __name__ == "__main__":
    sys.exit(main())
