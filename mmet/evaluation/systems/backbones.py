"""Any vision backbone or CLIP-style dual encoder of transformers as a row of the table.

    system = load_backbone("google/siglip-base-patch16-224", accelerator=accelerator)     # or a local folder
    system.supports("text", "image")

Models name their embeddings differently; `load_backbone` says which one is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from mmet.evaluation.protocols import Modality
from mmet.evaluation.systems.embedding import ModelInputs, RawBatch
from mmet.evaluation.systems.model import ModelSystem


@dataclass
class Embedded:
    """Model output for `embed_items`: `embeddings` `(B, D)`."""

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

    def forward(self, **inputs: torch.Tensor) -> Embedded:
        """Embeddings `(B, D)` of an image processor's output: `pixel_values` and other inputs."""
        output = self.model(**_accepted(self.model.forward, inputs))
        pooled = getattr(output, "pooler_output", None)
        if self.has_pooler and pooled is not None:
            return Embedded(pooled[..., 0, 0] if pooled.shape[2:] == (1, 1) else pooled)
        states = output.last_hidden_state
        return Embedded(states.mean(dim=(2, 3)) if states.ndim == 4 else states[:, 0])


class DualEncoder(torch.nn.Module):
    """A model with `get_image_features` and `get_text_features`, such as CLIP, SigLIP and FLAVA."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # its methods are called by name

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, **inputs: torch.Tensor) -> Embedded:
        """Embeddings `(B, D)` of a processor's output for pictures or for sentences."""
        encode = self.model.get_text_features if "input_ids" in inputs else self.model.get_image_features
        features = _features(encode(**_accepted(encode, inputs)))
        if self.config.model_type == "flava":  # (B, N, D), of which its contrastive loss reads the class token
            features = features[:, 0]
        return Embedded(features)


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
    """A processor that pads sentences to the full length, as in SigLIP's training; it makes no difference to CLIP."""

    processor: Callable[..., Any]
    max_length: int

    def __call__(self, images: Any = None, text: Any = None, **_: Any) -> Any:
        options = {"padding": "max_length", "truncation": True, "max_length": self.max_length} if text else {}
        return self.processor(images=images, text=text, return_tensors="pt", **options)

    def save_pretrained(self, folder: str) -> None:
        """Save the processor."""
        self.processor.save_pretrained(folder)  # type: ignore[attr-defined]


class BackboneSystem(ModelSystem):
    """A backbone of transformers: embeds pictures, and sentences if it has a text encoder, but never both at once."""

    def __init__(self, model: VisionBackbone | DualEncoder, processor: Callable[..., Any], **options: Any) -> None:
        super().__init__(model, processor, **options)
        self.modalities = {"image"} if isinstance(model, VisionBackbone) else {"image", "text"}

    def supports(self, query: Modality, gallery: Modality) -> bool:
        return {query, gallery} <= self.modalities

    def try_out(self) -> None:
        """Embed two pictures twice, and two sentences if it has a text encoder.

        Raises:
            ValueError: not one finite vector for each item, or other vectors the second time; names the system.
        """
        noise = np.random.default_rng(0).integers(0, 256, (2, 96, 48, 3), dtype=np.uint8)
        self._try(RawBatch([Image.fromarray(picture) for picture in noise], None), "pictures")
        if "text" in self.modalities:
            self._try(RawBatch(None, ["a red coat", "two people in blue"]), "sentences")

    @torch.no_grad()
    def _try(self, batch: RawBatch, content: str) -> None:
        self.model.eval()
        try:
            inputs = ModelInputs(self.processor)(batch)
            first, second = (self.model(**inputs).embeddings.float() for _ in range(2))
        except Exception as error:  # whatever a stranger's model or processor raises
            raise ValueError(f"{self.name!r} cannot embed {content}: {type(error).__name__}: {error}") from error
        if first.ndim != 2 or len(first) != 2 or not first.shape[1]:
            received = tuple(first.shape)
            raise ValueError(f"{self.name!r}: expected one vector for each of two {content}, received {received}")
        if not torch.isfinite(first).all():
            raise ValueError(f"{self.name!r}: expected finite embeddings of {content}, received NaN or infinite ones")
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-4 * float(first.abs().max())):
            raise ValueError(
                f"{self.name!r} gives other embeddings when it sees the same {content} again, as a model does that "
                "hides patches or drops units by chance; what it scores would be chance too"
            )


def load_backbone(name_or_path: str, **options: Any) -> BackboneSystem:
    """Load a model and its processor from a folder or the Hub with transformers' auto classes, without remote code.

    A model with image and text features uses those. Any other model uses its pooled output if the checkpoint has the
    pooler's weights or the pooler has none; else the first token of a sequence, or the mean over a feature map.
    FLAVA's features are those of the class token; a masked autoencoder (`mask_ratio`) sees all patches. The system is
    tried once (`BackboneSystem.try_out`).

    Args:
        name_or_path: what `from_pretrained` takes.
        options: to `ModelSystem`; `name` is the last part of `name_or_path` unless given.

    Raises:
        ValueError: there is no such model, or it does not embed pictures deterministically; the message names it.
    """
    options = {"name": Path(name_or_path).name, **options}
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        if getattr(config, "mask_ratio", None) is not None:
            config.mask_ratio = 0.0  # masked autoencoders hide patches outside of training too
        model, loading = AutoModel.from_pretrained(
            name_or_path, config=config, output_loading_info=True, use_safetensors=True
        )
        if hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
            processor: Callable[..., Any] = DualInputs(
                cast(Any, AutoProcessor).from_pretrained(name_or_path), config.text_config.max_position_embeddings
            )
            system = BackboneSystem(DualEncoder(model), processor, **options)
            system.try_out()
            return system
        processor = ImageInputs(cast(Any, AutoImageProcessor).from_pretrained(name_or_path))
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(f"cannot load a backbone with its processor from {name_or_path!r}: {error}") from error
    if getattr(model, "main_input_name", None) != "pixel_values":
        raise ValueError(f"expected a model of pictures in {name_or_path!r}, received {type(model).__name__}")
    has_pooler = not any("pooler" in name for name in loading["missing_keys"])
    system = BackboneSystem(VisionBackbone(model, has_pooler), processor, **options)
    system.try_out()
    return system


def _accepted(function: Callable[..., Any], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Select the `inputs` that a function has parameters for; all of them if it names none.

    Tokenizers give more than some models read.
    """
    named = {name: value for name, value in inputs.items() if name in inspect.signature(function).parameters}
    return named or dict(inputs)


def _features(output: Any) -> torch.Tensor:
    """Features `(B, D)`, which transformers gives as a tensor or, in newer versions, as the pooled output of one."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
