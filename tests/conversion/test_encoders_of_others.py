"""A model from encoders that were made apart."""

from __future__ import annotations

import pytest
import torch
from ancestors_at_hand import LENGTH, WIDTH, close, make_bert, make_vit

from mmet.conversion import from_bert, from_encoders, from_vit
from modeling_mmet import MMETForPreTraining, MMETModel


@pytest.mark.parametrize("model_class", [MMETModel, MMETForPreTraining])
def test_from_encoders__encoders_are_copied_into_a_working_model(pairs, tmp_path, model_class):
    image_model = from_vit(make_vit(), image_size=(24, 16), patch_stride=4)
    text_model = from_bert(make_bert(hidden_size=40))
    model = from_encoders(image_model, text_model, model_class=model_class, projection_dim=12, codebook_size=5)
    assert model.config.codebook_cell == 4
    multimodal_config = model.config.multimodal_config
    assert (multimodal_config.hidden_size, multimodal_config.num_hidden_layers) == (32, 2)
    model.save_pretrained(tmp_path)
    for saved in (model, model_class.from_pretrained(tmp_path)):
        with torch.no_grad():
            output = saved.base_model(**pairs)
            close(output.image_embeds, image_model(pairs["pixel_values"]).last_hidden_state)
            close(output.text_embeds, text_model(pairs["input_ids"], pairs["attention_mask"]).last_hidden_state)
        assert output.multimodal_embeds.shape == (4, 1 + 16 + LENGTH, 32)
    before = image_model.embeddings.cls_token.clone()
    with torch.no_grad():
        model.base_model.image_model.embeddings.cls_token.zero_()
    assert torch.equal(image_model.embeddings.cls_token, before)


def test_from_encoders__multimodal_encoder_is_configurable():
    image_model, text_model = from_vit(make_vit()), from_bert(make_bert())
    model = from_encoders(
        image_model,
        text_model,
        {**WIDTH, "hidden_size": 16, "num_hidden_layers": 1},
        identity_pooling="text",
        model_class=MMETModel,
    )
    assert model.get_multimodal_features(torch.randn(2, 3, 32, 32)).pooler_output.shape == (2, 16)
    assert model.config.identity_pooling == "text"


def test_from_encoders__refuses_two_dtypes():
    image_model, text_model = from_vit(make_vit()), from_bert(make_bert())
    with pytest.raises(ValueError, match=r"float32 and torch\.bfloat16"):
        from_encoders(image_model, text_model.to(torch.bfloat16), model_class=MMETModel)
