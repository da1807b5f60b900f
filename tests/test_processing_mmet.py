"""The processors against Pillow and plain loops: resizing, image kinds, tokens and silhouettes."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

import mmet  # noqa: F401 (registers the Auto classes)
from configuration_mmet import MMETConfig
from processing_mmet import MMETImageProcessor, MMETProcessor

HEIGHT, WIDTH = 52, 28


def _by_hand(crop: Image.Image) -> torch.Tensor:
    """Bicubic resize by Pillow, then [0, 255] to [-1, 1]: `(1, 3, H, W)`."""
    resized = np.asarray(crop.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float64)
    return torch.tensor((resized / 255 - 0.5) / 0.5, dtype=torch.float32).permute(2, 0, 1).unsqueeze(0)


def _pixels(processor: MMETProcessor, images, **kwargs) -> torch.Tensor:
    return processor(images=images, return_tensors="pt", **kwargs)["pixel_values"]


def test_images__equal_pillow_and_manual_normalisation(processor, crop):
    pixel_values = _pixels(processor, [crop])
    assert pixel_values.dtype == torch.float32
    torch.testing.assert_close(pixel_values, _by_hand(crop), atol=1e-6, rtol=0)


def test_images__other_mean_and_standard_deviation(crop):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = MMETImageProcessor(size={"height": HEIGHT, "width": WIDTH}, image_mean=mean, image_std=std)
    expected = (_by_hand(crop) / 2 + 0.5 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    received = processor(images=crop, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(received, expected, atol=1e-5, rtol=0)


def test_images__switched_off_steps(processor, crop):
    raw = _pixels(processor, crop, do_resize=False, do_rescale=False, do_normalize=False)
    assert torch.equal(raw[0].permute(1, 2, 0), torch.from_numpy(np.asarray(crop).astype(np.float32)))
    rescaled = _pixels(processor, crop, do_resize=False, do_normalize=False)
    torch.testing.assert_close(rescaled, raw / 255)


def test_images__a_batch_is_its_images(processor, crop):
    mirrored = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((90, 20))
    together = _pixels(processor, [crop, mirrored])
    assert torch.equal(together, torch.cat([_pixels(processor, [crop]), _pixels(processor, [mirrored])]))


def test_images__shapes_must_agree_without_resizing(processor, crop):
    with pytest.raises(ValueError, match="images of one batch must have one shape; received"):
        _pixels(processor, [crop, crop.resize((10, 20))], do_resize=False)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "YCbCr"])
def test_images__pil_modes(processor, crop, mode):
    converted = crop.convert(mode)
    torch.testing.assert_close(_pixels(processor, converted), _by_hand(converted), atol=1e-6, rtol=0)


def test_images__transparency_shows_white(processor, crop):
    transparent = crop.convert("RGBA")
    transparent.putalpha(Image.new("L", crop.size, 0))
    assert torch.equal(_pixels(processor, transparent), torch.ones(1, 3, HEIGHT, WIDTH))
    opaque = crop.convert("RGBA")
    torch.testing.assert_close(_pixels(processor, opaque), _by_hand(crop), atol=1e-6, rtol=0)
    half = crop.convert("RGBA")
    half.putalpha(Image.new("L", crop.size, 128))
    assert torch.equal(_pixels(processor, half), _pixels(processor, np.asarray(half)))


def test_images__sixteen_bits_are_scaled_not_clipped(processor, crop):
    gray = np.asarray(crop.convert("L"))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)  # 255 becomes 65535
    assert deep.mode == "I;16"
    assert torch.equal(_pixels(processor, deep), _pixels(processor, Image.fromarray(gray)))


def test_images__one_channel_where_rgb_is_not_wanted(processor, crop):
    gray = crop.convert("L")
    resized = np.asarray(gray.convert("F").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    received = _pixels(processor, gray, do_convert_rgb=False, do_normalize=False)
    assert received.shape == (1, 1, HEIGHT, WIDTH)
    torch.testing.assert_close(received[0, 0], torch.from_numpy(resized / 255), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "to_kind",
    [
        lambda array: array,
        lambda array: array.transpose(2, 0, 1),
        lambda array: torch.from_numpy(array),
        lambda array: torch.from_numpy(array.transpose(2, 0, 1).copy()),
        lambda array: [array],
        lambda array: array[None],
    ],
    ids=["numpy HWC", "numpy CHW", "torch HWC", "torch CHW", "list", "numpy BHWC"],
)
def test_images__arrays_and_tensors(processor, crop, to_kind):
    array = np.asarray(crop).copy()
    assert torch.equal(_pixels(processor, to_kind(array)), _pixels(processor, crop))


def test_images__floats_in_unit_range(processor, crop):
    floats = np.asarray(crop, dtype=np.float32) / 255
    received = _pixels(processor, floats, do_rescale=False)
    for channel in range(3):
        resized = Image.fromarray(floats[..., channel]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.asarray(resized) * 2 - 1)
        torch.testing.assert_close(received[0, channel], expected, atol=1e-5, rtol=0)


def test_text__equals_the_tokenizer_without_token_types(processor, tokenizer):
    text = ["a man in red", "a woman with a blue bag"]
    features = processor(text=text, padding=True, return_tensors="pt")
    assert set(features) == {"input_ids", "attention_mask"}
    expected = tokenizer(text, padding=True, return_tensors="pt")
    assert torch.equal(features["input_ids"], expected["input_ids"])
    assert features["input_ids"][0].tolist() == [2, 5, 6, 8, 9, 3, 0, 0]  # [CLS] a man in red [SEP] [PAD] [PAD]
    assert features["attention_mask"].tolist() == [[1] * 6 + [0] * 2, [1] * 8]


def test_text__truncated_on_request(processor):
    features = processor(text=["a man " * 20], truncation=True, max_length=12, return_tensors="pt")
    assert features["input_ids"].shape == (1, 12)


def test_images_and_text__together(processor, crop):
    features = processor(images=[crop], text=["a man"], return_tensors="pt")
    assert set(features) == {"pixel_values", "input_ids", "attention_mask"}


def test_nothing_given(processor):
    with pytest.raises(ValueError, match="nothing to process: give images, text or both"):
        processor()


@pytest.mark.parametrize("num_masks", [0, 1, 3])
def test_person_masks__one_an_image(processor, crop, num_masks):
    masks = [Image.new("L", crop.size)] * num_masks
    with pytest.raises(ValueError, match=f"expected one person mask an image, received {num_masks} for 2 images"):
        processor(images=[crop, crop], person_masks=masks, return_tensors="pt")


def test_person_masks__need_images(processor):
    with pytest.raises(ValueError, match="received 1 for 0 images"):
        processor(text=["a man"], person_masks=[None], return_tensors="pt")


def _coverage_by_loops(silhouette: np.ndarray, patch: int, stride: int) -> list[float]:
    """Share of person pixels, patch by patch in row-major order."""
    height, width = silhouette.shape
    return [
        float(np.mean([silhouette[y, x] > 127 for y in range(top, top + patch) for x in range(left, left + patch)]))
        for top in range(0, height - patch + 1, stride)
        for left in range(0, width - patch + 1, stride)
    ]


@pytest.mark.parametrize(("patch_size", "patch_stride"), [(16, 12), (16, 16), (8, 4)])
def test_person_patch_coverage__equals_loops(tokenizer, crop, patch_size, patch_stride):
    image_processor = MMETImageProcessor(
        size={"height": HEIGHT, "width": WIDTH}, patch_size=patch_size, patch_stride=patch_stride
    )
    processor = MMETProcessor(image_processor, tokenizer)
    silhouette = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    silhouette[7:45, 3:17] = 255
    silhouette[10:14] = 127  # not above the threshold
    features = processor(images=[crop, crop], person_masks=[Image.fromarray(silhouette), None], return_tensors="pt")
    coverage = features["person_patch_coverage"]
    rows, columns = image_processor.patch_grid
    assert coverage.shape == (2, rows * columns)
    assert coverage[0].tolist() == pytest.approx(_coverage_by_loops(silhouette, patch_size, patch_stride))
    assert coverage[1].isnan().all()


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_person_patch_coverage__of_a_larger_mask(processor, mode):
    left_half = np.zeros((4 * HEIGHT, 4 * WIDTH), dtype=np.uint8)
    left_half[:, : 2 * WIDTH] = 255
    coverage = processor.person_patch_coverage([Image.fromarray(left_half).convert(mode)])
    # Patches span the columns 0-15 and 12-27 of 28, of which 0-13 are on the person.
    assert coverage.reshape(4, 2).tolist() == [[14 / 16, 2 / 16]] * 4


def test_person_patch_coverage__without_any_mask(processor):
    assert processor.person_patch_coverage([None, None]).isnan().all()


@pytest.mark.parametrize(
    ("size", "patch_size", "patch_stride"), [((256, 128), 16, 12), ((256, 128), 16, 16), ((61, 47), 16, 12)]
)
def test_patch_grid__agrees_with_the_model(size, patch_size, patch_stride):
    options = {"patch_size": patch_size, "patch_stride": patch_stride}
    image_processor = MMETImageProcessor(size={"height": size[0], "width": size[1]}, **options)
    config = MMETConfig(image_config={"image_size": size, **options}, codebook_cell=4)
    assert image_processor.patch_grid == config.image_config.patch_grid


def test_defaults__agree_with_the_model():
    assert MMETImageProcessor().patch_grid == MMETConfig().image_config.patch_grid == (21, 10)


def test_save_and_load__same_features(tokenizer, crop, tmp_path):
    image_processor = MMETImageProcessor(size={"height": 40, "width": 20}, image_mean=[0.4, 0.5, 0.6], patch_stride=8)
    processor = MMETProcessor(image_processor, tokenizer)
    processor.save_pretrained(tmp_path)
    inputs = {"images": [crop], "text": ["a man in blue"], "person_masks": [crop.convert("L")], "return_tensors": "pt"}
    expected = processor(**inputs)
    for loaded in (MMETProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, MMETProcessor)
        features = loaded(**inputs)
        assert set(features) == set(expected)
        assert all(torch.equal(features[name], expected[name]) for name in expected)
    image_processor.save_pretrained(tmp_path / "image")
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "image")
    assert torch.equal(loaded(crop, return_tensors="pt")["pixel_values"], expected["pixel_values"])
    assert loaded.patch_grid == image_processor.patch_grid
