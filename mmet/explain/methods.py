"""The methods: each turns one forward pass over a picture, and the gradient of its score, into a map.

`METHODS[name](trace)` returns a map of values of at least 0: `(rows, columns)` of the patches; `(height, width)` for
`guided_grad_cam`; `CELLS` for `pixel_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELLS = (14, 7)
"""Rows and columns of the map of `pixel_gradient`, which takes means over cells."""


@dataclass(frozen=True)
class Trace:
    """One forward pass over one picture, with its graph.

    Attributes:
        score: similarity to the query, a scalar.
        pixels: `(1, 3, height, width)`, the model's input.
        states: `(1, 1 + N, D)`, input of the attention of the explained image layer; [CLS_I] comes first. If the
            encoder has registers, they come last, here and below.
        image_attentions: weights `(1, heads, 1 + N, 1 + N)` of the image encoder, up to the explained layer.
        multimodal_attentions: weights `(1, heads, 2 + N, 2 + N)`: [CLS_M], [CLS_I] and the patches; may be empty.
        grid: rows and columns of patches.
    """

    score: Tensor
    pixels: Tensor
    states: Tensor
    image_attentions: Sequence[Tensor]
    multimodal_attentions: Sequence[Tensor]
    grid: tuple[int, int]

    def patches(self, first: int = 1) -> slice:
        """The slice of the patches among the tokens of an encoder, after `first` class tokens."""
        return slice(first, first + self.grid[0] * self.grid[1])


def weigh_channels(states: Tensor, gradients: Tensor) -> Tensor:
    """Sum channels `(N, D)`, each weighted by its mean gradient, as in Grad-CAM: `(N,)`, negative values set to 0."""
    return (states * gradients.mean(dim=0)).sum(dim=1).relu()


def grad_cam(trace: Trace) -> Tensor:
    """Grad-CAM (Selvaraju et al., 2017) over the patch states of one layer of the image encoder."""
    (gradients,) = torch.autograd.grad(trace.score, trace.states, retain_graph=True)
    patches = trace.patches()
    return weigh_channels(trace.states[0, patches], gradients[0, patches]).view(trace.grid)


def guided_grad_cam(trace: Trace) -> Tensor:
    """The guided gradient of the pixels `(height, width)`, one factor of Guided Grad-CAM (same paper).

    The trace must be recorded within `guided_backward`. The other factor, Grad-CAM, needs the plain gradient:
    `Explainer` computes it in a second pass and multiplies.
    """
    (gradients,) = torch.autograd.grad(trace.score, trace.pixels, retain_graph=True)
    return gradients[0].abs().amax(dim=0)


def pixel_gradient(trace: Trace) -> Tensor:
    """Gradient times input: what the score loses, to first order, if a cell takes the picture's mean colour.

    It follows every path from the pixels to the score; methods that read attention miss what reaches class tokens in
    other ways.
    """
    (gradients,) = torch.autograd.grad(trace.score, trace.pixels, retain_graph=True)
    return F.adaptive_avg_pool2d(loss_of_pixels(trace.pixels, gradients)[None], CELLS)[0].relu()


def loss_of_pixels(pixels: Tensor, gradients: Tensor) -> Tensor:
    """What a score loses, to first order, if one of the pixels `(1, C, H, W)` becomes the mean colour: `(H, W)`."""
    differences = pixels - pixels.mean(dim=(2, 3), keepdim=True)
    return (gradients * differences)[0].sum(dim=0)


def attention_rollout(trace: Trace) -> Tensor:
    """Attention rollout (Abnar and Zuidema, 2020): products of attention with residuals. It ignores the query."""
    flow = roll_out(trace.image_attentions)
    if trace.multimodal_attentions:
        read = flow[: trace.patches().stop]
        flow = roll_out(trace.multimodal_attentions)[:1, 1:] @ read  # from [CLS_M] to image states to patches
    return flow[0, trace.patches()].view(trace.grid)


def roll_out(attentions: Sequence[Tensor]) -> Tensor:
    """Multiply the layers, last first: `(L, L)`. A layer counts as the mean of its attention `(1, heads, L, L)` over
    heads, averaged with the identity."""
    length = attentions[0].shape[-1]
    identity = torch.eye(length, device=attentions[0].device)
    flow = identity
    for attention in attentions:
        flow = (0.5 * attention[0].float().mean(dim=0) + 0.5 * identity) @ flow
    return flow


def attention_gradient(trace: Trace) -> Tensor:
    """Positive gradient of the score with respect to attention, averaged over heads, attending tokens and layers.

    After LeGrad (Bousselham et al., 2024), but with the gradient of the final score instead of one score per layer: in
    MMET, a picture's embedding may come from another encoder than the one whose layers are explained.
    """
    attentions = [*trace.image_attentions, *trace.multimodal_attentions]
    gradients = torch.autograd.grad(trace.score, attentions, retain_graph=True, allow_unused=True)
    patches = [trace.patches(1)] * len(trace.image_attentions) + [trace.patches(2)] * len(trace.multimodal_attentions)
    layers = [
        grad[0].relu().mean(dim=(0, 1))[places]
        for grad, places in zip(gradients, patches, strict=True)
        if grad is not None
    ]
    return torch.stack(layers).mean(dim=0).view(trace.grid)


def relevance(trace: Trace) -> Tensor:
    """Relevance of Chefer et al. (2021): positive parts of gradient times attention, multiplied over the layers.

    The relevance is that of the class token of the last encoder, as in `attention_rollout`.
    """
    attentions = [*trace.image_attentions, *trace.multimodal_attentions]
    gradients = torch.autograd.grad(trace.score, attentions, retain_graph=True, allow_unused=True)
    weights = [
        torch.zeros_like(attention) if grad is None else (grad * attention).relu()
        for grad, attention in zip(gradients, attentions, strict=True)
    ]
    image = accumulate(weights[: len(trace.image_attentions)])
    if trace.multimodal_attentions:
        read = image[: trace.patches().stop]
        image = accumulate(weights[len(trace.image_attentions) :])[:1, 1:] @ read
    return image[0, trace.patches()].view(trace.grid)


def accumulate(weights: Sequence[Tensor]) -> Tensor:
    """Start with the identity `(L, L)`; add each layer's mean weights `(1, heads, L, L)` times the sum so far."""
    flow = torch.eye(weights[0].shape[-1], device=weights[0].device)
    for layer in weights:
        flow = flow + layer[0].float().mean(dim=0) @ flow
    return flow


@contextmanager
def guided_backward(model: nn.Module) -> Iterator[None]:
    """Pass only positive gradients through the activation functions of the model's MLPs (Springenberg et al., 2015).

    For ReLU this is guided backpropagation as published; for GELU, the same rule applied to its own derivative.
    """

    def keep_positive(_: nn.Module, gradients: Any, received: Any) -> tuple[Tensor | None, ...]:
        if received[0] is None:
            return tuple(gradients)
        return tuple(torch.where(received[0] > 0, grad.relu(), 0.0) for grad in gradients)

    activations = [module for module in model.modules() if is_activation(module)]
    hooks = [module.register_full_backward_hook(keep_positive) for module in activations]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function of the ReLU family."""
    name = type(module).__name__.lower().removesuffix("activation")
    return isinstance(module, nn.ReLU) or name in ("gelu", "gelutanh", "quickgelu", "silu")


def to_unit_range(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map `(rows, columns)` to `size` and scale it to [0, 1]; zeros if all values are equal."""
    values = values.detach().float()
    values = F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


METHODS: dict[str, Callable[[Trace], Tensor]] = {
    "attention_gradient": attention_gradient,
    "grad_cam": grad_cam,
    "guided_grad_cam": guided_grad_cam,
    "pixel_gradient": pixel_gradient,
    "relevance": relevance,
    "rollout": attention_rollout,
}

DEFAULT_METHOD = "pixel_gradient"
"""The best one of those measured in `docs/explanation.md`."""
