"""Checkpoints that bring their own code: a saved folder must work in a process that has nothing of this project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from modeling_mmet import MMETForPreTraining, MMETForReID, MMETModel
from processing_mmet import MMETImageProcessor, MMETProcessor

# Runs in isolated mode: `load.py FOLDER OUTPUT THREADS`. The project is blocked by name, because an editable
# installation would be importable from anywhere.
LOAD_SCRIPT = """
import sys
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mmet" or name.endswith("_mmet") and "." not in name:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
folder, output, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor, pipeline

torch.set_num_threads(threads)
batch = torch.load(folder / "batch.pt")
clean = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
results = {}

def run(key, auto_class, path, inputs, fields):
    model = auto_class.from_pretrained(path, trust_remote_code=True).eval()
    with torch.no_grad():
        output = model(**inputs)
    results[key] = (type(model).__name__, {field: output[field] for field in fields})
    return model

run("model", AutoModel, folder / "model", clean, ["image_embeds", "text_embeds", "multimodal_embeds"])
reid = run("reid", AutoModel, folder / "reid", clean, ["embeddings", "logits"])
run("pretraining", AutoModelForPreTraining, folder / "pretraining", batch, ["loss", "losses", "itm_logits"])
run("embedder of pretraining", AutoModel, folder / "pretraining", clean, ["embeddings", "pooler_output", "logits"])
run("hybrid", AutoModel, folder / "hybrid", clean, ["embeddings", "logits"])
run("embedder of mask-only", AutoModel, folder / "mask-only", clean, ["embeddings"])
reid.save_pretrained(output / "again")
run("saved again", AutoModel, output / "again", clean, ["embeddings", "logits"])

processor = AutoProcessor.from_pretrained(folder / "reid", trust_remote_code=True)
crop = torch.load(folder / "crop.pt").numpy()
features = processor(images=[crop], text=["a man in red"], return_tensors="pt")
results["processor"] = (type(processor).__name__, dict(features))
for key in ("reid", "pretraining"):
    images = pipeline("image-feature-extraction", model=str(folder / key), pool=True, trust_remote_code=True)
    texts = pipeline("feature-extraction", model=str(folder / key), trust_remote_code=True)
    picture = Image.fromarray(crop)
    results[f"pipelines of {key}"] = (
        images(picture, return_tensors=True),
        texts("a man in red", return_tensors=True),
        texts({"image": picture, "text": "a man in red"}, return_tensors=True),
    )
for key in ("reid", "pretraining", "model"):
    task = "zero-shot-image-classification"
    by_class = pipeline(task, model=str(folder / key), trust_remote_code=True)
    results[f"classes of {key}"] = by_class(picture, candidate_labels=["blue coat", "red bag"])
gallery = [picture.resize((30 + 7 * number, 60), box=(0, 0, 5 + number, 60)) for number in range(4)]
for number, image in enumerate(gallery):
    image.save(output / f"{number}.png")
search = pipeline("person-search", model=str(folder / "reid"), gallery=str(output), trust_remote_code=True)
by_list = pipeline("person-search", model=str(folder / "reid"), gallery=gallery, trust_remote_code=True)
results["search"] = [
    [(match["index"], match["score"]) for match in answer]
    for answer in (search("a man in red", top_k=3), by_list({"image": gallery[2], "text": "a man in red"}, top_k=3))
]
results["gallery"] = [processor(images=[image], return_tensors="pt")["pixel_values"] for image in gallery]
config = AutoConfig.from_pretrained(folder / "reid", trust_remote_code=True)
results["config"] = (type(config).__name__, config.image_config.num_patches)
assert not [name for name in sys.modules if name == "mmet" or name.endswith("_mmet") and "." not in name]
torch.save(results, output / "results.pt")
"""


@pytest.fixture(scope="module")
def crop_array() -> torch.Tensor:
    """A crop `(H, W, 3)` of bytes."""
    return torch.randint(0, 256, (61, 37, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models(make_config) -> dict[str, MMETModel | MMETForReID | MMETForPreTraining]:
    """One model a class, whose batch norm statistics are not those of a new one."""
    torch.manual_seed(1)
    config = make_config()
    classes = {"model": MMETModel, "reid": MMETForReID, "pretraining": MMETForPreTraining}
    built = {key: model_class(config).eval() for key, model_class in classes.items()}
    for key in ("reid", "pretraining"):
        built[key].identity_head.bnneck.running_mean.normal_()
        built[key].identity_head.bnneck.running_var.uniform_(0.5, 2.0)
        built[key].identity_head.bnneck.num_batches_tracked.fill_(9)
    backbone = {"model_type": "mobilenet_v2", "depth_multiplier": 0.1, "finegrained_output": False}
    hybrid = make_config(image={"backbone_config": backbone, "freeze_backbone": True})
    built["hybrid"] = MMETForReID(hybrid).eval()
    built["mask-only"] = MMETForPreTraining(make_config(num_identities=0)).eval()
    return built


@pytest.fixture(scope="module")
def batch(make_pretraining_batch) -> dict[str, torch.Tensor]:
    return make_pretraining_batch()


@pytest.fixture(scope="module")
def remote(models, batch, crop_array, tokenizer, tmp_path_factory) -> dict:
    """What another process computes that has nothing but the saved folders: key -> (class name, results)."""
    saved, elsewhere = tmp_path_factory.mktemp("saved"), tmp_path_factory.mktemp("elsewhere")
    for key, model in models.items():
        model.save_pretrained(saved / key)
    for key in ("reid", "pretraining", "model"):
        MMETProcessor(MMETImageProcessor(size={"height": 52, "width": 28}), tokenizer).save_pretrained(saved / key)
    torch.save(batch, saved / "batch.pt")
    torch.save(crop_array, saved / "crop.pt")
    shutil.move(saved, elsewhere / "folders")
    (elsewhere / "load.py").write_text(LOAD_SCRIPT, encoding="utf-8")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(elsewhere),
        "HF_HOME": str(elsewhere / "hf_home"),
        "HF_HUB_OFFLINE": "1",
    }
    arguments = [elsewhere / "folders", elsewhere, torch.get_num_threads()]
    process = subprocess.run(
        [sys.executable, "-I", "load.py", *map(str, arguments)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return torch.load(elsewhere / "results.pt")


def _assert_same(received: dict, expected: dict):
    """Bit for bit, also one level down."""
    for name, value in received.items():
        if isinstance(value, dict):
            _assert_same(value, expected[name])
        elif value is None:
            assert expected[name] is None, name
        else:
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("key", "source", "class_name"),
    [
        ("model", "model", "MMETModel"),
        ("reid", "reid", "MMETForReID"),
        ("saved again", "reid", "MMETForReID"),
        ("hybrid", "hybrid", "MMETForReID"),
        ("pretraining", "pretraining", "MMETForPreTraining"),
    ],
)
def test_remote_model__bit_identical(remote, models, batch, key, source, class_name):
    received_class, received = remote[key]
    assert received_class == class_name
    names = batch if source == "pretraining" else ("pixel_values", "input_ids", "attention_mask")
    with torch.no_grad():
        expected = models[source](**{name: batch[name] for name in names})
    _assert_same(received, expected)


@pytest.mark.parametrize("key", ["pretraining", "mask-only"])
def test_remote_model__embedder_of_a_pretraining_checkpoint(remote, models, batch, key):
    received_class, received = remote[f"embedder of {key}"]
    assert received_class == "MMETForReID"
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad():
        features = models[key].get_multimodal_features(**inputs).pooler_output
        expected, _ = models[key].identity_head(features)
    torch.testing.assert_close(received["embeddings"], F.normalize(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("key", ["reid", "pretraining"])
def test_remote_pipelines__return_embeddings(remote, models, tokenizer, crop_array, key):
    processor = MMETProcessor(MMETImageProcessor(size={"height": 52, "width": 28}), tokenizer)
    image, text = {"images": [crop_array.numpy()]}, {"text": ["a man in red"]}
    for received, inputs in zip(remote[f"pipelines of {key}"], (image, text, image | text), strict=True):
        with torch.no_grad():
            inputs = processor(**inputs, return_tensors="pt")
            features = models[key].get_multimodal_features(**inputs).pooler_output
            expected, _ = models[key].identity_head(features)
        torch.testing.assert_close(received, F.normalize(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("key", ["model", "reid", "pretraining"])
def test_remote_zero_shot__scores_of_the_contrastive_logits(remote, models, tokenizer, crop_array, key):
    processor = MMETProcessor(MMETImageProcessor(size={"height": 52, "width": 28}), tokenizer)
    inputs = processor(images=[crop_array.numpy()], return_tensors="pt")
    labels = ["blue coat", "red bag"]
    captions = processor(text=[f"This is a photo of {label}." for label in labels], return_tensors="pt")
    with torch.no_grad():
        image = models[key].get_image_features(**inputs).pooler_output
        texts = models[key].get_text_features(**captions).pooler_output
        scale = models[key].base_model.logit_scale.exp()
        expected = (scale * F.cosine_similarity(image, texts)).softmax(dim=0).tolist()
    received = remote[f"classes of {key}"]
    assert [entry["label"] for entry in received] == [labels[k] for k in sorted((0, 1), key=lambda k: -expected[k])]
    assert [entry["score"] for entry in received] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_remote_person_search__cosines_in_order(remote, models, tokenizer):
    processor = MMETProcessor(MMETImageProcessor(size={"height": 52, "width": 28}), tokenizer)
    text = processor(text=["a man in red"], return_tensors="pt")
    both = {"pixel_values": remote["gallery"][2], **text}
    with torch.no_grad():
        gallery = models["reid"](pixel_values=torch.cat(remote["gallery"])).embeddings
        for answer, query in zip(remote["search"], (text, both), strict=True):
            scores = (gallery @ models["reid"](**query).embeddings[0]).tolist()
            expected = sorted(range(len(scores)), key=lambda place: -scores[place])[:3]
            assert [place for place, _ in answer] == expected
            assert [score for _, score in answer] == pytest.approx([scores[place] for place in expected], abs=1e-5)


def test_remote_processor__same_features(remote, tokenizer, crop_array):
    class_name, received = remote["processor"]
    processor = MMETProcessor(MMETImageProcessor(size={"height": 52, "width": 28}), tokenizer)
    expected = processor(images=[crop_array.numpy()], text=["a man in red"], return_tensors="pt")
    assert class_name == "MMETProcessor"
    assert set(received) == set(expected)
    _assert_same(received, expected)


def test_remote_config__derived_values(remote):
    assert remote["config"] == ("MMETConfig", 8)


@pytest.mark.parametrize("key", ["model", "reid", "pretraining"])
def test_saved_folder__holds_its_code_and_safe_weights(models, tmp_path, key):
    models[key].save_pretrained(tmp_path)
    files = {path.name for path in Path(tmp_path).iterdir()}
    parts = ("codebooks", "configuration", "inputs", "layers", "modeling", "objectives", "pipelines")
    code = {f"{part}_mmet.py" for part in parts}
    assert code | {"config.json", "model.safetensors"} <= files
    assert not any(name.endswith((".bin", ".pt")) for name in files)
