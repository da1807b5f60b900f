"""`resize_image`: another image size or patch stride for good, whatever model it is asked of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from configuration_mmet import MMETConfig
from modeling_mmet import MMETForPreTraining, MMETForReID, MMETImageModel, MMETModel, MMETTextModel


def close(actual: torch.Tensor, expected: torch.Tensor):
    """Equal shapes, and values to 1e-5, absolute and relative."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def resized_positions(model: MMETImageModel, grid: tuple[int, int]) -> torch.Tensor:
    """The position embeddings of a model interpolated to another grid."""
    old = model.embeddings.position_embedding.detach()
    patches = old[:, 1:].view(1, *model.config.patch_grid, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, grid, mode="bicubic", align_corners=False)
    return torch.cat([old[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


@pytest.mark.parametrize(
    ("size", "stride", "grid"),
    [((88, 40), None, (7, 3)), ((52, 28), 4, (10, 4)), (40, 8, (4, 4)), ((55, 30), None, (4, 2))],
)
def test_resize_image__positions_are_interpolated(config, size, stride, grid):
    model = MMETImageModel(config.image_config)
    expected = resized_positions(model, grid)
    assert model.resize_image(size, stride) is model
    assert model.config.patch_grid == grid
    close(model.embeddings.position_embedding, expected)
    height, width = (size, size) if isinstance(size, int) else size
    states = model(torch.randn(2, 3, height, width)).last_hidden_state
    assert states.shape[1] == 1 + grid[0] * grid[1]


def test_resize_image__agrees_with_interpolation_on_the_fly(config):
    model = MMETModel(config).eval()
    pixel_values = torch.randn(2, 3, 88, 40)
    with torch.no_grad():
        expected = model(pixel_values, interpolate_pos_encoding=True).multimodal_embeds
        close(model.resize_image((88, 40))(pixel_values).multimodal_embeds, expected)


@pytest.mark.parametrize("model_class", [MMETModel, MMETForPreTraining, MMETForReID])
def test_resize_image__saved_model_has_the_new_geometry(config, make_batch, tmp_path, model_class):
    model = model_class(config).eval().resize_image((88, 40), patch_stride=8)
    model.save_pretrained(tmp_path)
    assert MMETConfig.from_pretrained(tmp_path).image_config.image_size == [88, 40]
    batch = make_batch() | {"pixel_values": torch.randn(4, 3, 88, 40)}
    loaded = model_class.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected, actual = (each.base_model(**batch) for each in (model, loaded))
    assert actual.image_embeds.shape == (4, 1 + 10 * 4, 32)
    close(actual.multimodal_embeds, expected.multimodal_embeds)


def test_resize_image__pretraining_goes_on_with_the_new_patches(config):
    model = MMETForPreTraining(config).resize_image((88, 40), patch_stride=8)
    nn.init.normal_(model.image_codebook.centroids)
    masked = torch.zeros(2, 40, dtype=torch.bool)
    masked[:, ::5] = True
    output = model(pixel_values=torch.randn(2, 3, 88, 40), bool_masked_pos=masked)
    assert output.mim_logits.shape == (16, 6)
    output.loss.backward()
    assert model.mmet.image_model.embeddings.position_embedding.grad.abs().sum() > 0


def test_resize_image__a_refused_geometry_changes_nothing(config):
    model = MMETForPreTraining(config)
    before = model.mmet.image_model.embeddings.position_embedding.clone()
    for size, stride, message in (((8, 8), None, "at least patch_size"), ((52, 28), 6, "codebook_cell must divide")):
        with pytest.raises(ValueError, match=message):
            model.resize_image(size, stride)
    assert model.config.image_config.image_size == [52, 28]
    assert model.mmet.image_model.config.patch_stride == 12
    assert torch.equal(model.mmet.image_model.embeddings.position_embedding, before)


def test_resize_image__needs_an_image_encoder(config):
    with pytest.raises(ValueError, match="MMETTextModel has no image encoder"):
        MMETTextModel(config.text_config).resize_image(64)
