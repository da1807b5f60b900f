"""`--push_to_hub` is checked before work starts."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import LocalTokenNotFoundError
from transformers import TrainingArguments

from mmet.data.synthetic import write_world
from mmet.training.arguments import parse_arguments
from mmet.training.hub import check_hub, create_repository
from mmet.training.pretraining import run_pretraining


def test_check_hub__name_login_and_connection(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="hub_model_id: 'a b'"):
        check_hub(TrainingArguments(output_dir=str(tmp_path), hub_model_id="a b"))

    def fails(error):
        def raises(self):
            raise error

        return raises

    for error, message in ((LocalTokenNotFoundError("none"), "nobody is logged in"), (OSError("no route"), "reached")):
        monkeypatch.setattr(HfApi, "whoami", fails(error))
        with pytest.raises(ValueError, match=f"push_to_hub: .*{message}"):
            check_hub(TrainingArguments(output_dir=str(tmp_path), hub_model_id="me/model"))


def test_check_hub__no_connection(tmp_path, monkeypatch):
    """Whatever HTTP library huggingface_hub uses, its error is a message."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="push_to_hub: the Hub cannot be reached"):
        check_hub(TrainingArguments(output_dir=str(tmp_path), hub_token="hf_token"))


def test_check_hub__makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(HfApi, "whoami", lambda self: {"name": "me"})
    made = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **options: made.append((name, options)))
    arguments = TrainingArguments(output_dir=str(tmp_path / "run"), hub_private_repo=True)
    check_hub(arguments)
    assert made == []
    create_repository(arguments)
    assert made == [("run", {"private": True, "exist_ok": True})]


@pytest.mark.parametrize("field", [{"image_data": ["market1501=/nowhere"]}, {"mask_ratio": 0}])
def test_pretraining__a_run_that_is_refused_leaves_nothing_on_the_hub(tmp_path, monkeypatch, field):
    monkeypatch.setattr(HfApi, "whoami", lambda self: {"name": "me"})
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **options: pytest.fail(f"made {name}"))
    write_world("finegpr", tmp_path / "world", num_ids=2, images_per_id=2, image_height=60, image_width=30)
    recipe = {
        "paired_data": [f"finegpr={tmp_path / 'world'}"],
        "output_dir": str(tmp_path / "run"),
        "push_to_hub": True,
        "batch_mix": {"paired": 1, "image": 1} if "image_data" in field else {"paired": 1},
        "max_steps": 1,
        "report_to": "none",
        "per_device_train_batch_size": 2,
        "validation_identities": 0,
        **field,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.raises(ValueError, match=r"/nowhere does not exist|mask_ratio"):
        run_pretraining(*parse_arguments([str(tmp_path / "recipe.yaml")]))
