"""LoRA adapters: what was trained is what is loaded again, the BNNeck's statistics included."""

from __future__ import annotations

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling_mmet import MMETForReID

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
