"""Many pictures through the whole way: convert, kill -9, go on, verify, read, stream, and train in flat memory.

Small JPEGs are written in FineGPR's layout (one picture for each person, viewpoint, weather and light, with captions);
`python -m mmet.data.to_parquet` converts them and is killed half way; the same command goes on. Then the shards are
verified, read by `datasets` and streamed, and the training pipeline iterates over them: `TrainingDataset`,
`MixedBatchSampler` and the collator, in one process, for every kind of batch in turn. Memory is printed at intervals:
anonymous memory is the process's own; mapped files are the page cache's and are given back when anybody needs it.
Last, persons are sampled from two million rows whose pictures do not exist.

    python benchmarks/parquet_scale.py --folder /tmp/parquet_scale
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmet.data import REID_FEATURES, load_reid_dataset
from mmet.data.parquet import shards_of
from mmet.training.augmentation import PersonAugmentation
from mmet.training.collator import MMETDataCollator
from mmet.training.dataset import TrainingDataset
from mmet.training.sampling import IdentityBatchShape, MixedBatchSampler
from mmet.training.tokenization import train_wordpiece_tokenizer
from processing_mmet import MMETImageProcessor, MMETProcessor

FINEGPR_IMAGES = 2_028_600
BATCH = 64


def finegpr_names() -> Iterator[str]:
    """Names of the full layout, person by person: 36 viewpoints × 7 weathers × 7 lights, as FineGPR has them."""
    person = 0
    while True:
        person += 1
        for number in range(36 * 7 * 7):
            view, weather, light = number // 49 + 1, number // 7 % 7 + 1, number % 7 + 1
            yield f"{person:04d}/{person:04d}_c{view:02d}_w{weather:02d}_l{light:02d}_p{person % 9 + 1:02d}.jpg"


def write_pictures(root: Path, count: int, size: tuple[int, int]) -> int:
    """Write `count` JPEGs of (width, height) `size` and captions; returns the bytes of the pictures."""
    files = _small_jpegs(np.random.default_rng(0), size)
    captions, total, folders = {}, 0, set()
    for number, name in zip(range(count), finegpr_names(), strict=False):
        path = root / "FineGPR" / name
        if path.parent not in folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.add(path.parent)
        total += path.write_bytes(files[number % len(files)])
        captions[path.name] = [f"A person number {number % 997} in a coat of shade {number % 89}."]
    (root / "FineGPR-C.json").write_text(json.dumps(captions), encoding="utf-8")
    return total


def _small_jpegs(rng: np.random.Generator, size: tuple[int, int], count: int = 2_000) -> list[bytes]:
    """Smooth random pictures; they come back again and again, for what they show does not matter here."""
    files = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        files.append(buffer.getvalue())
    return files


def convert(data: Path, output: Path, shard_size: str, kill_at: float | None = None) -> float:
    """Run the converter; kill it when that share of `kill_at` shards is there. Returns the seconds it ran."""
    command = [sys.executable, "-m", "mmet.data.to_parquet", f"finegpr={data}", "--output", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--shard_size", shard_size], cwd=Path(__file__).resolve().parents[1])
    while process.poll() is None:
        partial = output.with_name(output.name + ".partial")
        names = sorted(partial.glob("data/*.parquet"))
        if kill_at is not None and names and len(names) >= kill_at * int(names[0].stem.rpartition("-")[2]):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return time.perf_counter() - start
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"the converter ended with {process.returncode}")
    return time.perf_counter() - start


def memory() -> dict[str, float]:
    """Megabytes of this process: `anonymous` (its own) and `mapped` (files in the page cache)."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        "anonymous": int(fields["RssAnon"].split()[0]) / 1e3,
        "mapped": (int(fields["RssFile"].split()[0]) + int(fields["RssShmem"].split()[0])) / 1e3,
    }


def report(what: str, images: int, seconds: float) -> None:
    used = memory()
    print(
        f"| {what} | {images:,} | {seconds:.1f} | {images / max(seconds, 1e-9):,.0f} "
        f"| {used['anonymous']:,.0f} | {used['mapped']:,.0f} |",
        flush=True,
    )


def timed(what: str, count: int, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = work()
    report(what, count, time.perf_counter() - start)
    return result


def stream(folder: Path) -> None:
    """Every row once, undecoded and in order, in batches as a reader takes them."""
    rows = datasets.load_dataset(str(folder), split="train", streaming=True)
    count = 0
    start = time.perf_counter()
    for batch in rows.cast_column("image", datasets.Image(decode=False)).iter(1_000):
        count += len(batch["person_id"])
    report("streaming, every row undecoded", count, time.perf_counter() - start)


def train(splits: datasets.DatasetDict, intervals: int, images: int) -> None:
    """Iterate the pipeline of each kind of batch over `images` pictures in a random order."""
    dataset = timed(
        "TrainingDataset: persons numbered, captions found",
        len(splits["train"]),
        lambda: TrainingDataset(paired=[splits["train"]], image=[splits["train"]], augmentation=PersonAugmentation()),
    )
    tokenizer = train_wordpiece_tokenizer(splits["train"][:64]["captions"][0], vocab_size=2_000)
    processor = MMETProcessor(MMETImageProcessor(size={"height": 64, "width": 32}, patch_stride=16), tokenizer)
    collator = MMETDataCollator(processor)
    sampler = MixedBatchSampler(
        dataset.sizes,
        mix={"image": 0.4, "paired": 0.3, "identity": 0.3},
        batch_size=BATCH,
        person_labels=dataset.person_labels,
        identity_shape=IdentityBatchShape(16, 4),
    )
    draws = iter(sampler)
    for interval in range(1, intervals + 1):
        start = time.perf_counter()
        for _ in range(images // intervals // BATCH):
            collator(dataset.__getitems__([next(draws) for _ in range(BATCH)]))
        report(f"training pipeline, part {interval} of {intervals}", images // intervals, time.perf_counter() - start)


def sample_persons(rows: int) -> None:
    """P × K sampling over that many rows whose pictures do not exist."""
    table = datasets.Dataset.from_dict(
        {
            "image": [None] * rows,
            "person_id": np.arange(rows) // 1_764,
            "camera_id": np.arange(rows) % 36,
            "captions": [[]] * rows,
            "person_mask": [None] * rows,
            "image_path": [""] * rows,
            "domain": ["finegpr"] * rows,
        },
        features=REID_FEATURES,
    )
    before = memory()["anonymous"]
    dataset = timed("persons of that many rows numbered", rows, lambda: TrainingDataset(paired=[table]))
    middle = memory()["anonymous"]
    sampler = timed(
        "P × K sampler over them",
        rows,
        lambda: MixedBatchSampler(
            dataset.sizes,
            mix={"identity_image": 1.0},
            batch_size=BATCH,
            person_labels=dataset.person_labels,
            identity_shape=IdentityBatchShape(16, 4),
            batches_per_epoch=1_000,
        ),
    )
    timed("64,000 draws from it", 64_000, lambda: sum(1 for _ in sampler))
    print(
        f"\nfor {rows:,} rows: person labels and dataset {middle - before:.0f} MB, sampler and its draws "
        f"{memory()['anonymous'] - middle:.0f} MB"
    )


def project(measured: dict[str, float], images: int) -> None:
    """What FineGPR's size costs by the figures per image of this run."""
    print(
        f"\nper image of this run, and for FineGPR's {FINEGPR_IMAGES:,}:\n\n"
        "| | per image | all |\n| --- | ---: | ---: |"
    )
    for what, (value, unit) in {
        "check and convert": (measured["convert"] / images, "s"),
        "verify": (measured["verify"] / images, "s"),
        "memory of the converter": (measured["peak"] / images, "B"),
        "shards beyond the pictures themselves": ((measured["shards"] - measured["pictures"]) / images, "B"),
    }.items():
        per = f"{value * 1e6:.0f} µs" if unit == "s" else f"{value:.0f} B"
        whole = f"{value * FINEGPR_IMAGES / 60:.1f} min" if unit == "s" else f"{value * FINEGPR_IMAGES / 1e9:.2f} GB"
        print(f"| {what} | {per} | {whole} |")


def run(arguments: argparse.Namespace) -> None:
    folder = arguments.folder
    folder.mkdir(parents=True)
    data, output = folder / "world", folder / "shards"
    head = "| step | images | s | images/s | anonymous MB | mapped MB |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    print(f"datasets {datasets.__version__}, {vars(arguments)}\n\n{head}")
    size = (arguments.width, arguments.height)
    pictures = timed("pictures written", arguments.images, lambda: write_pictures(data, arguments.images, size))
    report("converter until kill -9", 0, convert(data, output, arguments.shard_size, kill_at=0.5))
    partial = output.with_name(output.name + ".partial")
    kept = sum(shard.rows for shard in shards_of(partial))
    seconds = convert(data, output, arguments.shard_size)
    report(f"the same command again ({kept:,} rows kept)", arguments.images - kept, seconds)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    shards = shards_of(output)
    assert sum(shard.rows for shard in shards) == arguments.images
    start = time.perf_counter()
    command = [sys.executable, "-m", "mmet.data.to_parquet", "--output", str(output), "--verify"]
    subprocess.run(command, check=True, cwd=Path(__file__).resolve().parents[1])
    verify = time.perf_counter() - start
    report(f"--verify, {len(shards)} shards", arguments.images, verify)
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    datasets.disable_progress_bars()
    splits = timed("load_dataset, first time (copies)", arguments.images, lambda: load_reid_dataset("parquet", output))
    stream(output)
    train(splits, arguments.intervals, arguments.images)
    sample_persons(2_000_000)
    size_on_disk = sum(shard.bytes for shard in shards)
    cache = sum(path.stat().st_size for path in (folder / "cache").rglob("*.arrow"))
    print(f"peak memory of the converter {peak / 1e6:.0f} MB")
    print(f"pictures {pictures / 1e6:.0f} MB, shards {size_on_disk / 1e6:.0f} MB, Arrow copy {cache / 1e6:.0f} MB")
    measured = {"pictures": pictures, "shards": size_on_disk, "verify": verify, "peak": peak}
    project(measured | {"convert": seconds * arguments.images / max(1, arguments.images - kept)}, arguments.images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="to be created, and removed at the end")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--shard_size", default="20MB")
    parser.add_argument("--intervals", type=int, default=8, help="how often memory is printed during training")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} exists; name a folder to be created")
    try:
        run(arguments)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
