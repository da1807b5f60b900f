"""transformers' `ModelTesterMixin` and `ConfigTester` on the six model classes and the four configurations."""

from __future__ import annotations

import copy
import unittest
from unittest.mock import patch

import pytest
import torch
from source import is_downloaded, load
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from configuration_mmet import MMETConfig, MMETImageConfig, MMETMultimodalConfig, MMETTextConfig
from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
    MMETImageModel,
    MMETModel,
    MMETMultimodalModel,
    MMETTextModel,
)

pytestmark = pytest.mark.common

if not is_downloaded():
    pytest.skip("transformers' common tests are not there: make test-common downloads them", allow_module_level=True)

common = load("test_modeling_common")
ConfigTester = load("test_configuration_common").ConfigTester

MODELS_WITHOUT_LOSS = {
    "mmet": "MMETModel",
    "mmet_image_model": "MMETImageModel",
    "mmet_text_model": "MMETTextModel",
    "mmet_multimodal_model": "MMETMultimodalModel",
}
ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
PRETRAINING_INPUTS = (
    "pixel_values",
    "input_ids",
    "attention_mask",
    "bool_masked_pos",
    "mim_labels",
    "input_ids_masked",
    "mlm_labels",
    "itm_labels",
    "person_labels",
)
IMAGE_SIZE, NUM_PATCHES, TEXT_LENGTH, VOCAB_SIZE = (52, 28), 8, 7, 99


@pytest.fixture(autouse=True)
def base_models_are_known():
    """The common tests ask no loss of the models in this table."""
    with patch.dict(MODEL_MAPPING_NAMES, MODELS_WITHOUT_LOSS):
        yield


class EncoderTester:
    """What the common tests read about an encoder: its configuration and inputs."""

    batch_size = 3
    is_training = False  # an encoder has no loss
    num_masks, mask_length = 2, NUM_PATCHES
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 4

    def __init__(self, config_class: type, inputs: tuple[str, ...], seq_length: int, **sizes):
        self.config_class, self.inputs, self.seq_length, self.sizes = config_class, inputs, seq_length, sizes

    def get_config(self):
        return self.config_class(**ENCODER, **self.sizes)

    def prepare_config_and_inputs_for_common(self):
        everything = everything_to_read(self.batch_size)
        return self.get_config(), {name: everything[name] for name in self.inputs}


class WholeTester:
    """The same for the models of a whole [`MMETConfig`]."""

    batch_size = 7  # what the common tests fill smaller batches up to, with numbers that are no labels
    is_training = True
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 4
    seq_length = 2 + NUM_PATCHES + TEXT_LENGTH
    num_masks, mask_length = 2, NUM_PATCHES
    image_model_tester = vision_model_tester = EncoderTester(MMETImageConfig, ("pixel_values",), 1 + NUM_PATCHES)
    text_model_tester = EncoderTester(MMETTextConfig, ("input_ids", "attention_mask"), TEXT_LENGTH)

    def __init__(self, inputs: tuple[str, ...]):
        self.inputs = inputs

    def get_config(self):
        return MMETConfig(
            image_config={**ENCODER, "image_size": IMAGE_SIZE},
            text_config={**ENCODER, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 20},
            multimodal_config=ENCODER,
            projection_dim=24,
            codebook_size=6,
            num_identities=4,
        )

    def prepare_config_and_inputs_for_common(self):
        everything = everything_to_read(self.batch_size)
        return self.get_config(), {name: everything[name] for name in self.inputs}


def everything_to_read(batch_size: int) -> dict[str, torch.Tensor]:
    """Whatever one of the six models reads, with two masked patches and one masked token in each sample."""
    # The last words stay unused: resizing is tried with a smaller vocabulary.
    input_ids = torch.randint(5, VOCAB_SIZE - 20, (batch_size, TEXT_LENGTH))
    bool_masked_pos = torch.zeros(batch_size, NUM_PATCHES, dtype=torch.bool)
    bool_masked_pos[:, [2, 5]] = True
    mlm_labels = torch.full_like(input_ids, -100)
    mlm_labels[:, 2] = input_ids[:, 2]
    return {
        "pixel_values": torch.randn(batch_size, 3, *IMAGE_SIZE),
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "hidden_states": torch.randn(batch_size, TEXT_LENGTH, 32),
        "bool_masked_pos": bool_masked_pos,
        "mim_labels": torch.randint(0, 6, (batch_size, NUM_PATCHES)),
        "input_ids_masked": input_ids.masked_fill(mlm_labels != -100, 4),
        "mlm_labels": mlm_labels,
        "itm_labels": torch.ones(batch_size, dtype=torch.long),
        "person_labels": torch.arange(batch_size) // 2,
    }


class ModelTest(common.ModelTesterMixin):
    """Settings that all classes share."""

    test_resize_embeddings = False

    def setUp(self):
        torch.manual_seed(0)


class ImageModelTest(ModelTest, unittest.TestCase):
    all_model_classes = (MMETImageModel,)

    def setUp(self):
        super().setUp()
        self.model_tester = EncoderTester(MMETImageConfig, ("pixel_values",), 1 + NUM_PATCHES, image_size=IMAGE_SIZE)

    def test_config(self):
        ConfigTester(
            self, MMETImageConfig, has_text_modality=False, hidden_size=32, num_attention_heads=4
        ).run_common_tests()


class TextModelTest(ModelTest, unittest.TestCase):
    all_model_classes = (MMETTextModel,)
    test_resize_embeddings = True

    def setUp(self):
        super().setUp()
        sizes = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 20}
        self.model_tester = EncoderTester(MMETTextConfig, ("input_ids", "attention_mask"), TEXT_LENGTH, **sizes)

    def test_config(self):
        ConfigTester(self, MMETTextConfig, hidden_size=32, num_attention_heads=4).run_common_tests()


class MultimodalModelTest(ModelTest, unittest.TestCase):
    all_model_classes = (MMETMultimodalModel,)

    def setUp(self):
        super().setUp()
        self.model_tester = EncoderTester(MMETMultimodalConfig, ("hidden_states", "attention_mask"), 8)

    def test_config(self):
        ConfigTester(
            self, MMETMultimodalConfig, has_text_modality=False, hidden_size=32, num_attention_heads=4
        ).run_common_tests()


class WholeModelTest(ModelTest, unittest.TestCase):
    all_model_classes = (MMETModel, MMETForReID)
    additional_model_inputs = ("input_ids",)
    test_resize_embeddings = True
    test_all_params_have_gradient = False  # identity losses read no projections, no pretraining batch all three heads
    skip_test_image_features_output_shape = True  # there the image encoder's configuration is sought elsewhere
    _is_composite = True
    inputs: tuple[str, ...] = ("pixel_values", "input_ids", "attention_mask")

    def setUp(self):
        super().setUp()
        self.model_tester = WholeTester(self.inputs)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        if model_class is MMETForReID and return_labels:
            inputs["labels"] = torch.arange(self.model_tester.batch_size) // 2
        return inputs

    def test_config(self):
        ConfigTester(self, MMETConfig, has_text_modality=False, projection_dim=24).run_common_tests()


class PreTrainingModelTest(WholeModelTest):
    all_model_classes = (MMETForPreTraining,)
    additional_model_inputs = tuple(name for name in PRETRAINING_INPUTS if name != "pixel_values")
    inputs = PRETRAINING_INPUTS
