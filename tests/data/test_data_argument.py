"""`name=folder?option=value`: what is read, what is refused, and options of a spec in general."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reid_trees import add_picture

from mmet.data import (
    DataArgument,
    DatasetError,
    ReidOption,
    distinct_labels,
    get_spec,
    load_reid_dataset,
    load_sources,
    load_training_splits,
    parse_data_argument,
    parse_data_arguments,
    read_reid_folder,
    save_parquet,
)
from mmet.training.dataset import TrainingDataset


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("msmt17=/d/MSMT17", ("msmt17", Path("/d/MSMT17"), {})),
        ("msmt17=/d/MSMT17?train=train+val", ("msmt17", Path("/d/MSMT17"), {"train": "train+val"})),
        ("cuhk03=/d?boxes=labeled&split=20", ("cuhk03", Path("/d"), {"boxes": "labeled", "split": 20})),
        ("market1501=/d?allow_partial=True", ("market1501", Path("/d"), {"allow_partial": True})),
        ("finegpr=/d?", ("finegpr", Path("/d"), {})),
        ("folder=/d?pattern=(?P<person_id>a=b)", ("folder", Path("/d"), {"pattern": "(?P<person_id>a=b)"})),
    ],
)
def test_parse__options(argument: str, expected: tuple[str, Path, dict[str, Any]]) -> None:
    assert parse_data_argument(argument) == expected


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("msmt17=/d?train=val", r"msmt17=/d\?train=val: option train must be train\+val or train, got 'val'"),
        ("msmt17=/d?boxes=labeled", "there is no option 'boxes'; there is: train, allow_partial"),
        ("msmt17=/d?train", "expected option=value behind the question mark, got 'train'"),
        ("msmt17=/d?train=train&train=train", "option train is given twice"),
        (
            "finegpr=/d?captions_per_image=1000000",
            "captions_per_image must be a whole number from 1 to 100, got 1000000",
        ),
        ("cuhk03=/d?split=0", "option split must be a whole number from 1 to 4294967295, got 0"),
        ("cuhk03=/d?split=one", "option split must be a whole number from 1 to 4294967295, got 'one'"),
        ("cuhk03=/d?split=" + "9" * 5000, "option split must be a whole number"),
        ("market1501=/d?allow_partial=yes", "option allow_partial must be true or false, got 'yes'"),
        ("market1501=?allow_partial=true", "expected name=folder"),
        ("market1501=/d\0x", "received one that holds a NUL"),
        ("market1501@=/d", "expected name@alias=folder"),
        ("market1501@a|b=/d", "expected name@alias=folder"),
        ("market1501@ =/d", "expected name@alias=folder"),
    ],
)
def test_parse__refused_options_say_what_is_allowed(argument: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_data_argument(argument)


@given(
    st.sampled_from(["train", "train+val"]),
    st.booleans(),
    st.text(st.characters(codec="ascii", exclude_characters="?\0/"), min_size=1).filter(str.strip),
)
def test_str__reads_back(train: str, allow_partial: bool, name: str) -> None:
    argument = DataArgument("msmt17", Path(f"/d/{name}x"), {"train": train, "allow_partial": allow_partial})
    assert parse_data_argument(str(argument)) == argument


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"trian": "train"}, "msmt17 has no option 'trian'; it has: train"),
        ({"train": "val"}, r"msmt17: option train must be train\+val or train, got 'val'"),
        ({"train": True}, r"msmt17: option train must be train\+val or train, got True"),
    ],
)
def test_read__options_as_keywords_are_checked(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_reid_folder("msmt17", tmp_path, **options)


def test_option__whole_numbers_are_not_booleans() -> None:
    option = ReidOption("n", 1, "a number", minimum=1)
    assert option.check(3) == 3
    for value in (True, 0, "3", 1.0):
        with pytest.raises(ValueError, match="must be a whole number from 1"):
            option.check(value)


def test_every_default_is_allowed() -> None:
    from mmet.data import dataset_names

    for name in dataset_names():
        spec = get_spec(name)
        assert spec.complete_options({}) == {option.name: option.default for option in spec.options}


# -- names of sources -------------------------------------------------------------------------------------------------


def _labels(*arguments: str) -> list[str]:
    (parsed,) = parse_data_arguments(arguments)
    return distinct_labels(parsed)


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["market1501=/a/x"], ["market1501"]),
        (["market1501=/a/x", "msmt17=/b/x"], ["market1501", "msmt17"]),
        (["market1501=/d/A", "market1501=/d/B"], ["market1501@A", "market1501@B"]),
        (["folder=/a/shopA/crops", "folder=/a/shopB/crops"], ["shopA/crops", "shopB/crops"]),
        (["folder=/a/crops", "folder=/b/others"], ["crops", "others"]),
        (["folder=/a/crops", "folder=/a/crops"], ["folder", "folder"]),
        (["market1501@one=/d/A", "market1501=/d/B"], ["one", "market1501"]),
        (["folder@crops=/x", "folder=/y/crops"], ["crops", "y/crops"]),
        (["market1501=/d/A", "market1501=/d/../d/A/"], ["market1501", "market1501"]),
        (["market1501@one=/d/A", "market1501@one=/d/B"], ["one@A", "one@B"]),
        (
            ["cuhk03=/d?boxes=labeled", "cuhk03=/d?boxes=detected", "cuhk03=/d"],
            ["cuhk03?boxes=labeled", "cuhk03?boxes=detected", "cuhk03"],
        ),
    ],
)
def test_labels__tell_sources_apart(arguments: list[str], labels: list[str]) -> None:
    assert _labels(*arguments) == labels


def test_sources__names_are_those_of_all_lists_together() -> None:
    paired, image = parse_data_arguments(["folder=/a/crops"], ["folder=/b/crops", "folder=/a/crops"])
    assert [argument.options["domain"] for argument in [*paired, *image]] == ["a/crops", "b/crops", "a/crops"]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=6))
def test_sources__different_folders_never_share_a_name(paths: list[list[str]]) -> None:
    (parsed,) = parse_data_arguments([f"folder=/{'/'.join(path)}" for path in paths])
    names = {argument.options.get("domain", argument.root.name): set() for argument in parsed}
    for argument in parsed:
        names[argument.options.get("domain", argument.root.name)].add(argument.folder)
    assert all(len(folders) == 1 for folders in names.values())
    assert len(names) == len({argument.folder for argument in parsed})
    for argument in parsed:
        assert parse_data_argument(str(argument)) == argument


def _shop(folder: Path) -> Path:
    for person in range(3):
        add_picture(folder / f"{person}_c1.jpg")
    return folder


PATTERN = r"?pattern=(?P<person_id>\d+)_c"


def test_sources__persons_of_two_folders_are_six(tmp_path: Path) -> None:
    roots = [_shop(tmp_path / name / "crops") for name in ("shopA", "shopB")]
    (arguments,) = parse_data_arguments([f"folder={root}{PATTERN}" for root in [*roots, roots[0]]])
    sources = [splits["train"] for splits in load_sources(arguments)]
    assert [source["domain"][0] for source in sources] == ["shopA/crops", "shopB/crops", "shopA/crops"]
    assert sources[0] is sources[2]
    dataset = TrainingDataset(paired=sources)
    assert dataset.num_identities == 6
    assert dataset.person_labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]


def test_load_training_splits__a_source_without_one_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        add_picture(tmp_path / split / "a.png")
        (tmp_path / split / "annotations.csv").write_text(f"image,person_id,split\na.png,1,{split}\n")
    trained, other = (parse_data_argument(f"folder={tmp_path / split}") for split in ("train", "test"))
    assert [len(split) for split in load_training_splits([trained, trained])] == [1, 1]
    with pytest.raises(DatasetError, match=r"folder=.*test has no training split, only test"):
        load_training_splits([trained, other])


def test_load_sources__tells_arguments_apart_that_were_parsed_one_by_one(tmp_path: Path) -> None:
    roots = [_shop(tmp_path / name / "crops") for name in ("shopA", "shopB")]
    sources = load_sources([parse_data_argument(f"folder={root}{PATTERN}") for root in roots])
    assert [splits["train"]["domain"][0] for splits in sources] == ["shopA/crops", "shopB/crops"]


def test_sources__one_alias_makes_them_one(tmp_path: Path) -> None:
    roots = [_shop(tmp_path / name / "crops") for name in ("shopA", "shopB")]
    (arguments,) = parse_data_arguments([f"folder@shop={root}{PATTERN}" for root in roots])
    dataset = TrainingDataset(paired=[splits["train"] for splits in load_sources(arguments)])
    assert dataset.num_identities == 3


def test_sources__parquet_beside_another_source_of_its_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shop = _shop(tmp_path / "shop")
    options = parse_data_argument(f"folder={shop}{PATTERN}").options
    save_parquet(load_reid_dataset("folder", shop, **options), tmp_path / "shards")
    (alone,) = parse_data_arguments([f"parquet={tmp_path / 'shards'}"])
    assert load_sources(alone)[0]["train"].unique("domain") == ["shop"]
    (both,) = parse_data_arguments([f"parquet={tmp_path / 'shards'}", f"folder={shop}{PATTERN}"])
    assert [splits["train"].unique("domain") for splits in load_sources(both)] == [["parquet@shards"], ["shop"]]
    assert "If one is a copy of the other, give both the same name" in caplog.text
    (source,) = parse_data_arguments([f"parquet@shop={tmp_path / 'shards'}", f"folder@shop={shop}{PATTERN}"])
    assert [splits["train"].unique("domain") for splits in load_sources(source)] == [["shop"], ["shop"]]


def test_sources__words_that_are_numbered_anew_in_another_table_are_refused(tmp_path: Path) -> None:
    for number, who in enumerate(("alice", "bob")):
        add_picture(tmp_path / "shop" / f"{number}.jpg")
        (tmp_path / "shop" / f"{number}.csv").write_text(f"image,person_id\n{number}.jpg,{who}\n")
    written = [f"folder={tmp_path / 'shop'}?annotations={number}.csv" for number in (0, 1)]
    (arguments,) = parse_data_arguments(written)
    with pytest.raises(DatasetError, match=r"person 0 of shop is alice in one source and bob in another"):
        load_sources(arguments)
    (arguments,) = parse_data_arguments([written[0], written[1].replace("folder=", "folder@other=")])
    assert [splits["train"]["domain"][0] for splits in load_sources(arguments)] == ["shop", "other"]
