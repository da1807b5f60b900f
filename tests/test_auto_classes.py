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
    ["import mmet", "import layers_mmet"],
    *(["import mmet", f"import {path.stem}"] for path in sorted(ROOT.glob("*_mmet.py"))),
    ["from mmet.evaluation import build_task"],
    ["from transformers import AutoModel", "import mmet"],
    ["import mmet", "from transformers import pipeline"],
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


@pytest.mark.parametrize("orders", [ORDERS[:1], pytest.param(ORDERS[1:], marks=pytest.mark.slow)])
def test_auto_classes__know_the_models_in_any_order_of_imports(orders):
    assert run(f"ORDERS = {orders!r}\n{SCRIPT}") == "all orders tried\n"


STAND_INS = {
    "transformers/__init__.py": """
        import importlib
        PLACES = {"AutoConfig": "configuration_auto", "AutoImageProcessor": "image_processing_auto"}
        PLACES |= {"AutoProcessor": "processing_auto"}
        def __getattr__(name):
            if not name.startswith("Auto"):
                raise AttributeError(name)
            place = PLACES.get(name, "modeling_auto")
            return getattr(importlib.import_module(f"transformers.models.auto.{place}"), name)
    """,
    "transformers/models/__init__.py": "",
    "transformers/models/auto/__init__.py": "",
    "transformers/models/auto/registry.py": """
        class Auto:
            @classmethod
            def register(cls, *registered, exist_ok=False, **others):
                REGISTERED.append(cls.__name__)
        REGISTERED = []
    """,
    "transformers/models/auto/configuration_auto.py": """
        from .registry import Auto
        class AutoConfig(Auto): pass
    """,
    "transformers/models/auto/modeling_auto.py": """
        from .configuration_auto import AutoConfig, Auto
        class AutoModel(Auto): pass
        class AutoModelForPreTraining(Auto): pass
        class AutoModelForZeroShotImageClassification(Auto): pass
    """,
    "transformers/models/auto/image_processing_auto.py": """
        from .configuration_auto import Auto
        class AutoImageProcessor(Auto): pass
    """,
    "transformers/models/auto/processing_auto.py": """
        from .image_processing_auto import AutoImageProcessor, Auto
        class AutoProcessor(Auto): pass
    """,
    "configuration_mmet.py": """
        from transformers import AutoConfig
        class MMETConfig: model_type = "mmet"
        MMETImageConfig = MMETTextConfig = MMETMultimodalConfig = MMETConfig
    """,
    "layers_mmet.py": """
        from transformers import AutoModel
        from configuration_mmet import MMETConfig
        class MMETLayer: pass
    """,
    "modeling_mmet.py": """
        from transformers import AutoModel, AutoProcessor
        from configuration_mmet import MMETConfig
        from layers_mmet import MMETLayer
        class MMETModel: config_class = MMETConfig
        MMETForReID = MMETForPreTraining = MMETForZeroShotImageClassification = MMETModel
        MMETImageModel = MMETTextModel = MMETMultimodalModel = MMETModel
    """,
    "processing_mmet.py": """
        from transformers import AutoProcessor
        class MMETImageProcessor: pass
        class MMETProcessor: pass
    """,
}
"""transformers and the model's files, as far as imports of each other go."""

ALL = ["AutoConfig"] * 4 + ["AutoImageProcessor"] + ["AutoModel"] * 4
ALL += ["AutoModelForPreTraining", "AutoModelForZeroShotImageClassification", "AutoProcessor"]
EVERY_ORDER = """
import importlib, itertools, sys
sys.path[:0] = [FOLDER, ROOT]
auto = ["transformers.models.auto." + name for name in ("processing_auto", "modeling_auto")]
names = ["mmet", *auto, "layers_mmet", "modeling_mmet", "processing_mmet"]
for order in itertools.permutations(names):
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "mmet.auto_classes"]
    for name in list(sys.modules):
        if name.partition(".")[0] in ("mmet", "transformers") or name.endswith("_mmet"):
            del sys.modules[name]
    for name in order:
        importlib.import_module(name)
    registered = sorted(sys.modules["transformers.models.auto.registry"].REGISTERED)
    assert registered == ALL, (order, registered)
print("all orders tried")
"""


def test_auto_classes__are_registered_once_in_every_order_of_imports(tmp_path):
    for name, text in STAND_INS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text), encoding="utf-8")
    assert run(f"FOLDER, ROOT, ALL = {str(tmp_path)!r}, {str(ROOT)!r}, {ALL!r}\n{EVERY_ORDER}") == "all orders tried\n"


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
