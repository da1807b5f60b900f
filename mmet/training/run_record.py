"""The recipe, model and data of a run, kept in every checkpoint, so that a resume can report what has changed.

    record = RunRecord.of(arguments, model.config, tokenizer, data)
    record.save(checkpoint)
    RunRecord.load(checkpoint).differences(record)      # ["seed: 1 → 2", "data finegpr: 8 persons → 10 persons"]

All arguments count except those that cannot change the weights. Data are compared by content, not by location: rows by
persons, cameras, captions and names; pictures and masks by the size of every file and the content of 256 of them. A
picture replaced by another of the same size in bytes is noticed only if it is among these.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from configuration_mmet import MMETConfig
from mmet.digests import digest, file_blocks
from mmet.training.model_config import FIELDS_OF_A_STAGE
from mmet.whole_files import read_json, write_whole

RECORD_FILE = "run_record.json"
"""File in a checkpoint."""

WITHOUT_EFFECT = (
    "allow_changed_resume",
    "data_places",
    "resume_from_checkpoint",
    "output_dir",
    "do_train",
    "do_eval",
    "do_predict",
    "disable_tqdm",
    "report_to",
    "run_name",
    "project",
    "debug",
    "log_*",
    "logging_*",
    "skip_memory_metrics",
    "include_*",
    "prediction_loss_only",
    "batch_eval_metrics",
    "use_cache",
    "per_device_eval_batch_size",
    "*_full_eval",
    "eval_*",
    "save_*",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "dataloader_in_order",
    "push_to_hub",
    "hub_*",
    "trackio_*",
    "local_rank",
    "use_cpu",
    "tf32",
    "accelerator_config",
    "parallelism_config",
    "fsdp*",
    "deepspeed",
    "ddp_*",
    "activation_checkpointing*",
    "gradient_checkpointing*",
    "torch_compile*",
    "torch_empty_cache_steps",
    "use_liger_kernel",
    "liger_kernel_config",
    "enable_jit_checkpoint",
    "restore_callback_states_from_checkpoint",
    "load_best_model_at_end",
    "greater_is_better",
    "remove_unused_columns",
    "label_names",
    "length_column_name",
)
"""Arguments (shell patterns) that affect how and where a run computes, writes and reports, but not the weights."""

IN_OTHER_FORM = (
    "data",
    "paired_data",
    "image_data",
    "text_data",
    "model_name_or_path",
    "model_config",
    "tokenizer_name",
    "vocab_size",
    "max_steps",
    "num_train_epochs",
)
"""Arguments recorded through their effect on data, weights, configuration, vocabulary or length."""

_SAMPLED_PICTURES = 256
_NO_FILE, _UNREADABLE = -1, -2  # in place of a size
_FORMAT = 2
_CONFIG_BOOKKEEPING = (
    "codebook_name_or_path",
    "transformers_version",
    "architectures",
    "auto_map",
    "dtype",
    "_name_or_path",
    "model_type",
)


@dataclass(frozen=True)
class DataRecord:
    """
    Summary of a source.

    Attributes:
        uses: `paired`, `image` and `text`.
        images, persons, captions, masks: their numbers.
        digests: of `persons` (person and camera of each row), `images` (the name and size of each, the content of
            some), `captions` and `masks` (as of images).
    """

    uses: tuple[str, ...]
    images: int
    persons: int
    captions: int
    masks: int
    digests: Mapping[str, str]

    @classmethod
    def of(cls, dataset: datasets.Dataset, uses: Iterable[str]) -> DataRecord:
        """Read all rows, and the content of a sample of the pictures that is spread over them."""
        table = dataset.select_columns(["person_id", "camera_id", "captions", "image_path"]).with_format("arrow")[:]
        persons = table["person_id"].to_numpy()
        sizes = {column: _file_sizes(dataset, column) for column in ("image", "person_mask")}
        digests = {
            "persons": digest([persons.tobytes(), table["camera_id"].to_numpy().tobytes()]),
            "images": digest(
                chain(_texts(table["image_path"]), [sizes["image"].tobytes()], _sampled_files(dataset, "image"))
            ),
            "captions": digest(_texts(table["captions"])),
            "masks": digest(chain([sizes["person_mask"].tobytes()], _sampled_files(dataset, "person_mask"))),
        }
        masks = int((sizes["person_mask"] != _NO_FILE).sum())
        captions = int(pc.sum(pc.list_value_length(table["captions"])).as_py() or 0)
        return cls(tuple(uses), len(dataset), len(np.unique(persons[persons >= 0])), captions, masks, digests)

    def differences(self, now: DataRecord) -> list[str]:
        """The changes from this record to another one of the same source, in words."""
        changes = []
        if self.uses != now.uses:
            changes.append(f"used as {' and '.join(self.uses)} → {' and '.join(now.uses)}")
        for name in ("persons", "images", "captions", "masks"):
            before, after = getattr(self, name), getattr(now, name)
            if before != after:
                changes.append(f"{before:,} {name} → {after:,} {name}")
            elif self.digests.get(name) != now.digests.get(name):
                changes.append(f"other {name} ({after:,} as before)")
        return changes


@dataclass(frozen=True)
class RunRecord:
    """
    Recipe, model and data of a run.

    Attributes:
        recipe: values by argument; a resume may change them if the user allows it.
        model: values that weights and optimizer state depend on; a resume cannot change them.
        length: `max_steps` and `num_train_epochs`; a run may be made longer.
        data: by the name of the source.
    """

    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    length: Mapping[str, Any]
    data: Mapping[str, DataRecord]

    @classmethod
    def of(
        cls,
        arguments: Sequence[Any],
        config: MMETConfig,
        vocabulary: Mapping[str, int],
        data: Mapping[str, DataRecord],
        *,
        num_processes: int = 1,
        start: str | None = None,
    ) -> RunRecord:
        """
        Args:
            arguments: dataclasses.
            config: of the model.
            vocabulary: of the tokenizer.
            data: by the name of the source.
            num_processes: number of processes that share a batch.
            start: `model_name_or_path`: the checkpoint that the run starts from, None for fresh weights.
        """
        fields = {
            field.name: _plain(getattr(group, field.name))
            for group in arguments
            for field in dataclasses.fields(group)
        }
        recipe = {name: value for name, value in fields.items() if _has_effect(name)}
        configured = _flatten(config.to_dict())
        choices = {name: value for name, value in configured.items() if _is_choice_of_a_stage(name)}
        recipe |= {f"model_config.{name}": value for name, value in choices.items()}
        recipe |= {"num_processes": num_processes, "start_weights": None if start is None else digest_weights(start)}
        words = json.dumps(sorted(vocabulary.items(), key=lambda item: item[1])).encode()
        model = {f"model_config.{name}": value for name, value in configured.items() if name not in choices}
        model |= {
            "vocabulary": f"{len(vocabulary):,} words ({digest([words])[:8]})",
            "optim": recipe.pop("optim", None),
        }
        length = {name: fields.get(name) for name in ("max_steps", "num_train_epochs")}
        return cls(recipe, model, length, data)

    def save(self, folder: Path) -> None:
        """Write the record into a checkpoint's folder."""
        write_whole(folder / RECORD_FILE, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> RunRecord | None:
        """
        Load the record of a checkpoint; None if it has none, as in earlier versions.

        Raises:
            ValueError: the file is not a record.
        """
        path = folder / RECORD_FILE
        if not os.path.lexists(path):
            return None
        try:
            content = read_json(path)
            if content["format"] != _FORMAT:
                raise ValueError(f"expected the format {_FORMAT}, received {content['format']!r}")
            data = {
                name: DataRecord(**{**source, "uses": tuple(source["uses"])})
                for name, source in content["data"].items()
            }
            return cls(dict(content["recipe"]), dict(content["model"]), dict(content["length"]), data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a record of a run ({error}); resume from another checkpoint") from error

    def differences(self, now: RunRecord) -> list[str]:
        """Changes of recipe and data, which the user may allow, each as `name: then → now`."""
        return [*_changes(self.recipe, now.recipe), *self._data_differences(now)]

    def obstacles(self, now: RunRecord) -> list[str]:
        """Changes that prevent a resume: another model, vocabulary or optimizer."""
        return _changes(self.model, now.model)

    def _data_differences(self, now: RunRecord) -> list[str]:
        lines = [f"data {name}: not used any more" for name in self.data if name not in now.data]
        lines += [f"data {name}: new" for name in now.data if name not in self.data]
        for name in self.data:
            if name in now.data and (changes := self.data[name].differences(now.data[name])):
                lines.append(f"data {name}: {', '.join(changes)}")
        if not lines and list(self.data) != list(now.data):
            lines.append(f"data: the order {', '.join(self.data)} → {', '.join(now.data)}")
        return lines


def check_resume(checkpoint: Path, now: RunRecord, *, allow_changes: bool) -> list[str]:
    """
    Compare a run with the checkpoint that it should continue.

    Args:
        checkpoint: its folder.
        now: record of the run.
        allow_changes: whether recipe and data may change.

    Returns:
        The allowed changes in words, including those of the length.

    Raises:
        ValueError: a change is not allowed, or impossible.
    """
    then = RunRecord.load(checkpoint)
    if then is None:
        return ["it has no record of its data and recipe, so these cannot be compared"]
    if obstacles := then.obstacles(now):
        others = then.differences(now)
        raise ValueError(
            f"{checkpoint} cannot be continued, because its weights and optimizer belong to another model: "
            f"{'; '.join([*obstacles, *others])} (then → now). Resume with the original settings, or start a new run "
            f"in another --output_dir (from these weights with --model_name_or_path {checkpoint})"
        )
    differences = then.differences(now)
    if differences and not allow_changes:
        raise ValueError(
            f"{checkpoint} was trained otherwise: {'; '.join(differences)} (then → now). Resume with the original "
            "recipe and data, start a new run in another --output_dir, or allow the change: "
            "--allow_changed_resume true"
        )
    return [*differences, *_changes(then.length, now.length)]


def digest_weights(name_or_path: str) -> str:
    """A digest of a folder's weight files; for a Hub model, its name."""
    files = sorted(Path(name_or_path).glob("*.safetensors"))
    return digest(block for path in files for block in file_blocks(path)) if files else name_or_path


def _has_effect(name: str) -> bool:
    return not any(fnmatchcase(name, pattern) for pattern in (*WITHOUT_EFFECT, *IN_OTHER_FORM))


def _is_choice_of_a_stage(name: str) -> bool:
    return name in FIELDS_OF_A_STAGE or (name.endswith("_weight") and "." not in name)


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Fields of both that differ. A field of only one of them, from another version of this program, is ignored."""
    return [
        f"{name}: {_show(then[name])} → {_show(now[name])}" for name in then if name in now and then[name] != now[name]
    ]


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(value: Any) -> Any:
    """A value after a round trip through JSON."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _CONFIG_BOOKKEEPING:
            continue
        if isinstance(value, Mapping) and name.endswith("_config"):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = _plain(value)
    return flat


def _texts(column: Any) -> Iterable[bytes]:
    """The values of an Arrow column of strings or lists, some thousands at a time."""
    step = 16_384
    for start in range(0, len(column), step):
        yield json.dumps(column[start : start + step].to_pylist()).encode()


def _file_sizes(dataset: datasets.Dataset, column: str) -> NDArray[np.int64]:
    """
    Size in bytes of the file in each row, int64 `(rows,)`; `_NO_FILE` and `_UNREADABLE` for rows without.

    Files inside the table are not read: the table knows their lengths.
    """
    stored = dataset.data.column(column)
    lengths, paths = pc.binary_length(pc.struct_field(stored, "bytes")), pc.struct_field(stored, "path")
    if dataset._indices is not None:  # a selection; as rows, it would be copied with all pictures
        rows = dataset._indices.column(0)
        lengths, paths = lengths.take(rows), paths.take(rows)
    sizes: NDArray[np.int64] = pc.fill_null(lengths, _NO_FILE).to_numpy().astype(np.int64)
    for row, (size, path) in enumerate(zip(sizes.tolist(), paths.to_pylist(), strict=True)):
        if size == _NO_FILE and path is not None:
            sizes[row] = _size_of(path)
    return sizes


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (millions of paths)
    except OSError:  # training says so, or skips it
        return _UNREADABLE


def _sampled_files(dataset: datasets.Dataset, column: str) -> Iterable[bytes]:
    if not len(dataset):
        return
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(_SAMPLED_PICTURES, len(dataset))).astype(np.int64))
    undecoded = dataset.select_columns(column).cast_column(column, datasets.Image(decode=False))
    for picture in undecoded.select(rows)[:][column]:
        if picture is None:
            continue
        if picture["bytes"] is not None:
            yield picture["bytes"]
            continue
        try:
            yield Path(picture["path"]).read_bytes()
        except OSError:  # training says so, or skips it
            yield b"unreadable"
