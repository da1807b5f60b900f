"""Pretraining end to end on a tiny synthetic world: it resumes, honours its switches and names what goes wrong."""

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import draw_world, write_recipe
from tiny_runs import run as pretrain
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoProcessor,
    FlavaImageCodebook,
    FlavaImageCodebookConfig,
    pipeline,
)

from mmet.data import DatasetError
from mmet.data.synthetic import write_world
from mmet.training import codebook, pretraining
from mmet.training.arguments import ModelArguments, ObjectiveArguments, parse_arguments
from mmet.training.collator import MMETDataCollator
from mmet.training.dataset import TrainingDataset
from mmet.training.pretraining import build_collator, find_checkpoint
from mmet.training.starting_model import build_model
from mmet.training.trainer import MMETTrainer, NonFiniteLossError
from mmet.training.training_data import TrainingSources
from modeling_mmet import LOSS_NAMES, MMETForPreTraining, MMETForReID
from processing_mmet import MMETImageProcessor, MMETProcessor
from run_pretrain import main


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return draw_world(tmp_path_factory.mktemp("world") / "source")


@pytest.fixture
def recipe(world, tmp_path):
    return write_recipe(tmp_path, world)


def recipe_without(recipe, *names):
    """The recipe's path, once these fields are out of it."""
    path = Path(recipe)
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({key: fields[key] for key in fields if key not in names}), encoding="utf-8")
    return recipe


def logged_losses(folder):
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {name for entry in history for name in LOSS_NAMES if f"{name}_loss" in entry}


@pytest.mark.slow
def test_main__compiled_training_learns_what_plain_training_does(recipe, tmp_path, capsys):
    """All kinds of batch through the script, with a compiler that needs no C++: the losses are those of eager mode."""
    losses = {}
    for name, options in {"eager": (), "compiled": ("--torch_compile_backend", "aot_eager")}.items():
        folder = tmp_path / name
        common = ["--output_dir", str(folder), "--max_steps", "4", "--logging_steps", "1", "--save_strategy", "no"]
        compiled = ["--torch_compile", "true", *options] if options else []
        assert main([recipe, *common, *compiled]) == 0
        assert str(folder) in capsys.readouterr().out
        assert logged_losses(folder) == set(LOSS_NAMES)
        history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        losses[name] = [entry["loss"] for entry in history if "loss" in entry]
        assert MMETForReID.from_pretrained(folder).config.num_identities == 8
    assert len(losses["eager"]) == 4
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-3)


def test_run_pretraining__all_eight_losses_and_a_model_that_loads(recipe):
    folder = pretrain(recipe)
    assert logged_losses(folder) == set(LOSS_NAMES)
    model, processor = MMETForReID.from_pretrained(folder), MMETProcessor.from_pretrained(folder)
    assert model.config.num_identities == 8
    inputs = processor(text=["a man in a red coat"], return_tensors="pt")
    embeddings = model.eval()(**inputs).embeddings
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(1))
    assert MMETForPreTraining.from_pretrained(folder).image_codebook.is_fitted
    assert {"modeling_mmet.py", "configuration_mmet.py", "processing_mmet.py"} <= {
        path.name for path in folder.iterdir()
    }


@pytest.mark.parametrize("mix", [{"identity": 1}, {"paired": 1, "image": 1, "text": 1}], ids=["identity", "mask-only"])
def test_run_pretraining__what_is_saved_is_an_embedder(recipe, mix, crop):
    folder = pretrain(recipe, "--batch_mix", json.dumps(mix), "--max_steps", 2, "--save_steps", 2)
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    assert type(model) is MMETForReID
    assert type(AutoModelForPreTraining.from_pretrained(folder)) is MMETForPreTraining
    sentence = "a man in a red coat"
    images = pipeline("image-feature-extraction", model=str(folder), pool=True, trust_remote_code=True)
    texts = pipeline("feature-extraction", model=str(folder), trust_remote_code=True)
    for received, inputs in ((images(crop), {"images": [crop]}), (texts(sentence), {"text": [sentence]})):
        with torch.no_grad():
            expected = model(**processor(**inputs, return_tensors="pt")).embeddings
        torch.testing.assert_close(expected.norm(dim=1), torch.ones(1))
        torch.testing.assert_close(torch.tensor(received), expected, atol=1e-5, rtol=1e-5)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "torch.no_grad" in card
    assert ("No identity loss was trained" in card) == ("identity" not in mix)


def test_run_pretraining__resumed_run_equals_uninterrupted_run(recipe, tmp_path):
    whole = pretrain(recipe, "--output_dir", tmp_path / "whole")
    # The run that was interrupted after its first checkpoint has that checkpoint and nothing later.
    interrupted = tmp_path / "interrupted"
    shutil.copytree(whole / "checkpoint-4", interrupted / "checkpoint-4")
    resumed = pretrain(recipe, "--output_dir", interrupted, "--resume_from_checkpoint", "true")
    expected, received = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert expected.keys() == received.keys()
    assert all(torch.equal(expected[name], received[name]) for name in expected)


def test_run_pretraining__never_overwrites_checkpoints(recipe):
    folder = pretrain(recipe)
    with pytest.raises(ValueError, match=r"already holds checkpoint-8.*--resume_from_checkpoint true"):
        pretrain(recipe)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    pretrain(recipe, "--resume_from_checkpoint", "true")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before, "a finished run has nothing left to do"


@pytest.mark.parametrize("masking", ["random", "block", "none"])
def test_run_pretraining__image_masking_switch(recipe, masking):
    folder = pretrain(recipe, "--image_masking", masking, "--max_steps", 4, "--batch_mix", '{"paired": 1}')
    assert ("mmm_image" in logged_losses(folder)) == (masking != "none")
    assert "mmm_text" in logged_losses(folder)


def test_run_pretraining__second_stage_from_the_first(recipe, tmp_path):
    first = pretrain(recipe, "--batch_mix", '{"paired": 1, "text": 1}', "--output_dir", tmp_path / "first")
    assert MMETForPreTraining.from_pretrained(first).identity_head.classifier is None
    second = pretrain(
        recipe, "--model_name_or_path", first, "--batch_mix", '{"identity": 1}', "--output_dir", tmp_path / "second"
    )
    assert logged_losses(second) == {"identity", "triplet", "global_contrastive"}
    assert MMETForReID.from_pretrained(second).config.num_identities == 8


def test_build_model__half_precision_checkpoint_is_trained_in_float32(make_config, processor, tmp_path):
    MMETForPreTraining(make_config()).to(torch.bfloat16).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert MMETForPreTraining.from_pretrained(tmp_path).dtype == torch.bfloat16
    arguments = ModelArguments(model_name_or_path=str(tmp_path))
    _, model = build_model(arguments, ObjectiveArguments(), None, SimpleNamespace(count_identities=lambda kinds: 4))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.fixture(scope="module")
def image_only(tmp_path_factory):
    """Market-1501's layout: pictures and person ids, no caption, no mask."""
    folder = tmp_path_factory.mktemp("image_only") / "market"
    options = {"num_train_ids": 6, "num_test_ids": 3, "images_per_id": 4, "seed": 5}
    write_world("market1501", folder, **options, image_height=100, image_width=52)
    return folder


def test_run_pretraining__identities_from_images_without_captions(recipe, image_only):
    """L_ID and L_triplet of pictures alone, validated on people who were held out, no sentence anywhere."""
    overrides = ("--batch_mix", '{"identity_image": 1}', "--image_data", f"market1501={image_only}")
    folder = pretrain(
        recipe_without(recipe, "paired_data", "text_data", "image_data"), *overrides, "--validation_identities", 2
    )
    assert logged_losses(folder) == {"identity", "triplet"}
    assert MMETForReID.from_pretrained(folder).config.num_identities == 4
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    validated = {name for entry in history for name in entry if name.endswith("_mAP")}
    assert validated == {"eval_validation_market1501_image_to_image_mAP", "eval_validation_mAP"}


def test_run_pretraining__pairs_and_images_share_one_label_space(recipe, image_only, monkeypatch):
    seen = {"identity": set(), "identity_image": set()}
    collate = MMETDataCollator.__call__

    def record(collator, samples):
        if samples[0].kind in seen:
            seen[samples[0].kind] |= {(sample.image_path, sample.person_label) for sample in samples}
        return collate(collator, samples)

    monkeypatch.setattr(MMETDataCollator, "__call__", record)
    mix = '{"identity": 1, "identity_image": 1}'
    source = f"market1501={image_only}"
    folder = pretrain(recipe, "--batch_mix", mix, "--image_data", source, "--max_steps", 16)
    assert MMETForReID.from_pretrained(folder).config.num_identities == 8 + 6
    assert {label for _, label in seen["identity"]} == set(range(8))
    assert {label for _, label in seen["identity_image"]} == set(range(14))
    assert logged_losses(folder) == {"identity", "triplet", "global_contrastive"}


def test_run_pretraining__image_data_adds_no_classes_that_no_batch_shows(recipe, image_only):
    folder = pretrain(recipe, "--batch_mix", '{"identity": 1, "image": 1}', "--image_data", f"market1501={image_only}")
    assert MMETForReID.from_pretrained(folder).config.num_identities == 8


SEGMENTER = """
import numpy as np
from PIL import Image

asked = []

def top_third(images):
    asked.extend(image.size for image in images)
    masks = [np.zeros((image.height, image.width), dtype=np.uint8) for image in images]
    for mask in masks:
        mask[: len(mask) // 3] = 255
    return [Image.fromarray(mask) for mask in masks]

def one_mask(images):
    return [None]
"""


@pytest.fixture
def segmenter(tmp_path, monkeypatch):
    (tmp_path / "segmenter_of_a_test.py").write_text(SEGMENTER, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "segmenter_of_a_test", raising=False)
    return importlib.import_module("segmenter_of_a_test")


def masked_patches(monkeypatch):
    """The masks `(steps * B, N)` that the model is trained with, once a run has ended."""
    seen = []
    collate = MMETDataCollator.__call__

    def record(collator, samples):
        batch = collate(collator, samples)
        seen.append(batch["bool_masked_pos"])
        return batch

    monkeypatch.setattr(MMETDataCollator, "__call__", record)
    return seen


IMAGES_ALONE = ("--batch_mix", '{"image": 1}', "--max_steps", 4)


def test_run_pretraining__a_segmenter_says_where_patches_are_masked(recipe, image_only, segmenter, monkeypatch):
    seen = masked_patches(monkeypatch)
    source = f"market1501={image_only}"
    name = "segmenter_of_a_test:top_third"
    folder = pretrain(recipe, *IMAGES_ALONE, "--image_data", source, "--person_segmenter", name)
    assert logged_losses(folder) == {"mim"}
    assert len(segmenter.asked) > 4 * 8  # a trial, every picture that is masked, and batches loaded ahead
    rows = torch.cat(seen).view(-1, 4, 2)  # 52 × 28 pixels in patches of 16 every 12
    assert not rows[:, 2:].any(), "the rest is no person"
    assert (rows.sum(dim=(1, 2)) == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--person_segmenter", "segmenter_of_a_test:nobody"), "has no nobody"),
        (("--person_segmenter", "no_such_module_here:f"), "cannot be imported"),
        (("--mask_prior", "missing.png"), "expected figure, masks or a grey picture, received missing.png"),
        (("--mask_prior", "masks"), "none of .* training pictures has a mask"),
        (("--mask_sharpness", 0), r"mask_sharpness: expected a number above 0 and at most 20, received 0"),
        (("--mask_sharpness", "nan"), r"mask_sharpness: .*received nan"),
        (("--mask_prior", "masks", "--image_masking", "random"), "mask_prior: only image_masking=pedestrian"),
    ],
)
def test_run_pretraining__unusable_mask_settings_are_one_message(recipe, image_only, segmenter, arguments, message):
    with pytest.raises(ValueError, match=message):
        pretrain(recipe, *IMAGES_ALONE, "--image_data", f"market1501={image_only}", *arguments)


def test_run_pretraining__a_segmenter_that_does_not_work_stops_before_training(recipe, image_only, segmenter):
    segmenter.one_mask = lambda images: []
    with pytest.raises(ValueError, match="expected 1 masks from the segmenter, received 0"):
        pretrain(
            recipe,
            *(*IMAGES_ALONE, "--image_data", f"market1501={image_only}"),
            *("--person_segmenter", "segmenter_of_a_test:one_mask"),
        )


def test_run_pretraining__prior_and_sharpness_reach_the_masks(recipe, image_only, tmp_path, monkeypatch):
    seen = masked_patches(monkeypatch)
    prior = Image.new("L", (28, 52))
    prior.paste(255, (0, 40, 12, 52))  # alone in the lower left patch
    prior.paste(60, (16, 0, 28, 12))  # a fifth as bright in the upper right one
    prior.save(tmp_path / "prior.png")
    settings = ("--image_data", f"market1501={image_only}", "--mask_prior", tmp_path / "prior.png")
    pretrain(recipe, *IMAGES_ALONE, *settings, "--mask_sharpness", 12)
    # (60 / 255) ** 12 is 3e-8: the darker patch is never drawn.
    assert torch.cat(seen).sum(dim=0).nonzero().flatten().tolist() == [6]


def test_measure_prior__is_the_mean_of_the_training_masks(recipe, world, caplog):
    arguments = [recipe, "--mask_prior", "masks", "--mask_sharpness", "1", "--max_text_length", "1000"]
    model, data, objectives, _ = parse_arguments(arguments)
    sources = TrainingSources.load(data)
    dataset = TrainingDataset(paired=sources.paired, image=sources.image)
    processor, network = build_model(model, objectives, sources, dataset)
    collator = build_collator(processor, dataset, data, objectives, network.config, 0)
    positions = network.config.text_config.max_position_embeddings
    assert collator.max_length == positions < 1000
    assert f"captions are cut at {positions} tokens, the model's max_position_embeddings" in caplog.text
    masks = [np.asarray(row["person_mask"].convert("L").resize((28, 52), Image.BOX)) > 127 for row in sources.image[0]]
    mean = np.mean(masks, axis=0)  # (52, 28), pixel by pixel
    expected = [mean[y : y + 16, x : x + 16].mean() for y in (0, 12, 24, 36) for x in (0, 12)]
    np.testing.assert_allclose(collator.prior, expected, atol=0.02)


def test_run_pretraining__weight_zero_switches_a_loss_off(recipe):
    folder = pretrain(recipe, "--itm_weight", 0, "--mim_weight", 0, "--batch_mix", '{"paired": 1}')
    assert logged_losses(folder) == {"mmm_image", "mmm_text", "global_contrastive"}


def test_run_pretraining__codebook_sees_augmented_images_and_reports(recipe, caplog, monkeypatch):
    seen = []

    def record(fitted, batches, **kwargs):
        batches = list(batches)
        seen.append(torch.cat(batches))
        return fit_codebook(fitted, batches, **kwargs)

    fit_codebook = codebook.fit_codebook
    monkeypatch.setattr(codebook, "fit_codebook", record)
    arguments = ["--batch_mix", '{"image": 1}', "--max_steps", 1, "--codebook_images", 12]
    with caplog.at_level("INFO"):
        pretrain(recipe, *arguments)
        plain = '{"flip_probability": 0, "crop_scale": [1, 1], "padding": 0, "colour_probability": 0}'
        pretrain(recipe, *arguments, "--augmentation", plain, "--output_dir", f"{recipe}.plain")
    assert "16 codes fitted on 96 patches of 12 images; " in caplog.text
    augmented, plain = seen
    assert augmented.shape == (12, 3, 52, 28)
    assert not torch.allclose(augmented, plain)


def test_run_pretraining__resume_takes_the_codebook_of_the_checkpoint(recipe, tmp_path, monkeypatch):
    whole = pretrain(recipe, "--output_dir", tmp_path / "whole", "--batch_mix", '{"image": 1}')
    interrupted = tmp_path / "interrupted"
    shutil.copytree(whole / "checkpoint-4", interrupted / "checkpoint-4")
    monkeypatch.setattr(pretraining, "prepare_codebook", lambda *arguments: pytest.fail("there is one already"))
    pretrain(recipe, "--output_dir", interrupted, "--batch_mix", '{"image": 1}', "--resume_from_checkpoint", "true")
    expected, received = (load_file(folder / "model.safetensors") for folder in (whole, interrupted))
    assert all(torch.equal(expected[name], received[name]) for name in expected)


def test_run_pretraining__dalle_codebook_from_a_folder(recipe, tmp_path):
    sizes = {"num_blocks_per_group": 1, "hidden_size": 4, "vocab_size": 11}
    network = FlavaImageCodebook(FlavaImageCodebookConfig(**sizes, initializer_range=1.0))
    network.save_pretrained(tmp_path / "codebook")
    fields = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    fields["model_config"] |= {
        "codebook_type": "dalle",
        "codebook_size": None,
        "codebook_config": sizes,
        "codebook_name_or_path": str(tmp_path / "codebook"),
    }
    Path(recipe).write_text(yaml.safe_dump(fields), encoding="utf-8")
    mix = ["--batch_mix", '{"image": 1, "paired": 1}', "--max_steps", 4]
    first = pretrain(recipe, *mix, "--output_dir", tmp_path / "first")
    assert {"mim", "mmm_image"} <= logged_losses(first)
    model = MMETForPreTraining.from_pretrained(first)
    expected = network.blocks.state_dict()
    assert all(
        torch.equal(weight, expected[name]) for name, weight in model.image_codebook.blocks.state_dict().items()
    )
    shutil.rmtree(tmp_path / "codebook")  # the next stage needs it no more
    second = pretrain(recipe, *mix, "--model_name_or_path", first, "--output_dir", tmp_path / "second")
    processor = MMETProcessor.from_pretrained(second)
    processor.image_processor.image_mean = [0.4, 0.5, 0.6]
    processor.save_pretrained(second)
    with pytest.raises(ValueError, match="codebook_image_mean"):
        pretrain(recipe, *mix, "--model_name_or_path", second, "--output_dir", tmp_path / "other pixels")
    with pytest.raises(OSError, match="codebook_name_or_path"):
        pretrain(recipe, *mix, "--output_dir", tmp_path / "third")


def test_check_normalisation__names_both(make_config):
    processor = MMETImageProcessor(image_mean=[0.4, 0.5, 0.6])
    with pytest.raises(ValueError, match=r"codebook_image_mean=\[0.5, 0.5, 0.5\].*received \[0.4, 0.5, 0.6\]"):
        codebook.check_normalisation(make_config(), processor)
    config = make_config(codebook_image_mean=(0.4, 0.5, 0.6))
    codebook.check_normalisation(config, processor)


def test_run_pretraining__missing_data_folder_is_named(recipe, tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        pretrain(recipe, "--paired_data", f"finegpr={tmp_path / 'nowhere'}")


def test_run_pretraining__non_finite_loss_names_images(recipe, monkeypatch):
    def poisoned(self, *arguments, **kwargs):
        output = forward(self, *arguments, **kwargs)
        output.losses["identity"] = output.losses["identity"] * float("nan")
        output.loss = output.loss * float("nan")
        return output

    forward = MMETForPreTraining.forward
    monkeypatch.setattr(MMETForPreTraining, "forward", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"step 0 is not finite \(identity\).*_c\d\d_w\d\d_l\d\d_p\d\d\.jpg"):
        pretrain(recipe, "--batch_mix", '{"identity": 1}')


def test_find_checkpoint__named_folder_must_exist(recipe, tmp_path):
    arguments = parse_arguments([recipe, "--resume_from_checkpoint", str(tmp_path / "gone")])[3]
    with pytest.raises(ValueError, match="gone is not a folder"):
        find_checkpoint(arguments)


def test_trainer__what_decays(recipe):
    model = MMETForPreTraining.from_pretrained(pretrain(recipe, "--max_steps", 4))
    decaying = MMETTrainer.get_decay_parameter_names(None, model)
    assert "mmet.image_model.encoder.layers.0.mlp.fc1.weight" in decaying
    assert "mmet.text_model.embeddings.token_embedding.weight" in decaying
    parameters = dict(model.named_parameters())
    assert all(parameters[name].ndim >= 2 for name in decaying)
    assert not {name for name in decaying if "cls_token" in name or "position" in name or "bnneck" in name}


def test_run_pretrain_script__bad_input_is_one_message(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    expected = {
        f"finegpr={tmp_path / 'missing'}": "missing",
        f"finegpr={tmp_path / 'empty'}": "FineGPR/",  # the expected tree
        "marketplace=/x": "market1501",  # the known names
    }
    for argument, message in expected.items():
        assert main(["--paired_data", argument, "--output_dir", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("neftune_noise_alpha", 5),
        ("full_determinism", "true"),
        ("eval_on_start", "true"),
        ("skip_memory_metrics", "false"),
        ("torch_empty_cache_steps", 1),
    ],
)
def test_run_pretraining__rare_options_of_the_trainer_work(recipe, name, value):
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        folder = pretrain(recipe, f"--{name}", value, "--max_steps", 2, "--validation_identities", 2)
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
    assert json.loads((folder / "training_result.json").read_text(encoding="utf-8"))["training"]["steps"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--identity_weight", 0, "--triplet_weight", 0, "--global_contrastive_weight", 0),
            "identity batches would teach",
        ),
        (("--mask_ratio", 0), "mask_ratio: 0.0 masks none of the 8 patches, so mim and mmm_image would teach nothing"),
        (("--mask_ratio", 0.05), "mask_ratio: 0.05 masks none of the 8 patches"),
        (("--mlm_probability", 0), "mlm_probability: 0 masks no word"),
        (("--itm_mismatch_probability", 0), "all pairs have the same answer"),
        (("--itm_mismatch_probability", 1), "all pairs have the same answer"),
        (
            ("--itm_mismatch_probability", 1, "--itm_weight", 0),
            "leaves no matching pair, of which mmm_image and mmm_text",
        ),
        (("--image_masking", "none"), "image batches would teach nothing with image_masking none"),
        (("--batch_mix", "{paired: 1}", "--per_device_train_batch_size", 1), "no caption of another person, so itm"),
        (
            ("--batch_mix", "{paired: 1}", "--per_device_train_batch_size", 1, "--itm_weight", 0),
            "nothing to compare a pair with, so global_contrastive",
        ),
        (
            ("--batch_mix", "{identity_image: 1}", "--persons_per_batch", 8, "--images_per_person", 1),
            "images_per_person: 1 leaves triplet without",
        ),
        (
            ("--batch_mix", "{paired: 1, identity: 1.0e-12}"),
            "an epoch that shows every example .* more than 16,777,216",
        ),
    ],
)
def test_run_pretraining__what_teaches_nothing_is_refused(recipe, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        pretrain(recipe, *arguments)
    assert not (tmp_path / "run" / "model.safetensors").exists()
