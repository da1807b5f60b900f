"""Check before training that the model can be pushed to the Hugging Face Hub afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of httpx in huggingface_hub 1, of httpx2 since
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils._validators import validate_repo_id
from transformers import TrainingArguments


def check_hub(arguments: TrainingArguments) -> None:
    """
    Check that `--push_to_hub` can push. Changes nothing on the Hub.

    Raises:
        ValueError: the repository name is invalid, there is no login or connection, or the Hub refuses the token.
    """
    name = _repository_name(arguments)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"hub_model_id: {name!r} can be no repository's name: {_one_line(error)}") from error
    with _named_errors(name):
        HfApi(token=arguments.hub_token).whoami()


def create_repository(arguments: TrainingArguments) -> None:
    """
    Create the repository that `--push_to_hub` pushes to, unless it exists.

    Raises:
        ValueError: the Hub refuses to create it or cannot be reached.
    """
    name = _repository_name(arguments)
    with _named_errors(name):
        HfApi(token=arguments.hub_token).create_repo(name, private=arguments.hub_private_repo, exist_ok=True)


def _repository_name(arguments: TrainingArguments) -> str:
    return arguments.hub_model_id or Path(os.path.abspath(str(arguments.output_dir))).name  # noqa: PTH100 (no links followed)


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turn errors of the Hub's client into `ValueError` with what to do."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ValueError("push_to_hub: nobody is logged in; `hf auth login`, or set HF_TOKEN") from error
    except OfflineModeIsEnabled as error:
        raise ValueError("push_to_hub: HF_HUB_OFFLINE is set; unset it, or push later") from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"push_to_hub: the Hub refuses the token or the repository {name}: {_one_line(error)}"
        ) from error
    except (HTTPError, OSError) as error:
        raise ValueError(f"push_to_hub: the Hub cannot be reached: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
