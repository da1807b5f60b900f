"""The processors against Pillow and plain loops: resizing, image kinds, tokens and silhouettes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
    with pytest.raises(ValueError, match=f"expected one person mask per image, received {num_masks} for 2 images"):
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


@settings(max_examples=30, deadline=None)
@given(
    target=st.tuples(st.integers(16, 90), st.integers(16, 60)),
    source=st.tuples(st.integers(1, 150), st.integers(1, 100)),
    stride=st.integers(1, 16),
    seed=st.integers(0, 1_000),
)
def test_person_patch_coverage__equals_loops_over_the_resized_mask(tokenizer, target, source, stride, seed):
    """For masks that are larger, smaller, or larger in one direction and smaller in the other."""
    image_processor = MMETImageProcessor(
        size={"height": target[0], "width": target[1]}, patch_size=8, patch_stride=stride
    )
    mask = Image.fromarray(np.random.default_rng(seed).random(source) < 0.5).convert("L")
    resized = np.asarray(mask.resize((target[1], target[0]), Image.Resampling.BOX))
    (coverage,) = MMETProcessor(image_processor, tokenizer).person_patch_coverage([mask])
    assert coverage.tolist() == _coverage_by_loops(resized, 8, stride)  # to the last bit: shares are whole 64ths


@settings(max_examples=25, deadline=None)
@given(
    target=st.tuples(st.integers(16, 100), st.integers(16, 60)),
    source=st.tuples(st.integers(8, 150), st.integers(8, 100)),
    resample=st.sampled_from([Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]),
    seed=st.integers(0, 1_000),
)
def test_exact_resize_off__is_pillows_to_two_levels(target, source, resample, seed):
    """
    Of pictures as smooth as crops are; of noise, filters overshoot and the order of the directions shows. Pillow 13
    may take the rows first; before it columns always came first, which is spelt out here, one direction a call.
    """
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8))
    picture = coarse.resize(source[::-1], Image.Resampling.BILINEAR)
    columns_resized = picture.resize((target[1], source[0]), resample)
    expected = np.asarray(columns_resized.resize(target[::-1], resample), dtype=np.float32)
    size = {"height": target[0], "width": target[1]}
    processor = MMETImageProcessor(size=size, resample=resample, do_rescale=False, do_normalize=False)
    (integers,) = processor(picture, return_tensors="np", exact_resize=False)["pixel_values"]
    difference = abs(integers.transpose(1, 2, 0) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_exact_resize_off__other_filters_and_kinds_stay_exact(crop):
    gray, floats = crop.convert("L"), np.asarray(crop, dtype=np.float32) / 255
    for image, options in (
        (crop, {"resample": Image.Resampling.LANCZOS}),
        (gray, {"do_convert_rgb": False, "do_normalize": False}),
        (floats, {"do_rescale": False}),
        (crop.resize((28, 52)), {}),
    ):
        processor = MMETImageProcessor(size={"height": 52, "width": 28}, **options)
        exact = processor(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(processor(image, return_tensors="pt", exact_resize=False)["pixel_values"], exact)


def test_exact_resize__is_the_default_and_is_saved(tmp_path):
    assert MMETImageProcessor().exact_resize
    MMETImageProcessor(exact_resize=False).save_pretrained(tmp_path)
    assert not AutoImageProcessor.from_pretrained(tmp_path).exact_resize


# --- per-call options, kinds of input and what goes wrong ------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
def test_size__of_one_call(processor, crop, nested):
    """A call's size reaches pictures and silhouettes alike, and leaves the processor as it was."""
    silhouette = np.zeros((76, 40), dtype=np.uint8)
    silhouette[11:70, 5:31] = 255
    options = {"size": {"height": 76, "width": 40}, "patch_stride": 6, "patch_size": 8}
    options = {"images_kwargs": options} if nested else options
    inputs = {"images": [crop], "person_masks": [Image.fromarray(silhouette)], "return_tensors": "pt"}
    features = processor(**inputs, **options)
    other = MMETImageProcessor(size={"height": 76, "width": 40}, patch_stride=6, patch_size=8)
    assert torch.equal(features["pixel_values"], other(crop, return_tensors="pt")["pixel_values"])
    assert features["person_patch_coverage"][0].tolist() == pytest.approx(_coverage_by_loops(silhouette, 8, 6))
    assert processor(**inputs)["person_patch_coverage"].shape == (1, 8)


def test_person_masks__follow_images_that_are_not_resized(processor, crop):
    mask = Image.new("L", crop.size, 255)
    features = processor(images=[crop], person_masks=[mask], do_resize=False, return_tensors="pt")
    rows, columns = ((side - 16) // 12 + 1 for side in (crop.height, crop.width))
    assert features["person_patch_coverage"].tolist() == [[1.0] * (rows * columns)]


@pytest.mark.parametrize(
    "to_kind",
    [lambda mask: np.asarray(mask), lambda mask: np.asarray(mask) > 127, lambda mask: torch.tensor(np.asarray(mask))],
    ids=["bytes", "booleans", "tensor"],
)
def test_person_masks__as_arrays(processor, crop, to_kind):
    mask = Image.fromarray(np.where(np.arange(61)[:, None] < 30, 255, 0).astype(np.uint8).repeat(37, axis=1))
    inputs = {"images": crop, "return_tensors": "pt"}
    expected = processor(**inputs, person_masks=[mask])["person_patch_coverage"]
    assert torch.equal(processor(**inputs, person_masks=to_kind(mask))["person_patch_coverage"], expected)
    assert 0 < expected.mean() < 1


def test_return_tensors__numpy_everywhere(processor, crop):
    features = processor(images=[crop], text=["a man"], person_masks=[crop.convert("L")], return_tensors="np")
    assert {type(value) for value in features.values()} == {np.ndarray}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_images__every_mode_of_pillow(processor, crop, mode):
    picture = crop.convert(mode)
    expected = picture.convert("RGBA").convert("RGB") if mode in ("LA", "RGBA") else picture.convert("RGB")
    torch.testing.assert_close(_pixels(processor, picture), _by_hand(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "to_kind",
    [lambda gray: gray, lambda gray: [gray], lambda gray: torch.tensor(gray), lambda gray: gray[..., None]],
    ids=["one", "list", "tensor", "with channel"],
)
def test_images__grey_arrays(processor, crop, to_kind):
    gray = np.asarray(crop.convert("L"))
    expected = _by_hand(Image.fromarray(gray))
    torch.testing.assert_close(_pixels(processor, to_kind(gray)), expected, atol=1e-2, rtol=0)


def test_images__channels_first_on_request(processor):
    ambiguous = np.random.default_rng(0).integers(0, 256, (3, 40, 3), dtype=np.uint8)  # 3 rows or 3 channels?
    received = _pixels(processor, ambiguous, input_data_format="channels_first")
    assert torch.equal(received, _pixels(processor, ambiguous.transpose(1, 2, 0), input_data_format="channels_last"))
    assert not torch.equal(received, _pixels(processor, ambiguous, input_data_format="channels_last"))


@pytest.mark.parametrize("exact_resize", [True, False])
def test_images__channels_last_on_request(processor, crop, exact_resize):
    """Arrays, read-only ones, views with strides of their own and very small ones, as the pictures they are."""
    arrays = [np.array(crop), np.asarray(crop), np.array(crop)[::-1, ::2], np.array(crop)[:3]]
    options = {"exact_resize": exact_resize}
    received = _pixels(processor, arrays, input_data_format="channels_last", **options)
    assert torch.equal(received, _pixels(processor, [Image.fromarray(array) for array in arrays], **options))


def test_images__a_batch_tensor_is_its_images(processor):
    batch = torch.randint(0, 256, (3, 3, 40, 20), dtype=torch.uint8)
    assert torch.equal(_pixels(processor, batch), torch.cat([_pixels(processor, image) for image in batch]))


def test_text__a_batch_is_its_sentences(processor):
    text = ("a man in red", "a woman with a blue bag", "a coat")
    together = processor(text=text, return_tensors="pt")
    for index, sentence in enumerate(text):
        alone = processor(text=sentence, return_tensors="pt")
        length = alone["input_ids"].shape[1]
        assert torch.equal(together["input_ids"][index, :length], alone["input_ids"][0])
        assert together["input_ids"][index, length:].tolist() == [0] * (together["input_ids"].shape[1] - length)
        assert together["attention_mask"][index].sum() == length


def test_text__as_long_as_the_tokenizer_allows(processor):
    long, short = "a man " * 20, "a man"
    features = processor(text=[long, short], return_tensors="pt")
    assert features["input_ids"].shape == (2, 12)
    assert features["input_ids"][0, -1] == 3  # [SEP] stays
    shorter = processor(text=[long, short], max_length=6, return_tensors="pt")
    assert shorter["input_ids"].shape == (2, 6)
    fixed = processor(text=[short], padding="max_length", max_length=9, return_tensors="pt")
    assert fixed["input_ids"].shape == (1, 9)
    whole = processor(text=[short, long], truncation=False, padding=False)
    assert [len(ids) for ids in whole["input_ids"]] == [4, 42]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"images": []}, "at least one image"),
        ({"text": []}, "at least one sentence"),
        ({"images": [np.zeros((40, 20, 3), np.uint8)], "size": {"shortest_edge": 40}}, "a size of height and width"),
    ],
)
def test_wrong_input__is_a_clear_error(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs, return_tensors="pt")


def test_image_processor__settings_survive_a_round_trip(tmp_path):
    image_processor = MMETImageProcessor(
        size={"height": 40, "width": 20}, image_std=[0.2, 0.3, 0.4], resample=2, do_normalize=False, patch_size=8
    )
    image_processor.save_pretrained(tmp_path)
    for loaded in (MMETImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is MMETImageProcessor
        assert loaded.to_dict() == image_processor.to_dict()
    changed = MMETImageProcessor.from_pretrained(tmp_path, patch_stride=4, do_normalize=True)
    assert (changed.patch_size, changed.patch_stride, changed.do_normalize) == (8, 4, True)
