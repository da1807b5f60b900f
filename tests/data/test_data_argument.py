"""`name=folder?option=value`: what is read, what is refused, and options of a spec in general."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmet.data import DataArgument, ReidOption, get_spec, parse_data_argument, read_reid_folder


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
        ("cuhk03=/d?split=0", "option split must be a whole number from 1, got 0"),
        ("cuhk03=/d?split=one", "option split must be a whole number from 1, got 'one'"),
        ("cuhk03=/d?split=" + "9" * 5000, "option split must be a whole number"),
        ("market1501=/d?allow_partial=yes", "option allow_partial must be true or false, got 'yes'"),
        ("market1501=?allow_partial=true", "expected name=folder"),
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
