"""transformers' own common tests, from the source distribution of the installed version.

They are no part of the installed package and are not copied into this repository. `make test-common` downloads them
once into the environment and runs them:

    python -m tests.transformers_common.source      # download
    pytest -m common tests/transformers_common
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import torch
import transformers

FOLDER = Path(sys.prefix) / "share" / f"transformers-{transformers.__version__}-tests"
"""Where the environment keeps the test modules."""

PACKAGE = "transformers_tests"
"""Name of the package that the test modules are imported as."""

CONFIG_KEYWORDS = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["MMETModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
"""Values other than the defaults of what every configuration has, for transformers' `ConfigTester`."""


def is_downloaded() -> bool:
    """Whether the test modules are there."""
    return (FOLDER / "test_modeling_common.py").is_file()


def download() -> None:
    """Download the source distribution with pip and keep its test modules."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "transformers", "--dest", folder]
        requirement = f"transformers=={transformers.__version__}"
        subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
        (archive,) = Path(folder).glob("transformers-*.tar.gz")
        unpacked = Path(folder) / "unpacked"
        with tarfile.open(archive) as tar:
            members = [member for member in tar if Path(member.name).match("transformers-*/tests/*.py")]
            tar.extractall(unpacked, members, filter="data")
        (tests,) = unpacked.glob("*/tests")
        (tests / "__init__.py").touch()
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.move(tests, FOLDER)


def load(name: str) -> ModuleType:
    """
    The test module of this name, say `test_modeling_common`.

    The distribution lacks some modules that it imports: the mixin for text generation, which no MMET class can do, and
    that of the experimental exporters get empty classes in their place; the configuration's get `CONFIG_KEYWORDS`.
    Pictures of the Hub stay addresses: the tests that would open one do not concern MMET's classes.
    """
    if PACKAGE not in sys.modules:
        package = ModuleType(PACKAGE)
        package.__path__ = [str(FOLDER)]
        sys.modules[PACKAGE] = package
        _stand_in("exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
        _stand_in("generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
        keywords = CONFIG_KEYWORDS | {"dtype": torch.float16}
        _stand_in("utils.test_configuration_utils", config_common_kwargs=keywords)
        hub = ModuleType("fetch_hub_objects_for_ci")
        vars(hub)["url_to_local_path"] = lambda url: url
        sys.modules[hub.__name__] = hub
    return importlib.import_module(f"{PACKAGE}.{name}")


def _stand_in(name: str, **contents: object) -> None:
    """Put a module with these contents, and the package it is in, where an import looks for them."""
    parent = ModuleType(f"{PACKAGE}.{name.split('.')[0]}")
    parent.__path__ = []
    sys.modules.setdefault(parent.__name__, parent)
    module = ModuleType(f"{PACKAGE}.{name}")
    vars(module).update(contents)
    sys.modules[module.__name__] = module


if __name__ == "__main__":
    if not is_downloaded():
        download()
    print(FOLDER)
