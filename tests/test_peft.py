"""LoRA adapters: what was trained is what is loaded again, the BNNeck's statistics included."""

from __future__ import annotations

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling_mmet import MMETForPreTraining, MMETForReID

TARGETS = ["qkv_proj", "out_proj", "fc1", "fc2"]


@pytest.fixture
def base(config, tmp_path) -> str:
    """Folder of an embedder whose statistics are not those of a new one."""
    model = MMETForReID(config)
    model.identity_head.bnneck.running_mean.normal_()
    model.identity_head.bnneck.running_var.uniform_(0.5, 2.0)
    model.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def _train(model, batch, labels):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("modules_to_save", [None, ["identity_head"]], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("bias", ["none", "all"])
def test_lora__saved_adapter_gives_the_embeddings_it_was_trained_to(base, bias, modules_to_save, make_batch, tmp_path):
    batch, labels = make_batch(4), torch.tensor([0, 0, 1, 1])
    settings = LoraConfig(r=2, target_modules=TARGETS, bias=bias, modules_to_save=modules_to_save)
    model = get_peft_model(MMETForReID.from_pretrained(base), settings)
    before = model.eval()(**batch).embeddings
    statistics = model.base_model.model.identity_head.state_dict()
    statistics = {name: value.clone() for name, value in statistics.items() if "running" in name}
    _train(model, batch, labels)
    expected = model(**batch).embeddings
    assert (expected * before).sum(dim=1).min() < 0.999  # something was learnt
    moved = {
        name
        for name, value in model.base_model.model.identity_head.state_dict().items()
        if "modules_to_save" in name and "running" in name and not torch.equal(value, statistics[name])
    }
    assert len(moved) == (0 if modules_to_save is None else 2)
    model.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(MMETForReID.from_pretrained(base), tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**batch).embeddings, expected)
    neck = [name for name, _ in loaded.named_parameters() if "bnneck" in name]
    assert neck
    assert not [name for name in neck if name.endswith("bias")]


@pytest.mark.parametrize("modules_to_save", [None, ["identity_head"]], ids=["frozen head", "trained head"])
def test_lora__on_the_pretraining_model(config, modules_to_save, make_batch, make_pretraining_batch, tmp_path):
    """Two steps of all losses of pairs; loaded again, and merged into an embedder, it gives the same embeddings."""
    MMETForPreTraining(config).save_pretrained(tmp_path / "base")
    settings = LoraConfig(r=2, target_modules=TARGETS, modules_to_save=modules_to_save)
    model = get_peft_model(MMETForPreTraining.from_pretrained(tmp_path / "base"), settings)
    batch, labels = make_batch(4), torch.arange(4) // 2
    before = model.eval()(**batch, person_labels=labels).identity_embeds
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        output = model.train()(**make_pretraining_batch())
        assert {name for name, loss in output.losses.items() if loss is None} == {"mim", "mlm"}  # here mmm_…: of pairs
        output.loss.backward()
        optimizer.step()
    expected = model.eval()(**batch, person_labels=labels).identity_embeds
    assert not torch.allclose(expected, before, atol=1e-3)  # something was learnt
    model.save_pretrained(tmp_path / "adapter")

    loaded = peft.PeftModel.from_pretrained(
        MMETForPreTraining.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    torch.testing.assert_close(loaded(**batch, person_labels=labels).identity_embeds, expected)
    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = MMETForPreTraining.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(**batch, person_labels=labels).identity_embeds, expected, rtol=1e-4, atol=1e-5)
    embedder = MMETForReID.from_pretrained(tmp_path / "merged").eval()
    together = merged.get_multimodal_features(**batch)
    torch.testing.assert_close(embedder.get_multimodal_features(**batch).pooler_output, together.pooler_output)
