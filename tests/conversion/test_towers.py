"""Vision towers taken over: transformers' own hidden states, at the towers' geometry, from small random models."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from configuration_mmet import MMETConfig
from mmet.conversion import convert, from_bert, from_clip, from_dino, from_encoders, from_openai_clip, from_siglip
from modeling_mmet import MMETForPreTraining, MMETImageModel

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SQUARE = {**WIDTH, "image_size": 24, "patch_size": 8}
GRID = 9


def close(actual: torch.Tensor, expected: torch.Tensor):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def randomised(model: nn.Module) -> nn.Module:
    """Every weight drawn anew, so that two exchanged ones give another output."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        is_scale = "norm" in name.lower() and name.endswith("weight")
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + float(is_scale))
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("whole", [False, True], ids=["tower", "CLIPModel"])
@torch.no_grad()
def test_clip__same_states(images, whole, tmp_path):
    sizes = {**SQUARE, "intermediate_size": 48}
    if whole:
        source = randomised(CLIPModel(CLIPConfig(vision_config=sizes, text_config={**WIDTH, "intermediate_size": 48})))
        tower = source.vision_model
    else:
        source = tower = randomised(CLIPVisionModel(CLIPVisionConfig(**sizes)))
    expected = tower(images)
    source.save_pretrained(tmp_path)
    for model in (from_clip(source), from_clip(str(tmp_path))):
        received = model(images)
        close(received.pre_norm_hidden_state, expected.last_hidden_state)
        close(received.pooler_output, expected.pooler_output)
    assert model.config.hidden_act == "quick_gelu"


@torch.no_grad()
def test_siglip__same_patch_states_and_a_class_token_of_its_own(images):
    tower = randomised(SiglipVisionModel(SiglipVisionConfig(**SQUARE, intermediate_size=48)))
    model = from_siglip(tower)
    received, expected = model(images), tower(images)
    close(received.last_hidden_state[:, 1:], expected.last_hidden_state)
    model.embeddings.cls_token.add_(torch.randn_like(model.embeddings.cls_token))
    again = model(images)
    close(again.last_hidden_state[:, 1:], expected.last_hidden_state)
    assert not torch.allclose(again.pooler_output, received.pooler_output, atol=1e-3)
    other = model(images.flip(3)).pooler_output  # it does read the image
    assert not torch.allclose(other, again.pooler_output, atol=1e-3)


@torch.no_grad()
def test_siglip2__of_variable_size_is_one_of_its_square_grid(images):
    sizes = {**WIDTH, "intermediate_size": 48, "patch_size": 8, "num_patches": GRID}
    tower = randomised(Siglip2VisionModel(Siglip2VisionConfig(**sizes)))
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(3, GRID, 8 * 8 * 3)
    shapes = torch.tensor([[3, 3]] * 3)
    expected = tower(patches, pixel_attention_mask=torch.ones(3, GRID), spatial_shapes=shapes).last_hidden_state
    model = from_siglip(tower)
    assert model.config.image_size == [24, 24]
    close(model(images).last_hidden_state[:, 1:], expected)


DINOS = {
    "dinov2": lambda **more: Dinov2Model(Dinov2Config(**SQUARE, **more)),
    "registers": lambda **more: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SQUARE, num_register_tokens=2, **more)
    ),
    "dinov3": lambda **more: DINOv3ViTModel(
        DINOv3ViTConfig(**SQUARE, intermediate_size=48, num_register_tokens=3, **more)
    ),
    "dinov3 without registers": lambda **more: DINOv3ViTModel(
        DINOv3ViTConfig(**SQUARE, intermediate_size=48, mlp_bias=False, proj_bias=False, **more)
    ),
}


@pytest.mark.parametrize("kind", DINOS)
@torch.no_grad()
def test_dino__same_states_of_class_token_and_patches(images, kind):
    dino = randomised(DINOS[kind]())
    model, expected = from_dino(dino), dino(images).last_hidden_state
    received = model(images, output_hidden_states=True)
    states = torch.cat([expected[:, :1], expected[:, -GRID:]], dim=1)
    close(received.last_hidden_state, states)
    close(received.pooler_output, expected[:, 0])
    chosen = torch.zeros(3, 1 + GRID, dtype=torch.bool)
    chosen[:, [2, 5]] = True
    close(model(images, read_positions=chosen).last_hidden_state, states[chosen])


@pytest.mark.parametrize("kind", ["registers", "dinov3"])
@torch.no_grad()
def test_dino__masked_patches_as_in_the_original(images, kind):
    dino = randomised(DINOS[kind]())
    masked = torch.rand(3, GRID, generator=torch.Generator().manual_seed(1)) < 0.4
    expected = dino(images, bool_masked_pos=masked).last_hidden_state
    received = from_dino(dino)(images, bool_masked_pos=masked).last_hidden_state
    close(received[:, 1:], expected[:, -GRID:])


@torch.no_grad()
def test_dinov3__another_image_size_as_in_the_original():
    dino = randomised(DINOS["dinov3"]())
    images = torch.randn(2, 3, 40, 16)
    expected = dino(images).last_hidden_state
    received = from_dino(dino, image_size=(40, 16))(images)
    close(received.last_hidden_state[:, 1:], expected[:, -10:])
    assert from_dino(dino, image_size=(40, 16), patch_stride=4).config.patch_grid == (9, 3)


def test_dino__a_model_with_a_head_and_one_with_gates():
    with_head = randomised(Dinov2ForImageClassification(Dinov2Config(**SQUARE, num_labels=3)))
    assert isinstance(from_dino(with_head), MMETImageModel)
    with pytest.raises(ValueError, match="gated"):
        from_dino(DINOS["dinov2"](use_swiglu_ffn=True))
    with pytest.raises(ValueError, match="'dinov2' or 'dinov2_with_registers' or 'dinov3_vit', received CLIPVision"):
        from_dino(CLIPVisionModel(CLIPVisionConfig(**SQUARE, intermediate_size=48)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: CLIPVisionModel(CLIPVisionConfig(**SQUARE, intermediate_size=48)),
        lambda: SiglipVisionModel(SiglipVisionConfig(**SQUARE, intermediate_size=48)),
        DINOS["registers"],
        DINOS["dinov3"],
    ],
    ids=["clip", "siglip", "registers", "dinov3"],
)
def test_convert__trains_as_a_whole_model_and_loads_again(make, make_pretraining_batch, tmp_path):
    randomised(make()).save_pretrained(tmp_path / "tower")
    start = convert(str(tmp_path / "tower"), image_size=(52, 28), patch_stride=6)
    assert start.fields["image_config"]["image_size"] == [52, 28]
    assert all(name.startswith("mmet.image_model.") for name in start.weights)
    small = {**WIDTH, "intermediate_size": 48}
    fields = {**start.fields, "text_config": {**small, "vocab_size": 14, "max_position_embeddings": 12}}
    config = MMETConfig(**{**fields, "multimodal_config": small, "codebook_size": 6, "num_identities": 4})
    model = MMETForPreTraining(config)
    model.load_state_dict(start.weights, strict=False)
    batch = make_pretraining_batch()
    patches = config.image_config.num_patches
    batch["bool_masked_pos"] = torch.arange(patches).expand(4, -1) % 5 == 0
    batch["mim_labels"] = torch.zeros(4, patches, dtype=torch.long)
    loss = model.train()(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    without = [name for name, weight in model.mmet.image_model.named_parameters() if weight.grad is None]
    assert without == []
    model.save_pretrained(tmp_path / "model")
    loaded = MMETForPreTraining.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        same = model.eval()(**batch).loss
        torch.testing.assert_close(loaded(**batch).loss, same)


class Block(nn.Module):
    """A layer of CLIP's released code, written anew from its description."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=nn.Identity(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, states):
        normed = self.ln_1(states)
        states = states + self.attn(normed, normed, normed, need_weights=False)[0]
        inner = self.mlp.c_fc(self.ln_2(states))
        return states + self.mlp.c_proj(inner * torch.sigmoid(1.702 * inner))


class Tower(nn.Module):
    """CLIP's vision transformer, of any image size and stride; the names are those of released files."""

    def __init__(self, width: int, patch: int, stride: int, patches: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, stride, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(Block(width, width // 64) for _ in range(2)))
        self.proj = nn.Parameter(torch.empty(width, 16))

    def forward(self, images):
        patches = self.conv1(images).flatten(2).permute(2, 0, 1)
        first = self.class_embedding.expand(1, patches.shape[1], -1)
        states = self.ln_pre(torch.cat([first, patches]) + self.positional_embedding[:, None])
        return self.ln_post(self.transformer.resblocks(states)).transpose(0, 1)


@pytest.mark.parametrize(
    ("place", "stride", "patches"),
    [("base_model.visual.", 8, 12), ("image_encoder.", 6, 15), ("", 8, 12)],
    ids=["irra", "clip-reid", "tower"],
)
@torch.no_grad()
def test_openai_clip__state_dicts_of_irra_and_clip_reid(place, stride, patches, tmp_path):
    tower = randomised(Tower(128, 8, stride, patches))
    weights = {f"{place}{name}": weight.contiguous() for name, weight in tower.state_dict().items()}
    others = {"base_model.token_embedding.weight": torch.ones(3, 4), "classifier.weight": torch.ones(5, 128)}
    save_file(weights | (others if place else {}), tmp_path / "released.safetensors")
    images = torch.randn(2, 3, 32 if stride == 8 else 34, 24)
    size = tuple(images.shape[-2:])
    model = from_openai_clip(tmp_path / "released.safetensors", image_size=size, patch_stride=stride)
    assert model.config.num_patches == patches
    close(model(images).last_hidden_state, tower(images))
    close(from_openai_clip(weights, size, stride)(images).last_hidden_state, tower(images))


def test_openai_clip__refuses(tmp_path):
    tower = randomised(Tower(64, 8, 8, 12)).state_dict()
    with pytest.raises(ValueError, match="the 12 patches that there are positions for, received \\[24, 24\\] and 8"):
        from_openai_clip(tower, (24, 24))
    with pytest.raises(ValueError, match=r"expected one of base_model\.visual\.conv1\.weight"):
        from_openai_clip({"weight": torch.ones(1)}, (32, 24))
    with pytest.raises(ValueError, match="a ResNet"):
        from_openai_clip({"visual.conv1.weight": torch.ones(1, 3, 3, 3)}, (32, 24))
    with pytest.raises(ValueError, match="expected one place"):
        from_openai_clip({**tower, "ln_third.weight": torch.ones(1)}, (32, 24))
    torch.save(tower, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model.pth: expected a safetensors file"):
        from_openai_clip(tmp_path / "model.pth", (32, 24))


def test_from_encoders__a_tower_beside_bert(images):
    text = from_bert(BertModel(BertConfig(**WIDTH, intermediate_size=48, vocab_size=20, max_position_embeddings=9)))
    model = from_encoders(from_dino(randomised(DINOS["registers"]())), text, codebook_size=4)
    with torch.no_grad():
        assert model.get_image_features(images).pooler_output.shape == (3, model.config.projection_dim)
        assert model.get_multimodal_features(images).pooler_output.shape == (3, 32)
