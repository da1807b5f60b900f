"""Files of models and checkpoints that are not what they should be: one message, naming the file, before any work."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerState

import run_pretrain
import run_reid_eval
from mmet.checkpoint_files import check_checkpoint_folder, check_model, load_tokenizer
from mmet.evaluation.systems.loading import load_embedder
from modeling_mmet import MMETForPreTraining, MMETForReID, MMETModel
from processing_mmet import MMETImageProcessor, MMETProcessor

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def saved(make_config, tokenizer, tmp_path_factory):
    """A model with its processor, and a checkpoint of it, written as Trainer does."""
    folder = tmp_path_factory.mktemp("saved")
    model = MMETForPreTraining(make_config())
    processor = MMETProcessor(MMETImageProcessor(size={"height": 52, "width": 28}), tokenizer)
    for name in ("model", "checkpoint-4"):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    checkpoint = folder / "checkpoint-4"
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters() if p.requires_grad).backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), checkpoint / "optimizer.pt")
    torch.save(torch.optim.lr_scheduler.LinearLR(optimizer).state_dict(), checkpoint / "scheduler.pt")
    torch.save({"cpu": torch.random.get_rng_state()}, checkpoint / "rng_state.pth")
    TrainerState(global_step=4, max_steps=8).save_to_json(str(checkpoint / "trainer_state.json"))
    return folder


@pytest.fixture
def model(saved, tmp_path):
    return Path(shutil.copytree(saved / "model", tmp_path / "model"))


@pytest.fixture
def checkpoint(saved, tmp_path):
    return Path(shutil.copytree(saved / "checkpoint-4", tmp_path / "run" / "checkpoint-4"))


def change_weights(path: Path, change) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def index_that_names(path: Path, files: dict) -> None:
    path.with_name("model.safetensors.index.json").write_text(json.dumps(files), encoding="utf-8")
    path.rename(path.with_name("model-00001-of-00002.safetensors"))


NORM = "mmet.image_model.encoder.final_norm.weight"

BROKEN_WEIGHTS = {
    "gone": (Path.unlink, "holds no model.safetensors"),
    "empty": (lambda path: path.write_bytes(b""), "model.safetensors is empty"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 100), "model.safetensors is cut short"),
    "truncated in the header": (lambda path: os.truncate(path, 100), "model.safetensors is cut short"),
    "pointer": (lambda path: path.write_text(POINTER, encoding="utf-8"), "model.safetensors is a Git LFS pointer"),
    "text": (
        lambda path: path.write_text("<html>not found</html>", encoding="utf-8"),
        "model.safetensors is cut short",
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "expected a file, received a folder"),
    "pickle": (lambda path: torch.save({}, path), "model.safetensors is a pickle in spite of its name"),
    "plain pickle": (lambda path: path.write_bytes(pickle.dumps({})), "model.safetensors is a pickle"),
    "pickle of its own name": (
        lambda path: (path.unlink(), torch.save({}, path.with_name("pytorch_model.bin"))),
        "found pytorch_model.bin, a pickle",
    ),
    "another shape": (
        lambda path: change_weights(path, lambda weights: weights.update({NORM: torch.ones(7)})),
        rf"expected {NORM} of shape \(32,\), as config.json says, received \(7,\)",
    ),
    "integers": (
        lambda path: change_weights(path, lambda weights: weights.update({NORM: weights[NORM].int()})),
        rf"expected {NORM} of type torch.float32, received I32",
    ),
    "no text encoder": (
        lambda path: change_weights(
            path, lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("mmet.text_model")]
        ),
        r"weights are missing and would be random \(mmet.text_model",
    ),
    "missing shard": (
        lambda path: index_that_names(
            path,
            {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}},
        ),
        "index.json names model-00002-of-00002.safetensors, which the folder does not hold",
    ),
    "index without names": (lambda path: index_that_names(path, {"weight_map": []}), "expected a weight_map"),
    "index that leaves the folder": (
        lambda path: index_that_names(path, {"weight_map": {"a": "../model.safetensors"}}),
        "to files in this folder",
    ),
}


@pytest.mark.parametrize("case", BROKEN_WEIGHTS)
def test_check_model__weights(model, case):
    check_model(str(model))
    damage, message = BROKEN_WEIGHTS[case]
    damage(model / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        check_model(str(model))
    for check in (lambda: check_model(str(model), MMETForReID), lambda: load_embedder(str(model))):
        with pytest.raises(ValueError, match=message):
            check()


BROKEN_FILES = {
    ("config.json", "[]"): "config.json: expected the configuration of a model, a JSON object, received list",
    ("config.json", ""): "config.json is empty",
    ("config.json", "{"): "config.json is not JSON",
    ("config.json", "[" * 100_000): "config.json is not JSON",
    ("config.json", b"\xff\xfe"): "config.json is not JSON",
    ("config.json", '{"model_type": "bert"}'): "expected the model type 'mmet' in its config.json, received 'bert'",
    ("config.json", None): "holds no config.json",
    ("config.json", POINTER): "config.json is a Git LFS pointer",
    ("tokenizer.json", "{}"): "holds a processor that cannot be loaded",
    ("tokenizer.json", "[]"): "tokenizer.json: expected part of a processor, a JSON object",
    ("tokenizer.json", None): "holds no tokenizer",
    ("tokenizer_config.json", "null"): "tokenizer_config.json: expected part of a processor, a JSON object",
    ("processor_config.json", None): "holds no image processor",
    ("processor_config.json", "3"): "processor_config.json: expected part of a processor, a JSON object",
}


def replace(path: Path, content) -> None:
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")


@pytest.mark.parametrize(("name", "content"), BROKEN_FILES)
def test_check_model__configuration_and_processor(model, name, content):
    replace(model / name, content)
    with pytest.raises(ValueError, match=BROKEN_FILES[name, content]):
        check_model(str(model))


def test_check_model__a_configuration_of_another_size(model):
    fields = json.loads((model / "config.json").read_text(encoding="utf-8"))
    fields["text_config"]["hidden_size"] = 64
    replace(model / "config.json", json.dumps(fields))
    with pytest.raises(ValueError, match="of different models"):
        check_model(str(model))


def test_check_model__a_tokenizer_with_more_words_than_the_model(model):
    tokenizer = MMETProcessor.from_pretrained(model).tokenizer
    tokenizer.add_tokens(["hat"])
    tokenizer.save_pretrained(model)
    with pytest.raises(ValueError, match=r"a tokenizer of at most 14 words.*received 15"):
        check_model(str(model))


@pytest.mark.parametrize("name", ["/nowhere/run", "./run", "outputs/demo/run"])
def test_check_model__no_such_folder(name):
    with pytest.raises(ValueError, match=f"{name}: expected the folder of a model, received nothing"):
        check_model(name)
    check_model("owner/name")  # of the Hub: asked there


def test_check_model__other_classes_and_shards_are_as_good(make_config, processor, tmp_path):
    for number, model in enumerate((MMETForReID(make_config()), MMETModel(make_config()))):
        folder = tmp_path / str(number)
        model.save_pretrained(folder, max_shard_size="50KB")
        processor.save_pretrained(folder)
        assert not (folder / "model.safetensors").exists()
        check_model(str(folder))
        check_model(str(folder), MMETForReID)


BROKEN_CHECKPOINTS = {
    ("trainer_state.json", ""): "trainer_state.json is empty",
    ("trainer_state.json", "[]"): "trainer_state.json: expected the state of a training run, a JSON object",
    ("trainer_state.json", "{}"): "expected a list as log_history, received None",
    ("trainer_state.json", '{"log_history": [], "global_step": "4"}'): "a number of steps as global_step",
    ("trainer_state.json", None): "holds no trainer_state.json",
    ("optimizer.pt", b""): "optimizer.pt is empty",
    ("optimizer.pt", b"PK\x03\x04 cut"): "optimizer.pt is cut short or not a PyTorch file",
    ("optimizer.pt", pickle.dumps({})): "optimizer.pt is cut short or not a PyTorch file",
    ("optimizer.pt", None): "optimizer.pt is missing",
    ("scheduler.pt", b"x"): "scheduler.pt is cut short",
    ("scheduler.pt", None): "scheduler.pt is missing",
    ("rng_state.pth", POINTER): "rng_state.pth is a Git LFS pointer",
    ("rng_state.pth", None): "rng_state.pth is missing",
    ("config.json", "[]"): "config.json: expected the configuration",
    ("model.safetensors", b""): "model.safetensors is empty",
    ("model.safetensors", None): "holds no model.safetensors",
}


@pytest.mark.parametrize(("name", "content"), BROKEN_CHECKPOINTS)
def test_check_checkpoint_folder__names_the_file_and_what_else_there_is(checkpoint, name, content):
    check_checkpoint_folder(checkpoint)
    replace(checkpoint / name, content)
    with pytest.raises(ValueError, match=BROKEN_CHECKPOINTS[name, content]) as raised:
        check_checkpoint_folder(checkpoint)
    assert str(raised.value).startswith(f"cannot resume from {checkpoint}: ")
    assert "start anew in another --output_dir" in str(raised.value)
    (checkpoint.parent / "checkpoint-2").mkdir()
    with pytest.raises(ValueError, match=r"resume from another one .*checkpoint-2"):
        check_checkpoint_folder(checkpoint)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_check_checkpoint_folder__never_runs_code_in_a_pickle(checkpoint, tmp_path, name):
    torch.save({"state": Bomb(tmp_path / "mark")}, checkpoint / name)
    with pytest.raises(ValueError, match=f"{name} cannot be loaded without running code"):
        check_checkpoint_folder(checkpoint)
    assert not (tmp_path / "mark").exists()


def test_check_tokenizer__folder_without_one(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()
    (tmp_path / "tokenizer.json").write_text('{"model": 3}', encoding="utf-8")
    with pytest.raises(ValueError, match="holds a tokenizer that cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_load_tokenizer__one_without_words_is_refused(tmp_path, monkeypatch):
    """As transformers gives for a name that it cannot find offline, and for an empty vocabulary."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "vocab.txt").write_text("", encoding="utf-8")
    for name in ("nobody/nothing", str(tmp_path)):
        with pytest.raises(ValueError, match=f"{name}: its tokenizer has no words"):
            load_tokenizer(name)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_scripts__say_so_before_anything_else_is_read(model, tmp_path, capsys, file):
    replace(model / file, "")
    trained = ["--paired_data", "finegpr=/nowhere", "--report_to", "none", "--output_dir", str(tmp_path / "run")]
    assert run_pretrain.main([*trained, "--model_name_or_path", str(model)]) == 2
    message = capsys.readouterr().err
    assert f"{model / file} is empty" in message
    assert message.count("\n") == 1
    evaluated = ["--data", "market1501=/nowhere", "--output_dir", str(tmp_path / "eval")]
    assert run_reid_eval.main([*evaluated, "--model_name_or_path", str(model)]) == 2
    message = capsys.readouterr().err
    assert f"{model / file} is empty" in message
    assert message.count("\n") == 1


def test_script__a_checkpoint_that_cannot_be_resumed_is_said_before_data_are_read(checkpoint, capsys):
    replace(checkpoint / "optimizer.pt", "")
    output = ["--output_dir", str(checkpoint.parent), "--resume_from_checkpoint", "true"]
    assert run_pretrain.main(["--paired_data", "finegpr=/nowhere", "--report_to", "none", *output]) == 2
    assert f"cannot resume from {checkpoint}: {checkpoint / 'optimizer.pt'} is empty" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_script__a_result_that_is_none_is_said(tmp_path, capsys, content):
    (tmp_path / "training_result.json").write_text(content, encoding="utf-8")
    output = ["--output_dir", str(tmp_path), "--resume_from_checkpoint", "true"]
    assert run_pretrain.main(["--paired_data", "finegpr=/nowhere", "--report_to", "none", *output]) == 2
    assert f"{tmp_path / 'training_result.json'} is not the result of a training run" in capsys.readouterr().err


def test_check_checkpoint_folder__needs_the_heads_as_well(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    head = next(name for name in tensors if name.startswith("itm_head."))
    save_file({name: tensor for name, tensor in tensors.items() if name != head}, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match=rf"1 of its weights are missing and would be random \({head}\)"):
        check_checkpoint_folder(checkpoint)


@pytest.mark.parametrize("kind", ["flava_text_model", [[]], None])
def test_check_model__an_encoder_of_another_kind(model, kind):
    fields = json.loads((model / "config.json").read_text(encoding="utf-8"))
    fields["text_config"]["model_type"] = kind
    replace(model / "config.json", json.dumps(fields))
    with pytest.raises(ValueError, match=r"config\.json: expected the model type .* in text_config, received"):
        check_model(str(model))


def test_check_model__a_tokenizer_that_does_not_know_its_special_tokens(model):
    """`tokenizer.json` alone has the words, but not which of them masks."""
    (model / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=f"{model}: its tokenizer does not say which words its .*mask"):
        check_model(str(model))


def test_check_model__pictures_of_another_size_than_the_models(model, processor):
    MMETImageProcessor(size={"height": 64, "width": 32}).save_pretrained(model)
    (model / "processor_config.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"pictures of 52 x 28 pixels, as config.json says, received one for 64 x 32"):
        check_model(str(model))


@pytest.mark.parametrize("metadata", [None, [], float("nan")])
def test_check_model__an_index_of_shards_without_metadata(model, metadata):
    """transformers writes into it."""
    names = dict.fromkeys(load_file(model / "model.safetensors"), "model-00001-of-00001.safetensors")
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    check_model(str(model))
    index.write_text(json.dumps({"metadata": metadata, "weight_map": names}))
    with pytest.raises(ValueError, match=f"{index}: expected metadata that is a JSON object"):
        check_model(str(model))
