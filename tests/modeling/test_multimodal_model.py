"""Features and embeddings of both modalities together: presence, pooling, what a sample depends on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from named_inputs import CLEAN, CLOSE, select
from transformers.modeling_outputs import BaseModelOutputWithPooling

import mmet  # noqa: F401 (registers the Auto classes)
from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
    MMETModel,
)


def test_model__shapes(config, make_batch):
    model, batch = MMETModel(config).eval(), make_batch(3)
    both = model(**batch)
    assert both.image_embeds.shape == (3, 9, 32)
    assert both.text_embeds.shape == (3, 7, 32)
    assert both.multimodal_embeds.shape == (3, 1 + 9 + 7, 32)
    image = model(pixel_values=batch["pixel_values"])
    assert image.text_embeds is None
    assert image.multimodal_embeds.shape == (3, 1 + 9, 32)
    text = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert text.image_embeds is None
    assert text.multimodal_embeds.shape == (3, 1 + 7, 32)


def test_model__encoders_of_different_widths(make_config, make_batch):
    config = make_config(image={"hidden_size": 48}, text={"hidden_size": 16})
    output = MMETForPreTraining(config).mmet(**make_batch(2))
    assert output.image_embeds.shape[-1] == 48
    assert output.text_embeds.shape[-1] == 16
    assert output.multimodal_embeds.shape == (2, 17, 32)


def test_model__features(config, make_batch):
    model, batch = MMETModel(config).eval(), make_batch(2)
    output = model(**batch)
    image = model.image_projection(output.image_embeds[:, 0])
    text = model.text_projection(output.text_embeds[:, 0])
    image_features = model.get_image_features(batch["pixel_values"])
    text_features = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    multimodal_features = model.get_multimodal_features(**batch)
    torch.testing.assert_close(image_features.pooler_output, image)
    torch.testing.assert_close(text_features.pooler_output, text)
    torch.testing.assert_close(multimodal_features.pooler_output, output.multimodal_embeds[:, 0])
    torch.testing.assert_close(image_features.last_hidden_state, output.image_embeds)
    torch.testing.assert_close(text_features.last_hidden_state, output.text_embeds)
    torch.testing.assert_close(multimodal_features.last_hidden_state, output.multimodal_embeds)


@pytest.mark.parametrize("model_class", [MMETModel, MMETForReID, MMETForPreTraining])
def test_features__states_on_request_and_tuples(model_class, config, make_batch):
    model, batch = model_class(config).eval(), make_batch(2)
    model.set_attn_implementation("eager")
    options = {"output_hidden_states": True, "output_attentions": True}
    for features, inputs, length in (
        (model.get_image_features, {"pixel_values": batch["pixel_values"]}, 9),
        (model.get_text_features, {name: batch[name] for name in ("input_ids", "attention_mask")}, 7),
        (model.get_multimodal_features, batch, 17),
    ):
        output = features(**inputs)
        assert isinstance(output, BaseModelOutputWithPooling)
        assert output.hidden_states is None
        assert output.attentions is None
        recorded = features(**inputs, **options)
        assert [tuple(states.shape) for states in recorded.hidden_states] == [(2, length, 32)] * 3
        assert [tuple(weights.shape) for weights in recorded.attentions] == [(2, 4, length, length)] * 2
        states, pooled = features(**inputs, return_dict=False)
        assert torch.equal(states, output.last_hidden_state)
        assert torch.equal(pooled, output.pooler_output)


def test_model__tuple_on_request(config, make_batch):
    model, batch = MMETForReID(config).eval(), make_batch(2)
    assert torch.equal(model(**batch, return_dict=False)[0], model(**batch).embeddings)


def test_return_dict__switched_off_in_the_configuration(make_config, make_batch):
    config, batch = make_config(), make_batch(2)
    model = MMETForReID(config).eval()
    expected, features = model(**batch).embeddings, model.get_multimodal_features(**batch)
    config.return_dict = False
    assert torch.equal(model(**batch)[0], expected)
    assert torch.equal(model.mmet.get_multimodal_features(**batch)[1], features.pooler_output)


@pytest.mark.parametrize("model_class", [MMETModel, MMETForReID, MMETForPreTraining])
def test_no_modality__for_the_batch(model_class, config):
    with pytest.raises(ValueError, match="no modality at all: give pixel_values, input_ids or both"):
        model_class(config)()


@pytest.mark.parametrize("model_class", [MMETModel, MMETForReID])
def test_no_modality__names_the_samples(model_class, config, make_batch):
    image_present = torch.tensor([True, False, True, False])
    text_present = torch.tensor([True, False, False, False])
    with pytest.raises(ValueError, match=r"samples \[1, 3\] have neither an image nor a text"):
        model_class(config)(**make_batch(4), image_present=image_present, text_present=text_present)
    with pytest.raises(ValueError, match=r"samples \[1, 3\] have neither"):
        model_class(config)(pixel_values=make_batch(4)["pixel_values"], image_present=image_present)


@pytest.mark.parametrize("pooling", ["image", "text"])
def test_identity_pooling__sample_without_the_pooled_modality(make_config, make_batch, pooling):
    model = MMETForReID(make_config(identity_pooling=pooling)).eval()
    present = {f"{pooling}_present": torch.tensor([True, False, False])}
    with pytest.raises(ValueError, match=rf"identity_pooling='{pooling}'.*samples \[1, 2\]"):
        model(**make_batch(3), **present)
    model(**make_batch(3), **{f"{pooling}_present": torch.ones(3, dtype=torch.bool)})


@pytest.mark.parametrize(("pooling", "other_input"), [("image", "input_ids"), ("text", "pixel_values")])
def test_identity_pooling__batch_without_the_pooled_modality(make_config, make_batch, pooling, other_input):
    model = MMETForReID(make_config(identity_pooling=pooling)).eval()
    with pytest.raises(ValueError, match=f"identity_pooling='{pooling}'"):
        model(**select(make_batch(2), other_input))


@pytest.fixture(scope="module")
def embedders(make_config) -> dict[str, MMETForReID]:
    """One embedder for each attention implementation, of the same weights."""
    torch.manual_seed(0)
    models = {}
    for implementation in ("sdpa", "eager"):
        config = make_config()
        config._attn_implementation = implementation
        models[implementation] = MMETForReID(config).eval()
    models["eager"].load_state_dict(models["sdpa"].state_dict())
    return models


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_presence__equals_giving_one_modality(embedders, make_batch, implementation):
    model, batch = embedders[implementation], make_batch(2)
    both = dict.fromkeys(("image_present", "text_present"), torch.tensor([True, True]))
    nobody = torch.tensor([False, False])
    for inputs, presence in (
        (CLEAN, both),
        (("pixel_values",), {"text_present": nobody}),
        (("input_ids", "attention_mask"), {"image_present": nobody}),
    ):
        expected = model(**select(batch, *inputs)).embeddings
        torch.testing.assert_close(model(**batch, **presence).embeddings, expected, **CLOSE)


@settings(max_examples=40, deadline=None)
@given(
    modalities=st.lists(st.sampled_from(["image", "text", "both"]), min_size=1, max_size=5),
    extra_padding=st.integers(0, 4),
    garbage=st.sampled_from([math.nan, math.inf, 1e30]),
    implementation=st.sampled_from(["sdpa", "eager"]),
    seed=st.integers(0, 2**16),
)
def test_embedding__depends_on_the_sample_alone(
    embedders, make_batch, modalities, extra_padding, garbage, implementation, seed
):
    """A batch of any modalities gives what each sample gives alone, without its padding and absent parts."""
    model, batch = embedders[implementation], make_batch(len(modalities), seed=seed)
    batch["input_ids"] = F.pad(batch["input_ids"], (0, extra_padding), value=9)  # a word that the mask must hide
    batch["attention_mask"] = F.pad(batch["attention_mask"], (0, extra_padding))
    image_present = torch.tensor([modality != "text" for modality in modalities])
    text_present = torch.tensor([modality != "image" for modality in modalities])
    batch["pixel_values"][~image_present] = garbage
    batch["attention_mask"][~text_present] = 0
    with torch.no_grad():
        together = model(**batch, image_present=image_present, text_present=text_present).embeddings
        for index in range(len(modalities)):
            length = batch["attention_mask"][index].sum()
            inputs = {}
            if image_present[index]:
                inputs["pixel_values"] = batch["pixel_values"][index : index + 1]
            if text_present[index]:
                inputs["input_ids"] = batch["input_ids"][index : index + 1, :length]
            torch.testing.assert_close(together[index : index + 1], model(**inputs).embeddings, **CLOSE)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(modalities)))


@pytest.mark.parametrize("model_class", [MMETForReID, MMETForPreTraining])
def test_presence__broken_absent_image_leaves_gradients_alone(model_class, config, make_batch):
    model, batch = model_class(config).eval(), make_batch(4)
    labels = {"labels" if model_class is MMETForReID else "person_labels": torch.tensor([0, 0, 1, 1])}
    image_present = torch.tensor([True, False, True, False])
    gradients = []
    for content in (0.0, math.nan):
        batch["pixel_values"][~image_present] = content
        model.zero_grad()
        model(**batch, **labels, image_present=image_present).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in gradients[0].items():
        assert expected.isfinite().all(), name
        torch.testing.assert_close(gradients[1][name], expected, msg=name)


def test_embedding__depends_on_every_modality_that_is_there(embedders, make_batch):
    model, batch, other = embedders["sdpa"], make_batch(2, seed=1), make_batch(2, seed=2)
    reference = model(**batch).embeddings
    for name in ("pixel_values", "input_ids"):
        assert (model(**batch | {name: other[name]}).embeddings - reference).abs().amax() > 1e-2
