"""Sentences from FineGPR's attributes: what they say, that they vary, that a seed decides them; the attribute file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reid_trees import add_picture, make_finegpr

from mmet.data import DatasetError, load_reid_dataset, read_reid_folder
from mmet.data.finegpr import read_attributes
from mmet.data.finegpr_captions import ATTRIBUTE_VALUES, Conditions, attribute_value, write_caption
from mmet.data.synthetic import identity

ATTRIBUTES = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in ATTRIBUTE_VALUES.items()})
CONDITIONS = st.builds(Conditions.of, st.integers(1, 36), st.integers(1, 7), st.integers(1, 7))
WOMAN = {
    "gender": "female",
    "hair": "long",
    "age": "adult",
    "glasses": "no",
    "short_sleeve": "yes",
    "dress": "no",
    "boots": "yes",
    "hat": "no",
    "bag": "yes",
    "top_length": "short",
    "shoes": "dark",
    "upper_color": "red",
    "lower_color": "blue",
}
HEADER = "id," + ",".join(ATTRIBUTE_VALUES)


def test_values_are_those_that_the_synthetic_world_writes() -> None:
    assert identity.ATTRIBUTE_VALUES == ATTRIBUTE_VALUES


@given(ATTRIBUTES, CONDITIONS, st.integers(0, 2**32))
def test_write_caption__says_everything_in_one_sentence(
    attributes: dict[str, str], conditions: Conditions, seed: int
) -> None:
    text = write_caption(attributes, conditions, np.random.default_rng(seed))
    assert text == write_caption(attributes, conditions, np.random.default_rng(seed))
    assert text[0].isupper()
    assert text.endswith(".")
    assert "  " not in text
    assert len(text.split()) < 70
    for word in (attributes["upper_color"], attributes["lower_color"], f"{attributes['hair']} hair", conditions.light):
        assert word in text
    assert ("no glasses" in text) == (attributes["glasses"] == "no")
    assert ("no hat" in text) == (attributes["hat"] == "no")
    assert ("no bag" in text) == (attributes["bag"] == "no")
    assert ("dress" in text) == (attributes["dress"] == "yes")
    assert (" boots" in text) == (attributes["boots"] == "yes")
    female = re.search(r"\b(?:female|woman|girl)\b", text) is not None
    male = re.search(r"\b(?:male|man|boy)\b", text) is not None
    assert (female, male) == (attributes["gender"] == "female", attributes["gender"] == "male")


def test_write_caption__order_and_wording_change() -> None:
    rng = np.random.default_rng(0)
    texts = [write_caption(WOMAN, Conditions.of(28, 1, 3), rng) for _ in range(300)]
    assert len(set(texts)) > 200
    assert len({text.split()[0] for text in texts}) >= 4  # frames
    for first, second in (("red", "blue"), ("glasses", "bag"), ("boots", "red"), ("forenoon", "front")):
        share = np.mean([text.index(first) < text.index(second) for text in texts])
        assert 0.2 < share < 0.8


@pytest.mark.parametrize(
    ("camera", "side"), [(28, "front"), (1, "right"), (10, "back"), (19, "left"), (32, "front"), (33, "right")]
)
def test_conditions__viewpoints(camera: int, side: str) -> None:
    """c01 = 90 degrees, c10 = 180, c19 = 270, c28 = 0, and every 10 degrees between."""
    assert Conditions.of(camera, 1, 1).side == side


@pytest.mark.parametrize("codes", [(0, 1, 1), (37, 1, 1), (1, 8, 1), (1, 1, 8), (1, 0, 1)])
def test_conditions__codes_that_are_none(codes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"code [cwl] must be from 1 to"):
        Conditions.of(*codes)


def test_attribute_value__words_and_codes() -> None:
    assert [attribute_value("age", written) for written in ("01", "2", " Older ")] == ["teenager", "adult", "older"]
    for written in ("0", "4", "young", "", "²", "-1"):
        with pytest.raises(ValueError, match="must be one of teenager, adult, older or a code from 1 to 3"):
            attribute_value("age", written)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    names = ["0001_c28_w01_l03_p01.jpg", "0001_c10_w01_l03_p01.jpg", "0002_c28_w01_l03_p01.jpg"]
    home = make_finegpr(tmp_path / "FineGPR_Dataset", names)
    (home / "attributes.csv").write_text(f"{HEADER}\n0001,{','.join(WOMAN.values())}\n")
    return home


def test_finegpr__captions_from_attributes(home: Path) -> None:
    (home / "FineGPR-C.json").write_text('{"0001_c28_w01_l03_p01.jpg": "From the file."}')
    folder = read_reid_folder("finegpr", home, captions="attributes", captions_per_image=3)
    first, second, third = folder.splits["train"]
    assert [len(image.captions) for image in (first, second, third)] == [3, 3, 0]
    assert all("back" in caption for caption in first.captions)
    assert all("front" in caption for caption in second.captions)
    assert [(skip.path, skip.reason) for skip in folder.skipped] == [
        ("person 0002", "not in attributes.csv, no caption")
    ]
    add_picture(home / "FineGPR" / "0000" / "0000_c01_w01_l01_p01.jpg")
    again = read_reid_folder("finegpr", home, captions="attributes", captions_per_image=3)
    assert again.splits["train"][1].captions == first.captions  # whatever other pictures there are
    other = read_reid_folder("finegpr", home, captions="attributes", captions_per_image=3, caption_seed=1)
    assert other.splits["train"][1].captions != first.captions
    assert read_reid_folder("finegpr", home).splits["train"][2].captions == ("From the file.",)
    assert load_reid_dataset("finegpr", home, captions="none")["train"]["captions"][:] == [[]] * 4


def test_finegpr__no_attribute_file(home: Path) -> None:
    (home / "attributes.csv").unlink()
    with pytest.raises(DatasetError, match=r"captions=attributes needs .*attributes\.csv, which is not there"):
        read_reid_folder("finegpr", home, captions="attributes")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (["1," + ",".join(["x", *list(WOMAN.values())[1:]])], "line 2: field 'gender' must be one of male, female"),
        (["1,female"], "line 2: has no field 'hair'"),
        (["one," + ",".join(WOMAN.values())], "line 2: field 'id' must be a whole number"),
        (["1," + ",".join(WOMAN.values())] * 2, "line 3: person 1 has a row already"),
        ([], "holds no attributes"),
    ],
)
def test_read_attributes__malformed(tmp_path: Path, rows: list[str], problem: str) -> None:
    path = tmp_path / "attributes.csv"
    path.write_text("\n".join([HEADER, *rows]))
    with pytest.raises(DatasetError, match=rf"attributes\.csv: {problem}"):
        read_attributes(path)


def test_read_attributes__codes(tmp_path: Path) -> None:
    path = tmp_path / "attributes.csv"
    codes = [f"{values.index(WOMAN[name]) + 1:02d}" for name, values in ATTRIBUTE_VALUES.items()]
    path.write_text(f"{HEADER}\n0007,{','.join(codes)}\n")
    assert read_attributes(path) == {7: WOMAN}


def test_finegpr__keypoints_are_counted(home: Path) -> None:
    for name in ("0001/0001_c28_w01_l03_p01.json", "0009/0009_c28_w01_l03_p01.json", "0001/._x.json"):
        path = home / "FineGPR_keypoints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    folder = read_reid_folder("finegpr", home)
    assert "FineGPR_keypoints has keypoints of 1 pictures; they are not read" in folder.notes
    assert len(folder.splits["train"]) == 3
