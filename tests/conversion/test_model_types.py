"""Models of other architectures as `--model_name_or_path`: chosen by their model type, at the recipe's geometry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import ENCODER, draw_world, read_losses, run, write_recipe
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    FlavaConfig,
    FlavaForPreTraining,
    PreTrainedModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from mmet.conversion import ANCESTORS, convert, from_bert, from_flava, from_vit
from modeling_mmet import MMETForPreTraining
from processing_mmet import MMETProcessor

FIRST = ("flava", "vit", "bert")
"""A whole model, an encoder of images and one of text; the others are in `test_towers` and `test_bert_like`."""

CODES = 11
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "woman", "in", "red", "blue", "coat")
IMAGE = {"image_size": [52, 28], "patch_size": 12}
TEXT = {"vocab_size": len(WORDS), "max_position_embeddings": 48}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world") / "source")


def make_flava() -> FlavaForPreTraining:
    return FlavaForPreTraining(
        FlavaConfig(
            image_config={**ENCODER, **IMAGE, "vocab_size": CODES},
            text_config={**ENCODER, **TEXT},
            multimodal_config=ENCODER,
            image_codebook_config={"num_groups": 4, "num_blocks_per_group": 1, "hidden_size": 4, "vocab_size": CODES},
            hidden_size=32,
            projection_dim=20,
        )
    )


def make_ancestor(model_type: str) -> PreTrainedModel:
    if model_type == "flava":
        return make_flava()
    if model_type == "vit":
        return ViTModel(ViTConfig(**ENCODER, **IMAGE))
    return BertModel(BertConfig(**ENCODER, **TEXT))


def save_ancestor(model_type: str, folder: Path) -> Path:
    make_ancestor(model_type).eval().save_pretrained(folder)
    if ANCESTORS[model_type].reads_text:
        (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
        BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_type", FIRST)
def test_convert__is_what_the_converter_of_the_type_gives(model_type, tmp_path):
    folder = save_ancestor(model_type, tmp_path)
    start = convert(str(folder), **({} if model_type == "bert" else {"image_size": (60, 36), "patch_stride": 8}))
    converter = {"flava": from_flava, "vit": from_vit, "bert": from_bert}[model_type]
    expected = converter(folder)
    if model_type != "bert":
        expected.resize_image((60, 36), 8)
    prefix = {"flava": "", "vit": "mmet.image_model.", "bert": "mmet.text_model."}[model_type]
    # An ancestor without a [MASK] leaves ours as it was initialised, anew each time.
    stored = {name: value for name, value in expected.state_dict().items() if "mask_token" not in name}
    for name, value in stored.items():
        if not name.startswith("identity_head"):
            torch.testing.assert_close(start.weights[f"{prefix}{name}"], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("model_type", FIRST)
def test_run_pretrain__starts_from_the_ancestor(model_type, tmp_path, world):
    """Trained with a learning rate of nearly nothing, the model still gives its ancestor's features."""
    ancestor = save_ancestor(model_type, tmp_path / "ancestor")
    model_config = {
        "flava": None,
        "vit": {
            "text_config": {**ENCODER, "max_position_embeddings": 48},
            "multimodal_config": ENCODER,
            "codebook_size": 8,
        },
        "bert": {
            "image_config": {**ENCODER, "image_size": [52, 28]},
            "multimodal_config": ENCODER,
            "codebook_size": 8,
        },
    }[model_type]
    fields = {
        "model_config": model_config,
        "learning_rate": 1e-12,
        "logging_steps": 1,
        "batch_mix": {"paired": 1, "identity": 1},
    }
    recipe = write_recipe(tmp_path, world, **fields, model_name_or_path=str(ancestor), max_steps=2, mask_ratio=0.3)
    folder = run(recipe)
    assert {"mmm_text", "itm", "identity"} <= read_losses(folder)
    model = MMETForPreTraining.from_pretrained(folder).eval()
    theirs = type(make_ancestor(model_type)).from_pretrained(ancestor).eval()
    pixels, words = torch.randn(2, 3, 52, 28), torch.tensor([[2, 5, 9, 11, 3], [2, 5, 8, 10, 3]])
    with torch.no_grad():
        if model_type == "bert":
            received = model.mmet.text_model.embeddings(words)
            expected = theirs.embeddings(words)
        else:
            received = model.mmet.image_model(pixels).last_hidden_state
            encoder = theirs.flava.image_model if model_type == "flava" else theirs
            expected = encoder(pixels).last_hidden_state
    torch.testing.assert_close(received, expected, rtol=1e-4, atol=1e-4)
    processor = MMETProcessor.from_pretrained(folder)
    assert len(processor.tokenizer) == len(WORDS) or model_type == "vit"
    assert list(processor.image_processor.image_mean) == pytest.approx(model.config.codebook_image_mean)


def test_run_pretrain__fits_the_ancestor_to_the_recipe_and_keeps_its_normalisation(tmp_path, world):
    ancestor = save_ancestor("vit", tmp_path / "ancestor")
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(ancestor)
    parts = {"text_config": {**ENCODER, "max_position_embeddings": 48}, "multimodal_config": ENCODER}
    geometry = {"image_config": {"image_size": [60, 36], "patch_stride": 8}}
    recipe = write_recipe(
        tmp_path, world, model_config={**parts, **geometry, "codebook_size": 8}, model_name_or_path=str(ancestor)
    )
    folder = run(recipe, "--max_steps", 1)
    config = MMETForPreTraining.from_pretrained(folder).config
    assert (config.image_config.patch_grid, config.image_config.hidden_size) == ((7, 4), 32)
    processor = MMETProcessor.from_pretrained(folder).image_processor
    assert (tuple(processor.image_mean), tuple(processor.image_std)) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (processor.size["height"], processor.size["width"], processor.patch_stride) == (60, 36, 8)


def test_run_pretrain__contradicting_sizes_are_named(tmp_path, world):
    ancestor = save_ancestor("flava", tmp_path / "ancestor")
    recipe = write_recipe(
        tmp_path,
        world,
        model_name_or_path=str(ancestor),
        model_config={"image_config": {"hidden_size": 64}, "text_config": {"num_hidden_layers": 5}},
    )
    message = "image_config.hidden_size 64 where it has 32; text_config.num_hidden_layers 5 where it has 1"
    with pytest.raises(ValueError, match=message):
        run(recipe)


def test_run_pretrain__unknown_types_pickles_and_strange_tokenizers_are_refused(tmp_path, world):
    ancestor = save_ancestor("bert", tmp_path / "ancestor")
    recipe = write_recipe(tmp_path, world, model_name_or_path=str(ancestor), model_config=None)
    config = json.loads((ancestor / "config.json").read_text(encoding="utf-8"))
    (ancestor / "config.json").write_text(json.dumps({**config, "model_type": "resnet"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected a model of type mmet, flava, vit, .*bert.* received 'resnet'"):
        run(recipe)
    (ancestor / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("vocab.txt", "tokenizer.json"):
        (ancestor / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        run(recipe)
    other = tmp_path / "other"
    other.mkdir()
    (other / "vocab.txt").write_text("\n".join([*WORDS, "extra", "words"]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"at most 12 words.* received 14"):
        run(recipe, "--tokenizer_name", other)
    (ancestor / "model.safetensors").unlink()
    torch.save({}, ancestor / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin, a pickle, which can run code and is never loaded"):
        run(recipe, "--tokenizer_name", other)
    with pytest.raises((OSError, ValueError), match=r"model.safetensors"):
        from_bert(ancestor)
