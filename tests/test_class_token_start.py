"""What class tokens may start from: a backbone's stripes, a picture's colours, the encoders' class tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from sklearn.decomposition import PCA
from transformers import MobileNetV2Config, MobileNetV2Model

from configuration_mmet import MMETConfig, MMETImageConfig
from mmet.training.class_token_start import fit_starting_projections
from modeling_mmet import MMETForPreTraining, MMETForReID, MMETImageModel, MMETModel

MOBILE_NET = {"model_type": "mobilenet_v2", "depth_multiplier": 0.1, "min_depth": 4, "finegrained_output": False}
STARTING = {
    "backbone_config": dict(MOBILE_NET),
    "image_size": (96, 64),
    "class_token_rows": 3,
    "freeze_backbone": True,
}


@pytest.fixture
def starting_config(make_config) -> MMETConfig:
    """Tiny encoders that begin as what the backbone and the words say."""
    config = make_config(image=dict(STARTING), encoder={"zero_residuals": True}, codebook_cell=2)
    config.multimodal_config.start_from_class_tokens = True
    return config


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 96, 64)


@torch.no_grad()
def _lively(model: torch.nn.Module) -> None:
    """A backbone that lets pictures through."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)


def _stripes(model: MMETImageModel, images: torch.Tensor, rows: int) -> torch.Tensor:
    """Means of the map's rows by transformers' own network."""
    reference = MobileNetV2Model(MobileNetV2Config(**MOBILE_NET)).eval()
    reference.load_state_dict(model.embeddings.backbone.state_dict())
    with torch.no_grad():
        features = reference(images).last_hidden_state.numpy()  # (B, C, 3, 2)
    assert features.shape[2] == rows
    return np.concatenate([features[:, :, row].mean(axis=2) for row in range(rows)], axis=1)


def test_zero_residuals__an_encoder_starts_as_the_identity(make_config, make_batch):
    model = MMETImageModel(make_config(image={"zero_residuals": True}).image_config).eval()
    with torch.no_grad():
        embedded, _ = model.embeddings(make_batch()["pixel_values"])
        output = model(make_batch()["pixel_values"])
    torch.testing.assert_close(output.pre_norm_hidden_state, embedded)
    model.encoder.layers[0].attention.out_proj.weight.data.normal_()
    with torch.no_grad():
        assert not torch.allclose(model(make_batch()["pixel_values"]).pre_norm_hidden_state, embedded, atol=1e-2)


def test_row_projection__principal_components_over_the_root_of_their_deviation(starting_config):
    model = MMETImageModel(starting_config.image_config).eval()
    _lively(model)
    training = torch.randn(60, 3, 96, 64) * torch.rand(60, 3, 1, 1) * 3
    fit = fit_starting_projections(model.embeddings, training.split(16))["class_token_rows"]
    stripes = _stripes(model, training, 3)
    analysis = PCA(n_components=fit.num_components).fit(stripes)
    new = training.flip(0, 2)[:20]
    expected = analysis.transform(_stripes(model, new, 3)) / analysis.explained_variance_**0.25
    with torch.no_grad():
        received = model(new).row_features.numpy()[:, : fit.num_components]
    assert fit.num_rows == 60
    assert fit.variance_kept == pytest.approx(analysis.explained_variance_ratio_.sum(), abs=1e-4)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (received, expected)]
    np.testing.assert_allclose(unit[0] @ unit[0].T, unit[1] @ unit[1].T, atol=2e-3)


def test_row_channels__all_channels_give_the_same_features_and_fewer_nearly_the_same(starting_config):
    training = torch.randn(60, 3, 96, 64) * torch.rand(60, 3, 1, 1) * 3
    similarities = []
    for channels in (0, 1280, 8):
        starting_config.image_config.class_token_channels = channels
        model = MMETImageModel(starting_config.image_config).eval()
        torch.manual_seed(0)
        _lively(model)
        fits = fit_starting_projections(model.embeddings, training.split(16))
        assert ("class_token_channels" in fits) == bool(channels)
        with torch.no_grad():
            features = F.normalize(model(training).row_features)
        similarities.append((features @ features.T)[~torch.eye(60, dtype=torch.bool)])
    whole, same, fewer = similarities
    torch.testing.assert_close(same, whole, atol=2e-3, rtol=0)
    assert 0.8 < torch.corrcoef(torch.stack([whole, fewer]))[0, 1] < 0.99999


def test_row_projection__is_frozen_with_the_backbone_and_survives_saving(starting_config, images, tmp_path):
    model = MMETForPreTraining(starting_config).train()
    _lively(model)
    fit_starting_projections(model.mmet.image_model.embeddings, [images])
    assert not model.mmet.image_model.embeddings.row_projection.weight.requires_grad
    model.save_pretrained(tmp_path)
    loaded = MMETForReID.from_pretrained(tmp_path).train()
    assert not loaded.mmet.image_model.embeddings.row_projection.weight.requires_grad
    model.eval(), loaded.eval()
    with torch.no_grad():
        features = [m.mmet.image_model(images).row_features for m in (model, loaded)]
    assert features[0].std() > 0
    assert torch.equal(*features)


def test_fit_starting_projections__pictures_that_are_all_alike(starting_config):
    model = MMETImageModel(starting_config.image_config).eval()
    with pytest.raises(ValueError, match="images that differ"):
        fit_starting_projections(model.embeddings, [torch.zeros(5, 3, 96, 64)])


def test_details__start_at_zero_and_then_tell_colours_apart(make_config):
    model = MMETImageModel(make_config(image={"colour_grid": [2, 1]}).image_config).eval()
    plain = MMETImageModel(make_config().image_config).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    images = torch.randn(2, 3, 52, 28) + 9 * torch.randn(2, 3, 2, 1).repeat_interleave(26, 2)
    with torch.no_grad():
        assert torch.equal(model(images).last_hidden_state, plain(images).last_hidden_state)
        model.embeddings.details.fc2.weight.normal_()
        means = torch.stack([images[:, :, :26].mean((2, 3)), images[:, :, 26:].mean((2, 3))], dim=2).flatten(1)
        received, expected = model.embeddings(images)[0], plain.embeddings(images)[0]
    torch.testing.assert_close(received[:, 0], expected[:, 0] + _read_details(model, [means]), rtol=1e-4, atol=1e-4)
    assert torch.equal(received[:, 1:], expected[:, 1:])


def _read_details(model: MMETImageModel, parts: list[torch.Tensor]) -> torch.Tensor:
    """What the small network adds for parts that are about their mean and of deviation 1, by hand."""
    details = model.embeddings.details
    parts = [(part - part.mean(1, keepdim=True)) / part.std(1, keepdim=True, correction=0) for part in parts]
    hidden = F.gelu(torch.cat(parts, dim=1) @ details.fc1.weight.T + details.fc1.bias)
    return (hidden @ details.fc2.weight.T + details.fc2.bias).detach()


def test_detail_grid__components_of_an_earlier_map_beside_stripes_and_colours(starting_config, images):
    starting_config.image_config.update({"detail_grid": [6, 2], "detail_layer": 3, "detail_size": 4})
    starting_config.image_config.colour_grid = [2, 1]
    model = MMETImageModel(starting_config.image_config).eval()
    _lively(model)
    fits = fit_starting_projections(model.embeddings, [torch.randn(40, 3, 96, 64)])
    assert list(fits) == ["class_token_rows", "detail_grid"]
    assert fits["detail_grid"].num_components == 4
    images = images + 9 * torch.randn(6, 3, 2, 1).repeat_interleave(48, 2)
    with torch.no_grad():
        before = model.embeddings(images)[0]
        model.embeddings.details.fc2.weight.normal_()
        received = model.embeddings(images)[0]
        stripes = model(images).row_features
        cells = _earlier_map(model, images, 3).unflatten(2, (6, -1)).unflatten(4, (2, -1)).mean((3, 5))  # (B, C, 6, 2)
        cells = cells.permute(0, 2, 3, 1).flatten(1)
        projection = model.embeddings.details.projection
        details = cells @ projection.weight.T + projection.bias
        colours = torch.stack([images[:, :, :48].mean((2, 3)), images[:, :, 48:].mean((2, 3))], dim=2).flatten(1)
    expected = before[:, 0] + _read_details(model, [stripes, colours, details])
    torch.testing.assert_close(received[:, 0], expected, rtol=1e-3, atol=1e-3)


def _earlier_map(model: MMETImageModel, images: torch.Tensor, layer: int) -> torch.Tensor:
    reference = MobileNetV2Model(MobileNetV2Config(**MOBILE_NET)).eval()
    reference.load_state_dict(model.embeddings.backbone.state_dict())
    return reference(images, output_hidden_states=True).hidden_states[layer]


@pytest.mark.parametrize("layer", [16, 500])
def test_detail_layer__a_state_that_the_backbone_does_not_have(layer):
    config = MMETImageConfig(**STARTING, detail_grid=[6, 2], detail_layer=layer)
    with pytest.raises(ValueError, match=f"detail_layer.*16 hidden states of MobileNetV2Config, received {layer}"):
        MMETImageModel(config)


def test_start_from_class_tokens__the_sum_of_those_that_are_there(starting_config, images, make_batch):
    model = MMETModel(starting_config).eval()
    _lively(model)
    batch = make_batch(6) | {"pixel_values": images}
    present = {
        "image_present": torch.tensor([True, True, False, False, True, True]),
        "text_present": torch.tensor([True, False, True, True, True, False]),
    }
    with torch.no_grad():
        fused = model(**batch, **present).multimodal_output
        image = model.image_to_multimodal(model.image_model(images).pre_norm_hidden_state[:, 0])
        text = model.text_to_multimodal(
            model.text_model(batch["input_ids"], batch["attention_mask"]).pre_norm_hidden_state[:, 0]
        )
    expected = model.multimodal_model.cls_token[0] + image * present["image_present"][:, None]
    expected = expected + text * present["text_present"][:, None]
    torch.testing.assert_close(fused.pre_norm_hidden_state[:, 0], expected)
    assert torch.equal(model.image_to_multimodal.weight, torch.eye(32))


def test_all_parts__get_gradients_and_a_graph_of_any_batch_size(starting_config, images, make_pretraining_batch):
    starting_config.image_config.update(
        {"colour_grid": [4, 2], "detail_grid": [5, 3], "detail_layer": 4, "class_token_channels": 5}
    )
    starting_config.update({"supervised_contrastive_weight": 1.0, "similarity_weight": 1.0, "modality_dropout": 2.0})
    starting_config.text_config.freeze_token_embedding = True
    model = MMETForPreTraining(starting_config).train()
    _lively(model)
    fit_starting_projections(model.mmet.image_model.embeddings, [images])
    batch = make_pretraining_batch(4)
    masked = torch.zeros(4, 6, dtype=torch.bool)
    masked[:, [1, 4]] = True
    batch |= {"pixel_values": images[:4], "bool_masked_pos": masked, "mim_labels": batch["mim_labels"][:, :6]}
    output = model(**batch)
    output.loss.backward()
    assert {"supervised_contrastive", "similarity"} <= set(output.losses)
    trained = dict(model.mmet.named_parameters())
    assert trained["image_model.embeddings.details.fc2.weight"].grad.any()
    assert trained["multimodal_model.encoder.layers.0.mlp.fc2.weight"].grad.any()
    assert trained["text_model.embeddings.token_embedding.weight"].grad is None
    embedder = MMETForReID(starting_config).eval()
    batch_dimension = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(
        embedder, (), {"pixel_values": images[:2]}, dynamic_shapes={"pixel_values": {0: batch_dimension}}
    )
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(pixel_values=images).embeddings, embedder(pixel_values=images).embeddings
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"class_token_rows": 3},
        {"class_token_rows": -1, "backbone_config": MOBILE_NET},
        {"colour_grid": [3]},
        {"colour_grid": [0, 2]},
        {"colour_grid": [900, 2]},
        {"detail_grid": [2, 2]},
        {"detail_grid": [2], "backbone_config": MOBILE_NET},
        {"detail_layer": -1},
        {"detail_size": 0},
        {"class_token_channels": 4, "backbone_config": MOBILE_NET},
        {"class_token_channels": -4},
    ],
)
def test_configuration__says_what_is_wrong(fields):
    with pytest.raises((ValueError, StrictDataclassError), match=next(iter(fields))):
        MMETImageConfig(**fields)
