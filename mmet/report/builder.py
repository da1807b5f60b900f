"""Build the report's files from a run, its results and its data.

build_report(ReportRequest(run=Path("outputs/demo/model"), ...))
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import DatasetDict

from configuration_mmet import MMETConfig, MMETImageConfig
from mmet.data import DataArgument, load_reid_dataset, training_split
from mmet.data.synthetic import PROVENANCE_FILE, command_options
from mmet.evaluation import EvaluationOptions, ModelSystem, RetrievalTask, build_task
from mmet.evaluation.protocols import Modality
from mmet.evaluation.systems.lineup import BASELINES
from mmet.evaluation.systems.loading import check_checkpoint, load_system
from mmet.figure_style import LIGHT
from mmet.report import charts, pictures
from mmet.report.data_facts import DataFacts, summarize_data
from mmet.report.examples import ExampleSearch, sample_task, show_lists
from mmet.report.masking_comparison import MaskingComparison, compare_masking
from mmet.report.page import Missing, ModelFacts, Page, headline, render_page
from mmet.report.pictures import QUERY_LABELS
from mmet.report.results_file import Evaluation, read_evaluation
from mmet.report.training_history import TrainingHistory, read_history
from mmet.whole_files import read_json, write_all_whole

SEARCHES: tuple[tuple[Modality, Modality], ...] = (("image", "image"), ("text", "image"), ("both", "image"))
"""Modalities of query and gallery that the report shows; galleries are always of images."""

TITLE = "Finding people by image, sentence, or both"


@dataclass(frozen=True)
class ReportRequest:
    """The inputs, the output folder and the options of a report.

    Attributes:
        run: folder of the model, as written by `run_pretrain.py`.
        results: `results.json` of the model's evaluation.
        data: the data sets to search.
        training_data: the data sets that the model was trained on; may be empty.
        output: folder of the report, created if needed; existing files of the report are replaced.
        recipe: recipe of the run, for the command that reproduces it; None if it is not known.
        mask_ratio: share of patches hidden in the comparison of masking strategies.
        max_queries: number of queries that ranked lists are chosen from; a random sample if a data set has more.
        num_candidates: length of the ranked lists.
        batch_size: items embedded at a time.
        seed: random seed of the choice of queries, crops and hidden patches.
    """

    run: Path
    results: Path
    data: Sequence[DataArgument]
    training_data: Sequence[DataArgument]
    output: Path
    recipe: Path | None = None
    mask_ratio: float = 0.15
    max_queries: int = 200
    num_candidates: int = 10
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class NamedDataset:
    """A data set and the argument that named it."""

    argument: DataArgument
    dataset: DatasetDict

    def summary(self, *, training: bool) -> DataFacts:
        """Count the images and persons of the training split, or of the splits that are searched."""
        searched = [split for split in ("query", "gallery", "test") if split in self.dataset]
        return summarize_data(self.argument, self.dataset, ["train"] if training else searched)


def build_report(request: ReportRequest) -> Path:
    """Make the report, write its files and return the path of the page.

    Raises:
        ValueError: a folder or file is missing or invalid, or the model has no processor.
        OSError: a file cannot be read or written.
    """
    page = collect_page(request)
    request.output.mkdir(parents=True, exist_ok=True)
    contents: dict[str, str | bytes] = {name: draw() for name, draw in plan_figures(page).items()}
    contents["index.html"] = render_page(page)
    write_all_whole({request.output / name: content for name, content in contents.items()})
    return request.output / "index.html"


def collect_page(request: ReportRequest) -> Page:
    """Read everything that the report shows and search the data sets. Raises as `build_report` does."""
    check_paths(request)
    evaluation, history = read_evaluation(request.results), read_history(request.run)
    system = load_run(request, evaluation)
    targets = [
        NamedDataset(argument, load_reid_dataset(argument.name, argument.root, **argument.options))
        for argument in request.data
    ]
    training = [load_training(argument) for argument in request.training_data]
    return Page(
        model=describe_model(system),
        evaluation=evaluation,
        targets=[data.summary(training=False) for data in targets],
        training_data=[data.summary(training=True) for data in training],
        history=history or Missing(f"Left out: {request.run} holds no trainer_state.json."),
        uniform_guesses=uniform_guesses(_config(system)),
        searches=find_searches(request, system, targets, evaluation),
        masking=find_masking(request, system.processor, training),
        cpu_cores=os.cpu_count() or 1,
        commands=reproduction_commands(request, evaluation),
        files=[
            ("Model and processor", str(request.run)),
            ("Results", str(request.results)),
            ("This report and its figures", str(request.output)),
        ],
    )


def check_paths(request: ReportRequest) -> None:
    """Raise `ValueError`, naming the argument, for the first path that does not exist."""
    for argument, path in (
        ("--run", request.run),
        *(("--data", root) for _, root, _ in request.data),
        *(("--training_data", root) for _, root, _ in request.training_data),
    ):
        if not path.is_dir():
            raise ValueError(f"{argument}: expected a folder, there is none at {path}")
    if not request.results.is_file():
        raise ValueError(f"--results: expected the results.json of an evaluation, there is no file {request.results}")


def load_run(request: ReportRequest, evaluation: Evaluation) -> ModelSystem:
    """Load the model as the evaluation ran it. Raises `ValueError` for a folder without a readable model."""
    rows = [task.trained for task in evaluation.tasks if task.trained is not None]
    rescore = any(row.options.itm_top_k for row in rows)
    try:
        check_checkpoint(str(request.run))
        return load_system(str(request.run), rescore=rescore, batch_size=request.batch_size)
    except ValueError as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"--run: {request.run} holds no model with its processor: {first_line}") from error


def _config(system: ModelSystem) -> MMETConfig:
    config = system.model.config
    assert isinstance(config, MMETConfig)
    return config


def describe_model(system: ModelSystem) -> ModelFacts:
    """Size of the model and of its input."""
    image = cast(MMETImageConfig, _config(system).image_config)
    height, width = cast(tuple[int, int], image.image_size)
    num_parameters = sum(parameter.numel() for parameter in system.model.parameters())
    return ModelFacts(num_parameters, (height, width), image.patch_grid)


def uniform_guesses(config: MMETConfig) -> dict[str, float]:
    """Cross-entropy of a uniform guess among the classes, for each loss that is a classification, by its name."""
    vocab_size = getattr(config.text_config, "vocab_size", 0)
    classes = {
        "mim": config.codebook_size or 0,
        "mmm_image": config.codebook_size or 0,
        "mlm": vocab_size,
        "mmm_text": vocab_size,
        "itm": 2,
        "identity": config.num_identities,
    }
    return {name: math.log(number) for name, number in classes.items() if number > 1}


@dataclass(frozen=True, eq=False)
class _PlannedSearch:
    """A search with the evaluation's protocol and options for a sample of the queries; `rng` chooses those shown."""

    task: RetrievalTask
    num_all_queries: int
    options: EvaluationOptions
    rng: np.random.Generator


def find_searches(
    request: ReportRequest, system: ModelSystem, targets: Sequence[NamedDataset], evaluation: Evaluation
) -> list[ExampleSearch | Missing]:
    """Run each of `SEARCHES` on the first data set that allows it, or say why none does."""
    planned = [
        _plan_search(request, system, targets, evaluation, kind, np.random.default_rng([request.seed, number]))
        for number, kind in enumerate(SEARCHES)
    ]
    searches = [search for search in planned if isinstance(search, _PlannedSearch)]
    shown: dict[_PlannedSearch, ExampleSearch] = {}
    for options in dict.fromkeys(search.options for search in searches):  # tasks of one call share embeddings
        alike = [search for search in searches if search.options == options]
        for search, result in zip(alike, system.evaluate([s.task for s in alike], options), strict=True):
            shown[search] = show_lists(
                result,
                num_all_queries=search.num_all_queries,
                num_candidates=request.num_candidates,
                rng=search.rng,
            )
    return [shown[search] if isinstance(search, _PlannedSearch) else search for search in planned]


def _plan_search(
    request: ReportRequest,
    system: ModelSystem,
    targets: Sequence[NamedDataset],
    evaluation: Evaluation,
    kind: tuple[Modality, Modality],
    rng: np.random.Generator,
) -> _PlannedSearch | Missing:
    """Plan a search of one kind on the first data set that allows it."""
    label = f"“{QUERY_LABELS[kind[0]]}” is left out"
    pooling = _config(system).identity_pooling
    if pooling not in ("multimodal", kind[0]):
        return Missing(f"{label}: this model embeds {pooling} inputs alone.")
    reasons = []
    for target in targets:
        try:
            task, options = _recorded_task(request, target, evaluation, kind)
        except ValueError as error:
            reasons.append(str(error))
            continue
        sample = sample_task(task, options, request.max_queries, rng)
        return _PlannedSearch(sample, len(task.query), options, rng)
    return Missing(f"{label}: {'; '.join(reasons)}.")


def _recorded_task(
    request: ReportRequest, target: NamedDataset, evaluation: Evaluation, kind: tuple[Modality, Modality]
) -> tuple[RetrievalTask, EvaluationOptions]:
    """The task with the protocol and options of the evaluation, or if it was not evaluated, with the data set's own
    protocol and no options. Raises `ValueError` if the data set cannot be searched in this way.
    """
    evaluated = evaluation.find_task(target.argument.label, target.argument.root, *kind)
    row = evaluated.trained if evaluated is not None else None
    options = row.options if row is not None else EvaluationOptions()
    task = build_task(target.dataset, *kind, evaluated.protocol if evaluated is not None else None)
    if task.rules.single_shot is not None:
        raise ValueError(
            f"protocol {task.protocol!r} draws several galleries per query, so there is no single ranked list"
        )
    return task, replace(options, max_rank=request.num_candidates)


def load_training(argument: DataArgument) -> NamedDataset:
    """Load data that the model was trained on. Raises `DatasetError` if it has no training split."""
    dataset = load_reid_dataset(argument.name, argument.root, check_images=False, **argument.options)
    training_split(argument, dataset)
    return NamedDataset(argument, dataset)


def find_masking(
    request: ReportRequest, processor: Any, training: Sequence[NamedDataset]
) -> MaskingComparison | Missing:
    """Compare masking strategies on the first training data set with silhouettes."""
    if not training:
        return Missing("Left out: no training data was named (--training_data).")
    for data in training:
        rng = np.random.default_rng(request.seed)
        masking = compare_masking(data.dataset["train"], processor, mask_ratio=request.mask_ratio, rng=rng)
        if masking is not None:
            return masking
    return Missing("Left out: masks are measured on silhouettes of people, which the training data does not have.")


EVALUATION_OPTIONS = (
    "query", "gallery", "protocol", "baselines", "backbones", "compare", "seeds", "flip", "query_expansion",
    "multi_query", "rerank", "itm_top_k", "open_set", "calibrate",
)  # fmt: skip
"""Arguments of an evaluation that determine its rows and their values."""

WITH_PARAMETERS = {"rerank": ("rerank_k1", "rerank_k2", "rerank_lambda"), "itm_top_k": ("itm_weight",)}
"""Further arguments that matter if the argument is given."""


def evaluation_words(evaluation: Evaluation) -> list[str]:
    """The evaluation's arguments other than model, data and folder; all baselines if it recorded no settings."""
    settings = evaluation.settings
    if not settings:
        return ["--baselines", *BASELINES]
    words: list[str] = []
    for option in EVALUATION_OPTIONS:
        if not settings.get(option):
            continue
        for name in (option, *WITH_PARAMETERS.get(option, ())):
            value = settings.get(name)
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name}", *map(str, values)]
    return words


def reproduction_commands(request: ReportRequest, evaluation: Evaluation | None = None) -> list[tuple[str, str]]:
    """The commands that reproduce this report, in order, with their purposes. Real data must already be there."""
    roots = dict.fromkeys(argument.root for argument in [*request.training_data, *request.data])
    worlds = [("Draw the synthetic data", command) for root in roots if (command := world_command(root))]
    train = ["python", "run_pretrain.py", str(request.recipe), "--output_dir", str(request.run)]
    data = [str(argument) for argument in request.data]
    evaluate = ["python", "run_reid_eval.py", "--model_name_or_path", str(request.run), "--data", *data]
    recorded = evaluation_words(evaluation) if evaluation is not None else ["--baselines", *BASELINES]
    evaluate += [*recorded, "--output_dir", str(request.results.parent)]
    report = ["python", "-m", "mmet.report", "--run", str(request.run), "--results", str(request.results)]
    report += ["--data", *data]
    if request.training_data:
        report += ["--training_data", *(str(argument) for argument in request.training_data)]
    report += ["--output", str(request.output)]
    return [
        *worlds,
        *([("Train", shlex.join(train))] if request.recipe is not None else []),
        ("Evaluate", shlex.join(evaluate)),
        ("Make this report", shlex.join(report)),
    ]


def world_command(root: Path) -> str | None:
    """The command that drew the synthetic world in a folder; None for other data and for styles without a name."""
    try:
        options = command_options(read_json(root / PROVENANCE_FILE)["arguments"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    words = ["python", "-m", "mmet.data.synthetic", "--output", str(root)]
    for name, value in options.items():
        words += [f"--{name}", *([] if value is None else [str(value)])]
    return shlex.join(words)


def plan_figures(page: Page) -> dict[str, Callable[[], bytes]]:
    """Functions that draw the report's pictures as PNG, by file name; only pictures that there is data for."""
    searches = [search for search in page.searches if isinstance(search, ExampleSearch)]
    history = page.history if isinstance(page.history, TrainingHistory) and page.history.losses else None
    masking = page.masking if isinstance(page.masking, MaskingComparison) else None
    tasks = page.evaluation.tasks
    plan: dict[str, Callable[[], bytes]] = {
        f"gallery_{search.task.query.modality}.png": lambda search=search: pictures.gallery_figure(  # type: ignore[misc]
            search, QUERY_LABELS[search.task.query.modality], LIGHT
        )
        for search in searches
    }
    if tasks:
        plan["map.png"] = lambda: charts.precision_figure(tasks, LIGHT)
        plan["cmc.png"] = lambda: charts.cmc_figure(tasks, page.titles, LIGHT)
    if history is not None:
        plan["losses.png"] = lambda: charts.losses_figure(history, page.uniform_guesses, LIGHT)
    if masking is not None:
        plan["masks.png"] = lambda: pictures.masks_figure(masking, LIGHT)
    plan["report.png"] = lambda: pictures.overview_figure(
        title=TITLE,
        subtitle=overview_subtitle(page),
        searches=searches,
        tasks=tasks,
        history=history,
        masking=masking,
        theme=LIGHT,
    )
    return plan


def overview_subtitle(page: Page) -> str:
    """The headline, and a notice if all pictures are synthetic."""
    notice = " No real person is shown, and no figure is a result on a real data set." if page.is_synthetic else ""
    return headline(page) + notice
