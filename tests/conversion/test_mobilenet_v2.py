"""MobileNetV2 as backbone: from transformers' model, and from a state dict in torchvision's layout."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from tiny_runs import ENCODER
from torch import Tensor, nn
from transformers import BertConfig, BertModel, MobileNetV2Config, MobileNetV2Model

from mmet.conversion import from_bert, from_encoders, from_mobilenet_v2
from modeling_mmet import MMETForReID

SIZE = (64, 48)


class TorchvisionBlock(nn.Module):
    """An inverted residual with torchvision's names: `conv.{n}`."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        width = inputs * expansion
        expand = [nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        depthwise = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        reduce = [nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        layers = [*(expand if expansion > 1 else []), depthwise, nn.BatchNorm2d(width), nn.ReLU6(), *reduce]
        self.conv = nn.Sequential(*layers)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features) + features if self.is_residual else self.conv(features)


class TorchvisionMobileNet(nn.Module):
    """Torchvision's network by the table of the paper: expansion, width, repetitions and stride of each group."""

    def __init__(self):
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())]
        width = 32
        for expansion, outputs, repetitions, stride in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            for number in range(repetitions):
                layers.append(TorchvisionBlock(width, outputs, stride if number == 0 else 1, expansion))
                width = outputs
        layers.append(nn.Sequential(nn.Conv2d(width, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()))
        self.features = nn.Sequential(*layers)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.features(pixel_values)


@pytest.fixture(scope="module")
def network() -> TorchvisionMobileNet:
    """Random weights through which pictures reach the map."""
    torch.manual_seed(0)
    network = TorchvisionMobileNet().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return network


@pytest.fixture
def config() -> dict[str, Any]:
    return {**ENCODER, "image_size": SIZE}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("source", ["state dict", "file", "with a classifier"])
def test_from_mobilenet_v2__same_map_as_in_torchvisions_layout(network, config, images, tmp_path, source):
    weights = network.state_dict()
    if source == "with a classifier":
        weights |= {"classifier.1.weight": torch.zeros(10, 1280), "classifier.1.bias": torch.zeros(10)}
    if source == "file":
        torch.save(weights, tmp_path / "weights.pt")
    model = from_mobilenet_v2(tmp_path / "weights.pt" if source == "file" else weights, config)
    with torch.no_grad():
        expected = network(images)
        received = model.embeddings.backbone(images).last_hidden_state
    assert received.shape == (2, 1280, 2, 2)
    torch.testing.assert_close(received, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1
    assert model.config.patch_grid == (2, 2)
    assert not model.training


@pytest.mark.parametrize("source", ["model", "folder"])
def test_from_mobilenet_v2__transformers_own(config, images, tmp_path, source):
    network = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1, output_stride=16)).eval()
    network.save_pretrained(tmp_path)
    model = from_mobilenet_v2(network if source == "model" else tmp_path, config)
    assert model.config.patch_grid == (4, 3)
    with torch.no_grad():
        expected = network(images).last_hidden_state
        assert torch.equal(model.embeddings.backbone(images).last_hidden_state, expected)


def test_from_mobilenet_v2__default_is_a_map_of_7_x_4_cells(network):
    model = from_mobilenet_v2(network.state_dict(), {**ENCODER, "freeze_backbone": True})
    assert model.config.patch_grid == (7, 4)
    assert not any(weight.requires_grad for weight in model.embeddings.backbone.parameters())


def test_from_mobilenet_v2__with_a_bert_a_whole_model(network, config, images, tmp_path):
    bert = BertModel(BertConfig(**ENCODER, vocab_size=20, max_position_embeddings=12))
    model = from_encoders(
        from_mobilenet_v2(network.state_dict(), config), from_bert(bert), model_class=MMETForReID, codebook_size=5
    )
    model.save_pretrained(tmp_path)
    words = torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3]])
    with torch.no_grad():
        expected = model(images, words).embeddings
        assert torch.equal(MMETForReID.from_pretrained(tmp_path)(images, words).embeddings, expected)
        features = model.mmet.image_model.embeddings.backbone(images).last_hidden_state
        torch.testing.assert_close(features, network(images), rtol=1e-5, atol=1e-5)
    words_of_bert = bert.embeddings.word_embeddings.weight
    assert torch.equal(model.mmet.text_model.embeddings.token_embedding.weight, words_of_bert)


def _without_last(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(weights.items())[:-1])


def _two_changed_places(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    names = list(weights)
    names[1], names[3] = names[3], names[1]  # scale and mean of the first batch norm: of one shape
    return {name: weights[name] for name in names}


def _wider(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {"features.0.0.weight": torch.zeros(64, 3, 3, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_last, "expected the 312 tensors of a MobileNetV2 of width 1, received 311"),
        (
            _two_changed_places,
            r"expected conv_stem.first_conv.normalization.weight \(32,\).*features.0.1.running_mean",
        ),
        (_wider, r"received features.0.0.weight \(64, 3, 3, 3\)"),
    ],
)
def test_from_mobilenet_v2__refuses_other_weights(network, config, change, message):
    with pytest.raises(ValueError, match=message):
        from_mobilenet_v2(change(network.state_dict()), config)


@pytest.mark.parametrize("content", ["a module", "a list", "text", "nothing"])
def test_from_mobilenet_v2__refuses_files_that_are_no_weights(config, tmp_path, content):
    file = tmp_path / "weights.pt"
    if content == "a module":
        torch.save(nn.Linear(1, 1), file)
    elif content == "a list":
        torch.save([1, 2], file)
    elif content == "text":
        file.write_bytes(pickle.dumps("text"))
    with pytest.raises(ValueError, match=r"weights\.pt: ") as caught:
        from_mobilenet_v2(file, config)
    assert "\n" not in str(caught.value)


def test_from_mobilenet_v2__refuses_other_models_and_options(network, config):
    bert = BertModel(BertConfig(**ENCODER, vocab_size=20))
    with pytest.raises(ValueError, match="expected a model of type 'mobilenet_v2', received BertModel"):
        from_mobilenet_v2(bert, config)
    with pytest.raises(ValueError, match="revision"):
        from_mobilenet_v2(network.state_dict(), config, revision="main")
