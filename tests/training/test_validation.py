"""Validation: persons held out of all training data, retrieval among them, and which checkpoint becomes the model."""

from __future__ import annotations

import copy
import json
import socket
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from process_group import run_processes
from safetensors.torch import load_file
from tiny_runs import run as pretrain
from tiny_runs import write_recipe
from torch.distributed.fsdp import fully_shard

from mmet.data import REID_FEATURES, load_reid_dataset
from mmet.data.synthetic import write_world
from mmet.evaluation import embed_items, rank_metrics
from mmet.training.arguments import parse_arguments
from mmet.training.masking import IMAGE_MASKING
from mmet.training.measures import MEASURE_NAMES, TrainingMeasures
from mmet.training.skipping import SkippedImages
from mmet.training.trainer import _whole_parameters
from mmet.training.training_data import load_data
from mmet.training.validation import (
    choose_persons,
    embedder_of,
    limit_images,
    random_state_kept,
    retrieval_tasks,
    split_persons,
)
from modeling_mmet import LOSS_NAMES, MMETForPreTraining, MMETForPreTrainingOutput, MMETForReID
from processing_mmet import MMETProcessor

OF_THE_PAPER = [name for name in MEASURE_NAMES if name not in ("supervised_contrastive_loss", "similarity_loss")]
"""What a run with the paper's losses measures."""


def source_of(domain, person_ids, cameras=None, captions=None):
    """Rows with these persons; pictures are not looked at."""
    count = len(person_ids)
    columns = {
        "image": [None] * count,
        "person_id": list(person_ids),
        "camera_id": list(cameras) if cameras is not None else [-1] * count,
        "captions": captions or [[]] * count,
        "person_mask": [None] * count,
        "image_path": [f"{domain}/{number}.jpg" for number in range(count)],
        "domain": [domain] * count,
    }
    return datasets.Dataset.from_dict(columns, features=REID_FEATURES)


def test_choose_persons__share_of_each_domain_among_persons_with_two_images():
    first = source_of("a", [*np.repeat(np.arange(50), 2), *range(50, 100), -1, -1])
    second = source_of("b", np.repeat(np.arange(7), 3))
    chosen = choose_persons([first, second], amount=0.2, seed=0)
    assert len(chosen["a"]) == 20
    assert set(chosen["a"].tolist()) <= set(range(50))
    assert len(chosen["b"]) == 2, "at least two persons, so that there is somebody to confuse"


@settings(deadline=None, max_examples=40)
@given(persons=st.integers(10, 60), amount=st.floats(0.01, 0.8), seed=st.integers(0, 99))
def test_choose_persons__the_share_is_right_to_half_a_person_and_two_at_least(persons, amount, seed):
    chosen = choose_persons([source_of("a", np.repeat(np.arange(persons), 2))], amount=amount, seed=seed)["a"]
    assert len(set(chosen.tolist())) == len(chosen) >= 2
    assert abs(len(chosen) - amount * persons) <= 0.5 or (len(chosen) == 2 and amount * persons < 2)


def test_choose_persons__neither_other_domains_nor_the_order_of_sources_matter():
    a, b = (source_of(name, np.repeat(np.arange(40), 2)) for name in "ab")
    alone = choose_persons([a], amount=5, seed=3)
    together = choose_persons([b, a], amount=5, seed=3)
    assert np.array_equal(alone["a"], together["a"])
    assert not np.array_equal(together["a"], together["b"])
    assert not np.array_equal(alone["a"], choose_persons([a], amount=5, seed=4)["a"])
    assert choose_persons([a], amount=0, seed=3) == {}


@pytest.mark.parametrize(
    ("persons", "amount", "message"),
    [
        ([0, 0, 1, 1], 2, "received 2 of 2"),
        ([0, 0, 1, 2, 3], 2, "received 1 of 4"),
        ([0, 0, 1, 1], 1.5, "1.5"),
        ([0, 0, 1, 1], 1, "from 2 up"),
    ],
)
def test_choose_persons__more_than_a_domain_can_spare(persons, amount, message):
    with pytest.raises(ValueError, match=message):
        choose_persons([source_of("a", persons)], amount=amount, seed=0)


def test_split_persons__disjoint_and_complete():
    source = source_of("a", [0, 1, 2, 1, -1, 0, 3])
    training, held = split_persons(source, {"a": np.array([0, 1]), "b": np.array([2])})
    assert training["person_id"][:] == [2, -1, 3]
    assert held["person_id"][:] == [0, 1, 1, 0]
    untouched, nothing = split_persons(source, {"b": np.array([0])})
    assert len(untouched) == 7
    assert len(nothing) == 0


def test_limit_images__so_many_of_each_person():
    source = source_of("a", [0] * 50 + [1] * 3 + [2])
    limited = limit_images(source, images_per_person=4, seed=0)
    assert [limited["person_id"][:].count(person) for person in range(3)] == [4, 3, 1]
    assert limited["image_path"][:] != source["image_path"][:4] + source["image_path"][50:]


@pytest.mark.parametrize(
    ("cameras", "protocol"),
    [([0, 1, 0, 1], "market"), ([-1] * 4, "leave-one-image-out"), ([0, 0, 1, 1], "leave-one-image-out")],
)
def test_retrieval_tasks__cameras_count_where_they_can(cameras, protocol):
    tasks = retrieval_tasks(source_of("a", [0, 0, 1, 1], cameras, [["a man"], [], [], ["a woman", "she"]]))
    assert [(task.protocol, task.query.modality, task.gallery.modality) for task in tasks] == [
        (protocol, "image", "image"),
        ("text-to-image", "text", "image"),
    ]
    assert len(tasks[1].query) == 3
    assert len(retrieval_tasks(source_of("a", [0, 0, 1, 1], cameras))) == 1


def test_embedder_of__shares_the_weights_and_takes_no_random_number(config, make_batch):
    model = MMETForPreTraining(config).eval()
    before = torch.get_rng_state()
    embedder = embedder_of(model).eval()
    assert torch.equal(torch.get_rng_state(), before)
    reference = MMETForReID(config).eval()
    head = model.identity_head.state_dict(prefix="identity_head.")
    reference.load_state_dict(model.mmet.state_dict(prefix="mmet.") | head)
    batch = make_batch()
    torch.testing.assert_close(embedder(**batch).embeddings, reference(**batch).embeddings)
    assert all(
        first.data_ptr() == second.data_ptr()
        for first, second in zip(model.mmet.parameters(), embedder.mmet.parameters(), strict=True)
    )


def test_random_state_kept__whatever_is_drawn_in_between():
    before = torch.get_rng_state()
    with random_state_kept(torch.device("cpu")):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    size = {"image_height": 100, "image_width": 52}
    write_world("finegpr", folder / "source", num_ids=10, images_per_id=4, seed=3, **size)
    write_world("market1501", folder / "target", num_train_ids=8, num_test_ids=6, images_per_id=4, seed=2)
    return folder


@pytest.fixture
def recipe(worlds, tmp_path):
    paired = [f"finegpr={worlds / 'source'}", f"market1501={worlds / 'target'}"]
    return write_recipe(tmp_path, worlds / "source", paired_data=paired, validation_identities=3)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_load_data__held_out_persons_are_in_no_source_and_all_else_is(recipe, worlds):
    data = load_data(parse_arguments([recipe])[1])
    assert [evaluation_set.name for evaluation_set in data.evaluation_sets] == [
        "validation_finegpr",
        "validation_market1501",
    ]
    for evaluation_set, name, folder in zip(
        data.evaluation_sets, ("finegpr", "market1501"), ("source", "target"), strict=True
    ):
        held = set(evaluation_set.tasks[0].query.person_ids.tolist())
        assert len(held) == 3
        everybody = set(load_reid_dataset(name, worlds / folder)["train"]["person_id"][:])
        sources = (*data.sources.paired, *data.sources.image, *data.sources.text)
        trained = [set(source["person_id"][:]) for source in sources if source["domain"][0] == name]
        assert all(persons == everybody - held for persons in trained)
        assert len(trained) == (3 if name == "finegpr" else 1)
    assert [summary.held_out_persons for summary in data.summaries] == [3, 3]


def test_run_pretraining__the_best_validated_checkpoint_becomes_the_model(recipe, monkeypatch):
    scores = iter([0.9, 0.2])
    monkeypatch.setattr(
        "mmet.training.validation.RetrievalEvaluator.__call__",
        lambda self, model, accelerator: {"validation_mAP": next(scores)},
    )
    folder = pretrain(recipe)
    result = read_json(folder / "training_result.json")
    assert result["checkpoint_selection"]["chosen_on"] == "validation"
    assert (result["checkpoint_selection"]["step"], result["checkpoint_selection"]["value"]) == (4, 0.9)
    chosen, final = (load_file(path / "model.safetensors") for path in (folder / "checkpoint-4", folder))
    assert all(torch.equal(chosen[name], final[name]) for name in final)
    last = load_file(folder / "checkpoint-8" / "model.safetensors")
    assert any(not torch.equal(last[name], final[name]) for name in final)


def test_run_pretraining__evaluation_equals_evaluating_the_saved_model(recipe):
    folder = pretrain(recipe, "--select_on", "last")
    result = read_json(folder / "training_result.json")
    assert result["checkpoint_selection"]["chosen_on"] == "last"
    model, processor = MMETForReID.from_pretrained(folder).eval(), MMETProcessor.from_pretrained(folder)
    arguments = parse_arguments([recipe])[1]
    data = load_data(arguments)
    task = data.evaluation_sets[0].tasks[1]
    embeddings = [
        embed_items(model, processor, side.dataset, side, side.modality, batch_size=7, accelerator=Accelerator())
        for side in (task.query, task.gallery)
    ]
    expected = rank_metrics(*embeddings, task.query.person_ids, task.gallery.person_ids)
    name = "eval_validation_finegpr_text_to_image"
    assert result["metrics"][f"{name}_mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    assert result["metrics"][f"{name}_rank1"] == pytest.approx(expected.rank(1), abs=1e-6)


def test_run_pretraining__eval_data_chooses_only_when_asked(recipe, worlds):
    target = ["--eval_data", f"market1501={worlds / 'target'}"]
    reported = read_json(pretrain(recipe, *target) / "training_result.json")
    assert reported["checkpoint_selection"]["chosen_on"] == "validation"
    assert "eval_data_market1501_image_to_image_mAP" in reported["metrics"]
    asked = pretrain(recipe, *target, "--select_on", "eval_data", "--output_dir", Path(recipe).parent / "asked")
    selection = read_json(asked / "training_result.json")["checkpoint_selection"]
    assert (selection["chosen_on"], selection["metric"]) == ("eval_data", "eval_data_mAP")
    assert "optimistic" in (asked / "README.md").read_text(encoding="utf-8")


def test_run_pretraining__a_masked_stage_keeps_its_last_checkpoint(recipe):
    folder = pretrain(recipe, "--batch_mix", '{"image": 1}', "--max_steps", 2, "--save_steps", 1)
    selection = read_json(folder / "training_result.json")["checkpoint_selection"]
    assert (selection["chosen_on"], selection["step"]) == ("last", 2)


def test_run_pretraining__selection_needs_evaluated_checkpoints(recipe):
    with pytest.raises(ValueError, match="save_steps and eval_steps alike"):
        pretrain(recipe, "--eval_steps", 2)
    with pytest.raises(ValueError, match="needs --eval_data"):
        pretrain(recipe, "--select_on", "eval_data")


def test_run_pretraining__model_card_holds_what_a_reader_needs(recipe):
    folder = pretrain(recipe, "--balance_domains", "true")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers"
    results = {
        (result.dataset_type, result.dataset_config, result.metric_type): result.metric_value
        for result in card.data.eval_results
    }
    metrics = read_json(folder / "training_result.json")["metrics"]
    expected = 100 * metrics["eval_validation_finegpr_text_to_image_mAP"]
    assert results["validation_finegpr", "text to image", "mAP"] == pytest.approx(expected, abs=0.01)
    headings = ("## Intended use", "## Limits, risks and bias", "Licence.")
    for words in (*headings, "FineGPR (synthetic world", "| triplet | 1 |", "terms", "3 of finegpr", "do not exist"):
        assert words in card.text
    assert str(ModelCard(str(card))) == str(card)
    assert not (folder / "training_args.bin").exists()


def test_run_pretraining__unreadable_images_are_replaced_counted_and_listed(recipe, worlds, tmp_path, monkeypatch):
    data = load_data(parse_arguments([recipe])[1])
    broken = Path(data.sources.paired[0].cast_column("image", datasets.Image(decode=False))[0]["image"]["path"])
    whole = broken.read_bytes()
    monkeypatch.setattr("mmet.training.pretraining.load_data", lambda arguments: data)
    common = ["--batch_mix", '{"identity": 1}', "--max_steps", 6, "--save_steps", 3]
    try:
        broken.write_bytes(whole[: len(whole) // 2])
        first = pretrain(recipe, *common, "--skip_bad_images", "true", "--output_dir", tmp_path / "first")
        with pytest.raises(ValueError, match=broken.name):
            pretrain(recipe, *common, "--output_dir", tmp_path / "strict")
    finally:
        broken.write_bytes(whole)
    skipped = read_json(first / "skipped_images.json")
    assert skipped["num_images"] == 1
    assert broken.name in skipped["images"][0]["image_path"]
    assert skipped["num_times"] == skipped["images"][0]["times"] >= 1
    assert read_json(first / "training_result.json")["skipped_images"] == skipped
    assert SkippedImages.load(first).to_json() == skipped


def test_run_pretraining__accumulated_batches_train_as_one_of_their_size(recipe, monkeypatch):
    def same_patches(region, num_masked, rng):
        masked = np.zeros(region.coverage.shape, dtype=bool)
        masked[:, :num_masked] = True
        return masked

    monkeypatch.setitem(IMAGE_MASKING, "random", same_patches)
    off = ("flip_probability", "padding", "colour_probability", "low_resolution_probability")
    plain = json.dumps(dict.fromkeys(off, 0) | {"crop_scale": [1, 1]})
    common = ["--batch_mix", '{"image": 1}', "--max_steps", 3, "--optim", "sgd", "--learning_rate", 0.1]
    common += ["--save_steps", 3, "--image_masking", "random", "--augmentation", plain]
    whole = pretrain(recipe, *common, "--output_dir", f"{recipe}.whole")
    parts = ["--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2]
    accumulated = pretrain(recipe, *common, *parts, "--output_dir", f"{recipe}.parts")
    expected, received = (load_file(folder / "model.safetensors") for folder in (whole, accumulated))
    for name, value in expected.items():
        torch.testing.assert_close(received[name], value, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_cpu": "true", "bf16": "true", "activation_checkpointing": "true"},
        pytest.param({"torch_compile": "true", "torch_compile_backend": "eager"}, marks=pytest.mark.slow),
    ],
    ids=["bf16 and activation checkpointing", "torch_compile"],
)
def test_run_pretraining__trainings_arguments_work_as_they_are(recipe, settings):
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    folder = pretrain(recipe, *arguments, "--max_steps", 4)
    last = read_json(folder / "training_result.json")["last_logged"]
    assert {"mim_loss", "mlm_loss", "itm_loss", "identity_loss"} <= last.keys()
    assert all(np.isfinite(value) for value in last.values())


def test_run_pretraining__tensorboard_sees_every_measure(recipe, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = pretrain(recipe, "--report_to", "tensorboard")
    (events,) = folder.glob("runs/**/events*")
    reader = accumulator.EventAccumulator(str(events))
    reader.Reload()
    tags = set(reader.Tags()["scalars"])
    expected = {f"train/{name}" for name in OF_THE_PAPER} | {"train/learning_rate", "eval/validation_mAP"}
    assert expected <= tags


def test_run_pretraining__trackio_sees_every_measure_and_needs_no_network(recipe, tmp_path, monkeypatch):
    """Two calls, the second resuming: one run in a local folder, whose lines are those of the trainer's history."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    calls = []

    def refuse(*address, **_):
        calls.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    tracked = ["--report_to", "trackio", "--project", "person-search", "--run_name", "first"]
    pretrain(recipe, *tracked, "--max_steps", 4)
    folder = pretrain(recipe, *tracked, "--resume_from_checkpoint", "true")
    assert not calls
    assert (tmp_path / "trackio" / "person-search.db").is_file()
    assert len(SQLiteStorage.get_run_records("person-search")) == 1
    lines = SQLiteStorage.get_logs("person-search", "first")
    logged = {(line["train/global_step"], name): value for line in lines for name, value in line.items()}
    history = read_json(folder / "trainer_state.json")["log_history"]
    for name in (*OF_THE_PAPER, "learning_rate", "grad_norm"):
        expected = {line["step"]: line[name] for line in history if name in line}
        assert expected
        assert {step: logged[step, f"train/{name}"] for step in expected} == expected
    for name in ("validation_mAP", "validation_finegpr_text_to_image_rank1"):
        expected = {line["step"]: line[f"eval_{name}"] for line in history if f"eval_{name}" in line}
        assert expected.keys() == {4, 8}
        assert {step: logged[step, f"eval/{name}"] for step in expected} == expected


def test_training_measures__accuracies_counted_by_hand():
    def logits(*predictions):
        return torch.nn.functional.one_hot(torch.tensor(predictions), 9).float()

    outputs = MMETForPreTrainingOutput(
        losses=dict.fromkeys(LOSS_NAMES) | {"itm": torch.tensor(2.0)},
        mmm_image_logits=logits(1, 2, 3, 4),
        mmm_image_codes=torch.tensor([1, 2, 3, 5]),
        mmm_text_logits=logits(7, 8),
        itm_logits=torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]),
        identity_embeds=torch.tensor([[3.0, 4.0], [0.0, 1.0]]),
    )
    # The second caption is another person's: L_MMM does not read its masked token.
    labels = torch.tensor([[-100, 7, 6], [5, -100, -100], [-100, -100, -100]])
    measures = TrainingMeasures(torch.device("cpu"))
    measures.add(outputs, {"mlm_labels": labels, "itm_labels": torch.tensor([1, 0, -100])})
    assert measures.means(Accelerator()) == {
        "itm_loss": 2.0,
        "mmm_image_accuracy": 0.75,
        "mmm_text_accuracy": 0.5,
        "itm_accuracy": 0.5,
        "embedding_norm": 3.0,
    }
    assert measures.means(Accelerator()) == {}


class Hub:
    """What `Trainer` asks of the Hub's API, remembered."""

    def __init__(self):
        self.pushed = []

    def whoami(self):
        return {"name": "org"}

    def create_repo(self, repo_id, **kwargs):
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        self.pushed.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))
        job = Future()
        job.set_result(None)
        return job


def test_run_pretraining__push_to_hub_sends_model_and_card(recipe, monkeypatch):
    hub = Hub()
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    monkeypatch.setattr("mmet.training.hub.HfApi", lambda token: hub)
    folder = pretrain(recipe, "--push_to_hub", "true", "--hub_model_id", "org/mmet-tiny", "--max_steps", 4)
    ((name, files),) = hub.pushed
    assert name == "org/mmet-tiny"
    assert {"README.md", "model.safetensors", "processor_config.json", "training_result.json"} <= files
    assert ".unfinished" not in files
    assert (folder / "README.md").read_text(encoding="utf-8").count("org/mmet-tiny") >= 2


def embed_sharded(rank, config, batch):
    """Embeddings of two models after a forward and backward pass in training, the second sharded by FSDP 2."""
    torch.manual_seed(0)
    whole = MMETForPreTraining(config)
    sharded = copy.deepcopy(whole)
    for module in sharded.modules():
        if type(module).__name__ == "MMETLayer":
            fully_shard(module)
    fully_shard(sharded)
    for model in (whole, sharded):  # the pass gathers and frees parameters, and moves the neck's running statistics
        torch.manual_seed(1)  # both drop the same modalities
        model.train()(**batch, person_labels=torch.arange(4) // 2).loss.backward()
        model.zero_grad()
    embedders = [embedder_of(model).eval() for model in (whole, sharded)]
    with torch.no_grad(), _whole_parameters(sharded):
        expected, received = (embedder(**batch).embeddings for embedder in embedders)
    sharded.train()(**batch, person_labels=torch.arange(4) // 2).loss.backward()  # goes on as before
    return expected, received


def test_whole_parameters__a_sharded_model_embeds_as_the_whole_one(make_config, make_batch, tmp_path):
    for expected, received in run_processes(embed_sharded, tmp_path, make_config(), make_batch(4)):
        torch.testing.assert_close(received, expected, atol=1e-5, rtol=1e-5)
