"""Cached embeddings: reused, resumed after a kill, and never mistaken for those of another model or other pictures."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from process_group import run_processes

from mmet.data.schema import DatasetError
from mmet.evaluation import embed_items, select_items
from mmet.evaluation.systems.cache import (
    EmbeddingCache,
    ShardWriter,
    fingerprint_items,
    fingerprint_model,
    fingerprint_processor,
    fingerprint_weights,
)


@pytest.fixture
def items(text_dataset):
    return select_items(text_dataset["test"], "test", "image")


def embed(items, model, processor, cache, **options):
    options = {"batch_size": 1, **options}
    return embed_items(model, processor, items.dataset, items, items.modality, cache=cache, **options)


def shards(cache):
    return sorted(cache.folder.glob("*.safetensors"))


def test_embed_items__a_second_run_computes_nothing(tmp_path, items, colour_model, colour_processor):
    cache = EmbeddingCache(tmp_path / "cache", {"model": "a"})
    first = embed(items, colour_model, colour_processor, cache)
    colour_model.batch_sizes.clear()
    again = embed(items, colour_model, colour_processor, EmbeddingCache(tmp_path / "cache", {"model": "a"}))
    assert colour_model.batch_sizes == []
    np.testing.assert_array_equal(first, again)


def test_embed_items__another_identity_shares_nothing(tmp_path, items, colour_model, colour_processor):
    for number, identity in enumerate([{"model": "a"}, {"model": "b"}, {"model": "a", "flip": True}], 1):
        embed(items, colour_model, colour_processor, EmbeddingCache(tmp_path / "cache", identity))
        assert len(colour_model.batch_sizes) == number * len(items)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_embed_items__what_an_interrupted_run_finished_is_kept(
    tmp_path, text_dataset, colour_model, colour_processor, batch_size
):
    items = select_items(text_dataset["test"], "test", "both")  # pictures with several captions: batches of several
    expected = embed(items, colour_model, colour_processor, None)
    picture = tmp_path / "test" / "03.png"
    content = picture.read_bytes()
    picture.write_bytes(b"")
    cache = EmbeddingCache(tmp_path / "cache", {"model": "a"})
    with pytest.raises(DatasetError, match=r"03\.png"):
        embed(items, colour_model, colour_processor, cache, batch_size=1)
    picture.write_bytes(content)
    done = sum(len(cache.read(path)[0]) for path in shards(cache))
    assert 0 < done < len(items)
    colour_model.batch_sizes.clear()
    for _ in range(2):  # the second time all rows come from the shards of both runs
        np.testing.assert_array_equal(
            embed(items, colour_model, colour_processor, cache, batch_size=batch_size), expected
        )
    assert sum(colour_model.batch_sizes) == len(items) - done


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty", "another model", "other rows"])
def test_load__a_shard_that_cannot_be_trusted_is_reported_and_computed_again(
    tmp_path, items, colour_model, colour_processor, caplog, damage
):
    cache = EmbeddingCache(tmp_path / "cache", {"model": "a"})
    expected = embed(items, colour_model, colour_processor, cache)
    (shard,) = shards(cache)
    content = bytearray(shard.read_bytes())
    if damage == "truncated":
        shard.write_bytes(content[:-5])
    elif damage == "one byte":
        content[-3] ^= 1
        shard.write_bytes(content)
    elif damage == "empty":
        shard.write_bytes(b"")
    else:
        identity = {"model": "b"} if damage == "another model" else {"model": "a"}
        other = EmbeddingCache(tmp_path / "other", identity)
        other.write(np.arange(len(items)) + 100, np.zeros((len(items), 3), np.float32))
        shard.write_bytes(shards(other)[0].read_bytes())
    colour_model.batch_sizes.clear()
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(embed(items, colour_model, colour_processor, cache), expected)
    assert len(colour_model.batch_sizes) == len(items)
    assert str(shard) in caplog.text
    assert "computed again" in caplog.text
    caplog.clear()
    embed(items, colour_model, colour_processor, cache)  # whole again
    assert len(colour_model.batch_sizes) == len(items)
    assert not caplog.text


def test_cache__a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"cannot write embeddings to .*file.*--cache_dir.*--no_use_cache"):
        EmbeddingCache(tmp_path / "file", {"model": "a"})


def test_shard_writer__a_full_disk_ends_the_cache_and_not_the_run(
    tmp_path, items, colour_model, colour_processor, monkeypatch, caplog
):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("mmet.evaluation.systems.cache.save_file", fail)
    cache = EmbeddingCache(tmp_path / "cache", {"model": "a"})
    assert len(embed(items, colour_model, colour_processor, cache)) == len(items)
    assert caplog.text.count("no space left on device") == 1


def test_shard_writer__writes_now_and_then(tmp_path):
    cache = EmbeddingCache(tmp_path, {"model": "a"})
    with ShardWriter(cache, flush_seconds=0) as writer:
        for number in range(3):
            writer.add(np.array([number]), np.full((1, 2), number, np.float32))
    with ShardWriter(cache, flush_seconds=1e9) as writer:
        for number in range(3, 6):
            writer.add(np.array([number]), np.full((1, 2), number, np.float32))
    assert len(shards(cache)) == 4
    rows = np.concatenate([cache.read(path)[1] for path in cache.load(6)])
    np.testing.assert_array_equal(rows, np.repeat(np.arange(6.0)[:, None], 2, axis=1))


KILLED = """
import runpy, sys, time
from pathlib import Path
import mmet.evaluation.systems.embedding as embedding
from mmet.evaluation.systems.cache import EmbeddingCache, ShardWriter
from mmet.evaluation import embed_items, select_items
from datasets import load_from_disk

shared = runpy.run_path(sys.argv[1])
dataset = load_from_disk(sys.argv[2])
embedding.ShardWriter = lambda cache: ShardWriter(cache, flush_seconds=0)
class Slow(shared["ColourModel"]):
    def forward(self, **inputs):
        time.sleep(0.05)
        return super().forward(**inputs)
items = select_items(dataset, "test", "image")
cache = EmbeddingCache(Path(sys.argv[3]), {"model": "a"})
embed_items(Slow(), shared["ColourProcessor"](), dataset, items, "image", batch_size=1, cache=cache)
"""


@pytest.mark.slow
def test_embed_items__goes_on_after_kill_9(tmp_path, market_dataset, colour_model, colour_processor):
    dataset = market_dataset["gallery"].select([0, 1, 2, 3] * 50)
    dataset.save_to_disk(tmp_path / "data")
    arguments = [Path(__file__).parents[1] / "conftest.py", tmp_path / "data", tmp_path / "cache"]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), *map(str, arguments)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    cache = EmbeddingCache(tmp_path / "cache", {"model": "a"})
    deadline = time.monotonic() + 600  # a busy machine may import for minutes
    while len(shards(cache)) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = sum(len(cache.read(path)[0]) for path in shards(cache))
    items = select_items(dataset, "test", "image")
    embeddings = embed(items, colour_model, colour_processor, cache)
    assert 3 <= done < len(items)
    assert len(colour_model.batch_sizes) == len(items) - done
    np.testing.assert_array_equal(embeddings, embed(items, colour_model, colour_processor, None))


def resume_in_process(rank, folder, conftest):
    import runpy

    from accelerate import Accelerator

    shared = runpy.run_path(conftest)
    model = shared["ColourModel"]()
    dataset = shared["make_split"](folder / "pictures" / str(rank), [(1 + n % 3, 1, []) for n in range(7)])
    items = select_items(dataset, "test", "image")
    accelerator = Accelerator(cpu=True)
    calls = []
    for _ in range(2):
        cache = EmbeddingCache(folder / "cache", {"model": "a"})
        embeddings = embed(items, model, shared["ColourProcessor"](), cache, accelerator=accelerator)
        np.testing.assert_allclose(embeddings, np.eye(3)[items.person_ids - 1], atol=1e-6)
        calls.append(len(model.batch_sizes))
    return calls


@pytest.mark.slow
def test_embed_items__two_processes_share_what_one_left(tmp_path, colour_model, colour_processor):
    """Three rows of one process first; two processes share the other four, and then find all seven."""
    cache = EmbeddingCache(tmp_path / "cache", {"model": "a"})
    cache.write(np.arange(3), np.eye(3, dtype=np.float32))
    conftest = str(Path(__file__).parents[1] / "conftest.py")
    assert run_processes(resume_in_process, tmp_path, tmp_path, conftest) == [[2, 2], [2, 2]]


def test_fingerprint_weights__tells_values_names_and_dtypes_apart():
    def layer(**changes):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        for name, value in changes.items():
            getattr(model, name).data = value(getattr(model, name).data)
        return model

    same, again = fingerprint_weights(layer()), fingerprint_weights(layer())
    changed = fingerprint_weights(layer(bias=lambda bias: bias + torch.tensor([0, 1e-6])))
    half = fingerprint_weights(layer(weight=torch.Tensor.bfloat16))
    renamed = fingerprint_weights(torch.nn.Sequential(layer()))
    assert same == again
    assert len({same, changed, half, renamed}) == 4


def test_fingerprint_model__follows_processor_and_config(config, processor):
    from modeling_mmet import MMETForReID

    model = MMETForReID(config)
    before = fingerprint_model(model, processor)
    assert before == fingerprint_model(model, processor)
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    after = fingerprint_model(model, processor)
    assert {name for name in before if before[name] != after[name]} == {"processor"}
    model.config.layer_norm_eps = 0.123
    assert fingerprint_model(model, processor)["config"] != before["config"]
    with pytest.raises(TypeError, match="save_pretrained"):
        fingerprint_processor(lambda **_: None)


def test_fingerprint_processor__does_not_depend_on_how_it_was_loaded_and_used(tmp_path, processor):
    from processing_mmet import MMETProcessor

    processor.save_pretrained(tmp_path)
    online, offline = (MMETProcessor.from_pretrained(tmp_path, local_files_only=only) for only in (False, True))
    before = fingerprint_processor(online)
    assert fingerprint_processor(offline) == before
    online(text=["a man", "a woman in a red coat"], return_tensors="pt", padding=True)
    assert online.tokenizer.backend_tokenizer.padding is not None
    assert fingerprint_processor(online) == before
    assert online.tokenizer.backend_tokenizer.padding is not None  # the processor itself is left as it is


def test_fingerprint_items__follows_pictures_captions_and_choice(tmp_path, text_dataset):
    split = text_dataset["test"]
    seen = set()

    def is_new(modality, dataset=split):
        fingerprint = fingerprint_items(select_items(dataset, "test", modality))
        assert fingerprint == fingerprint_items(select_items(dataset, "test", modality))
        fresh = fingerprint not in seen
        seen.add(fingerprint)
        return fresh

    assert is_new("image")
    assert is_new("text")
    assert is_new("both")
    assert is_new("image", split.select([0, 1, 2]))
    assert is_new("text", split.map(lambda row: {"captions": [c + "!" for c in row["captions"]]}))
    Image.new("RGB", (9, 17), "pink").save(tmp_path / "test" / "02.png")
    assert is_new("image")
    assert is_new("both")
    assert not is_new("text")


def test_fingerprint_items__of_pictures_held_in_the_data_set(text_dataset):
    """Parquet files carry the pictures' bytes: their content counts, a path does not exist."""
    rows = [{**row, "image": {"bytes": b"%d" % n, "path": None}} for n, row in enumerate(text_dataset["test"])]
    from datasets import Dataset

    from mmet.data.schema import REID_FEATURES

    first = Dataset.from_list(rows, features=REID_FEATURES)
    rows[2]["image"] = {"bytes": b"another picture", "path": None}
    second = Dataset.from_list(rows, features=REID_FEATURES)
    prints = [fingerprint_items(select_items(dataset, "test", "image")) for dataset in (first, second, first)]
    assert prints[0] != prints[1]
    assert prints[0] == prints[2]
