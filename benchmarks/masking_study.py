"""When does masked pretraining pay? The image encoder alone on synthetic people, one factor at a time.

`FACTORS` says what is compared: each factor has named trials, and a trial is plain data. Labels are few in nearly all
of them, the case in which pictures without labels should help most. Runs are kept and resumed as those of
`mmet.ablate`, trials that factors share are trained once, and all trials of a seed come before the next seed.

    python benchmarks/masking_study.py --seeds 3 --output outputs/ablate
    python benchmarks/masking_study.py --factors weights region --seeds 3 --output outputs/ablate

Writes `masking_study.md` and `masking_study.json` after every trial.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmet.ablate.experiments import METRICS, TableRow, TrainingStage
from mmet.ablate.runs import NotTrainedError, Runner
from mmet.ablate.tables import Cell
from mmet.ablate.worlds import SOURCE, SOURCE_SEED, TARGET_SEED, WIDE_SOURCE, WIDE_SOURCE_SEED, WorldSize
from mmet.data import parse_data_argument
from mmet.data.finegpr import MASK_FOLDER
from mmet.data.synthetic import write_world
from mmet.markdown_table import align_table
from mmet.whole_files import write_whole

UNSEEN_LOOK, TRAINING_LOOK = "unseen_look", "training_look"
TARGETS = {UNSEEN_LOOK: "unseen cameras", TRAINING_LOOK: "training's look"}
SHOWN = ("mAP", "rank1")
SMALL, LARGE = (100, 52), (148, 76)


@dataclass(frozen=True)
class Trial:
    """
    One row: recipe fields of its stages, and data.

    Attributes:
        identity: fields of the last stage, beside those of the small recipes; with `image` in its mix it is joint.
        masked: fields of a stage of masked pictures before it; None for none.
        labelled: persons whose labels are used.
        unlabelled: persons of the masked pictures, who hold the labelled ones. Those beyond 400 come from a second
            world in RandPerson's layout.
        silhouettes: whether these pictures have silhouettes, for pedestrian masks; else the prior serves.
        image_size: height and width of all pictures, in pixels.
    """

    identity: Mapping[str, Any]
    masked: Mapping[str, Any] | None = None
    labelled: int = 40
    unlabelled: int = 400
    silhouettes: bool = True
    image_size: tuple[int, int] = SMALL


@dataclass(frozen=True)
class Factor:
    """Trials that answer one question; `about` says what they have in common."""

    title: str
    about: str
    trials: Mapping[str, Trial] = field(default_factory=dict)


def _steps(number: int, **fields: Any) -> dict[str, Any]:
    return {"max_steps": number, **fields}


def _joint(
    number: int, mim_weight: float = 1, *, identities: int = 1, schedule: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A batch of masked pictures for every `identities` batches of identities."""
    fields = _steps(number, batch_mix={"identity_image": identities, "image": 1}, mim_weight=mim_weight)
    return fields | ({"loss_schedule": dict(schedule)} if schedule else {})


FADING: dict[str, list[list[float]]] = {"mim": [[0, 1], [1, 0]]}
CROSSFADE: dict[str, list[list[float]]] = {
    "mim": [[0, 1], [0.25, 1], [0.75, 0]],
    "identity": [[0, 0], [0.25, 0], [0.75, 1]],
    "triplet": [[0, 0], [0.25, 0], [0.75, 1]],
}
MASKED = _steps(200)
IDENTITY = _steps(200)
RARELY_MASKED = _joint(400, 0.1, identities=3)

FACTORS = {
    "weights": Factor(
        "Loss weights and their schedule",
        "40 labelled persons. In joint training every other batch is of masked pictures, or one in four: 400 steps "
        "hold 200 or 300 identity steps; `fading` lowers the weight of L_MIM linearly from 1 to 0; "
        "`crossfade` begins with masked pictures alone for a quarter of the steps, ends with identities alone in the "
        "last quarter, and is linear between them.",
        {
            "identities alone, 200 steps": Trial(IDENTITY),
            "identities alone, 300 steps": Trial(_steps(300)),
            "identities alone, 400 steps": Trial(_steps(400)),
            "masked 200, then identities 200": Trial(IDENTITY, MASKED),
            "joint 400, L_MIM × 0.1": Trial(_joint(400, 0.1)),
            "joint 400, L_MIM × 1": Trial(_joint(400)),
            "joint 400, L_MIM fading": Trial(_joint(400, schedule=FADING)),
            "joint 400, crossfade": Trial(_joint(400, schedule=CROSSFADE)),
            "joint 400, one batch in four, L_MIM × 0.1": Trial(RARELY_MASKED),
            "joint 400, one batch in four, L_MIM × 1": Trial(_joint(400, identities=3)),
        },
    ),
    "unpaired": Factor(
        "Amount of pictures without labels",
        "40 labelled persons; joint training of 400 steps with one batch in four of masked pictures, L_MIM × 0.1; 16 "
        "pictures of each person. Of the 1,200 persons 800 are without silhouettes.",
        {
            "identities alone, 400 steps": Trial(_steps(400)),
            "joint, masked pictures of the 40 persons": Trial(RARELY_MASKED, unlabelled=40),
            "joint, of 400 persons": Trial(RARELY_MASKED),
            "joint, of 1,200 persons": Trial(RARELY_MASKED, unlabelled=1200),
        },
    ),
    "region": Factor(
        "Region of the masks",
        "40 labelled persons; 200 masked steps of 15 %, then 200 identity steps.",
        {
            "nothing masked (no first stage)": Trial(IDENTITY),
            "random": Trial(IDENTITY, MASKED | {"image_masking": "random"}),
            "block": Trial(IDENTITY, MASKED | {"image_masking": "block"}),
            "pedestrian, by the prior": Trial(IDENTITY, MASKED, silhouettes=False),
            "pedestrian, by silhouettes": Trial(IDENTITY, MASKED),
        },
    ),
    "schedule": Factor(
        "Length, and learning rate after the masked stage",
        "40 labelled persons. Learning rates are 2e-3 where none is named.",
        {
            "identities 400": Trial(_steps(400)),
            "masked 200, identities 200": Trial(IDENTITY, MASKED),
            "identities 800": Trial(_steps(800)),
            "masked 200, identities 600": Trial(_steps(600), MASKED),
            "joint 800, one batch in four, L_MIM × 0.1": Trial(_joint(800, 0.1, identities=3)),
            "identities 200 at 5e-4": Trial(_steps(200, learning_rate=5e-4)),
            "masked 200, identities 200 at 5e-4": Trial(_steps(200, learning_rate=5e-4), MASKED),
        },
    ),
    "size": Factor(
        "Size of the pictures",
        "40 labelled persons; 100×52 pictures have 8 × 4 patches, 148×76 have 12 × 6, of 16 pixels every 12 in both.",
        {
            "100×52: identities 200": Trial(IDENTITY),
            "100×52: masked 200, identities 200": Trial(IDENTITY, MASKED),
            "148×76: identities 200": Trial(IDENTITY, image_size=LARGE),
            "148×76: masked 200, identities 200": Trial(IDENTITY, MASKED, image_size=LARGE),
        },
    ),
    "labels": Factor(
        "Number of labelled persons",
        "400 steps; joint training has one batch in four of masked pictures of all 400 persons, L_MIM × 0.1.",
        {
            "20 labelled, identities alone": Trial(_steps(400), labelled=20),
            "20 labelled, joint": Trial(RARELY_MASKED, labelled=20),
            "40 labelled, identities alone": Trial(_steps(400)),
            "40 labelled, joint": Trial(RARELY_MASKED),
            "400 labelled, identities alone": Trial(_steps(400), labelled=400),
            "400 labelled, joint": Trial(RARELY_MASKED, labelled=400),
        },
    ),
}
"""What is compared, by the name that `--factors` takes."""


class StudyRunner(Runner):
    """A runner whose stages read a trial's own labelled and unlabelled persons."""

    labelled: str = ""
    unlabelled: Sequence[str] = ()

    def fields_of(self, stage: TrainingStage, before: Path | None, *, seed: int) -> dict[str, Any]:
        fields = super().fields_of(stage, before, seed=seed)
        fields |= {"paired_data": [], "image_data": list(self.unlabelled), "text_data": []}
        if stage.kind == "identity":
            fields["paired_data"] = [self.labelled]
            fields["image_data"] = fields["image_data"] if "image" in fields["batch_mix"] else []
        else:
            fields["text_data"] = [self.labelled]  # the vocabulary is made of it; no batch reads it
        return fields


def build_row(title: str, trial: Trial) -> TableRow:
    """The stages of a trial."""
    geometry = {"model_config": {"image_config": {"image_size": list(trial.image_size)}}}
    stages = []
    if trial.masked is not None:
        masked = {"batch_mix": {"image": 1}, "model_config": {"identity_pooling": "image", **geometry["model_config"]}}
        stages.append(TrainingStage("study_masked", "masked", "synthetic_masked", {**masked, **trial.masked}))
    identity: dict[str, Any] = {"batch_mix": {"identity_image": 1}, **trial.identity}
    if not stages:
        identity |= geometry
    if "image" in identity["batch_mix"]:
        identity |= {"codebook_images": 512, "image_masking": "pedestrian"}
    recipe = "synthetic_identity" if stages else "synthetic_baseline"
    stages.append(TrainingStage("study_identity", "identity", recipe, identity))
    return TableRow(title, (), tuple(stages))


def draw_source(folder: Path, persons: int, size: tuple[int, int], *, layout: str = SOURCE, draw: bool = True) -> str:
    """`layout=folder` of the first persons of a source world, drawn if asked for."""
    world = folder / f"{layout}_{persons}_{size[0]}x{size[1]}"
    if not draw:
        return f"{layout}={world}"
    write_world(
        layout,
        world,
        num_ids=persons,
        images_per_id=WorldSize().images_per_person,
        seed=SOURCE_SEED if layout == SOURCE else WIDE_SOURCE_SEED,
        image_height=size[0],
        image_width=size[1],
    )
    return f"{layout}={world}"


def draw_targets(folder: Path, size: tuple[int, int], *, draw: bool = True) -> dict[str, str]:
    """Unseen persons before cameras of another look, and other unseen persons in the look of the training pictures."""
    targets, counts = {}, WorldSize()
    for name, style in ((UNSEEN_LOOK, "target"), (TRAINING_LOOK, "source")):
        world = folder / f"{name}_{size[0]}x{size[1]}"
        targets[name] = f"market1501={world}"
        if not draw:
            continue
        write_world(
            "market1501",
            world,
            style=style,
            num_train_ids=4,
            num_test_ids=counts.test_persons,
            images_per_id=counts.test_images_per_person,
            seed=TARGET_SEED,
            image_height=size[0],
            image_width=size[1],
        )
    return targets


def without_silhouettes(argument: str) -> str:
    """The same world, by links, without its masks."""
    layout, world, _ = parse_data_argument(argument)
    copy = world.with_name(f"{world.name}_no_masks")
    if world.is_dir() and not copy.is_dir():
        unfinished = copy.with_name(f".{copy.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(world, unfinished, copy_function=os.link, ignore=shutil.ignore_patterns(MASK_FOLDER))
        unfinished.rename(copy)
    return f"{layout}={copy}"


def prepare_runner(trial: Trial, options: argparse.Namespace) -> StudyRunner:
    """The runner of a trial, with the worlds that it needs drawn unless nothing is to be trained."""
    folder, draw = options.output / "data", not options.report_only
    targets = draw_targets(folder, trial.image_size, draw=draw)
    labelled = draw_source(folder, trial.labelled, trial.image_size, draw=draw)
    first = min(trial.unlabelled, WorldSize().persons)
    worlds = [draw_source(folder, first, trial.image_size, draw=draw)]
    if not trial.silhouettes:
        worlds = [without_silhouettes(world) for world in worlds]
    if trial.unlabelled > first:
        worlds.append(draw_source(folder, trial.unlabelled - first, trial.image_size, layout=WIDE_SOURCE, draw=draw))
    runner = StudyRunner(
        options.output,
        {SOURCE: labelled, **targets},
        size="small",
        settings={"disable_tqdm": True},
        report_only=options.report_only,
    )
    runner.labelled, runner.unlabelled = labelled, worlds
    return runner


Measured = dict[tuple[str, str, int], dict[str, dict[str, float]]]
"""Fractions by (factor, title of the trial, seed), target and metric."""


def run_study(options: argparse.Namespace) -> str:
    """Train and evaluate all trials of the factors; the tables in Markdown."""
    measured: Measured = {}
    seeds = range(options.first_seed, options.seeds + 1)
    for seed in seeds:
        for name in options.factors:
            for title, trial in FACTORS[name].trials.items():
                try:
                    metrics = prepare_runner(trial, options).measure(
                        build_row(title, trial), seed=seed, names=list(TARGETS)
                    )
                except NotTrainedError as error:
                    logging.info("%s: left out, %s", title, error)
                    continue
                measured[name, title, seed] = metrics
                save(measured, options.factors, seeds, options.output)
    return format_study(measured, options.factors, seeds)


def cells_of(measured: Measured, name: str, title: str, seeds: Sequence[int]) -> list[Cell]:
    """A trial's cells, target by target and metric by metric."""
    runs = [measured[name, title, seed] for seed in seeds if (name, title, seed) in measured]
    return [Cell(tuple(100 * run[target][metric] for run in runs)) for target in TARGETS for metric in SHOWN]


def format_study(measured: Measured, factors: Sequence[str], seeds: Sequence[int]) -> str:
    """One table a factor."""
    header = ["", *(f"{title}: {METRICS[metric]}" for title in TARGETS.values() for metric in SHOWN)]
    parts = []
    for name in factors:
        factor = FACTORS[name]
        cells = {title: cells_of(measured, name, title, seeds) for title in factor.trials}
        rows = [[title, *map(str, row)] for title, row in cells.items()]
        notes = [
            f"- {title}: {len(row[0].values)} of {len(seeds)} seeds\n"
            for title, row in cells.items()
            if len(row[0].values) != len(seeds)
        ]
        text = f"### {factor.title}\n\n{factor.about}\n\n{align_table(header, rows, 1)}"
        parts.append(text + ("\n" + "".join(notes) if notes else ""))
    return "\n".join(parts)


def save(measured: Measured, factors: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """Write `masking_study.md` and `masking_study.json`."""
    columns = [(target, metric) for target in TARGETS for metric in SHOWN]
    content = {
        name: {
            title: {
                f"{target}_{metric}": cell.to_json()
                for (target, metric), cell in zip(columns, cells_of(measured, name, title, seeds), strict=True)
            }
            for title in FACTORS[name].trials
        }
        for name in factors
    }
    write_whole(folder / "masking_study.md", format_study(measured, factors, seeds))
    write_whole(folder / "masking_study.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/ablate"), help="folder of runs and worlds")
    parser.add_argument(
        "--factors", nargs="+", default=list(FACTORS), choices=list(FACTORS), help="which factors (default: all)"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="the last seed (default: %(default)s)")
    parser.add_argument("--first_seed", type=int, default=1, metavar="N", help="the first seed (default: %(default)s)")
    parser.add_argument(
        "--report_only", action="store_true", help="tables of the runs that are finished; nothing is trained"
    )
    return parser


def main() -> None:
    """Run the study and print its tables."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(run_study(build_parser().parse_args()))


if __name__ == "__main__":
    main()
