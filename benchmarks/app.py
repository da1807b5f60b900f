"""The page over 10,000 crops: first and later answers, and fifty clients at once for a minute, on this machine.

    OMP_NUM_THREADS=2 python benchmarks/app.py --model outputs/demo/model

The page runs in a process of its own, as `mmet-app` starts it; the clients are threads of this one and talk to it as
programs do (`/search`, with pictures and without). Each client asks again when it has its answer. Crops are noise in
the colours of clothes, so that no two pictures are one to the page's memory of small pictures. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from gradio_client import Client

from mmet.gallery import Gallery
from mmet.gallery.embedding import as_embedder

COLOURS = ("red", "blue", "green", "black", "white", "grey", "brown", "yellow")
GARMENTS = ("jacket", "shirt", "trousers", "dress", "coat", "hat")
START_SECONDS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--queries", type=int, default=20, help="later answers that are timed one at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = write_gallery(Path(folder), options.model, options.rows)
        with running(place, options.model) as page:
            print(f"\n{options.rows:,} crops; the page was up after {page.start:.1f} s\n")
            print("| | ms |\n| --- | ---: |")
            client = Client(page.address, verbose=False)
            first = timed(lambda: ask(client, 0, pictures=True))
            later = [timed(partial(ask, client, n, pictures=True)) for n in range(1, options.queries + 1)]
            plain = [timed(partial(ask, client, n)) for n in range(100, 100 + options.queries)]
            print(f"| first answer, 24 pictures | {1000 * first:.0f} |")
            print(f"| second answer, 24 other pictures | {1000 * later[0]:.0f} |")
            print(f"| later answers, 24 pictures, median | {1000 * float(np.median(later)):.0f} |")
            print(f"| later answers, no pictures, median | {1000 * float(np.median(plain)):.0f} |")
            crowd(page, options.clients, options.seconds)


def sentence(number: int) -> str:
    """One of 2,304 sentences."""
    colours = COLOURS[number % 8], COLOURS[number // 8 % 8]
    garments = GARMENTS[number // 64 % 6], GARMENTS[number // 384 % 6]
    return f"a person in a {colours[0]} {garments[0]} and a {colours[1]} {garments[1]}"


def ask(client: Client, number: int, *, pictures: bool = False) -> Any:
    """One search by sentence."""
    return client.predict(text=sentence(number), k=24, pictures=pictures, api_name="/search")


def timed(run: Callable[[], Any]) -> float:
    """Seconds by the clock."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def write_gallery(folder: Path, model: str, rows: int) -> Path:
    """A gallery of noise: each crop in two colours, of one of ten cameras, ten crops a track."""
    generator = np.random.default_rng(0)
    entries = []
    (folder / "crops").mkdir()
    for number in range(rows):
        noise = generator.normal(0, 20, (128, 64, 3))
        noise[:64] += generator.integers(0, 256, 3)
        noise[64:] += generator.integers(0, 256, 3)
        path = folder / "crops" / f"{number:06d}.jpg"
        PIL.Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path, quality=85)
        track = {"camera_id": number // 10 % 10, "track_id": number // 10, "time": float(number)}
        entries.append({"id": path.name, "image": str(path), **track})
    Gallery.build(entries, folder / "people", model=as_embedder(model))
    return folder / "people"


@dataclass(frozen=True)
class RunningPage:
    """A page in a process of its own."""

    process: subprocess.Popen[str]
    address: str
    start: float

    @property
    def memory(self) -> int:
        """Bytes of resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


@contextmanager
def running(place: Path, model: str) -> Iterator[RunningPage]:
    """`mmet-app` over a gallery; stopped at the end."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "mmet.app", "--gallery", str(place), "--model", model, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = re.search(r"http://\S+", process.stdout.readline())
    if address is None:
        raise SystemExit("the page did not start")
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{address[0]}/health", timeout=5) as answer:
                    json.load(answer)
                break
            except OSError:
                if time.perf_counter() - begin > START_SECONDS:
                    raise
                time.sleep(0.1)
        yield RunningPage(process, address[0], time.perf_counter() - begin)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def crowd(page: RunningPage, count: int, seconds: float) -> None:
    """Many clients at once: answers, errors, percentiles, and memory over time."""
    clients = [Client(page.address, verbose=False) for _ in range(count)]
    taken: list[float] = []
    errors: list[str] = []
    lock, end = threading.Lock(), time.perf_counter() + seconds

    def visit(client: Client, number: int) -> None:
        while time.perf_counter() < end:
            try:
                spent = timed(partial(ask, client, number, pictures=True))
            except Exception as error:  # counted, whatever it is
                with lock:
                    errors.append(f"{type(error).__name__}: {error}")
            else:
                with lock:
                    taken.append(spent)
            number += count

    threads = [threading.Thread(target=visit, args=(client, number)) for number, client in enumerate(clients)]
    memory = [page.memory]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(seconds / 12)
        memory.append(page.memory)
    p50, p90, p99 = (1000 * float(np.percentile(taken, q)) for q in (50, 90, 99))
    print("\n| clients | answers | a second | errors | p50 ms | p90 ms | p99 ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(
        f"| {count} | {len(taken)} | {len(taken) / seconds:.1f} | {len(errors)} | {p50:.0f} | {p90:.0f} | {p99:.0f} |"
    )
    print("\nmemory, MiB: " + ", ".join(f"{value / 2**20:.0f}" for value in memory))
    for message in dict.fromkeys(errors):
        print(f"- {message}")


if __name__ == "__main__":
    main()
