"""The shipped accelerate configurations are what accelerate reads, and name classes that exist."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

import modeling_mmet

CONFIGS = sorted((Path(__file__).parents[1] / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_config__is_read_and_says_what_its_name_says(path):
    config = load_config_from_file(str(path))  # raises for a field that accelerate does not know
    assert config.use_cpu == path.stem.startswith("cpu")
    expected = {"gpu_8_ddp": 8, "gpu_8_fsdp": 8}.get(path.stem, 1)
    assert config.num_processes == expected
    if path.stem.startswith("gpu"):
        assert config.mixed_precision == "bf16"


def test_accelerate_config__fsdp_wraps_the_models_layers():
    (path,) = (path for path in CONFIGS if "fsdp" in path.stem)
    config = load_config_from_file(str(path)).fsdp_config
    assert hasattr(modeling_mmet, config["fsdp_transformer_layer_cls_to_wrap"])
    assert config["fsdp_version"] == 2


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        (["accelerate.commands.launch", "--config_file", str(CONFIGS[0].with_name("cpu.yaml"))], 1),
        # `test_distributed` starts two processes in this way too, to train.
        pytest.param(["torch.distributed.run", "--standalone", "--nproc_per_node", "2"], 2, marks=pytest.mark.slow),
    ],
)
def test_documented_launchers__start_as_many_processes_as_they_say(tmp_path, launcher, processes):
    script = tmp_path / "show.py"
    # A file for each process: lines that two processes print at the same time can run into each other.
    script.write_text(
        "import pathlib, sys\n"
        "from accelerate import Accelerator\n"
        "accelerator = Accelerator()\n"
        "name = f'process_{accelerator.process_index}.txt'\n"
        "pathlib.Path(sys.argv[1], name).write_text(str(accelerator.num_processes))\n"
    )
    answers = tmp_path / "answers"
    answers.mkdir()
    subprocess.run(
        [sys.executable, "-m", *launcher, str(script), str(answers)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answers_by_process = {file.name: int(file.read_text()) for file in answers.iterdir()}
    assert answers_by_process == {f"process_{index}.txt": processes for index in range(processes)}
