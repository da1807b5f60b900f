"""Backbones of transformers from folders: tiny random models, their embeddings against transformers' own calls."""

from __future__ import annotations

from types import SimpleNamespace

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
    Dinov2Config,
    Dinov2Model,
    FlavaConfig,
    FlavaImageProcessorPil,
    FlavaModel,
    FlavaProcessor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    ViTConfig,
    ViTImageProcessorPil,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from mmet.evaluation import EvaluationOptions, build_task, select_items
from mmet.evaluation.systems.backbones import BackboneSystem, ImageInputs, VisionBackbone, load_backbone

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
    (result,) = system.evaluate([build_task(dataset, "text", "image")], EvaluationOptions(max_rank=10))
    assert result.metrics.num_queries == 9


def test_load_backbone__is_cached_by_its_own_weights(tmp_path, dataset, monkeypatch):
    folder, calls = tmp_path / "vit", []
    forward = ViTModel.forward
    monkeypatch.setattr(ViTModel, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    for _ in range(2):
        save(folder, ViTModel(ViTConfig(**PICTURE)), ViTImageProcessorPil(size=SIZE))
        for _ in range(2):
            embeddings(load_backbone(str(folder), cache_dir=tmp_path / "cache"), dataset, "image")
    # Each is tried out twice; two of the four are embedded, the others are in the cache.
    assert len(calls) == 4 * 2 + 2


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


def save_flava(folder, tokenizer):
    config = FlavaConfig(
        text_config={**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 8},
        image_config={**PICTURE, "mask_token": False},
        multimodal_config=SMALL,
        image_codebook_config={"hidden_size": 8, "num_groups": 1},
        projection_dim=16,
        hidden_size=16,
    )
    model = FlavaModel(config).eval()
    processor = FlavaProcessor(FlavaImageProcessorPil(size=SIZE, crop_size=SIZE, do_center_crop=False), tokenizer)
    save(folder, model, processor)
    return model, processor


def test_load_backbone__flava_by_its_projected_class_tokens(tmp_path, dataset, tokenizer):
    model, processor = save_flava(tmp_path / "flava", tokenizer)
    system = load_backbone(str(tmp_path / "flava"), batch_size=4)
    pixel_values = processor.image_processor(images=pictures(dataset), return_tensors="pt")["pixel_values"]
    captions = [caption for row in dataset["test"] for caption in row["captions"]]
    words = tokenizer(captions, padding="max_length", max_length=8, truncation=True, return_tensors="pt")
    with torch.no_grad():
        image = model.image_projection(model.image_model(pixel_values).last_hidden_state[:, 0])
        text = model.text_projection(model.text_model(words["input_ids"], words["attention_mask"])[0][:, 0])
    np.testing.assert_allclose(embeddings(system, dataset, "image"), unit(image), atol=1e-5)
    np.testing.assert_allclose(embeddings(system, dataset, "text"), unit(text), atol=1e-5)


def test_load_backbone__a_masked_autoencoder_sees_every_patch(tmp_path, dataset):
    config = ViTMAEConfig(**{**PICTURE, "image_size": 32}, mask_ratio=0.75)
    model, size = ViTMAEModel(config).eval(), {"height": 32, "width": 32}
    processor = ViTImageProcessorPil(size=size)
    system = load_backbone(save(tmp_path / "mae", model, processor), batch_size=4)
    first, again = (embeddings(system, dataset, "image") for _ in range(2))
    np.testing.assert_allclose(first, again, atol=1e-5)
    model.config.mask_ratio = model.embeddings.config.mask_ratio = 0.0
    with torch.no_grad():
        expected = model(**processor(images=pictures(dataset), return_tensors="pt")).last_hidden_state[:, 0]
    np.testing.assert_allclose(first, unit(expected), atol=1e-5)


def test_load_backbone__dinov2_by_its_class_token(tmp_path, dataset):
    model = Dinov2Model(Dinov2Config(**PICTURE)).eval()
    processor = ViTImageProcessorPil(size=SIZE)
    system = load_backbone(save(tmp_path / "dino", model, processor))
    with torch.no_grad():
        expected = model(**processor(images=pictures(dataset), return_tensors="pt")).last_hidden_state[:, 0]
    np.testing.assert_allclose(embeddings(system, dataset, "image"), unit(expected), atol=1e-5)


class Stub(torch.nn.Module):
    """Gives what `embed(pixel_values, call)` gives, and counts its calls."""

    def __init__(self, embed):
        super().__init__()
        self.embed, self.calls = embed, 0
        self.seen = set()

    def forward(self, pixel_values, pixel_mask):
        self.calls += 1
        self.seen.add(tuple(pixel_mask.shape))
        features = self.embed(pixel_values, self.calls)
        return SimpleNamespace(pooler_output=features, last_hidden_state=None)


def stub_processor(images, return_tensors):
    pixels = np.stack([np.asarray(image.resize((4, 4)), dtype=np.float32) for image in images]).transpose(0, 3, 1, 2)
    return {"pixel_values": torch.from_numpy(pixels), "pixel_mask": torch.ones(len(images), 4, 4)}


def stub_system(embed):
    return BackboneSystem(VisionBackbone(Stub(embed), has_pooler=True), ImageInputs(stub_processor), name="stub")


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda pixels, _: pixels.flatten(2), r"'stub': expected one vector for each of two pictures.*\(2, 3, 16\)"),
        (lambda pixels, _: pixels.mean((2, 3))[:1], r"one vector for each"),
        (lambda pixels, _: pixels.mean((2, 3)) * float("nan"), "expected finite embeddings"),
        (lambda pixels, call: pixels.mean((2, 3)) + 50 * call, "other embeddings when it sees the same pictures"),
        (lambda pixels, _: pixels.no_such_thing, "'stub' cannot embed pictures: AttributeError"),
    ],
    ids=["tokens", "one for two", "nan", "chance", "raises"],
)
def test_try_out__says_what_a_system_does_not_do(embed, message):
    with pytest.raises(ValueError, match=message):
        stub_system(embed).try_out()


def test_try_out__gives_the_model_all_that_the_processor_makes():
    system = stub_system(lambda pixels, _: pixels.mean((2, 3)))
    system.try_out()
    assert system.model.model.seen == {(2, 4, 4)}


def test_load_backbone__a_backbone_that_draws_lots_is_refused(tmp_path, monkeypatch):
    forward = ViTModel.forward

    def noisy(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.pooler_output = output.pooler_output + torch.randn_like(output.pooler_output)
        return output

    folder = save(tmp_path / "vit", ViTModel(ViTConfig(**PICTURE)), ViTImageProcessorPil(size=SIZE))
    monkeypatch.setattr(ViTModel, "forward", noisy)
    with pytest.raises(ValueError, match="'vit' gives other embeddings"):
        load_backbone(folder)
