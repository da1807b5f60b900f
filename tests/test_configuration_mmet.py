"""The configuration: the paper's defaults, a lossless round trip, and errors that say what was expected."""

import json

import pytest
from transformers import AutoConfig, PreTrainedConfig

import mmet  # noqa: F401 (registers the Auto classes)
from configuration_mmet import MMETConfig, MMETImageConfig, MMETMultimodalConfig, MMETTextConfig


def test_defaults__are_the_papers():
    config = MMETConfig()
    assert list(config.image_config.image_size) == [256, 128]
    assert (config.image_config.patch_size, config.image_config.patch_stride) == (16, 12)
    assert config.image_config.patch_grid == (21, 10)
    assert config.image_config.num_patches == 210
    for encoder in (config.image_config, config.text_config, config.multimodal_config):
        assert (encoder.hidden_size, encoder.num_hidden_layers, encoder.num_attention_heads) == (768, 12, 12)
        assert encoder.intermediate_size == 3072
    assert (config.text_config.vocab_size, config.text_config.max_position_embeddings) == (30522, 512)
    assert config.identity_pooling == "multimodal"


def test_defaults__all_losses_on():
    names = ("mim", "mlm", "mmm_image", "mmm_text", "itm", "global_contrastive", "identity", "triplet")
    assert [getattr(MMETConfig(), f"{name}_weight") for name in names] == [1.0] * 8


@pytest.mark.parametrize(
    ("image_size", "patch_size", "patch_stride", "grid"),
    [
        ((256, 128), 16, 16, (16, 8)),  # a plain ViT
        ((384, 128), 16, 12, (31, 10)),
        (224, 16, 16, (14, 14)),  # one number is a square
        ((27, 16), 16, 12, (1, 1)),  # the remainder is cut off
        ((28, 16), 16, 12, (2, 1)),
    ],
)
def test_patch_grid(image_size, patch_size, patch_stride, grid):
    config = MMETImageConfig(image_size=image_size, patch_size=patch_size, patch_stride=patch_stride)
    assert config.patch_grid == grid
    assert config.num_patches == grid[0] * grid[1]


def test_composite__accepts_dictionaries_and_objects():
    from_dictionary = MMETConfig(image_config={"image_size": (64, 32)}, text_config={"vocab_size": 99})
    from_object = MMETConfig(
        image_config=MMETImageConfig(image_size=(64, 32)), text_config=MMETTextConfig(vocab_size=99)
    )
    assert from_dictionary.to_dict() == from_object.to_dict()
    assert isinstance(from_dictionary.image_config, MMETImageConfig)
    assert isinstance(from_dictionary.multimodal_config, MMETMultimodalConfig)


def test_json__round_trip(make_config, tmp_path):
    config = make_config(triplet_margin=None, initializer_range=None, mim_weight=0.25, identity_pooling="image")
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert stored["model_type"] == "mmet"
    assert stored["image_config"]["image_size"] == [52, 28]
    loaded = MMETConfig.from_pretrained(tmp_path)
    assert _options(loaded) == _options(config)
    assert loaded.triplet_margin is None
    assert loaded.initializer_range is None
    assert _options(AutoConfig.from_pretrained(tmp_path)) == _options(config)


@pytest.mark.parametrize("config_class", [MMETImageConfig, MMETTextConfig, MMETMultimodalConfig])
def test_encoder_config__read_from_a_composite_checkpoint(config_class, make_config, tmp_path):
    config = make_config()
    config.save_pretrained(tmp_path)
    part = getattr(config, config_class.base_config_key)
    assert _options(config_class.from_pretrained(tmp_path)) == _options(part)


@pytest.mark.parametrize("config_class", [MMETImageConfig, MMETTextConfig, MMETMultimodalConfig])
def test_encoder_configs__layer_norms_of_transformers_own_tests(config_class):
    """Its common tests set an epsilon of 1, to compare implementations of attention on random weights."""
    assert config_class(layer_norm_eps=1.0).layer_norm_eps == 1
    for wrong in (-1e-12, 1.5):
        with pytest.raises(Exception, match="layer_norm_eps must be at least 0 and at most 1") as error:
            config_class(layer_norm_eps=wrong)
        assert _is_value_error(error.value)


@pytest.mark.parametrize("config_class", [MMETImageConfig, MMETTextConfig, MMETMultimodalConfig])
@pytest.mark.parametrize("heads", [5, 0, -4])
def test_heads__must_divide_the_width(config_class, heads):
    with pytest.raises(
        Exception, match=f"num_attention_heads must divide hidden_size; got {heads} heads.*32"
    ) as error:
        config_class(hidden_size=32, num_attention_heads=heads)
    assert _is_value_error(error.value)


@pytest.mark.parametrize(
    "options",
    [{"image_size": (15, 128)}, {"image_size": (256, 8)}, {"image_size": [256, 128, 3]}],
)
def test_patches__must_fit(options):
    with pytest.raises(Exception, match="image_size must be") as error:
        MMETImageConfig(**options)
    assert _is_value_error(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_cell": 3}, "codebook_cell must divide patch_size and patch_stride; got codebook_cell=3"),
        ({"codebook_cell": 8}, "patch_stride=12"),  # divides the patch, not the stride
        ({"codebook_cell": 0}, "codebook_cell must divide"),
        ({"codebook_size": 1}, "codebook_size must be at least 2; got 1"),
        ({"codebook_type": "vqgan"}, "codebook_type must be one of .*'dalle'.* got 'vqgan'"),
        ({"codebook_type": "dalle", "codebook_size": 1024}, "must be the network's 8192 .* got 1024"),
        ({"codebook_type": "dalle", "codebook_config": {"depth": 2}}, r"'vocab_size'.* got \['depth'\]"),
        ({"codebook_type": "dalle", "image_config": {"patch_stride": 17}}, "must not exceed patch_size .*=17"),
        ({"codebook_type": "dalle", "image_config": {"num_channels": 1}}, "3 channels .* got 1, 3 and 3"),
        ({"identity_pooling": "mean"}, "identity_pooling must be one of .*'multimodal'.* got 'mean'"),
        ({"modality_dropout": 2.5}, r"modality_dropout must lie in \[0, 2\]; got 2.5"),
        ({"modality_dropout": -0.1}, r"modality_dropout must lie in \[0, 2\]; got -0.1"),
        ({"num_identities": -1}, "num_identities must not be negative; got -1"),
        ({"itm_weight": -1.0}, "loss weights must be finite and not negative; got .*'itm_weight': -1.0"),
        ({"codebook_image_deviation": [0.5, 0.0, 0.5]}, r"deviation must be above 0; got \[0.5, 0.0, 0.5\]"),
        ({"triplet_weight": -0.5, "mim_weight": -2}, "'mim_weight': -2.*'triplet_weight': -0.5"),
    ],
)
def test_options__out_of_range(options, message):
    with pytest.raises(Exception, match=message) as error:
        MMETConfig(**options)
    assert _is_value_error(error.value)


def test_codebook_size__is_derived_when_not_given(tmp_path):
    assert MMETConfig().codebook_size == 1024
    config = MMETConfig(codebook_type="dalle", codebook_cell=5)  # cells are k-means' own affair
    assert config.codebook_size == 8192
    config.save_pretrained(tmp_path)
    loaded = MMETConfig.from_pretrained(tmp_path)
    assert _options(loaded) == _options(config)
    assert MMETConfig(codebook_type="dalle", codebook_config={"vocab_size": 16}).codebook_size == 16


def test_options__of_the_wrong_type():
    with pytest.raises(Exception, match="projection_dim"):
        MMETConfig(projection_dim="wide")


def _options(config: PreTrainedConfig) -> dict:
    """All options, without the folder they came from."""
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


def _is_value_error(error: BaseException) -> bool:
    """Whether a `ValueError` is what was raised, or the cause that the strict dataclass wraps."""
    return isinstance(error, ValueError) or isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize(
    "options",
    [
        {"patch_stride": 0},
        {"hidden_size": -4},
        {"num_hidden_layers": 0},
        {"hidden_act": "gelo"},
        {"image_size": 10**7},
    ],
)
def test_image_config__absurd_sizes_name_the_field(options):
    (name,) = options
    with pytest.raises(Exception, match=name) as error:
        MMETImageConfig(**options)
    assert _is_value_error(error.value)
