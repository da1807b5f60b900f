"""The rows of the paper's tables: training stages (a recipe and its changes), the search, and the paper's figures.

Every row has two sets of stages: those of the paper's size (`table1_random.yaml`, …) and small ones for two CPU cores
(`synthetic_*.yaml`). Rows whose stages have the same name and settings share a run. Rows without figures are controls
that are not in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmet.evaluation.protocols import Modality

METRICS = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5"}
"""Metrics of the paper's tables and their titles."""


@dataclass(frozen=True)
class TrainingStage:
    """One training run.

    Attributes:
        name: first part of the name of the run's folder.
        kind: `masked` or `identity`; the user may change settings of all stages of a kind.
        recipe: file in `recipes/`, without `.yaml`.
        settings: fields that replace those of the recipe; fields of `model_config` are merged into the recipe's.
        share: share of the recipe's steps; less than 1 if the stage leaves out kinds of batches that the others have.
    """

    name: str
    kind: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        title: title of the row in the table.
        stages: training at the paper's size; each stage continues from the previous one.
        small_stages: the same for two CPU cores.
        query, gallery: modalities of the search.
        paper: figures of the paper in percent, by dataset and metric.
    """

    title: str
    stages: tuple[TrainingStage, ...]
    small_stages: tuple[TrainingStage, ...]
    query: Modality = "image"
    gallery: Modality = "image"
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def stages_of(self, size: str) -> tuple[TrainingStage, ...]:
        """The stages of a size, `paper` or `small`."""
        return self.small_stages if size == "small" else self.stages


@dataclass(frozen=True)
class Table:
    """A table of the paper: its number and title, the datasets and metrics of its columns, its rows."""

    number: int
    title: str
    datasets: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[TableRow, ...]


def _stages(name: str, recipe: str, masked: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """A masked and an identity stage in both sizes; `masked` changes the small recipe to correspond to `recipe`."""
    paper_identity = {key: value for key, value in identity.items() if key in ("batch_mix", "paired_data")}
    return {
        "stages": (
            TrainingStage(f"{name}_masked", "masked", recipe),
            TrainingStage(f"{name}_identity", "identity", "released_code_stage2", paper_identity),
        ),
        "small_stages": (
            TrainingStage(f"{name}_masked", "masked", "synthetic_masked", masked),
            TrainingStage(f"{name}_identity", "identity", "synthetic_identity", identity),
        ),
    }


_NOTHING_MASKED = {
    "image_masking": "none",
    "batch_mix": {"paired": 1},
    "mmm_image_weight": 0,
    "mmm_text_weight": 0,
}
"""The masked stage without anything to reconstruct: L_ITM and L_GC on the pairs of the other rows."""

_IMAGES = {"batch_mix": {"identity_image": 1}}
_RANDPERSON = ["randperson=data/RandPerson"]
_BASELINE: dict[str, Any] = {
    "stages": (TrainingStage("baseline", "identity", "table1_baseline"),),
    "small_stages": (TrainingStage("baseline", "identity", "synthetic_baseline"),),
}
_IMAGE_ENCODER = {"batch_mix": {"image": 1}, "model_config": {"identity_pooling": "image"}}
_MIM = _stages("mim", "table2_mim", _IMAGE_ENCODER, _IMAGES)
_MIM_RANDOM: dict[str, Any] = {
    "stages": (
        TrainingStage("mim_random_masked", "masked", "table2_mim", {"image_masking": "random"}),
        TrainingStage("mim_random_identity", "identity", "released_code_stage2", _IMAGES),
    ),
    "small_stages": (
        TrainingStage(
            "mim_random_masked", "masked", "synthetic_masked", {"image_masking": "random", **_IMAGE_ENCODER}
        ),
        TrainingStage("mim_random_identity", "identity", "synthetic_identity", _IMAGES),
    ),
}
_MMM = _stages("mmm", "table1_pedestrian", {"image_masking": "pedestrian"}, {})

_MMM_ON_CAMERAS = {
    "market1501": {"mAP": 28.8, "rank1": 59.2},
    "dukemtmc": {"mAP": 23.5, "rank1": 43.6},
    "cuhk03": {"mAP": 20.3, "rank1": 23.6},
}

TABLES = {
    1: Table(
        1,
        "Ablation of masking (image→image)",
        ("market1501", "dukemtmc"),
        ("mAP", "rank1"),
        (
            TableRow(
                "Baseline (image encoder, identities alone)",
                **_BASELINE,
                paper={"market1501": {"mAP": 15.4, "rank1": 38.9}, "dukemtmc": {"mAP": 9.8, "rank1": 19.5}},
            ),
            TableRow("Baseline after MIM, random masking (not in the paper)", **_MIM_RANDOM),
            TableRow("Baseline after MIM, pedestrian masking (not in the paper)", **_MIM),
            TableRow(
                "MMET, nothing masked (not in the paper)",
                (
                    TrainingStage("unmasked_masked", "masked", "table1_random", _NOTHING_MASKED, share=1 / 3),
                    TrainingStage("unmasked_identity", "identity", "released_code_stage2"),
                ),
                (
                    TrainingStage("unmasked_masked", "masked", "synthetic_masked", _NOTHING_MASKED, share=1 / 3),
                    TrainingStage("unmasked_identity", "identity", "synthetic_identity"),
                ),
            ),
            TableRow(
                "MMET, random masking",
                **_stages("random", "table1_random", {"image_masking": "random"}, {}),
                paper={"market1501": {"mAP": 26.7, "rank1": 51.1}, "dukemtmc": {"mAP": 19.2, "rank1": 35.1}},
            ),
            TableRow(
                "MMET, pedestrian masking (MMM)",
                **_MMM,
                paper={name: _MMM_ON_CAMERAS[name] for name in ("market1501", "dukemtmc")},
            ),
        ),
    ),
    2: Table(
        2,
        "Modalities, FineGPR to CUHK-PEDES",
        ("cuhk_pedes",),
        ("mAP", "rank1", "rank5"),
        (
            TableRow(
                "MIM: image→image",
                **_MIM,
                paper={"cuhk_pedes": {"mAP": 24.6, "rank1": 36.7, "rank5": 47.6}},
            ),
            TableRow(
                "MLM: text→text",
                **_stages(
                    "mlm",
                    "table2_mlm",
                    {
                        "batch_mix": {"text": 1},
                        "image_masking": "none",
                        "model_config": {"identity_pooling": "text"},
                    },
                    {"global_contrastive_weight": 0},
                ),
                query="text",
                gallery="text",
                paper={"cuhk_pedes": {"mAP": 14.4, "rank1": 27.8, "rank5": 39.5}},
            ),
            TableRow(
                "MMM: both→both",
                **_MMM,
                query="both",
                gallery="both",
                paper={"cuhk_pedes": {"mAP": 25.6, "rank1": 38.8, "rank5": 50.4}},
            ),
            TableRow("Neither: image→image (not in the paper)", **_BASELINE),
            TableRow("MMM: image→image (not in the paper)", **_MMM),
            TableRow("MMM: text→image (not in the paper)", **_MMM, query="text"),
            TableRow("MMM: text→text (not in the paper)", **_MMM, query="text", gallery="text"),
        ),
    ),
    3: Table(
        3,
        "MMET among other methods (MMET's row)",
        ("market1501", "dukemtmc", "cuhk03"),
        ("mAP", "rank1"),
        (TableRow("MMET with MMM", **_MMM, paper=_MMM_ON_CAMERAS),),
    ),
    4: Table(
        4,
        "Training data",
        ("market1501", "dukemtmc", "cuhk03"),
        ("mAP", "rank1"),
        (
            TableRow(
                "RandPerson (images alone)",
                (
                    TrainingStage("randperson_masked", "masked", "table4_randperson"),
                    TrainingStage(
                        "randperson_identity",
                        "identity",
                        "released_code_stage2",
                        {**_IMAGES, "paired_data": _RANDPERSON},
                    ),
                ),
                (
                    TrainingStage(
                        "randperson_masked",
                        "masked",
                        "synthetic_masked",
                        # The vocabulary is made of FineGPR's captions; no batch of this mix reads one.
                        {"paired_data": [], "image_data": _RANDPERSON, "batch_mix": {"image": 1}},
                    ),
                    TrainingStage(
                        "randperson_identity",
                        "identity",
                        "synthetic_identity",
                        {**_IMAGES, "paired_data": _RANDPERSON},
                    ),
                ),
                paper={
                    "market1501": {"mAP": 28.8, "rank1": 55.6},
                    "dukemtmc": {"mAP": 27.1, "rank1": 47.6},
                    "cuhk03": {"mAP": 10.8, "rank1": 13.4},
                },
            ),
            TableRow("FineGPR", **_MMM, paper=_MMM_ON_CAMERAS),
        ),
    ),
}
"""The tables by number."""
