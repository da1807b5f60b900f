"""Backbones of transformers from folders: tiny random models, their embeddings against transformers' own calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    ConvNextModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from mmet.evaluation import build_task, select_items
from mmet.evaluation.backbones import load_backbone

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
PICTURE = {**SMALL, "image_size": 16, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": 14, "max_position_embeddings": 8, "projection_dim": 16}
SIZE = {"height": 16, "width": 16}


@pytest.fixture
def dataset(tmp_path, text_dataset):
    """The text data set with pictures that differ."""
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "test").glob("*.png")):
        Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(path)
    return text_dataset


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def unit(features):
    return torch.nn.functional.normalize(features, dim=-1).detach().numpy()


def pictures(dataset):
    return [row["image"].convert("RGB") for row in dataset["test"]]


def embeddings(system, dataset, modality):
    return system.embed(select_items(dataset["test"], "test", modality))


@pytest.mark.parametrize("pooled", [True, False])
def test_load_backbone__vit_by_its_pooler_or_else_its_first_token(tmp_path, dataset, pooled):
    model = ViTModel(ViTConfig(**PICTURE), add_pooling_layer=pooled).eval()
    processor = ViTImageProcessorPil(size=SIZE)
    system = load_backbone(save(tmp_path / "tiny-vit", model, processor), batch_size=4)
    with torch.no_grad():
        output = model(**processor(images=pictures(dataset), return_tensors="pt"))
    expected = output.pooler_output if pooled else output.last_hidden_state[:, 0]
    np.testing.assert_allclose(embeddings(system, dataset, "image"), unit(expected), atol=1e-5)
    assert system.name == "tiny-vit"
    assert system.supports("image", "image")
    assert not any(system.supports(*pair) for pair in (("text", "image"), ("both", "both"), ("image", "text")))


def test_load_backbone__a_convolutional_network(tmp_path, dataset):
    config = ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], image_size=32)
    model = ConvNextModel(config).eval()
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0)
    system = load_backbone(save(tmp_path / "convnext", model, processor))
    with torch.no_grad():
        expected = model(**processor(images=pictures(dataset), return_tensors="pt")).pooler_output
    np.testing.assert_allclose(embeddings(system, dataset, "image"), unit(expected), atol=1e-5)


def dual_encoder(kind, tokenizer):
    if kind == "clip":
        text = {**TEXT, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
        config = CLIPConfig(text_config=text, vision_config={**PICTURE, "projection_dim": 16}, projection_dim=16)
        return CLIPModel(config).eval(), CLIPProcessor(
            CLIPImageProcessorPil(size=SIZE, crop_size=SIZE, do_center_crop=False), tokenizer
        )
    config = SiglipConfig(text_config={**TEXT, "projection_size": 16}, vision_config=PICTURE)
    return SiglipModel(config).eval(), SiglipProcessor(SiglipImageProcessorPil(size=SIZE), tokenizer)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_load_backbone__dual_encoders_search_by_sentence(tmp_path, dataset, tokenizer, kind):
    model, processor = dual_encoder(kind, tokenizer)
    system = load_backbone(save(tmp_path / kind, model, processor), batch_size=4)
    captions = [caption for row in dataset["test"] for caption in row["captions"]]
    words = tokenizer(captions, padding="max_length", max_length=8, truncation=True, return_tensors="pt")
    pixel_values = processor.image_processor(images=pictures(dataset), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(input_ids=words["input_ids"], attention_mask=words["attention_mask"], pixel_values=pixel_values)
    np.testing.assert_allclose(embeddings(system, dataset, "image"), unit(output.image_embeds), atol=1e-5)
    np.testing.assert_allclose(embeddings(system, dataset, "text"), unit(output.text_embeds), atol=1e-5)
    assert all(system.supports(*pair) for pair in (("text", "image"), ("image", "text"), ("image", "image")))
    assert not system.supports("both", "image")
    (result,) = system.evaluate([build_task(dataset, "text", "image")], max_rank=10)
    assert result.metrics.num_queries == 9


def test_load_backbone__is_cached_by_its_own_weights(tmp_path, dataset, monkeypatch):
    folder, calls = tmp_path / "vit", []
    forward = ViTModel.forward
    monkeypatch.setattr(ViTModel, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    for _ in range(2):
        save(folder, ViTModel(ViTConfig(**PICTURE)), ViTImageProcessorPil(size=SIZE))
        for _ in range(2):
            embeddings(load_backbone(str(folder), cache_dir=tmp_path / "cache"), dataset, "image")
    assert len(calls) == 2


def test_load_backbone__says_what_it_cannot_load(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"cannot load a backbone with its processor from '.*absent'"):
        load_backbone(str(tmp_path / "absent"))
    bert = tmp_path / "bert"
    save(bert, BertModel(BertConfig(**SMALL, vocab_size=14)), tokenizer)
    with pytest.raises(ValueError, match="bert"):
        load_backbone(str(bert))
    ViTModel(ViTConfig(**PICTURE)).save_pretrained(tmp_path / "no-processor")
    with pytest.raises(ValueError, match="no-processor"):
        load_backbone(str(tmp_path / "no-processor"))
