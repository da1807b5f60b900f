"""Write checkpoints atomically: under a temporary name, checked, and renamed when complete.

A run that is killed at any moment leaves `checkpoint-<step>` folders that can be resumed from, and at most one folder
`.unfinished` that the next run clears away.

    check_writable(output_dir)                                   # before anything is loaded
    check_space(output_dir, checkpoint_bytes(model, "adamw_torch"), num_kept=2)
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import torch
from transformers.trainer_utils import get_last_checkpoint

from mmet import whole_files

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
"""Folder inside the output folder where a checkpoint or model is written before it gets its name."""

_STATES_PER_PARAMETER = {"sgd": 1, "adafactor": 0, "lion": 1}
"""Tensors of a parameter's size that an optimizer keeps, by the start of its name; two for the Adam family."""

_WEIGHT_FILE = re.compile(r"(model|pytorch_model|adapter_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


class CheckpointError(OSError):
    """A checkpoint or model cannot be written; the message names the folder, the reason and what remains."""


def check_writable(folder: Path) -> None:
    """Create `folder` and write a file in it. Raises `CheckpointError` if that fails."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # which the run's JSON files name
        raise CheckpointError(f"output_dir {str(folder)!r} is not UTF-8; choose another --output_dir") from None
    try:
        whole_files.check_writable(folder)
    except OSError as error:
        raise CheckpointError(
            f"output_dir {folder} cannot be written to ({error.strerror or error}); choose another --output_dir"
        ) from error


def checkpoint_bytes(model: torch.nn.Module, optimizer: str) -> int:
    """Estimate the size of a checkpoint: weights, and the optimizer's states of trained weights."""
    names = [name for name in _STATES_PER_PARAMETER if str(optimizer).startswith(name)]
    states = _STATES_PER_PARAMETER[names[0]] if names else 2
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    whole = sum(value.numel() * value.element_size() for value in (*model.parameters(), *model.buffers()))
    return whole + states * trained


def check_space(folder: Path, size: int, *, num_kept: int) -> None:
    """
    Compare the free space with what the run will write.

    Args:
        folder: the output folder; it exists.
        size: bytes of one checkpoint.
        num_kept: number of checkpoints at the end.

    Raises:
        CheckpointError: there is no room for one checkpoint beside the one that it replaces. If there is no room for
            all that are kept, there is a warning.
    """
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise CheckpointError(
            f"output_dir {folder} has {_gigabytes(free)} free, and a checkpoint of {_gigabytes(size)} is written "
            "beside the one before it: make room, or choose another --output_dir"
        )
    if free < (num_kept + 1) * size:
        logger.warning(
            "%s has %s free; %d checkpoints of %s would need more: set a lower --save_total_limit or make room",
            folder,
            _gigabytes(free),
            num_kept,
            _gigabytes(size),
        )


def last_checkpoint(output: Path) -> Path | None:
    """The checkpoint of the highest step in an output folder, None without any."""
    last = get_last_checkpoint(str(output)) if output.is_dir() else None  # type: ignore[no-untyped-call]
    return Path(last) if last is not None else None


def clear_unfinished(output: Path) -> Path:
    """Return the empty folder to write in, after removing what a killed run left there."""
    folder = output / UNFINISHED
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def replace_folder(source: Path, target: Path) -> None:
    """
    Rename a complete folder; an older one of that name (from before a resume) is first renamed as a whole.

    Raises:
        OSError: a file differs from what was written, as on a full disk.
    """
    whole_files.check_folder(source)
    if target.exists():
        target.replace(source.with_name(f"{source.name}.old"))
    source.replace(target)
    whole_files.sync(target.parent)


def publish_files(source: Path, target: Path) -> None:
    """
    Move the files of a complete folder and its sub-folders into another one, each atomically, the weights last.

    Raises:
        OSError: a file differs from what was written, as on a full disk; then none is moved.
    """
    whole_files.check_folder(source)
    files = [path for path in source.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda file: (is_weight_file(file.name), file.name)):
        place = target / file.relative_to(source)
        place.parent.mkdir(exist_ok=True, parents=True)
        file.replace(place)
    shutil.rmtree(source)
    whole_files.sync(target)


def is_weight_file(name: str) -> bool:
    """Whether a file of this name holds weights or their index."""
    return _WEIGHT_FILE.fullmatch(name) is not None


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
