"""Inputs that no one means are refused at the door, by name, whatever model they reach."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
    MMETImageModel,
    MMETModel,
    MMETMultimodalModel,
    MMETTextModel,
)

CLEAN = ("pixel_values", "input_ids", "attention_mask")
EMBEDDERS = (MMETModel, MMETForReID, MMETForPreTraining)


def _refuses(model, batch: dict[str, torch.Tensor], changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        model(**batch | changes)


@pytest.fixture
def embedder_batch(make_batch) -> dict[str, torch.Tensor]:
    return make_batch(4, 7)


HALVES = torch.full((4, 7), 0.5)
WRONG_INPUTS = {
    "channels": ({"pixel_values": torch.randn(4, 1, 52, 28)}, r"pixel_values of shape \(any, 3, any, any\).*\(4, 1,"),
    "one image": ({"pixel_values": torch.randn(3, 52, 28)}, "pixel_values of shape"),
    "bytes": ({"pixel_values": torch.zeros(4, 3, 52, 28, dtype=torch.uint8)}, "normalised pixel_values.*uint8"),
    "size": ({"pixel_values": torch.randn(4, 3, 28, 52)}, r"size \[52, 28\], received \[28, 52\]"),
    "no samples": ({"pixel_values": torch.zeros(0, 3, 52, 28)}, "at least one sample"),
    "another batch": ({"pixel_values": torch.randn(3, 3, 52, 28)}, "inputs of one batch"),
    "ids beyond the vocabulary": ({"input_ids": torch.full((4, 7), 14)}, r"input_ids in \[0, 14\), received \[14\]"),
    "negative ids": ({"input_ids": torch.full((4, 7), -1)}, r"input_ids in \[0, 14\), received \[-1\]"),
    "float ids": ({"input_ids": torch.ones(4, 7)}, "input_ids of integers, received torch.float32"),
    "one caption": ({"input_ids": torch.ones(7, dtype=torch.long)}, "input_ids of shape"),
    "no token": ({"input_ids": torch.ones(4, 0, dtype=torch.long)}, "empty batch"),
    "long captions": ({"input_ids": torch.ones(4, 13, dtype=torch.long)}, "at most max_position_embeddings=12"),
    "mask length": ({"attention_mask": torch.ones(4, 6)}, r"attention mask of input_ids of shape \(4, 7\)"),
    "one mask for all": ({"attention_mask": torch.ones(1, 7)}, r"attention mask of input_ids of shape \(4, 7\)"),
    "flat mask": ({"attention_mask": torch.ones(7)}, "attention mask of input_ids of shape"),
    "halves in the mask": ({"attention_mask": HALVES}, r"attention_mask of 0 and 1, received \[0.5\]"),
    "NaN in the mask": ({"attention_mask": HALVES * torch.nan}, r"attention_mask of 0 and 1, received \[nan"),
    "two in the mask": ({"attention_mask": torch.full((4, 7), 2)}, r"attention_mask of 0 and 1, received \[2\]"),
    "nothing in the mask": ({"attention_mask": torch.zeros(4, 7)}, "attention_mask with a 1 in each row"),
    "presence of others": ({"image_present": torch.ones(3, dtype=torch.bool)}, r"image_present of shape \(4\)"),
    "presence by patch": ({"text_present": torch.ones(4, 1, dtype=torch.bool)}, r"text_present of shape \(4\)"),
    "an array": (
        {"pixel_values": torch.ones(4, 3, 52, 28).numpy()},
        "pixel_values as a torch tensor, received ndarray",
    ),
    "half present": ({"image_present": torch.full((4,), 0.5)}, "image_present of 0 and 1"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_INPUTS.values(), ids=WRONG_INPUTS)
@pytest.mark.parametrize("model_class", EMBEDDERS)
def test_models__refuse(model_class, changes, message, config, embedder_batch, make_pretraining_batch):
    batch = make_pretraining_batch(4) if model_class is MMETForPreTraining else embedder_batch
    _refuses(model_class(config).eval(), batch, changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [entry for name, entry in WRONG_INPUTS.items() if "pixel" in entry[1] and name != "another batch"],
)
def test_image_model__refuses(changes, message, config):
    _refuses(MMETImageModel(config.image_config), {}, changes, message)


@pytest.mark.parametrize("changes", [{"bool_masked_pos": torch.full((2, 8), 0.5)}, {"bool_masked_pos": torch.ones(8)}])
def test_image_model__refuses_masks(changes, config):
    _refuses(MMETImageModel(config.image_config), {"pixel_values": torch.randn(2, 3, 52, 28)}, changes, "bool_masked")


def test_image_model__refuses_images_below_a_patch(config):
    model = MMETImageModel(config.image_config)
    with pytest.raises(ValueError, match=r"at least patch_size=16 a side, received \[10, 28\]"):
        model(torch.randn(1, 3, 10, 28), interpolate_pos_encoding=True)


@pytest.mark.parametrize("name", [name for name in WRONG_INPUTS if {*WRONG_INPUTS[name][0]} & {*CLEAN[1:]}])
def test_text_model__refuses(name, config, embedder_batch):
    changes, message = WRONG_INPUTS[name]
    batch = {name: embedder_batch[name] for name in CLEAN[1:]}
    _refuses(
        MMETTextModel(config.text_config), batch, changes, "input_ids of shape" if "no token" in name else message
    )


@pytest.mark.parametrize(
    ("states", "mask", "message"),
    [
        (torch.randn(2, 5, 31), None, r"hidden_states of shape \(any, any, 32\)"),
        (torch.randn(2, 32), None, "hidden_states of shape"),
        (torch.randn(2, 5, 32), torch.ones(1, 5), r"attention_mask of shape \(2, 5\)"),
        (torch.randn(2, 5, 32), torch.full((2, 5), 0.5), "attention_mask of 0 and 1"),
    ],
)
def test_multimodal_model__refuses(states, mask, message, config):
    with pytest.raises(ValueError, match=message):
        MMETMultimodalModel(config.multimodal_config)(states, mask)


def _longs(*values: int) -> torch.Tensor:
    return torch.tensor(values)


WRONG_LABELS = {
    "negative person": ({"person_labels": _longs(0, 1, -1, 2)}, r"person_labels in \[0, 4\).*received \[-1\]"),
    "person beyond the classifier": ({"person_labels": _longs(0, 1, 4, 2)}, r"person_labels.*received \[4\]"),
    "float persons": ({"person_labels": torch.ones(4)}, "person_labels of integers"),
    "persons of another batch": ({"person_labels": _longs(0, 1, 2)}, r"person_labels of shape \(4\)"),
    "persons in a column": ({"person_labels": _longs(0, 1, 2, 3)[:, None]}, r"person_labels of shape \(4\)"),
    "person ids of another batch": ({"person_ids": _longs(0, 1, 2)}, r"person_ids of shape \(4\)"),
    "persons in words": ({"person_ids": ["a", "b", "c", "d"]}, "person_ids as a torch tensor, received list"),
    "float person ids": ({"person_ids": torch.ones(4)}, "person_ids of integers"),
    "float matches": ({"itm_labels": torch.ones(4)}, "itm_labels of integers, received torch.float32"),
    "third kind of match": ({"itm_labels": _longs(0, 1, 2, 1)}, r"itm_labels in \[0, 2\).*received \[2\]"),
    "matches of another batch": ({"itm_labels": _longs(0, 1)}, r"itm_labels of shape \(4\)"),
    "word beyond the vocabulary": ({"mlm_labels": torch.full((4, 7), 14)}, r"mlm_labels in \[0, 14\)"),
    "negative word": ({"mlm_labels": torch.full((4, 7), -1)}, r"mlm_labels in \[0, 14\)"),
    "words of another length": ({"mlm_labels": torch.ones(4, 6, dtype=torch.long)}, r"mlm_labels of shape \(4, 7\)"),
    "float words": ({"mlm_labels": torch.ones(4, 7)}, "mlm_labels of integers"),
    "code beyond the codebook": ({"mim_labels": torch.full((4, 8), 6)}, r"mim_labels in \[0, 6\) where masked"),
    "negative code": ({"mim_labels": torch.full((4, 8), -100)}, r"mim_labels in \[0, 6\) where masked"),
    "codes of another grid": ({"mim_labels": torch.ones(4, 9, dtype=torch.long)}, r"mim_labels of shape \(4, 8\)"),
    "patches of another grid": ({"bool_masked_pos": torch.ones(4, 9)}, r"bool_masked_pos of shape \(4, 8\)"),
    "half a patch": ({"bool_masked_pos": torch.full((4, 8), 0.5)}, "bool_masked_pos of 0 and 1"),
    "masked captions beyond the vocabulary": ({"input_ids_masked": torch.full((4, 7), 14)}, r"input_ids in \[0, 14\)"),
    "masked captions' own mask": ({"masked_attention_mask": torch.ones(1, 7)}, "attention mask of input_ids_masked"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_pretraining__refuses(changes, message, config, make_pretraining_batch):
    _refuses(MMETForPreTraining(config).eval(), make_pretraining_batch(4), changes, message)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (_longs(0, -1, 1, 1), r"labels in \[0, 4\), or -100 for unknown, received \[-1\]"),
        (_longs(0, 4, 1, 1), r"labels in \[0, 4\)"),
        (_longs(0, 1, 1), r"labels of shape \(4\)"),
        (torch.ones(4), "labels of integers"),
    ],
)
def test_reid__refuses_labels(labels, message, config, embedder_batch):
    _refuses(MMETForReID(config), embedder_batch, {"labels": labels}, message)


def test_reid__any_person_without_a_classifier(make_config, embedder_batch):
    model = MMETForReID(make_config(num_identities=0))
    assert model(**embedder_batch, labels=_longs(10**12, 7, 7, -100)).loss is not None
    _refuses(model, embedder_batch, {"labels": _longs(-5, 0, 0, 1)}, "labels of at least 0, or -100")


def test_pretraining__codes_where_nothing_is_masked_are_not_read(config, make_pretraining_batch):
    batch = make_pretraining_batch(4)
    batch["mim_labels"] = batch["mim_labels"].masked_fill(~batch["bool_masked_pos"], -100)
    assert MMETForPreTraining(config).eval()(**batch).loss.isfinite()


def test_masks__numbers_and_booleans_are_the_same(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch(4)
    expected = model(**batch).loss
    for kind in (torch.bool, torch.float32, torch.uint8):
        masks = {name: batch[name].to(kind) for name in ("attention_mask", "bool_masked_pos")}
        assert torch.equal(model(**batch | masks).loss, expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
def test_ids_and_labels__of_any_integer_dtype(dtype, config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch(4)
    expected = model(**batch).loss
    small = {name: value.to(dtype) if value.dtype == torch.long else value for name, value in batch.items()}
    assert torch.equal(model(**small).loss, expected)
    _refuses(model, batch, {"itm_labels": batch["itm_labels"].bool()}, "itm_labels of integers, received torch.bool")


class _CountLooks(TorchFunctionMode):
    """Counts the times that Python looks at the values of a tensor as a list."""

    looks = 0

    def __torch_function__(self, function, types, arguments=(), kwargs=None):
        self.looks += getattr(function, "__name__", "") == "tolist"
        return function(*arguments, **(kwargs or {}))


def test_checks__one_look_a_call(config, embedder_batch):
    model = MMETForReID(config).eval()
    with _CountLooks() as counter:
        model(**embedder_batch)
    assert counter.looks == 1
    with _CountLooks() as counter:
        model(pixel_values=embedder_batch["pixel_values"])
    assert counter.looks == 0
