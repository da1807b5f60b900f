"""
The image codebooks: k-means against brute force (descriptors, nearest centroids, colours one can see), and DALL-E's
network against transformers' own.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from transformers import FlavaConfig, FlavaForPreTraining, FlavaImageCodebook, FlavaImageCodebookConfig
from transformers.models.flava.image_processing_pil_flava import FlavaImageProcessorPil

from codebooks_mmet import nearest_centroids
from mmet.training.codebook import fit_codebook, num_images_needed
from modeling_mmet import MMETDalleCodebook, MMETForPreTraining, MMETImageCodebook

DALLE = {"num_blocks_per_group": 1, "hidden_size": 4, "vocab_size": 11}


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


def test_codes__of_masked_patches_alone(codebook):
    images, masked = torch.randn(3, 3, 52, 28), torch.rand(3, 8) < 0.4
    codebook.centroids.copy_(torch.randn_like(codebook.centroids) / 4)
    assert torch.equal(codebook(images, masked), codebook(images)[masked])
    assert codebook(images, torch.zeros_like(masked)).shape == (0,)


_FEW_VALUES = st.integers(-2, 2)  # many centroids at the same distance, and the same centroid twice


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.float32, (7, 3), elements=_FEW_VALUES),
    arrays(np.float32, (9, 3), elements=_FEW_VALUES),
    st.sampled_from([1.0, 0.1, 1e3]),
)
def test_nearest_centroids__first_of_the_nearest(descriptors, centroids, scale):
    squared = np.square(descriptors.astype(int)[:, None] - centroids.astype(int)[None]).sum(-1)  # without rounding
    codes = nearest_centroids(torch.from_numpy(descriptors) * scale, torch.from_numpy(centroids) * scale)
    assert np.array_equal(codes.numpy(), squared.argmin(1))


def test_nearest_centroids__tells_what_float32_cannot():
    # Far from the origin, where |c|^2 - 2 d.c loses in float32 the digits in which these centroids differ.
    centroids = 100 + 1e-3 * torch.randn(64, 48)
    descriptors = centroids[torch.randint(64, (500,))] + 1e-3 * torch.randn(500, 48)
    distances = np.linalg.norm(descriptors.double().numpy()[:, None] - centroids.double().numpy()[None], axis=-1)
    assert np.array_equal(nearest_centroids(descriptors, centroids).numpy(), distances.argmin(1))
    in_float32 = (centroids.square().sum(-1) - 2 * descriptors @ centroids.T).argmin(1)
    assert (in_float32.numpy() != distances.argmin(1)).mean() > 0.1


def test_nearest_centroids__rounding_breaks_no_tie():
    # Seen from grey, all rearrangements of one vector are equally far, whatever the order of summation says.
    vector = torch.randn(48)
    rearranged = torch.stack([vector[torch.randperm(48)] for _ in range(31)])
    centroids = torch.cat([vector[None] + 100, rearranged])
    descriptors = torch.linspace(-0.9, 0.9, 200)[:, None].expand(-1, 48)
    assert nearest_centroids(descriptors, centroids).unique().tolist() == [1]


def test_nearest_centroids__many_blocks(monkeypatch):
    descriptors, centroids = torch.randn(23, 5), torch.randn(6, 5)
    expected = nearest_centroids(descriptors, centroids)
    monkeypatch.setattr("codebooks_mmet._SCORES_AT_ONCE", 24)
    assert torch.equal(nearest_centroids(descriptors, centroids), expected)


def test_codes__need_a_fitted_codebook(codebook):
    assert not codebook.is_fitted
    with pytest.raises(ValueError, match=r"no codes yet: fit it .* mmet.training.codebook.fit_codebook"):
        codebook(torch.randn(1, 3, 52, 28))


def _plain_images(levels: torch.Tensor) -> torch.Tensor:
    """Images of one grey level each, with a little noise."""
    return levels[:, None, None, None] + 0.01 * torch.randn(len(levels), 3, 52, 28)


def test_fit_codebook__finds_separate_colours(make_config):
    codebook = MMETImageCodebook(make_config(codebook_size=2))
    levels = torch.tensor([-0.6, 0.9])
    fit = fit_codebook(codebook, [_plain_images(levels) for _ in range(3)])
    assert codebook.is_fitted
    assert fit.variance_left < 0.001
    assert (fit.num_images, fit.num_patches) == (6, 48)
    assert (fit.perplexity, fit.majority_share) == (pytest.approx(2), 0.5)
    centroids = codebook.centroids[codebook.centroids[:, 0].argsort()]
    torch.testing.assert_close(centroids, levels[:, None].expand(2, 48), atol=0.01, rtol=0)
    codes = codebook(_plain_images(levels))
    assert (codes == codes[:, :1]).all()  # all patches of one colour have one code
    assert codes[0, 0] != codes[1, 0]


def test_fit_codebook__report_is_of_the_codes_it_made(make_config):
    codebook = MMETImageCodebook(make_config(codebook_size=5))
    images = torch.randn(8, 3, 52, 28) * torch.linspace(0.3, 3, 8)[:, None, None, None]
    fit = fit_codebook(codebook, [images])
    descriptors = codebook.describe(images).flatten(0, 1)
    distances = torch.cdist(descriptors, codebook.centroids).amin(dim=1).square()
    total = (descriptors - descriptors.mean(0)).square().sum(1)
    assert fit.variance_left == pytest.approx((distances.mean() / total.mean()).item(), rel=1e-3)
    assert 0 < fit.variance_left < 1
    shares = codebook(images).flatten().bincount(minlength=5) / 64
    assert fit.majority_share == pytest.approx(shares.max().item())
    assert fit.perplexity == pytest.approx(torch.distributions.Categorical(shares).perplexity().item(), rel=1e-4)
    assert "64 patches of 8 images" in str(fit)


def test_fit_codebook__draws_patches_of_every_image(make_config):
    codebook = MMETImageCodebook(make_config(codebook_size=4))
    levels = torch.tensor([-0.9, -0.3, 0.3, 0.9])
    fit = fit_codebook(codebook, [_plain_images(levels)], patches_per_image=2)
    assert (fit.num_images, fit.num_patches) == (4, 8)
    torch.testing.assert_close(codebook.centroids.mean(1).sort().values, levels, atol=0.01, rtol=0)


def test_fit_codebook__images_far_from_the_origin(make_config):
    codebook = MMETImageCodebook(make_config(codebook_size=2))
    levels = torch.tensor([999.9, 1000.1])
    fit_codebook(codebook, [_plain_images(levels) for _ in range(3)])
    torch.testing.assert_close(codebook.centroids.mean(1).sort().values, levels, atol=0.01, rtol=0)


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
    read = 0
    fit = fit_codebook(codebook, batches())
    assert fit.num_images == num_images_needed(num_codes=6, num_patches=8) == 2 * read == 192


@pytest.mark.parametrize(("batches", "received"), [([], 0), ([(0, 3, 52, 28)], 0), ([(1, 3, 28, 28)], 4)])
def test_fit_codebook__too_few_patches(codebook, batches, received):
    with pytest.raises(ValueError, match=f"expected at least 6 patches, .* received {received}"):
        fit_codebook(codebook, [torch.randn(*shape) for shape in batches])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_fit_codebook__pixels_that_are_no_numbers(codebook, value):
    images = torch.randn(4, 3, 52, 28)
    images[2, 1, 0, 0] = value
    with pytest.raises(ValueError, match="finite pixels, received NaN or infinite ones in 1 of 32 patches"):
        fit_codebook(codebook, [images])
    assert not codebook.is_fitted


def test_fit_codebook__images_that_are_all_alike(codebook):
    with pytest.raises(ValueError, match=r"expected at least 6 different patches, .* received 1 in 40 images"):
        fit_codebook(codebook, [torch.full((40, 3, 52, 28), 0.3)])


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


def test_pretraining__codebook_is_not_run_without_need(make_config, make_pretraining_batch, monkeypatch):
    def run(self, *arguments):
        raise AssertionError("the codebook was run")

    monkeypatch.setattr(MMETImageCodebook, "forward", run)
    batch = make_pretraining_batch()
    model = MMETForPreTraining(make_config())
    assert model(**batch).losses["mmm_image"] is not None  # the labels were given
    del batch["mim_labels"]
    model = MMETForPreTraining(make_config(mmm_image_weight=0.0))
    assert model(**batch).losses["mmm_text"] is not None
    del batch["bool_masked_pos"]
    assert MMETForPreTraining(make_config())(**batch).loss is not None


# DALL-E's codes


@pytest.fixture(scope="session")
def network(use_all_codes) -> FlavaImageCodebook:
    """A small random codebook network of 11 codes, all of which are used."""
    generator = torch.Generator().manual_seed(5)
    network = FlavaImageCodebook(FlavaImageCodebookConfig(**DALLE))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    use_all_codes(network)
    return network


@pytest.fixture(scope="session")
def network_folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("codebook")
    network.save_pretrained(folder)
    return folder


@pytest.fixture
def make_dalle_config(make_config):
    def build(**kwargs):
        return make_config(**{"codebook_type": "dalle", "codebook_size": None, "codebook_config": DALLE, **kwargs})

    return build


@pytest.fixture
def dalle(make_dalle_config, network_folder) -> MMETDalleCodebook:
    codebook = MMETDalleCodebook(make_dalle_config())
    codebook.load(network_folder)
    return codebook


def test_dalle__the_middle_of_each_patch_is_its_token(dalle, network, make_patchwork):
    # Patches of 16 pixels every 12: their middles are 12 x 12 pixels each, from pixel 2 on, 48 x 24 in all.
    images = make_patchwork(2, 52, 28) * 2 - 1
    middles = torch.nn.functional.interpolate(
        images[..., 2:50, 2:26] / 2 + 0.5, (32, 16), mode="bicubic", antialias=True
    ).clamp(0, 1)
    expected = network.get_codebook_indices(0.8 * middles + 0.1).flatten(1)
    assert torch.equal(dalle(images), expected)
    assert len(expected.unique()) > 3


def test_dalle__one_patch_changes_its_own_token_most(dalle):
    images = torch.zeros(1, 3, 52, 28)
    changed = images.clone()
    changed[..., 14:26, 14:26] = 1.0  # the middle of the patch in row 1, column 1
    difference = (dalle.network_pixels(changed) - dalle.network_pixels(images)).abs().sum(1)[0]
    cells = difference.unflatten(0, (4, 8)).unflatten(2, (2, 8)).sum((1, 3))
    assert cells.flatten().argmax() == 3
    assert cells[1, 1] > 0.9 * cells.sum()


def test_dalle__plain_grid_is_as_flava_does_it(make_dalle_config, network, network_folder, make_patchwork):
    """With patches of 8 pixels side by side there is nothing to resize: the same as FLAVA's own image processor."""
    codebook = MMETDalleCodebook(
        make_dalle_config(
            image={"image_size": 32, "patch_size": 8, "patch_stride": 8},
            codebook_image_mean=(0.4, 0.5, 0.6),
            codebook_image_deviation=(0.2, 0.3, 0.4),
        )
    )
    codebook.load(network_folder)
    picture = Image.fromarray((make_patchwork(1, 32, 32)[0] * 255).byte().permute(1, 2, 0).numpy())
    processor = FlavaImageProcessorPil(codebook_size=32, codebook_crop_size=32)
    expected = processor(picture, return_codebook_pixels=True, return_tensors="pt").codebook_pixel_values
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    normalised = (pixels - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    torch.testing.assert_close(codebook.network_pixels(normalised[None]), expected.float(), atol=1e-6, rtol=0)
    codes = network.get_codebook_indices(expected.float()).flatten(1)
    assert torch.equal(codebook(normalised[None]), codes)
    assert len(codes.unique()) > 3


def test_dalle__masked_patches_alone(dalle, make_patchwork):
    images, masked = make_patchwork(20, 52, 28), torch.rand(20, 8) < 0.2
    masked[3] = False
    assert torch.equal(dalle(images, masked), dalle(images)[masked])
    assert dalle(images, torch.zeros_like(masked)).shape == (0,)


def test_dalle__pictures_without_masked_patches_are_not_read(dalle):
    images, masked = torch.rand(4, 3, 52, 28), torch.zeros(4, 8, dtype=torch.bool)
    masked[2, 5] = True
    read = []
    hook = dalle.blocks.register_forward_pre_hook(lambda module, inputs: read.append(len(inputs[0])))
    dalle(images, masked)
    hook.remove()
    assert read == [1]


def test_dalle__has_no_codes_before_load(make_dalle_config, make_pretraining_batch):
    model = MMETForPreTraining(make_dalle_config())
    assert not model.image_codebook.is_fitted
    batch = make_pretraining_batch()
    with pytest.raises(ValueError, match=r"load its weights with model\.image_codebook\.load.*pass mim_labels"):
        model(pixel_values=batch["pixel_values"], bool_masked_pos=batch["bool_masked_pos"])


def test_dalle__checkpoint_holds_the_network_and_needs_nothing_else(
    make_dalle_config, network, make_pretraining_batch, tmp_path
):
    config = make_dalle_config(codebook_name_or_path=str(tmp_path / "not on this machine"))
    model = MMETForPreTraining(config).eval()
    model.image_codebook.load(network)
    model.save_pretrained(tmp_path)
    loaded, problems = MMETForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(problems.values())
    batch = make_pretraining_batch()
    inputs = {name: batch[name] for name in ("pixel_values", "bool_masked_pos")}
    assert torch.equal(loaded(**inputs).loss, model(**inputs).loss)
    assert loaded.image_codebook.is_fitted


def test_dalle__keeps_its_codes_in_half_precision(make_dalle_config, network, make_patchwork, tmp_path):
    model = MMETForPreTraining(make_dalle_config())
    model.image_codebook.load(network)
    model.save_pretrained(tmp_path)
    half = MMETForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    images = make_patchwork(8, 52, 28)
    assert torch.equal(half.image_codebook(images), model.image_codebook(images))


def test_dalle__is_never_trained(make_dalle_config, network, make_pretraining_batch, tmp_path):
    model = MMETForPreTraining(make_dalle_config())
    model.image_codebook.load(network)
    model.save_pretrained(tmp_path)
    for each in (model, MMETForPreTraining.from_pretrained(tmp_path)):
        trained = {name for name, parameter in each.named_parameters() if parameter.requires_grad}
        assert not [name for name in trained if name.startswith("image_codebook")]
        batch = make_pretraining_batch()
        each.train()(pixel_values=batch["pixel_values"], bool_masked_pos=batch["bool_masked_pos"]).loss.backward()
        assert all(parameter.grad is None for parameter in each.image_codebook.parameters())


def test_dalle__resized_model_reads_the_new_patches(make_dalle_config, network):
    model = MMETForPreTraining(make_dalle_config())
    model.image_codebook.load(network)
    model.resize_image((88, 40), patch_stride=8)
    assert model.image_codebook(torch.rand(2, 3, 88, 40)).shape == (2, 10 * 4)


def test_dalle__load_refuses_what_is_no_codebook(make_dalle_config, network_folder, tmp_path):
    other = MMETDalleCodebook(make_dalle_config(codebook_config={**DALLE, "vocab_size": 12}))
    with pytest.raises(ValueError, match=r"codebook_config=.*'vocab_size': 12.*received .*'vocab_size': 11"):
        other.load(network_folder)
    with pytest.raises(OSError, match=r"nowhere.*codebook_name_or_path.*codebook_type='kmeans'"):
        other.load(tmp_path / "nowhere")
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    FlavaForPreTraining(
        FlavaConfig(
            image_config={**tiny, "image_size": 16},
            text_config={**tiny, "vocab_size": 9},
            multimodal_config=tiny,
            image_codebook_config=DALLE,
            hidden_size=8,
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not the checkpoint of a FlavaImageCodebook"):
        other.load(tmp_path)
    assert not other.is_fitted
