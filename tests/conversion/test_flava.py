"""Weights of FLAVA taken over: transformers' own numbers wherever the docstrings say so."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from ancestors_at_hand import CODES, PATCHES, VOCAB, WIDTH, close, make_bert, make_vit
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    FlavaForPreTraining,
    FlavaModel,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mmet.conversion import from_bert, from_flava, from_vit
from modeling_mmet import MMETForPreTraining, MMETForReID, MMETModel


def only(batch: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    """Copies of the named inputs: FLAVA writes into its labels."""
    return {name: batch[name].clone() for name in names}


def assert_same_encoders(model: MMETModel, flava: FlavaModel, batch: dict[str, torch.Tensor]):
    """All hidden states of the three encoders, with their final norms, and the contrastive features."""
    with torch.no_grad():
        actual = model(**batch, output_hidden_states=True)
        expected = flava(**batch, output_hidden_states=True)
        expected_multimodal = flava.multimodal_model(
            torch.cat(
                [
                    flava.image_to_mm_projection(expected.image_output.hidden_states[-1]),
                    flava.text_to_mm_projection(expected.text_output.hidden_states[-1]),
                ],
                dim=1,
            ),
            F.pad(batch["attention_mask"], (1 + actual.image_embeds.shape[1], 0), value=1),
            output_hidden_states=True,
        )
        image_features = flava.get_image_features(batch["pixel_values"]).pooler_output[:, 0]
        text_features = flava.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output[:, 0]
        close(model.get_image_features(batch["pixel_values"]).pooler_output, image_features)
        close(model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output, text_features)
    for ours, theirs in (
        (actual.image_output, expected.image_output),
        (actual.text_output, expected.text_output),
        (actual.multimodal_output, expected_multimodal),
    ):
        assert len(ours.hidden_states) == len(theirs.hidden_states)
        for own_states, their_states in zip(ours.hidden_states, theirs.hidden_states, strict=True):
            close(own_states, their_states)
        close(ours.last_hidden_state, theirs.last_hidden_state)
    close(actual.multimodal_embeds, expected.multimodal_embeddings)


@pytest.mark.parametrize("model_class", [FlavaModel, FlavaForPreTraining])
@pytest.mark.parametrize("source", ["instance", "folder"])
def test_from_flava__encoders_and_features_are_the_same(make_flava, pairs, tmp_path, model_class, source):
    flava = make_flava(model_class)
    if source == "folder":
        flava.save_pretrained(tmp_path)
    model = from_flava(tmp_path if source == "folder" else flava, MMETModel)
    assert not model.training
    assert_same_encoders(model, flava.base_model, pairs)


def test_from_flava__hides_the_same_patches(make_flava, masked_pairs):
    flava = make_flava()
    inputs = only(masked_pairs, "pixel_values", "input_ids", "attention_mask", "bool_masked_pos")
    with torch.no_grad():
        actual, expected = from_flava(flava, MMETModel)(**inputs), flava.flava(**inputs)
    close(actual.image_embeds, expected.image_embeddings)
    close(actual.multimodal_embeds, expected.multimodal_embeddings)


@pytest.mark.parametrize(
    "options",
    [
        {part: {"qkv_bias": False} for part in ("image", "text", "multimodal")},
        {"image": {"image_size": 16}},
        {"image": {"hidden_size": 24, "hidden_act": "relu"}, "text": {"hidden_size": 40, "layer_norm_eps": 0.1}},
        {"image": {"num_channels": 1}, "text": {"type_vocab_size": 1, "pad_token_id": 3}},
        {"image": {"mask_token": False}},
    ],
    ids=["no qkv bias", "square", "three widths", "grey images, one segment", "no mask token"],
)
def test_from_flava__takes_other_shapes(make_flava, pairs, options):
    flava = make_flava(FlavaModel, **options)
    channels = flava.config.image_config.num_channels
    height = width = 16
    if flava.config.image_config.image_size != 16:
        height = 24
    batch = pairs | {"pixel_values": pairs["pixel_values"][:, :channels, :height, :width]}
    assert_same_encoders(from_flava(flava, MMETModel), flava, batch)


def test_from_flava__heads_and_losses_of_one_modality_are_the_same(make_flava, masked_pairs):
    flava = make_flava()
    model = from_flava(flava, MMETForPreTraining)
    image = only(masked_pairs, "pixel_values", "bool_masked_pos", "mim_labels")
    text = only(masked_pairs, "input_ids_masked", "attention_mask", "mlm_labels")
    with torch.no_grad():
        actual, expected = model(**image), flava(**{name: value.clone() for name, value in image.items()})
        close(actual.mim_logits, expected.mim_logits)
        close(actual.losses["mim"], expected.loss_info.mim)
        actual, expected = model(**text), flava(**text)
        close(actual.mlm_logits, expected.mlm_logits)
        close(actual.losses["mlm"], expected.loss_info.mlm)


def test_from_flava__heads_and_losses_of_pairs_are_the_same(make_flava, masked_pairs, tmp_path):
    flava = make_flava()
    flava.save_pretrained(tmp_path)
    model = from_flava(str(tmp_path), MMETForPreTraining)
    names = ("pixel_values", "bool_masked_pos", "mim_labels", "input_ids", "input_ids_masked", "attention_mask")
    batch = only(masked_pairs, *names, "mlm_labels", "itm_labels")
    with torch.no_grad():
        actual, expected = model(**batch), flava(**{name: value.clone() for name, value in batch.items()})
    for name in ("itm_logits", "mmm_image_logits", "mmm_text_logits"):
        close(actual[name], expected[name])
    for name in ("itm", "mmm_image", "mmm_text"):
        close(actual.losses[name], expected.loss_info[name])


def test_from_flava__contrastive_loss_is_the_same(make_flava, masked_pairs):
    flava = make_flava(logit_scale_init_value=1.5)
    names = ("pixel_values", "bool_masked_pos", "mim_labels", "input_ids", "input_ids_masked", "attention_mask")
    batch = only(masked_pairs, *names, "mlm_labels")
    with torch.no_grad():
        flava.flava.logit_scale.fill_(1.25)  # trained away from where it started
        model = from_flava(flava, MMETForPreTraining)
        actual, expected = model(**batch), flava(**{name: value.clone() for name, value in batch.items()})
    close(actual.losses["global_contrastive"], expected.loss_info.global_contrastive)
    close(actual.logits_per_image, expected.contrastive_logits_per_image)
    close(actual.loss, expected.loss)


def test_from_flava__untied_decoder_biases_are_the_ones_that_flava_reads(make_flava, masked_pairs):
    flava = make_flava(tie_word_embeddings=False)
    assert not torch.equal(flava.mlm_head.bias, flava.mlm_head.decoder.bias)
    text = only(masked_pairs, "input_ids_masked", "attention_mask", "mlm_labels")
    with torch.no_grad():
        close(from_flava(flava, MMETForPreTraining)(**text).mlm_logits, flava(**text).mlm_logits)


def test_from_flava__heads_are_not_tied(make_flava):
    model = from_flava(make_flava(), MMETForPreTraining)
    embeddings = model.get_input_embeddings().weight
    assert not model.config.tie_word_embeddings
    assert model.mlm_head.decoder.weight.data_ptr() != embeddings.data_ptr()
    assert not torch.equal(model.mlm_head.decoder.weight, model.mmm_text_head.decoder.weight)


def test_from_flava__configuration_is_kept(make_flava):
    flava = make_flava(
        image={"patch_size": 4, "hidden_dropout_prob": 0.25, "layer_norm_eps": 0.01, "hidden_act": "relu"},
        text={"pad_token_id": 2, "attention_probs_dropout_prob": 0.125},
        logit_scale_init_value=1.5,
        mmm_text_weight=0.5,
    )
    config = from_flava(flava, MMETModel).config
    image_config = config.image_config
    assert (image_config.image_size, image_config.patch_size, image_config.patch_stride) == ([24, 16], 4, 4)
    assert (image_config.hidden_dropout_prob, image_config.layer_norm_eps) == (0.25, 0.01)
    assert image_config.hidden_act == "relu"
    assert (config.text_config.pad_token_id, config.text_config.attention_probs_dropout_prob) == (2, 0.125)
    assert (config.text_config.num_hidden_layers, config.multimodal_config.num_hidden_layers) == (3, 1)
    assert (config.logit_scale_init_value, config.projection_dim, config.codebook_size) == (1.5, 20, CODES)
    assert (config.mmm_text_weight, config.mlm_weight, config.num_identities) == (0.5, 1.0, 0)


@pytest.mark.parametrize(("patch_size", "cell"), [(16, 4), (14, 2), (9, 3), (7, 1)])
def test_from_flava__codebook_cell_divides_the_patch(make_flava, patch_size, cell):
    codes_of_its_own = {"image_size": 2 * patch_size, "patch_size": patch_size, "vocab_size": CODES + 1}
    model = from_flava(make_flava(image=codes_of_its_own), MMETForPreTraining)
    assert (model.config.codebook_type, model.config.codebook_cell) == ("kmeans", cell)
    assert model.image_codebook.centroids.shape == (CODES + 1, 3 * (patch_size // cell) ** 2)
    assert not model.image_codebook.is_fitted


def test_from_flava__keeps_the_codebook(make_flava, make_patchwork, use_all_codes):
    flava = make_flava()
    use_all_codes(flava.image_codebook)
    model = from_flava(flava, MMETForPreTraining)
    assert (model.config.codebook_type, model.config.codebook_size) == ("dalle", CODES)
    # Patches of 8 pixels side by side: nothing is resized, and FLAVA's network reads [0, 1] mapped to [0.1, 0.9].
    mean, std = (torch.tensor(value)[:, None, None] for value in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    pixels = make_patchwork(4, 24, 16)
    expected = flava.image_codebook.get_codebook_indices(0.8 * pixels + 0.1).flatten(1)
    assert torch.equal(model.image_codebook((pixels - mean) / std), expected)
    assert len(expected.unique()) > 3
    masked = {"pixel_values": (pixels - mean) / std, "bool_masked_pos": torch.rand(4, PATCHES) < 0.5}
    actual = model(**masked).losses["mim"]
    codebook_pixels = {"codebook_pixel_values": 0.8 * pixels + 0.1, "return_loss": True}
    close(actual, flava(**{**masked, **codebook_pixels}, skip_multimodal_encoder=True).loss_info.mim)


def test_from_flava__a_model_without_codebook_has_no_codes_yet(make_flava):
    model = from_flava(make_flava(FlavaModel), MMETForPreTraining)
    assert model.config.codebook_type == "dalle"
    assert not model.image_codebook.is_fitted


def test_from_flava__a_model_without_heads_gets_fresh_ones(make_flava, pairs):
    flava = make_flava(FlavaModel, initializer_range=0.02)
    model = from_flava(flava, MMETForPreTraining)
    assert_same_encoders(model.mmet, flava, pairs)
    for head in (model.mim_head, model.mlm_head, model.mmm_image_head, model.mmm_text_head):
        assert head.transform.dense.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not model.mlm_head.bias.any()


def test_from_flava__fresh_identity_head_keeps_features(make_flava):
    model = from_flava(make_flava(), MMETForPreTraining)
    features = torch.randn(5, 32)
    embeddings, logits = model.identity_head(features)
    close(embeddings, features, 1e-4)  # a batch norm that has seen nothing
    assert logits is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_from_flava__dtype_is_kept(make_flava, tmp_path, dtype):
    flava = make_flava().to(dtype)
    flava.save_pretrained(tmp_path)
    for model in (from_flava(flava, MMETForPreTraining), from_flava(tmp_path, MMETForPreTraining)):
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    model = from_flava(tmp_path, MMETModel, dtype=torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_from_flava__weights_are_copies(make_flava):
    flava = make_flava(FlavaModel)
    model = from_flava(flava, MMETModel)
    before = model.image_projection.weight.clone()
    with torch.no_grad():
        flava.image_projection.weight.zero_()
    assert torch.equal(model.image_projection.weight, before)


def test_from_flava__saved_model_loads_and_trains(make_flava, pairs, tmp_path):
    from_flava(make_flava(), MMETForPreTraining).save_pretrained(tmp_path)
    model = MMETForPreTraining.from_pretrained(tmp_path, num_identities=3).train()
    loss = model(**pairs, person_labels=torch.tensor([0, 0, 1, 2])).loss
    loss.backward()
    assert loss.isfinite()
    assert model.mmet.image_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    reid = MMETForReID.from_pretrained(tmp_path).eval()
    assert reid(**pairs).embeddings.shape == (4, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multimodal": {"use_cls_token": False}}, "use_cls_token=False"),
        ({"image": {"patch_size": [8, 4]}}, "square patches"),
        ({"multimodal": {"hidden_act": "relu"}}, "hidden_act='relu'"),
        ({"text": {"layer_norm_eps": 0.1}}, "layer_norm_eps"),
    ],
)
def test_from_flava__refuses_what_it_cannot_express(make_flava, options, message):
    with pytest.raises(ValueError, match=message):
        from_flava(make_flava(**options), MMETForPreTraining)


def test_from_flava__refuses_weights_without_a_place(make_flava):
    flava = make_flava(FlavaModel)
    flava.text_model.adapter = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"text_model\.adapter\.weight"):
        from_flava(flava, MMETModel)


def test_from_flava__refuses_places_without_a_weight(make_flava):
    flava = make_flava(FlavaModel)
    del flava.text_to_mm_projection
    with pytest.raises(ValueError, match=r"text_to_multimodal\.weight"):
        from_flava(flava, MMETModel)


def test_from_flava__refuses_other_shapes(make_flava):
    flava = make_flava(FlavaModel)
    flava.config.text_config.intermediate_size = 56
    with pytest.raises(ValueError, match=r"fc1\.weight \(48, 32\) instead of \(56, 32\)"):
        from_flava(flava, MMETModel)


def test_from_flava__refuses_other_models(make_flava, tmp_path):
    bert = BertModel(BertConfig(vocab_size=VOCAB, **WIDTH))
    bert.save_pretrained(tmp_path)
    for source in (bert, tmp_path, make_flava(FlavaModel).image_model):
        with pytest.raises(ValueError, match="expected a model of type 'flava'"):
            from_flava(source, MMETModel)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 4}, r"\d+ weights of its encoders are missing, such as \S+3\."),
        ({"num_hidden_layers": 1}, r"\d+ weights of its encoders are unexpected, such as \S+1\."),
        ({"hidden_size": 64}, "shapes differ"),
    ],
)
@pytest.mark.parametrize(("make", "convert"), [(make_bert, from_bert), (make_vit, from_vit)])
def test_folder__weights_that_are_not_the_configurations_are_refused(make, convert, fields, message, tmp_path):
    """Transformers itself draws missing weights anew and leaves others out."""
    make(num_hidden_layers=3).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ValueError, match=f"do not fit each other: {message}"):
        convert(tmp_path)


@pytest.mark.parametrize("convert", [from_bert, from_flava, from_vit])
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[]", "config.json: expected the configuration of a model, a JSON object, received list"),
        ("config.json", "[" * 100_000, "config.json is not JSON"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        ("model.safetensors", "{", "is cut short or damaged"),
    ],
)
def test_folder__damaged_files_are_named(make_flava, tmp_path, convert, file, content, message):
    make_flava().save_pretrained(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path)


def test_from_flava__refuses_loading_options_for_a_loaded_model(make_flava):
    with pytest.raises(ValueError, match="revision"):
        from_flava(make_flava(FlavaModel), MMETModel, revision="main")
