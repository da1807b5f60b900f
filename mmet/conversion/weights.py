"""Map the names of another architecture's weights to MMET's; every weight must have exactly one place.

    >>> list(NameMap({"layernorm": "encoder.final_norm"}).rename({"layernorm.weight": torch.ones(2)}))
    ['encoder.final_norm.weight']

A source is the name of a module or of a weight and covers what is below it; `{n}` stands for the number of a layer.
Two sources of a map may not cover the same weight, so their order does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn
from transformers import PreTrainedModel

from modeling_mmet import MMETImageModel, MMETPreTrainedModel

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class NameMap:
    """The place in MMET of each weight of another architecture.

    Attributes:
        renamed: targets by source.
        dropped: sources that have no place in MMET.
    """

    renamed: Mapping[str, str]
    dropped: tuple[str, ...] = field(default=())

    def __or__(self, other: NameMap) -> NameMap:
        """Join two maps."""
        return NameMap({**self.renamed, **other.renamed}, self.dropped + other.dropped)

    def under(self, source: str, target: str) -> NameMap:
        """Move the map below modules: its sources below `source`, its targets below `target`."""
        renamed = {f"{source}.{name}": f"{target}.{new}" for name, new in self.renamed.items()}
        return NameMap(renamed, tuple(f"{source}.{name}" for name in self.dropped))

    def rename(self, weights: Mapping[str, torch.Tensor]) -> Weights:
        """
        Rename weights and leave out those that are dropped.

        Raises:
            ValueError: no source, or more than one, covers a weight.
        """
        targets = {name: self._targets(name) for name in weights}
        unclear = sorted(name for name, places in targets.items() if len(places) != 1)
        if unclear:
            raise ValueError(f"expected one place for each weight, received {unclear} with none or several")
        return {targets[name][0]: weight for name, weight in weights.items() if targets[name][0]}

    def _targets(self, name: str) -> list[str]:
        """Targets of all sources that cover a name; "" if it is dropped."""
        targets = []
        for pattern, target in self._patterns:
            if match := pattern.fullmatch(name):
                targets.append(target.format(n=match["n"] if "n" in pattern.groupindex else "") + match["below"])
        return targets + [""] * any(pattern.fullmatch(name) for pattern in self._dropped_patterns)

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(source), target) for source, target in self.renamed.items()]

    @cached_property
    def _dropped_patterns(self) -> list[re.Pattern[str]]:
        return [_pattern(source) for source in self.dropped]


def _pattern(source: str) -> re.Pattern[str]:
    return re.compile(re.escape(source).replace(r"\{n\}", r"(?P<n>\d+)") + r"(?P<below>(?:\..+)?)")


def join_projections(weights: Weights) -> Weights:
    """Join `attention.query`, `.key` and `.value` into `attention.qkv_proj`; absent biases become zeros."""
    parts = ("query", "key", "value")
    apart = re.compile(r"(.*\.attention\.)(?:query|key|value)\.(?:weight|bias)")
    joined = {name: weight for name, weight in weights.items() if not apart.fullmatch(name)}
    for attention in dict.fromkeys(match[1] for name in weights if (match := apart.fullmatch(name))):
        matrices = [weights[f"{attention}{part}.weight"] for part in parts]
        biases = [weights.get(f"{attention}{part}.bias", matrices[0].new_zeros(len(matrices[0]))) for part in parts]
        joined[f"{attention}qkv_proj.weight"], joined[f"{attention}qkv_proj.bias"] = map(torch.cat, (matrices, biases))
    return joined


def own_weights(model: PreTrainedModel) -> Weights:
    """A model's weights; names of its base model are without the prefix."""
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
    return {name.removeprefix(prefix): weight for name, weight in model.state_dict().items()}


def fit_image(
    model: MMETImageModel, image_size: int | tuple[int, int] | None, patch_stride: int | None
) -> MMETImageModel:
    """Resize the model if a size or a stride is given, and return it."""
    if image_size is not None or patch_stride is not None:
        model.resize_image(image_size if image_size is not None else model.config.image_size, patch_stride)
    return model


def load_converted(
    model: MMETPreTrainedModel, source: PreTrainedModel | None, weights: Weights, may_keep: tuple[str, ...] = ()
) -> None:
    """
    Copy converted weights into `model`, move it to the device and dtype of `source`, and leave training mode.

    Args:
        model: the model that receives the weights.
        source: the model that the weights come from; None for a state dict.
        weights: weights by their names in `model`.
        may_keep: modules and weights that keep their initialisation if `weights` has none for them.

    Raises:
        ValueError: a weight has no place or another shape in `model`, or a place gets no weight.
    """
    model.train(False)
    if source is not None:
        nn.Module.to(model, device=source.device, dtype=source.dtype)
    places = model.state_dict()
    optional = NameMap({}, may_keep)
    unknown = sorted(weights.keys() - places.keys())
    missing = sorted(name for name in places.keys() - weights.keys() if not optional._targets(name))
    shapes = [
        f"{name} {tuple(weight.shape)} instead of {tuple(places[name].shape)}"
        for name, weight in weights.items()
        if name in places and weight.shape != places[name].shape
    ]
    if unknown or missing or shapes:
        raise ValueError(
            f"{'the state dict' if source is None else type(source).__name__} cannot become {type(model).__name__}: "
            f"weights without a place {unknown}, places without a weight {missing}, other shapes {shapes}"
        )
    model.load_state_dict(weights, strict=False)
