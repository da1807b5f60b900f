"""Turn samples into the tensors of one training step: processing, patch masks, token masks, mismatched captions.

Masks are drawn anew each time a sample is seen, from a generator seeded by the samples' seeds: the same samples give
the same batch in every worker process.

    collator = MMETDataCollator(processor, image_masking="pedestrian", max_length=64)
    loader = DataLoader(training_dataset, batch_size=64, sampler=sampler, collate_fn=collator)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mmet.training.dataset import TrainingSample
from mmet.training.masking import (
    IMAGE_MASKING,
    PatchRegion,
    check_mlm_probability,
    mask_tokens,
    num_masked_patches,
    pedestrian_prior,
)
from mmet.training.segmenter import Segmenter
from pictures_mmet import read_person_mask

Batch = dict[str, Any]


class MMETDataCollator:
    """Collates samples of one kind into the arguments of `MMETForPreTraining`, plus `image_paths` (a list of names).

    If samples replace pictures that could not be decoded, `skipped_images` lists path and reason of these pictures.

    With B samples, N patches and L tokens, the batches hold:

    - `identity`: `pixel_values (B, 3, H, W)`, `input_ids (B, L)`, `attention_mask (B, L)`, `person_labels (B)`; and
      `text_present (B)` if some sample has no caption.
    - `identity_image`: `pixel_values`, `person_labels`.
    - `paired`: pictures and captions as above, `person_ids (B)` (so that the contrastive loss knows who is who without
      the identity losses being asked for), `bool_masked_pos (B, N)`, and a second caption that is masked:
      `input_ids_masked (B, L)`, `masked_attention_mask (B, L)`, `mlm_labels (B, L)`. It is the picture's own where
      `itm_labels (B)` is 1, and that of another person in the batch where it is 0. `input_ids` always is the
      picture's own, unmasked.
    - `image`: `pixel_values`, `bool_masked_pos`.
    - `text`: `input_ids`, `attention_mask`, `input_ids_masked`, `mlm_labels`.

    Args:
        processor: an `MMETProcessor`.
        image_masking: a name in `mmet.training.masking.IMAGE_MASKING`; with `none`, batches have no `bool_masked_pos`.
        mask_ratio: share of patches that are masked: `round(mask_ratio * N)` in every picture, at least one.
        mlm_probability: share of tokens that are masked, on average for every caption (see `mask_tokens`).
        itm_mismatch_probability: probability that a pair's masked caption is replaced by that of another person in the
            batch, drawn uniformly.
        caption_noise: probability that a token of an identity batch is replaced by another one of the vocabulary,
            drawn uniformly, so that words of other domains confuse the model less.
        max_length: longest caption in tokens; longer ones are cut.
        segmenter: called with the pictures of a batch that have no mask, if the masking strategy needs them. It runs
            in the data loading workers.
        prior: weights `(N,)` for pictures without any mask; None for `pedestrian_prior` of the processor's grid.
        sharpness: exponent on the coverage of patches by the person that turns it into sampling weights.
    """

    def __init__(
        self,
        processor: Any,
        *,
        image_masking: str = "pedestrian",
        mask_ratio: float = 0.15,
        mlm_probability: float = 0.15,
        itm_mismatch_probability: float = 0.5,
        caption_noise: float = 0.0,
        max_length: int = 64,
        segmenter: Segmenter | None = None,
        prior: ArrayLike | None = None,
        sharpness: float = 3.0,
    ) -> None:
        if image_masking not in IMAGE_MASKING:
            raise ValueError(f"expected image_masking among {', '.join(IMAGE_MASKING)}, received {image_masking!r}")
        for name, share in (("itm_mismatch_probability", itm_mismatch_probability), ("caption_noise", caption_noise)):
            if not 0 <= share <= 1:
                raise ValueError(f"expected {name} in [0, 1], received {share}")
        check_mlm_probability(mlm_probability)
        self.processor = processor
        self.grid: tuple[int, int] = tuple(processor.image_processor.patch_grid)
        self.image_masking = image_masking
        self.num_masked = num_masked_patches(mask_ratio, self.grid[0] * self.grid[1])
        if image_masking != "none" and not self.num_masked:
            raise ValueError(
                f"mask_ratio={mask_ratio} of {self.grid[0]} × {self.grid[1]} patches is less than one patch: nothing "
                "would be masked; raise it, or choose image_masking none"
            )
        self.mlm_probability = mlm_probability
        self.itm_mismatch_probability = itm_mismatch_probability
        self.caption_noise = caption_noise
        self.max_length = max_length
        self.segmenter = segmenter
        self.sharpness = sharpness
        self.prior = np.asarray(pedestrian_prior(*self.grid, sharpness=sharpness) if prior is None else prior)
        if self.prior.shape != (self.grid[0] * self.grid[1],):
            raise ValueError(f"expected a prior with one weight per patch of {self.grid}, received {self.prior.shape}")
        self._collate = {
            "paired": self._collate_paired,
            "identity": self._collate_identity,
            "identity_image": self._collate_identity_image,
            "image": self._collate_image,
            "text": self._collate_text,
        }

    def __call__(self, samples: Sequence[TrainingSample]) -> Batch:
        """Collate samples of one kind. Raises `ValueError` for no sample or several kinds."""
        kinds = sorted({sample.kind for sample in samples})
        if len(kinds) != 1:
            raise ValueError(f"expected samples of one kind in a batch, received {kinds or 'no samples'}")
        # The spawn key keeps this stream apart from those of the samples, also in a batch of one.
        entropy = np.random.SeedSequence([sample.seed for sample in samples], spawn_key=(1,))
        batch = self._collate[kinds[0]](samples, np.random.default_rng(entropy))
        batch["image_paths"] = [sample.image_path for sample in samples]
        if any(sample.skipped for sample in samples):
            batch["skipped_images"] = [skipped for sample in samples for skipped in sample.skipped]
        return batch

    def _collate_identity(self, samples: Sequence[TrainingSample], rng: np.random.Generator) -> Batch:
        captions = self._noisy_captions(self._captions(samples), rng)
        batch = self._images(samples) | captions | {"person_labels": _person_labels(samples)}
        text_present = torch.tensor([sample.caption is not None for sample in samples])
        return batch if text_present.all() else batch | {"text_present": text_present}

    def _collate_identity_image(self, samples: Sequence[TrainingSample], rng: np.random.Generator) -> Batch:
        return self._images(samples) | {"person_labels": _person_labels(samples)}

    def _collate_image(self, samples: Sequence[TrainingSample], rng: np.random.Generator) -> Batch:
        return self._masked_images(samples, rng)

    def _collate_text(self, samples: Sequence[TrainingSample], rng: np.random.Generator) -> Batch:
        captions = self._captions(samples)
        return captions | self._masked_captions(captions, rng)

    def _collate_paired(self, samples: Sequence[TrainingSample], rng: np.random.Generator) -> Batch:
        captions = self._captions(samples)
        donors = self._caption_donors(samples, rng)
        shown = {name: values[donors] for name, values in captions.items()}
        return {
            **self._masked_images(samples, rng),
            **captions,
            **self._masked_captions(shown, rng),
            "person_ids": _person_labels(samples),
            "masked_attention_mask": shown["attention_mask"],
            "itm_labels": (donors == torch.arange(len(samples))).long(),
        }

    def _images(self, samples: Sequence[TrainingSample], **options: Any) -> Batch:
        """The processor's features of the pictures."""
        images = [sample.image for sample in samples]
        return dict(self.processor(images=images, input_data_format="channels_last", return_tensors="pt", **options))

    def _masked_images(self, samples: Sequence[TrainingSample], rng: np.random.Generator) -> Batch:
        """The pictures, and which of their patches are masked."""
        strategy = IMAGE_MASKING[self.image_masking]
        if strategy is None:
            return self._images(samples)
        person_masks = self.person_masks(samples) if self.image_masking == "pedestrian" else []
        images, coverage = self._images_and_coverage(samples, person_masks)
        region = PatchRegion(coverage, self.prior, self.grid, self.sharpness)
        return images | {"bool_masked_pos": torch.from_numpy(strategy(region, self.num_masked, rng))}

    def person_coverage(self, samples: Sequence[TrainingSample]) -> NDArray[np.float32]:
        """Share of each patch on the person, `(B, N)`; rows of NaN for pictures without a mask."""
        return self._images_and_coverage(samples, self.person_masks(samples))[1]

    def _images_and_coverage(
        self, samples: Sequence[TrainingSample], person_masks: Sequence[Image.Image | None]
    ) -> tuple[Batch, NDArray[np.float32]]:
        """The processor's features of the pictures, and what `person_coverage` says."""
        if any(mask is not None for mask in person_masks):
            processed = self._images(samples, person_masks=person_masks)
            coverage = processed.pop("person_patch_coverage").numpy()
            return processed, coverage
        return self._images(samples), np.full((len(samples), len(self.prior)), np.nan, dtype=np.float32)

    def person_masks(self, samples: Sequence[TrainingSample]) -> list[Image.Image | None]:
        """The samples' masks, and the segmenter's for samples without one."""
        masks = [sample.person_mask for sample in samples]
        missing = [i for i, mask in enumerate(masks) if mask is None]
        if self.segmenter is None or not missing:
            return masks
        images = [Image.fromarray(image) for i in missing if (image := samples[i].image) is not None]
        for i, mask in zip(missing, _segment(self.segmenter, images), strict=True):
            masks[i] = mask
        return masks

    def _captions(self, samples: Sequence[TrainingSample]) -> Batch:
        """Token ids and attention mask, both `(B, L)`; a missing caption is an empty one, which processors refuse."""
        options = {"padding": True, "truncation": True, "max_length": self.max_length, "return_tensors": "pt"}
        captions = [sample.caption or "" for sample in samples]
        if all(captions):
            encoded = self.processor(text=captions, **options)
        else:
            encoded = self.processor.tokenizer(captions, padding_side="right", **options)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _noisy_captions(self, captions: Batch, rng: np.random.Generator) -> Batch:
        """The captions with a share `caption_noise` of their tokens replaced; special tokens are left out."""
        if not self.caption_noise:
            return captions
        input_ids = captions["input_ids"].numpy()
        noisy = (rng.random(input_ids.shape) < self.caption_noise) & ~self._special_tokens(captions)
        words = np.setdiff1d(np.arange(len(self.processor.tokenizer)), self.processor.tokenizer.all_special_ids)
        # Any word but the same one: a random step through the vocabulary, shorter than a full round.
        steps = rng.integers(1, len(words), size=input_ids.shape)
        noise = words[(np.searchsorted(words, input_ids) + steps) % len(words)]
        return captions | {"input_ids": torch.from_numpy(np.where(noisy, noise, input_ids))}

    def _special_tokens(self, captions: Batch) -> NDArray[np.bool_]:
        """True `(B, L)` at special tokens and padding."""
        special = np.isin(captions["input_ids"].numpy(), self.processor.tokenizer.all_special_ids)
        fixed: NDArray[np.bool_] = special | (captions["attention_mask"].numpy() == 0)
        return fixed

    def _masked_captions(self, captions: Batch, rng: np.random.Generator) -> Batch:
        tokenizer = self.processor.tokenizer
        masked = mask_tokens(
            captions["input_ids"].numpy(),
            self._special_tokens(captions),
            mask_token_id=tokenizer.mask_token_id,
            vocab_size=len(tokenizer),
            mlm_probability=self.mlm_probability,
            rng=rng,
        )
        return {"input_ids_masked": torch.from_numpy(masked.input_ids), "mlm_labels": torch.from_numpy(masked.labels)}

    def _caption_donors(self, samples: Sequence[TrainingSample], rng: np.random.Generator) -> torch.Tensor:
        """The sample whose caption each sample gets, `(B)`: itself, or another person's."""
        foreign = _is_other_person(samples)  # (B, B)
        swapped = (rng.random(len(samples)) < self.itm_mismatch_probability) & foreign.any(axis=1)
        chosen = np.where(foreign, rng.random(foreign.shape), -1).argmax(axis=1)
        return torch.from_numpy(np.where(swapped, chosen, np.arange(len(samples))))


def _segment(segmenter: Segmenter, images: list[Image.Image]) -> list[Image.Image | None]:
    """The segmenter's masks. Raises `ValueError` if it fails or returns something else."""
    try:
        segmented = segmenter(list(images))
    except Exception as error:  # somebody else's code, which may raise anything
        raise ValueError(
            f"the segmenter failed on {len(images)} pictures ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(segmented, (list, tuple)) or len(segmented) != len(images):
        received = len(segmented) if isinstance(segmented, (list, tuple)) else type(segmented).__name__
        raise ValueError(f"expected {len(images)} masks from the segmenter, received {received}")
    masks: list[Image.Image | None] = []
    for picture, mask in zip(images, segmented, strict=True):
        if mask is not None and not isinstance(mask, Image.Image):
            raise ValueError(f"expected Pillow images or None from the segmenter, received {type(mask).__name__}")
        if mask is not None and mask.size != picture.size:
            raise ValueError(f"expected masks of the picture's size {picture.size}, the segmenter gave {mask.size}")
        masks.append(None if mask is None else read_person_mask(mask))
    return masks


def _person_labels(samples: Sequence[TrainingSample]) -> torch.Tensor:
    return torch.tensor([sample.person_label for sample in samples])


def _is_other_person(samples: Sequence[TrainingSample]) -> NDArray[np.bool_]:
    """True at `(i, j)` where caption j is certainly not about person i.

    The sentences must always differ, because an identical sentence does describe the picture. For unknown persons,
    this is the only test.
    """
    labels = np.array([sample.person_label for sample in samples])
    captions = np.array([sample.caption for sample in samples], dtype=object)
    both_known = (labels[:, None] >= 0) & (labels[None, :] >= 0)
    other_words: NDArray[np.bool_] = captions[:, None] != captions[None, :]
    other_person: NDArray[np.bool_] = ~both_known | (labels[:, None] != labels[None, :])
    return other_words & other_person
