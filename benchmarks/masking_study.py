"""When does masked pretraining pay? The image encoder alone, with many and with few labelled synthetic persons.

Every row ends with the same identity stage; rows differ in what comes before it: nothing, or masked images of *all*
persons (labels are not read there) with random or pedestrian masks and several ratios and lengths. `few` gives the
identity stage the first persons of the world alone, the case in which unlabelled pictures should help most.

    python benchmarks/masking_study.py --seeds 3 --output outputs/ablate     # after, and in the folder of, mmet.ablate

Runs are kept and resumed as those of `mmet.ablate`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmet.ablate.experiments import Row, Stage, Table
from mmet.ablate.runs import Runner
from mmet.ablate.tables import collect_table, format_table
from mmet.ablate.worlds import SOURCE, SOURCE_SEED, WorldSize, draw_worlds
from mmet.checkpoints import write_text
from mmet.data.synthetic import write_world

IMAGES = {"batch_mix": {"image": 1}, "model_config": {"identity_pooling": "image"}}
FIRST_STAGES: dict[str, dict[str, Any] | None] = {
    "no first stage": None,
    "random masks, 15 %": {"image_masking": "random"},
    "pedestrian masks, 15 %": {"image_masking": "pedestrian"},
    "random masks, 40 %": {"image_masking": "random", "mask_ratio": 0.4},
    "pedestrian masks, 40 %": {"image_masking": "pedestrian", "mask_ratio": 0.4},
    "pedestrian masks, 40 %, three times as long": {
        "image_masking": "pedestrian",
        "mask_ratio": 0.4,
        "_times": 3,
    },
}


def build_row(title: str, first: dict[str, Any] | None, steps: int) -> Row:
    """The row of a first stage, with the baseline's identity stage behind it."""
    if first is None:
        stages: tuple[Stage, ...] = (Stage("study_none", "identity", "synthetic_baseline"),)
    else:
        settings = {name: value for name, value in first.items() if name != "_times"}
        settings |= IMAGES | {"max_steps": steps * first.get("_times", 1)}
        identity = {"batch_mix": {"identity_image": 1}}
        stages = (
            Stage("study_masked", "masked", "synthetic_masked", settings),
            Stage("study_identity", "identity", "synthetic_identity", identity),
        )
    return Row(title, (), stages)


def run_study(arguments: argparse.Namespace) -> str:
    """Train and evaluate all rows with all labelled persons and with few; the tables in Markdown."""
    size = WorldSize()
    data = draw_worlds(arguments.output / "data", size)
    few = arguments.output / "data" / f"finegpr_{arguments.few}"
    write_world(
        SOURCE,
        few,
        num_ids=arguments.few,
        images_per_id=size.images_per_person,
        seed=SOURCE_SEED,
        image_height=size.image_height,
        image_width=size.image_width,
    )
    rows = tuple(
        build_row(title, first, arguments.masked_steps)
        for title, first in FIRST_STAGES.items()
        if arguments.rows is None or list(FIRST_STAGES).index(title) in arguments.rows
    )
    labelled = {size.persons: data[SOURCE], arguments.few: f"{SOURCE}={few}"}
    chosen = {number: labelled[number] for number in sorted(labelled, reverse=arguments.many_first)}
    tables = {
        number: Table(0, f"{number} labelled persons", ("market1501", "cuhk_pedes"), ("mAP", "rank1"), rows)
        for number in chosen
    }
    measured: dict[int, dict[Any, Any]] = {number: {} for number in tables}
    seeds = range(1, arguments.seeds + 1)
    text = ""
    for seed in seeds:
        for number, argument in chosen.items():
            # The masked stage reads image_data, which keeps all persons.
            settings = {"identity.max_steps": arguments.identity_steps}
            runner = FewLabels(arguments.output, data, size="small", settings=settings)
            runner.labelled = argument
            for row in tables[number].rows:
                measured[number][row.title, seed] = runner.measure(row, seed=seed, names=("market1501", "cuhk_pedes"))
                text = "\n".join(
                    format_table(collect_table(tables[n], measured[n], seeds)).replace("Table 0: ", "") for n in tables
                )
                write_text(arguments.output / "masking_study.md", text)
    return text


class FewLabels(Runner):
    """A runner whose identity stage reads some persons alone."""

    labelled: str = ""

    def fields_of(self, stage: Stage, before: Path | None, *, seed: int) -> dict[str, Any]:
        fields = super().fields_of(stage, before, seed=seed)
        if stage.kind == "identity":
            fields["paired_data"] = [self.labelled]
        return fields


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/ablate"), help="folder of runs and worlds")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N")
    parser.add_argument("--few", type=int, default=40, help="labelled persons where they are few")
    parser.add_argument("--masked_steps", type=int, default=200, help="steps of the first stage")
    parser.add_argument("--identity_steps", type=int, default=160, help="steps of the identity stage")
    parser.add_argument("--rows", type=int, nargs="+", help="numbers of the rows, from 0; all without it")
    parser.add_argument("--many_first", action="store_true", help="begin with all labelled persons")
    return parser


def main() -> None:
    """Run the study and print its tables."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(run_study(build_parser().parse_args()))


if __name__ == "__main__":
    main()
