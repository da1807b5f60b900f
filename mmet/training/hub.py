"""Whether a trained model can be pushed to the Hugging Face Hub: asked before the work starts, not after it."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from transformers import TrainingArguments


def check_hub(arguments: TrainingArguments) -> None:
    """
    Raise `ValueError` where `--push_to_hub` could not push: for a name that no repository can have, without a login,
    with a token that the Hub refuses, without a connection, and for a repository that cannot be made or written.
    """
    name = arguments.hub_model_id or Path(os.path.abspath(str(arguments.output_dir))).name  # noqa: PTH100 (no links followed)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"hub_model_id: {name!r} can be no repository's name: {_one_line(error)}") from error
    api = HfApi(token=arguments.hub_token)
    try:
        api.whoami()
        api.create_repo(name, private=arguments.hub_private_repo, exist_ok=True)
    except LocalTokenNotFoundError as error:
        raise ValueError("push_to_hub: nobody is logged in; `hf auth login`, or set HF_TOKEN") from error
    except OfflineModeIsEnabled as error:
        raise ValueError("push_to_hub: HF_HUB_OFFLINE is set; unset it, or push later") from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"push_to_hub: the Hub refuses the token or the repository {name}: {_one_line(error)}"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise ValueError(f"push_to_hub: the Hub cannot be reached: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
