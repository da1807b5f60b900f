"""What users of transformers expect of any model, asked of all six: saving, loading, initialisation, labels."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from cases import CASES, assert_equal_states, load
from named_inputs import CLEAN, CLOSE
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining

import mmet  # noqa: F401 (registers the Auto classes)
import modeling_mmet
from configuration_mmet import MMETConfig
from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
)


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_save_and_load__bit_equal(case, shard, make_config, batch, tmp_path):
    model = case.build(make_config)
    for name, value in model.state_dict().items():  # also what starts as zeros and ones
        if value.is_floating_point() and not name.endswith("running_var"):
            value.normal_()
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    loaded, problems = load(case, tmp_path)
    assert problems == {}
    assert_equal_states(loaded, model)
    inputs = case.select(batch)
    received, expected = loaded(**inputs), model(**inputs)
    for name in case.answers:
        assert torch.equal(received[name], expected[name]), name


def test_save_and_load__configuration_survives(case, make_config, tmp_path):
    model = case.build(make_config, image={"patch_stride": 8, "image_size": (40, 28)}, text={"vocab_size": 17})
    model.save_pretrained(tmp_path)
    loaded, _ = load(case, tmp_path)

    left_out = ("dtype", "_name_or_path")  # a folder states the dtype of each part, a new model does not

    def settings(config: dict) -> dict:
        return {k: settings(v) if isinstance(v, dict) else v for k, v in config.items() if k not in left_out}

    assert settings(loaded.config.to_dict()) == settings(model.config.to_dict())


def test_load__missing_and_unexpected_keys_are_reported(case, make_config, tmp_path):
    case.build(make_config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = next(name for name in weights if name.endswith("encoder.layers.1.mlp.fc1.weight"))
    reference = weights.pop(missing)
    save_file(weights | {"someone.elses.weight": torch.ones(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, problems = load(case, tmp_path)
    assert problems == {"missing_keys": {missing}, "unexpected_keys": {"someone.elses.weight"}}
    fresh = loaded.state_dict()[missing]
    assert not torch.equal(fresh, reference)
    assert fresh.std().item() == pytest.approx(0.2, rel=0.1)


def test_load__other_number_of_identities(make_config, batch, tmp_path):
    case = CASES["reid"]
    model = case.build(make_config)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatched"):
        MMETForReID.from_pretrained(tmp_path, num_identities=9)
    loaded, problems = load(case, tmp_path, num_identities=9, ignore_mismatched_sizes=True)
    assert {key for key, *_ in problems["mismatched_keys"]} == {"identity_head.classifier.weight"}
    inputs = {name: batch[name] for name in CLEAN}
    assert torch.equal(loaded(**inputs).embeddings, model(**inputs).embeddings)
    assert loaded(**inputs).logits.shape == (4, 9)
    assert loaded.identity_head.classifier.weight.std().item() == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForPreTraining])
def test_auto_class__from_config(case, auto_class, make_config):
    expected = {AutoModel: case.model_class, AutoModelForPreTraining: MMETForPreTraining}[auto_class]
    if auto_class is AutoModel and case.part is None:
        expected = MMETForReID
    if auto_class is AutoModelForPreTraining and case.part is not None:
        pytest.skip("an encoder alone has no pretraining model")
    torch.manual_seed(3)
    received = auto_class.from_config(case.configure(make_config))
    torch.manual_seed(3)
    assert type(received) is expected
    assert_equal_states(received, expected(case.configure(make_config)))


def test_auto_class__saved_folder(case, make_config, tmp_path):
    case.build(make_config).save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    name = case.model_class.__name__
    auto_class = "AutoModelForPreTraining" if case.model_class is MMETForPreTraining else "AutoModel"
    assert auto_map[auto_class] == f"modeling_mmet.{name}"
    assert {"modeling_mmet.py", "configuration_mmet.py"} <= {path.name for path in tmp_path.iterdir()}
    loader = AutoModelForPreTraining if case.model_class is MMETForPreTraining else AutoModel
    assert type(loader.from_pretrained(tmp_path)) is case.model_class


RANGES = {
    "image": (0.3, 0.7, 1.1),
    "text": (0.2, 0.5, None),
    "multimodal": (0.1, None, 0.9),
    "whole": (0.4, None, None),
}
"""initializer_range, position_initializer_range and class_token_initializer_range of each part."""


def _expected_values(name: str, part: str, value: torch.Tensor):
    """Assert that a state of the given part holds what the configuration says it starts as."""
    weights, positions, class_token = RANGES[part]
    if name.endswith(("bias", "running_mean", "num_batches_tracked", "mask_token", "centroids")):
        assert not value.any(), name
    elif "norm" in name or "bnneck" in name:
        assert (value == 1).all(), name
    elif name.endswith("logit_scale"):
        assert value.item() == pytest.approx(2.6592), name
    else:
        if "token_embedding" in name:
            assert not value[0].any(), name  # [PAD]
            value = value[1:]
        std = class_token if name.endswith("cls_token") else positions if "position_embedding" in name else weights
        std = std if std is not None else weights
        # The standard deviation of n normal numbers is off by std / sqrt(2n); five times that never happens.
        assert abs(value.std().item() - std) < 5 * std / math.sqrt(2 * value.numel()), name


@pytest.mark.parametrize("origin", ["constructor", "nothing in the checkpoint"])
def test_initialisation__as_configured(case, origin, make_config, tmp_path):
    names = ("initializer_range", "position_initializer_range", "class_token_initializer_range")
    config = make_config(initializer_range=RANGES["whole"][0], tie_word_embeddings=False)
    for part in ("image", "text", "multimodal"):
        getattr(config, f"{part}_config").update(dict(zip(names, RANGES[part], strict=True)))
    model = case.model_class(config if case.part is None else getattr(config, f"{case.part}_config"))
    if origin != "constructor":
        model.save_pretrained(tmp_path)
        save_file({"unknown": torch.ones(1)}, tmp_path / "model.safetensors", {"format": "pt"})
        filler = [torch.full((1 << 16,), math.nan) for _ in range(64)]  # memory that is not zero by luck
        del filler
        model, problems = load(case, tmp_path)
        # What is never missed: a copy of nothing.
        assert problems["missing_keys"] >= {name for name, _ in model.named_parameters()}
    for name, value in model.state_dict().items():
        parts = [part for part in ("image", "text", "multimodal") if f"{part}_model." in f"{name}."]
        _expected_values(name, case.part or (parts[0] if parts else "whole"), value)


def test_identities__have_transformers_names(make_config):
    config = make_config(num_identities=3)
    assert config.num_labels == 3
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config.num_labels = 2
    assert config.num_identities == len(config.id2label) == len(config.label2id) == 2
    config.id2label = {"0": "alice", "1": "bob", "2": "eve"}
    assert config.num_identities == config.num_labels == 3
    assert config.label2id == {"alice": 0, "bob": 1, "eve": 2}
    loaded = MMETConfig.from_dict(json.loads(config.to_json_string()))
    assert loaded.id2label == {0: "alice", 1: "bob", 2: "eve"}
    config.num_identities = 5
    assert config.id2label[4] == "LABEL_4"  # names of others are not kept
    assert MMETConfig(label2id={"alice": 0, "bob": 1}).id2label == {0: "alice", 1: "bob"}


def test_identities__many_do_not_fill_the_configuration(make_config):
    assert "LABEL_" not in make_config(num_identities=1000).to_json_string()


@pytest.mark.parametrize(
    "names", [{"num_labels": 7}, {"id2label": {number: f"person {number}" for number in range(7)}}], ids=str
)
def test_load__other_number_of_labels(names, make_config, tmp_path):
    CASES["reid"].build(make_config).save_pretrained(tmp_path)
    loaded = MMETForReID.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **names)
    assert loaded.identity_head.classifier.weight.shape == (7, 32)
    assert loaded.config.num_identities == len(loaded.config.id2label) == 7
    assert loaded.config.id2label == names.get("id2label", loaded.config.id2label)


def test_load__safetensors_alone(case, make_config, tmp_path):
    model = case.build(make_config)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="leave out use_safetensors=False"):
        case.model_class.from_pretrained(tmp_path, use_safetensors=False)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"safetensors alone.*expected model.safetensors in .*pytorch_model.bin"):
        case.model_class.from_pretrained(tmp_path)


@pytest.mark.parametrize("trained", [True, False])
def test_identity_head__says_when_it_was_never_trained(trained, make_config, batch, tmp_path, caplog):
    model = CASES["pretraining"].build(make_config, num_identities=4 if trained else 0)
    if trained:
        model.train()(**{name: batch[name] for name in (*CLEAN, "person_labels")})
    model.eval().save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        modeling_mmet.logger.parent.propagate, before = True, modeling_mmet.logger.parent.propagate
        loaded = AutoModel.from_pretrained(tmp_path)
        modeling_mmet.logger.parent.propagate = before
    assert type(loaded) is MMETForReID
    assert ("was never trained" in caplog.text) != trained
    inputs = {name: batch[name] for name in CLEAN}
    with torch.no_grad():
        received = loaded(**inputs)
        features = model.get_multimodal_features(**inputs).pooler_output
    assert torch.equal(received.embeddings, received.pooler_output)
    if not trained:
        torch.testing.assert_close(received.embeddings, torch.nn.functional.normalize(features), **CLOSE)


def test_adapters__documented_names_are_all_linear_layers_of_the_encoders(make_config):
    model = CASES["reid"].build(make_config)
    documented = ("qkv_proj", "out_proj", "fc1", "fc2")
    encoders = [model.mmet.image_model, model.mmet.text_model, model.mmet.multimodal_model]
    for encoder in encoders:
        linear = [name for name, module in encoder.named_modules() if isinstance(module, torch.nn.Linear)]
        assert {name.rsplit(".", 1)[-1] for name in linear} == set(documented)
    card = Path(__file__).parents[2] / "docs" / "architecture.md"
    assert f"`target_modules={list(documented)}`".replace("'", '"') in card.read_text(encoding="utf-8")
