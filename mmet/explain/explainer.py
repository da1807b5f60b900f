"""Explain a model's similarity between a picture and a query, which is an image, a sentence or both.

    Explainer(model, processor).explain(picture, image=query, method="grad_cam", layer=-1)

The query's embedding is fixed; the map shows which parts of the picture raise its similarity to the query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmet.explain.methods import DEFAULT_METHOD, METHODS, Trace, grad_cam, guided_backward, to_unit_range
from mmet.field_checks import check_choice

Map = NDArray[np.float32]


class ExplanationError(ValueError):
    """The query, the layer or the model does not allow an explanation."""


class Explainer:
    """
    Explains the similarities of a model.

    Args:
        model: an `MMETForReID`.
        processor: its `MMETProcessor`.

    Raises:
        ExplanationError: the model embeds text alone.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        if model.config.identity_pooling == "text":
            raise ExplanationError("identity_pooling: expected 'image' or 'multimodal', the model embeds text alone")
        self.model, self.processor = model, processor

    @property
    def num_layers(self) -> int:
        """Number of layers of the image encoder."""
        return len(self._image_layers)

    def explain(
        self,
        picture: PIL.Image.Image,
        *,
        image: PIL.Image.Image | None = None,
        text: str | None = None,
        method: str = DEFAULT_METHOD,
        layer: int = -1,
    ) -> Map:
        """
        Compute which parts of `picture` make it similar to the query.

        Args:
            picture: the picture to explain, in RGB.
            image, text: the query; both together are embedded as one vector.
            method: a name of `METHODS`.
            layer: layer of the image encoder, counted from 0, or from the end if negative. Grad-CAM reads the input of
                its attention; methods that read attention use all layers up to it.

        Returns:
            Float32 `(picture.height, picture.width)` in [0, 1].

        Raises:
            ValueError: there is no query, the method or layer is unknown, or the model cannot embed the query.
        """
        return self._map(picture, self.embed(image, text), method, layer)

    def explain_words(
        self,
        picture: PIL.Image.Image,
        text: str,
        *,
        phrases: Sequence[str] | None = None,
        method: str = DEFAULT_METHOD,
        layer: int = -1,
    ) -> list[tuple[str, Map]]:
        """
        Compute a map, as in `explain`, for each word of a sentence, or for each of the given phrases in it.

        A word's query is the sentence's embedding minus that of the sentence with [MASK] in the word's place; a
        phrase is masked as a whole. Words beyond the model's text length have no map.

        Args:
            picture: the picture to explain, in RGB.
            text: a sentence.
            phrases: parts of `text`, such as "red jacket"; by default its words.
            method, layer: as in `explain`.

        Returns:
            Each word or phrase with its map.

        Raises:
            ValueError: as in `explain`, or a phrase is not in the text.
        """
        whole = self.embed(None, text)
        return [
            (words, self._map(picture, whole - masked, method, layer))
            for words, masked in self._without(text, _spans(text, phrases))
        ]

    def embed(self, image: PIL.Image.Image | None, text: str | None) -> Tensor:
        """Embed a query as a unit vector `(D,)`. Raises `ExplanationError` if the model cannot embed it."""
        if image is None and text is None:
            raise ExplanationError("expected an image, a sentence or both as query, received neither")
        if text is not None and not text.strip():
            raise ExplanationError("text: expected words, received an empty sentence")
        if text is not None and self.model.config.identity_pooling == "image":
            raise ExplanationError("text: identity_pooling='image' embeds images alone, use a query image")
        inputs = self.processor(
            images=None if image is None else [image],
            text=None if text is None else [text],
            truncation=True,
            return_tensors="pt",
        )
        return self._embed_inputs(dict(inputs))

    def _embed_inputs(self, inputs: dict[str, Tensor]) -> Tensor:
        with _evaluating(self.model), torch.no_grad():
            embeddings: Tensor = self.model(**{name: value.to(self._device) for name, value in inputs.items()})[
                "embeddings"
            ]
        return embeddings[0]

    def _without(self, text: str, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[str, Tensor]]:
        """Yield the words of each span of characters, and the embedding of the sentence with these words masked."""
        tokenizer = self.processor.tokenizer
        tokens = tokenizer([text], truncation=True, return_offsets_mapping=True, return_tensors="pt")
        starts, ends = tokens.pop("offset_mapping")[0].unbind(dim=1)
        for start, end in spans:
            inside = (starts >= start) & (ends <= end) & (ends > starts)
            if inside.any():
                words = tokens["input_ids"].masked_fill(inside, tokenizer.mask_token_id)
                yield text[start:end], self._embed_inputs({**tokens, "input_ids": words})

    def _map(self, picture: PIL.Image.Image, query: Tensor, method: str, layer: int) -> Map:
        check_choice("method", method, METHODS)
        if not -self.num_layers <= layer < self.num_layers:
            raise ExplanationError(
                f"layer: expected {-self.num_layers} to {self.num_layers - 1}, a layer of the image encoder; received "
                f"{layer}"
            )
        size = (picture.height, picture.width)
        pixels = self.processor(images=[picture], return_tensors="pt")["pixel_values"].to(self._device)
        guided = method == "guided_grad_cam"
        with _evaluating(self.model), torch.enable_grad():
            with guided_backward(self.model) if guided else nullcontext():
                values = to_unit_range(METHODS[method](self._trace(pixels, query, layer)), size)
            if guided:
                values = to_unit_range(values * to_unit_range(grad_cam(self._trace(pixels, query, layer)), size), size)
        return np.asarray(values.cpu().numpy(), dtype=np.float32)

    def _trace(self, pixels: Tensor, query: Tensor, layer: int) -> Trace:
        """Run the model on a picture and record what the methods read."""
        layer %= self.num_layers
        pixels = pixels.detach().requires_grad_()
        states: list[Tensor] = []
        attentions: dict[str, list[Tensor]] = {"image": [], "multimodal": []}
        hooks = [self._image_layers[layer].attention_norm.register_forward_hook(lambda *call: states.append(call[2]))]
        encoders = {"image": self._image_layers[: layer + 1], "multimodal": self._multimodal_layers}
        for name, layers in encoders.items():
            hooks += [
                module.attention.register_forward_hook(lambda *call, kept=attentions[name]: kept.append(call[2][1]))
                for module in layers
            ]
        try:
            score = self.model(pixel_values=pixels).embeddings[0] @ query
        finally:
            for hook in hooks:
                hook.remove()
        grid = self.model.config.image_config.grid_of(*pixels.shape[-2:])
        return Trace(score, pixels, states[0], attentions["image"], attentions["multimodal"], grid)

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def _image_layers(self) -> Any:
        return self.model.mmet.image_model.encoder.layers

    @property
    def _multimodal_layers(self) -> Any:
        return self.model.mmet.multimodal_model.encoder.layers


def _spans(text: str, phrases: Sequence[str] | None) -> list[tuple[int, int]]:
    """Start and end (exclusive) of each phrase in a text, or of each of its words."""
    if phrases is None:
        return [word.span() for word in re.finditer(r"\S+", text)]
    for phrase in phrases:
        if not phrase.strip() or phrase not in text:
            raise ExplanationError(f"phrases: expected parts of the text {text!r}, received {phrase!r}")
    return [(text.index(phrase), text.index(phrase) + len(phrase)) for phrase in phrases]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch to evaluation mode and to attention that returns its weights; restore both at the end."""
    encoders = [model.config, *(getattr(model.config, f"{name}_config") for name in ("image", "text", "multimodal"))]
    training, implementations = model.training, [config._attn_implementation for config in encoders]
    model.eval()
    try:
        for config in encoders:
            config._attn_implementation = "eager"
        yield
    finally:
        model.train(training)
        for config, implementation in zip(encoders, implementations, strict=True):
            config._attn_implementation = implementation
