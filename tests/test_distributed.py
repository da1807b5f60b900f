"""Several processes against one: the same losses, gradients and statistics, whatever each of them holds."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from process_group import run_processes
from safetensors.torch import load_file
from tiny_runs import draw_world, write_recipe
from tiny_runs import run as pretrain
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers.trainer_callback import TrainerState

from mmet.distributed import compute_on_all, compute_once
from mmet.training.trainer import NonFiniteLossError
from modeling_mmet import MMETForPreTraining, MMETForReID
from objectives_mmet import exchange_counts, gather_rows

REPOSITORY = Path(__file__).parents[1]


def gather_in_process(rank, all_rows, counts, weights):
    """Values and gradient of a gather of `counts[rank]` rows, weighed to tell every row's gradient apart."""
    first = sum(counts[:rank])
    rows = all_rows[first : first + counts[rank]].clone().requires_grad_()
    received = exchange_counts({}, {"rows": len(rows)}, rows.device)["rows"]
    assert received == counts
    gathered = gather_rows(rows, received)
    (gathered**2 * weights).sum().backward()
    return gathered.detach(), rows.grad


@pytest.mark.parametrize(
    "counts",
    [pytest.param([2, 3, 1], marks=pytest.mark.slow), [0, 4, 1], pytest.param([0, 0, 0], marks=pytest.mark.slow)],
)
def test_gather_rows__three_processes_hold_all_rows_and_their_own_gradient(tmp_path, counts):
    all_rows, weights = torch.randn(sum(counts), 2, 3), torch.randn(sum(counts), 2, 3)
    results = run_processes(gather_in_process, tmp_path, all_rows, counts, weights, num_processes=3)
    for gathered, _ in results:
        assert torch.equal(gathered, all_rows)
    # The mean over processes of what a parameter receives is the gradient of the one loss.
    gradient = torch.cat([gradient for _, gradient in results]) / 3
    torch.testing.assert_close(gradient, 2 * all_rows * weights)


def step(model, batch, seed=7):
    """One forward and backward pass: losses, gradients, batch statistics and identity embeddings."""
    torch.manual_seed(seed)  # of the draw of dropped modalities
    output = model(**batch)
    output.loss.backward()
    model = getattr(model, "module", model)
    parameters = dict(model.named_parameters())
    return {
        "losses": {name: None if loss is None else loss.detach() for name, loss in output.losses.items()},
        "gradients": {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in parameters.items()
        },
        "statistics": {name: value.clone() for name, value in model.named_buffers() if "running" in name},
        "embeddings": None if output.identity_embeds is None else output.identity_embeds.detach(),
    }


def data_parallel(config):
    """The model that every process, and the one process, starts from."""
    torch.manual_seed(0)
    return DistributedDataParallel(MMETForPreTraining(config).train(), find_unused_parameters=True)


def steps_in_process(rank, cases):
    return {name: step(data_parallel(config), batches[rank]) for name, (config, batches) in cases.items()}


def split(batch, sizes):
    parts = {name: value.split(sizes) for name, value in batch.items()}
    return [{name: part[rank] for name, part in parts.items()} for rank in range(len(sizes))]


def as_it_is(batch):
    """Two masked patches and one masked word a pair, two images a person, one mismatched pair in four."""


def without_masks_on_the_second(batch):
    batch["bool_masked_pos"][3:] = False
    batch["mlm_labels"][3:] = -100


def uneven_masks(batch):
    batch["bool_masked_pos"][0] = True
    batch["mlm_labels"][4:] = -100


def mismatched_pairs_on_the_second(batch):
    batch["itm_labels"][3:] = torch.tensor([0, -100, 0])


def no_known_pair_on_the_first(batch):
    batch["itm_labels"][:3] = -100


def one_identity(batch):
    batch["person_labels"][:] = 1


def persons_across_processes(batch):
    batch["person_labels"] = torch.tensor([0, 1, 2, 0, 1, 2])


def unknown_persons_on_the_first(batch):
    batch["person_labels"] = torch.tensor([-100, -100, -100, 1, 1, 2])


def no_captions_on_the_second(batch):
    batch["text_present"] = torch.arange(6) < 3


def no_images_on_the_first(batch):
    batch["image_present"] = torch.arange(6) >= 3


def keep(batch, *names):
    return {name: value for name, value in batch.items() if name in names}


CHANGES = (
    as_it_is,
    without_masks_on_the_second,
    uneven_masks,
    mismatched_pairs_on_the_second,
    no_known_pair_on_the_first,
    one_identity,
    persons_across_processes,
    unknown_persons_on_the_first,
    no_captions_on_the_second,
    no_images_on_the_first,
)
BESIDE_THE_PAPER = (as_it_is, persons_across_processes, no_captions_on_the_second, unknown_persons_on_the_first)
SIZES = ((3, 3), (1, 5))
UNPAIRED = {
    "mim": ("pixel_values", "bool_masked_pos", "mim_labels"),
    "mlm": ("input_ids", "attention_mask", "input_ids_masked", "mlm_labels"),
}


@pytest.fixture(scope="module")
def two_processes_and_one(make_config, make_pretraining_batch, tmp_path_factory):
    """Every case on two processes and on one: name -> (results by rank, expected). One group steps through all."""
    whole, cases = {}, {}
    for change in CHANGES:
        batch = make_pretraining_batch(6)
        change(batch)
        for sizes in SIZES:
            name = f"{change.__name__}-{sizes}"
            whole[name] = batch
            cases[name] = (make_config(triplet_margin=0.3, label_smoothing=0.1), split(batch, sizes))
    for change, (loss, names) in itertools.product((uneven_masks, without_masks_on_the_second), UNPAIRED.items()):
        batch = make_pretraining_batch(6)
        change(batch)
        name = f"{loss}-{change.__name__}"
        whole[name] = keep(batch, *names)
        cases[name] = (make_config(), split(whole[name], (3, 3)))
    for change in BESIDE_THE_PAPER:
        batch = make_pretraining_batch(6)
        change(batch)
        name = f"beside-{change.__name__}"
        whole[name] = batch
        config = make_config(supervised_contrastive_weight=2.0, modality_dropout=2.0)
        cases[name] = (config, split(batch, (2, 4)))
    results = run_processes(steps_in_process, tmp_path_factory.mktemp("steps"), cases)
    compared = {}
    for name, (config, _) in cases.items():
        torch.manual_seed(0)
        compared[name] = ([result[name] for result in results], step(MMETForPreTraining(config).train(), whole[name]))
    return compared


def assert_equal_to_one_process(results, expected):
    for name, loss in expected["losses"].items():
        received = [result["losses"][name] for result in results]
        assert all((value is None) == (loss is None) for value in received), name
        if loss is not None:
            torch.testing.assert_close(torch.stack(received).mean(), loss, atol=1e-5, rtol=1e-5, msg=name)
    for result in results:
        for kind in ("gradients", "statistics"):
            for name, value in expected[kind].items():
                difference = (result[kind][name] - value).abs().max()
                assert difference <= 1e-5 * max(1, value.abs().max()), (name, difference)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_pretraining_step__two_processes_equal_one(two_processes_and_one, change, sizes):
    results, expected = two_processes_and_one[f"{change.__name__}-{sizes}"]
    assert {name for name, loss in expected["losses"].items() if loss is None} == {"mim", "mlm"}
    assert_equal_to_one_process(results, expected)


@pytest.mark.parametrize("change", [uneven_masks, without_masks_on_the_second])
@pytest.mark.parametrize("loss", UNPAIRED)
def test_pretraining_step__unpaired_batches_equal_one_process(two_processes_and_one, loss, change):
    results, expected = two_processes_and_one[f"{loss}-{change.__name__}"]
    assert expected["losses"][loss] > 0
    assert_equal_to_one_process(results, expected)


@pytest.mark.parametrize("change", BESIDE_THE_PAPER)
def test_pretraining_step__supervised_contrast_and_both_dropped_views(two_processes_and_one, change):
    results, expected = two_processes_and_one[f"beside-{change.__name__}"]
    assert expected["losses"]["supervised_contrastive"] > 0
    assert_equal_to_one_process(results, expected)


def collectives_in_process(rank, config, batches):
    """How often each kind of exchange was made in a forward pass, and how many of them were read by Python."""
    model = MMETForPreTraining(config).train()
    gathers, all_gather = [], dist.all_gather

    def counted(gathered, rows, *arguments, **kwargs):
        gathers.append(rows.dtype)
        return all_gather(gathered, rows, *arguments, **kwargs)

    dist.all_gather = counted
    try:
        model(**batches[rank])
    finally:
        dist.all_gather = all_gather
    return gathers


def test_pretraining_step__one_exchange_of_counts(make_config, make_pretraining_batch, tmp_path):
    """Beside it, contrasted features with their persons, and views with theirs, are sent."""
    batches = split(make_pretraining_batch(6), (3, 3))
    gathers, same = run_processes(collectives_in_process, tmp_path, make_config(), batches)
    assert gathers == same
    assert gathers[0] == torch.long
    assert sorted(map(str, gathers[1:])) == ["torch.float32"] * 2 + ["torch.int64"] * 2


@pytest.mark.parametrize("share", [pytest.param(0.5, marks=pytest.mark.slow), 0.2])
def test_pretraining_step__fewer_views_than_there_may_be(make_config, make_pretraining_batch, tmp_path, share):
    """Only some pairs are seen again, unevenly many on each process."""
    batch, config = make_pretraining_batch(6), make_config(modality_dropout=share, triplet_margin=0.3)
    results = run_processes(steps_in_process, tmp_path, {"": (config, split(batch, (1, 5)))})
    torch.manual_seed(0)
    expected = step(MMETForPreTraining(config).train(), batch)
    assert_equal_to_one_process([result[""] for result in results], expected)
    assert sum(len(result[""]["embeddings"]) for result in results) == len(expected["embeddings"])


def sharded_steps_in_process(rank, cases):
    """As `steps_in_process`, of a model that is sharded as `recipes/accelerate/gpu_8_fsdp.yaml` has it."""
    results = {}
    for name, (config, batches) in cases.items():
        torch.manual_seed(0)
        model = MMETForPreTraining(config).train()
        for module in model.modules():
            if type(module).__name__ == "MMETLayer":
                fully_shard(module)
        fully_shard(model)
        results[name] = step(model, batches[rank])
        gradients = results[name]["gradients"]
        for key, value in gradients.items():
            gradients[key] = value.full_tensor() if isinstance(value, DTensor) else value
    return results


def test_pretraining_step__two_processes_that_share_the_weights_equal_one(
    make_config, make_pretraining_batch, tmp_path
):
    batch, config = make_pretraining_batch(6), make_config(triplet_margin=0.3)
    image_batch = keep(batch, *UNPAIRED["mim"])
    cases = {
        "paired": (config, split(batch, (3, 3))),
        "image": (config, split(image_batch, (3, 3))),
    }
    results = run_processes(sharded_steps_in_process, tmp_path, cases)
    for name, whole in (("paired", batch), ("image", image_batch)):
        torch.manual_seed(0)
        expected = step(MMETForPreTraining(config).train(), whole)
        assert_equal_to_one_process([result[name] for result in results], expected)


def test_pretraining_step__every_process_has_the_embeddings_of_its_own_views(two_processes_and_one):
    results, expected = two_processes_and_one["as_it_is-(1, 5)"]
    # Both put the samples as they are first, then those with a modality dropped.
    samples = [result["embeddings"][:size] for result, size in zip(results, (1, 5), strict=True)]
    torch.testing.assert_close(torch.cat(samples), expected["embeddings"][:6], atol=1e-5, rtol=1e-5)
    assert sum(len(result["embeddings"]) for result in results) == len(expected["embeddings"]) == 12


def reid_step_in_process(rank, config, batches, labels):
    torch.manual_seed(0)
    model = DistributedDataParallel(MMETForReID(config).train(), find_unused_parameters=True)
    for _ in range(2):  # a parameter that the backward pass never reached would stop the second
        model.zero_grad()
        output = model(**batches[rank], labels=labels[rank])
        output.loss.backward()
    return output.loss.detach(), model.module.identity_head.bnneck.weight.grad, len(output.logits)


@pytest.mark.parametrize(
    "weights",
    [(1.0, 0.5), pytest.param((0.0, 1.0), marks=pytest.mark.slow), pytest.param((1.0, 0.0), marks=pytest.mark.slow)],
    ids=str,
)
def test_reid_step__two_processes_equal_one(make_config, make_batch, tmp_path, weights):
    config = make_config(identity_weight=weights[0], triplet_weight=weights[1])
    batch, labels = make_batch(6), torch.tensor([0, 1, 2, 0, 1, 2])
    results = run_processes(reid_step_in_process, tmp_path, config, split(batch, (2, 4)), labels.split((2, 4)))
    torch.manual_seed(0)
    model = MMETForReID(config).train()
    loss = model(**batch, labels=labels).loss
    loss.backward()
    for received, gradient, _ in results:
        torch.testing.assert_close(received, loss.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient, model.identity_head.bnneck.weight.grad, atol=1e-5, rtol=1e-5)
    assert [count for *_, count in results] == [2, 4]


def other_uses_in_process(rank, config, batch):
    """What one process does by itself, and what two with different inputs hear."""
    model = MMETForPreTraining(config)
    alone = model.eval()(**batch).loss.item() if rank == 1 else None  # the other process does not join in
    inputs = keep(batch, *UNPAIRED["mim" if rank else "mlm"])
    with pytest.raises(ValueError, match=r"process 1 has pixel_values, bool_masked_pos$") as error:
        model.train()(**inputs)
    return alone, str(error.value)


def test_pretraining__evaluation_is_each_process_its_own_and_different_inputs_are_an_error(
    make_config, make_pretraining_batch, tmp_path
):
    results = run_processes(other_uses_in_process, tmp_path, make_config(), make_pretraining_batch(4))
    assert results[1][0] > 0
    assert results[0][1] == results[1][1]
    assert "process 0 has input_ids, input_ids_masked, mlm_labels; process 1" in results[0][1]


class Unsendable(Exception):
    """An exception that pickle writes and cannot read: its constructor wants what `args` does not hold."""

    def __init__(self, name, reason):
        super().__init__(f"{name}: {reason}")


def raised_by(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return type(error).__name__, str(error)


def fail(error):
    raise error


def shared_work_in_process(rank):
    return {
        "result": compute_once(lambda: {"computed by": rank}),
        "error": raised_by(compute_once, lambda: fail(ValueError(f"from {rank}"))),
        "unsendable": raised_by(compute_once, lambda: fail(Unsendable("file", f"from {rank}"))),
        "all": compute_on_all(lambda: rank),
        "one fails": raised_by(compute_on_all, lambda: fail(OSError(f"from {rank}")) if rank == 1 else rank),
        "both fail": raised_by(compute_on_all, lambda: fail(OSError(f"from {rank}"))),
    }


def test_compute_once__and_on_all__result_or_error_reaches_every_process(tmp_path):
    first, second = run_processes(shared_work_in_process, tmp_path)
    assert first["result"] == second["result"] == {"computed by": 0}
    assert first["error"] == second["error"] == ("ValueError", "from 0")
    assert first["unsendable"] == ("Unsendable", "file: from 0")
    assert second["unsendable"] == ("RuntimeError", "Unsendable: file: from 0")
    assert (first["all"], second["all"]) == (0, 1)
    assert first["one fails"] == second["one fails"] == ("OSError", "from 1")
    assert (first["both fail"], second["both fail"]) == (("OSError", "from 0"), ("OSError", "from 1"))


def test_compute_once__one_process_just_calls():
    assert compute_once(lambda: 3) == compute_on_all(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        compute_once(lambda: 1 / 0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Pretraining on eight persons with four images each; each of two processes sees four examples a step."""
    folder = tmp_path_factory.mktemp("world")
    sizes = {"persons_per_batch": 2, "per_device_train_batch_size": 4, "max_steps": 24, "save_steps": 19}
    return write_recipe(folder, draw_world(folder / "source"), **sizes)


def resume_in_process(rank, recipe, folder):
    """A whole run, and one that finds nothing but the whole run's checkpoint of step 19."""
    whole = pretrain(recipe, "--output_dir", folder / "whole")
    epoch = TrainerState.load_from_json(str(whole / "checkpoint-19" / "trainer_state.json")).epoch
    if rank == 0:
        shutil.copytree(whole / "checkpoint-19", folder / "interrupted" / "checkpoint-19")
    dist.barrier()
    resumed = pretrain(recipe, "--output_dir", folder / "interrupted", "--resume_from_checkpoint", "true")
    return epoch, *(load_file(path / "model.safetensors") for path in (whole, resumed))


def test_run_pretraining__two_processes_resume_in_the_middle_of_an_epoch(recipe, tmp_path):
    for epoch, whole, resumed in run_processes(resume_in_process, tmp_path, recipe, tmp_path):
        assert epoch > 1, "the order of the first epoch would do"
        assert epoch % 1 > 0, "not the middle of an epoch"
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def poisoned_in_process(rank, recipe, folder):
    """Pretraining in which the second process's loss is NaN at step 2."""
    forward, calls = MMETForPreTraining.forward, itertools.count()

    def poisoned(self, *arguments, **kwargs):
        output = forward(self, *arguments, **kwargs)
        if rank == 1 and next(calls) == 2:
            output.losses["identity"] = output.losses["identity"] * float("nan")
            output.loss = output.loss * float("nan")
        return output

    MMETForPreTraining.forward = poisoned
    with pytest.raises(NonFiniteLossError) as error:
        pretrain(recipe, "--batch_mix", '{"identity": 1}', "--output_dir", folder / "run")
    return str(error.value)


def test_run_pretraining__non_finite_loss_on_one_process_stops_all(recipe, tmp_path):
    first, second = run_processes(poisoned_in_process, tmp_path, recipe, tmp_path)
    assert first == second
    assert "step 2 is not finite (identity)" in first
    assert len(re.findall(r"_c\d\d_w\d\d_l\d\d_p\d\d\.jpg", first)) == 4  # those of one process


def checkpointed_in_process(rank, recipe, folder):
    """Weights after mixed batches, with all activations kept and with most computed again."""
    common = ["--max_steps", 8, "--save_steps", 8, "--optim", "sgd"]
    plain = pretrain(recipe, *common, "--output_dir", folder / "plain")
    saving = pretrain(recipe, *common, "--activation_checkpointing", "true", "--output_dir", folder / "saving")
    return [load_file(path / "model.safetensors") for path in (plain, saving)]


def test_run_pretraining__two_processes_recompute_activations_of_mixed_batches(recipe, tmp_path):
    for plain, saving in run_processes(checkpointed_in_process, tmp_path, recipe, tmp_path):
        for name, value in plain.items():
            torch.testing.assert_close(saving[name], value, atol=1e-6, rtol=1e-5, msg=name)


def logged(folder):
    """The named losses of every log line."""
    history = TrainerState.load_from_json(str(folder / "trainer_state.json")).log_history
    return [{name: entry[name] for name in entry if name.endswith("_loss")} for entry in history if "loss" in entry]


def launch_torchrun(arguments):
    """`torchrun run_pretrain.py` on two processes; what they printed."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run(
        [*launch, str(REPOSITORY / "run_pretrain.py"), *arguments],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_run_pretrain_script__two_processes_train_as_one_with_the_same_global_batch(recipe, tmp_path):
    # Identity batches, for masks are drawn batch by batch; SGD, for Adam's first steps follow a gradient's sign.
    common = [recipe, "--batch_mix", '{"identity": 1}', "--optim", "sgd", "--learning_rate", "0.05"]
    common += ["--max_steps", "8", "--logging_steps", "1", "--save_strategy", "no"]
    printed = launch_torchrun([*common, "--output_dir", str(tmp_path / "two")])
    assert printed.count("model and processor:") == 1
    pretrain(*common, "--persons_per_batch", 4, "--per_device_train_batch_size", 8, "--output_dir", tmp_path / "one")
    two_processes, one_process = logged(tmp_path / "two"), logged(tmp_path / "one")
    assert len(two_processes) == len(one_process) == 8
    for received, expected in zip(two_processes, one_process, strict=True):
        assert received == pytest.approx(expected, abs=2e-4)  # logged with four digits
    assert one_process[0] != pytest.approx(one_process[-1], abs=1e-2), "nothing was learnt: the comparison says little"
