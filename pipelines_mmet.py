# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""transformers pipelines of MMET: embeddings, classes given as sentences, and a search for a person.

`save_pretrained` puts this module beside `modeling_mmet.py`, and `MMETConfig.custom_pipelines` names its classes, so a
saved folder answers to these tasks with `trust_remote_code=True`. It imports torch, transformers and its siblings.

    >>> from transformers import pipeline
    >>> embed = pipeline("feature-extraction", model="path/to/checkpoint", trust_remote_code=True)
    >>> embed({"image": "crop.jpg", "text": "a woman in a red jacket"})  # [[0.03, ...]], of unit norm
    >>> search = pipeline("person-search", model="path/to/checkpoint", gallery="crops", trust_remote_code=True)
    >>> search("a woman in a red jacket", top_k=5)  # [{"score": 0.61, "index": 7, "image": "crops/0007.jpg"}, ...]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline
from transformers.pipelines import ZeroShotImageClassificationPipeline
from transformers.utils import logging

try:
    from .pictures_mmet import READ_ERRORS
except ImportError:
    from pictures_mmet import READ_ERRORS

logger = logging.get_logger(__name__)

PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Endings of the picture files of a folder, and of a name that cannot be meant as a sentence."""

TOP_K = 10
GALLERY_BATCH = 32
"""Answers of a search, and pictures of its gallery that are embedded at once, where nothing else is said."""

_NAMED = 5


def read_query(inputs: Any) -> dict[str, Any]:
    """
    What to embed as `image`, `text` or both: a mapping of these names, a sentence, or a picture of any kind. A string
    is a picture where it names a file or an address of one, and else a sentence.

    Raises:
        ValueError: for other names, nothing to embed, or the name of a picture that is not there.
    """
    if isinstance(inputs, Mapping):
        query = {name: value for name, value in inputs.items() if value is not None}
        if not query or query.keys() - {"image", "text"}:
            raise ValueError(f"expected an image, a text or both by these names, received {sorted(inputs)}")
        return query
    if not isinstance(inputs, str):
        return {"image": inputs}
    if inputs.startswith(("http://", "https://", "data:image/")):
        return {"image": inputs}
    is_name = inputs.lower().endswith(PICTURE_SUFFIXES)
    if is_name and Path(inputs).is_file():
        return {"image": inputs}
    if is_name and not any(character.isspace() for character in inputs):
        raise ValueError(f"expected a sentence or the name of a picture, received {inputs!r}, which is no file")
    return {"text": inputs}


class MMETEmbeddingPipeline(Pipeline):
    """
    The embedding of an image, a sentence, or both in one, `[[...]]` of unit norm.

    The task `image-feature-extraction` reads strings as names of pictures, `feature-extraction` as `read_query` says.
    """

    _load_processor = True
    _load_image_processor = _load_feature_extractor = _load_tokenizer = _load_video_processor = False

    def __init__(self, model, *args, **kwargs):
        if not hasattr(model, "identity_head"):
            raise ValueError(f"{type(model).__name__} makes no embeddings: expected an MMETForReID")
        super().__init__(model, *args, **kwargs)

    def _sanitize_parameters(self, return_tensors=None, tokenize_kwargs=None, image_processor_kwargs=None, **kwargs):
        settings = {"text_kwargs": tokenize_kwargs, "images_kwargs": image_processor_kwargs}
        preprocessing = {name: value for name, value in settings.items() if value}
        return preprocessing, {}, {} if return_tensors is None else {"return_tensors": return_tensors}

    def __call__(self, inputs: Any = None, *, images: Any = None, text: Any = None, **kwargs) -> Any:
        """
        Args:
            inputs: A sentence, a picture, a mapping with `image` and `text`, or a list of these.
            images, text: Instead of `inputs`: an image, a sentence, one of each, or a list of each of equal length.
            return_tensors: Whether to return tensors `(1, D)` instead of lists.
            tokenize_kwargs, image_processor_kwargs: Keyword arguments of the tokenizer and the image processor.
            batch_size: Number of inputs of one kind that the model reads at once.

        Raises:
            ValueError: when there is no input, `inputs` comes with `images` or `text`, or the lists differ in length.
        """
        if inputs is None:
            inputs = join_queries(images, text)
        elif images is not None or text is not None:
            raise ValueError("expected inputs, or images and text in their place; received both")
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes)) and not len(inputs):
            return []
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any, **settings) -> dict[str, Tensor]:
        is_picture = self.task == "image-feature-extraction" and not isinstance(inputs, Mapping)
        query = {"image": inputs} if is_picture else read_query(inputs)
        content = {name: [query[key]] for key, name in (("image", "images"), ("text", "text")) if key in query}
        return self.processor(**content, return_tensors="pt", **settings)

    def _forward(self, model_inputs: Mapping[str, Tensor]) -> Tensor:
        return {"embeddings": self.model(**model_inputs).embeddings}

    def postprocess(self, model_outputs: Mapping[str, Tensor], return_tensors: bool = False) -> Any:
        embeddings = model_outputs["embeddings"]
        return embeddings if return_tensors else embeddings.tolist()

    def save_pretrained(self, save_directory, **kwargs):
        """As in the base class, with the processor."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def join_queries(images: Any, text: Any) -> Any:
    """Join an image and a sentence to one query, or two lists to a list of queries.

    Raises:
        ValueError: when both are missing or the lists differ in length.
    """
    query = {name: value for name, value in (("image", images), ("text", text)) if value is not None}
    if not query:
        raise ValueError("nothing to embed: give inputs, images, text or both of these")
    if not any(isinstance(value, (list, tuple)) for value in query.values()):
        return query
    columns = [value if isinstance(value, (list, tuple)) else [value] for value in query.values()]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(
            f"expected one sentence per image, received {len(columns[0])} images, {len(columns[1])} texts"
        )
    return [dict(zip(query, values, strict=True)) for values in zip(*columns, strict=True)]


class MMETPersonSearchPipeline(MMETEmbeddingPipeline):
    """
    Find the pictures of a gallery that are most similar to an image, a sentence or both.

    Returns `[{"score", "index", "image"}, ...]`, best first: the cosine similarity, the position in the gallery, and
    the picture as the gallery names it.

    Args:
        gallery: A folder of pictures, a list of pictures of any kind, or a gallery of the `mmet` package (its folder,
            or an open one), whose answers have its rows' `id` and other columns. May also be given in the call.
        top_k: Largest number of answers.
    """

    def __init__(self, model, *args, gallery: Any = None, **kwargs):
        super().__init__(model, *args, **kwargs)
        self._set_gallery(gallery)

    def _sanitize_parameters(self, top_k=None, **kwargs):
        preprocessing, forwarding, _ = super()._sanitize_parameters(**kwargs)
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"expected top_k to be a whole number of at least 1, received {top_k!r}")
        return preprocessing, forwarding, {} if top_k is None else {"top_k": top_k}

    def __call__(self, inputs: Any = None, *, gallery: Any = None, **kwargs) -> Any:
        """`inputs`, `images` and `text` as in [`MMETEmbeddingPipeline`]; `gallery` and `top_k` as above."""
        if gallery is not None:
            self._set_gallery(gallery)
        if self.gallery is None:
            raise ValueError("nothing to search: give gallery, a folder or list of pictures")
        return super().__call__(inputs, **kwargs)

    def _set_gallery(self, gallery: Any) -> None:
        """Embed the pictures of another gallery than the last one; one of the package is embedded already."""
        self.gallery = gallery if hasattr(gallery, "search") else open_gallery(gallery)
        if isinstance(self.gallery, list):
            must_read = not isinstance(gallery, (str, Path))
            self._embeddings, self.gallery = self._embed_gallery(self.gallery, must_read)

    @property
    def _searches_itself(self) -> bool:
        """Whether the gallery is one of the package, which embeds queries and ranks its rows."""
        return hasattr(self.gallery, "search")

    @torch.inference_mode()
    def _embed_gallery(self, pictures: list[Any], must_read: bool) -> tuple[Tensor, list[Any]]:
        """Embeddings `(N, D)` of the pictures that can be read, and these; others are an error with `must_read`."""
        embeddings, read, unread = [], [], []
        batch_size = self._batch_size or GALLERY_BATCH
        for start in range(0, len(pictures), batch_size):
            tensors = []
            for number, picture in enumerate(pictures[start : start + batch_size], start):
                try:
                    tensors.append(self.processor(images=[picture], return_tensors="pt")["pixel_values"])
                    read.append(picture)
                except READ_ERRORS as error:
                    if must_read:
                        raise ValueError(f"gallery[{number}]: {error}") from error
                    unread.append(str(picture))
            if tensors:
                embeddings.append(self.forward({"pixel_values": torch.cat(tensors)})["embeddings"])
        if unread:
            logger.warning("%d pictures cannot be read and are left out: %s", len(unread), ", ".join(unread[:_NAMED]))
        if not embeddings:
            raise ValueError(f"expected a gallery with pictures, received {len(unread)}, none of which can be read")
        return torch.cat(embeddings), read

    def preprocess(self, inputs: Any, **settings) -> Any:
        return read_query(inputs) if self._searches_itself else super().preprocess(inputs, **settings)

    def _forward(self, model_inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(model_inputs) if self._searches_itself else super()._forward(model_inputs)

    def postprocess(self, model_outputs: Mapping[str, Any], top_k: int = TOP_K) -> list[dict[str, Any]]:
        if self._searches_itself:
            return [describe_match(match) for match in self.gallery.search(**model_outputs, k=top_k).matches]
        scores = self._embeddings.to(model_outputs["embeddings"].device) @ model_outputs["embeddings"][0]
        order = scores.sort(descending=True, stable=True).indices[:top_k].tolist()
        return [{"score": scores[place].item(), "index": place, "image": self.gallery[place]} for place in order]


def open_gallery(gallery: Any) -> Any:
    """
    The pictures of a folder or sequence as a list, or the open gallery of the `mmet` package that a folder is.

    Raises:
        ValueError: there is no such folder, it holds no pictures, or the package is needed and not installed.
    """
    if gallery is None or not isinstance(gallery, (str, Path)):
        return gallery if gallery is None else list(gallery)
    folder = Path(gallery)
    if not folder.is_dir():
        raise ValueError(f"gallery: expected a folder or list of pictures, received {str(gallery)!r}, which is none")
    if (folder / "manifest.json").is_file():
        try:
            from mmet.gallery import Gallery
        except ImportError as error:
            raise ValueError(f"gallery: {folder} is one of the mmet package, which is not installed") from error
        return Gallery.open(folder)
    pictures = [str(path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise ValueError(f"gallery: expected pictures ({', '.join(PICTURE_SUFFIXES)}) in {folder}, received none")
    return pictures


def describe_match(match: Any) -> dict[str, Any]:
    """Turn a match of a gallery of the `mmet` package into an answer."""
    names = ("id", "probability", "camera_id", "track_id", "time", "person_id")
    return {"score": match.score, "image": match.image_path} | {name: getattr(match, name) for name in names}


class MMETZeroShotImageClassificationPipeline(ZeroShotImageClassificationPipeline):
    """As in transformers, with MMET's way of reading pictures; long sentences are cut."""

    _load_processor = True
    _load_image_processor = _load_tokenizer = False

    def check_model_type(self, supported_models):
        """Accept the model; the base class would only warn that its class is not one of transformers' own."""

    def preprocess(
        self,
        image: Any,
        candidate_labels: Sequence[str] = (),
        hypothesis_template: str = "This is a photo of {}.",
        timeout=None,
    ) -> dict[str, Any]:
        if isinstance(candidate_labels, str) or not candidate_labels:
            raise ValueError(f"expected candidate_labels to be a list of words, received {candidate_labels!r}")
        sentences = [hypothesis_template.format(label) for label in candidate_labels]
        inputs = self.processor(images=[image], return_tensors="pt")
        texts = self.processor(text=sentences, return_tensors="pt")
        return {**inputs, "candidate_labels": list(candidate_labels), "text_inputs": [texts]}


CUSTOM_PIPELINES = {
    "feature-extraction": ("MMETEmbeddingPipeline", "AutoModel"),
    "image-feature-extraction": ("MMETEmbeddingPipeline", "AutoModel"),
    "person-search": ("MMETPersonSearchPipeline", "AutoModel"),
    "zero-shot-image-classification": (
        "MMETZeroShotImageClassificationPipeline",
        "AutoModelForZeroShotImageClassification",
    ),
}
"""For each task: the pipeline class, and the Auto class of its model."""

__all__ = ["MMETEmbeddingPipeline", "MMETPersonSearchPipeline", "MMETZeroShotImageClassificationPipeline"]
