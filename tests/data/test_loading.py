"""Loading any dataset: bad folders, skips, the report, the arguments, and round trips of the result."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

import datasets
import pytest
from reid_trees import add_picture, make_finegpr, make_market, picture_bytes

import mmet.data
from mmet.data import (
    REID_FEATURES,
    DatasetError,
    ReidDatasetSpec,
    ReidFolder,
    SplitCount,
    dataset_names,
    get_spec,
    load_reid_dataset,
    parse_data_argument,
    read_reid_folder,
    registry,
    save_parquet,
    summarize,
)
from mmet.data.defects import Defect, DefectKind
from mmet.data.schema import PersonImage, SkippedFile

TRAIN, QUERY, GALLERY = "0002_c1s1_000451_03.jpg", "0001_c1s1_001051_00.jpg", "0001_c2s1_001051_00.jpg"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return make_market(tmp_path / "market", train=[TRAIN], query=[QUERY], gallery=[GALLERY])


@pytest.fixture
def finegpr(tmp_path: Path) -> Path:
    names = [f"{person:04d}_c{camera:02d}_w01_l01_p01.jpg" for person in (1, 2) for camera in (1, 2, 3)]
    home = make_finegpr(tmp_path / "FineGPR_Dataset", names)
    add_picture(home / "FineGPR_masks" / "0001" / "0001_c01_w01_l01_p01.png")
    (home / "FineGPR-C.json").write_text('{"0002_c01_w01_l01_p01.jpg": ["Größe.", "A man."]}', encoding="utf-8")
    return home


@pytest.mark.parametrize("name", ["market1501", "finegpr", "cuhk_pedes"])
def test_load__folders_that_cannot_be_it(tmp_path: Path, name: str) -> None:
    expected_tree = get_spec(name).expected_tree.rstrip()
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong" / "photos").mkdir(parents=True)
    add_picture(tmp_path / "wrong" / "me.jpg")
    for root, message in (
        ("none/at/all", f"does not exist (but {tmp_path} does)"),
        ("file", "is a file; name the unpacked folder"),
        ("empty", "the folder is empty"),
        ("wrong", "It holds: me.jpg, photos/."),
    ):
        with pytest.raises(DatasetError) as caught:
            load_reid_dataset(name, tmp_path / root)
        assert message in str(caught.value)
        assert expected_tree in str(caught.value)
        assert get_spec(name).title in str(caught.value)


def test_load__features_and_lazy_pictures(finegpr: Path) -> None:
    dataset = load_reid_dataset("finegpr", str(finegpr))["train"]
    assert dataset.features == REID_FEATURES
    stored = dataset.cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert stored == {"path": str(finegpr / "FineGPR/0001/0001_c01_w01_l01_p01.jpg"), "bytes": None}
    assert dataset[0]["person_mask"].size == (24, 48)
    assert dataset[1]["person_mask"] is None


def test_load__relative_root(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(market)
    dataset = load_reid_dataset("market1501", ".")
    monkeypatch.chdir("/")
    assert dataset["train"][0]["image"].size == (24, 48)


def test_load__broken_pictures_are_left_out_counted_and_named(market: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = market / "bounding_box_train"
    for number in range(5):
        add_picture(train / f"0009_c1_{number}.jpg", b"")
    add_picture(train / "0008_c1_0.jpg", b"no picture")
    add_picture(train / "0007_c1_0.jpg", picture_bytes()[:800])
    dataset = load_reid_dataset("market1501", market)
    assert dataset["train"]["image_path"][:] == [f"bounding_box_train/{TRAIN}"]
    (record,) = [record for record in caplog.records if record.name == "mmet.data.loading"]
    assert record.levelno == logging.WARNING
    lines = record.getMessage().splitlines()
    names = ", ".join(f"bounding_box_train/0009_c1_{number}.jpg" for number in range(3))
    assert "  skipped 7:" in lines
    assert f"    5 × empty file ({names}, …)" in lines
    assert (
        "    1 × not a readable picture (BMP, GIF, JPEG, PNG, TIFF or WebP) (bounding_box_train/0008_c1_0.jpg)"
        in lines
    )
    assert "    1 × truncated or damaged picture (bounding_box_train/0007_c1_0.jpg)" in lines
    with pytest.raises(DatasetError, match=r"(?s)on_skip='error'.*5 × empty file"):
        load_reid_dataset("market1501", market, on_skip="error")
    assert len(load_reid_dataset("market1501", market, check_images=False)["train"]) == 8


def test_load__file_names_that_are_no_text_are_left_out(market: Path) -> None:
    path = os.fsencode(market / "query") + b"/0005_c1_\xff.jpg"
    with open(path, "wb") as file:  # noqa: PTH123 (a name in bytes)
        file.write(picture_bytes())
    folder = read_reid_folder("market1501", market)
    assert [skip.reason for skip in folder.skipped] == ["file name is not valid UTF-8"]
    assert "0005_c1_\\udcff.jpg" in summarize(folder, get_spec("market1501"))


@pytest.mark.parametrize(
    ("name", "on_skip", "known"), [("market", "report", "market1501"), ("finegpr", "ignore", "'report'")]
)
def test_load__bad_arguments(tmp_path: Path, name: str, on_skip: str, known: str) -> None:
    with pytest.raises(ValueError, match=known):
        load_reid_dataset(name, tmp_path, on_skip=on_skip)  # type: ignore[arg-type]


def _folder(**splits: list[PersonImage]) -> ReidFolder:
    return ReidFolder(Path("/data/x"), splits=splits)


def _image(person_id: int, camera_id: int = -1, captions: tuple[str, ...] = (), name: str = "a.jpg") -> PersonImage:
    return PersonImage(Path("/data/x", name), person_id, camera_id, captions)


def _spec(**counts: SplitCount) -> ReidDatasetSpec:
    return ReidDatasetSpec("x", "The X", "tree", read=lambda root: _folder(), published_counts=counts)


def test_summarize__counts_beside_published_ones() -> None:
    folder = _folder(
        train=[_image(1, 1, ("a", "b")), _image(1, 2), _image(0, 2, ("c",))], test=[_image(5, captions=("d",))]
    )
    folder.set_aside["junk"] = 1_234
    folder.notes.append("a note")
    folder.skipped.append(SkippedFile("b.jpg", Defect(DefectKind.NO_PICTURE, "bad")))
    spec = _spec(train=SplitCount(3, 2), test=SplitCount(1, 1, captions=2))
    assert summarize(folder, spec).splitlines() == [
        "The X in /data/x",
        "  a note",
        "  train  3 images of 2 persons, 2 cameras, 3 captions, 0 masks (as published)",
        "  test   1 images of 1 persons, 0 cameras, 1 captions, 0 masks"
        " (published: 1 images of 1 persons and 2 captions)",
        "  left out by the protocol: 1,234 junk",
        "  kept without a caption: 1 pictures (a.jpg)",
        "  skipped 1:",
        "    1 × bad (b.jpg)",
    ]


def test_load__own_dataset_in_ten_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A registered reader gets checks, counts and the schema for nothing; a complete folder is reported as such."""

    def read(root: Path) -> ReidFolder:
        return ReidFolder(
            root, {"train": [PersonImage(path, person_id=int(path.stem)) for path in root.glob("*.jpg")]}
        )

    spec = ReidDatasetSpec("ten_lines", "Ten lines", "*.jpg", read, {"train": SplitCount(1, 1)})
    mmet.data.register(spec)
    with pytest.raises(ValueError, match="already registered"):
        mmet.data.register(spec)
    assert "ten_lines" in dataset_names()
    add_picture(tmp_path / "17.jpg")
    with caplog.at_level(logging.INFO, logger="mmet.data.loading"):
        assert load_reid_dataset("ten_lines", tmp_path)["train"]["person_id"][:] == [17]
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "1 images of 1 persons, 0 cameras, 0 captions, 0 masks (as published)" in caplog.text


def test_load__example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data_formats.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (example,) = [block for block in blocks if "register(" in block]
    exec(example, {})
    add_picture(tmp_path / "corridor" / "0012_c3_000.jpg")
    add_picture(tmp_path / "corridor" / "0007_c1_001.jpg")
    dataset = load_reid_dataset("corridor", tmp_path, on_skip="error")
    assert dataset["train"]["person_id"][:] == [7, 12]
    assert dataset["train"]["camera_id"][:] == [1, 3]


@pytest.mark.parametrize("name", dataset_names())
def test_documentation__has_every_dataset_count_and_option(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data_formats.md").read_text(encoding="utf-8")
    spec = get_spec(name)
    (section,) = [part for part in page.split("\n### ")[1:] if f"`{name}`" in part.partition("\n")[0]]
    for counts in (spec.published_counts, *spec.variant_counts.values()):
        for count in counts.values():
            for number in (count.images, count.persons, count.captions):
                assert not number or f"{number:,}" in section
    options = page.partition("## Layouts")[0]
    for option in spec.options:
        assert f"`{option.name}`" in options
    assert f"`{name}`" in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_load__folder_that_may_not_be_opened(tmp_path: Path) -> None:
    def read(root: Path) -> ReidFolder:
        raise PermissionError(13, "Permission denied", str(root / "locked"))

    mmet.data.register(ReidDatasetSpec("locked", "Locked", "tree", read))
    add_picture(tmp_path / "1.jpg")
    with pytest.raises(DatasetError, match=r"Locked: .*/locked cannot be read \(Permission denied\)"):
        load_reid_dataset("locked", tmp_path)


def test_parse_data_argument() -> None:
    assert parse_data_argument("market1501=/data/x") == ("market1501", Path("/data/x"), {})
    assert parse_data_argument("finegpr=/data/a=b") == ("finegpr", Path("/data/a=b"), {})


@pytest.mark.parametrize("argument", ["market1501", "market1501=", "=/data/x", "/data/x", ""])
def test_parse_data_argument__bad_syntax(argument: str) -> None:
    with pytest.raises(ValueError, match=r"expected name=folder.*market1501"):
        parse_data_argument(argument)


def test_parse_data_argument__unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown dataset 'markt'; known: .*cuhk_pedes.*market1501"):
        parse_data_argument("markt=/data/x")


def _rows(dataset: datasets.Dataset) -> list[tuple]:
    columns = ("person_id", "camera_id", "captions", "image_path", "domain")
    pixels = [(row["image"].tobytes(), row["person_mask"] and row["person_mask"].tobytes()) for row in dataset]
    return [(*(row[column] for column in columns), *data) for row, data in zip(dataset, pixels, strict=True)]


def test_round_trip__save_to_disk(finegpr: Path, tmp_path: Path) -> None:
    dataset = load_reid_dataset("finegpr", finegpr)
    rows = _rows(dataset["train"])
    dataset.save_to_disk(tmp_path / "saved")
    finegpr.rename(tmp_path / "gone")  # what was saved does not need the folder
    loaded = datasets.load_from_disk(tmp_path / "saved")
    assert loaded["train"].features == REID_FEATURES
    assert _rows(loaded["train"]) == rows


@pytest.mark.parametrize("rows_per_shard", [2, 4, 100])
def test_round_trip__parquet_with_embedded_pictures(finegpr: Path, tmp_path: Path, rows_per_shard: int) -> None:
    dataset = load_reid_dataset("finegpr", finegpr)
    rows = _rows(dataset["train"])
    source = (finegpr / dataset["train"]["image_path"][0]).read_bytes()
    files = save_parquet(dataset, tmp_path / "parquet", rows_per_shard=rows_per_shard)
    assert len(files) == -(-6 // rows_per_shard)
    finegpr.rename(tmp_path / "gone")
    loaded = datasets.load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].features == REID_FEATURES
    assert _rows(loaded["train"]) == rows
    assert loaded["train"].cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"] == source
    streamed = datasets.load_dataset(str(tmp_path / "parquet"), split="train", streaming=True)
    assert [row["image_path"] for row in streamed] == [row[3] for row in rows]


def test_round_trip__own_split_names_and_selections_survive_parquet(market: Path, tmp_path: Path) -> None:
    dataset = load_reid_dataset("market1501", market)
    dataset["gallery"] = datasets.concatenate_datasets([dataset["gallery"], dataset["query"]]).select([1])
    save_parquet(dataset, tmp_path / "parquet")
    loaded = datasets.load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "query", "gallery"}
    assert loaded["gallery"]["image_path"][:] == [f"query/{QUERY}"]


def test_save_parquet__keeps_what_is_there(market: Path, tmp_path: Path) -> None:
    dataset = load_reid_dataset("market1501", market)
    with pytest.raises(FileExistsError, match="name a folder to be created"):
        save_parquet(dataset, tmp_path)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        save_parquet(dataset, tmp_path / "new", rows_per_shard=0)


@pytest.mark.parametrize("check_images", [True, False])
def test_load__nothing_outside_the_folder_is_ever_opened(tmp_path: Path, check_images: bool) -> None:
    """Absolute paths, web addresses, other schemes, climbing paths and links out, for pictures and for masks."""
    secret = add_picture(tmp_path / "secret" / "a.jpg")
    home = tmp_path / "home"
    add_picture(home / "kept" / "a.jpg")
    (home / "kept" / "link.jpg").symlink_to(secret)
    (home / "kept" / "folder").symlink_to(secret.parent)
    (home / "kept" / "inside.jpg").symlink_to("a.jpg")
    elsewhere = (
        str(secret),
        f"file://{secret}",
        "https://example.com/a.jpg",
        f"zip://a.jpg::{secret}",
        "../secret/a.jpg",
        "kept/link.jpg",
        "kept/folder/a.jpg",
        f"C:{secret}",
    )
    rows = [{"image": name, "person_id": number} for number, name in enumerate(elsewhere)]
    rows += [{"image": "kept/a.jpg", "person_id": 50}, {"image": "kept/inside.jpg", "person_id": 51}]
    (home / "annotations.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    dataset = load_reid_dataset("folder", home, check_images=check_images)["train"]
    opened = dataset.cast_column("image", datasets.Image(decode=False))
    for row in opened:
        path = row["image"]["path"]
        assert Path(path).is_relative_to(home)
        assert not os.path.samefile(path, secret) if os.path.exists(path) else row["person_id"] in (1, 2, 3)  # noqa: PTH110, PTH121
    assert {50, 51} <= set(dataset["person_id"]) <= {1, 2, 3, 50, 51}
    for name in elsewhere:
        masked = json.dumps({"image": "kept/a.jpg", "person_id": 1, "person_mask": name})
        (home / "annotations.jsonl").write_text(masked, encoding="utf-8")
        (row,) = load_reid_dataset("folder", home, check_images=check_images)["train"].cast_column(
            "person_mask", datasets.Image(decode=False)
        )
        assert row["person_mask"] is None or not Path(row["person_mask"]["path"]).exists()
