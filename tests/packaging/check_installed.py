"""Use an installed MMET as its users do, from a folder without its source: import, call all commands, train, search.

    python tests/packaging/check_installed.py            # of the environment whose Python runs it; takes minutes

Continuous integration runs it with the oldest and the newest supported versions (.github/workflows/compatibility.yml),
`tests/packaging/test_wheel.py` with a wheel. It imports nothing but the standard library itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path

SCRIPTS = Path(sys.executable).parent
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "numpy", "pillow")
DRAWN = ["--images_per_id", "4", "--image_height", "100", "--image_width", "52", "--num_workers", "1"]
FOOTAGE = ("av", "cv2", "trackers")
"""What the extra `footage` installs; where it is missing, no film is read."""

USE = """
import sys, mmet, modeling_mmet, mmet.data
from pathlib import Path
from transformers import AutoModel, AutoProcessor
assert Path(mmet.__file__).is_relative_to(Path(sys.prefix)), mmet.__file__
assert (Path(mmet.__file__).parent / "py.typed").is_file()
model, processor = AutoModel.from_pretrained("run"), AutoProcessor.from_pretrained("run")
assert type(model) is modeling_mmet.MMETForReID and type(processor) is mmet.MMETProcessor
output = model.eval()(**processor(text=["a man in a red coat"], return_tensors="pt"))
assert abs(output.embeddings.norm().item() - 1) < 1e-4
print("imports and loads")
"""


def main() -> int:
    """Run everything in an empty folder; returns 0, or raises for the first command that fails."""
    print(f"Python {sys.version.split()[0]}, {', '.join(f'{name} {version(name)}' for name in ('mmet', *LIBRARIES))}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for command in sorted(installed_commands()):
            run(command, "--help")
        check_recipes()
        draw_train_evaluate_search()
        search_with_the_starter_model()
        if all(find_spec(name) for name in FOOTAGE):
            read_a_film()
    print("all commands of the installed package work")
    return 0


def installed_commands() -> set[str]:
    """The commands that the distribution declares."""
    points = entry_points(group="console_scripts")
    return {point.name for point in points if point.dist is not None and point.dist.name == "mmet"}


def check_recipes() -> None:
    """Every shipped recipe is listed, with the folder where launchers find the configurations of accelerate."""
    *recipes, place = run("mmet-pretrain", "--list_recipes").splitlines()
    assert [line.split()[0] for line in recipes].count("demo") == 1, recipes
    assert (Path(place.removeprefix("in ")) / "accelerate" / "gpu_bf16.yaml").is_file(), place


def draw_train_evaluate_search() -> None:
    """A few steps of the demo's recipe on drawn people, and everything that follows."""
    run("mmet-data", "draw", "--layout", "finegpr", "--output", "source", "--num_ids", "8", *DRAWN)
    counts = ["--num_train_ids", "4", "--num_test_ids", "4"]
    run("mmet-data", "draw", "--layout", "market1501", "--output", "target", *counts, *DRAWN)
    run("mmet-doctor", "--allow_partial", "finegpr=source")
    few = ["--max_steps", "3", "--save_strategy", "no", "--codebook_images", "16", "--report_to", "none"]
    few += ["--per_device_train_batch_size", "8", "--persons_per_batch", "4", "--warmup_steps", "0"]
    run("mmet-pretrain", "demo", "--data", "finegpr=source", "--output_dir", "run", *few)
    run("python", "-c", USE)
    run("mmet-eval", "--model_name_or_path", "run", "--data", "market1501=target", "--bootstrap", "10")
    assert Path("outputs/eval/results.json").is_file()
    searched = ["--run", "run", "--results", "outputs/eval/results.json", "--data", "market1501=target"]
    run("mmet-report", *searched, "--output", "report")
    run("mmet-gallery", "build", "target/bounding_box_test", "--model", "run", "--output", "people")
    assert "1" in run("mmet-gallery", "search", "people", "--text", "a woman in a red jacket", "--html", "answer.html")
    assert Path("answer.html").is_file()
    run("mmet-data", "to_parquet", "market1501=target", "--output", "parquet", "--verify")


def search_with_the_starter_model() -> None:
    """A folder of crops without labels, searched by words, by a picture and by both; no model is named."""
    crops = Path("target/bounding_box_test")
    run("mmet-gallery", "build", str(crops), "--output", "strangers")
    picture = next(iter(sorted(crops.glob("*.jpg"))))
    by_words, by_picture = ["--text", "a man in a red coat"], ["--image", str(picture)]
    for query in (by_words, by_picture, [*by_picture, *by_words]):
        answers = run("mmet-gallery", "search", "strangers", *query, "-k", "3", "--csv").splitlines()
        assert len(answers) == 4, answers
    run("mmet-explain", "--model", "starter", "--images", str(picture), "--text", "a red coat", "--output", "why")


def read_a_film() -> None:
    """A drawn film to people who are found by a sentence."""
    size = ["--num_people", "4", "--num_cameras", "1", "--seconds", "6", "--fps", "10"]
    run("python", "-m", "mmet.data.synthetic.video", "--output", "films", *size)
    run("mmet-footage", "films/camera1.mp4", "--every", "4", "--output", "crops", "--gallery", "walkers")
    assert (
        run("mmet-gallery", "search", "walkers", "--text", "a man in a red coat", "--by_track", "--csv").count("\n")
        > 1
    )


def run(command: str, *arguments: str) -> str:
    """Run a command of this environment; returns what it prints, raises with all of it where it fails."""
    done = subprocess.run(
        [str(SCRIPTS / command), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"},
    )
    print(f"$ {command} {' '.join(word if len(word) < 60 else '...' for word in arguments)}", flush=True)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
