"""Every layout of the synthetic world, in every form, is read back by the loader of its data set, as it was written.

Counts, persons, cameras and captions are taken from the files by means of their own (regular expressions, JSON, CSV),
not by what wrote them.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mmet.data.data_argument import DataArgument
from mmet.data.doctor import Diagnosis, diagnose
from mmet.data.loading import read_reid_folder
from mmet.data.registry import dataset_names
from mmet.data.schema import PersonImage, ReidFolder
from mmet.data.synthetic import LAYOUTS, write_world
from mmet.data.synthetic.__main__ import main
from mmet.data.synthetic.layouts.folder import NAME_PATTERN

SIZE = {"images_per_id": 5, "image_height": 48, "image_width": 24, "seed": 3}
PEOPLE = {"num_train_ids": 4, "num_test_ids": 4}
UNTIDY = {"untidy_rate": 1.0, "shadow_files": True}


@dataclass(frozen=True)
class Case:
    """A world, and what its loader has to be told."""

    layout: str
    form: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join(filter(None, (self.layout, self.form, self.arguments.get("caption_format"))))


CASES = [
    Case("finegpr", "full"),
    Case("finegpr", "full", {"caption_format": "jsonl"}),
    Case("finegpr", "subset", {"caption_format": "csv"}),
    Case("market1501"),
    Case("dukemtmc"),
    Case("cuhk03", "np"),
    Case("cuhk03", "np", options={"boxes": "labeled"}),
    Case("msmt17", "V1"),
    Case("msmt17", "V2", options={"train": "train"}),
    Case("cuhk_pedes"),
    Case("icfg_pedes"),
    Case("rstpreid"),
    Case("randperson", "subset"),
    Case("randperson", "full"),
    Case("folder", "csv"),
    Case("folder", "jsonl"),
    Case("folder", "names", options={"pattern": NAME_PATTERN, "masks": "masks", "captions": "captions.csv"}),
]


def write(case: Case, root: Path, **arguments: Any) -> Path:
    people = PEOPLE if LAYOUTS[case.layout].has_splits else {"num_ids": 4}
    write_world(case.layout, root, **{**SIZE, **people, "form": case.form, **case.arguments, **arguments})
    return root


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One untidy world for each layout, form and caption format."""
    base = tmp_path_factory.mktemp("layouts")
    return {name: write(case, base / name, **UNTIDY) for name, case in {str(case): case for case in CASES}.items()}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def load(case: Case, worlds: dict[str, Path]) -> ReidFolder:
    return read_reid_folder(case.layout, worlds[str(case)], **case.options)


def images_of(folder: ReidFolder) -> list[PersonImage]:
    return [image for images in folder.splits.values() for image in images]


def pictures_of(root: Path) -> set[str]:
    """Pictures on disk that are no masks, hidden files or hand-drawn boxes."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.suffix in (".bmp", ".jpg", ".png"))
    aside = ("FineGPR_masks", "masks", "gt_bbox")
    return {path.as_posix() for path in paths if not path.name.startswith("._") and path.parts[0] not in aside}


def test_layouts__cover_every_dataset() -> None:
    # "parquet" is what any dataset is converted to, no layout of its own.
    assert set(LAYOUTS) == set(dataset_names()) - {"parquet"}
    covered = {(case.layout, case.form or "") for case in CASES} | {("cuhk03", "mat")}
    for name, layout in LAYOUTS.items():
        assert {form for other, form in covered if other == name} == set(layout.forms or ("",))


def test_loader__skips_nothing_but_what_stands_twice(case: Case, worlds: dict[str, Path]) -> None:
    folder = load(case, worlds)
    assert {skip.reason for skip in folder.skipped} <= {"listed twice"}
    assert not folder.missing


def test_loader__finds_every_picture_that_is_no_junk(case: Case, worlds: dict[str, Path]) -> None:
    folder = load(case, worlds)
    written = {name for name in pictures_of(folder.root) if not re.search(r"(^|/)-1_", name)}
    if case.options.get("train") == "train":
        lines = (folder.root / "list_val.txt").read_text().splitlines()
        written -= {f"mask_train_v2/{line.split()[0]}" for line in lines}
    assert {folder.name_of(image.image_path) for image in images_of(folder)} == written


def test_loader__persons_and_cameras_are_those_in_the_names(case: Case, worlds: dict[str, Path]) -> None:
    folder = load(case, worlds)
    for image in images_of(folder):
        name = image.image_path.name
        numbers = [int(number) for number in re.findall(r"\d+", name)]
        if case.layout == "cuhk_pedes":
            continue  # its names are of seven kinds; see the annotations
        person = numbers[0] + 1041 * (case.layout == "msmt17" and "test" in folder.name_of(image.image_path))
        assert image.person_id == person
        if image.camera_id != -1 and case.layout not in ("randperson", "msmt17"):
            assert f"_c{image.camera_id}" in name.replace("_c0", "_c")
        if case.layout == "msmt17":
            assert image.camera_id == numbers[2]
    cameras = {image.camera_id for image in images_of(folder)}
    if case.layout in ("cuhk_pedes", "icfg_pedes", "rstpreid"):
        assert cameras == {-1}
    else:
        assert len(cameras) > 1


def expected_captions(root: Path) -> dict[str, list[str]]:
    """Picture name -> captions in every annotation file there, in order."""
    captions: dict[str, list[str]] = {}
    for path in root.glob("[!.S]*.*"):
        if path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        elif path.suffix == ".csv" and path.name != "attributes.csv":
            with path.open(encoding="utf-8", newline="") as file:
                rows = [{**row, "captions": [row["caption"]]} for row in csv.DictReader(file)]
        else:
            continue
        for row in rows:
            name = next(row[field] for field in ("image", "file_path", "img_path") if field in row)
            captions.setdefault(Path(name).name, []).extend(row["captions"])
    return captions


CAPTIONED = [case for case in CASES if case.layout in {"finegpr", "cuhk_pedes", "icfg_pedes", "rstpreid", "folder"}]


@pytest.mark.parametrize("case", CAPTIONED, ids=str)
def test_loader__captions_are_those_written(case: Case, worlds: dict[str, Path]) -> None:
    folder = load(case, worlds)
    written = expected_captions(folder.root)
    doubled = 0
    for image in images_of(folder):
        sentences = written[image.image_path.name]
        doubled += len(sentences) > len(set(sentences))
        assert image.captions
        assert list(dict.fromkeys(image.captions)) == list(dict.fromkeys(sentences))
    assert doubled or case.layout == "icfg_pedes"


def test_untidy__people_have_one_picture_or_one_camera(case: Case, worlds: dict[str, Path]) -> None:
    images = images_of(load(case, worlds))
    pictures = {(image.person_id, image.image_path) for image in images}
    counts = Counter(person for person, _ in pictures if person)
    assert 1 in counts.values()
    if any(image.camera_id != -1 for image in images):
        cameras = {person: {image.camera_id for image in images if image.person_id == person} for person in counts}
        assert any(len(seen) == 1 and counts[person] > 1 for person, seen in cameras.items())


EXPECTED_FINDINGS = {
    "listed twice": {"msmt17"},
    "persons in train have one image alone": None,
    "macOS shadow files": None,
    "licence: ": None,
    "distractors (person 0)": {"market1501", "folder"},
    "junk detections": {"market1501", "folder"},
    "queries have no picture of their person in another camera": {"folder"},
    "split ": None,
    "DukeMTMC was withdrawn": {"dukemtmc"},
    "Links to it": {"market1501"},
    "captions from FineGPR-C": {"finegpr"},
    "the published sample": {"finegpr"},
    "captions of pictures outside the sample": {"finegpr"},
    "masks of pictures outside the sample": {"finegpr"},
    "detected boxes": {"cuhk03"},
    "labeled boxes": {"cuhk03"},
    "MSMT17 V": {"msmt17"},
    "pictures of list_val.txt": {"msmt17"},
    "the published subset of RandPerson": {"randperson"},
    "described by annotations": {"folder"},
    "file names read by": {"folder"},
}
"""What the doctor may say: words -> layouts of which it may say them (None for all)."""


def examine(case: Case, worlds: dict[str, Path], **options: bool) -> Diagnosis:
    return diagnose(DataArgument(case.layout, worlds[str(case)], case.options), **options)


def test_doctor__says_only_what_is_expected(case: Case, worlds: dict[str, Path]) -> None:
    diagnosis = examine(case, worlds, allow_partial=True, decode=True)
    assert diagnosis.fit
    for finding in diagnosis.findings:
        words = [words for words in EXPECTED_FINDINGS if words in finding.what]
        assert words, finding
        layouts = EXPECTED_FINDINGS[words[0]]
        assert layouts is None or case.layout in layouts, finding


def test_doctor__takes_a_world_for_an_incomplete_dataset(worlds: dict[str, Path]) -> None:
    for case in CASES:
        diagnosis = examine(case, worlds)
        assert diagnosis.fit == (not diagnosis.published), case


def test_tidy_world__has_no_warning(tmp_path: Path) -> None:
    for case in {case.layout: case for case in CASES}.values():
        root = tmp_path / case.layout
        write(case, root, untidy_rate=0.0, images_per_id=3)
        diagnosis = diagnose(DataArgument(case.layout, root, case.options), allow_partial=True)
        warnings = [finding.what for finding in diagnosis.findings if finding.severity != "note"]
        assert all(re.match(r"split \w+ has ", what) for what in warnings), case


def test_msmt17__val_list_is_of_training_people_and_v2_hides_faces(worlds: dict[str, Path]) -> None:
    root = worlds["msmt17-V1"]
    lists = {
        name: [line.split() for line in (root / f"list_{name}.txt").read_text().splitlines()]
        for name in ("train", "val", "query", "gallery")
    }
    people = {name: {int(person) for _, person in rows} for name, rows in lists.items()}
    assert people["val"] <= people["train"] == set(range(4))
    assert people["query"] <= people["gallery"] == set(range(4))
    assert len(lists["train"]) > len({path for path, _ in lists["train"]}), "no picture listed twice"
    for path, _ in lists["val"]:
        first, second = ((root / "train" / path), worlds["msmt17-V2"] / "mask_train_v2" / path)
        assert first.read_bytes() != second.read_bytes()


def test_cuhk03__detector_misses_pictures_and_draws_other_boxes(worlds: dict[str, Path]) -> None:
    root = worlds["cuhk03-np"]
    detected, labeled = (
        {path.name: path for path in (root / boxes).rglob("[!.]*.png")} for boxes in ("detected", "labeled")
    )
    assert detected.keys() <= labeled.keys()
    assert all(detected[name].read_bytes() != labeled[name].read_bytes() for name in detected)


def test_cuhk03__mat_file_gives_the_classic_splits(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    from mmet.data.extract_cuhk03 import extract

    root = write(Case("cuhk03", "mat"), tmp_path / "world", untidy_rate=0.0)
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["cuhk03_release"]
    count = extract(root / "cuhk03_release" / "cuhk-03.mat", tmp_path / "classic")
    assert 2 * 8 * 5 - 4 <= count <= 2 * 8 * 5
    splits = json.loads((tmp_path / "classic" / "splits.json").read_text())
    assert [len(set(split)) for split in splits] == [4] * 20
    assert len({tuple(split) for split in splits}) > 1
    folder = read_reid_folder("cuhk03", tmp_path / "classic", split=2, boxes="labeled")
    people = {split: {image.person_id for image in images} for split, images in folder.splits.items()}
    assert people["query"] == people["gallery"] == set(splits[1])
    assert people["train"] == {1000 * (1 + n % 5) + 1 + n // 5 for n in range(8)} - set(splits[1])
    assert {image.camera_id for image in folder.splits["train"]} == {1, 2}


@pytest.mark.parametrize(
    ("layout", "arguments", "message"),
    [
        ("msmt17", {"form": "V3"}, "form: expected one of V1, V2 for msmt17, received 'V3'"),
        ("market1501", {"form": "new"}, "form: expected none, since market1501 has no choice"),
        ("icfg_pedes", {"caption_format": "csv"}, "caption_format: expected none"),
        ("rstpreid", {"untidy_rate": 1.5}, "untidy_rate: expected a number of at least 0 and at most 1, received 1.5"),
        ("dukemtmc", {"crop_rate": -0.1}, "crop_rate: expected a number of at least 0 and at most 1, received -0.1"),
        ("msmt17", {"num_train_ids": 1042, "num_test_ids": 1}, "num_train_ids: MSMT17 has at most 1041"),
        ("dukemtmc", {"num_ids": 6001}, "number of people: expected at most 6000"),
        ("cuhk03", {"images_per_id": 41}, "images_per_id: expected at most 40"),
    ],
)
def test_write_world__names_the_bad_option(layout: str, arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        write_world(layout, tmp_path / "world", **arguments)


def test_command__writes_any_form(tmp_path: Path) -> None:
    words = "--layout randperson --form full --num_ids 2 --images_per_id 2 --image_height 64 --image_width 32"
    main([*words.split(), "--untidy_rate", "0", "--shadow_files", "--output", str(tmp_path / "world")])
    assert len(pictures_of(tmp_path / "world")) == 4
    assert list((tmp_path / "world").rglob("._*.jpg"))


def test_command__help_names_every_layout_form_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    forms = [form for layout in LAYOUTS.values() for form in layout.forms]
    for word in (
        *LAYOUTS,
        *forms,
        "--untidy_rate",
        "--crop_rate",
        "--lookalike_rate",
        "--occlusion_rate",
        "--keypoints",
        "night 0.15",
    ):
        assert word in text
