"""Sharded Parquet: resumed after a kill at any moment, verified by checksum, read by `datasets`, trained from."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.data import REID_FEATURES, DatasetError, load_reid_dataset, read_reid_folder, save_parquet
from mmet.data import parquet as parquet_module
from mmet.data.parquet import MANIFEST, shards_of, verify_parquet
from mmet.data.to_parquet import main, parse_size
from mmet.training.dataset import TrainingDataset
from mmet.training.sampling import Draw, IdentityBatchShape, MixedBatchSampler
from tests.data.reid_trees import add_picture, make_market, picture_bytes

NAMES = [f"{person:04d}_c{camera}s1_000{camera}51_00.jpg" for person in range(1, 6) for camera in (1, 2)]


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return make_market(tmp_path / "market", train=NAMES, query=NAMES[:1], gallery=NAMES[1:3])


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code catches it."""


def _kill_after(monkeypatch: pytest.MonkeyPatch, function: str, calls: int) -> None:
    """The process dies in the call of that number."""
    whole = getattr(parquet_module, function)
    left = [calls]

    def dying(*args, **kwargs):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return whole(*args, **kwargs)

    monkeypatch.setattr(parquet_module, function, dying)


def _content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("function", ["_embedded", "_write_manifest", "sha256_of"])
@pytest.mark.parametrize("calls", [0, 1, 2, 3, 4])
def test_save_parquet__resumed_is_the_same(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, calls: int
) -> None:
    dataset = load_reid_dataset("market1501", market)
    save_parquet(dataset, tmp_path / "whole", rows_per_shard=3)
    with monkeypatch.context() as patch:
        _kill_after(patch, function, calls)
        with pytest.raises(Killed):
            save_parquet(dataset, tmp_path / "resumed", rows_per_shard=3)
    assert not (tmp_path / "resumed").exists()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "resumed.partial").rglob("*.parquet")}
    listed = (tmp_path / "resumed.partial" / MANIFEST).exists() and shards_of(tmp_path / "resumed.partial")
    save_parquet(dataset, tmp_path / "resumed", rows_per_shard=3)
    assert _content(tmp_path / "resumed") == _content(tmp_path / "whole")
    assert not (tmp_path / "resumed.partial").exists()
    kept = [
        path for path, when in finished.items() if (tmp_path / "resumed/data" / path.name).stat().st_mtime_ns == when
    ]
    assert len(kept) >= len(listed or ())  # at most the shard in work is written twice
    assert len(kept) >= len(finished) - 1


def test_save_parquet__other_data_does_not_go_on(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_reid_dataset("market1501", market)
    with monkeypatch.context() as patch:
        _kill_after(patch, "_write_manifest", 2)
        with pytest.raises(Killed):
            save_parquet(dataset, tmp_path / "out", rows_per_shard=3)
    with pytest.raises(DatasetError, match="begun from other data or with other shard sizes"):
        save_parquet(dataset, tmp_path / "out", rows_per_shard=4)
    relabelled = datasets.DatasetDict({**dataset, "train": dataset["train"].sort("person_id", reverse=True)})
    with pytest.raises(DatasetError, match="begun from other data"):
        save_parquet(relabelled, tmp_path / "out", rows_per_shard=3)
    manifest = tmp_path / "out.partial" / MANIFEST
    content = json.loads(manifest.read_text())
    del content["fingerprint"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="begun from other data"):
        save_parquet(dataset, tmp_path / "out", rows_per_shard=3)


def test_save_parquet__missing_picture_is_named(market: Path, tmp_path: Path) -> None:
    dataset = load_reid_dataset("market1501", market)
    gone = market / "bounding_box_train" / NAMES[4]
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(DatasetError, match=f"{NAMES[4]} cannot be read"):
        save_parquet(dataset, tmp_path / "out", rows_per_shard=2)
    gone.write_bytes(content)
    save_parquet(dataset, tmp_path / "out", rows_per_shard=2)
    assert verify_parquet(tmp_path / "out") == []


def test_save_parquet__shards_of_about_the_size_that_was_asked_for(market: Path, tmp_path: Path) -> None:
    dataset = datasets.DatasetDict(train=load_reid_dataset("market1501", market)["train"])
    picture = (market / "bounding_box_train" / NAMES[0]).stat().st_size
    files = save_parquet(dataset, tmp_path / "out", shard_bytes=4 * picture)
    rows = [pq.read_metadata(file).num_rows for file in files]
    assert sum(rows) == 10
    assert all(2 <= count <= 4 for count in rows[:-1])


def test_manifest__independent_checksums(market: Path, tmp_path: Path) -> None:
    files = save_parquet(load_reid_dataset("market1501", market), tmp_path / "out", rows_per_shard=4)
    assert verify_parquet(tmp_path / "out") == []
    shards = shards_of(tmp_path / "out")
    assert [tmp_path / "out" / shard.file for shard in shards] == files
    assert [(shard.split, shard.rows) for shard in shards] == [
        ("train", 4),
        ("train", 4),
        ("train", 2),
        ("query", 1),
        ("gallery", 2),
    ]
    for shard, file in zip(shards, files, strict=True):
        assert shard.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@settings(max_examples=25, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True))
def test_verify_parquet__any_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, position: float) -> None:
    folder = tmp_path_factory.mktemp("verify")
    rows = datasets.Dataset.from_dict({"person_id": [1, 2, 3], "domain": ["a"] * 3})
    (file,) = save_parquet({"train": rows}, folder / "out")
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 1
    file.write_bytes(content)
    (problem,) = verify_parquet(folder / "out")
    assert problem.startswith("data/train-00000-of-00001.parquet: SHA-256 is not")


def test_verify_parquet__missing_cut_and_foreign_files(market: Path, tmp_path: Path) -> None:
    files = save_parquet(load_reid_dataset("market1501", market), tmp_path / "out", rows_per_shard=4)
    files[0].rename(files[0].with_name("train-99999-of-99999.parquet"))
    files[1].write_bytes(files[1].read_bytes()[:-1])
    assert [problem.split(" ", 1)[1][:15] for problem in verify_parquet(tmp_path / "out")] == [
        "is not listed i",
        "is missing",
        "expected " + f"{files[1].stat().st_size + 1:,}"[:6],
    ]
    (tmp_path / "out" / MANIFEST).write_text(json.dumps({"format": 2}))
    with pytest.raises(DatasetError, match="expected format 1, received 2"):
        verify_parquet(tmp_path / "out")
    with pytest.raises(DatasetError, match="is not a manifest"):
        verify_parquet(tmp_path)


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("2GB", 2 * 10**9), ("64kB", 64_000), ("1.5m", 1_500_000), ("7", 7)]
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "0", "-3MB", "3TBB", "1 2"])
def test_parse_size__rejects(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 500MB"):
        parse_size(text)


def test_to_parquet__converts_verifies_and_says_what_is_wrong(
    market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main([f"market1501={market}", "--output", out, "--verify"]) == 0
    assert "13 rows in 3 files" in capsys.readouterr().out
    assert main([f"market1501={market}", "--output", out]) == 2
    assert "exists; name a folder to be created" in capsys.readouterr().err
    assert main(["--output", out, "--verify"]) == 0
    (shard, *_) = (tmp_path / "out").rglob("query*.parquet")
    shard.write_bytes(b"\0" + shard.read_bytes()[1:])
    assert main(["--output", out, "--verify"]) == 1
    assert f"{shard.relative_to(out)}: SHA-256 is not" in capsys.readouterr().err
    assert main(["--output", str(tmp_path / "none"), "--verify"]) == 2
    assert main([f"market1501={tmp_path / 'none'}", "--output", str(tmp_path / "two")]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["--output", out])


def test_to_parquet__ctrl_c_is_one_line_and_the_same_command_goes_on(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C comes while the third shard is written; the two before it are not written again."""
    arguments = [f"market1501={market}", "--shard_size", "3kB", "--output"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    shards, written = parquet_module._embedded, []

    def interrupted(*args, **kwargs):
        written.append(args)
        if len(written) == 6:  # the first three estimate the size of each split
            signal.raise_signal(signal.SIGINT)
        return shards(*args, **kwargs)

    monkeypatch.setattr(parquet_module, "_embedded", interrupted)
    capsys.readouterr()
    out = tmp_path / "out"
    assert main([*arguments, str(out)]) == 130
    expected = "python -m mmet.data.to_parquet: stopped by Ctrl-C; the same command goes on after the last file\n"
    assert capsys.readouterr().err.endswith(expected)
    assert not out.exists()
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.partial").rglob("*.parquet")}
    assert main([*arguments, str(out)]) == 0
    assert _content(out) == _content(tmp_path / "whole")
    assert done
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["market", "out", "whole"]


@pytest.mark.slow
def test_to_parquet__kill_9_and_again(market: Path, tmp_path: Path) -> None:
    """A real kill, in the middle of the shards or not: what follows is the same."""
    command = [sys.executable, "-m", "mmet.data.to_parquet", f"market1501={market}", "--shard_size", "3kB", "--output"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    out = tmp_path / "out"
    process = subprocess.Popen([*command, str(out)], env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("out.partial/data/*.parquet")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not out.exists():  # the kill came in time
        subprocess.run([*command, str(out)], env=environment, check=True, capture_output=True)
    assert verify_parquet(out) == []
    assert sum(shard.rows for shard in shards_of(out)) == 13


def test_load__converted_folder_is_the_dataset(market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    original = load_reid_dataset("market1501", market)
    save_parquet(original, tmp_path / "out", rows_per_shard=4)
    loaded = load_reid_dataset("parquet", tmp_path / "out")
    assert set(loaded) == set(original)
    for split, rows in original.items():
        assert loaded[split].features == REID_FEATURES
        assert (
            loaded[split].remove_columns(["image", "person_mask"])[:]
            == rows.remove_columns(["image", "person_mask"])[:]
        )
        for row, expected in zip(loaded[split], rows, strict=True):
            assert row["image"].tobytes() == expected["image"].tobytes()


def test_load__trains_the_same_as_the_folder(market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    splits = load_reid_dataset("market1501", market)
    save_parquet(splits, tmp_path / "out", rows_per_shard=4)
    folder, shards = (
        TrainingDataset(paired=[rows["train"]]) for rows in (splits, load_reid_dataset("parquet", tmp_path / "out"))
    )
    assert shards.person_labels.tolist() == folder.person_labels.tolist()
    assert shards.domains()["identity"].tolist() == folder.domains()["identity"].tolist() == [0] * 10
    for index in range(10):
        draw = Draw("identity_image", index, seed=index)
        assert shards[draw].image.tobytes() == folder[draw].image.tobytes()
        assert shards[draw].image_path == folder[draw].image_path


def test_load__what_is_not_a_folder_of_shards(market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for root, message in ((market, r"no data/\*\.parquet"), (tmp_path / "none", "does not exist")):
        with pytest.raises(DatasetError, match=message):
            load_reid_dataset("parquet", root)
    files = save_parquet(load_reid_dataset("market1501", market), tmp_path / "out", rows_per_shard=4)
    assert len(read_reid_folder("parquet", tmp_path / "out").splits["train"]) == 10
    with pytest.raises(ValueError, match="parquet has no option 'train'"):
        load_reid_dataset("parquet", tmp_path / "out", train="train")
    content = files[0].read_bytes()
    files[0].write_bytes(content[:100])
    with pytest.raises(DatasetError, match="is not as it was written"):
        load_reid_dataset("parquet", tmp_path / "out")
    (tmp_path / "out" / MANIFEST).unlink()
    with pytest.raises(DatasetError, match=rf"cannot be read \({files[0].name}: Parquet magic bytes not found"):
        load_reid_dataset("parquet", tmp_path / "out")
    files[0].write_bytes(content[:4] + bytes(1_000) + content[1_004:])
    with pytest.raises(DatasetError, match=r"cannot be read \((?!An error occurred)"):
        load_reid_dataset("parquet", tmp_path / "out")
    files[0].unlink()
    files[0].mkdir()
    with pytest.raises(DatasetError, match=rf"cannot be read \({files[0].name}: not a regular file"):
        load_reid_dataset("parquet", tmp_path / "out")
    files[0].rmdir()
    for file in files:
        pq.write_table(datasets.Dataset.from_dict({"x": [1]}).data.table, file)
    with pytest.raises(DatasetError, match="has the columns x; expected image, person_id"):
        load_reid_dataset("parquet", tmp_path / "out")


def test_person_numbers__and_sampler_open_no_picture(tmp_path: Path) -> None:
    """The pictures' paths lead nowhere: whoever opened one would fail."""
    rows = 2_000
    table = datasets.Dataset.from_dict(
        {
            "image": ["/nowhere.jpg"] * rows,
            "person_id": [row // 4 for row in range(rows)],
            "camera_id": [0] * rows,
            "captions": [[]] * rows,
            "person_mask": [None] * rows,
            "image_path": [str(row) for row in range(rows)],
            "domain": ["b"] * 1_000 + ["a"] * 1_000,
        },
        features=REID_FEATURES,
    )
    dataset = TrainingDataset(paired=[table], image=[table.select([])])
    assert dataset.num_identities == 500
    assert dataset.domains()["identity"].tolist() == [1] * 1_000 + [0] * 1_000
    assert sorted(set(dataset.person_labels[:1_000].tolist())) == list(range(250, 500))  # a comes first
    sampler = MixedBatchSampler(
        dataset.sizes,
        mix={"identity_image": 1.0},
        batch_size=8,
        person_labels=dataset.person_labels,
        identity_shape=IdentityBatchShape(2, 4),
    )
    batch = [draw.index for draw, _ in zip(sampler, range(8), strict=False)]
    assert sorted({index // 4 for index in batch}) == sorted({batch[0] // 4, batch[4] // 4})


# -- shards of others -------------------------------------------------------------------------------------------------


def _shards(folder: Path, **columns: list | pa.Array) -> Path:
    """Two rows as somebody else may have written them."""
    picture = {"bytes": picture_bytes(), "path": None}
    rows = {
        "image": [picture, picture],
        "person_id": [1, 2],
        "camera_id": [1, 2],
        "captions": [["A man."], []],
        "person_mask": pa.array([None, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "image_path": ["a.jpg", "b.jpg"],
        "domain": ["shop", "shop"],
    }
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.table(rows | columns), folder / "data" / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"person_id": [1.0, 2.0]}, "column person_id holds double; expected whole numbers, or words"),
        ({"person_id": [1, None]}, "row 1: column person_id must be a whole number or a word, not ''"),
        ({"person_id": ["1", None]}, "row 1: column person_id must be a whole number or a word, not ''"),
        ({"person_id": ["1", "2.5"]}, "row 1: column person_id must be a whole number or a word, not '2.5'"),
        ({"person_id": [1, -2]}, "row 1: column person_id must be -1 or more, -2 is not"),
        ({"person_id": pa.array([1, 2**64 - 1], pa.uint64())}, "row 1: column person_id must fit into 64 bits"),
        ({"camera_id": [1, -5]}, "row 1: column camera_id must be -1 or more, -5 is not"),
        ({"camera_id": [True, False]}, "column camera_id holds bool"),
        ({"domain": ["shop", None]}, "column domain has rows without a value"),
        ({"image": ["a.jpg", "b.jpg"]}, "column image holds string; expected pictures with bytes and path"),
        ({"captions": [1, 2]}, "column captions cannot be read as"),
    ],
)
def test_load__rows_that_are_not_in_the_schema(tmp_path: Path, columns: dict, problem: str) -> None:
    with pytest.raises(DatasetError, match=problem):
        load_reid_dataset("parquet", _shards(tmp_path / "shards", **columns))


@pytest.mark.usefixtures("_own_cache")
def test_load__numbers_of_other_types_words_and_nulls(tmp_path: Path) -> None:
    columns = {"person_id": ["bob", "alice"], "camera_id": pa.array([3, None], pa.int32()), "captions": [None, ["A."]]}
    rows = load_reid_dataset("parquet", _shards(tmp_path / "shards", **columns))["train"]
    assert {name: rows.features[name] for name in REID_FEATURES} == REID_FEATURES
    assert (rows["person_id"][:], rows["person_name"][:]) == ([1, 0], ["bob", "alice"])
    assert (rows["camera_id"][:], rows["captions"][:]) == ([3, -1], [[], ["A."]])
    assert rows[0]["image"].size == (24, 48)
    numbers = load_reid_dataset("parquet", _shards(tmp_path / "numbers", person_id=["007", "12"]))["train"]
    assert (numbers["person_id"][:], "person_name" in numbers.column_names) == ([7, 12], False)


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("column", ["image", "person_mask"])
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize(
    "path", ["secret.jpg", "../secret.jpg", "http://localhost:1/a.jpg", "zip://a.jpg::{0}", "file://{0}", "hf://a/b"]
)
def test_load__paths_in_shards_are_never_opened(tmp_path: Path, column: str, absolute: bool, path: str) -> None:
    secret = add_picture(tmp_path / "secret.jpg")
    path = str(secret) if absolute and path == "secret.jpg" else path.format(secret)
    inside = {"bytes": picture_bytes(), "path": path}  # its bytes are there, so the path is a name alone
    shards = _shards(tmp_path / "shards", **{column: [inside, {"bytes": None, "path": path}]})
    with pytest.raises(DatasetError, match=rf"row 1: column {column} holds a path alone, .* paths are not followed"):
        load_reid_dataset("parquet", shards)


@pytest.mark.usefixtures("_own_cache")
def test_load__changed_bytes_under_the_same_size(market: Path, tmp_path: Path) -> None:
    """Also when the time of the change is set back, and after the folder was loaded once."""
    (file, *_) = save_parquet(load_reid_dataset("market1501", market), tmp_path / "out")
    load_reid_dataset("parquet", tmp_path / "out")
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DatasetError, match=r"is not as it was written(.|\n)*SHA-256 is not"):
        load_reid_dataset("parquet", tmp_path / "out")


@pytest.mark.usefixtures("_own_cache")
def test_load__checksums_are_compared_once(market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_parquet(load_reid_dataset("market1501", market), tmp_path / "out")
    load_reid_dataset("parquet", tmp_path / "out")
    monkeypatch.setattr(parquet_module, "sha256_of", lambda path: pytest.fail("read again"))
    load_reid_dataset("parquet", tmp_path / "out")


def test_load__words_of_a_folder_survive_the_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    add_picture(tmp_path / "shop" / "1.jpg")
    (tmp_path / "shop" / "annotations.csv").write_text("image,person_id\n1.jpg,alice\n")
    save_parquet(load_reid_dataset("folder", tmp_path / "shop"), tmp_path / "out")
    assert load_reid_dataset("parquet", tmp_path / "out")["train"]["person_name"][:] == ["alice"]


def test_read_manifest__nested_without_end(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(DatasetError, match=r"manifest\.json: nested too deep"):
        verify_parquet(tmp_path)


@pytest.mark.usefixtures("_own_cache")
def test_load__a_readme_leads_nowhere(tmp_path: Path) -> None:
    """`datasets` itself would load what it names."""
    elsewhere = _shards(tmp_path / "elsewhere [1]", image_path=["c.jpg", "d.jpg"])
    shards = _shards(tmp_path / "shards")
    pattern = str(tmp_path / "elsewhere*" / "data" / "*.parquet")
    (shards / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: '{pattern}'\n---\n")
    assert load_reid_dataset("parquet", shards)["train"]["image_path"][:] == ["a.jpg", "b.jpg"]
    assert load_reid_dataset("parquet", elsewhere)["train"]["image_path"][:] == ["c.jpg", "d.jpg"]


@pytest.mark.parametrize("field", [{"rows": "a|b"}, {"rows": -1}, {"bytes": 1.5}, {"sha256": None}, {"file": []}])
def test_read_manifest__fields_of_another_type(tmp_path: Path, field: dict) -> None:
    shard = {"file": "data/a.parquet", "split": "train", "rows": 1, "bytes": 1, "sha256": "0"}
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 1, "fingerprint": "", "shards": [{**shard, **field}]}))
    with pytest.raises(DatasetError, match=rf"is not a manifest of Parquet shards \({next(iter(field))}: expected"):
        verify_parquet(tmp_path)
