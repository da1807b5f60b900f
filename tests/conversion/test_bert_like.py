"""Encoders of BERT's kind: with BERT's weights under their own names they become what BERT becomes."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import ENCODER, draw_world, run, write_recipe
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from mmet.conversion import from_bert
from modeling_mmet import MMETForReID
from processing_mmet import MMETProcessor

SIZES = {**ENCODER, "num_hidden_layers": 2, "vocab_size": 20}
POSITIONS, PADDING = 9, 1


@pytest.fixture
def bert() -> BertModel:
    model = BertModel(BertConfig(**SIZES, max_position_embeddings=POSITIONS, type_vocab_size=1)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight))
    return model


def behind_padding(bert: BertModel) -> dict[str, torch.Tensor]:
    """BERT's weights with rows for padding before the first position."""
    weights = bert.state_dict()
    name = "embeddings.position_embeddings.weight"
    filler = torch.full((PADDING + 1, SIZES["hidden_size"]), 7.0)
    return weights | {name: torch.cat([filler, weights[name]])}


@pytest.mark.parametrize(
    ("config_class", "model_class"),
    [(RobertaConfig, RobertaModel), (XLMRobertaConfig, XLMRobertaModel), (CamembertConfig, CamembertModel)],
)
def test_roberta__positions_begin_behind_the_padding(bert, config_class, model_class):
    length = POSITIONS + PADDING + 1
    config = config_class(**SIZES, max_position_embeddings=length, type_vocab_size=1, pad_token_id=PADDING)
    model = model_class(config)
    model.load_state_dict(behind_padding(bert))
    received, expected = from_bert(model), from_bert(bert)
    assert received.config.max_position_embeddings == POSITIONS
    assert received.config.pad_token_id == PADDING
    for name, weight in expected.state_dict().items():
        assert torch.equal(received.state_dict()[name], weight), name


def test_electra__names_are_berts(bert):
    sizes = {**SIZES, "embedding_size": SIZES["hidden_size"], "max_position_embeddings": POSITIONS}
    model = ElectraModel(ElectraConfig(**sizes, type_vocab_size=1))
    model.load_state_dict({name: weight for name, weight in bert.state_dict().items() if "pooler" not in name})
    expected = from_bert(bert).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in from_bert(model).state_dict().items())
    narrow = ElectraModel(ElectraConfig(**{**sizes, "embedding_size": 8}))
    with pytest.raises(ValueError, match="as wide as the layers, 32, received 8"):
        from_bert(narrow)


def test_distilbert__has_no_segments(bert):
    with torch.no_grad():
        bert.embeddings.token_type_embeddings.weight.zero_()
    config = DistilBertConfig(
        dim=32, hidden_dim=64, n_layers=2, n_heads=2, vocab_size=20, max_position_embeddings=POSITIONS
    )
    model = DistilBertModel(config)
    names = (
        ("encoder.layer", "transformer.layer"),
        ("attention.self.query", "attention.q_lin"),
        ("attention.self.key", "attention.k_lin"),
        ("attention.self.value", "attention.v_lin"),
        ("attention.output.dense", "attention.out_lin"),
        ("attention.output.LayerNorm", "sa_layer_norm"),
        ("intermediate.dense", "ffn.lin1"),
        ("output.dense", "ffn.lin2"),
        ("output.LayerNorm", "output_layer_norm"),
    )
    renamed = {}
    for name, weight in bert.state_dict().items():
        for old, new in names:
            name = name.replace(old, new)
        if "token_type" not in name and "pooler" not in name:
            renamed[name] = weight
    model.load_state_dict(renamed)
    received, expected = from_bert(model).state_dict(), from_bert(bert).state_dict()
    assert received.keys() == expected.keys()
    assert all(torch.equal(received[name], expected[name]) for name in received)


def test_run__starts_from_two_encoders_and_reads_with_a_tokenizer_of_its_own(tmp_path):
    """A tower of images and a RoBERTa, whose special tokens are not BERT's; the model is searched with them again."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "man", "woman", "in", "red", "blue", "coat", "with"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", **names
    )
    tokenizer.save_pretrained(tmp_path / "roberta")
    sizes = {**ENCODER, "vocab_size": len(words), "max_position_embeddings": 50, "pad_token_id": 1}
    RobertaForMaskedLM(RobertaConfig(**sizes)).save_pretrained(tmp_path / "roberta")
    vision = {**ENCODER, "image_size": 48, "patch_size": 12}
    SiglipVisionModel(SiglipVisionConfig(**vision)).save_pretrained(tmp_path / "siglip")
    recipe = write_recipe(
        tmp_path,
        draw_world(tmp_path / "world", num_ids=4, images_per_id=2),
        model_name_or_path=str(tmp_path / "siglip"),
        text_model_name_or_path=str(tmp_path / "roberta"),
        model_config={
            "image_config": {"image_size": [52, 28], "patch_stride": 12},
            "multimodal_config": ENCODER,
            "codebook_size": 8,
        },
        batch_mix={"paired": 1},
        per_device_train_batch_size=4,
        max_steps=2,
        save_steps=2,
    )
    run(recipe, "--output_dir", tmp_path / "run")
    processor = MMETProcessor.from_pretrained(tmp_path / "run")
    model = MMETForReID.from_pretrained(tmp_path / "run").eval()
    inputs = processor(text=["a man in red", "a woman"], return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[0, 5, 6, 8, 9, 2], [0, 5, 7, 2, 1, 1]]
    assert model.config.image_config.isolated_class_token
    with torch.no_grad():
        assert model(**inputs).embeddings.shape == (2, 32)
