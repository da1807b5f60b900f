"""Check, before work starts, that the files of a model or checkpoint are complete and belong together.

    check_model("outputs/run")                                  # configuration, weights and processor of a model
    check_checkpoint_folder(Path("outputs/run/checkpoint-100")) # and the state that training resumes from

Only the headers of weight files are read: names, types, shapes and the file's size. This takes milliseconds.
Pickle is never loaded. Every failure is a `ValueError` that names the file and what to do.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, BertTokenizer, PreTrainedConfig, PreTrainedModel, TrainerState
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, get_tokenizer_config
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals

from configuration_mmet import MMETConfig, MMETImageConfig, MMETTextConfig
from mmet.field_checks import shown
from mmet.whole_files import read_json
from modeling_mmet import MMETForPreTraining
from processing_mmet import MMETProcessor

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_JSON_FILES = (*_PROCESSOR_FILES, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_SHARDED_WEIGHTS = ("pytorch_model_fsdp*", "global_step*")
"""Folders that FSDP or DeepSpeed write instead of one file."""

_COPY_AGAIN = "copy the folder again from where it is whole"
_LFS_POINTER = b"version https://git-lfs"
_FLOATING = ("F", "BF")  # how safetensors' names of floating types begin


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as described by a header: the file, safetensors' name of the type (`F32`), and the shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def check_model(name_or_path: str, model_class: type[PreTrainedModel] = MMETForPreTraining) -> None:
    """
    Check the folder of a model: configuration, weights, processor. A name of the Hub is left to transformers.

    Args:
        name_or_path: folder or name.
        model_class: whose weights it should hold.

    Raises:
        ValueError: a file is missing, damaged, of another kind, or does not fit the others.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        if folder.exists() or folder.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") > 1:
            raise ValueError(f"{name_or_path}: expected the folder of a model, received {_kind(folder)}")
        return
    config = read_config(folder)
    check_weights(folder, config, model_class)
    check_processor(folder, config)


def check_checkpoint_folder(folder: Path) -> None:
    """
    Check a checkpoint to resume from: model, optimizer, schedule, random state and trainer state.

    Raises:
        ValueError: a file is missing, damaged or of another kind; the message names other checkpoints to resume from.
    """
    try:
        _check_trainer_state(folder / TRAINER_STATE_NAME)
        if any(any(folder.glob(pattern)) for pattern in _SHARDED_WEIGHTS):
            return
        check_weights(folder, read_config(folder), MMETForPreTraining, whole=True)
        random_states = sorted(folder.glob("rng_state*.pth")) or [folder / "rng_state.pth"]
        for file in (folder / OPTIMIZER_NAME, folder / SCHEDULER_NAME, *random_states):
            _check_torch_file(file)
        if (folder / SCALER_NAME).exists():
            _check_torch_file(folder / SCALER_NAME)
    except ValueError as error:
        others = [str(path) for path in sorted(folder.parent.glob("checkpoint-*")) if path.name != folder.name]
        advice = f"resume from another one ({', '.join(others)})" if others else "start anew in another --output_dir"
        raise ValueError(f"cannot resume from {folder}: {error}; {advice}") from error


def read_config(folder: Path) -> MMETConfig:
    """Read the configuration of a folder. Raises `ValueError` if it is not that of an MMET model."""
    path = folder / CONFIG_FILE
    fields = read_json_object(path, "the configuration of a model")
    if fields.get("model_type") != MMETConfig.model_type:
        raise ValueError(
            f"{path}: expected the model type {MMETConfig.model_type!r} in its config.json, received "
            f"{shown(fields.get('model_type'))}"
        )
    for name, kind in MMETConfig.sub_configs.items():
        part = fields.get(name)
        if isinstance(part, dict) and part.get("model_type", kind.model_type) != kind.model_type:
            raise ValueError(
                f"{path}: expected the model type {kind.model_type!r} in {name}, received {shown(part['model_type'])}"
            )
    with _said_of(path, "is not a configuration of MMET"):
        return MMETConfig.from_dict(fields)


def check_weights(
    folder: Path, config: MMETConfig, model_class: type[PreTrainedModel], *, whole: bool = False
) -> None:
    """
    Compare the headers of a folder's weight files with its configuration.

    Unused weights are not an error.

    Args:
        folder: of the weights.
        config: read from it.
        model_class: whose weights it should hold.
        whole: whether those of heads and codebook have to be there as well as those of the encoders.

    Raises:
        ValueError: there are no weights, or they are unreadable or have another shape or type.
    """
    stored = read_headers(folder)
    if whole:  # a checkpoint may hold LoRA's additions, beside the weights they are added to
        stored = {name.replace(".base_layer.", "."): tensor for name, tensor in stored.items()}
    with _said_of(folder / CONFIG_FILE, "describes no model that can be built"), torch.device("meta"):
        model = model_class(config)
    prefix = f"{model_class.base_model_prefix}."
    if not any(name.startswith(prefix) for name in stored):  # saved from the encoders alone
        stored = {f"{prefix}{name}": tensor for name, tensor in stored.items()}
    expected = model.state_dict()
    for name in expected.keys() & stored.keys():
        _check_tensor(name, stored[name], expected[name])
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    needed = [name for name in expected if whole or name.startswith(prefix)]
    missing = sorted(set(needed) - stored.keys() - tied)
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of its weights are missing and would be random ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}): expected all weights{'' if whole else ' of the encoders'}"
        )


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder's weight files. Raises `ValueError` if one is missing or unreadable."""
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        _check_content(file)
        try:
            with safe_open(file, framework="numpy") as content:
                for name in content.keys():  # noqa: SIM118
                    part = content.get_slice(name)
                    tensors[name] = StoredTensor(file, part.get_dtype(), tuple(part.get_shape()))
        except (OSError, MemoryError, SafetensorError) as error:
            raise ValueError(
                f"{file} is cut short or damaged, or not a safetensors file ({error}): {_COPY_AGAIN}"
            ) from error
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    """The file or shards with the weights. Raises `ValueError` if there are none, or some are missing."""
    if (folder / WEIGHTS_FILE).exists():
        return [folder / WEIGHTS_FILE]
    index = folder / INDEX_FILE
    if not index.exists():
        pickles = sorted(
            path.name for ending in ("bin", "pt", "pth", "ckpt", "pkl") for path in folder.glob(f"*.{ending}")
        )
        pickles = [name for name in pickles if name.startswith(("pytorch_model", "model"))]
        advice = (
            f"found {pickles[0]}, a pickle, which can run code and is never loaded: save it as safetensors where you "
            "trust it"
            if pickles
            else "save the model with save_pretrained"
        )
        raise ValueError(f"{folder} holds no {WEIGHTS_FILE}: {advice}")
    content = read_json_object(index, "the index of sharded weights")
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names or not all(_is_file_name(name) for name in names.values()):
        raise ValueError(f"{index}: expected a weight_map of names to files in this folder: {_COPY_AGAIN}")
    shards = [folder / name for name in sorted(set(names.values()))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ValueError(f"{index} names {', '.join(missing)}, which the folder does not hold: {_COPY_AGAIN}")
    if not isinstance(content.get("metadata"), dict):  # transformers writes into it
        raise ValueError(f"{index}: expected metadata that is a JSON object: {_COPY_AGAIN}")
    return shards


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name != "" and Path(name).name == name


def _check_content(file: Path) -> None:
    """Raise `ValueError` for other content that often takes the place of weights, such as a Git LFS pointer."""
    if not file.is_file():
        raise ValueError(f"{file}: expected a file, received {_kind(file)}")
    try:
        with file.open("rb") as content:
            begin = content.read(len(_LFS_POINTER))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror or error})") from error
    if not begin:
        raise ValueError(f"{file} is empty: {_COPY_AGAIN}")
    if begin == _LFS_POINTER:
        raise ValueError(f"{file} is a Git LFS pointer and not the file itself: fetch it with git lfs pull")
    if file.suffix == ".safetensors" and begin.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        raise ValueError(
            f"{file} is a pickle in spite of its name, which can run code and is never loaded: save it as safetensors "
            "where you trust it"
        )


def _check_tensor(name: str, stored: StoredTensor, expected: torch.Tensor) -> None:
    if stored.shape != tuple(expected.shape):
        raise ValueError(
            f"{stored.file}: expected {name} of shape {tuple(expected.shape)}, as {CONFIG_FILE} says, received "
            f"{stored.shape}: weights and {CONFIG_FILE} are of different models"
        )
    if expected.is_floating_point() != stored.dtype.startswith(_FLOATING):
        raise ValueError(
            f"{stored.file}: expected {name} of type {expected.dtype}, received {stored.dtype}: it was written by "
            "something else than save_pretrained"
        )


def check_processor(folder: Path, config: MMETConfig) -> None:
    """Raise `ValueError` if a folder has no processor, or one that does not fit the model."""
    for names, what in ((_TOKENIZER_FILES, "tokenizer"), (_PROCESSOR_FILES, "image processor")):
        if not any((folder / name).is_file() for name in names):
            raise ValueError(
                f"{folder} holds no {what} ({' or '.join(names)}): expected the processor that the model was trained "
                "with; copy it there, or save it with processor.save_pretrained"
            )
    for name in _JSON_FILES:
        if (folder / name).exists():
            read_json_object(folder / name, "part of a processor")
    with _said_of(folder, "holds a processor that cannot be loaded"):
        processor = MMETProcessor.from_pretrained(folder)
        size = len(processor.tokenizer)
        pictures = dict(processor.image_processor.size)
    _check_special_tokens(folder, processor.tokenizer)
    height, width = cast(list[int], cast(MMETImageConfig, config.image_config).image_size)
    if (pictures["height"], pictures["width"]) != (height, width):
        raise ValueError(
            f"{folder}: expected an image processor for pictures of {height} x {width} pixels, as {CONFIG_FILE} says, "
            f"received one for {pictures['height']} x {pictures['width']}: it is another model's"
        )
    known = cast(MMETTextConfig, config.text_config).vocab_size
    if size > known:
        raise ValueError(
            f"{folder}: expected a tokenizer of at most {known:,} words, as many as the model has embeddings, "
            f"received {size:,}: it is another model's"
        )


def _check_special_tokens(place: Path | str, tokenizer: BertTokenizer) -> None:
    missing = [name for name in ("cls", "mask", "pad", "sep", "unk") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise ValueError(
            f"{place}: its tokenizer does not say which words its {', '.join(missing)} tokens are: {_COPY_AGAIN} "
            "(tokenizer_config.json names them)"
        )


def load_tokenizer(name_or_path: str) -> BertTokenizer:
    """
    Load the tokenizer of BERT, or of another encoder with the same special tokens, from a folder or the Hub.

    Raises:
        ValueError: there is none, or it has no words. (transformers returns a tokenizer without words for a Hub name
            that it cannot find without a connection.)
    """
    if (folder := Path(name_or_path)).is_dir():
        _check_tokenizer_files(folder)
    with _said_of(name_or_path, "holds a tokenizer that cannot be loaded"):
        tokenizer = _tokenizer_class(name_or_path).from_pretrained(name_or_path)
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError(
            f"{name_or_path}: its tokenizer has no words: expected a folder with {' or '.join(_TOKENIZER_FILES)}, or "
            "a name of the Hub that can be reached or was downloaded before"
        )
    _check_special_tokens(name_or_path, tokenizer)
    return cast(BertTokenizer, tokenizer)


def _tokenizer_class(name_or_path: str) -> type[Any]:
    """BERT's, unless the folder or name says that it holds another."""
    stored = get_tokenizer_config(name_or_path).get("tokenizer_class")
    if stored is None:
        try:
            config, _ = PreTrainedConfig.get_config_dict(name_or_path)
        except OSError:  # a tokenizer alone
            config = {}
        return (
            AutoTokenizer
            if config.get("model_type", "bert") in (TOKENIZER_MAPPING_NAMES.keys() - {"bert"})
            else BertTokenizer
        )
    return BertTokenizer if str(stored).startswith("BertTokenizer") else AutoTokenizer


def _check_tokenizer_files(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ValueError(f"{folder} holds no tokenizer ({' or '.join(_TOKENIZER_FILES)}); name another folder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).exists():
            read_json_object(folder / name, "part of a tokenizer")


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """
    A JSON object from a file.

    Args:
        path: of the file.
        what: it should be, for the message.

    Raises:
        ValueError: there is no such file, or it is not a JSON object; the message names the file.
    """
    if not path.exists():
        raise ValueError(f"{path.parent} holds no {path.name}, {what}")
    _check_content(path)
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not JSON ({error}): expected {what}; {_COPY_AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {what}, a JSON object, received {type(content).__name__}; {_COPY_AGAIN}")
    return content


def _check_trainer_state(path: Path) -> None:
    content: Mapping[str, Any] = read_json_object(path, "the state of a training run")
    if not isinstance(content.get("log_history"), list):
        raise ValueError(f"{path}: expected a list as log_history, received {content.get('log_history')!r}")
    for name in ("global_step", "max_steps"):
        if not isinstance(content.get(name), int) or content[name] < 0:
            raise ValueError(f"{path}: expected a number of steps as {name}, received {content.get(name)!r}")
    with _said_of(path, "is not the state of a training run"):
        TrainerState.load_from_json(str(path))


def _check_torch_file(path: Path) -> None:
    """Raise `ValueError` for a file that `torch.load` cannot read without running code."""
    if not path.exists():
        raise ValueError(f"{path.name} is missing, without which training would not go on as before")
    _check_content(path)
    try:
        with zipfile.ZipFile(path):
            pass
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is cut short or not a PyTorch file ({error})") from error
    with _said_of(path, "cannot be loaded without running code in it, or is damaged"), safe_globals():  # type: ignore[no-untyped-call]
        torch.load(path, map_location="meta", weights_only=True)


@contextmanager
def _said_of(path: Path | str, what: str) -> Iterator[None]:
    """Turn any error of a library about a file's content into a `ValueError` that names the file."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} {what}: {lines[0]}") from error


def _kind(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return "a file" if path.exists() else "nothing of that name"
