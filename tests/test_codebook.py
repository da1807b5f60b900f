"""The image codebook against brute force: descriptors, nearest centroids, and k-means on colours one can see."""

import numpy as np
import pytest
import torch

from mmet.codebook import fit_codebook
from modeling_mmet import MMETForPreTraining, MMETImageCodebook


@pytest.fixture
def codebook(config) -> MMETImageCodebook:
    """Six centroids of 4x4 cells in three channels, not fitted."""
    return MMETImageCodebook(config)


def _descriptors_by_loops(images: torch.Tensor, patch: int, stride: int, cell: int) -> np.ndarray:
    """Mean colour of every cell of every patch, `(B, N, C * cells)`: channels first, then cells row by row."""
    pixels = images.double().numpy()
    height, width = pixels.shape[-2:]
    return np.array(
        [
            [
                [
                    channel[top + y : top + y + cell, left + x : left + x + cell].mean()
                    for channel in image
                    for y in range(0, patch, cell)
                    for x in range(0, patch, cell)
                ]
                for top in range(0, height - patch + 1, stride)
                for left in range(0, width - patch + 1, stride)
            ]
            for image in pixels
        ]
    )


@pytest.mark.parametrize(("image_size", "cell"), [((52, 28), 4), ((52, 28), 2), ((55, 31), 4)])
def test_describe__equals_loops(make_config, image_size, cell):
    codebook = MMETImageCodebook(make_config(image={"image_size": image_size}, codebook_cell=cell))
    images = torch.randn(2, 3, *image_size)
    expected = _descriptors_by_loops(images, patch=16, stride=12, cell=cell)
    np.testing.assert_allclose(codebook.describe(images).numpy(), expected, atol=1e-5)


def test_codes__are_the_nearest_centroids(codebook):
    images = torch.randn(3, 3, 52, 28)
    codebook.centroids.copy_(torch.randn_like(codebook.centroids) / 4)
    descriptors = _descriptors_by_loops(images, patch=16, stride=12, cell=4)
    distances = np.linalg.norm(descriptors[:, :, None] - codebook.centroids.numpy()[None, None], axis=-1)
    codes = codebook(images)
    assert codes.dtype == torch.long
    assert np.array_equal(codes.numpy(), distances.argmin(-1))
    assert len(codes.unique()) > 1


def test_codes__need_a_fitted_codebook(codebook):
    assert not codebook.is_fitted
    with pytest.raises(ValueError, match=r"no centroids yet: fit it .* mmet.codebook.fit_codebook"):
        codebook(torch.randn(1, 3, 52, 28))


def _plain_images(levels: torch.Tensor) -> torch.Tensor:
    """Images of one grey level each, with a little noise."""
    return levels[:, None, None, None] + 0.01 * torch.randn(len(levels), 3, 52, 28)


def test_fit_codebook__finds_separate_colours(make_config):
    codebook = MMETImageCodebook(make_config(codebook_size=2))
    levels = torch.tensor([-0.6, 0.9])
    error = fit_codebook(codebook, [_plain_images(levels) for _ in range(3)])
    assert codebook.is_fitted
    assert error < 0.001
    centroids = codebook.centroids[codebook.centroids[:, 0].argsort()]
    torch.testing.assert_close(centroids, levels[:, None].expand(2, 48), atol=0.01, rtol=0)
    codes = codebook(_plain_images(levels))
    assert (codes == codes[:, :1]).all()  # all patches of one colour have one code
    assert codes[0, 0] != codes[1, 0]


def test_fit_codebook__error_is_the_unexplained_share(make_config):
    codebook = MMETImageCodebook(make_config(codebook_size=2))
    images = torch.randn(8, 3, 52, 28)
    error = fit_codebook(codebook, [images])
    descriptors = codebook.describe(images).flatten(0, 1)
    distances = torch.cdist(descriptors, codebook.centroids).amin(dim=1).square()
    total = (descriptors - descriptors.mean(0)).square().sum(1)
    assert error == pytest.approx((distances.mean() / total.mean()).item(), rel=1e-3)
    assert 0 < error < 1


def test_fit_codebook__is_reproducible(config):
    batches = [torch.randn(4, 3, 52, 28)]
    first, second = MMETImageCodebook(config), MMETImageCodebook(config)
    fit_codebook(first, batches, seed=3)
    fit_codebook(second, batches, seed=3)
    assert torch.equal(first.centroids, second.centroids)


def test_fit_codebook__reads_no_more_than_it_needs(codebook):
    read = 0

    def batches():
        nonlocal read
        while True:
            read += 1
            yield torch.randn(2, 3, 52, 28)  # 16 patches

    fit_codebook(codebook, batches(), max_patches=40)
    assert read == 3


@pytest.mark.parametrize(("batches", "received"), [([], 0), ([(0, 3, 52, 28)], 0), ([(1, 3, 28, 28)], 4)])
def test_fit_codebook__too_few_patches(codebook, batches, received):
    with pytest.raises(ValueError, match=f"expected at least 6 patches, .* received {received}"):
        fit_codebook(codebook, [torch.randn(*shape) for shape in batches])


def test_pretraining__labels_come_from_the_codebook(config, make_pretraining_batch):
    model = MMETForPreTraining(config).eval()
    batch = make_pretraining_batch()
    fit_codebook(model.image_codebook, [batch["pixel_values"]])
    codes = model.image_codebook(batch["pixel_values"])
    inputs = {name: batch[name] for name in ("pixel_values", "bool_masked_pos")}
    torch.testing.assert_close(model(**inputs).loss, model(**inputs, mim_labels=codes).loss)


def test_pretraining__unfitted_codebook_without_labels(config, make_pretraining_batch):
    batch = make_pretraining_batch()
    inputs = {name: batch[name] for name in ("pixel_values", "bool_masked_pos")}
    with pytest.raises(ValueError, match=r"pass mim_labels, or set mim_weight and mmm_image_weight to 0"):
        MMETForPreTraining(config)(**inputs)


def test_checkpoint__carries_the_centroids(config, tmp_path):
    model = MMETForPreTraining(config)
    fit_codebook(model.image_codebook, [torch.randn(2, 3, 52, 28)])
    model.save_pretrained(tmp_path)
    loaded = MMETForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(loaded.image_codebook.centroids, model.image_codebook.centroids)
