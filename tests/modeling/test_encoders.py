"""The image, text and multimodal encoders against transformers' ViT and BERT, and what a mask hides."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from named_inputs import CLEAN, CLOSE, select
from torch import nn
from transformers import BertConfig, ViTConfig, ViTModel
from transformers.models.bert.modeling_bert import BertEmbeddings

import mmet  # noqa: F401 (registers the Auto classes)
from modeling_mmet import (
    CLASS_TOKEN,
    LOSS_NAMES,
    MMETForPreTraining,
    MMETForReID,
    MMETImageModel,
    MMETModel,
    MMETMultimodalModel,
    MMETTextModel,
)


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
    rows = _count_mlp_rows(model.mmet.image_model, lambda: model(**select(batch, "pixel_values", "bool_masked_pos")))
    assert rows == [masked.numel() + 4, int(masked.sum())]  # two layers; [CLS_I] is read by the first alone
    reid = MMETForReID(config).eval()
    rows = _count_mlp_rows(reid.mmet.multimodal_model, lambda: reid(**select(batch, *CLEAN)))
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
    received = embeddings(pixel_values)[0][0]
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
            outputs.append(model(**batch if model_class is MMETForPreTraining else select(batch, *CLEAN)))
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
    received, _ = embeddings(pixel_values, interpolate_pos_encoding=True)
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
    batch = select(make_pretraining_batch(), "pixel_values", "bool_masked_pos")
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
        batch = select(batch, "pixel_values", "bool_masked_pos", "mim_labels")
    if wanted == "mlm":
        batch = select(batch, "input_ids_masked", "mlm_labels", "attention_mask")
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
