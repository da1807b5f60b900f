"""Pretrain MMET: masked, contrastive, matching and identity objectives on person images and captions.

    accelerate launch run_pretrain.py recipes/demo.yaml
    accelerate launch run_pretrain.py recipes/demo.yaml --image_masking random --output_dir outputs/random

A recipe is a YAML file of arguments; anything on the command line overrides it (`--help` lists everything).
`mmet/training/command.py` is what happens; installed, the command is `mmet-pretrain`.
"""

from __future__ import annotations

import sys

import mmet.starting  # noqa: F401  (before what takes seconds)

# isort: split
from mmet.training.command import main

if __name__ == "__main__":
    sys.exit(main())
