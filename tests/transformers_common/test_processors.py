"""transformers' `ImageProcessingTestMixin` and `ProcessorTesterMixin` on the image processor and the processor."""

from __future__ import annotations

import unittest
from unittest.mock import patch

import pytest
from source import is_downloaded, load
from transformers import BertTokenizer

import mmet  # noqa: F401  (registers the classes with transformers' Auto classes)
from processing_mmet import MMETImageProcessor, MMETProcessor

pytestmark = pytest.mark.common

if not is_downloaded():
    pytest.skip("transformers' common tests are not there: make test-common downloads them", allow_module_level=True)

images = load("test_image_processing_common")
processors = load("test_processing_common")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lower", "newer", "upper", "string", "a", "man", "in", "red")


class MMETImageProcessingTester(images.ImageProcessingTester):
    """The image processor of 52 x 28 pixels, and random pictures for it."""

    def __init__(self, parent, **settings):
        settings.setdefault("size", {"height": 52, "width": 28})
        super().__init__(parent, max_resolution=60, **settings)

    def _get_image_processing_classes(self):
        return {"pil": MMETImageProcessor}


class ImageProcessorTest(images.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = MMETImageProcessingTester


@pytest.fixture
def any_rescale_factor():
    """The tests recognise their own setting by a factor of -1, which the image processor refuses."""
    with patch("processing_mmet._check_arithmetic"):
        yield


@pytest.mark.usefixtures("any_rescale_factor")
class ProcessorTest(processors.ProcessorTesterMixin, unittest.TestCase):
    processor_class = MMETProcessor

    @classmethod
    def _setup_image_processor(cls):
        return MMETImageProcessor(size={"height": 52, "width": 28})

    @classmethod
    def _setup_tokenizer(cls):
        return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}, model_max_length=120)
