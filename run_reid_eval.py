"""Evaluate a person re-identification model: mAP, mINP, Rank-k and CMC by named protocols, beside baselines.

    python run_reid_eval.py --model_name_or_path outputs/run --data market1501=/data/Market-1501 --baselines chance

Runs on several processes under `accelerate launch`. `docs/evaluation.md` has protocols, metrics, options and files;
`mmet/evaluation/command.py` is what happens.
"""

from __future__ import annotations

import sys

import mmet.starting  # noqa: F401  (before what takes seconds)

# isort: split
from mmet.evaluation.command import main

if __name__ == "__main__":
    sys.exit(main())
