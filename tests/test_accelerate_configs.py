"""The shipped accelerate configurations are what accelerate reads, and name classes that exist."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

import modeling_mmet

CONFIGS = sorted((Path(__file__).parents[1] / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_config__is_read_and_says_what_its_name_says(path):
    config = load_config_from_file(str(path))  # raises for a field that accelerate does not know
    assert config.use_cpu == path.stem.startswith("cpu")
    expected = {"cpu_2_processes": 2, "gpu_8_ddp": 8, "gpu_8_fsdp": 8}.get(path.stem, 1)
    assert config.num_processes == expected
    if path.stem.startswith("gpu"):
        assert config.mixed_precision == "bf16"


def test_accelerate_config__fsdp_wraps_the_models_layers():
    (path,) = (path for path in CONFIGS if "fsdp" in path.stem)
    config = load_config_from_file(str(path)).fsdp_config
    assert hasattr(modeling_mmet, config["fsdp_transformer_layer_cls_to_wrap"])
    assert config["fsdp_version"] == 2
