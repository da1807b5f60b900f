"""Which items a protocol takes and which true matches it leaves."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from mmet.data.schema import REID_FEATURES, DatasetError
from mmet.evaluation import PROTOCOLS, build_task, prepare_tasks, select_items, standard_pairs


def matched_images(task, query):
    """Rows of the images that are true matches of query number `query`."""
    return task.gallery.image_index[task.matches().of_query(query)].tolist()


def test_build_task__market_drops_junk_keeps_distractors_and_excludes_own_camera(market_dataset):
    task = build_task(market_dataset, "image", "image")
    assert task.protocol == "market"
    assert task.gallery.person_ids.tolist() == [1, 1, 2, 3, 0]
    assert matched_images(task, 0) == [1]  # image 0 is of the query's own camera
    assert matched_images(task, 1) == [2]


def test_build_task__no_camera_excludes_nothing(market_dataset):
    task = build_task(market_dataset, "image", "image", "no-camera")
    assert (task.query_exclusion_ids, task.gallery_exclusion_ids) == (None, None)
    assert matched_images(task, 0) == [0, 1]


def test_build_task__text_to_image_keeps_the_captions_own_image(text_dataset):
    task = build_task(text_dataset, "text", "image")
    assert task.protocol == "text-to-image"
    assert (len(task.query), len(task.gallery)) == (9, 6)
    assert task.query.image_index.tolist() == [0, 0, 1, 2, 2, 2, 3, 5, 5]
    assert task.query.caption_index.tolist() == [0, 1, 0, 0, 1, 2, 0, 0, 1]
    assert matched_images(task, 0) == [0, 1]


@pytest.mark.parametrize(
    ("query", "gallery", "sizes", "matches_of_first"),
    [
        ("image", "image", (6, 6), [1]),
        ("text", "text", (9, 9), [1]),
        ("both", "both", (9, 9), [1]),
        ("image", "text", (6, 9), [1]),
        ("both", "image", (9, 6), [1]),
    ],
)
def test_build_task__leave_one_image_out_removes_all_of_the_own_image(
    text_dataset, query, gallery, sizes, matches_of_first
):
    task = build_task(text_dataset, query, gallery)
    assert task.protocol == "leave-one-image-out"
    assert (len(task.query), len(task.gallery)) == sizes
    assert matched_images(task, 0) == matches_of_first


def test_build_task__leave_one_image_out_knows_a_file_that_is_listed_twice(text_dataset):
    test = text_dataset["test"]
    twice = DatasetDict(test=concatenate_datasets([test, test.select([0])]))
    task = build_task(twice, "image", "image")
    assert matched_images(task, 0) == [1]  # not row 6, which is the same file


def test_build_task__leave_one_image_out_of_pictures_without_names(text_dataset):
    """Pictures in memory have no path: each is a picture of its own."""
    nameless = text_dataset["test"].remove_columns("image_path").add_column("image_path", [""] * 6)
    task = build_task(DatasetDict(test=nameless), "image", "image")
    assert [matched_images(task, number) for number in range(6)] == [[1], [0], [3], [2], [5], [4]]


def test_build_task__pictures_without_names_of_two_splits_are_different(text_dataset):
    nameless = text_dataset["test"].remove_columns("image_path").add_column("image_path", [""] * 6)
    splits = DatasetDict(query=nameless, gallery=nameless.select([2, 3]))
    task = build_task(splits, "image", "image", "market")
    assert [matched_images(task, number) for number in range(6)] == [[], [], [0, 1], [0, 1], [], []]


def test_standard_pairs(market_dataset, text_dataset):
    assert standard_pairs(market_dataset) == (("image", "image"),)
    assert standard_pairs(text_dataset) == (
        ("text", "image"),
        ("both", "both"),
        ("image", "image"),
        ("text", "text"),
    )


@pytest.mark.parametrize("modality", ["text", "both"])
def test_build_task__captions_where_there_are_none(market_dataset, modality):
    with pytest.raises(DatasetError, match=f"'query' has no captions, which '{modality}' items need.*image→image"):
        build_task(market_dataset, modality, "image")


@pytest.mark.parametrize("protocol", ["market", "market-matlab", "cuhk03-np"])
def test_build_task__images_of_one_camera_explain_themselves(market_dataset, protocol):
    one_camera = market_dataset.map(lambda row: {"camera_id": 4})
    with pytest.raises(
        ValueError, match=r"all images are from camera 4, and protocol '.*'.*Choose protocol 'no-camera'"
    ):
        build_task(one_camera, "image", "image", protocol)
    assert len(build_task(one_camera, "image", "image", "no-camera").query) == 3


def test_build_task__each_person_in_a_camera_of_its_own_explains_itself(market_dataset):
    own_camera = market_dataset.map(lambda row: {"camera_id": row["person_id"] + 5})
    with pytest.raises(ValueError, match=r"no person is seen by two cameras.*'no-camera'"):
        build_task(own_camera, "image", "image")


@pytest.mark.parametrize(
    ("name", "ap", "denominator"),
    [
        ("market", "mean-precision", "valid"),
        ("market-matlab", "trapezoid", "all"),
        ("cuhk03-np", "mean-precision", "valid"),
        ("no-camera", "mean-precision", "valid"),
        ("text-to-image", "mean-precision", "valid"),
    ],
)
def test_describe__says_what_decides_the_figures(name, ap, denominator):
    words = PROTOCOLS[name].describe()
    assert json.loads(json.dumps(words)) == words
    assert (words["name"], words["ap"], words["denominator"]) == (name, ap, denominator)
    assert words["junk"].startswith("person -1")
    assert words["gallery"] == "all entries"
    assert ("same camera" in words["removed_from_gallery"]) == (name in ("market", "market-matlab", "cuhk03-np"))


def test_describe__single_shot():
    assert "10 draws (seed 0)" in PROTOCOLS["cuhk03-classic"].describe()["gallery"]


def test_build_task__classic_cuhk03_has_one_hundred_persons(market_dataset):
    with pytest.raises(ValueError, match=r"100 test persons.*received 3 and 4.*'cuhk03-np'.*'market'"):
        build_task(market_dataset, "image", "image", "cuhk03-classic")


@pytest.mark.parametrize(
    ("query", "gallery", "protocol", "message"),
    [
        ("sound", "image", None, "modality out of image, text, both, received 'sound'"),
        ("image", "image", "markt", "protocol out of market, .*received 'markt'"),
        ("image", "image", "text-to-image", "defined for text→image, received image→image"),
        ("image", "image", "market", "expects the splits 'query' and 'gallery', received test"),
    ],
)
def test_build_task__rejects_what_is_not_defined(text_dataset, query, gallery, protocol, message):
    with pytest.raises(ValueError, match=message):
        build_task(text_dataset, query, gallery, protocol)


def test_build_task__one_split_that_is_missing_is_named_once(market_dataset):
    with pytest.raises(DatasetError, match="expects the split 'test', received"):
        build_task(market_dataset, "text", "image", "text-to-image")


def test_build_task__training_data_only(text_dataset):
    with pytest.raises(DatasetError, match="the dataset has train"):
        build_task(DatasetDict(train=text_dataset["test"]), "image", "image")


def test_select_items__only_junk(market_dataset):
    junk = market_dataset["gallery"].select([4])
    with pytest.raises(DatasetError, match="'gallery' has no image of a person"):
        select_items(junk, "gallery", "image")


def rows_without_cameras(*rows, cameras=None):
    """Rows of (picture, person), of unknown cameras unless some are given."""
    count = len(rows)
    columns = {
        "image": [None] * count,
        "person_id": [person for _, person in rows],
        "camera_id": cameras or [-1] * count,
        "captions": [[]] * count,
        "person_mask": [None] * count,
        "image_path": [path for path, _ in rows],
        "domain": ["test"] * count,
    }
    return Dataset.from_dict(columns, features=REID_FEATURES)


def test_build_task__own_picture_is_no_match_where_cameras_are_unknown():
    query = rows_without_cameras(("a", 1), ("b", 1), ("x", 2))
    gallery = rows_without_cameras(("y", 2), ("a", 1), ("c", 1))
    task = build_task(DatasetDict(query=query, gallery=gallery), "image", "image")
    assert [matched_images(task, number) for number in range(3)] == [[2], [1, 2], [0]]
    order = [2, 0, 1]
    task = build_task(DatasetDict(query=query, gallery=gallery.select(order)), "image", "image")
    assert [[order[place] for place in matched_images(task, number)] for number in range(3)] == [[2], [2, 1], [0]]


def test_build_task__known_cameras_are_not_changed_by_pictures_of_unknown_ones():
    query = rows_without_cameras(("a", 1), ("b", 1), cameras=[-1, 3])
    gallery = rows_without_cameras(("a", 1), ("b", 1), ("c", 1), ("d", 1), cameras=[-1, 3, 3, -1])
    task = build_task(DatasetDict(query=query, gallery=gallery), "image", "image")
    assert [matched_images(task, number) for number in range(2)] == [[1, 2, 3], [0, 3]]


def test_standard_pairs__test_split_without_captions_is_searched_by_pictures():
    """As VIPeR is: each picture is query and gallery."""
    dataset = DatasetDict(test=rows_without_cameras(("a", 1), ("b", 1), ("c", 2), ("d", 2)))
    assert standard_pairs(dataset) == (("image", "image"),)
    (task,) = prepare_tasks(dataset)
    assert task.protocol == "leave-one-image-out"
    assert [matched_images(task, number) for number in range(4)] == [[1], [0], [3], [2]]


def test_build_task__pictures_of_unknown_cameras_are_no_cameras_of_others():
    """The first pictures there are, which are query and gallery both, beside known cameras 0 and 1."""
    query = rows_without_cameras(("a", 1), ("b", 1), ("c", 1), ("z", 1))
    gallery = rows_without_cameras(("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1), cameras=[-1, -1, -1, 0, 1])
    task = build_task(DatasetDict(query=query, gallery=gallery), "image", "image")
    assert [matched_images(task, number) for number in range(4)] == [
        [1, 2, 3, 4],
        [0, 2, 3, 4],
        [0, 1, 3, 4],
        [0, 1, 2, 3, 4],
    ]
    assert task.query_exclusion_ids[3] == -1  # what is only asked for stays of an unknown camera


def test_build_task__pictures_without_names_are_pictures_of_their_own():
    """In one split a row is the same picture as itself, in two splits none is the same as another."""
    rows = rows_without_cameras(("", 1), ("", 1), ("", 1))
    alone = build_task(DatasetDict(test=rows), "image", "image")
    assert [matched_images(alone, number) for number in range(3)] == [[1, 2], [0, 2], [0, 1]]
    both = build_task(
        DatasetDict(query=rows, gallery=rows_without_cameras(("", 1), ("", 1), ("", 1))), "image", "image"
    )
    assert [matched_images(both, number) for number in range(3)] == [[0, 1, 2]] * 3


def test_build_task__classic_cuhk03_wants_as_many_persons_in_the_gallery():
    persons = [(f"{person}.png", person) for person in range(1, 101)]
    query = rows_without_cameras(*persons, cameras=[1] * 100)
    other = [(f"other-{name}", person) for name, person in persons]
    whole = DatasetDict(query=query, gallery=rows_without_cameras(*other, cameras=[2] * 100))
    assert len(build_task(whole, "image", "image", "cuhk03-classic").gallery) == 100
    fewer = DatasetDict(query=query, gallery=rows_without_cameras(*other[:99], cameras=[2] * 99))
    with pytest.raises(ValueError, match="received 100 and 99"):
        build_task(fewer, "image", "image", "cuhk03-classic")


def test_select_items__junk_takes_its_captions_with_it():
    rows = rows_without_cameras(("a", -1), ("b", 1), ("c", 2)).remove_columns("captions")
    rows = rows.add_column("captions", [["x", "y", "z"], ["u"], ["v", "w"]])
    items = select_items(rows, "test", "text")
    assert items.image_index.tolist() == [1, 2, 2]
    assert items.caption_index.tolist() == [0, 0, 1]
    assert items.person_ids.tolist() == [1, 2, 2]
