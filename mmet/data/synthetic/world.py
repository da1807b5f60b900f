"""Write a synthetic world to a folder.

    write_world("market1501", "data/synthetic_market", num_train_ids=20, num_test_ids=100, seed=1)

The folder is built beside its destination under a temporary name and renamed when complete. Its `SYNTHETIC.json`
describes it, so that a repeated request finds that the world exists.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from mmet.data.annotations import parse_json, read_text
from mmet.data.paths import walk_files
from mmet.data.schema import DatasetError
from mmet.data.synthetic.layouts import LAYOUTS
from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, write_json
from mmet.data.synthetic.layouts.untidy import make_untidy
from mmet.data.synthetic.renderer import check_size
from mmet.data.synthetic.style import STYLES, TOLD_IF_SET, WorldStyle, plan_shots
from mmet.field_checks import SEED_RANGE, SHARE_RANGE, Range, check_number
from mmet.folder_lock import locked_target
from mmet.whole_files import FolderDraft, whole_folder

PROVENANCE_FILE = "SYNTHETIC.json"

RATE_OPTIONS: Mapping[str, str] = {
    "occlusion_rate": "occlusion",
    "crop_rate": "crop",
    "lookalike_rate": "lookalikes",
}
"""Options that set a field of the style."""

_COUNT_RANGE = Range(at_least=0, at_most=10**7)
NUMBER_RANGES: Mapping[str, Range] = {
    "num_ids": _COUNT_RANGE,
    "images_per_id": _COUNT_RANGE,
    "num_train_ids": _COUNT_RANGE,
    "num_test_ids": _COUNT_RANGE,
    "num_val_ids": _COUNT_RANGE,
    "seed": SEED_RANGE,
    "image_height": Range(at_least=1, at_most=4096),
    "image_width": Range(at_least=1, at_most=4096),
    "num_workers": Range(at_least=1, at_most=1024),
}
"""Whole numbers that `write_world` and the command line take; a layout may allow fewer."""

_APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(58)

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
    form: str | None = None,
    caption_format: str | None = None,
    untidy_rate: float | None = None,
    occlusion_rate: float | None = None,
    crop_rate: float | None = None,
    lookalike_rate: float | None = None,
    shadow_files: bool = False,
    keypoints: bool = False,
    part_masks: bool = False,
    num_workers: int = 1,
    show_progress: bool = False,
) -> bool:
    """Write a synthetic world in the layout of a published data set.

    Args:
        layout: a name of `LAYOUTS`, such as `market1501`.
        output: folder to create; may exist when empty, or when it already holds exactly this world.
        num_ids: people in all, if the numbers of people per split are not given.
        images_per_id: pictures of each person, including queries.
        seed: random seed; equal seeds and styles give the same people and pictures in every layout.
        style: a name of `STYLES` or a `WorldStyle`; by default `source` for FineGPR and RandPerson, else `target`.
        test_fraction: share of `num_ids` that is for testing, in layouts with splits.
        num_train_ids, num_test_ids: people per split, instead of the shares.
        num_val_ids: people for validation (CUHK-PEDES and RSTPReid only), in addition; by default a tenth of the
            training people.
        image_height, image_width: size of the crops in pixels.
        form: one of the layout's `forms`; by default the first.
        caption_format: one of the layout's `caption_formats`; by default the first.
        untidy_rate: share of people with irregularities of real data (see the layout's module); by default the
            layout's own rate, which is 0 for FineGPR, Market-1501 and CUHK-PEDES and 0.1 for the others.
        occlusion_rate, crop_rate, lookalike_rate: share of pictures with something in front of the person, of
            pictures in which feet or head are cut off, and of people who look like another one; by default those of
            the style.
        shadow_files: add the `._*` files that archives made on macOS carry, and a `.DS_Store`.
        keypoints: add a file of keypoints for each picture (FineGPR only).
        part_masks: add a part mask for each picture, with the numbers of `PART_CLASSES` (FineGPR and folder only).
        num_workers: processes; the files do not depend on it.
        show_progress: show a progress bar over people.

    Returns:
        True when the world was written, False when it was already there.

    Raises:
        ValueError: an argument has another type or is out of range.
        DatasetError: `output` holds something else.
        OSError: `output` cannot be written, or a file that was written is missing or changed at the end.
    """
    numbers = {
        "num_ids": num_ids,
        "images_per_id": images_per_id,
        "num_train_ids": num_train_ids,
        "num_test_ids": num_test_ids,
        "num_val_ids": num_val_ids,
        "seed": seed,
        "image_height": image_height,
        "image_width": image_width,
        "num_workers": num_workers,
    }
    for name, number in numbers.items():
        if number is not None:
            check_number(name, number, int, NUMBER_RANGES[name])
    check_number("test_fraction", test_fraction, float, SHARE_RANGE)
    spec = _layout(layout)
    rates = {"occlusion": occlusion_rate, "crop": crop_rate, "lookalikes": lookalike_rate}
    counts = _split(spec, num_ids, test_fraction, num_train_ids, num_val_ids, num_test_ids)
    request = WorldRequest(
        layout,
        _style(spec, style, rates),
        seed,
        *counts,
        images_per_id,
        image_height,
        image_width,
        form=_choice("form", form, spec.forms, layout),
        caption_format=_choice("caption_format", caption_format, spec.caption_formats, layout),
        untidy_rate=_rate("untidy_rate", spec.untidy_rate if untidy_rate is None else untidy_rate),
        shadow_files=shadow_files,
        keypoints=keypoints,
        part_masks=part_masks,
    )
    _check(request, spec)
    output = Path(output)
    with locked_target(output):
        return _write_unless_there(request, spec, output, num_workers, show_progress)


def _write_unless_there(
    request: WorldRequest, spec: Layout, output: Path, num_workers: int, show_progress: bool
) -> bool:
    provenance = _provenance(request, spec)
    if already_there(output, provenance):
        return False
    with whole_folder(output) as root:
        for folder in spec.folders:
            (root / folder).mkdir(parents=True)
        draft = FolderDraft(root)
        jobs = make_untidy(request, spec.plan(request))
        records = _write_jobs(request, jobs, draft, num_workers, show_progress)
        spec.finish(request, records, draft)
        if request.shadow_files:
            _add_shadow_files(draft)
        write_json(draft, PROVENANCE_FILE, {**provenance, **folder_totals(root)})
        draft.check()
    return True


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, received {name!r}")
    return LAYOUTS[name]


def _style(spec: Layout, style: str | WorldStyle | None, rates: Mapping[str, float | None]) -> WorldStyle:
    """The requested style with the requested rates."""
    if isinstance(style, str) and style not in STYLES:
        raise ValueError(f"style: expected one of {', '.join(STYLES)}, received {style!r}")
    chosen = STYLES[style] if isinstance(style, str) else style or spec.default_style
    options = {field: name for name, field in RATE_OPTIONS.items()}
    chosen_rates = {field: _rate(options[field], rate) for field, rate in rates.items() if rate is not None}
    return replace(chosen, **chosen_rates)  # type: ignore[arg-type]  # all of them are numbers


def _rate(name: str, rate: float) -> float:
    return float(check_number(name, rate, float, SHARE_RANGE))


def _choice(name: str, value: str | None, choices: Sequence[str], layout: str) -> str:
    """`value` if it is given, or the first of `choices`, or "" if the layout has none."""
    if value is not None and value not in choices:
        offered = f"one of {', '.join(choices)} for {layout}" if choices else f"none, since {layout} has no choice"
        raise ValueError(f"{name}: expected {offered}, received {value!r}")
    return value or next(iter(choices), "")


def _check(request: WorldRequest, spec: Layout) -> None:
    """Raise `ValueError` for numbers out of range."""
    if request.images_per_id < spec.min_images:
        raise ValueError(
            f"images_per_id: expected at least {spec.min_images} for {spec.name}, received {request.images_per_id}"
        )
    check_size(request.image_height, request.image_width)
    for name, offered in (("keypoints", spec.has_keypoints), ("part_masks", spec.has_part_masks)):
        if getattr(request, name) and not offered:
            raise ValueError(f"{name}: {spec.title} has none; expected False for {spec.name}, received True")
    people = request.num_train_ids + request.num_val_ids + request.num_test_ids
    if people > spec.max_ids:
        raise ValueError(f"number of people: expected at most {spec.max_ids}, received {people}")
    plan_shots(request.style, seed=request.seed, person=1, count=request.images_per_id, cameras=spec.cameras)
    spec.check(request)


def _split(
    spec: Layout, num_ids: int, test_fraction: float, train: int | None, val: int | None, test: int | None
) -> tuple[int, int, int]:
    """Number of people for training, validation and testing."""
    counts = {"num_train_ids": train, "num_val_ids": val, "num_test_ids": test}
    if num_ids < 1:
        raise ValueError(f"num_ids: expected at least 1, received {num_ids}")
    for name, value in counts.items():
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
    """The content of `SYNTHETIC.json`, in JSON's types.

    Options at their defaults are left out, so that worlds written before these options existed are still recognised.
    """
    plain: dict[str, Any] = {"untidy_rate": 0.0, "shadow_files": False, "keypoints": False, "part_masks": False}
    plain |= {"form": next(iter(spec.forms), ""), "caption_format": next(iter(spec.caption_formats), "")}
    arguments = {name: value for name, value in asdict(request).items() if name not in plain or value != plain[name]}
    plain_style = {field.name: field.default for field in fields(WorldStyle) if field.metadata.get(TOLD_IF_SET)}
    style = arguments["style"].items()
    arguments["style"] = {
        name: value for name, value in style if name not in plain_style or value != plain_style[name]
    }
    content = {
        "synthetic": True,
        "notice": NOTICE.format(title=spec.title),
        "layout": request.layout,
        "layout_version": spec.version,
        "arguments": arguments,
    }
    written: dict[str, Any] = json.loads(json.dumps(content))
    return written


def command_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the command line that draw a world again, from the `arguments` in its `SYNTHETIC.json`.

    Raises `KeyError` when the layout or the style has no name that the command line knows.
    """
    spec, style = LAYOUTS[arguments["layout"]], STYLES[arguments["style"]["name"]]
    counts = ["num_train_ids", "num_test_ids"] + ["num_val_ids"] * spec.has_validation
    options: dict[str, Any] = {"layout": spec.name, "style": style.name}
    options |= (
        {name: arguments[name] for name in counts} if spec.has_splits else {"num_ids": arguments["num_train_ids"]}
    )
    options |= {name: arguments[name] for name in ("images_per_id", "seed", "image_height", "image_width")}
    options |= {name: arguments[name] for name in ("form", "caption_format") if name in arguments}
    if (untidy_rate := arguments.get("untidy_rate", 0.0)) != spec.untidy_rate:
        options["untidy_rate"] = untidy_rate
    for name, field in RATE_OPTIONS.items():
        if (rate := arguments["style"].get(field, 0.0)) != getattr(style, field):
            options[name] = rate
    options |= {name: None for name in ("shadow_files", "keypoints", "part_masks") if arguments.get(name)}
    return options


def already_there(output: Path, provenance: dict[str, Any]) -> bool:
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
        content = parse_json(read_text(marker), marker)
    except DatasetError as error:
        raise DatasetError(f"{error}: not the mark of a synthetic world; choose another folder") from error
    totals = {name: content.pop(name, None) for name in ("files", "bytes")} if isinstance(content, dict) else {}
    if content != provenance:
        raise DatasetError(
            f"{output}: holds a synthetic world made with other arguments (see {marker}); choose another folder"
        )
    present = folder_totals(output)
    for name, expected in totals.items():
        if expected != present[name]:
            raise DatasetError(
                f"{output}: expected {expected} {name} of this synthetic world, found {present[name]}; remove it to "
                "write it anew"
            )
    return True


def _write_jobs(
    request: WorldRequest, jobs: Sequence[Job], draft: FolderDraft, num_workers: int, show_progress: bool
) -> list[Record]:
    """Carry out all jobs, note their files in the draft, and return their records in the order of the jobs."""
    write = partial(_write_job, request, draft.root)
    progress = partial(
        tqdm,
        total=len(jobs),
        desc=f"{request.layout} ({request.style.name})",
        unit="person",
        disable=not show_progress,
    )
    if num_workers == 1:
        return _collect(progress(map(write, jobs)), draft)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(num_workers, initializer=_end_with_parent) as pool:
        results = pool.map(write, jobs, chunksize=max(1, len(jobs) // (num_workers * 8)))
        try:
            return _collect(progress(results), draft)
        except BaseException:  # a stop does not wait for the jobs that are left
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _collect(results: Iterable[tuple[list[Record], FolderDraft]], draft: FolderDraft) -> list[Record]:
    """The records of all jobs, in order; their files are noted in `draft`."""
    records: list[Record] = []
    for job_records, job_draft in results:
        records += job_records
        draft.files.update(job_draft.files)
    return records


def _write_job(request: WorldRequest, root: Path, job: Job) -> tuple[list[Record], FolderDraft]:
    draft = FolderDraft(root)
    return LAYOUTS[request.layout].write(request, job, draft), draft


def _end_with_parent() -> None:
    """End this worker when its parent is killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _add_shadow_files(draft: FolderDraft) -> None:
    """Add the files that archives made on macOS contain: `._*` beside every third file, and a `.DS_Store`."""
    for path in sorted(map(PurePosixPath, draft.files))[::3]:
        draft.write(str(path.with_name(f"._{path.name}")), _APPLE_DOUBLE)
    draft.write(".DS_Store", b"\x00\x00\x00\x01Bud1" + bytes(24))


def folder_totals(root: Path) -> dict[str, int]:
    """Number of files below `root` and their bytes, without `SYNTHETIC.json`."""
    files = [Path(place, name) for place, names in walk_files(root) for name in names]
    sizes = [path.stat().st_size for path in files if path != root / PROVENANCE_FILE]
    return {"files": len(sizes), "bytes": sum(sizes)}
