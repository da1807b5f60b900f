"""The training set: which rows make which examples, how persons are numbered, and that a draw decides everything."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from mmet.data.schema import REID_FEATURES, DatasetError
from mmet.training.augmentation import PersonAugmentation
from mmet.training.dataset import TrainingDataset, TrainingSample
from mmet.training.sampling import Draw, IdentityBatchShape, MixedBatchSampler


def source(
    domain: str,
    person_ids: list[int],
    captions: list[list[str]],
    masks: bool = True,
) -> datasets.Dataset:
    """One row per person id; the red channel of a picture is its row number, its mask covers the left half."""
    half = Image.new("L", (12, 24))
    half.paste(255, (0, 0, 6, 24))
    return datasets.Dataset.from_dict(
        {
            "image": [Image.new("RGB", (12, 24), (row, 50, 50)) for row in range(len(person_ids))],
            "person_id": person_ids,
            "camera_id": [-1] * len(person_ids),
            "captions": captions,
            "person_mask": [half if masks else None] * len(person_ids),
            "image_path": [f"{domain}/{row}.png" for row in range(len(person_ids))],
            "domain": [domain] * len(person_ids),
        },
        features=REID_FEATURES,
    )


@pytest.fixture
def first() -> datasets.Dataset:
    return source("first", [7, 7, 3, -1, 9], [["a", "b"], [], ["c"], ["d"], ["", " "]])


@pytest.fixture
def second() -> datasets.Dataset:
    return source("second", [7, 8], [["e"], ["f", "", "g"]], masks=False)


def test_persons_are_numbered_over_all_paired_sources(first: datasets.Dataset, second: datasets.Dataset) -> None:
    dataset = TrainingDataset(paired=[first, second])
    assert dataset.person_labels.tolist() == [1, 1, 0, -100, 2, 3, 4]
    assert dataset.num_identities == 5


def test_the_same_domain_in_two_sources_is_numbered_once(first: datasets.Dataset) -> None:
    dataset = TrainingDataset(paired=[first.select([0, 2]), first.select([4, 1])])
    assert dataset.person_labels.tolist() == [1, 0, 2, 1]
    assert dataset.num_identities == 3


def test_captionless_rows_are_left_out(first: datasets.Dataset, second: datasets.Dataset) -> None:
    dataset = TrainingDataset(paired=[first, second], text=[first])
    assert dataset.sizes == {"paired": 5, "identity": 7, "identity_image": 7, "image": 0, "text": 3}
    paths = [dataset[Draw("paired", index, 0)].image_path for index in range(5)]
    assert paths == ["first/0.png", "first/2.png", "first/3.png", "second/0.png", "second/1.png"]
    assert len(dataset) == 7 + 0 + 5 - 2


def test_samples_of_every_kind(first: datasets.Dataset, second: datasets.Dataset) -> None:
    dataset = TrainingDataset(paired=[first, second], image=[second], text=[second])
    paired = dataset[Draw("paired", 1, 5)]
    assert (paired.kind, paired.seed, paired.caption, paired.person_label) == ("paired", 5, "c", 0)
    assert paired.image is not None
    assert paired.image[0, 0].tolist() == [2, 50, 50]
    assert paired.person_mask is not None
    assert np.asarray(paired.person_mask).mean() == pytest.approx(127.5)
    captionless = dataset[Draw("identity", 1, 5)]
    assert (captionless.caption, captionless.person_label, captionless.person_mask) == (None, 1, None)
    assert captionless.image is not None
    image = dataset[Draw("image", 1, 5)]
    assert (image.caption, image.person_mask, image.person_label, image.image_path) == (None, None, 4, "second/1.png")
    text = dataset[Draw("text", 0, 5)]
    assert (text.caption, text.image, text.person_label) == ("e", None, -100)


def test_image_sources_share_the_numbering__those_of_pairs_come_first(
    first: datasets.Dataset, second: datasets.Dataset
) -> None:
    dataset = TrainingDataset(paired=[first], image=[second, first])
    labels = [dataset[Draw("image", index, 0)].person_label for index in range(7)]
    assert labels == [3, 4, 1, 1, 0, -100, 2]
    assert dataset.num_identities == 5
    assert dataset.count_identities(["identity"]) == 3
    assert dataset.count_identities(["identity", "identity_image"]) == 5
    assert dataset.count_identities([]) == 0


def test_identity_images_come_from_pairs_and_images__each_picture_once(
    first: datasets.Dataset, second: datasets.Dataset
) -> None:
    parts = [first.select([0, 2]), first]  # the second holds the first's pictures again
    dataset = TrainingDataset(paired=parts[:1], image=[second, parts[1], first.select([1]), parts[0]])
    persons = dataset.persons()
    assert persons["identity"].tolist() == [1, 0]
    assert persons["identity_image"].tolist() == [1, 0, 2, 3, 1, -100, 4]
    assert dataset.sizes["identity_image"] == 7
    samples = [dataset[Draw("identity_image", index, 0)] for index in range(7)]
    assert [sample.image_path for sample in samples] == [
        *("first/0.png", "first/2.png", "second/0.png", "second/1.png"),
        *("first/1.png", "first/3.png", "first/4.png"),
    ]
    assert [sample.person_label for sample in samples] == persons["identity_image"].tolist()
    assert {sample.caption for sample in samples} == {None}
    assert len(dataset.domains()["identity_image"]) == 7


def test_images_without_person_ids_are_for_masked_batches_alone(first: datasets.Dataset) -> None:
    unknown = source("street", [-1, -1, -1], [[], [], []])
    dataset = TrainingDataset(image=[first, unknown])
    assert dataset.sizes["image"] == 8
    assert dataset.num_identities == 3
    sampler = MixedBatchSampler(
        dataset.sizes,
        mix={"identity_image": 1},
        batch_size=4,
        person_labels=dataset.persons(),
        identity_shape=IdentityBatchShape(2, 2),
        batches_per_epoch=30,
    )
    drawn = {dataset[draw].image_path for draw in sampler}
    assert drawn == {f"first/{row}.png" for row in (0, 1, 2, 4)}


def test_identity_batches_need_persons_of_pairs(first: datasets.Dataset) -> None:
    dataset = TrainingDataset(image=[first])
    with pytest.raises(ValueError, match=r"received 0 for the kind identity$"):
        MixedBatchSampler(
            dataset.sizes,
            mix={"identity": 1},
            batch_size=4,
            person_labels=dataset.persons(),
            identity_shape=IdentityBatchShape(2, 2),
        )


def test_captions_are_drawn_evenly_and_never_blank(second: datasets.Dataset) -> None:
    dataset = TrainingDataset(text=[second])
    drawn = [dataset[Draw("text", 1, seed)].caption for seed in range(200)]
    assert set(drawn) == {"f", "g"}
    assert 70 < drawn.count("f") < 130


def test_text_sources_need_only_their_captions() -> None:
    sentences = datasets.Dataset.from_dict({"captions": [["x"], ["y"]], "image_path": ["", ""]})
    assert TrainingDataset(text=[sentences])[Draw("text", 1, 0)].caption == "y"


def test_selected_and_shuffled_sources_keep_their_rows_together(first: datasets.Dataset) -> None:
    dataset = TrainingDataset(paired=[first.select([3, 2, 0])])
    assert dataset.person_labels.tolist() == [-100, 0, 1]
    assert [dataset[Draw("identity", index, 0)].image_path for index in range(3)] == [
        "first/3.png",
        "first/2.png",
        "first/0.png",
    ]


def same(left: TrainingSample, right: TrainingSample) -> bool:
    def plain(sample: TrainingSample) -> tuple[Any, ...]:
        pictures = (sample.image, sample.person_mask)
        bytes_of = tuple(None if picture is None else picture.tobytes() for picture in pictures)
        return (sample.kind, sample.seed, sample.caption, sample.person_label, sample.image_path, *bytes_of)

    return plain(left) == plain(right)


def keep(samples: list[TrainingSample]) -> list[TrainingSample]:
    return samples


def test_draws_decide_everything__any_number_of_workers(first: datasets.Dataset, second: datasets.Dataset) -> None:
    dataset = TrainingDataset(paired=[first, second], image=[second], augmentation=PersonAugmentation())
    sampler = MixedBatchSampler(
        dataset.sizes,
        mix={"paired": 0.4, "identity": 0.4, "image": 0.2},
        batch_size=4,
        person_labels=dataset.person_labels,
        identity_shape=IdentityBatchShape(2, 2),
        batches_per_epoch=10,
    )
    streams = [
        [
            sample
            for batch in DataLoader(dataset, 4, sampler=sampler, num_workers=n, collate_fn=keep)
            for sample in batch
        ]
        for n in (0, 2)
    ]
    assert len(streams[0]) == 40
    assert all(same(left, right) for left, right in zip(*streams, strict=True))
    other_seed = [dataset[Draw(sample.kind, 0, sample.seed + 1)] for sample in streams[0]]
    assert not any(same(left, right) for left, right in zip(streams[0], other_seed, strict=True))


def test_a_batch_equals_its_samples(first: datasets.Dataset, second: datasets.Dataset) -> None:
    dataset = TrainingDataset(paired=[first, second], image=[second], text=[first])
    draws = [Draw("identity", 6, 1), Draw("image", 1, 2), Draw("identity", 0, 3), Draw("text", 2, 4)]
    draws += [Draw("identity", index, 5) for index in (5, 2, 2)]
    together = dataset.__getitems__(draws)
    assert all(same(dataset[draw], sample) for draw, sample in zip(draws, together, strict=True))
    assert [sample.image_path for sample in together[-3:]] == ["second/0.png", "first/2.png", "first/2.png"]


def test_mask_of_another_size_is_fitted_to_the_picture() -> None:
    mask = Image.new("L", (24, 48))
    mask.paste(255, (0, 0, 12, 48))
    rows = source("first", [1], [["a"]]).to_dict() | {"person_mask": [mask]}
    paired = datasets.Dataset.from_dict(rows, features=REID_FEATURES)
    sample = TrainingDataset(paired=[paired])[Draw("paired", 0, 0)]
    assert sample.person_mask is not None
    assert sample.person_mask.size == (12, 24)
    np.testing.assert_array_equal(np.asarray(sample.person_mask)[0], [255] * 6 + [0] * 6)


@pytest.mark.parametrize("column", ["image", "person_mask"])
def test_broken_picture_is_named(column: str) -> None:
    rows = source("first", [1, 2], [["a"], ["b"]]).cast_column(column, datasets.Image(decode=False)).to_list()
    rows[1][column] = {"bytes": b"\x89PNG\r\n\x1a\n, and then nothing", "path": None}
    dataset = TrainingDataset(paired=[datasets.Dataset.from_list(rows, features=REID_FEATURES)])
    assert dataset[Draw("paired", 0, 0)].image is not None
    with pytest.raises(DatasetError, match=rf"first/1\.png: the {column} .* cannot be decoded"):
        dataset[Draw("paired", 1, 0)]


def test_missing_file_is_named(tmp_path: Any) -> None:
    rows = source("first", [1], [["a"]]).cast_column("image", datasets.Image(decode=False)).to_list()
    rows[0]["image"] = {"bytes": None, "path": str(tmp_path / "gone.jpg")}
    dataset = TrainingDataset(paired=[datasets.Dataset.from_list(rows, features=REID_FEATURES)])
    with pytest.raises(DatasetError, match=r"gone\.jpg"):
        dataset[Draw("identity", 0, 0)]


def test_missing_columns_are_named(first: datasets.Dataset) -> None:
    with pytest.raises(DatasetError, match="lacks captions"):
        TrainingDataset(paired=[first.remove_columns("captions")])
    with pytest.raises(DatasetError, match="lacks domain"):
        TrainingDataset(image=[first.remove_columns("domain")])
