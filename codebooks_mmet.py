# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""The image codebooks of MMET: the codes of masked patches that L_MIM and L_MMM predict (section 3.3).

`save_pretrained` puts this module beside `modeling_mmet.py`, which imports it.

    >>> codes = model.image_codebook(pixel_values, bool_masked_pos)  # (num_masked,) integers below codebook_size
"""

import os

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

try:
    from .configuration_mmet import MMETConfig
except ImportError:
    from configuration_mmet import MMETConfig

_SCORES_AT_ONCE = 2**22
"""Number of distances between descriptors and centroids in memory at a time: 32 MiB."""

_DALLE_IMAGES_AT_ONCE = 16
"""Images that DALL-E's encoder reads at a time; 256 channels of one of 168x80 pixels are 13 MiB."""


class MMETImageCodebook(nn.Module):
    """
    The codebook of `codebook_type="kmeans"`: a patch's code is the nearest of K centroids of patch descriptors.

    A patch is described by the mean colours of its `codebook_cell`-pixel cells. The centroids are fitted once on
    training images (`mmet.training.codebook.fit_codebook`) and stored with the checkpoint.
    """

    centroids: Tensor

    def __init__(self, config: MMETConfig):
        super().__init__()
        self.config = config
        self.descriptor_size = (
            config.image_config.num_channels * (config.image_config.patch_size // config.codebook_cell) ** 2
        )
        self.register_buffer("centroids", torch.zeros(config.codebook_size, self.descriptor_size))

    @property
    def is_fitted(self) -> bool:
        """Whether centroids were fitted (a new codebook holds only zeros)."""
        return bool(self.centroids.any())

    def describe(self, pixel_values: Tensor) -> Tensor:
        """Descriptors `(B, N, descriptor_size)` of the patches of normalised images `(B, C, H, W)`, in float32."""
        image_config, cell = self.config.image_config, self.config.codebook_cell
        cells = F.avg_pool2d(pixel_values.float(), cell)
        stride = image_config.patch_stride // cell
        return F.unfold(cells, image_config.patch_size // cell, stride=stride).transpose(1, 2)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, bool_masked_pos: torch.BoolTensor | None = None) -> torch.LongTensor:
        """
        Codes of the patches of normalised images: the nearest centroid, the first of several at the same distance.

        Args:
            pixel_values: `(B, C, H, W)`.
            bool_masked_pos: `(B, N)`, True for patches whose code is needed; all of them if not given.

        Returns:
            Codes `(B, N)`, or `(num_masked,)` in the row-major order of `bool_masked_pos`.

        Raises:
            ValueError: the centroids have not been fitted.
        """
        check_is_fitted(self, "fit it on training images with mmet.training.codebook.fit_codebook")
        with torch.autocast(pixel_values.device.type, enabled=False):
            descriptors = self.describe(pixel_values)
            if bool_masked_pos is None:
                return nearest_centroids(descriptors.flatten(0, 1), self.centroids).unflatten(0, descriptors.shape[:2])
            return nearest_centroids(descriptors[bool_masked_pos], self.centroids)


def nearest_centroids(descriptors: Tensor, centroids: Tensor) -> torch.LongTensor:
    """
    For each descriptor `(M, D)` the row of `centroids` `(K, D)` nearest to it `(M,)`; the first where several are.

    Computed in float64 if the device has it: in float32 the rounding of |c|^2 - 2 d.c exceeds the difference between
    two nearly equal distances. Distances that differ only by rounding count as equal.
    """
    dtype = torch.float32 if descriptors.device.type == "mps" else torch.float64
    centroids = centroids.to(dtype)
    half_norms = centroids.square().sum(dim=-1) / 2
    codes = []
    for part in descriptors.split(max(1, _SCORES_AT_ONCE // len(centroids))):
        part = part.to(dtype)
        # argmin |d - c|^2 = argmax d.c - |c|^2 / 2
        scores = torch.addmm(-half_norms, part, centroids.T)
        rounding = 64 * torch.finfo(dtype).eps * (part.square().sum(dim=-1, keepdim=True) + half_norms.amax())
        nearest = scores >= scores.amax(dim=-1, keepdim=True) - rounding
        codes.append(nearest.int().argmax(dim=-1))  # the first True
    return torch.cat(codes)


class MMETDalleCodebook(nn.Module):
    """
    The codebook of `codebook_type="dalle"`: the codes of DALL-E's encoder, which FLAVA's masked patches have too.

    The network (transformers' `FlavaImageCodebook`) gives one code for every 8x8 pixels. The image is cut and resized
    so that these are the `patch_stride` x `patch_stride` pixels in the middle of each patch, which do not overlap. The
    weights are frozen and stored with the checkpoint; a new codebook has none before `load`.
    """

    def __init__(self, config: MMETConfig):
        super().__init__()
        self.config = config
        # The network without its wrapper: inside a model there is one PreTrainedModel that initialises and loads.
        network_config = transformers.FlavaImageCodebookConfig(**config.dalle_sizes)
        self.blocks = transformers.FlavaImageCodebook(network_config).blocks
        self.requires_grad_(False)
        for parameter in self.parameters():
            init.zeros_(parameter)

    def train(self, mode: bool = True) -> "MMETDalleCodebook":
        """As in the base class, but the network stays frozen, because loading a checkpoint unfreezes what it loads."""
        return super().train(mode).requires_grad_(False)

    @property
    def is_fitted(self) -> bool:
        """Whether there are weights (a new codebook holds only zeros)."""
        return bool(self.blocks.output.conv.weight.any())

    @torch.no_grad()
    def load(self, network: PreTrainedModel | str | os.PathLike, **kwargs):
        """
        Load the weights of a transformers `FlavaImageCodebook`, given as a model, Hub name or local folder.

        Args:
            kwargs: Arguments of `from_pretrained` for a name (`revision`, `local_files_only`, ...).

        Raises:
            OSError: nothing can be loaded under that name.
            ValueError: the weights are of another kind, or the network's sizes differ from `codebook_config`.
        """
        if isinstance(network, (str, os.PathLike)):
            name = f"{str(network)!r} (codebook_name_or_path)"
            try:
                network, loading = transformers.FlavaImageCodebook.from_pretrained(
                    network, output_loading_info=True, **kwargs
                )
            except OSError as error:
                raise OSError(
                    f"the image codebook {name} cannot be loaded; give a folder that a FlavaImageCodebook was saved "
                    f"to, or choose codebook_type='kmeans', which needs none: {error}"
                ) from error
            if loading["missing_keys"] or loading["mismatched_keys"]:
                raise ValueError(f"{name} is not the checkpoint of a FlavaImageCodebook")
        expected = self.config.dalle_sizes
        received = {name: getattr(network.config, name) for name in expected}
        received["num_groups"] = expected["num_groups"]  # the network has four, whatever it says
        if received != expected:
            raise ValueError(f"expected a codebook network with codebook_config={expected}, received {received}")
        self.blocks.load_state_dict(network.blocks.state_dict())

    def network_pixels(self, pixel_values: Tensor) -> Tensor:
        """
        What the network reads, `(B, C, 8 * rows, 8 * columns)`: the middles of the patches of normalised images
        `(B, C, H, W)`, side by side, with pixels from 0 to 1 mapped to 0.1 to 0.9 (as `FlavaImageProcessor` does).
        """
        config = self.config.image_config
        rows, columns = config.grid_of(*pixel_values.shape[-2:])
        start, stride = (config.patch_size - config.patch_stride) // 2, config.patch_stride
        pixels = pixel_values[..., start : start + rows * stride, start : start + columns * stride].float()
        statistics = self.config.codebook_image_mean, self.config.codebook_image_deviation
        mean, deviation = (pixels.new_tensor(value)[:, None, None] for value in statistics)
        pixels = pixels * deviation + mean
        size = (8 * rows, 8 * columns)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
        return 0.8 * pixels.clamp(0, 1) + 0.1

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, bool_masked_pos: torch.BoolTensor | None = None) -> torch.LongTensor:
        """As in [`MMETImageCodebook`]; images without masked patches are skipped."""
        check_is_fitted(self, "load its weights with model.image_codebook.load(config.codebook_name_or_path)")
        if bool_masked_pos is not None:
            has_masked = bool_masked_pos.any(dim=1)
            pixel_values, bool_masked_pos = pixel_values[has_masked], bool_masked_pos[has_masked]
            if not len(pixel_values):
                return torch.empty(0, dtype=torch.long, device=pixel_values.device)
        dtype = self.blocks.output.conv.weight.dtype
        with torch.autocast(pixel_values.device.type, enabled=False):
            codes = [
                self.blocks(self.network_pixels(part).to(dtype)).argmax(dim=1).flatten(1)
                for part in pixel_values.split(_DALLE_IMAGES_AT_ONCE)
            ]
        return torch.cat(codes) if bool_masked_pos is None else torch.cat(codes)[bool_masked_pos]


def check_is_fitted(codebook: nn.Module, remedy: str):
    """Raise `ValueError` with a remedy if a codebook is not fitted or loaded yet."""
    if not torch.compiler.is_compiling() and not codebook.is_fitted:
        raise ValueError(
            f"the image codebook has no codes yet: {remedy}, pass mim_labels, or set mim_weight and mmm_image_weight "
            "to 0"
        )
