"""The dataset doctor: what it finds in a folder, its fixes, its exit codes, and its two forms of output."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from reid_trees import add_picture, make_cuhk_pedes, make_market, make_msmt17, pedes_entry, picture_bytes

from mmet.data import SplitCount, get_spec, load_reid_dataset, parse_data_argument, registry, save_parquet
from mmet.data.defects import DefectKind
from mmet.data.diagnosis import FIXES, Diagnosis, Finding, MaskTotals, diagnose
from mmet.data.doctor import FIT, UNFIT, USAGE_ERROR, format_diagnosis, main
from mmet.data.paths import walk_files

TRAIN, QUERY, GALLERY = "0002_c1s1_000451_03.jpg", "0001_c1s1_001051_00.jpg", "0001_c2s1_001051_00.jpg"


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return make_market(tmp_path / "market", train=[TRAIN], query=[QUERY], gallery=[GALLERY])


@pytest.fixture
def tiny_market(monkeypatch: pytest.MonkeyPatch) -> None:
    """Market-1501 as if one picture in each split were all that was published."""
    counts = {split: SplitCount(images=1, persons=1) for split in ("train", "query", "gallery")}
    spec = replace(get_spec("market1501"), published_counts=counts)
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "market1501": spec})


def _diagnose(name: str, root: Path, **options: bool) -> Diagnosis:
    return diagnose(parse_data_argument(f"{name}={root}"), **options)


def _finding(diagnosis: Diagnosis, part: str) -> Finding:
    (finding,) = [finding for finding in diagnosis.findings if part in finding.what]
    return finding


@pytest.mark.usefixtures("tiny_market")
def test_complete_folder_is_fit(market: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"market1501={market}"]) == FIT
    text = capsys.readouterr().out
    assert "FIT to use: 0 errors, 0 warnings, 3 notes" in text
    assert "NOT FIT" not in text
    assert "bounding_box_train/   1 pictures" in text
    assert "licence: " in text
    assert "expected:" not in text


def test_counts_other_than_published_are_unfit_unless_partial_is_allowed(
    market: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"market1501={market}"]) == UNFIT
    text = capsys.readouterr().out
    assert "error    split train has 1 of 12,936 images, 1 of 751 persons" in text
    assert "or say --allow_partial" in text
    assert "├── bounding_box_train/" in text  # the tree expected
    assert main(["--allow_partial", f"market1501={market}"]) == FIT
    text = capsys.readouterr().out
    assert "warning  split train has 1 of 12,936 images, 1 of 751 persons" in text
    assert "--allow_partial" not in text
    assert main([f"market1501={market}?allow_partial=true"]) == FIT


@pytest.mark.usefixtures("tiny_market")
def test_more_than_published_is_another_version(market: Path) -> None:
    add_picture(market / "query" / "0001_c3s1_001051_00.jpg")
    finding = _finding(_diagnose("market1501", market), "split query has 2 of 1 images")
    assert finding.severity == "error"
    assert finding.fix.startswith("is this another version of the dataset?")


def test_missing_part_is_named_and_the_rest_still_examined(market: Path) -> None:
    (market / "query" / QUERY).unlink()
    (market / "query").rmdir()
    (market / "bounding_box_train" / "0009_c1_x.jpg").write_bytes(b"")
    diagnosis = _diagnose("market1501", market)
    assert not diagnosis.fit
    assert _finding(diagnosis, "query/ is not there").severity == "error"
    assert _finding(diagnosis, "empty file").examples == ("bounding_box_train/0009_c1_x.jpg",)
    assert set(diagnosis.splits) == {"train", "gallery"}
    assert _diagnose("market1501", market, allow_partial=True).fit


@pytest.mark.usefixtures("tiny_market")
def test_persons_in_train_and_test_are_an_error(market: Path) -> None:
    for split in ("bounding_box_train", "bounding_box_test"):
        (market / split / "0000_c1s1_000000_00.jpg").write_bytes(picture_bytes())  # a distractor is nobody
    diagnosis = _diagnose("market1501", market, allow_partial=True)
    assert diagnosis.fit
    add_picture(market / "bounding_box_train" / GALLERY)
    diagnosis = _diagnose("market1501", market, allow_partial=True)
    finding = _finding(diagnosis, "persons stand in train and in a test split")
    assert (finding.severity, finding.count, finding.examples) == ("error", 1, ("1",))
    assert not diagnosis.fit


def test_overlap_of_the_published_dataset_itself_is_a_warning(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_picture(market / "bounding_box_train" / GALLERY)
    counts = {"train": SplitCount(2, 2), "query": SplitCount(1, 1), "gallery": SplitCount(1, 1)}
    spec = replace(get_spec("market1501"), published_counts=counts)
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "market1501": spec})
    diagnosis = _diagnose("market1501", market)
    assert _finding(diagnosis, "persons stand in train").severity == "warning"
    assert diagnosis.fit


def test_test_persons_of_msmt17_are_others_though_their_numbers_restart(tmp_path: Path) -> None:
    name = "0000/0000_000_01_0303morning_0008_0.jpg"
    home = make_msmt17(tmp_path, {split: [(name, 0)] for split in ("train", "val", "query", "gallery")})
    diagnosis = _diagnose("msmt17", home, allow_partial=True)
    assert not any("persons stand" in finding.what for finding in diagnosis.findings)


@pytest.mark.usefixtures("tiny_market")
def test_findings_of_a_market_tree(market: Path) -> None:
    for name in ("-1_c1s1_000401_03.jpg", "0000_c6s3_000000_01.jpg", "0003_c1s1_000000_00.jpg"):
        add_picture(market / "bounding_box_test" / name)
    add_picture(market / "query" / "0003_c1s1_000001_00.jpg")  # the same camera as its only match
    add_picture(market / "query" / "0005_c1s1_000001_00.jpg")  # no match at all
    add_picture(market / "query" / "person.jpg")
    for name in ("._a.jpg", "._b.jpg"):
        (market / "bounding_box_train" / name).write_bytes(b"\0")
    (market / "bounding_box_train" / "0001.avif").write_bytes(b"")
    diagnosis = _diagnose("market1501", market, allow_partial=True)
    assert _finding(diagnosis, "junk detections").count == 1
    assert _finding(diagnosis, "distractors (person 0)").count == 1
    assert _finding(diagnosis, "no picture of their person in another camera").examples == (
        "query/0003_c1s1_000001_00.jpg",
        "query/0005_c1s1_000001_00.jpg",
    )
    assert _finding(diagnosis, "name is not like").fix.startswith("rename the file")
    shadows = _finding(diagnosis, "macOS shadow files")
    assert (shadows.severity, shadows.count) == ("note", 2)
    assert shadows.fix == f"find {market} -name '._*' -delete"
    assert _finding(diagnosis, "pictures of other formats").examples == ("bounding_box_train/0001.avif",)
    assert _finding(diagnosis, "have one image alone").count == 1


@pytest.mark.parametrize("cameras", [True, False])
def test_person_0_is_a_person_where_it_is_no_distractor(tmp_path: Path, cameras: bool) -> None:
    rows = ["0.jpg,0,1,train", "1.jpg,1,1,train", "2.jpg,0,1,query", "3.jpg,0,2,gallery"]
    if not cameras:
        rows = [",".join([*row.split(",")[:2], "", row.split(",")[3]]) for row in rows]
    for number in range(4):
        add_picture(tmp_path / f"{number}.jpg", picture_bytes(seed=number))
    (tmp_path / "annotations.csv").write_text("image,person_id,camera_id,split\n" + "\n".join(rows))
    diagnosis = _diagnose("folder", tmp_path)
    finding = _finding(diagnosis, "persons stand in train and in a test split")
    assert (finding.severity, finding.count, finding.examples) == ("error", 1, ("0",))
    assert not any("distractors" in finding.what for finding in diagnosis.findings)


def _without_cameras(root: Path, *pictures: tuple[str, int, bytes]) -> Path:
    """Pictures as `query/a.jpg`, person and content, read without a camera."""
    for name, _, content in pictures:
        add_picture(root / name, content)
    table = "".join(f"{name},{person},{Path(name).parent}\n" for name, person, _ in pictures)
    (root / "annotations.csv").write_text("image,person_id,split\n" + table)
    return root


def test_without_cameras_queries_are_as_evaluation_has_them(tmp_path: Path) -> None:
    first, two = picture_bytes(seed=1), picture_bytes(seed=2)
    root = _without_cameras(tmp_path, ("query/a.jpg", 1, first), ("gallery/b.jpg", 1, two), ("query/c.jpg", 2, two))
    diagnosis = _diagnose("folder", root)
    assert diagnosis.fit
    assert not any("another camera" in finding.what for finding in diagnosis.findings)
    assert _finding(diagnosis, "no other picture of their person in the gallery").examples == ("query/c.jpg",)
    assert _finding(diagnosis, "2 queries are of unknown cameras: all of the gallery but their own picture counts")


def test_copies_of_queries_are_told_where_cameras_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same, other = picture_bytes(seed=1), picture_bytes(seed=2)
    root = _without_cameras(
        tmp_path, ("query/a.jpg", 1, same), ("gallery/b.jpg", 1, same), ("gallery/c.jpg", 1, other)
    )
    finding = _finding(_diagnose("folder", root), "have a copy of themselves in the gallery")
    assert (finding.severity, finding.examples) == ("warning", ("query/a.jpg = gallery/b.jpg",))
    load_reid_dataset("folder", root)
    assert "copies of a query in the gallery, which it will find: 1 (query/a.jpg = gallery/b.jpg)" in caplog.text


def test_pictures_that_no_list_names_are_told(tmp_path: Path) -> None:
    home = make_cuhk_pedes(tmp_path, [pedes_entry("a.jpg")], ["a.jpg", "b.jpg"])
    finding = _finding(_diagnose("cuhk_pedes", home), "pictures that no table or list names are not used")
    assert (finding.severity, finding.examples) == ("warning", ("imgs/b.jpg",))


@pytest.mark.parametrize("root", ["/" + "x" * 300, "/" + "x/" * 3_000, "/dev/null"])
def test_folders_that_cannot_be_are_unfit(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"market1501={root}"]) == UNFIT
    assert "NOT FIT to use: 1 error" in capsys.readouterr().out


def test_withdrawal_is_told(tmp_path: Path) -> None:
    name = "0005_c2_f0046985.jpg"
    make_market(tmp_path, train=[name], query=[name], gallery=[name])
    assert _finding(_diagnose("dukemtmc", tmp_path), "withdrawn by its authors")


def test_captions_and_pictures_that_lack_each_other(tmp_path: Path) -> None:
    entries = [
        pedes_entry("a.jpg", 1),
        pedes_entry("gone.jpg", 2, captions=["Nobody."]),
        pedes_entry("b.jpg", 3, captions=[]),
        pedes_entry("../x.jpg", 4),
    ]
    diagnosis = _diagnose("cuhk_pedes", make_cuhk_pedes(tmp_path, entries, ["a.jpg", "b.jpg"]))
    gone = _finding(diagnosis, "left out: missing")
    assert (gone.examples, gone.fix) == (
        ("imgs/gone.jpg",),
        "unpack the archive again, or copy the file to this place",
    )
    assert _finding(diagnosis, "pictures have no caption").examples == ("imgs/b.jpg",)
    assert "must lie below the folder" in _finding(diagnosis, "path leaves").fix


def test_every_kind_of_defect_has_a_fix() -> None:
    assert set(FIXES) == set(DefectKind)


def test_a_mask_is_put_right_as_a_mask_whatever_is_wrong_with_it(market: Path) -> None:
    name = "0007_c1_x.jpg"
    add_picture(market / name, picture_bytes("JPEG"))
    (market / "mask.png").write_bytes(b"")
    (market / "t.csv").write_text(f"image,person_id,person_mask\n{name},7,mask.png\n", encoding="utf-8")
    finding = _finding(
        diagnose(parse_data_argument(f"folder={market}?annotations=t.csv")), "left out: mask: empty file"
    )
    assert finding.fix == "restore the mask; until then its picture is used without"


def test_old_annotation_file_is_answered_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_cuhk_pedes(tmp_path, [], ["a.jpg"])
    (home / "reid_raw.json").rename(home / "caption_all.json")
    assert main([f"cuhk_pedes={home}"]) == UNFIT
    text = capsys.readouterr().out
    assert "Renaming the file does not help." in text
    assert text.count("└── reid_raw.json") == 1


@pytest.mark.usefixtures("tiny_market")
def test_decode_finds_damage_inside(market: Path) -> None:
    (market / "bounding_box_train" / TRAIN).unlink()
    add_picture(market / "bounding_box_train" / TRAIN, _png(zlib.compress(b"\x63" * 48 * 73)))  # 0x63 is no filter
    assert _diagnose("market1501", market).fit
    diagnosis = _diagnose("market1501", market, decode=True)
    assert not diagnosis.fit
    assert _finding(diagnosis, "cannot be decoded").examples == (f"bounding_box_train/{TRAIN}",)


def test_missing_rows_are_found_without_decoding(market: Path) -> None:
    for name, data in (("0002_c1_a.jpg", b"hollow"), ("0002_c1_b.jpg", zlib.compress(bytes(20 * 73)))):
        add_picture(market / "bounding_box_train" / name, _png(data))
    finding = _finding(_diagnose("market1501", market), "damaged inside: rows are missing")
    assert finding.examples == ("bounding_box_train/0002_c1_a.jpg", "bounding_box_train/0002_c1_b.jpg")
    assert finding.fix == "copy the file again from the archive"


def _masked(home: Path, masks: dict[str, np.ndarray]) -> Path:
    """A folder of 48 x 24 pictures with the masks of these names."""
    lines = ["image,person_id,person_mask"]
    for number, (name, mask) in enumerate(masks.items()):
        add_picture(home / f"{number}.jpg")
        (home / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(home / "masks" / f"{name}.png")
        lines.append(f"{number}.jpg,{number},masks/{name}.png")
    (home / "annotations.csv").write_text("\n".join(lines))
    return home


def test_masks__what_they_mean(tmp_path: Path) -> None:
    half, nobody, parts = np.zeros((3, 48, 24), dtype=np.uint8)
    half[:24] = 1
    parts[:] = np.arange(24) // 8
    masks = {"half": half, "left": half * 255, "nobody": nobody, "all": half | 1, "parts": parts, "wide": half.T}
    diagnosis = _diagnose("folder", _masked(tmp_path, masks))
    assert diagnosis.masks == MaskTotals(
        masks=6, looked_at=6, covered=0.5, covered_range=pytest.approx((0.1, 0.9)), nobody=1, everybody=1, ambiguous=1
    )
    line = "  masks cover 50% of their pictures (nine of ten 10% to 90%); 1 show nobody, 1 everybody, 1 are unclear"
    assert line in format_diagnosis(diagnosis).splitlines()
    for part, severity, name in (
        ("masks do not say who is the person", "error", "parts"),
        ("masks show nobody", "warning", "nobody"),
        ("masks cover the whole picture", "warning", "all"),
        ("masks have other proportions than their pictures", "warning", "wide"),
    ):
        finding = _finding(diagnosis, part)
        assert (finding.severity, finding.count, finding.examples) == (severity, 1, (f"masks/{name}.png",))
    assert "The first shows 3 values from 0 to 2, as class labels do" in _finding(diagnosis, "do not say").what
    assert not diagnosis.fit


@pytest.mark.parametrize(("value", "part"), [(0, "masks show nobody"), (255, "masks cover the whole picture")])
def test_masks__that_are_all_useless_are_an_error(tmp_path: Path, value: int, part: str) -> None:
    mask = np.full((48, 24), value, dtype=np.uint8)
    finding = _finding(_diagnose("folder", _masked(tmp_path, {"a": mask, "b": mask})), part)
    assert (finding.severity, finding.count) == ("error", 2)


def test_masks__a_sample_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.eye(48, 24, dtype=np.uint8)
    home = _masked(tmp_path, {f"{number}": mask for number in range(7)})
    monkeypatch.setattr("mmet.data.diagnosis._MASK_SAMPLE", 3)
    diagnosis = _diagnose("folder", home)
    assert (diagnosis.masks.masks, diagnosis.masks.looked_at) == (7, 3)
    assert "  3 of 7 masks, read, cover 2% of their pictures" in format_diagnosis(diagnosis)
    assert _diagnose("folder", home, decode=True).masks.looked_at == 7


def test_masks__none(tmp_path: Path) -> None:
    home = _masked(tmp_path, {"a": np.eye(48, 24, dtype=np.uint8)})
    (home / "annotations.csv").write_text("image,person_id\n0.jpg,1")
    assert _diagnose("folder", home).masks is None


def _png(data: bytes) -> bytes:
    """A PNG of 48 x 24 pixels whose checksums are right, whatever its compressed data is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 24, 48, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_several_folders_and_json(market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = os.fsencode(market / "query") + b"/0005_c1_\xff.jpg"
    with open(odd, "wb") as file:  # noqa: PTH123 (a name in bytes)
        file.write(picture_bytes())
    code = main(["--json", "--allow_partial", f"market1501={market}", f"dukemtmc={tmp_path / 'none'}"])
    assert code == UNFIT
    first, second = json.loads(capsys.readouterr().out)
    assert (first["fit"], second["fit"]) == (True, False)
    assert first["splits"]["train"] == {"images": 1, "persons": 1, "cameras": 1, "captions": 0, "masks": 0}
    assert first["published"]["train"]["images"] == 12_936
    (finding,) = [finding for finding in first["findings"] if "UTF-8" in finding["what"]]
    assert finding["examples"] == ["query/0005_c1_\\udcff.jpg"]
    assert "does not exist" in second["findings"][0]["what"]
    assert second["splits"] == {}


@pytest.mark.parametrize("argument", ["market1501", "markt=/d", "msmt17=/d?train=all", "cuhk03=/d?train=train"])
def test_wrong_arguments_have_their_own_code(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == USAGE_ERROR
    assert "error: " in capsys.readouterr().err


def _shards(market: Path, folder: Path) -> Path:
    save_parquet(load_reid_dataset("market1501", market, check_images=False, allow_partial=True), folder)
    return folder


def test_parquet__counts_and_verdict(market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = _shards(market, tmp_path / "shards")
    assert main([f"parquet={home}", "--decode"]) == FIT
    text = capsys.readouterr().out
    assert "FIT to use: 0 errors, 0 warnings" in text
    assert [line.split() for line in text.splitlines() if line.startswith("  train ")] == [
        ["train", "1", "1", "0", "1", "0"]
    ]


def test_parquet__a_person_in_train_and_test_and_queries_without_a_match(market: Path, tmp_path: Path) -> None:
    add_picture(market / "bounding_box_train" / "0001_c3s1_000451_03.jpg")
    add_picture(market / "query" / "0009_c3s1_000451_03.jpg")
    diagnosis = _diagnose("parquet", _shards(market, tmp_path / "shards"))
    assert not diagnosis.fit
    assert _finding(diagnosis, "in train and in a test split").count == 1
    assert _finding(diagnosis, "no picture of their person in another camera").examples == (
        "query/0009_c3s1_000451_03.jpg",
    )


def test_parquet__the_same_number_in_two_domains_is_two_persons(market: Path, tmp_path: Path) -> None:
    splits = load_reid_dataset("market1501", market)
    train = splits["gallery"].map(lambda row: {"domain": "elsewhere"})
    save_parquet({**splits, "train": train}, tmp_path / "shards")
    diagnosis = _diagnose("parquet", tmp_path / "shards")
    assert diagnosis.fit
    assert "rows of 2 domains: elsewhere, market1501" in [finding.what for finding in diagnosis.findings]


def test_parquet__broken_pictures_inside_are_named(market: Path, tmp_path: Path) -> None:
    add_picture(market / "bounding_box_train" / "0003_c1_a.jpg", picture_bytes()[:800])
    hollow = market / "bounding_box_train" / "0003_c2_a.jpg"
    add_picture(hollow, _png(zlib.compress(b"\x63" * 48 * 73)))  # 0x63 is no filter
    home = _shards(market, tmp_path / "shards")
    diagnosis = _diagnose("parquet", home)
    assert _finding(diagnosis, "truncated or damaged").examples == ("bounding_box_train/0003_c1_a.jpg",)
    assert not diagnosis.fit
    decoded = _finding(_diagnose("parquet", home, decode=True), "cannot be decoded")
    assert "bounding_box_train/0003_c2_a.jpg" in decoded.examples


def test_parquet__masks_are_measured(tmp_path: Path) -> None:
    half = np.zeros((48, 24), dtype=np.uint8)
    half[:24] = 1
    home = _masked(
        tmp_path / "folder", {"half": half, "nobody": half * 0, "parts": half * 3 + np.eye(48, 24, dtype=np.uint8)}
    )
    save_parquet(load_reid_dataset("folder", home), tmp_path / "shards")
    masks = _diagnose("parquet", tmp_path / "shards").masks
    assert masks == _diagnose("folder", home).masks
    assert (masks.masks, masks.nobody, masks.ambiguous) == (3, 1, 1)


def test_parquet__shards_that_changed(market: Path, tmp_path: Path) -> None:
    home = _shards(market, tmp_path / "shards")
    shard = next(home.glob("data/query-*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"0")
    finding = _finding(_diagnose("parquet", home), "is not as it was written")
    assert finding.severity == "error"


def test_parquet__without_a_manifest_and_with_paths_to_elsewhere(market: Path, tmp_path: Path) -> None:
    home = _shards(market, tmp_path / "shards")
    (home / "manifest.json").unlink()
    secret = add_picture(tmp_path / "secret" / "0001_c1.jpg", b"no picture")
    for path in home.glob("data/*.parquet"):
        rows = pq.read_table(path)
        names = pa.array([str(secret)] * len(rows))
        pq.write_table(rows.set_column(rows.column_names.index("image_path"), "image_path", names), path)
    diagnosis = _diagnose("parquet", home, decode=True)
    assert diagnosis.fit
    assert _finding(diagnosis, "no manifest.json").severity == "note"


def test_diagnose__folders_deeper_than_recursion_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1_500):
        Path("d").mkdir()
        monkeypatch.chdir("d")
    monkeypatch.chdir(tmp_path)
    assert main([f"market1501={tmp_path}"]) == UNFIT
    assert sum(1 for _ in walk_files(tmp_path)) > 1_000
    subprocess.run(["rm", "-rf", "d"], check=True)
