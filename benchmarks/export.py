"""Exported files against the model in PyTorch: seconds by batch size, and what 8-bit weights gain and cost.

The embedders take turns, batch by batch, in one process and with the same threads, so that a drift of the machine's
speed meets all. With `--data`, each embeds the queries and the gallery of a data set: mAP and recall@10 beside the
speed. Without `--model`, a model of random weights with the sizes of `--hidden_size` and `--num_layers`, with or
without a convolutional backbone, is exported first.

    python benchmarks/export.py --model outputs/demo/model --data market1501=data/market
    python benchmarks/export.py --backbone
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configuration_mmet import MMETConfig
from mmet.data.data_argument import parse_data_argument
from mmet.data.loading import load_reid_dataset
from mmet.evaluation.options import EvaluationOptions
from mmet.evaluation.protocols import prepare_tasks
from mmet.evaluation.systems.loading import load_any_embedder
from mmet.evaluation.systems.model import ModelSystem
from mmet.export import export_model
from mmet.export.trials import random_batch
from mmet.exported_files import FORMATS, KINDS
from mmet.starter import resolve_model
from modeling_mmet import MMETForReID
from processing_mmet import MMETImageProcessor, MMETProcessor

BACKBONE = {"model_type": "mobilenet_v2", "tf_padding": False, "layer_norm_eps": 1e-5}
IMAGE_SIZE = [224, 112]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]


def write_random_model(folder: Path, arguments: argparse.Namespace) -> None:
    """A model of random weights with a processor."""
    sizes = {
        "hidden_size": arguments.hidden_size,
        "num_hidden_layers": arguments.num_layers,
        "num_attention_heads": arguments.hidden_size // 64,
        "intermediate_size": 4 * arguments.hidden_size,
    }
    backbone = {"backbone_config": BACKBONE} if arguments.backbone else {}
    config = MMETConfig(
        image_config={**sizes, "image_size": IMAGE_SIZE, **backbone},
        text_config={**sizes, "num_hidden_layers": 1, "vocab_size": 1000},
        multimodal_config={**sizes, "num_hidden_layers": max(1, arguments.num_layers // 2)},
    )
    torch.manual_seed(0)
    MMETForReID(config).save_pretrained(folder)
    height, width = IMAGE_SIZE
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=64)
    MMETProcessor(MMETImageProcessor(size={"height": height, "width": width}), tokenizer).save_pretrained(folder)


def load_all(source: Path, work: Path) -> dict[str, tuple[Any, Any, float]]:
    """Model, processor and megabytes by name: PyTorch first, then the files that are exported for it."""
    loaded = {"PyTorch": (*load_any_embedder(str(source), "torch"), _megabytes(source, "*.safetensors"))}
    for name, options in files_to_compare().items():
        manifest = export_model(source, work / name, **options)
        size = sum((work / name / file).stat().st_size for file in manifest.files) / 1e6
        loaded[name] = (*load_any_embedder(str(work / name)), size)
    return loaded


def files_to_compare() -> dict[str, dict[str, Any]]:
    """Options of `export_model` by name."""
    openvino = {"OpenVINO, float32": {"file_format": "openvino"}} if find_spec("openvino") else {}
    return {"ONNX, float32": {}, "ONNX, int8": {"dtype": "int8"}, **openvino}


def _megabytes(folder: Path, pattern: str) -> float:
    return sum(path.stat().st_size for path in folder.glob(pattern)) / 1e6


@torch.no_grad()
def time_in_turn(models: dict[str, Callable[..., Any]], inputs: dict[str, torch.Tensor], turns: int) -> dict[str, Any]:
    """The seconds of each turn by model; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model(**inputs)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare_speed(loaded: dict[str, tuple[Any, Any, float]], arguments: argparse.Namespace) -> None:
    """A row for each kind of input and batch size: milliseconds a sample, and how many times as fast as PyTorch."""
    models = {name: model.eval() for name, (model, _, _) in loaded.items()}
    peer = models["PyTorch"]
    print("| input | batch | " + " | ".join(f"{name}, ms" for name in models) + " | times as fast |")
    print("| --- | ---: |" + " ---: |" * (len(models) + 1))
    for kind in KINDS:
        for batch_size in arguments.batch_sizes:
            batch = random_batch(peer, batch_size, min(24, peer.config.text_config.max_position_embeddings))
            seconds = time_in_turn(models, {name: batch[name] for name in KINDS[kind]}, arguments.turns)
            each = [f"{1000 * statistics.median(times) / batch_size:.2f}" for times in seconds.values()]
            first = seconds["PyTorch"]
            ratios = [
                f"{statistics.median(a / b for a, b in zip(first, times, strict=True)):.2f}"
                for name, times in seconds.items()
                if name != "PyTorch"
            ]
            print(f"| {kind} | {batch_size} | {' | '.join(each)} | {', '.join(ratios)} |", flush=True)


def compare_answers(loaded: dict[str, tuple[Any, Any, float]], arguments: argparse.Namespace) -> None:
    """mAP and recall@10 of a data set's standard tasks by each, megabytes, and how many samples a second it embeds."""
    name, root, options = parse_data_argument(arguments.data)
    tasks = prepare_tasks(load_reid_dataset(name, root, **options))
    columns = [f"{task.query.modality}→{task.gallery.modality} mAP / recall@10" for task in tasks]
    print(
        f"\n| embedder | MB | {' | '.join(columns)} | samples a second |\n| --- | ---: |"
        + " ---: |" * (len(tasks) + 1)
    )
    samples = sum(len(task.query) + len(task.gallery) for task in tasks)
    for name, (model, processor, size) in loaded.items():
        start = time.perf_counter()
        results = ModelSystem(model, processor, name=name, batch_size=64).evaluate(tasks, EvaluationOptions())
        speed = samples / (time.perf_counter() - start)
        cells = [f"{100 * result.metrics.mAP:.2f} / {100 * result.metrics.rank(10):.2f}" for result in results]
        print(f"| {name} | {size:.1f} | {' | '.join(cells)} | {speed:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder, or starter")
    parser.add_argument("--backbone", action="store_true", help="of the random model: MobileNetV2 under the encoder")
    parser.add_argument("--hidden_size", type=int, default=256, help="of the random model, a multiple of 64")
    parser.add_argument("--num_layers", type=int, default=4)
    parser.add_argument("--data", help="data set to evaluate, as name=folder")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "model" if arguments.model is None else Path(resolve_model(arguments.model))
        if arguments.model is None:
            write_random_model(source, arguments)
        loaded = load_all(source, Path(work))
        runtimes = [file_format.runtime for file_format in FORMATS.values() if find_spec(file_format.runtime)]
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *runtimes))
        print(f"{versions}, {torch.get_num_threads()} threads, {vars(arguments)}\n")
        compare_speed(loaded, arguments)
        if arguments.data:
            compare_answers(loaded, arguments)


if __name__ == "__main__":
    main()
