"""Writes a synthetic world to a folder, whole or not at all.

    write_world("market1501", "data/synthetic_market", num_train_ids=20, num_test_ids=100, seed=1)

The folder is built beside its destination under a temporary name and renamed when complete. `SYNTHETIC.json` in it
says what it is, and lets the same request find it already done.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmet.data.schema import DatasetError
from mmet.data.synthetic.layouts import LAYOUTS
from mmet.data.synthetic.layouts.base import MAX_IDS, Job, Layout, Record, WorldRequest, write_json
from mmet.data.synthetic.renderer import check_size
from mmet.data.synthetic.style import STYLES, WorldStyle, plan_shots

PROVENANCE_FILE = "SYNTHETIC.json"

NOTICE = (
    "Synthetic data drawn by `python -m mmet.data.synthetic`: no real person is shown. It is in the layout of {title} "
    "but holds no file of it; figures measured on it say nothing about results on {title}."
)


def write_world(
    layout: str,
    output: str | Path,
    *,
    num_ids: int = 100,
    images_per_id: int = 8,
    seed: int = 0,
    style: str | WorldStyle | None = None,
    test_fraction: float = 0.5,
    num_train_ids: int | None = None,
    num_test_ids: int | None = None,
    num_val_ids: int | None = None,
    image_height: int = 192,
    image_width: int = 96,
    num_workers: int = 1,
    show_progress: bool = False,
) -> bool:
    """Write a synthetic world in the layout of a published data set.

    Args:
        layout: a name of `LAYOUTS`: `finegpr`, `market1501`, `cuhk_pedes`.
        output: folder to create; may exist when empty, or when it already holds exactly this world.
        num_ids: people in all, where the split counts are not given.
        images_per_id: pictures of each person (queries included).
        seed: equal seeds and styles give the same people and pictures in every layout.
        style: a name of `STYLES` or a style of your own; by default `source` for FineGPR, `target` otherwise.
        test_fraction: share of `num_ids` that is for testing, in layouts with splits.
        num_train_ids, num_test_ids: people per split, instead of the shares.
        num_val_ids: people for validation (CUHK-PEDES only), in addition; by default a tenth of the training people.
        image_height, image_width: size of the crops in pixels.
        num_workers: processes; the files do not depend on it.
        show_progress: show a progress bar over people.

    Returns:
        True when the world was written, False when it was already there.

    Raises:
        ValueError: an argument is outside its range.
        DatasetError: `output` holds something else.
        OSError: `output` cannot be written.
    """
    request = _request(
        layout,
        num_ids,
        images_per_id,
        seed,
        style,
        test_fraction,
        (num_train_ids, num_val_ids, num_test_ids),
        (image_height, image_width),
    )
    if num_workers < 1:
        raise ValueError(f"num_workers: expected at least 1, received {num_workers}")
    output, spec = Path(output), LAYOUTS[layout]
    provenance = _provenance(request, spec)
    if _already_there(output, provenance):
        return False
    with _whole_or_not_at_all(output) as root:
        for folder in spec.folders:
            (root / folder).mkdir(parents=True)
        records = _write_jobs(request, spec.plan(request), root, num_workers, show_progress)
        spec.finish(request, records, root)
        write_json(root / PROVENANCE_FILE, {**provenance, "files": _count_files(root)})
    return True


def _request(
    layout: str,
    num_ids: int,
    images_per_id: int,
    seed: int,
    style: str | WorldStyle | None,
    test_fraction: float,
    split_counts: tuple[int | None, int | None, int | None],
    size: tuple[int, int],
) -> WorldRequest:
    """Check every argument and settle the number of people in each split."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, received {layout!r}")
    spec = LAYOUTS[layout]
    if isinstance(style, str) and style not in STYLES:
        raise ValueError(f"style: expected one of {', '.join(STYLES)}, received {style!r}")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, received {seed}")
    if images_per_id < spec.min_images:
        raise ValueError(f"images_per_id: expected at least {spec.min_images} for {layout}, received {images_per_id}")
    check_size(*size)
    train, val, test = _split(spec, num_ids, test_fraction, *split_counts)
    if train + val + test > MAX_IDS:
        raise ValueError(f"number of people: expected at most {MAX_IDS}, received {train + val + test}")
    chosen = STYLES[style] if isinstance(style, str) else style or spec.default_style
    plan_shots(chosen, seed=seed, person=1, count=images_per_id)
    return WorldRequest(layout, chosen, seed, train, val, test, images_per_id, *size)


def _split(
    spec: Layout, num_ids: int, test_fraction: float, train: int | None, val: int | None, test: int | None
) -> tuple[int, int, int]:
    """Number of people for training, validation and testing."""
    given = {"num_train_ids": train, "num_val_ids": val, "num_test_ids": test}
    if num_ids < 1:
        raise ValueError(f"num_ids: expected at least 1, received {num_ids}")
    for name, value in given.items():
        if value is not None and (not spec.has_splits or (name == "num_val_ids" and not spec.has_validation)):
            raise ValueError(f"{name}: {spec.title} has no such split; expected it to be left out, received {value}")
        if value is not None and value < (0 if name == "num_val_ids" else 1):
            raise ValueError(f"{name}: expected at least 1, received {value}")
    if not spec.has_splits:
        return num_ids, 0, 0
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction: expected between 0 and 1, received {test_fraction}")
    if train is None and test is None:
        test = min(max(1, round(num_ids * test_fraction)), num_ids - 1)
    test = num_ids - train if test is None and train is not None else test or 0
    train = num_ids - test if train is None else train
    if train < 1 or test < 1:
        raise ValueError(
            f"num_ids: expected people for training and for testing, received {train} and {test} of {num_ids}"
        )
    if val is None:
        val = max(1, train // 10) if spec.has_validation else 0
    return train, val, test


def _provenance(request: WorldRequest, spec: Layout) -> dict[str, Any]:
    """What `SYNTHETIC.json` says, in the types that JSON gives back."""
    content = {
        "synthetic": True,
        "notice": NOTICE.format(title=spec.title),
        "layout": request.layout,
        "layout_version": spec.version,
        "arguments": asdict(request),
    }
    return json.loads(json.dumps(content))


def _already_there(output: Path, provenance: dict[str, Any]) -> bool:
    """Whether `output` is exactly this world; raises `DatasetError` when it is anything else that is not empty."""
    if not output.exists():
        return False
    if not output.is_dir():
        raise DatasetError(f"{output}: expected a folder or nothing, found a file; choose another folder")
    if not any(output.iterdir()):
        return False
    marker = output / PROVENANCE_FILE
    if not marker.is_file():
        raise DatasetError(
            f"{output}: not empty and not a synthetic world (no {PROVENANCE_FILE}); choose another folder"
        )
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{marker}: not readable as JSON ({error}); choose another folder") from error
    files = found.pop("files", None) if isinstance(found, dict) else None
    if found != provenance:
        raise DatasetError(
            f"{output}: holds a synthetic world made with other arguments (see {marker}); choose another folder"
        )
    if files != (present := _count_files(output) - 1):
        raise DatasetError(
            f"{output}: expected {files} files of this synthetic world, found {present}; remove it to write it anew"
        )
    return True


@contextmanager
def _whole_or_not_at_all(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its place on success and vanishes on failure."""
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.parent / f".{output.name}.partial-{os.getpid()}"
    draft.mkdir()
    try:
        yield draft
        if output.exists():
            output.rmdir()
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _write_jobs(
    request: WorldRequest, jobs: Sequence[Job], root: Path, num_workers: int, show_progress: bool
) -> list[Record]:
    """Carry out all jobs and return their records in the order of the jobs."""
    write = partial(_write_job, request, root)
    progress = partial(
        tqdm,
        total=len(jobs),
        desc=f"{request.layout} ({request.style.name})",
        unit="person",
        disable=not show_progress,
    )
    if num_workers == 1:
        return [record for records in progress(map(write, jobs)) for record in records]
    with ProcessPoolExecutor(num_workers) as pool:
        results = pool.map(write, jobs, chunksize=max(1, len(jobs) // (num_workers * 8)))
        return [record for records in progress(results) for record in records]


def _write_job(request: WorldRequest, root: Path, job: Job) -> list[Record]:
    return LAYOUTS[request.layout].write(request, job, root)


def _count_files(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))
