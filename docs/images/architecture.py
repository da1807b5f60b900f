"""Draw `architecture.svg`: the packages from bottom to top, and the ways through them.

python docs/images/architecture.py            # writes architecture.svg beside this file
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

mpl.rcParams["svg.hashsalt"] = "mmet"  # the same bytes each time

INK, MUTED = "#1f2328", "#59636e"
FLOORS = {"grey": ("#f6f8fa", "#d0d7de"), "blue": ("#ddf4ff", "#54aeff"), "green": ("#dafbe1", "#4ac26b")}
FLOORS["orange"] = ("#fff1e5", "#fb8f44")
SAMPLE, QUERY, CROP = "#0969da", "#1a7f37", "#bc4c00"


class Drawing:
    """A figure in units of its own: 120 wide, 100 high."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(12, 10))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, 120), ylim=(0, 100))
        self.axes.axis("off")

    def box(self, x: float, y: float, width: float, height: float, title: str, text: str, color: str) -> None:
        """A package: its name in bold, and what is in it."""
        face, edge = FLOORS[color]
        style = "round,pad=0,rounding_size=1.2"
        self.axes.add_patch(
            FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=1.5)
        )
        middle = x + width / 2
        self.axes.text(middle, y + height - 1.6, title, ha="center", va="top", fontsize=12.5, weight="bold", color=INK)
        self.axes.text(
            middle, y + height - 5.0, text, ha="center", va="top", fontsize=10.5, color=MUTED, linespacing=1.5
        )

    def arrow(self, start: tuple[float, float], end: tuple[float, float], color: str, label: str = "") -> None:
        """What moves from one package to the next."""
        self.axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=16, linewidth=2, color=color))
        if label:
            x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            self.axes.text(
                x, y, label, ha="center", va="center", fontsize=10, color=color,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
            )  # fmt: skip


def draw() -> Figure:
    """The house, floor by floor."""
    drawing = Drawing()
    box, arrow = drawing.box, drawing.arrow
    box(2, 88, 36, 10, "run_pretrain.py", "arguments or a recipe in,\na model folder out", "blue")
    box(42, 88, 36, 10, "mmet/ablate · report · explain", "the paper's tables; the demo's page;\nwhy something was found", "grey")
    box(82, 88, 36, 10, "run_reid_eval.py", "models and data in,\nresults.json and tables out", "green")

    box(
        82,
        70,
        36,
        11,
        "mmet/evaluation/analyses",
        "intervals, open set, calibration,\nranked lists: compute, section, figure",
        "green",
    )
    box(
        82,
        53,
        36,
        11,
        "mmet/evaluation/systems",
        "what embeds or scores: models,\nbackbones, baselines; the cache",
        "green",
    )
    box(82, 38, 36, 9, "mmet/evaluation", "protocols make tasks, search ranks", "green")
    box(42, 38, 36, 9, "mmet/evaluation/metrics", "ranks in, numbers out", "green")

    box(42, 75, 36, 10, "mmet/footage", "films in: detect, track,\nchoose the best crops", "orange")
    box(42, 51, 36, 10, "mmet/gallery", "one's own crops: Parquet, index,\nsearches by image and sentence", "orange")

    box(2, 70, 36, 11, "mmet/training", "trainer, validation, checkpoints,\nrun record, model card", "blue")
    box(2, 53, 36, 11, "mmet/training", "collator: tensors, masks, labels\n(masking, tokenization)", "blue")
    box(2, 38, 36, 9, "mmet/training", "sampler and dataset (augmentation)", "blue")

    box(
        2,
        20,
        76,
        11,
        "mmet/data",
        "one reader per dataset → datasets.DatasetDict with one schema;\nchecks, doctor, Parquet, the synthetic world",
        "grey",
    )
    box(82, 20, 36, 11, "mmet/conversion", "weights of FLAVA, ViT, BERT\nbecome MMET weights", "grey")
    box(
        2,
        3,
        116,
        11,
        "configuration_mmet · inputs_mmet · objectives_mmet · modeling_mmet · pictures_mmet · processing_mmet",
        "model, losses, image and text processing: these files travel with every checkpoint\n"
        "and import nothing of mmet",
        "grey",
    )

    arrow((20, 31), (20, 38), SAMPLE, "rows")
    arrow((20, 47), (20, 53), SAMPLE, "TrainingSample")
    arrow((20, 64), (20, 70), SAMPLE, "batch")
    arrow((20, 81), (20, 88), SAMPLE, "model folder")
    arrow((72, 31), (86, 38), QUERY, "rows")
    arrow((91, 47), (91, 53), QUERY, "RetrievalTask")
    arrow((110, 53), (110, 47), QUERY, "embeddings")
    arrow((82, 42.5), (78, 42.5), QUERY)
    arrow((100, 64), (100, 70), QUERY, "TaskResult, ResultRecord")
    arrow((100, 81), (100, 88), QUERY, "results.json")
    arrow((38, 73), (82, 62), MUTED, "validation: the same system.evaluate")
    arrow((76.3, 75), (76.3, 61), CROP, "crops")
    arrow((82, 57), (78, 57), CROP)
    arrow((20, 14), (20, 20), MUTED)
    arrow((100, 14), (100, 20), MUTED)
    return drawing.figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
