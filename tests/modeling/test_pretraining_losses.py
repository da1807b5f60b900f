"""The eight losses: when each is computed, of which samples and positions, and at what cost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from named_inputs import CLEAN, CLOSE, EVERYTHING, IMAGE_ONLY, L_MMM, TEXT_ONLY, select

import mmet  # noqa: F401 (registers the Auto classes)
from modeling_mmet import (
    LOSS_NAMES,
    MMETForPreTraining,
    MMETForReID,
    MMETModel,
    identity_contrastive_loss,
)


@pytest.mark.parametrize(
    ("inputs", "losses"),
    [
        (IMAGE_ONLY, ("mim",)),
        (("pixel_values",), ()),
        (TEXT_ONLY, ("mlm",)),
        (("input_ids_masked",), ()),
        ((*TEXT_ONLY, "person_labels"), ("mlm",)),  # a masked caption is not an embedding's input
        (("input_ids", "attention_mask"), ()),
        ((*IMAGE_ONLY, "input_ids_masked", "mlm_labels"), L_MMM),
        ((*IMAGE_ONLY, "input_ids"), ("mmm_image", "global_contrastive")),
        (("pixel_values", "input_ids_masked", "mlm_labels"), ("mmm_text",)),
        ((*IMAGE_ONLY, "input_ids_masked", "mlm_labels", "itm_labels"), (*L_MMM, "itm")),
        (CLEAN, ("global_contrastive",)),
        (("pixel_values", "person_labels"), ("identity", "triplet")),
        (("input_ids", "attention_mask", "person_labels"), ("identity", "triplet")),
        ((*CLEAN, "person_labels"), ("global_contrastive", "identity", "triplet")),
        ((*IMAGE_ONLY, "person_labels"), ("mim", "identity", "triplet")),
        (EVERYTHING, (*L_MMM, "itm", "global_contrastive", "identity", "triplet")),
    ],
)
def test_losses__computed_exactly_when_their_inputs_are_there(config, make_pretraining_batch, inputs, losses):
    batch = make_pretraining_batch()
    batch["masked_attention_mask"] = batch["attention_mask"]
    output = MMETForPreTraining(config)(**select(batch, *inputs))
    assert tuple(output.losses) == LOSS_NAMES
    assert {name for name, loss in output.losses.items() if loss is not None} == set(losses)
    if losses:
        assert output.loss.item() == pytest.approx(sum(output.losses[name].item() for name in losses), rel=1e-5)
    else:
        assert output.loss is None


def test_losses__none_without_a_classifier(make_config, make_pretraining_batch):
    output = MMETForPreTraining(make_config(num_identities=0))(**make_pretraining_batch())
    assert output.losses["identity"] is None
    assert output.losses["triplet"] is not None


def test_losses__weighted_sum(make_config, make_pretraining_batch):
    weights = dict(zip(LOSS_NAMES, (0.5, 2.0, 0.25, 3.0, 1.5, 0.125, 4.0, 0.75), strict=True))
    batch = make_pretraining_batch()
    model = MMETForPreTraining(make_config(**{f"{name}_weight": weight for name, weight in weights.items()})).eval()
    for inputs in (EVERYTHING, IMAGE_ONLY, ("input_ids_masked", "mlm_labels", "attention_mask")):
        output = model(**select(batch, *inputs))
        expected = sum(weights[name] * loss.item() for name, loss in output.losses.items() if loss is not None)
        assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def _count_calls(model: MMETForPreTraining) -> dict[str, int]:
    """Counter of the encoders' forward passes, kept up to date by hooks."""
    counts = dict.fromkeys(("image_model", "text_model", "multimodal_model"), 0)

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    for name in counts:
        getattr(model.mmet, name).register_forward_hook(count(name))
    return counts


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        ((), (0, 0, 0)),
        (("mmm_image",), (1, 1, 1)),
        (("itm", "mmm_image", "mmm_text"), (1, 1, 1)),
        (("global_contrastive",), (1, 1, 0)),
        (("global_contrastive", "triplet"), (1, 1, 1)),
        (LOSS_NAMES, (2, 2, 2)),
    ],
)
def test_losses__weight_zero_costs_nothing(make_config, make_pretraining_batch, wanted, passes):
    weights = {f"{name}_weight": float(name in wanted) for name in LOSS_NAMES}
    model = MMETForPreTraining(make_config(**weights)).eval()
    counts = _count_calls(model)
    output = model(**make_pretraining_batch())
    assert tuple(counts.values()) == passes
    assert {name for name, loss in output.losses.items() if loss is not None} == set(wanted) - {"mim", "mlm"}


def _pad(batch: dict[str, torch.Tensor], columns: int) -> dict[str, torch.Tensor]:
    """The batch with that many more columns of padding behind its captions."""
    fills = {"input_ids": 0, "attention_mask": 0, "input_ids_masked": 0, "mlm_labels": -100}
    return batch | {
        name: torch.nn.functional.pad(batch[name], (0, columns), value=fill)
        for name, fill in fills.items()
        if name in batch
    }


@pytest.mark.parametrize("inputs", [EVERYTHING, ("input_ids_masked", "mlm_labels", "attention_mask")])
def test_padding__common_to_the_batch_costs_nothing_and_changes_nothing(config, make_pretraining_batch, inputs):
    """Reading fewer columns is what costs nothing: the longest caption has seven tokens, however far it is padded."""
    model = MMETForPreTraining(config).eval()
    lengths = []
    model.mmet.text_model.embeddings.register_forward_hook(
        lambda _, arguments, __: lengths.append(arguments[0].shape[1])
    )
    batch = select(make_pretraining_batch(), *inputs)
    plain, padded = model(**batch), model(**_pad(batch, 5))
    assert set(lengths) == {7}
    for name, loss in plain.losses.items():
        assert (loss is None) == (padded.losses[name] is None)
        assert loss is None or torch.equal(padded.losses[name], loss), name


def test_padding__a_caption_of_its_own_length_beside_each_masked_caption(config, make_pretraining_batch):
    model = MMETForPreTraining(config).eval()
    batch = make_pretraining_batch()
    short = {name: batch[name][:, :6] for name in ("input_ids_masked", "mlm_labels")}
    mask = batch["attention_mask"][:, :6]
    expected = model(**batch | short, masked_attention_mask=mask).losses
    received = model(**batch | _pad(short, 6), masked_attention_mask=torch.nn.functional.pad(mask, (0, 6))).losses
    for name in ("mmm_image", "mmm_text", "itm", "global_contrastive", "identity"):
        torch.testing.assert_close(received[name], expected[name])


def test_padding__of_embeddings_and_of_recorded_states(config, make_batch):
    model = MMETForReID(config).eval()
    batch = make_batch()
    plain, padded = model(**batch), model(**_pad(batch, 5))
    torch.testing.assert_close(padded.embeddings, plain.embeddings)
    recorded = model(**_pad(batch, 5), output_hidden_states=True)
    assert {states.shape[1] for states in recorded.text_output.hidden_states} == {12}  # what was asked for is whole
    torch.testing.assert_close(recorded.embeddings, plain.embeddings)


def test_padding__a_label_on_padding_is_still_read(config, make_pretraining_batch):
    model = MMETForPreTraining(config).eval()
    batch = select(_pad(make_pretraining_batch(), 3), "input_ids_masked", "mlm_labels", "attention_mask")
    batch["mlm_labels"][0, 8] = 5
    assert len(model(**batch).mlm_logits) == 5


def test_padding__a_mask_without_any_token(config, make_batch):
    """Fine for samples without a text, an error for the others."""
    model, nothing = MMETForReID(config).eval(), torch.zeros(4, dtype=torch.bool)
    batch = make_batch() | {"attention_mask": torch.zeros(4, 7, dtype=torch.long)}
    received = model(**batch, text_present=nothing).embeddings
    torch.testing.assert_close(received, model(pixel_values=batch["pixel_values"]).embeddings, **CLOSE)
    with pytest.raises(ValueError, match="expected attention_mask with a 1 in each row"):
        model(**batch)


@pytest.mark.parametrize(("inputs", "name"), [(IMAGE_ONLY, "mim"), (("input_ids_masked", "mlm_labels"), "mlm")])
def test_losses__unimodal_weight_zero_costs_nothing(make_config, make_pretraining_batch, inputs, name):
    model = MMETForPreTraining(make_config(**{f"{name}_weight": 0.0}))
    counts = _count_calls(model)
    output = model(**select(make_pretraining_batch(), *inputs))
    assert output.losses[name] is None
    assert output.loss is None
    assert sum(counts.values()) == 0


@pytest.mark.parametrize(("pooling", "passes"), [("image", (1, 0, 0)), ("text", (0, 1, 0))])
def test_reid__runs_only_the_encoder_it_pools(make_config, make_batch, pooling, passes):
    model = MMETForReID(make_config(identity_pooling=pooling)).eval()
    counts = _count_calls(model)
    model(**make_batch(2))
    assert tuple(counts.values()) == passes


def test_mim__classifies_the_masked_patches_alone(config, make_pretraining_batch):
    model = MMETForPreTraining(config).eval()
    batch = select(make_pretraining_batch(), *IMAGE_ONLY)
    batch["bool_masked_pos"][1] = False  # no patch of the second image
    batch["bool_masked_pos"][2, 0] = True
    output = model(**batch)
    positions = batch["bool_masked_pos"].nonzero().tolist()
    assert output.mim_logits.shape == (len(positions), 6) == (7, 6)
    states = model.mmet.image_model(batch["pixel_values"], batch["bool_masked_pos"]).last_hidden_state
    expected = torch.stack([model.mim_head(states[image, 1 + patch]) for image, patch in positions])
    torch.testing.assert_close(output.mim_logits, expected, **CLOSE)
    terms = [-row.log_softmax(-1)[batch["mim_labels"][i, j]] for row, (i, j) in zip(expected, positions, strict=True)]
    torch.testing.assert_close(output.losses["mim"], torch.stack(terms).mean(), **CLOSE)


def test_mlm__predicts_the_masked_tokens_alone(config, make_pretraining_batch):
    model = MMETForPreTraining(config).eval()
    batch = select(make_pretraining_batch(), "input_ids_masked", "mlm_labels", "attention_mask")
    batch["mlm_labels"][0] = -100
    batch["mlm_labels"][3, 1] = 5
    output = model(**batch)
    positions = (batch["mlm_labels"] != -100).nonzero().tolist()
    assert output.mlm_logits.shape == (len(positions), 14) == (4, 14)
    states = model.mmet.text_model(batch["input_ids_masked"], batch["attention_mask"]).last_hidden_state
    expected = torch.stack([model.mlm_head(states[caption, token]) for caption, token in positions])
    torch.testing.assert_close(output.mlm_logits, expected, **CLOSE)
    terms = [-row.log_softmax(-1)[batch["mlm_labels"][i, j]] for row, (i, j) in zip(expected, positions, strict=True)]
    torch.testing.assert_close(output.losses["mlm"], torch.stack(terms).mean(), **CLOSE)


def test_mmm__matching_pairs_alone(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch()
    matching = batch["itm_labels"].bool()
    assert matching.tolist() == [True, True, True, False]
    output = model(**batch)
    assert output.mmm_image_logits.shape == (6, 6)  # two patches of three matching pairs
    assert output.mmm_text_logits.shape == (3, 14)
    pairs = {name: value[matching] for name, value in batch.items() if name not in ("itm_labels", "person_labels")}
    expected = model(**pairs)
    for name in L_MMM:
        torch.testing.assert_close(output.losses[name], expected.losses[name], **CLOSE)
    assert output.itm_logits.shape == (4, 2)  # whereas L_ITM is about both kinds


def test_itm__unknown_pairs_take_no_part(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch()
    batch["itm_labels"] = torch.tensor([1, -100, 0, -100])
    output = model(**batch)
    expected = -F.log_softmax(output.itm_logits[[0, 2]], dim=-1)[[0, 1], [1, 0]].mean()
    torch.testing.assert_close(output.losses["itm"], expected)
    assert len(output.mmm_image_logits) == int(batch["bool_masked_pos"][0].sum())  # of the one matching pair
    batch["itm_labels"] = torch.full((4,), -100)
    assert model(**batch).losses["itm"].item() == 0


def test_mmm__no_matching_pair_is_zero_with_gradient(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config), make_pretraining_batch()
    output = model(**batch | {"itm_labels": torch.zeros(4, dtype=torch.long)})
    assert output.losses["mmm_image"].item() == output.losses["mmm_text"].item() == 0
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_mmm_and_itm__read_the_multimodal_states(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch()
    del batch["person_labels"]
    output = model(**batch)
    states = model.mmet(
        batch["pixel_values"], batch["input_ids_masked"], batch["attention_mask"], batch["bool_masked_pos"]
    ).multimodal_embeds
    torch.testing.assert_close(output.itm_logits, model.itm_head(states[:, 0]), **CLOSE)
    patches = model.mmm_image_head(states[:3, 2:10][:, [2, 5]].flatten(0, 1))
    words = model.mmm_text_head(states[:3, 10 + 2])
    torch.testing.assert_close(output.mmm_image_logits, patches, **CLOSE)
    torch.testing.assert_close(output.mmm_text_logits, words, **CLOSE)
    itm = F.cross_entropy(model.itm_head(states[:, 0]), batch["itm_labels"])
    torch.testing.assert_close(output.losses["itm"], itm, **CLOSE)


def test_itm__compares_class_tokens_too(make_config, make_pretraining_batch):
    plain = MMETForPreTraining(make_config()).eval()
    model = MMETForPreTraining(make_config(matching_comparison_size=12)).eval()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[1] for name in missing} == {"comparison"}
    assert not unexpected
    batch = make_pretraining_batch()
    torch.testing.assert_close(model(**batch).itm_logits, plain(**batch).itm_logits)  # it starts at zero
    torch.nn.init.normal_(model.itm_head.comparison.fc2.weight)
    output = model(**batch)
    image = model.mmet.image_to_multimodal(
        model.mmet.encode_images(batch["pixel_values"], batch["bool_masked_pos"]).pre_norm_hidden_state[:, 0]
    )
    text = model.mmet.text_to_multimodal(
        model.mmet.encode_texts(batch["input_ids_masked"], batch["attention_mask"]).pre_norm_hidden_state[:, 0]
    )
    image, text = (
        (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt() for x in (image, text)
    )
    head = model.itm_head.comparison
    compared = head.fc2(F.gelu(head.fc1(head.norm(torch.cat([image * text, abs(image - text)], dim=1)))))
    torch.testing.assert_close(output.itm_logits, plain(**batch).itm_logits + compared, atol=1e-4, rtol=1e-4)
    output.losses["itm"].backward()
    assert model.mmet.text_to_multimodal.weight.grad.abs().sum() > 0
    no_pairs = {"text_present": torch.zeros(4, dtype=torch.bool)}
    assert model(**batch, **no_pairs).losses["itm"].item() == 0


def test_mmm__masked_captions_have_their_own_padding(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch()
    inputs = select(batch, *IMAGE_ONLY, "input_ids_masked", "mlm_labels")
    clean = {"input_ids": batch["input_ids"][:, :4], "attention_mask": torch.ones(4, 4, dtype=torch.long)}
    output = model(**inputs, **clean, masked_attention_mask=batch["attention_mask"])
    expected = model(**inputs, attention_mask=batch["attention_mask"])
    torch.testing.assert_close(output.losses["mmm_text"], expected.losses["mmm_text"], **CLOSE)
    alone = model(**select(batch, "pixel_values"), **clean)
    torch.testing.assert_close(output.losses["global_contrastive"], alone.losses["global_contrastive"], **CLOSE)


def test_global_contrastive__of_projected_class_tokens(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch()
    features = (
        model.get_image_features(batch["pixel_values"]).pooler_output,
        model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output,
    )
    for ids, names in (
        (None, CLEAN),
        (batch["person_labels"], (*CLEAN, "person_labels")),
        (torch.tensor([5, 5, 5, 9]), CLEAN),
    ):
        person_ids = {"person_ids": ids} if ids is not None and "person_labels" not in names else {}
        output = model(**select(batch, *names), **person_ids)
        loss, logits = identity_contrastive_loss(*features, model.mmet.logit_scale, ids)
        torch.testing.assert_close(output.losses["global_contrastive"], loss, **CLOSE)
        torch.testing.assert_close(output.logits_per_image, logits, **CLOSE)


def test_global_contrastive__of_the_samples_with_both(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), select(make_pretraining_batch(), *CLEAN, "person_labels")
    presence = {
        "image_present": torch.tensor([True, True, False, True]),
        "text_present": torch.tensor([True, False, True, True]),
    }
    output = model(**batch, **presence)
    expected = model(**{name: value[[0, 3]] for name, value in batch.items()})
    torch.testing.assert_close(output.losses["global_contrastive"], expected.losses["global_contrastive"], **CLOSE)
    nobody = torch.zeros(4, dtype=torch.bool)
    assert model(**batch, text_present=nobody).losses["global_contrastive"].item() == 0


@pytest.mark.parametrize(
    ("pooling", "rows"), [("multimodal", [0, 1, 2, 3]), ("image", [0, 1, 3]), ("text", [0, 2, 3])]
)
def test_identity__of_the_samples_that_have_what_is_pooled(make_config, make_pretraining_batch, pooling, rows):
    config = make_config(identity_pooling=pooling)
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch()
    presence = {
        "image_present": torch.tensor([True, True, False, True]),
        "text_present": torch.tensor([True, False, True, True]),
    }
    labels = batch["person_labels"]
    output = model(**select(batch, *CLEAN), **presence, person_labels=labels)
    features = {
        "image": model.mmet.image_model(batch["pixel_values"]).pooler_output,
        "text": model.mmet.text_model(batch["input_ids"], batch["attention_mask"]).pooler_output,
        "multimodal": model.mmet(**select(batch, *CLEAN), **presence).multimodal_embeds[:, 0],
    }[pooling]
    embeddings, logits = model.identity_head(features[rows])
    torch.testing.assert_close(output.identity_embeds, embeddings, **CLOSE)
    expected = F.cross_entropy(logits, labels[rows], label_smoothing=0.1)
    torch.testing.assert_close(output.losses["identity"], expected, **CLOSE)


def test_logit_scale__starts_where_configured(make_config):
    assert MMETModel(make_config()).logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-3)
    assert MMETModel(make_config(logit_scale_init_value=1.5)).logit_scale.item() == 1.5
