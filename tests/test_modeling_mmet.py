"""The encoders, the multimodal model and the training heads, against other implementations and the promises made."""

import copy
import functools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, AutoModelForPreTraining, BertConfig, ViTConfig, ViTModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.bert.modeling_bert import BertEmbeddings

import mmet  # noqa: F401 (registers the Auto classes)
from modeling_mmet import (
    CLASS_TOKEN,
    LOSS_NAMES,
    MMETForPreTraining,
    MMETForReID,
    MMETImageModel,
    MMETLayer,
    MMETModel,
    MMETMultimodalModel,
    MMETTextModel,
    batch_hard_triplet_loss,
    identity_contrastive_loss,
)

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CLEAN = ("pixel_values", "input_ids", "attention_mask")


def _select(batch: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in names}


# --- encoders --------------------------------------------------------------------------------------------------------


def test_image_model__shapes(config):
    output = MMETImageModel(config.image_config)(torch.randn(3, 3, 52, 28))
    assert output.last_hidden_state.shape == output.pre_norm_hidden_state.shape == (3, 9, 32)
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])


def test_text_model__shapes(config):
    output = MMETTextModel(config.text_config)(torch.randint(0, 14, (3, 7)))
    assert output.last_hidden_state.shape == output.pre_norm_hidden_state.shape == (3, 7, 32)
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])


def test_multimodal_model__shapes(config):
    output = MMETMultimodalModel(config.multimodal_config)(torch.randn(3, 5, 32))
    assert output.last_hidden_state.shape == (3, 6, 32)  # [CLS_M] comes first


@pytest.mark.parametrize("positions", ["class token", "mask"])
@pytest.mark.parametrize("hidden_states", [False, True], ids=["", "hidden states recorded"])
def test_read_positions__are_those_of_the_whole_output(config, positions, hidden_states):
    model = MMETTextModel(config.text_config).eval()
    input_ids, attention_mask = torch.randint(1, 14, (3, 7)), torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0]])
    read = CLASS_TOKEN if positions == "class token" else torch.rand(3, 7) < 0.4
    whole = model(input_ids, attention_mask, output_hidden_states=True)
    partial = model(input_ids, attention_mask, read_positions=read, output_hidden_states=hidden_states)
    index = (slice(None), 0) if positions == "class token" else read
    torch.testing.assert_close(partial.last_hidden_state, whole.last_hidden_state[index], **CLOSE)
    torch.testing.assert_close(partial.pre_norm_hidden_state, whole.pre_norm_hidden_state[index], **CLOSE)
    if positions == "class token":
        torch.testing.assert_close(partial.pooler_output, whole.pooler_output, **CLOSE)
    else:
        assert partial.pooler_output is None
    if hidden_states:
        for state, expected in zip(partial.hidden_states, whole.hidden_states, strict=True):
            assert torch.equal(state, expected)


def _count_mlp_rows(model: nn.Module, action) -> list[int]:
    """Rows that the first linear layer of every MLP of `model` reads during `action()`, in the order of the calls."""
    rows: list[int] = []
    mlps = [module for module in model.modules() if type(module).__name__ == "MMETMLP"]
    handles = [
        mlp.fc1.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[:-1].numel())) for mlp in mlps
    ]
    with torch.no_grad():
        action()
    for handle in handles:
        handle.remove()
    return rows


def test_last_layer__mlp_runs_on_what_is_read_alone(config, make_pretraining_batch):
    model = MMETForPreTraining(config).eval()
    nn.init.normal_(model.image_codebook.centroids)
    batch = make_pretraining_batch(4)
    masked = batch["bool_masked_pos"]
    rows = _count_mlp_rows(model.mmet.image_model, lambda: model(**_select(batch, "pixel_values", "bool_masked_pos")))
    assert rows == [masked.numel() + 4, int(masked.sum())]  # two layers; [CLS_I] is read by the first alone
    reid = MMETForReID(config).eval()
    rows = _count_mlp_rows(reid.mmet.multimodal_model, lambda: reid(**_select(batch, *CLEAN)))
    assert rows == [4 * (2 + masked.shape[1] + batch["input_ids"].shape[1]), 4]


def _copy_into_vit(model: MMETImageModel) -> ViTModel:
    """transformers' ViT with the weights of an image encoder whose patches do not overlap."""
    config = model.config
    vit_config = ViTConfig(
        image_size=tuple(config.image_size),
        patch_size=config.patch_size,
        layer_norm_eps=config.layer_norm_eps,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
    )
    ours, renamed = model.state_dict(), {}
    for theirs, name in (("cls_token", "cls_token"), ("position_embeddings", "position_embedding")):
        renamed[f"embeddings.{theirs}"] = ours[f"embeddings.{name}"]
    modules = {
        "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
        "layernorm": "encoder.final_norm",
    }
    for layer in range(config.num_hidden_layers):
        modules |= {
            f"layers.{layer}.layernorm_before": f"encoder.layers.{layer}.attention_norm",
            f"layers.{layer}.layernorm_after": f"encoder.layers.{layer}.mlp_norm",
            f"layers.{layer}.attention.o_proj": f"encoder.layers.{layer}.attention.out_proj",
            f"layers.{layer}.mlp.fc1": f"encoder.layers.{layer}.mlp.fc1",
            f"layers.{layer}.mlp.fc2": f"encoder.layers.{layer}.mlp.fc2",
        }
        for kind in ("weight", "bias"):
            parts = ours[f"encoder.layers.{layer}.attention.qkv_proj.{kind}"].chunk(3)
            for projection, part in zip("qkv", parts, strict=True):
                renamed[f"layers.{layer}.attention.{projection}_proj.{kind}"] = part
    for theirs, name in modules.items():
        renamed |= {f"{theirs}.{kind}": ours[f"{name}.{kind}"] for kind in ("weight", "bias")}
    vit = ViTModel(vit_config, add_pooling_layer=False)
    vit.load_state_dict(renamed)
    return vit.eval()


def test_image_model__equals_transformers_vit(make_config):
    config = make_config(image={"image_size": (64, 32), "patch_stride": 16}).image_config
    model = MMETImageModel(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)  # biases and norms too, so that a mix-up shows
    pixel_values = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        ours = model(pixel_values, output_hidden_states=True)
        theirs = _copy_into_vit(model)(pixel_values, output_hidden_states=True)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, **CLOSE)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 3
    for ours_layer, theirs_layer in zip(ours.hidden_states[:-1], theirs.hidden_states[:-1], strict=True):
        torch.testing.assert_close(ours_layer, theirs_layer, **CLOSE)


def test_image_embeddings__overlapping_patches_by_hand(config):
    embeddings = MMETImageModel(config.image_config).embeddings
    pixel_values = torch.randn(1, 3, 52, 28)
    received = embeddings(pixel_values)[0]
    kernel, bias = embeddings.patch_embedding.weight.flatten(1), embeddings.patch_embedding.bias
    index = 1
    for top in (0, 12, 24, 36):
        for left in (0, 12):
            patch = pixel_values[0, :, top : top + 16, left : left + 16].flatten()
            expected = kernel @ patch + bias + embeddings.position_embedding[0, index]
            torch.testing.assert_close(received[index], expected, atol=1e-4, rtol=1e-4)
            index += 1
    torch.testing.assert_close(received[0], embeddings.cls_token[0, 0] + embeddings.position_embedding[0, 0])


def test_text_embeddings__equal_berts(config):
    embeddings = MMETTextModel(config.text_config).eval().embeddings
    bert = BertEmbeddings(
        BertConfig(vocab_size=14, hidden_size=32, max_position_embeddings=12, layer_norm_eps=1e-12, type_vocab_size=1)
    ).eval()
    nn.init.normal_(embeddings.layer_norm.weight)
    nn.init.normal_(embeddings.layer_norm.bias)
    with torch.no_grad():
        bert.word_embeddings.weight.copy_(embeddings.token_embedding.weight)
        bert.position_embeddings.weight.copy_(embeddings.position_embedding[0])
        bert.token_type_embeddings.weight.zero_()
        bert.LayerNorm.load_state_dict(embeddings.layer_norm.state_dict())
        input_ids = torch.randint(0, 14, (3, 9))
        torch.testing.assert_close(embeddings(input_ids), bert(input_ids), **CLOSE)


@pytest.mark.parametrize("model_class", [MMETModel, MMETForReID, MMETForPreTraining])
def test_attention__eager_equals_sdpa(model_class, config, make_pretraining_batch, tmp_path):
    model_class(config).save_pretrained(tmp_path)
    outputs = []
    for implementation in ("eager", "sdpa"):
        model = model_class.from_pretrained(tmp_path, attn_implementation=implementation).eval()
        attentions = [module for module in model.modules() if type(module).__name__ == "MMETAttention"]
        assert {module.config._attn_implementation for module in attentions} == {implementation}
        batch = make_pretraining_batch()
        with torch.no_grad():
            outputs.append(model(**batch if model_class is MMETForPreTraining else _select(batch, *CLEAN)))
    field = {MMETModel: "multimodal_embeds", MMETForReID: "embeddings", MMETForPreTraining: "loss"}[model_class]
    torch.testing.assert_close(outputs[0][field], outputs[1][field], **CLOSE)


def test_hidden_states_and_attentions__on_request(config, make_batch):
    config._attn_implementation = "eager"
    model = MMETModel(config).eval()
    batch = make_batch(2)
    plain = model(**batch)
    assert plain.image_output.hidden_states is None
    assert plain.image_output.attentions is None
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    for encoder, length in ((output.image_output, 9), (output.text_output, 7), (output.multimodal_output, 17)):
        assert [tuple(states.shape) for states in encoder.hidden_states] == [(2, length, 32)] * 3
        assert torch.equal(encoder.hidden_states[-1], encoder.pre_norm_hidden_state)
        assert [tuple(weights.shape) for weights in encoder.attentions] == [(2, 4, length, length)] * 2
        torch.testing.assert_close(encoder.attentions[0].sum(-1), torch.ones(2, 4, length))
    padding = batch["attention_mask"][:, None, None, :].expand(-1, 4, 7, -1) == 0
    assert output.text_output.attentions[1][padding].abs().max() == 0


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_text_model__padding_changes_nothing(config, implementation):
    config.text_config._attn_implementation = implementation
    model = MMETTextModel(config.text_config).eval()
    input_ids = torch.randint(5, 14, (1, 5))
    padded = F.pad(input_ids, (0, 4))
    alone = model(input_ids).last_hidden_state
    among_padding = model(padded, (padded != 0).long()).last_hidden_state[:, :5]
    torch.testing.assert_close(among_padding, alone, **CLOSE)
    assert not torch.allclose(model(padded).last_hidden_state[:, :5], alone, atol=1e-3)  # the mask is what does it


def test_position_embedding__interpolated_for_another_size(config):
    embeddings = MMETImageModel(config.image_config).embeddings
    pixel_values = torch.randn(1, 3, 76, 40)  # 6x3 patches
    grid = embeddings.position_embedding[:, 1:].reshape(1, 4, 2, 32).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(6, 3), mode="bicubic", align_corners=False)
    positions = grid.permute(0, 2, 3, 1).reshape(1, 18, 32)
    patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
    received = embeddings(pixel_values, interpolate_pos_encoding=True)
    torch.testing.assert_close(received[:, 1:], patches + positions, **CLOSE)
    torch.testing.assert_close(received[:, :1], embeddings.cls_token + embeddings.position_embedding[:, :1])


def test_position_embedding__interpolation_keeps_the_configured_size(config, make_batch):
    model = MMETForReID(config).eval()
    batch = make_batch(2)
    expected, received = model(**batch), model(**batch, interpolate_pos_encoding=True)
    assert torch.equal(received.embeddings, expected.embeddings)


def test_image_model__other_size_is_an_error(config):
    with pytest.raises(ValueError, match=r"expected pixel_values of size \[52, 28\], received \[28, 52\]"):
        MMETImageModel(config.image_config)(torch.randn(1, 3, 28, 52))


def test_text_model__too_long_is_an_error(config):
    with pytest.raises(ValueError, match="at most max_position_embeddings=12 tokens, received 13"):
        MMETTextModel(config.text_config)(torch.zeros(1, 13, dtype=torch.long))


@pytest.mark.parametrize("shape", [(2, 9), (1, 8), (2, 4, 2)])
def test_image_model__wrong_mask_shape_is_an_error(config, shape):
    with pytest.raises(ValueError, match=r"expected bool_masked_pos of shape \(2, 8\), received"):
        MMETImageModel(config.image_config)(torch.randn(2, 3, 52, 28), torch.zeros(shape, dtype=torch.bool))


def test_bool_masked_pos__hides_the_patches(make_config):
    config = make_config(image={"image_size": (64, 32), "patch_stride": 16}).image_config
    model = MMETImageModel(config).eval()
    masked = torch.tensor([[False, True, False, False, False, False, True, False]])
    pixel_values = torch.randn(1, 3, 64, 32)
    other = pixel_values.clone()
    other[..., :16, 16:] = 7.0  # patch 1
    other[..., 48:, :16] = -7.0  # patch 6
    assert torch.equal(model(pixel_values, masked).last_hidden_state, model(other, masked).last_hidden_state)
    assert not torch.allclose(model(pixel_values).last_hidden_state, model(other).last_hidden_state)
    assert not torch.allclose(model(pixel_values).last_hidden_state, model(pixel_values, masked).last_hidden_state)


def _pixels_of(patches: list[int], size: tuple[int, int], columns: int, patch: int, stride: int) -> torch.Tensor:
    """True `(H, W)` at the pixels of these patches."""
    covered = torch.zeros(size, dtype=torch.bool)
    for index in patches:
        top, left = index // columns * stride, index % columns * stride
        covered[top : top + patch, left : left + patch] = True
    return covered


@pytest.mark.parametrize("size", [(52, 28), (55, 33), (70, 52)], ids=["as configured", "with a rest", "interpolated"])
@pytest.mark.parametrize("hide", [False, True])
def test_hide_masked_pixels__no_output_depends_on_them(make_config, hide, size):
    image_size = size if size[0] < 70 else (52, 28)
    config = make_config(image={"hide_masked_pixels": hide, "image_size": image_size}).image_config
    model, masked = MMETImageModel(config).eval(), [1, 5]
    rows, columns = config.grid_of(*size)
    bool_masked_pos = torch.zeros(2, rows * columns, dtype=torch.bool)
    bool_masked_pos[0, masked] = True
    pixel_values = torch.randn(2, 3, *size, requires_grad=True)
    output = model(pixel_values, bool_masked_pos, interpolate_pos_encoding=True).last_hidden_state
    (output * torch.randn_like(output)).sum().backward()
    covered = _pixels_of(masked, size, columns, patch=16, stride=12)
    assert (pixel_values.grad[0][:, covered] == 0).all() == hide  # neighbours read the pixels that they share
    read = _pixels_of(range(rows * columns), size, columns, patch=16, stride=12)
    assert (pixel_values.grad[0][:, read & ~covered] != 0).any()
    assert (pixel_values.grad[1][:, read] != 0).all()  # nothing is masked there
    other = torch.where(covered, 9.0, pixel_values[0]).detach()[None]
    same = torch.equal(model(other, bool_masked_pos[:1], interpolate_pos_encoding=True).last_hidden_state, output[:1])
    assert not hide or same


def test_hide_masked_pixels__codes_are_those_of_the_whole_image(make_config, make_pretraining_batch):
    batch = _select(make_pretraining_batch(), "pixel_values", "bool_masked_pos")
    codes = []
    for hide in (False, True):
        torch.manual_seed(0)
        model = MMETForPreTraining(make_config(image={"hide_masked_pixels": hide})).eval()
        nn.init.normal_(model.image_codebook.centroids)
        codes.append(model(**batch).mim_codes)
    assert torch.equal(*codes)
    assert len(codes[0].unique()) > 1


@pytest.mark.parametrize("wanted", LOSS_NAMES)
def test_interpolate_pos_encoding__each_loss_by_itself(make_config, make_pretraining_batch, wanted):
    """Images of another size than configured, here with a grid of 5 x 3 patches."""
    model = MMETForPreTraining(make_config(**{f"{name}_weight": float(name == wanted) for name in LOSS_NAMES}))
    masked = torch.rand(4, 15) < 0.4
    batch = make_pretraining_batch() | {
        "pixel_values": torch.randn(4, 3, 64, 40),
        "bool_masked_pos": masked,
        "mim_labels": torch.randint(0, 6, (4, 15)),
    }
    if wanted == "mim":
        batch = _select(batch, "pixel_values", "bool_masked_pos", "mim_labels")
    if wanted == "mlm":
        batch = _select(batch, "input_ids_masked", "mlm_labels", "attention_mask")
    output = model(**batch, interpolate_pos_encoding=True)
    assert {name for name, loss in output.losses.items() if loss is not None} == {wanted}
    output.loss.backward()
    if wanted != "mlm":
        with pytest.raises(ValueError, match="interpolate_pos_encoding=True"):
            model(**batch)


def test_bool_masked_pos__none_masked_is_no_mask(config):
    model = MMETImageModel(config.image_config).eval()
    pixel_values = torch.randn(2, 3, 52, 28)
    nothing = torch.zeros(2, 8, dtype=torch.long)  # 0 and 1 count as False and True
    assert torch.equal(model(pixel_values, nothing).last_hidden_state, model(pixel_values).last_hidden_state)


# --- the multimodal model --------------------------------------------------------------------------------------------


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
    asked = {"output_hidden_states": True, "output_attentions": True}
    for features, inputs, length in (
        (model.get_image_features, {"pixel_values": batch["pixel_values"]}, 9),
        (model.get_text_features, {name: batch[name] for name in ("input_ids", "attention_mask")}, 7),
        (model.get_multimodal_features, batch, 17),
    ):
        output = features(**inputs)
        assert isinstance(output, BaseModelOutputWithPooling)
        assert output.hidden_states is None
        assert output.attentions is None
        recorded = features(**inputs, **asked)
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


@pytest.mark.parametrize(("pooling", "given"), [("image", "input_ids"), ("text", "pixel_values")])
def test_identity_pooling__batch_without_the_pooled_modality(make_config, make_batch, pooling, given):
    model = MMETForReID(make_config(identity_pooling=pooling)).eval()
    with pytest.raises(ValueError, match=f"identity_pooling='{pooling}'"):
        model(**_select(make_batch(2), given))


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
        expected = model(**_select(batch, *inputs)).embeddings
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


# --- the eight losses ------------------------------------------------------------------------------------------------

IMAGE_ONLY = ("pixel_values", "bool_masked_pos", "mim_labels")
TEXT_ONLY = ("input_ids_masked", "mlm_labels", "masked_attention_mask")
L_MMM = ("mmm_image", "mmm_text")
EVERYTHING = (*CLEAN, "bool_masked_pos", "mim_labels", "input_ids_masked", "mlm_labels", "itm_labels", "person_labels")


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
    output = MMETForPreTraining(config)(**_select(batch, *inputs))
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
        output = model(**_select(batch, *inputs))
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
    model.mmet.text_model.embeddings.register_forward_hook(lambda _, given, __: lengths.append(given[0].shape[1]))
    batch = _select(make_pretraining_batch(), *inputs)
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
    batch = _select(_pad(make_pretraining_batch(), 3), "input_ids_masked", "mlm_labels", "attention_mask")
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
    output = model(**_select(make_pretraining_batch(), *inputs))
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
    batch = _select(make_pretraining_batch(), *IMAGE_ONLY)
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
    batch = _select(make_pretraining_batch(), "input_ids_masked", "mlm_labels", "attention_mask")
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


def test_mmm__masked_captions_have_their_own_padding(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch()
    inputs = _select(batch, *IMAGE_ONLY, "input_ids_masked", "mlm_labels")
    clean = {"input_ids": batch["input_ids"][:, :4], "attention_mask": torch.ones(4, 4, dtype=torch.long)}
    output = model(**inputs, **clean, masked_attention_mask=batch["attention_mask"])
    expected = model(**inputs, attention_mask=batch["attention_mask"])
    torch.testing.assert_close(output.losses["mmm_text"], expected.losses["mmm_text"], **CLOSE)
    alone = model(**_select(batch, "pixel_values"), **clean)
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
        output = model(**_select(batch, *names), **person_ids)
        loss, logits = identity_contrastive_loss(*features, model.mmet.logit_scale, ids)
        torch.testing.assert_close(output.losses["global_contrastive"], loss, **CLOSE)
        torch.testing.assert_close(output.logits_per_image, logits, **CLOSE)


def test_global_contrastive__of_the_samples_with_both(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), _select(make_pretraining_batch(), *CLEAN, "person_labels")
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
    output = model(**_select(batch, *CLEAN), **presence, person_labels=labels)
    features = {
        "image": model.mmet.image_model(batch["pixel_values"]).pooler_output,
        "text": model.mmet.text_model(batch["input_ids"], batch["attention_mask"]).pooler_output,
        "multimodal": model.mmet(**_select(batch, *CLEAN), **presence).multimodal_embeds[:, 0],
    }[pooling]
    embeddings, logits = model.identity_head(features[rows])
    torch.testing.assert_close(output.identity_embeds, embeddings, **CLOSE)
    expected = F.cross_entropy(logits, labels[rows], label_smoothing=0.1)
    torch.testing.assert_close(output.losses["identity"], expected, **CLOSE)


def test_logit_scale__starts_where_configured(make_config):
    assert MMETModel(make_config()).logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-3)
    assert MMETModel(make_config(logit_scale_init_value=1.5)).logit_scale.item() == 1.5


@pytest.mark.parametrize("pooling", ["multimodal", "image", "text"])
def test_identity__pooled_class_token(make_config, make_batch, pooling):
    config = make_config(identity_pooling=pooling)
    model, batch = MMETForReID(config).eval(), make_batch(3)
    model.identity_head.bnneck.running_mean.normal_()
    model.identity_head.bnneck.running_var.uniform_(0.5, 2.0)
    states = getattr(model.mmet(**batch), f"{pooling}_embeds")[:, 0]
    neck = model.identity_head.bnneck
    normalised = (states - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    output = model(**batch)
    torch.testing.assert_close(output.embeddings, normalised / normalised.norm(dim=1, keepdim=True), **CLOSE)
    torch.testing.assert_close(output.logits, normalised @ model.identity_head.classifier.weight.T, **CLOSE)
    pretraining = MMETForPreTraining(config).eval()
    pretraining.load_state_dict(model.state_dict(), strict=False)
    output = pretraining(**batch, person_labels=torch.tensor([0, 0, 1]))
    torch.testing.assert_close(output.identity_embeds, normalised, **CLOSE)
    triplet = batch_hard_triplet_loss(normalised, torch.tensor([0, 0, 1]), config.triplet_margin)
    torch.testing.assert_close(output.losses["triplet"], triplet, **CLOSE)


def test_bnneck__has_no_bias_to_train(config, make_pretraining_batch):
    model = MMETForPreTraining(config).requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**make_pretraining_batch()).loss.backward()
    optimizer.step()
    neck = model.identity_head.bnneck
    assert neck.bias is None
    assert set(neck.state_dict()) == {"weight", "running_mean", "running_var", "num_batches_tracked"}
    assert not torch.equal(neck.weight, torch.ones(32))
    assert not torch.equal(neck.running_mean, torch.zeros(32))  # training gathers statistics


def test_bnneck__frozen_keeps_its_statistics_and_uses_them(make_config, make_batch):
    model = MMETForReID(make_config()).train()
    neck = model.identity_head.bnneck
    neck.weight.requires_grad_(False)
    neck.running_mean.normal_()
    before, features = copy.deepcopy(neck.state_dict()), torch.randn(5, 32)
    expected = (features - neck.running_mean) / (neck.running_var + neck.eps).sqrt()
    torch.testing.assert_close(neck(features), expected)
    model(**make_batch())
    assert all(torch.equal(value, before[name]) for name, value in neck.state_dict().items())


@pytest.mark.parametrize(("share", "image_views", "text_views"), [(1.0, 3, 2), (0.5, 1, 1), (0.2, 1, 0), (0.0, 0, 0)])
def test_modality_dropout__number_of_views(make_config, make_batch, share, image_views, text_views):
    model, batch = MMETForPreTraining(make_config(modality_dropout=share)).train(), make_batch(5)
    lengths = []
    model.mmet.multimodal_model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(tuple(args[0].shape[:2])), with_kwargs=True
    )
    output = model(**batch, person_labels=torch.tensor([0, 0, 1, 1, 2]))
    assert len(output.identity_embeds) == len(output.identity_logits) == 5 + image_views + text_views
    expected = [(5, 9 + 7)] + [(image_views, 9)] * (image_views > 0) + [(text_views, 7)] * (text_views > 0)
    assert lengths == expected


def test_modality_dropout__drops_from_whole_pairs_alone(config, make_batch):
    model = MMETForPreTraining(config).train()
    text_present = torch.tensor([True, False, True, False, True])  # three pairs and two images
    labels = torch.tensor([0, 0, 1, 1, 2])
    views = []
    model.identity_head.register_forward_pre_hook(lambda _, args: views.append(args[0]))
    model(**make_batch(5), text_present=text_present, person_labels=labels)
    assert len(views[0]) == 5 + 3
    batch = make_batch(5)
    image = model.mmet(pixel_values=batch["pixel_values"]).multimodal_embeds[:, 0]
    text = model.mmet(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).multimodal_embeds[:, 0]
    torch.testing.assert_close(views[0][[1, 3]], image[[1, 3]], **CLOSE)  # as they are: images without a caption
    distances = torch.cdist(views[0][5:], torch.cat([image, text]))
    assert distances.amin(dim=1).max() < 1e-4
    assert sorted((distances.argmin(dim=1) % 5).tolist()) == [0, 2, 4]


def test_modality_dropout__not_in_evaluation(config, make_batch):
    output = MMETForPreTraining(config).eval()(**make_batch(4), person_labels=torch.tensor([0, 0, 1, 1]))
    assert len(output.identity_embeds) == 4


def test_modality_dropout__views_keep_their_person(make_config, make_batch):
    """Every view is the embedding of one sample with one modality dropped, and is scored with that sample's label."""
    config = make_config(label_smoothing=0.0, triplet_weight=0.0)
    model, batch = MMETForPreTraining(config).train(), make_batch(4)
    labels = torch.tensor([3, 1, 0, 2])
    views = []
    model.identity_head.register_forward_pre_hook(lambda _, args: views.append(args[0]))
    output = model(**batch, person_labels=labels)
    image = model.mmet(pixel_values=batch["pixel_values"]).multimodal_embeds[:, 0]
    text = model.mmet(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).multimodal_embeds[:, 0]
    distances = torch.cdist(views[0][4:], torch.cat([image, text]))
    assert distances.amin(dim=1).max() < 1e-4
    rows = distances.argmin(dim=1) % 4
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    expected = F.cross_entropy(output.identity_logits, torch.cat([labels, labels[rows]]))
    torch.testing.assert_close(output.losses["identity"], expected, **CLOSE)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (EVERYTHING, ("mmm_image", "mmm_text", "itm", "global_contrastive", "identity", "triplet")),
        (IMAGE_ONLY, ("mim",)),
        (("input_ids_masked", "mlm_labels", "attention_mask"), ("mlm",)),
    ],
)
def test_training__lowers_every_loss(make_config, make_pretraining_batch, inputs, names):
    config = make_config(initializer_range=None, encoder={"initializer_range": None}, label_smoothing=0.0)
    model = MMETForPreTraining(config).train()
    batch = _select(make_pretraining_batch(8), *inputs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for _ in range(25):
        output = model(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        history.append({name: output.losses[name].item() for name in names})
    for name in names:
        assert history[-1][name] < 0.5 * history[0][name], (name, history[0][name], history[-1][name])


def test_training__every_weight_has_a_gradient(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).train(), make_pretraining_batch()
    for inputs in (EVERYTHING, IMAGE_ONLY, ("input_ids_masked", "mlm_labels")):
        model(**_select(batch, *inputs)).loss.backward()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert frozen == without == set()


def test_gradient_checkpointing__same_gradients(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch()
    recomputing = copy.deepcopy(model)
    recomputing.activation_checkpointing_enable()
    recomputing.train()
    recomputing.identity_head.eval()
    recomputing.config.modality_dropout = 0.0  # the one difference between the two modes: all dropouts are 0
    calls = []
    recomputing.mmet.image_model.encoder.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for candidate in (model, recomputing):
        candidate(**batch).loss.backward()
    assert len(calls) == 4  # two passes, each run again in the backward
    for (name, expected), received in zip(model.named_parameters(), recomputing.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(received.grad, expected.grad, msg=name, **CLOSE)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "gradient checkpointing"])
@pytest.mark.parametrize(
    "inputs", [EVERYTHING, IMAGE_ONLY, ("input_ids_masked", "mlm_labels"), (*CLEAN, "person_labels")]
)
def test_autocast__gradients_are_those_of_float32(make_config, make_pretraining_batch, inputs, checkpointing):
    """The backward pass comes after autocast has ended; a paired batch reads the weights of an encoder twice."""
    model, batch = MMETForPreTraining(make_config(modality_dropout=0.0)), _select(make_pretraining_batch(), *inputs)
    reference = copy.deepcopy(model).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    reference(**batch).loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(**batch).loss
    loss.backward()
    for (name, parameter), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (parameter.grad is None) == (expected.grad is None), name
    gradients = [
        torch.cat([p.grad.flatten() for p in candidate.parameters() if p.grad is not None])
        for candidate in (model, reference)
    ]
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


def _count_operators(function) -> Counter:
    """How often `function` runs each operator of torch."""

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            counts[operator.overloadpacket.__name__] += 1
            return operator(*args, **(kwargs or {}))

    counts: Counter = Counter()
    with Counting():
        function()
    return counts


def test_layers__backward_repeats_norms_and_activations_alone(config):
    model = MMETImageModel(config.image_config).train()
    outputs = []
    forward = _count_operators(lambda: outputs.append(model(torch.randn(2, 3, 52, 28)).pooler_output.sum()))
    backward = _count_operators(outputs[0].backward)
    layers = config.image_config.num_hidden_layers
    assert forward["addmm"] == 4 * layers  # queries, keys and values at once; attention's output; two in the MLP
    assert backward["addmm"] == 0  # no linear layer is run again
    assert backward["gelu"] == layers
    assert backward["native_layer_norm"] == 2 * layers  # the final norm is kept


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_layers__gradients_equal_those_that_keep_everything(make_config, dropout, implementation):
    encoder = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = make_config(encoder=encoder).image_config
    model = MMETImageModel._from_config(config, attn_implementation=implementation).train()
    keeping = copy.deepcopy(model)
    for layer in keeping.encoder.layers:
        layer.forward = functools.partial(MMETLayer.forward.__wrapped__.__wrapped__, layer)
    pixel_values = torch.randn(2, 3, 52, 28)
    for candidate in (model, keeping):
        torch.manual_seed(1)
        candidate(pixel_values).last_hidden_state.square().sum().backward()
    for (name, expected), received in zip(keeping.named_parameters(), model.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(received.grad, expected.grad, msg=name)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def _loaded(model_class, path, **kwargs):
    """The model and what did not fit the checkpoint: missing, unexpected and mismatched keys."""
    model, info = model_class.from_pretrained(path, output_loading_info=True, **kwargs)
    return model.eval(), {kind: set(keys) for kind, keys in info.items() if keys}


@pytest.mark.parametrize("source", [MMETModel, MMETForReID, MMETForPreTraining])
def test_checkpoint__round_trip_is_bit_identical(source, config, make_pretraining_batch, tmp_path):
    model, batch = source(config).eval(), make_pretraining_batch()
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(source, tmp_path)
    assert problems == {}
    states = model.state_dict()
    assert all(torch.equal(value, states[name]) for name, value in loaded.state_dict().items())
    inputs = batch if source is MMETForPreTraining else _select(batch, *CLEAN)
    field = {MMETModel: "multimodal_embeds", MMETForReID: "embeddings", MMETForPreTraining: "loss"}[source]
    assert torch.equal(loaded(**inputs)[field], model(**inputs)[field])


def test_checkpoint__pretraining_to_reid(config, make_batch, tmp_path):
    model, batch = MMETForPreTraining(config).eval(), make_batch(3)
    model.identity_head.bnneck.running_mean.normal_()
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(MMETForReID, tmp_path)
    assert problems == {}
    expected = F.normalize(model.identity_head(model.mmet(**batch).multimodal_embeds[:, 0])[0])
    torch.testing.assert_close(loaded(**batch).embeddings, expected)


@pytest.mark.parametrize("source", [MMETForReID, MMETForPreTraining])
def test_checkpoint__heads_to_base_model(source, config, make_batch, tmp_path):
    model, batch = source(config).eval(), make_batch(3)
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(MMETModel, tmp_path)
    assert problems == {}
    assert torch.equal(loaded(**batch).multimodal_embeds, model.mmet(**batch).multimodal_embeds)


def test_checkpoint__reid_to_pretraining_keeps_the_identity_head(config, tmp_path):
    model = MMETForReID(config)
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(MMETForPreTraining, tmp_path)
    assert set(problems) == {"missing_keys"}
    heads = ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head", "itm_head", "image_codebook")
    assert all(name.startswith(heads) for name in problems["missing_keys"])
    assert torch.equal(loaded.identity_head.classifier.weight, model.identity_head.classifier.weight)
    # What the checkpoint lacks is initialised, not whatever memory held.
    assert not loaded.image_codebook.is_fitted
    assert torch.equal(loaded.mlm_head.bias, torch.zeros(14))
    assert 0.1 < loaded.mim_head.decoder.weight.std() < 0.3


@pytest.mark.parametrize(
    ("source", "auto_class", "expected"),
    [
        (MMETModel, AutoModel, MMETModel),
        (MMETForReID, AutoModel, MMETForReID),
        (MMETForPreTraining, AutoModel, MMETForReID),
        (MMETForPreTraining, AutoModelForPreTraining, MMETForPreTraining),
        (MMETForReID, AutoModelForPreTraining, MMETForPreTraining),
    ],
)
def test_auto_classes__where_the_package_is_installed(source, auto_class, expected, config, tmp_path):
    source(config).save_pretrained(tmp_path)
    assert type(auto_class.from_pretrained(tmp_path)) is expected


@pytest.mark.parametrize(
    ("model_class", "part"), [(MMETImageModel, "image"), (MMETTextModel, "text"), (MMETMultimodalModel, "multimodal")]
)
def test_auto_classes__single_encoders(model_class, part, config, tmp_path):
    model = model_class(getattr(config, f"{part}_config"))
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is model_class
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("tied", [True, False])
def test_word_embeddings__tied_on_request(make_config, tied, tmp_path):
    model = MMETForPreTraining(make_config(tie_word_embeddings=tied))
    model.save_pretrained(tmp_path)
    for candidate in (model, MMETForPreTraining.from_pretrained(tmp_path)):
        embedding = candidate.mmet.text_model.embeddings.token_embedding.weight
        assert candidate.get_input_embeddings().weight is embedding
        for head in (candidate.mlm_head, candidate.mmm_text_head):
            assert (head.decoder.weight is embedding) is tied
            assert torch.equal(head.decoder.weight, embedding) is tied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocab_size", [11, 20])
def test_word_embeddings__resized_with_their_heads(make_config, make_pretraining_batch, tied, vocab_size, tmp_path):
    model, batch = MMETForPreTraining(make_config(tie_word_embeddings=tied)).eval(), make_pretraining_batch()
    words = _select(batch, "input_ids_masked", "mlm_labels")
    words = {name: value.clamp(max=10) for name, value in words.items()}
    before = model(**words).mlm_logits
    model.resize_token_embeddings(vocab_size)
    model.save_pretrained(tmp_path)
    for candidate in (model, MMETForPreTraining.from_pretrained(tmp_path).eval()):
        assert candidate.config.text_config.vocab_size == vocab_size
        after = candidate(**words).mlm_logits
        assert after.shape[1] == vocab_size
        torch.testing.assert_close(after[:, :11], before[:, :11], **CLOSE)
        embeddings = candidate.get_input_embeddings().weight
        for head in (candidate.mlm_head, candidate.mmm_text_head):
            assert (head.decoder.weight is embeddings) == tied
            assert head.decoder.weight.shape[0] == len(head.bias) == vocab_size


@pytest.mark.parametrize("model_class", [MMETForReID, MMETForPreTraining])
def test_bfloat16(model_class, config, make_pretraining_batch, tmp_path):
    reference, batch = model_class(config).eval(), make_pretraining_batch()
    reference.save_pretrained(tmp_path)
    model = model_class.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    kept = {"identity_head.bnneck.weight"}
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in kept else torch.bfloat16), name
    if model_class is MMETForReID:
        received, expected = (candidate(**_select(batch, *CLEAN)).embeddings for candidate in (model, reference))
        assert received.dtype == torch.float32
        assert F.cosine_similarity(received, expected).min() > 0.98
    else:
        received, expected = (candidate(**batch).losses for candidate in (model, reference))
        for name in (*L_MMM, "itm", "global_contrastive", "identity", "triplet"):
            assert received[name].item() == pytest.approx(expected[name].item(), rel=0.15, abs=0.15)


def test_interpolate_pos_encoding__bfloat16(config):
    model = MMETForReID(config).to(torch.bfloat16).eval()
    assert model(pixel_values=torch.randn(1, 3, 76, 40), interpolate_pos_encoding=True).embeddings.isfinite().all()


# --- initialisation --------------------------------------------------------------------------------------------------


def test_initialisation__normal(make_config):
    config = make_config(initializer_range=0.05, encoder={"initializer_range": 0.05, "hidden_size": 64})
    model = MMETForPreTraining(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name or "bnneck" in name:
            assert (parameter == 1).all(), name
        elif parameter.numel() >= 4096:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.1), name


def test_initialisation__xavier(make_config):
    config = make_config(initializer_range=None, encoder={"initializer_range": None, "hidden_size": 64})
    model = MMETForPreTraining(config)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and "decoder" not in name:
            bound = math.sqrt(6 / (module.weight.shape[0] + module.weight[0].numel()))
            assert 0.8 * bound < module.weight.abs().max() <= bound, name
            assert module.bias is None or not module.bias.any(), name
    words = model.get_input_embeddings().weight
    assert words.norm(dim=1)[1:].mean().item() == pytest.approx(1.0, abs=0.1)
    positions = model.mmet.image_model.embeddings.position_embedding
    assert positions.norm(dim=-1).mean().item() == pytest.approx(1.0, abs=0.1)


def test_initialisation__xavier_checkpoint_is_not_initialised_again(make_config, tmp_path):
    model = MMETForPreTraining(make_config(initializer_range=None, encoder={"initializer_range": None}))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 5, 6)
    model.image_codebook.centroids.fill_(7)
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(MMETForPreTraining, tmp_path)
    assert problems == {}
    states = model.state_dict()
    assert all(torch.equal(value, states[name]) for name, value in loaded.state_dict().items())
