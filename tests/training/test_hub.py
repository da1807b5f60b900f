"""`--push_to_hub` is checked before work starts."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError
from transformers import TrainingArguments

from mmet.training.hub import check_hub


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
