"""Any vision backbone or CLIP-style dual encoder of transformers as a row of the table.

    system = load_backbone("google/siglip-base-patch16-224", accelerator=accelerator)     # or a local folder
    system.supports("text", "image")

What a model calls its embedding differs; which one is taken is written down in `load_backbone`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from mmet.evaluation.baselines import ModelSystem
from mmet.evaluation.protocols import Modality


@dataclass
class Embedded:
    """What `embed_items` asks of a model's output: `embeddings` `(B, D)`."""

    embeddings: torch.Tensor


class VisionBackbone(torch.nn.Module):
    """A vision model that embeds pictures; `has_pooler` says whether its pooler is trained."""

    def __init__(self, model: torch.nn.Module, has_pooler: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.has_pooler = has_pooler

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, pixel_values: torch.Tensor) -> Embedded:
        """Embeddings `(B, D)` of pictures `(B, 3, H, W)`."""
        output = self.model(pixel_values=pixel_values)
        pooled = getattr(output, "pooler_output", None)
        if self.has_pooler and pooled is not None:
            return Embedded(pooled.flatten(1))
        states = output.last_hidden_state
        return Embedded(states.mean(dim=(2, 3)) if states.ndim == 4 else states[:, 0])


class DualEncoder(torch.nn.Module):
    """A model with `get_image_features` and `get_text_features`, such as CLIP and SigLIP."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # its methods are called by name

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> Embedded:
        """Embeddings `(B, D)` of pictures or of sentences."""
        if pixel_values is not None:
            return Embedded(_features(self.model.get_image_features(pixel_values=pixel_values)))
        words = {"input_ids": input_ids} | ({} if attention_mask is None else {"attention_mask": attention_mask})
        return Embedded(_features(self.model.get_text_features(**words)))


@dataclass(frozen=True)
class ImageInputs:
    """An image processor called as `embed_items` calls a processor."""

    processor: Callable[..., Any]

    def __call__(self, images: Any = None, text: Any = None, **_: Any) -> Any:
        return self.processor(images=images, return_tensors="pt")

    def save_pretrained(self, folder: str) -> None:
        """Save the image processor."""
        self.processor.save_pretrained(folder)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class DualInputs:
    """A processor whose sentences are padded to the full length, as SigLIP was trained; CLIP does not mind."""

    processor: Callable[..., Any]
    max_length: int

    def __call__(self, images: Any = None, text: Any = None, **_: Any) -> Any:
        options = {"padding": "max_length", "truncation": True, "max_length": self.max_length} if text else {}
        return self.processor(images=images, text=text, return_tensors="pt", **options)

    def save_pretrained(self, folder: str) -> None:
        """Save the processor."""
        self.processor.save_pretrained(folder)  # type: ignore[attr-defined]


class BackboneSystem(ModelSystem):
    """A backbone of transformers: pictures, and sentences where it has a text encoder; never both at once."""

    def __init__(self, model: VisionBackbone | DualEncoder, processor: Callable[..., Any], **options: Any) -> None:
        super().__init__(model, processor, **options)
        self.modalities = {"image"} if isinstance(model, VisionBackbone) else {"image", "text"}

    def supports(self, query: Modality, gallery: Modality) -> bool:
        return {query, gallery} <= self.modalities


def load_backbone(name_or_path: str, **options: Any) -> BackboneSystem:
    """A model and its processor from a folder or the Hub, by transformers' auto classes and without remote code.

    A model with image and text features embeds by those. Any other embeds pictures by its pooled output where the
    checkpoint has the pooler's weights or the pooler has none; else by the first token of a sequence, or the mean over
    a feature map.

    Args:
        name_or_path: what `from_pretrained` takes.
        options: to `ModelSystem`; `name` is the last part of `name_or_path` unless given.

    Raises:
        ValueError: no such model, or one that embeds no pictures; the message names it.
    """
    options = {"name": Path(name_or_path).name, **options}
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        model, loading = AutoModel.from_pretrained(name_or_path, output_loading_info=True)
        if hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
            processor: Callable[..., Any] = DualInputs(
                AutoProcessor.from_pretrained(name_or_path), config.text_config.max_position_embeddings
            )
            return BackboneSystem(DualEncoder(model), processor, **options)
        processor = ImageInputs(AutoImageProcessor.from_pretrained(name_or_path))
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(f"cannot load a backbone with its processor from {name_or_path!r}: {error}") from error
    if getattr(model, "main_input_name", None) != "pixel_values":
        raise ValueError(f"expected a model of pictures in {name_or_path!r}, received {type(model).__name__}")
    has_pooler = not any("pooler" in name for name in loading["missing_keys"])
    return BackboneSystem(VisionBackbone(model, has_pooler), processor, **options)


def _features(output: Any) -> torch.Tensor:
    """Features `(B, D)`, which transformers gives as a tensor or, in newer versions, as the pooled output of one."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
