"""
The whole way over the Hub, against a server on loopback: push as the package pushes, load where it is not installed.

The pushing process has the project. The loading processes have transformers, torch, Pillow and what these require, in
a folder of links, and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard
from packaging.requirements import Requirement
from tiny_runs import draw_world, tiniest_model, tiny_recipe

from modeling_mmet import MMETForReID
from processing_mmet import MMETImageProcessor, MMETProcessor

pytestmark = pytest.mark.slow

PUSH = """
import json, sys
from pathlib import Path
import torch
from datasets import load_dataset
from huggingface_hub import HfApi
from mmet import MMETForReID, MMETProcessor
from mmet.data import load_reid_dataset
from mmet.training.arguments import parse_arguments
from mmet.training.pretraining import run_pretraining

folder, api = Path(sys.argv[1]), HfApi()
torch.set_num_threads(1)
for name, revision in (("first", "main"), ("second", "later")):
    if revision != "main":
        api.create_branch("org/embedder", branch=revision)
    MMETForReID.from_pretrained(folder / name).push_to_hub("org/embedder", revision=revision)
    MMETProcessor.from_pretrained(folder / name).push_to_hub("org/embedder", revision=revision)
api.upload_folder(repo_id="org/embedder", folder_path=folder / "second", path_in_repo="inner")
api.create_tag("org/embedder", tag="v1", revision="main")
api.create_repo("org/pickled")
torch.save(MMETForReID.from_pretrained(folder / "first").state_dict(), folder / "pytorch_model.bin")
api.upload_file(path_or_fileobj=folder / "pytorch_model.bin", path_in_repo="pytorch_model.bin", repo_id="org/pickled")
for path in [*(folder / "first").glob("*.json"), *(folder / "first").glob("*.py")]:
    api.upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id="org/pickled")

run_pretraining(*parse_arguments([str(folder / "recipe.yaml")]))

people = load_reid_dataset("finegpr", folder / "world")
people.push_to_hub("org/people")
loaded = load_dataset("org/people")
assert loaded.keys() == people.keys()
for split, rows in people.items():
    assert loaded[split].features == rows.features
    for before, after in zip(rows, loaded[split], strict=True):
        assert before.pop("image").tobytes() == after.pop("image").tobytes()
        same = {name: value for name, value in before.items() if name != "person_mask"}
        assert same == {name: value for name, value in after.items() if name != "person_mask"}
"""

LOAD = """
import importlib.util, sys
from pathlib import Path
output, *site = map(Path, sys.argv[1:])
sys.path.append(str(site[0]))
for name in ("mmet", "modeling_mmet", "datasets", "accelerate", "pandas", "peft", "faiss"):
    assert importlib.util.find_spec(name) is None, name
import torch
from transformers import AutoModel, AutoProcessor, pipeline

torch.set_num_threads(1)
inputs, results = torch.load(output / "inputs.pt"), {}
for key, options in (
    ("main", {}),
    ("tag", {"revision": "v1"}),
    ("branch", {"revision": "later"}),
    ("subfolder", {"subfolder": "inner"}),
):
    model = AutoModel.from_pretrained("org/embedder", trust_remote_code=True, **options).eval()
    with torch.no_grad():
        results[key] = (type(model).__name__, model(**inputs).embeddings)
processor = AutoProcessor.from_pretrained("org/embedder", trust_remote_code=True)
image = inputs["pixel_values"][0].sigmoid()
results["processor"] = dict(processor(images=[image], text=["a man"], return_tensors="pt"))
run = AutoModel.from_pretrained("org/run", trust_remote_code=True).eval()
results["run"] = type(run).__name__
embed = pipeline("feature-extraction", model="org/run", trust_remote_code=True)
results["pipeline"] = embed("a man in red", return_tensors=True)
try:
    AutoModel.from_pretrained("org/pickled", trust_remote_code=True)
    results["pickled"] = "loaded"
except (OSError, ValueError) as error:
    results["pickled"] = f"{type(error).__name__}: {error}"
torch.save(results, output / "results.pt")
"""


def required(names: set[str]) -> set[str]:
    """The distributions that these require, directly or not, without their extras."""
    modules: set[str] = set()
    while names - modules:
        name = (names - modules).pop()
        modules.add(name)
        for requirement in map(Requirement, metadata.requires(name) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                names |= {metadata.distribution(requirement.name).name}
    return modules


@pytest.fixture(scope="module")
def clean_site(tmp_path_factory) -> Path:
    """A folder of links to transformers, torch, Pillow and what they require."""
    site = tmp_path_factory.mktemp("site")
    for name in required({"torch", "transformers", "pillow"}):
        distribution = metadata.distribution(name)
        for top in {Path(file).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            source = Path(distribution.locate_file(top))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    return site


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


def run_process(code: str, arguments: list, folder: Path, hub: HubServer, *options: str, **environment: str):
    """A process with no more of this one's environment than it needs. `OSError` with its messages where it fails."""
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf_home"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    (folder / "script.py").write_text(code, encoding="utf-8")
    command = [sys.executable, *options, str(folder / "script.py"), *map(str, arguments)]
    process = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-6000:]


@pytest.fixture(scope="module")
def pushed(hub, make_config, tokenizer, tmp_path_factory) -> Path:
    """The folder of two embedders and of a run's recipe, once all of it lies on the Hub."""
    folder = tmp_path_factory.mktemp("pushed")
    for number, name in enumerate(("first", "second")):
        torch.manual_seed(number)
        MMETForReID(make_config()).save_pretrained(folder / name)
        MMETProcessor(MMETImageProcessor(size={"height": 52, "width": 28}), tokenizer).save_pretrained(folder / name)
    world = draw_world(folder / "world", num_ids=4, images_per_id=2)
    recipe = tiny_recipe(
        model_config=tiniest_model(),
        paired_data=[f"finegpr={world}"],
        batch_mix={"paired": 1},
        per_device_train_batch_size=4,
        max_steps=2,
        save_steps=2,
        logging_steps=1,
        output_dir=str(folder / "run"),
        push_to_hub=True,
        hub_model_id="org/run",
        use_cpu=True,
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    run_process(PUSH, [folder], folder, hub, HF_TOKEN="hf_of_nobody", PYTHONPATH=path)
    return folder


@pytest.fixture(scope="module")
def inputs(make_batch) -> dict[str, torch.Tensor]:
    return make_batch()


@pytest.fixture(scope="module")
def loaded(hub, pushed, inputs, clean_site, tmp_path_factory) -> Path:
    """The folder of what a process without the project loads."""
    folder = tmp_path_factory.mktemp("loaded")
    torch.save(inputs, folder / "inputs.pt")
    run_process(LOAD, [folder, clean_site], folder, hub, "-I", "-S")
    return folder


def embeddings_of(folder: Path, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return MMETForReID.from_pretrained(folder).eval()(**inputs).embeddings


@pytest.mark.parametrize(
    ("key", "source"), [("main", "first"), ("tag", "first"), ("branch", "second"), ("subfolder", "second")]
)
def test_load__the_embeddings_that_were_pushed(pushed, loaded, inputs, key, source):
    class_name, embeddings = torch.load(loaded / "results.pt")[key]
    assert class_name == "MMETForReID"
    torch.testing.assert_close(embeddings, embeddings_of(pushed / source, inputs), atol=1e-6, rtol=0)


def test_load__processor_and_pipeline(pushed, loaded, inputs):
    results = torch.load(loaded / "results.pt")
    image = inputs["pixel_values"][0].sigmoid()
    expected = MMETProcessor.from_pretrained(pushed / "first")(images=[image], text=["a man"], return_tensors="pt")
    assert results["processor"].keys() == expected.keys()
    assert all(torch.equal(results["processor"][name], value) for name, value in expected.items())
    model, processor = (
        MMETForReID.from_pretrained(pushed / "run").eval(),
        MMETProcessor.from_pretrained(pushed / "run"),
    )
    with torch.no_grad():
        by_text = model(**processor(text=["a man in red"], return_tensors="pt")).embeddings
    torch.testing.assert_close(results["pipeline"], by_text, atol=1e-6, rtol=0)
    assert results["run"] == "MMETForReID"


def test_load__pickles_are_refused(loaded, hub):
    message = torch.load(loaded / "results.pt")["pickled"]
    assert message.startswith("ValueError: weights are read as safetensors alone")
    assert "expected model.safetensors in org/pickled" in message
    assert not any("pytorch_model.bin" in request for request in hub.requests if request.startswith("GET"))


def test_load__offline_from_what_was_fetched(pushed, loaded, inputs, hub, clean_site, tmp_path):
    before = torch.load(loaded / "results.pt")
    num_requests = len(hub.requests)
    (loaded / "results.pt").rename(tmp_path / "online.pt")
    run_process(LOAD, [loaded, clean_site], loaded, hub, "-I", "-S", HF_HUB_OFFLINE="1")
    after = torch.load(loaded / "results.pt")
    assert len(hub.requests) == num_requests
    for key in ("main", "tag", "branch", "subfolder"):
        assert torch.equal(after[key][1], before[key][1])
    assert torch.equal(after["pipeline"], before["pipeline"])


def test_push__what_a_run_leaves_on_the_hub(pushed, hub):
    files = hub.files("org/run")
    code = {path.name for path in Path(__file__).parents[1].glob("*_mmet.py")}
    assert code | {"README.md", "model.safetensors", "modules.json", "1_Normalize/config.json"} <= files.keys()
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth")) and name != "training_args.bin"]
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert 'from_pretrained("org/run", trust_remote_code=True)' in card.text
    assert files["model.safetensors"] == (pushed / "run" / "model.safetensors").read_bytes()
    assert json.loads(files["training_result.json"])["num_parameters"] > 0


def test_push__dataset_as_shards(pushed, hub):
    files = hub.files("org/people", kind="datasets")
    assert [name for name in files if name.endswith(".parquet")]
    assert "README.md" in files
