"""Load MMET checkpoints for the evaluation: checked first, and never with missing weights.

    check_checkpoint("outputs/run")                    # milliseconds; says what is wrong before anything is computed
    model, processor = load_embedder("outputs/run")    # or the package's own: "starter"
    system = load_system("outputs/run", rescore=True, batch_size=64)

transformers accepts the configuration of another kind of model with a warning, and fills missing weights with random
ones. The figures of such a model would look like results, so both are errors here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from transformers import PretrainedConfig

from configuration_mmet import MMETConfig
from mmet.checkpoint_files import check_model
from mmet.evaluation.systems.cross_encoder import MatchingScorer
from mmet.evaluation.systems.exported import ExportedModel, load_exported
from mmet.evaluation.systems.model import ModelSystem
from mmet.exported_files import check_exported, find_exported
from mmet.starter import resolve_model
from modeling_mmet import MMETForPreTraining, MMETForReID
from processing_mmet import MMETProcessor

logger = logging.getLogger(__name__)

NAME_SEPARATOR = "="


def check_checkpoint(name_or_path: str) -> None:
    """Raise `ValueError` if a folder or Hub name has no MMET model or no processor, or damaged files.

    Only the headers of weight files are read, but exported files completely.
    """
    name_or_path = resolve_model(name_or_path)
    try:
        if (exported := find_exported(name_or_path)) is not None:
            check_exported(exported)
            return
        check_model(name_or_path, MMETForReID)
        config, _ = PretrainedConfig.get_config_dict(name_or_path)
        if config.get("model_type") != MMETConfig.model_type:
            raise ValueError(
                f"expected the model type {MMETConfig.model_type!r} in its config.json, received "
                f"{config.get('model_type')!r}; other models are rows of the table by --backbones"
            )
        MMETProcessor.from_pretrained(name_or_path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _cannot_load(name_or_path, error) from error


def load_any_embedder(name_or_path: str, backend: str = "auto") -> tuple[MMETForReID | ExportedModel, MMETProcessor]:
    """Load a model in PyTorch, or exported files, with the processor.

    Args:
        name_or_path: folder or Hub name.
        backend: what runs the model; see `mmet.exported_files.find_exported`.

    Raises:
        ValueError: as `load_embedder` and `load_exported`.
    """
    exported = find_exported(name_or_path, backend)
    return load_embedder(name_or_path) if exported is None else load_exported(exported)


def load_embedder(name_or_path: str) -> tuple[MMETForReID, MMETProcessor]:
    """Load a model in PyTorch and its processor.

    A checkpoint without identity head is loaded with a warning: its embeddings pass a new BNNeck, which changes almost
    nothing.

    Raises:
        ValueError: no such checkpoint, exported or damaged files, or missing weights of the encoders.
    """
    name_or_path = resolve_model(name_or_path)
    find_exported(name_or_path, "torch")
    check_checkpoint(name_or_path)
    try:
        model, loading = cast(Any, MMETForReID).from_pretrained(
            name_or_path, output_loading_info=True, use_safetensors=True
        )
        processor = MMETProcessor.from_pretrained(name_or_path)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _cannot_load(name_or_path, error) from error
    missing = set(loading["missing_keys"])
    head = {name for name in missing if name.startswith("identity_head.")}
    _require_nothing(name_or_path, missing - head)
    if head:
        logger.warning("%s has no identity head: a fresh one is used, as before identity training", name_or_path)
    return model, processor


def load_system(name_or_path: str, *, rescore: bool = False, **options: Any) -> ModelSystem:
    """Load a checkpoint as a system.

    Args:
        name_or_path: folder or Hub name.
        rescore: whether to load its ITM head for searches that re-score.
        options: to `ModelSystem`.

    Raises:
        ValueError: there is no such checkpoint, or required weights are missing.
    """
    model, processor = load_any_embedder(name_or_path)
    scorer = None
    if rescore:
        if isinstance(model, ExportedModel):
            raise ValueError(
                f"{name_or_path} holds exported files, without the ITM head that --itm_top_k re-scores with"
            )
        shared = {key: options[key] for key in ("batch_size", "accelerator") if key in options}
        scorer = load_matching_scorer(name_or_path, model, processor, **shared)
    return ModelSystem(model, processor, matching_scorer=scorer, **options)


def load_matching_scorer(
    name_or_path: str, embedder: MMETForReID, processor: MMETProcessor, **options: Any
) -> MatchingScorer:
    """Load the cross-encoder of a checkpoint. It shares the encoders of `embedder` in memory.

    Args:
        name_or_path: the checkpoint that `embedder` was loaded from.
        embedder, processor: results of `load_embedder`.
        options: to `MatchingScorer`.

    Raises:
        ValueError: the checkpoint has no ITM head.
    """
    name_or_path = resolve_model(name_or_path)
    try:
        model, loading = MMETForPreTraining.from_pretrained(
            name_or_path, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _cannot_load(name_or_path, error) from error
    if any(name.startswith("itm_head.") for name in loading["missing_keys"]):
        raise ValueError(
            f"{name_or_path!r} holds no ITM head, which --itm_top_k re-scores with: expected a checkpoint saved from "
            "MMETForPreTraining, as run_pretrain.py writes it, received one of embeddings alone"
        )
    if not model.config.itm_weight:
        logger.warning("%s was last trained with itm_weight 0: its ITM head may know nothing", name_or_path)
    model.mmet = embedder.mmet
    return MatchingScorer(model, processor, **options)


def name_systems(arguments: Sequence[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Choose row names for folders and Hub names: from `name=folder`, else the shortest distinct ends of paths.

    >>> name_systems(["outputs/a/model", "outputs/b/model", "random=outputs/c"])
    {'a/model': 'outputs/a/model', 'b/model': 'outputs/b/model', 'random': 'outputs/c'}

    Args:
        arguments: the arguments of the user.
        taken: names of other rows.

    Raises:
        ValueError: a name or folder is empty or given twice, or a name is taken.
    """
    pairs = [split_name(argument) for argument in arguments]
    unnamed = [source for name, source in pairs if name is None]
    parts = [Path(source).parts for source in unnamed]
    if len(set(parts)) < len(parts):
        twice = next(source for number, source in enumerate(unnamed) if parts.index(parts[number]) != number)
        raise ValueError(
            f"expected each model once, or with names of its own as name=folder, received {twice!r} twice"
        )
    names: dict[str, str] = {}
    taken = set(taken)
    for name, source in pairs:
        name = name or _shortest_name(Path(source).parts, parts, taken)
        if name in taken:
            raise ValueError(
                f"the row name {name!r} is taken; give {source!r} another as other_name{NAME_SEPARATOR}{source}"
            )
        taken.add(name)
        names[name] = source
    return names


def split_name(argument: str) -> tuple[str | None, str]:
    """Split `name=folder` or `folder` into name (or None) and source. Raises `ValueError` if one is empty."""
    name, separator, source = argument.partition(NAME_SEPARATOR)
    if not separator:
        name, source = "", argument
    if not source.strip() or (separator and not name.strip()):
        raise ValueError(f"expected a folder, a Hub name, or name=folder, received {argument!r}")
    return name.strip() or None, source.strip()


def _shortest_name(path: tuple[str, ...], paths: Sequence[tuple[str, ...]], taken: set[str]) -> str:
    for length in range(1, len(path)):
        name = "/".join(path[-length:])
        if name not in taken and sum(other[-length:] == path[-length:] for other in paths) == 1:
            return name
    return "/".join(path)


def _require_nothing(name_or_path: str, missing: set[str]) -> None:
    if missing:
        examples = ", ".join(sorted(missing)[:3])
        raise ValueError(
            f"cannot evaluate {name_or_path!r}: {len(missing)} of its weights are missing and would be random "
            f"({examples}{', …' if len(missing) > 3 else ''})"
        )


def _cannot_load(name_or_path: str, error: Exception) -> ValueError:
    return ValueError(f"cannot load a model and its processor from {name_or_path!r}: {error}")
