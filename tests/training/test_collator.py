"""The collator: what each kind of batch holds, mismatched captions, where patches are masked, and reproducibility."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature, BertTokenizer

from mmet.training.collator import MMETDataCollator
from mmet.training.dataset import TrainingSample
from mmet.training.tokenization import train_wordpiece_tokenizer

GRID = (8, 4)
COLOURS = ("red", "green", "blue", "black", "white", "yellow", "purple", "brown")


class StandInProcessor:
    """The processor's contract on 32 × 16 pixels in patches of 4; keeps the arguments of its latest call."""

    def __init__(self, tokenizer: BertTokenizer) -> None:
        self.tokenizer = tokenizer
        self.image_processor = SimpleNamespace(patch_grid=GRID)
        self.calls: list[set[str]] = []

    def __call__(
        self,
        images: list[np.ndarray] | None = None,
        text: list[str] | None = None,
        person_masks: list[Image.Image | None] | None = None,
        input_data_format: str | None = None,
        return_tensors: str | None = None,
        **text_arguments: Any,
    ) -> BatchFeature:
        assert return_tensors == "pt"
        inputs = {"images": images, "text": text, "person_masks": person_masks}
        self.calls.append({name for name, value in inputs.items() if value is not None})
        result: dict[str, Any] = {}
        if images is not None:
            assert input_data_format == "channels_last"
            resized = [Image.fromarray(image).resize((16, 32)) for image in images]
            pixels = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in resized])
            result["pixel_values"] = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        if text is not None:
            result |= self.tokenizer(text, return_tensors="pt", **text_arguments)
        if person_masks is not None:
            result["person_patch_coverage"] = torch.from_numpy(np.stack([self._coverage(m) for m in person_masks]))
        return BatchFeature(result)

    @staticmethod
    def _coverage(mask: Image.Image | None) -> np.ndarray:
        if mask is None:
            return np.full(GRID[0] * GRID[1], np.nan, dtype=np.float32)
        on_person = np.asarray(mask.resize((16, 32), Image.Resampling.NEAREST)) > 0
        return on_person.reshape(8, 4, 4, 4).mean(axis=(1, 3), dtype=np.float32).reshape(-1)


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return train_wordpiece_tokenizer(["a man in a red coat"], vocab_size=1100)


@pytest.fixture
def processor(tokenizer: BertTokenizer) -> StandInProcessor:
    return StandInProcessor(tokenizer)


def sample(number: int, kind: str = "paired", **changes: Any) -> TrainingSample:
    """Picture and words of person `number`; captions have different lengths."""
    arguments: dict[str, Any] = {
        "kind": kind,
        "seed": 1000 + number,
        "image": np.full((32, 16, 3), (number, 0, 0), dtype=np.uint8),
        "caption": f"a {COLOURS[number % 8]} coat" + " and shoes" * (number % 3),
        "person_label": number,
        "image_path": f"{number}.jpg",
    }
    return TrainingSample(**(arguments | changes))


def left_column() -> Image.Image:
    mask = Image.new("L", (16, 32))
    mask.paste(255, (0, 0, 4, 32))
    return mask


def test_identity_batch(processor: StandInProcessor, tokenizer: BertTokenizer) -> None:
    batch = MMETDataCollator(processor)([sample(n, "identity") for n in (3, 3, 5)])
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask", "person_labels", "image_paths"}
    assert batch["pixel_values"].shape == (3, 3, 32, 16)
    assert batch["person_labels"].tolist() == [3, 3, 5]
    assert batch["person_labels"].dtype == torch.int64
    assert batch["image_paths"] == ["3.jpg", "3.jpg", "5.jpg"]
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "a black coat"


def test_identity_batch__missing_captions_are_marked(processor: StandInProcessor) -> None:
    batch = MMETDataCollator(processor)([sample(1, "identity"), sample(2, "identity", caption=None)])
    assert batch["text_present"].tolist() == [True, False]
    assert batch["attention_mask"].sum(dim=1).tolist() == [7, 2]  # with [CLS] and [SEP]


def test_identity_batch__caption_noise(processor: StandInProcessor, tokenizer: BertTokenizer) -> None:
    samples = [sample(n, "identity", seed=n) for n in range(400)]
    clean = MMETDataCollator(processor)(samples)
    noisy = MMETDataCollator(processor, caption_noise=0.25)(samples)
    special = torch.isin(clean["input_ids"], torch.tensor(tokenizer.all_special_ids))
    changed = clean["input_ids"] != noisy["input_ids"]
    assert not changed[special].any()
    assert changed[~special].float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(clean["attention_mask"], noisy["attention_mask"])
    assert torch.equal(noisy["input_ids"], MMETDataCollator(processor, caption_noise=0.25)(samples)["input_ids"])


def test_identity_batch__caption_noise_is_always_another_word(
    processor: StandInProcessor, tokenizer: BertTokenizer
) -> None:
    samples = [sample(n, "identity", seed=n) for n in range(400)]
    clean = MMETDataCollator(processor)(samples)["input_ids"]
    noisy = MMETDataCollator(processor, caption_noise=1.0)(samples)["input_ids"]
    special = torch.isin(clean, torch.tensor(tokenizer.all_special_ids))
    assert (noisy[~special] != clean[~special]).all()
    assert not torch.isin(noisy[~special], torch.tensor(tokenizer.all_special_ids)).any()
    words = len(tokenizer) - len(tokenizer.all_special_ids)
    assert len(noisy[~special].unique()) > 0.6 * min(words, int((~special).sum()))


def test_identity_image_batch__no_captions(processor: StandInProcessor) -> None:
    samples = [sample(label, kind="identity_image", caption=None) for label in (3, 3, 5)]
    batch = MMETDataCollator(processor)(samples)
    assert set(batch) == {"pixel_values", "person_labels", "image_paths"}
    assert batch["person_labels"].tolist() == [3, 3, 5]


def test_image_batch(processor: StandInProcessor) -> None:
    batch = MMETDataCollator(processor)([sample(n, "image", caption=None) for n in range(3)])
    assert set(batch) == {"pixel_values", "bool_masked_pos", "image_paths"}
    assert batch["bool_masked_pos"].dtype == torch.bool
    assert batch["bool_masked_pos"].sum(dim=1).tolist() == [5, 5, 5]
    assert processor.calls == [{"images"}]


def test_text_batch(processor: StandInProcessor, tokenizer: BertTokenizer) -> None:
    batch = MMETDataCollator(processor)([sample(n, "text", image=None) for n in range(8)])
    assert set(batch) == {"input_ids", "attention_mask", "input_ids_masked", "mlm_labels", "image_paths"}
    check_masked_tokens(batch, batch["input_ids"], batch["attention_mask"], tokenizer)
    assert processor.calls == [{"text"}]


def check_masked_tokens(
    batch: dict[str, Any], shown: torch.Tensor, attention: torch.Tensor, tokenizer: BertTokenizer
) -> None:
    """Labels restore the shown caption, and only real words are ever masked."""
    labels = batch["mlm_labels"]
    chosen = labels != -100
    maskable = int(attention.sum()) - 2 * len(attention)  # all but [CLS] and [SEP]
    assert abs(int(chosen.sum()) - 0.15 * maskable) < 1
    assert not (chosen & (attention == 0)).any()
    assert torch.equal(torch.where(chosen, labels, batch["input_ids_masked"]), shown)
    assert not torch.isin(shown[chosen], torch.tensor(tokenizer.all_special_ids)).any()


def test_paired_batch__masked_captions_come_from_the_right_person(
    processor: StandInProcessor, tokenizer: BertTokenizer
) -> None:
    samples = [sample(n % 6) for n in range(12)]
    collator = MMETDataCollator(processor)
    matched = 0
    for repeat in range(60):
        seeded = [sample(n % 6, seed=repeat * 100 + n) for n in range(12)]
        batch = collator(seeded)
        assert set(batch) == {
            *("pixel_values", "input_ids", "attention_mask", "person_ids", "image_paths", "bool_masked_pos"),
            *("input_ids_masked", "masked_attention_mask", "mlm_labels", "itm_labels"),
        }
        captions = [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]]
        assert captions == [drawn_sample.caption for drawn_sample in samples]
        shown = torch.where(batch["mlm_labels"] != -100, batch["mlm_labels"], batch["input_ids_masked"])
        check_masked_tokens(batch, shown, batch["masked_attention_mask"], tokenizer)
        words = [tokenizer.decode(ids, skip_special_tokens=True) for ids in shown]
        assert [int(a == b) for a, b in zip(words, captions, strict=True)] == batch["itm_labels"].tolist()
        assert set(words) <= set(captions)
        assert torch.equal(batch["masked_attention_mask"], (shown != tokenizer.pad_token_id).long())
        matched += int(batch["itm_labels"].sum())
    assert matched / (60 * 12) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 1), (1.0, 0)])
def test_paired_batch__mismatch_probability(processor: StandInProcessor, probability: float, expected: int) -> None:
    batch = MMETDataCollator(processor, itm_mismatch_probability=probability)([sample(n) for n in range(6)])
    assert batch["itm_labels"].tolist() == [expected] * 6


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([sample(1), sample(1, caption="another sentence")], [1, 1]),
        ([sample(1), sample(2, caption=sample(1).caption)], [1, 1]),
        ([sample(1)], [1]),
        ([sample(1), sample(1), sample(2)], [0, 0, 0]),
        ([sample(1, person_label=-100), sample(2, person_label=-100)], [0, 0]),
        ([sample(1, person_label=-100), sample(1, person_label=-100)], [1, 1]),
        ([sample(1, person_label=-100), sample(2)], [0, 0]),
    ],
    ids=["one person", "one sentence", "alone", "two persons", "unknown", "unknown, one sentence", "half known"],
)
def test_paired_batch__never_mismatches_what_may_match(
    processor: StandInProcessor, samples: list[TrainingSample], expected: list[int]
) -> None:
    batch = MMETDataCollator(processor, itm_mismatch_probability=1.0)(samples)
    assert batch["itm_labels"].tolist() == expected


def test_paired_batch__every_other_person_lends_captions(
    processor: StandInProcessor, tokenizer: BertTokenizer
) -> None:
    collator = MMETDataCollator(processor, itm_mismatch_probability=1.0)
    lent = set()
    for seed in range(60):
        batch = collator([sample(n, seed=seed * 10 + n) for n in range(5)])
        shown = torch.where(batch["mlm_labels"] != -100, batch["mlm_labels"], batch["input_ids_masked"])
        lent.add(tokenizer.decode(shown[0], skip_special_tokens=True))
    assert lent == {sample(n).caption for n in range(1, 5)}


def test_pedestrian_masking__own_mask_else_prior(processor: StandInProcessor) -> None:
    samples = [sample(n, "image", person_mask=left_column() if n == 0 else None) for n in range(2)]
    collator = MMETDataCollator(processor, mask_ratio=0.25)
    drawn = torch.stack(
        [
            collator(
                [
                    TrainingSample("image", seed, drawn_sample.image, drawn_sample.person_mask)
                    for drawn_sample in samples
                ]
            )["bool_masked_pos"]
            for seed in range(100)
        ]
    ).view(100, 2, *GRID)
    assert drawn[:, 0, :, 0].all()  # all 8 masked patches of 32 are the 8 on the person
    assert drawn[:, 1, :, 1:3].float().sum() / (100 * 8) > 0.85
    assert processor.calls[0] == {"images", "person_masks"}


def test_segmenter__fills_in_missing_masks_only(processor: StandInProcessor) -> None:
    lengths: list[int] = []

    def segment(images: list[Image.Image]) -> list[Image.Image | None]:
        lengths.extend(image.getpixel((0, 0))[0] for image in images)  # type: ignore[index]
        return [left_column(), None]

    right = left_column().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    samples = [sample(n, "image", person_mask=right if n == 1 else None) for n in range(3)]
    batch = MMETDataCollator(processor, mask_ratio=0.25, segmenter=segment)(samples)
    assert lengths == [0, 2]
    masked = batch["bool_masked_pos"].view(3, *GRID)
    assert masked[0, :, 0].all()
    assert masked[1, :, 3].all()
    assert masked[2].sum() == 8


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], "expected 2 masks from the segmenter, received 0"),
        (None, "expected 2 masks from the segmenter, received NoneType"),
        ([None, Image.new("L", (3, 3))], r"gave \(3, 3\)"),
        (["mask.png", None], "received str"),
    ],
)
def test_segmenter__wrong_answers(processor: StandInProcessor, masks: list[Any], message: str) -> None:
    collator = MMETDataCollator(processor, segmenter=lambda images: masks)
    with pytest.raises(ValueError, match=message):
        collator([sample(n, "image") for n in range(2)])


def test_segmenter__that_fails_is_named(processor: StandInProcessor) -> None:
    def segment(images: list[Image.Image]) -> list[Image.Image | None]:
        raise KeyError("weights")

    with pytest.raises(ValueError, match=r"the segmenter failed on 2 pictures \(KeyError: 'weights'\)"):
        MMETDataCollator(processor, segmenter=segment)([sample(n, "image") for n in range(2)])


def test_person_coverage__masks_and_missing_ones(processor: StandInProcessor) -> None:
    samples = [sample(0, "image", person_mask=left_column()), sample(1, "image", person_mask=None)]
    coverage = MMETDataCollator(processor).person_coverage(samples)
    assert coverage[0].reshape(GRID).tolist() == [[1, 0, 0, 0]] * 8
    assert np.isnan(coverage[1]).all()
    assert np.isnan(MMETDataCollator(processor).person_coverage(samples[1:])).all()


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_paired_batch__share_of_mismatches(processor: StandInProcessor, probability: float) -> None:
    collator = MMETDataCollator(processor, itm_mismatch_probability=probability)
    samples = [[sample(n, seed=1000 * repeat + n) for n in range(4)] for repeat in range(250)]
    matches = torch.stack([collator(batch)["itm_labels"] for batch in samples])
    error = 4 * (probability * (1 - probability) / matches.numel()) ** 0.5
    assert 1 - matches.float().mean().item() == pytest.approx(probability, abs=error)


@pytest.mark.parametrize("masking", ["random", "block", "none"])
def test_other_maskings_do_not_touch_person_masks(processor: StandInProcessor, masking: str) -> None:
    def segment(images: list[Image.Image]) -> list[Image.Image | None]:
        raise AssertionError("not wanted")

    collator = MMETDataCollator(processor, image_masking=masking, segmenter=segment)
    batch = collator([sample(n, person_mask=left_column()) for n in range(4)])
    assert ("bool_masked_pos" in batch) == (masking != "none")
    assert all("person_masks" not in call for call in processor.calls)


def test_prior_is_used_for_pictures_without_mask(processor: StandInProcessor) -> None:
    prior = np.zeros(GRID)
    prior[0], prior[7] = 1, 1
    batch = MMETDataCollator(processor, prior=prior.reshape(-1), mask_ratio=0.25)([sample(n) for n in range(4)])
    assert batch["bool_masked_pos"].view(4, *GRID)[:, [0, 7]].all()


def test_long_captions_are_cut(processor: StandInProcessor) -> None:
    batch = MMETDataCollator(processor, max_length=6)([sample(n, caption="a red coat " * 9) for n in range(2)])
    assert batch["input_ids"].shape == batch["input_ids_masked"].shape == (2, 6)


def test_same_samples_same_batch__other_seeds_other_masks(processor: StandInProcessor) -> None:
    collator = MMETDataCollator(processor)
    samples = [sample(n) for n in range(8)]
    first, again = collator(samples), collator(samples)
    for name, value in first.items():
        assert value == again[name] if name == "image_paths" else torch.equal(value, again[name])
    other = collator([sample(n, seed=5 + n) for n in range(8)])
    assert not torch.equal(first["bool_masked_pos"], other["bool_masked_pos"])
    assert not torch.equal(first["mlm_labels"], other["mlm_labels"])


@pytest.mark.parametrize("samples", [[], [sample(0, "image"), sample(1, "identity")]])
def test_batches_must_be_of_one_kind(processor: StandInProcessor, samples: list[TrainingSample]) -> None:
    with pytest.raises(ValueError, match="one kind"):
        MMETDataCollator(processor)(samples)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_masking": "pedestrain"}, "pedestrian, random, block, none, received 'pedestrain'"),
        ({"mask_ratio": 1.2}, "mask_ratio"),
        ({"mask_ratio": 0.015}, r"mask_ratio=0\.015 of 8 × 4 patches is less than one patch"),
        ({"mlm_probability": 0.0}, "mlm_probability"),
        ({"itm_mismatch_probability": -1}, "itm_mismatch_probability"),
        ({"prior": np.ones(31)}, r"one weight per patch of \(8, 4\)"),
    ],
)
def test_settings_out_of_range_are_rejected_at_once(
    processor: StandInProcessor, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MMETDataCollator(processor, **changes)
