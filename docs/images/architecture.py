"""Draw `architecture.svg`: the packages from bottom to top, and the paths of data through them.

python docs/images/architecture.py            # writes architecture.svg beside this file
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

mpl.rcParams["svg.hashsalt"] = "mmet"  # the same bytes each time

INK, MUTED = "#1f2328", "#59636e"
SAMPLE, QUERY, SEARCH = "#0969da", "#1a7f37", "#bc4c00"
FILLS = {MUTED: ("#f6f8fa", "#d0d7de"), SAMPLE: ("#ddf4ff", "#54aeff"), QUERY: ("#dafbe1", "#4ac26b")}
FILLS[SEARCH] = ("#fff1e5", "#fb8f44")
"""Face and edge of the boxes on each path; grey boxes are on none."""

WIDTH, HEIGHT = 150, 123
LEFT, MIDDLE, RIGHT = (2, 34), (42, 66), (114, 34)
"""Left edge and width of the three columns: training, search, evaluation."""


class Drawing:
    """A figure in units of its own."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH / 10, HEIGHT / 10))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self.axes.axis("off")

    def box(self, place: tuple[float, float], bottom: float, title: str, text: str, color: str = MUTED) -> None:
        """A package: its name in bold, and what is in it."""
        (left, width), height = place, 5.6 + 3.0 * (text.count("\n") + 1)
        face, edge = FILLS[color]
        style = "round,pad=0,rounding_size=1.2"
        self.axes.add_patch(
            FancyBboxPatch(
                (left, bottom), width, height, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=1.5
            )
        )
        center, top = left + width / 2, bottom + height
        self.axes.text(center, top - 1.6, title, ha="center", va="top", fontsize=12.5, weight="bold", color=INK)
        self.axes.text(center, top - 5.0, text, ha="center", va="top", fontsize=10.5, color=MUTED, linespacing=1.5)

    def steps(self, x: float, y: float, numbers: str, color: str) -> None:
        """The steps of a path that happen in a box, down its left edge; docs/architecture.md lists them."""
        for number in numbers:
            self.axes.plot(x, y, "o", markersize=15, color=color)
            self.axes.text(x, y - 0.15, number, ha="center", va="center", fontsize=10, weight="bold", color="white")
            y -= 3.4

    def arrow(self, start: tuple[float, float], end: tuple[float, float], color: str, label: str = "") -> None:
        """What moves from one package to the next."""
        self.axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=16, linewidth=2, color=color))
        if label:
            x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            white = {"facecolor": "white", "edgecolor": "none", "pad": 2}
            self.axes.text(x, y, label, ha="center", va="center", fontsize=10, color=color, bbox=white)


def draw() -> Figure:
    """The packages by floor, then the three paths."""
    drawing = Drawing()
    draw_ground(drawing)
    draw_training(drawing)
    draw_search(drawing)
    draw_evaluation(drawing)
    return drawing.figure


def draw_ground(drawing: Drawing) -> None:
    """The model's files, data, and where weights come from."""
    drawing.box(
        (2, 146),
        2,
        "*_mmet.py: configuration, inputs, layers, objectives, codebooks, modeling, pictures, processing, pipelines",
        "model, losses, image and text processing, pipelines: saved with every checkpoint, import nothing from mmet",
    )
    drawing.box(
        (2, 146),
        17,
        "mmet/data",
        "one reader per dataset → datasets.DatasetDict with one schema; checks, doctor, Parquet, the synthetic world",
    )
    drawing.box((42, 30), 33, "mmet/conversion", "weights of FLAVA, CLIP, SigLIP,\nDINO, BERT become MMET weights")
    drawing.box((78, 30), 33, "mmet/starter", "the model that comes with\nthe package")
    drawing.box(MIDDLE, 112, "mmet/ablate · mmet/report", "train and evaluate the paper's tables; the demo's report")
    drawing.arrow((75, 10.6), (75, 17), MUTED)


def draw_training(drawing: Drawing) -> None:
    """Left: a sample becomes part of a batch, and a run becomes a model folder."""
    drawing.box(LEFT, 33, "mmet/training", "sampler, dataset,\naugmentation", SAMPLE)
    drawing.box(LEFT, 56, "mmet/training", "collator: pixels, tokens,\nmasks, labels", SAMPLE)
    drawing.box(LEFT, 79, "mmet/training", "trainer, checkpoints; validation\nby system.evaluate", SAMPLE)
    drawing.box(LEFT, 109, "run_pretrain.py", "a recipe in,\na model folder out", SAMPLE)
    drawing.arrow((19, 25.6), (19, 33), SAMPLE, "rows")
    drawing.arrow((19, 44.6), (19, 56), SAMPLE, "TrainingSample")
    drawing.arrow((19, 67.6), (19, 79), SAMPLE, "batch")
    drawing.arrow((19, 90.6), (19, 109), SAMPLE, "model folder")
    drawing.steps(2, 23.2, "1", SAMPLE)
    drawing.steps(2, 42.2, "23", SAMPLE)
    drawing.steps(2, 65.2, "4", SAMPLE)
    drawing.steps(2, 88.2, "56", SAMPLE)


def draw_search(drawing: Drawing) -> None:
    """Middle: videos and crops become a gallery, and a query finds people in it."""
    drawing.box(
        MIDDLE,
        56,
        "mmet/gallery",
        "your own crops: Parquet or Milvus, index, filters,\nsearch by image and sentence",
        SEARCH,
    )
    drawing.box((42, 18), 79, "mmet/footage", "detect, track,\nbest crops", SEARCH)
    drawing.box((66, 18), 79, "mmet/explain", "why a crop\nmatched", SEARCH)
    drawing.box((90, 18), 79, "mmet/serving", "embeddings\nover HTTP", SEARCH)
    drawing.box((42, 42), 97, "mmet/app", "the page, and the same for programs", SEARCH)
    drawing.box((90, 18), 97, "mmet/export", "ONNX files")
    drawing.arrow((75, 25.6), (75, 56), SEARCH, "entries")
    drawing.arrow((51, 79), (51, 67.6), SEARCH, "crops")
    drawing.arrow((63, 97), (63, 67.6), SEARCH, "query")
    drawing.arrow((75, 67.6), (75, 79), SEARCH, "match")
    drawing.arrow((75, 90.6), (75, 97), SEARCH)
    drawing.arrow((99, 67.6), (99, 79), SEARCH)
    drawing.steps(42, 88.2, "1", SEARCH)
    drawing.steps(42, 65.2, "234", SEARCH)
    drawing.steps(42, 103.2, "5", SEARCH)
    drawing.steps(66, 88.2, "5", SEARCH)


def draw_evaluation(drawing: Drawing) -> None:
    """Right: rows and a protocol become tasks, and a system's embeddings become figures."""
    drawing.box(RIGHT, 33, "mmet/evaluation", "protocols, search,\nmetrics from ranks", QUERY)
    drawing.box(RIGHT, 56, "mmet/evaluation/systems", "what embeds or scores:\nmodels, backbones, baselines", QUERY)
    drawing.box(RIGHT, 79, "mmet/evaluation/analyses", "intervals, open set,\ncalibration, ranked lists", QUERY)
    drawing.box(RIGHT, 109, "run_reid_eval.py", "models and data in,\nresults.json and tables out", QUERY)
    drawing.arrow((131, 25.6), (131, 33), QUERY, "rows")
    drawing.arrow((124, 44.6), (124, 56), QUERY, "RetrievalTask")
    drawing.arrow((139, 56), (139, 44.6), QUERY, "embeddings")
    drawing.arrow((131, 67.6), (131, 79), QUERY, "TaskResult, ResultRecord")
    drawing.arrow((131, 90.6), (131, 109), QUERY, "results.json")
    drawing.arrow((114, 61.8), (108, 61.8), SEARCH)
    drawing.steps(114, 42.2, "134", QUERY)
    drawing.steps(114, 65.8, "2", QUERY)
    drawing.steps(114, 88.2, "5", QUERY)


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
