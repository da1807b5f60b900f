"""The Auto classes know MMET after `import mmet`, in whatever order modules are imported, and the import is light."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDERS = (
    ["import mmet", "from transformers import AutoModel"],
    ["from transformers import AutoModel", "import mmet"],
    ["import modeling_mmet", "import mmet"],
    ["import mmet", "import modeling_mmet"],
    ["import mmet", "import configuration_mmet", "import processing_mmet"],
    ["import processing_mmet", "import mmet"],
    ["import mmet", "from mmet import MMETProcessor"],
    ["import mmet", "from transformers import pipeline"],
    ["import mmet", "from transformers import Trainer"],
    ["import mmet", "import transformers.models.auto.processing_auto"],
)

# Each order in a child of one process, which has imported torch already.
SCRIPT = """
import os, sys, traceback
import torch

def check():
    from transformers import CONFIG_MAPPING, AutoImageProcessor, AutoModel, AutoModelForPreTraining, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
    from mmet import MMETConfig, MMETForPreTraining, MMETForReID, MMETImageConfig, MMETImageModel, MMETModel
    from mmet import MMETImageProcessor, MMETProcessor, MMETTextConfig, MMETTextModel
    import modeling_mmet
    assert MMETForReID is modeling_mmet.MMETForReID
    assert CONFIG_MAPPING["mmet"] is MMETConfig
    assert CONFIG_MAPPING[MMETImageConfig.model_type] is MMETImageConfig
    assert AutoModel._model_mapping[MMETConfig] == (MMETForReID, MMETModel)
    assert AutoModel._model_mapping[MMETImageConfig] is MMETImageModel
    assert AutoModel._model_mapping[MMETTextConfig] is MMETTextModel
    assert AutoModelForPreTraining._model_mapping[MMETConfig] is MMETForPreTraining
    assert PROCESSOR_MAPPING[MMETConfig] is MMETProcessor
    assert IMAGE_PROCESSOR_MAPPING[MMETConfig] == {"pil": MMETImageProcessor}

for order in ORDERS:
    child = os.fork()
    if child == 0:
        try:
            exec("\\n".join(order), {})
            check()
        except BaseException:
            print(order, traceback.format_exc(), flush=True)
            os._exit(1)
        os._exit(0)
    os.waitpid(child, 0)
print("all orders tried")
"""


def run(script: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_auto_classes__know_the_models_in_any_order_of_imports():
    assert run(f"ORDERS = {ORDERS!r}\n{SCRIPT}") == "all orders tried\n"


def test_import_mmet__imports_nothing_but_the_standard_library():
    output = run(
        textwrap.dedent(
            """
            import sys
            import mmet
            heavy = {"torch", "transformers", "numpy", "PIL"}
            print(*sorted({name.partition(".")[0] for name in sys.modules} & heavy))
            mmet.MMETConfig, print(dir(mmet) == sorted(dir(mmet)), set(mmet.__all__) <= set(dir(mmet)))
            """
        )
    )
    assert output == "\nTrue True\n"


def test_mmet__an_unknown_name_is_an_attribute_error():
    import mmet

    with pytest.raises(AttributeError, match=r"module 'mmet' has no attribute 'MMETForNothing'"):
        mmet.MMETForNothing  # noqa: B018
