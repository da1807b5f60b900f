"""Train and evaluate the rows of a table, with one folder per stage, named after its settings.

A stage's fields are its recipe's, changed by the row, the user's settings, seed and data. Their fingerprint names the
folder: a finished run with equal fields is not repeated, an unfinished one continues from its checkpoint, and runs
with different fields never share a folder. Training goes through `run_pretraining` in this process, or through
`run_pretrain.py` under a launcher; evaluation through `evaluate_systems`, as in `run_reid_eval.py`.

    runner = Runner(Path("outputs/ablate"), data={"finegpr": "finegpr=data/FineGPR", ...}, size="small")
    runner.measure(TABLES[1].rows[0], seed=1, names=("market1501",))["market1501"]["mAP"]
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from datasets import DatasetDict

from mmet.ablate.experiments import TableRow, TrainingStage
from mmet.data import load_reid_dataset, parse_data_argument
from mmet.evaluation import EvaluationData, EvaluationOptions, evaluate_systems, prepare_tasks
from mmet.evaluation.protocols import Modality
from mmet.evaluation.systems.loading import load_system
from mmet.field_checks import SHARE_RANGE, check_number
from mmet.recipe_files import read_mapping_file
from mmet.stopping import StopRequested
from mmet.training.arguments import build_parser, parse_arguments
from mmet.training.pretraining import run_pretraining
from mmet.training.recipes import recipes_folder
from mmet.training.run_result import read_result
from mmet.whole_files import read_json, write_whole

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
RECIPES = recipes_folder()
RECIPE_FILE = "recipe.yaml"
DATA_FIELDS = ("paired_data", "image_data", "text_data", "eval_data")
WITHOUT_EFFECT = (
    "output_dir",
    "resume_from_checkpoint",
    "logging_steps",
    "report_to",
    "disable_tqdm",
    "dataloader_num_workers",
)
"""Fields without an effect on the trained weights; a run's fingerprint leaves them out."""

KEPT_METRICS = ("mAP", "mINP", "rank1", "rank5", "rank10")
"""Metrics of an evaluation that are kept."""


class MissingDataError(ValueError):
    """A row needs a dataset whose folder was not given."""


class NotTrainedError(ValueError):
    """A row's training is not finished, and only a report was asked for."""


@dataclass
class Runner:
    """Trains stages and evaluates rows.

    Attributes:
        output: folder of all runs.
        data: `name=folder` of each dataset by name.
        size: `paper` or `small`, see `TableRow`.
        settings: fields set by the user for all stages, or for one kind, such as `masked.max_steps`.
        recipes: folder of the recipes.
        launcher: command that `run_pretrain.py` runs under; empty trains in this process.
        batch_size: items embedded at a time.
        report_only: raise `NotTrainedError` for unfinished stages instead of training them.
    """

    output: Path
    data: Mapping[str, str]
    size: str = "paper"
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipes: Path = RECIPES
    launcher: Sequence[str] = ()
    batch_size: int = 64
    report_only: bool = False

    def measure(self, row: TableRow, *, seed: int, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Train a row with one seed and evaluate it on the named datasets: fractions by dataset and metric.

        Raises:
            MissingDataError: the row has no stages of this size, or the data of a stage was not given.
            NotTrainedError: with `report_only`, a stage is not finished.
        """
        folder = self.train(row, seed=seed)
        return {name: self.evaluate(folder, name, row.query, row.gallery) for name in names}

    def train(self, row: TableRow, *, seed: int) -> Path:
        """Train a row's unfinished stages; return the folder of the last stage."""
        stages = row.stages_of(self.size)
        if not stages:
            raise MissingDataError(f"{row.title}: this row has no {self.size} recipes")
        before: Path | None = None
        for stage in stages:
            before = self.train_stage(stage, before, seed=seed)
        assert before is not None
        return before

    def train_stage(self, stage: TrainingStage, before: Path | None, *, seed: int) -> Path:
        """Train a stage from the stage in folder `before`, unless it is finished; return its folder."""
        fields = self.fields_of(stage, before, seed=seed)
        folder = self.output / "runs" / f"{stage.name}-seed{seed}-{fingerprint(fields)}"
        if read_result(folder) is not None:
            logger.info("%s: finished", folder.name)
            return folder
        if self.report_only:
            raise NotTrainedError(f"{folder.name} is not trained to its end")
        folder.mkdir(parents=True, exist_ok=True)
        recipe = folder / RECIPE_FILE
        write_whole(recipe, yaml.safe_dump({**fields, "output_dir": str(folder)}, sort_keys=False))
        logger.info("%s: training", folder.name)
        start = time.perf_counter()
        self._run(recipe)
        write_whole(folder / "seconds.json", json.dumps({"last_session": round(time.perf_counter() - start, 1)}))
        return folder

    def fields_of(self, stage: TrainingStage, before: Path | None, *, seed: int) -> dict[str, Any]:
        """The recipe of a stage with all changes, without its output folder."""
        path = self.recipes / f"{stage.recipe}.yaml"
        if not path.is_file():
            raise ValueError(f"recipe {path} does not exist; name their folder with --recipes")
        fields = merge_fields(read_mapping_file(path), stage.settings)
        fields = merge_fields(fields, settings_for(self.settings, stage.kind))
        for name in DATA_FIELDS:
            if name in fields:
                fields[name] = [self._place(argument) for argument in fields[name]]
        if before is not None:
            fields["model_name_or_path"] = str(before)
        if stage.share != 1:
            fields["max_steps"] = max(1, round(stage.share * fields["max_steps"]))
        fields.pop("output_dir", None)
        return {**fields, "seed": seed}

    def evaluate(self, folder: Path, name: str, query: Modality, gallery: Modality) -> dict[str, float]:
        """Metrics of a trained model on one dataset, as fractions; measured once and then read from its folder."""
        if name not in self.data:
            raise MissingDataError(f"no folder of {name} was given")
        argument = self.data[name]
        kept = folder / f"evaluation-{name}-{query}-{gallery}.json"
        if os.path.lexists(kept):
            earlier = _read_evaluation(kept)
            if earlier["data"] == argument:
                metrics: dict[str, float] = earlier["metrics"]
                return metrics
        logger.info("%s: %s→%s on %s", folder.name, query, gallery, name)
        data_name, root, _ = parse_data_argument(argument)
        tasks = prepare_tasks(load_once(argument), query, gallery)
        system = load_system(str(folder), batch_size=self.batch_size)
        (record,) = evaluate_systems(EvaluationData(data_name, root, tasks), [system], EvaluationOptions(max_rank=10))
        metrics = record.metrics.headline()
        content = {"data": argument, "protocol": record.protocol, "metrics": metrics}
        write_whole(kept, json.dumps(content, indent=2) + "\n")
        return metrics

    def _place(self, argument: str) -> str:
        """Replace a recipe's dataset argument by the user's. Raises `MissingDataError` if the user named none."""
        name = parse_data_argument(argument).name
        if name not in self.data:
            raise MissingDataError(f"no folder of {name} was given")
        return self.data[name]

    def _run(self, recipe: Path) -> None:
        arguments = [str(recipe), "--resume_from_checkpoint", "true"]
        if not self.launcher:
            run_pretraining(*parse_arguments(arguments))
            return
        command = [*self.launcher, str(ROOT / "run_pretrain.py"), *arguments]
        status = _wait_for(subprocess.Popen(command))
        if status:
            raise OSError(f"{' '.join(command)} ended with status {status}; its message is above")


def _read_evaluation(path: Path) -> dict[str, Any]:
    """Read the kept metrics of a dataset. Raises `ValueError`, naming the file, for other content."""
    try:
        content = read_json(path)
        metrics = {name: check_number(name, content["metrics"][name], float, SHARE_RANGE) for name in KEPT_METRICS}
        return {"data": content["data"], "metrics": metrics}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an evaluation of this command ({error!r}); remove it") from error


def _wait_for(process: subprocess.Popen[bytes]) -> int:
    """Wait for a training process and return its exit code; pass signals on, so that it saves a checkpoint first."""
    try:
        return process.wait()
    except StopRequested as stopped:
        if stopped.number != signal.SIGINT:  # Ctrl-C reaches both
            process.send_signal(stopped.number)
        process.wait()
        raise


@cache
def load_once(argument: str) -> DatasetDict:
    """Load the dataset of a `name=folder` argument, once per process."""
    name, root, options = parse_data_argument(argument)
    return load_reid_dataset(name, root, **options)


def merge_fields(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `changes` into `fields`, as the command line does with a recipe: `batch_mix` is replaced as a whole."""
    return build_parser().merge(fields, changes)


def settings_for(settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The user's settings for a kind of stage: those for all stages, overridden by those named `<kind>.<field>`."""
    plain = {name: value for name, value in settings.items() if "." not in name}
    for_kind = {name.partition(".")[2]: value for name, value in settings.items() if name.partition(".")[0] == kind}
    return merge_fields(plain, {name: value for name, value in for_kind.items() if name})


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Hash the fields that affect the trained weights to eight hex digits; their order does not matter."""
    counted = {name: value for name, value in fields.items() if name not in WITHOUT_EFFECT}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:8]
