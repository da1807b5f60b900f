"""The report as one HTML file: the values that the page shows, and their rendering by a template.

    html = render_page(collect_page(request))     # `collect_page` of `mmet.report.builder`

The file loads nothing from the network: it contains the style sheet, and pictures are `data:` addresses. Captions,
paths and names come from data sets; jinja2 escapes them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from PIL import Image, ImageOps

from mmet.evaluation.analyses.ranked_lists import ListEntry
from mmet.figure_style import DARK, LIGHT
from mmet.report import charts
from mmet.report.charts import LOSS_LABELS, describe_task
from mmet.report.data_facts import DataFacts
from mmet.report.examples import ExampleList, ExampleSearch
from mmet.report.masking_comparison import MaskingComparison
from mmet.report.pictures import CROP_ASPECT, QUERY_LABELS, SHORT_STRATEGY_LABELS, STRATEGY_LABELS
from mmet.report.results_file import Evaluation, SystemResult, TaskComparison
from mmet.report.training_history import LossSeries, TrainingHistory

CROP_WIDTH = 96
"""Width of a crop in a ranked list in pixels: twice its width on the page, for screens of high resolution."""

JPEG_QUALITY = 82

STRATUM_NOTES = {
    "best": "drawn from the tenth of the queries with the highest average precision",
    "typical": "drawn from the middle tenth",
    "hard": "drawn from the lowest tenth",
}


@dataclass(frozen=True)
class Missing:
    """A section that is left out, with the reason."""

    reason: str


@dataclass(frozen=True)
class ModelFacts:
    """Number of the model's parameters, and size of its input in pixels and in patches (rows, columns)."""

    num_parameters: int
    image_size: tuple[int, int]
    patch_grid: tuple[int, int]


@dataclass(frozen=True)
class Page:
    """Everything on the page.

    Attributes:
        model: the evaluated model.
        evaluation: the results.
        targets: the data sets that were searched.
        training_data: the data sets that the model was trained on, as far as they were named.
        history: steps and losses of the run.
        uniform_guesses: for each loss that is a classification, its value for a uniform guess.
        searches: ranked lists; `Missing` for kinds of queries that cannot be shown.
        masking: masked crops.
        cpu_cores: number of cores of the machine that made the report.
        commands: (purpose, command line) in order.
        files: (description, path).
    """

    model: ModelFacts
    evaluation: Evaluation
    targets: Sequence[DataFacts]
    training_data: Sequence[DataFacts]
    history: TrainingHistory | Missing
    uniform_guesses: Mapping[str, float]
    searches: Sequence[ExampleSearch | Missing]
    masking: MaskingComparison | Missing
    cpu_cores: int
    commands: Sequence[tuple[str, str]]
    files: Sequence[tuple[str, str]]

    @property
    def is_synthetic(self) -> bool:
        """Whether all pictures come from the synthetic world."""
        return all(data.is_synthetic for data in (*self.targets, *self.training_data))

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the data sets, by name."""
        return {data.name: data.title for data in (*self.training_data, *self.targets)}


@dataclass(frozen=True)
class Chart:
    """A chart for light and for dark pages, as `data:` addresses, with its content in words."""

    light: str
    dark: str
    alt: str


def render_page(page: Page) -> str:
    """Render the page as HTML. A missing value raises an error here."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=lambda fraction: f"{100 * fraction:.1f}",
        number=lambda value: f"{value:,}",
        crop=lambda image: crop_uri(image),
        picture=lambda image: jpeg_uri(image),
        duration=describe_duration,
        task=describe_task,
        color_name=color_name,
    )
    source = resources.files("mmet.report").joinpath("template.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        page=page,
        headline=headline(page),
        systems={result.system: result for task in page.evaluation.tasks for result in task.results},
        scale=max((r.metrics["mAP"] for task in page.evaluation.tasks for r in task.results), default=1) or 1,
        cmc_charts=[_cmc_chart(task) for task in page.evaluation.tasks],
        loss_charts=_loss_charts(page),
        searches=[search for search in page.searches if isinstance(search, ExampleSearch)],
        missing_searches=[search for search in page.searches if isinstance(search, Missing)],
        history=None if isinstance(page.history, Missing) else page.history,
        masking=None if isinstance(page.masking, Missing) else page.masking,
        describe_candidate=describe_candidate,
        describe_query=describe_query,
        query_labels=QUERY_LABELS,
        short_strategy_labels=SHORT_STRATEGY_LABELS,
        strategy_labels=STRATEGY_LABELS,
        stratum_notes=STRATUM_NOTES,
        light=LIGHT,
        dark=DARK,
    )


def color_name(result: SystemResult) -> str:
    """Name of a system's colour in the style sheet."""
    return result.system if result.variant is None else f"other{result.variant % len(LIGHT.others)}"


def headline(page: Page) -> str:
    """Summarise in one sentence: the model, its training, and the data sets that it searches."""
    millions = page.model.num_parameters / 1e6
    size = f"{millions:.1f} million" if millions >= 0.1 else f"{page.model.num_parameters:,}"
    history = page.history if isinstance(page.history, TrainingHistory) else None
    training = []
    if history is not None:
        duration = f" ({describe_duration(history.seconds)})" if history.seconds is not None else ""
        training.append(f"for {history.num_steps:,} steps{duration}")
    if page.training_data:
        training.append(f"on {_and_list([_describe_training(data) for data in page.training_data])}")
    trained = f", trained {' '.join(training)}," if training else ""
    return (
        f"An MMET of {size} parameters{trained} looks for "
        f"{_and_list([_describe_target(data) for data in page.targets])}."
    )


def _describe_training(data: DataFacts) -> str:
    return f"{data.num_images:,} pictures of {data.num_persons:,} people ({data.title})"


def _describe_target(data: DataFacts) -> str:
    cameras = f" from {data.num_cameras} cameras" if data.num_cameras else ""
    return f"{data.num_persons:,} people in {data.num_images:,} pictures{cameras} ({data.title})"


def _and_list(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def describe_duration(seconds: float) -> str:
    """Seconds in words: `3 min 48 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def describe_query(search: ExampleSearch, ranked: ExampleList) -> str:
    """Alternative text of a query's picture."""
    camera = f" in camera {ranked.query.camera_name or ranked.query.camera_id}" if ranked.query.camera_id >= 0 else ""
    return f"Query picture{camera}: {ranked.stratum} case, {QUERY_LABELS[search.task.query.modality].lower()}"


def describe_candidate(rank: int, candidate: ListEntry) -> str:
    """Alternative text of a ranked crop."""
    camera = f", camera {candidate.camera_name or candidate.camera_id}" if candidate.camera_id >= 0 else ""
    verdict = "the same person" if candidate.is_match else "another person"
    return f"Rank {rank}: {verdict}{camera}, score {candidate.score:.2f}"


def _cmc_chart(task: TaskComparison) -> Chart:
    at_ten = ", ".join(f"{result.label} {100 * result.metrics['rank10']:.0f} %" for result in task.results)
    alt = f"CMC curves of {describe_task(task)} on {task.data}; at rank 10: {at_ten}"
    return Chart(_png_uri(charts.cmc_panel(task, LIGHT)), _png_uri(charts.cmc_panel(task, DARK)), alt)


def _loss_charts(page: Page) -> list[tuple[str, str, Chart]]:
    """(subscript, question, chart) of every loss that was logged."""
    if isinstance(page.history, Missing):
        return []
    return [
        (*LOSS_LABELS[losses.name], _loss_chart(losses, page.uniform_guesses.get(losses.name)))
        for losses in page.history.losses
    ]


def _loss_chart(losses: LossSeries, uniform_guess: float | None) -> Chart:
    smoothed = charts.smooth(losses.values)
    alt = (
        f"Loss {LOSS_LABELS[losses.name][0]} over training: {smoothed[0]:.2f} at step {losses.steps[0]:.0f}, "
        f"{smoothed[-1]:.2f} at step {losses.steps[-1]:.0f}"
    )
    light, dark = (_png_uri(charts.loss_panel(losses, uniform_guess, theme)) for theme in (LIGHT, DARK))
    return Chart(light, dark, alt)


def _png_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def jpeg_uri(image: Image.Image) -> str:
    """Encode a picture as a `data:` address."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def crop_uri(image: Image.Image) -> str:
    """Encode a person crop, in the size of ranked lists, as a `data:` address."""
    return jpeg_uri(ImageOps.fit(image, (CROP_WIDTH, CROP_WIDTH * CROP_ASPECT), Image.Resampling.LANCZOS))
