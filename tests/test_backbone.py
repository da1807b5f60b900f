"""The image encoder on a convolutional backbone: the map's cells are the patches, and masks hide pixels from it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, MobileNetV2Config, MobileNetV2Model, ResNetConfig, ResNetModel

from configuration_mmet import MMETConfig, MMETImageConfig
from modeling_mmet import LOSS_NAMES, MMETForPreTraining, MMETForReID, MMETImageModel

IMAGE_SIZE = (64, 48)
MOBILE_NET = {"model_type": "mobilenet_v2", "depth_multiplier": 0.1, "min_depth": 4, "finegrained_output": False}


@pytest.fixture
def make_hybrid(make_config):
    """Factory of tiny configurations with a MobileNetV2; further fields of the image encoder may be given."""

    def build(**image) -> MMETConfig:
        image = {"image_size": IMAGE_SIZE, "backbone_config": dict(MOBILE_NET)} | image
        return make_config(image=image, codebook_cell=2)

    return build


@pytest.fixture
def hybrid(make_hybrid) -> MMETConfig:
    """The same as it is: 2 x 2 patches of 16 pixels, 32 apart."""
    return make_hybrid()


@pytest.fixture
def batch(make_pretraining_batch) -> dict[str, torch.Tensor]:
    """Everything the eight losses read, with the images and two of four patches masked."""
    batch = make_pretraining_batch()
    masked = torch.tensor([[True, False, False, True]]).expand(4, -1)
    images = torch.randn(4, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    return batch | {"pixel_values": images, "bool_masked_pos": masked, "mim_labels": batch["mim_labels"][:, :4]}


@torch.no_grad()
def _randomise_backbone(model: torch.nn.Module):
    """Weights through which images reach the map, and batch norms such as training leaves them."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize(
    ("image_size", "output_stride", "grid", "patch_size"),
    [
        ((224, 112), 32, (7, 4), 16),
        ((224, 128), 32, (7, 4), 32),
        ((224, 112), 16, (14, 7), 16),
        ((65, 33), 32, (3, 2), 1),
        (40, 8, (5, 5), 8),
    ],
)
def test_patch_grid__is_the_backbones_map(image_size, output_stride, grid, patch_size):
    backbone = MobileNetV2Config(**MOBILE_NET, output_stride=output_stride)
    config = MMETImageConfig(image_size=image_size, backbone_config=backbone)
    assert (config.patch_grid, config.patch_size, config.patch_stride) == (grid, patch_size, output_stride)
    with torch.no_grad():
        features = MobileNetV2Model(backbone).eval()(torch.zeros(1, 3, *config.image_size)).last_hidden_state
    assert tuple(features.shape[-2:]) == grid


def test_image_model__projects_the_map_of_transformers_mobile_net(hybrid, batch):
    model = MMETImageModel(hybrid.image_config).eval()
    _randomise_backbone(model)
    reference = MobileNetV2Model(MobileNetV2Config(**MOBILE_NET)).eval()
    reference.load_state_dict(model.embeddings.backbone.state_dict())
    with torch.no_grad():
        features = reference(batch["pixel_values"]).last_hidden_state
        states, _ = model.embeddings(batch["pixel_values"])
    weight, bias = model.embeddings.patch_embedding.weight[:, :, 0, 0], model.embeddings.patch_embedding.bias
    for number, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        token = features[:, :, row, column] @ weight.T + bias + model.embeddings.position_embedding[0, 1 + number]
        torch.testing.assert_close(states[:, 1 + number], token, rtol=1e-5, atol=1e-5)
    assert features.std() > 0


def test_masked_patches__neither_backbone_nor_token_sees_their_pixels(hybrid, batch):
    model = MMETImageModel(hybrid.image_config).eval()
    _randomise_backbone(model)
    images, masked = batch["pixel_values"], batch["bool_masked_pos"]
    changed = images.clone()
    changed[:, :, :16, :16] = 3.0
    changed[:, :, 32:48, 32:48] = -3.0
    seen = []
    model.embeddings.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        states, others = (model(pixels, masked).last_hidden_state for pixels in (images, changed))
        embedded, _ = model.embeddings(images, masked)
        assert not torch.equal(model(images).last_hidden_state, model(changed).last_hidden_state)
    assert torch.equal(states, others)
    assert torch.equal(seen[0], seen[1])
    assert not seen[0][:, :, :16, :16].any()
    assert torch.equal(seen[0][:, :, 16:32], images[:, :, 16:32])
    positions = model.embeddings.position_embedding[0, [1, 4]]
    torch.testing.assert_close(embedded[0, [1, 4]], positions + model.embeddings.mask_token[0])


def test_losses__all_eight_reach_the_backbone(hybrid, batch):
    model = MMETForPreTraining(hybrid).train()
    alone = {name: batch[name] for name in ("pixel_values", "bool_masked_pos", "mim_labels")}
    words = {"input_ids_masked": batch["input_ids_masked"], "mlm_labels": batch["mlm_labels"]}
    losses = {}
    for inputs in (batch, alone, words):
        model.zero_grad()
        output = model(**inputs)
        losses |= {name: loss for name, loss in output.losses.items() if loss is not None}
        output.loss.backward()
        gradient = model.mmet.image_model.embeddings.backbone.conv_1x1.convolution.weight.grad
        assert (gradient is None) == ("pixel_values" not in inputs)
        assert gradient is None or gradient.abs().sum() > 0
    assert losses.keys() == set(LOSS_NAMES)
    assert all(loss.isfinite() for loss in losses.values())


def test_gradient_checkpointing__same_gradients(hybrid, batch):
    model = MMETForPreTraining(hybrid).train()
    other = copy.deepcopy(model)
    other.activation_checkpointing_enable()
    gradients = []
    for each in (model, other):
        torch.manual_seed(0)
        each(**batch).loss.backward()
        gradients.append(each.mmet.image_model.embeddings.backbone.conv_stem.first_conv.convolution.weight.grad)
    torch.testing.assert_close(*gradients)


def test_freeze_backbone__neither_weights_nor_statistics_change(make_hybrid, batch, tmp_path):
    MMETForPreTraining(make_hybrid(freeze_backbone=True)).save_pretrained(tmp_path)
    for model in (
        MMETForPreTraining(make_hybrid(freeze_backbone=True)),  # in training mode from the start
        MMETForPreTraining.from_pretrained(tmp_path).train(),
    ):
        backbone = model.mmet.image_model.embeddings.backbone
        before = copy.deepcopy(backbone.state_dict())
        optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
        model(**batch).loss.backward()
        optimizer.step()
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        assert model.mmet.image_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0
        assert model.training
        assert not any(module.training for module in backbone.modules())


def test_batch_norms__learn_when_not_frozen(hybrid, batch):
    model = MMETForPreTraining(hybrid).train()
    statistics = model.mmet.image_model.embeddings.backbone.conv_1x1.normalization.running_mean
    before = statistics.clone()
    model(**batch)
    assert not torch.equal(statistics, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load__the_backbone_with_it(make_hybrid, batch, tmp_path, dtype):
    model = MMETForReID(make_hybrid(freeze_backbone=True)).eval()
    _randomise_backbone(model)
    model.to(dtype).save_pretrained(tmp_path)
    config = MMETConfig.from_pretrained(tmp_path)
    assert isinstance(config.image_config.backbone_config, MobileNetV2Config)
    assert config.image_config.freeze_backbone
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    for loaded in (MMETForReID.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path, trust_remote_code=True)):
        assert type(loaded).__name__ == "MMETForReID"
        assert loaded.dtype == dtype
        with torch.no_grad():
            actual, expected = (each(**inputs).embeddings for each in (loaded, model))
        torch.testing.assert_close(actual, expected, **({} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}))


def test_attention_implementation__is_the_encoders(hybrid, batch, tmp_path):
    MMETForReID(hybrid).save_pretrained(tmp_path)
    models = [MMETForReID.from_pretrained(tmp_path, attn_implementation=name) for name in ("eager", "sdpa")]
    with torch.no_grad():
        embeddings = [model(batch["pixel_values"]).embeddings for model in models]
    torch.testing.assert_close(*embeddings, rtol=1e-4, atol=1e-4)


def test_export__embedder_of_images(hybrid, batch):
    model = MMETForReID(hybrid).eval()
    _randomise_backbone(model)
    images = {"pixel_values": batch["pixel_values"]}
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(model, (), images, dynamic_shapes=shapes, strict=False).module()
    with torch.no_grad():
        for rows in (2, 4):
            pixel_values = images["pixel_values"][:rows]
            expected = model(pixel_values=pixel_values).embeddings
            torch.testing.assert_close(
                program(pixel_values=pixel_values)["embeddings"], expected, rtol=1e-4, atol=1e-5
            )


def test_resize_image__positions_follow_the_map(hybrid):
    model = MMETForReID(hybrid).eval()
    model.resize_image((128, 80))
    assert model.config.image_config.patch_grid == (4, 3)
    with torch.no_grad():
        assert model(torch.randn(2, 3, 128, 80)).embeddings.isfinite().all()


@pytest.mark.parametrize(("size", "stride"), [((72, 48), None), ((64, 48), 16)])
def test_resize_image__refuses_patches_beside_the_map(hybrid, size, stride):
    model = MMETForReID(hybrid)
    with pytest.raises(ValueError, match="cells of the backbone's map") as caught:
        model.resize_image(size, stride)
    assert "\n" not in str(caught.value)
    assert model.config.image_config.image_size == list(IMAGE_SIZE)


def test_other_size__map_must_fit(hybrid):
    model = MMETForReID(hybrid).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 96, 48), interpolate_pos_encoding=True).embeddings.isfinite().all()
        with pytest.raises(ValueError, match="a map of 2 x 2 cells"):
            model(torch.randn(1, 3, 72, 48), interpolate_pos_encoding=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 16, "patch_stride": 12}, "give patch_size=16, patch_stride=32"),
        ({"patch_size": 32}, r"2 x 2 for image_size=\[64, 48\]; got 2 x 1"),
        ({"patch_stride": 16}, "patch_stride=32"),
        ({"num_channels": 1}, "num_channels must be the backbone's 3; got 1"),
        ({"backbone_config": {"depth_multiplier": 0.1}}, "by a model_type of transformers.*got None"),
        ({"backbone_config": {"model_type": ["mobilenet_v2"]}}, "by a model_type of transformers"),
        ({"backbone_config": {"model_type": "mobilenet_v9"}}, "got 'mobilenet_v9'"),
        ({"backbone_config": None, "freeze_backbone": True}, "freeze_backbone needs a backbone"),
    ],
)
def test_configuration__what_does_not_fit(fields, message):
    fields = {"image_size": IMAGE_SIZE, "backbone_config": dict(MOBILE_NET)} | fields
    with pytest.raises((ValueError, StrictDataclassError)) as caught:
        MMETImageConfig(**fields)
    with pytest.raises(ValueError, match=message):
        raise ValueError(str(caught.value.__cause__ or caught.value))


def test_backbone__without_a_map(make_hybrid):
    vit = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = make_hybrid(backbone_config=vit | {"intermediate_size": 8, "image_size": IMAGE_SIZE, "patch_size": 16})
    with pytest.raises(ValueError, match="expected a backbone that makes a map of 2 x 2 cells"):
        MMETImageModel(config.image_config)


def test_backbone__of_another_kind(make_hybrid, batch):
    resnet = ResNetConfig(embedding_size=4, hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1], layer_type="basic")
    config = make_hybrid(backbone_config=resnet)
    model = MMETImageModel(config.image_config).eval()
    reference = ResNetModel(resnet).eval()
    reference.load_state_dict(model.embeddings.backbone.state_dict())
    with torch.no_grad():
        features = reference(batch["pixel_values"]).last_hidden_state
        states, _ = model.embeddings(batch["pixel_values"])
        states = states[:, 1:] - model.embeddings.position_embedding[:, 1:]
    weight = model.embeddings.patch_embedding.weight[:, :, 0, 0]
    expected = torch.einsum("bchw,dc->bhwd", features, weight).flatten(1, 2) + model.embeddings.patch_embedding.bias
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


def test_without_a_backbone__geometry_and_draws_are_the_papers():
    config = MMETImageConfig()
    assert (config.patch_size, config.patch_stride, config.patch_grid) == (16, 12, (21, 10))
    small = MMETImageConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    torch.manual_seed(0)
    model = MMETImageModel(small)
    assert not any("backbone" in name for name in model.state_dict())
    assert math.prod(model.embeddings.patch_embedding.weight.shape) == 8 * 3 * 16 * 16
