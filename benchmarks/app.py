"""The page over 10,000 crops: first and later answers, and fifty visitors at once for a minute, on this machine.

    OMP_NUM_THREADS=2 python benchmarks/app.py --model starter

The page runs in a process of its own, as `mmet-app` starts it. Visitors are threads of this one that ask as a browser
does: over a connection that stays open, for the page's own answer with 24 pictures, again when they have it. The same
by `gradio_client` is timed as it comes, where each call loads all certificates twice, and with a context made once.
Crops are noise in the colours of clothes, so that no two pictures are one to the page's memory of small pictures.
Their vectors are random: what is timed does not depend on them, and to embed them takes minutes. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
from gradio_client import Client

from mmet.gallery import Gallery
from mmet.gallery.embedding import as_embedder, unit

COLOURS = ("red", "blue", "green", "black", "white", "grey", "brown", "yellow")
GARMENTS = ("jacket", "shirt", "trousers", "dress", "coat", "hat")
START_SECONDS = 600
CERTIFICATES = ssl.create_default_context()
"""Made once: every connection would load all of them otherwise."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--queries", type=int, default=20, help="later answers of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = write_gallery(Path(folder), options.model, options.rows)
        with running(place, options.model) as page:
            print(f"\n{options.rows:,} crops; the page was up after {page.start:.1f} s\n")
            print("| answer with 24 pictures | ms, first | second | least | median |")
            print("| --- | ---: | ---: | ---: | ---: |")
            numbers = iter(range(10**9))
            for name, ask in askers(page.address).items():
                spent = [1000 * timed(partial(ask, next(numbers))) for _ in range(options.queries + 1)]
                columns = (spent[0], spent[1], min(spent[1:]), float(np.median(spent[1:])))
                print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in columns) + " |", flush=True)
            crowd(page, options.clients, options.seconds)


def askers(address: str) -> dict[str, Callable[[int], Any]]:
    """What is timed: a search by the sentence of a number."""
    asked = {"k": 24, "pictures": True, "api_name": "/search"}
    plain, ready = (Client(address, verbose=False, ssl_verify=verify) for verify in (True, CERTIFICATES))
    return {
        "the page": Visitor(address).search,
        "`gradio_client`, certificates loaded once": lambda number: ready.predict(text=sentence(number), **asked),
        "`gradio_client` as it comes": lambda number: plain.predict(text=sentence(number), **asked),
    }


def sentence(number: int) -> str:
    """One of 2,304 sentences."""
    colours = COLOURS[number % 8], COLOURS[number // 8 % 8]
    garments = GARMENTS[number // 64 % 6], GARMENTS[number // 384 % 6]
    return f"a person in a {colours[0]} {garments[0]} and a {colours[1]} {garments[1]}"


class Visitor:
    """Somebody at the page: speaks as the page's own script does, over a connection that stays open."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, verify=CERTIFICATES, timeout=120)
        self._session = uuid.uuid4().hex
        config = self._client.get("/config").raise_for_status().json()
        names: dict[Any, str] = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        click = next(
            event
            for event in config["dependencies"]
            if any(names.get(target) == "mm-search" for target, _ in event["targets"])
        )
        fields: dict[Any, Any] = {
            "mm-text": "",
            "mm-after": "",
            "mm-before": "",
            "mm-cameras": [],
            "mm-count": 24,
            "mm-unit": "Crops",
        }
        self._text = [names.get(part) for part in click["inputs"]].index("mm-text")
        self._fields = [fields.get(names.get(part)) for part in click["inputs"]]
        self._function = click["id"]

    def search(self, number: int) -> str:
        """The page's answer as HTML."""
        data = [*self._fields]
        data[self._text] = sentence(number)
        body = {"data": data, "fn_index": self._function, "session_hash": self._session}
        self._client.post("/gradio_api/queue/join", json=body).raise_for_status()
        answer = ""
        with self._client.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self._session}
        ) as events:  # until the server closes it
            for line in events.iter_lines():
                message: Any = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {"msg": None}
                if message["msg"] == "process_completed":
                    answer = next(part for part in message["output"]["data"] if "mm-cards" in str(part))
        return answer


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
    Gallery.build(entries, folder / "people", model=RandomVectors(model))
    return folder / "people"


class RandomVectors:
    """Vectors of a model's length that pass for the model's."""

    def __init__(self, model: str) -> None:
        embedder = as_embedder(model)
        self.identity, self.calibration = embedder.identity, embedder.calibration
        self.unknown_words = embedder.unknown_words
        self._dimension = embedder.embed(None, ["a person"]).shape[1]
        self._generator = np.random.default_rng(0)

    def embed(self, images: Any, texts: Any, *, flip: bool = False) -> Any:
        """See `Embedder`."""
        return unit(self._generator.normal(size=(len(images), self._dimension)))


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

    @property
    def work(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    """Many visitors at once: answers, errors, percentiles, work of the page, and memory over time."""
    clients = [Visitor(page.address) for _ in range(count)]
    taken: list[float] = []
    errors: list[str] = []
    lock, end = threading.Lock(), time.perf_counter() + seconds

    def visit(client: Visitor, number: int) -> None:
        while time.perf_counter() < end:
            try:
                spent = timed(partial(client.search, number))
            except Exception as error:  # counted, whatever it is
                with lock:
                    errors.append(f"{type(error).__name__}: {error}")
            else:
                with lock:
                    taken.append(spent)
            number += count

    threads = [threading.Thread(target=visit, args=(client, number)) for number, client in enumerate(clients)]
    memory, work = [page.memory], page.work
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(seconds / 12)
        memory.append(page.memory)
    work = 1000 * (page.work - work) / len(taken)
    p50, p90, p99 = (1000 * float(np.percentile(taken, q)) for q in (50, 90, 99))
    print("\n| visitors | answers | a second | errors | p50 ms | p90 ms | p99 ms | CPU ms of the page an answer |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(
        f"| {count} | {len(taken)} | {len(taken) / seconds:.1f} | {len(errors)} | {p50:.0f} | {p90:.0f} | {p99:.0f} "
        f"| {work:.0f} |"
    )
    print("\nmemory, MiB: " + ", ".join(f"{value / 2**20:.0f}" for value in memory))
    for message in dict.fromkeys(errors):
        print(f"- {message}")


if __name__ == "__main__":
    main()
