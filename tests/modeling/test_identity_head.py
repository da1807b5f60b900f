"""The identity head: pooling, BNNeck, and the views of modality dropout."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from named_inputs import CLOSE

import mmet  # noqa: F401 (registers the Auto classes)
from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
    batch_hard_triplet_loss,
)


@pytest.mark.parametrize("pooling", ["multimodal", "image", "text"])
def test_identity__pooled_class_token(make_config, make_batch, pooling):
    config = make_config(identity_pooling=pooling)
    model, batch = MMETForReID(config).eval(), make_batch(3)
    model.identity_head.bnneck.running_mean.normal_()
    model.identity_head.bnneck.running_var.uniform_(0.5, 2.0)
    states = getattr(model.mmet(**batch), f"{pooling}_embeds")[:, 0]
    neck = model.identity_head.bnneck
    normalised = (states - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    output = model(**batch)
    torch.testing.assert_close(output.embeddings, normalised / normalised.norm(dim=1, keepdim=True), **CLOSE)
    torch.testing.assert_close(output.logits, normalised @ model.identity_head.classifier.weight.T, **CLOSE)
    pretraining = MMETForPreTraining(config).eval()
    pretraining.load_state_dict(model.state_dict(), strict=False)
    output = pretraining(**batch, person_labels=torch.tensor([0, 0, 1]))
    torch.testing.assert_close(output.identity_embeds, normalised, **CLOSE)
    triplet = batch_hard_triplet_loss(normalised, torch.tensor([0, 0, 1]), config.triplet_margin)
    torch.testing.assert_close(output.losses["triplet"], triplet, **CLOSE)


def test_bnneck__has_no_bias_to_train(config, make_pretraining_batch):
    model = MMETForPreTraining(config).requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**make_pretraining_batch()).loss.backward()
    optimizer.step()
    neck = model.identity_head.bnneck
    assert neck.bias is None
    assert set(neck.state_dict()) == {"weight", "running_mean", "running_var", "num_batches_tracked"}
    assert not torch.equal(neck.weight, torch.ones(32))
    assert not torch.equal(neck.running_mean, torch.zeros(32))  # training gathers statistics


def test_bnneck__frozen_keeps_its_statistics_and_uses_them(make_config, make_batch):
    model = MMETForReID(make_config()).train()
    neck = model.identity_head.bnneck
    neck.weight.requires_grad_(False)
    neck.running_mean.normal_()
    before, features = copy.deepcopy(neck.state_dict()), torch.randn(5, 32)
    expected = (features - neck.running_mean) / (neck.running_var + neck.eps).sqrt()
    torch.testing.assert_close(neck(features), expected)
    model(**make_batch())
    assert all(torch.equal(value, before[name]) for name, value in neck.state_dict().items())


@pytest.mark.parametrize(("share", "image_views", "text_views"), [(1.0, 3, 2), (0.5, 1, 1), (0.2, 1, 0), (0.0, 0, 0)])
def test_modality_dropout__number_of_views(make_config, make_batch, share, image_views, text_views):
    model, batch = MMETForPreTraining(make_config(modality_dropout=share)).train(), make_batch(5)
    lengths = []
    model.mmet.multimodal_model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(tuple(args[0].shape[:2])), with_kwargs=True
    )
    output = model(**batch, person_labels=torch.tensor([0, 0, 1, 1, 2]))
    assert len(output.identity_embeds) == len(output.identity_logits) == 5 + image_views + text_views
    expected = [(5, 9 + 7)] + [(image_views, 9)] * (image_views > 0) + [(text_views, 7)] * (text_views > 0)
    assert lengths == expected


def test_modality_dropout__drops_from_whole_pairs_alone(config, make_batch):
    model = MMETForPreTraining(config).train()
    text_present = torch.tensor([True, False, True, False, True])  # three pairs and two images
    labels = torch.tensor([0, 0, 1, 1, 2])
    views = []
    model.identity_head.register_forward_pre_hook(lambda _, args: views.append(args[0]))
    model(**make_batch(5), text_present=text_present, person_labels=labels)
    assert len(views[0]) == 5 + 3
    batch = make_batch(5)
    image = model.mmet(pixel_values=batch["pixel_values"]).multimodal_embeds[:, 0]
    text = model.mmet(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).multimodal_embeds[:, 0]
    torch.testing.assert_close(views[0][[1, 3]], image[[1, 3]], **CLOSE)  # as they are: images without a caption
    distances = torch.cdist(views[0][5:], torch.cat([image, text]))
    assert distances.amin(dim=1).max() < 1e-4
    assert sorted((distances.argmin(dim=1) % 5).tolist()) == [0, 2, 4]


def test_modality_dropout__not_in_evaluation(config, make_batch):
    output = MMETForPreTraining(config).eval()(**make_batch(4), person_labels=torch.tensor([0, 0, 1, 1]))
    assert len(output.identity_embeds) == 4


def test_modality_dropout__views_keep_their_person(make_config, make_batch):
    """Every view is the embedding of one sample with one modality dropped, and is scored with that sample's label."""
    config = make_config(label_smoothing=0.0, triplet_weight=0.0)
    model, batch = MMETForPreTraining(config).train(), make_batch(4)
    labels = torch.tensor([3, 1, 0, 2])
    views = []
    model.identity_head.register_forward_pre_hook(lambda _, args: views.append(args[0]))
    output = model(**batch, person_labels=labels)
    image = model.mmet(pixel_values=batch["pixel_values"]).multimodal_embeds[:, 0]
    text = model.mmet(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).multimodal_embeds[:, 0]
    distances = torch.cdist(views[0][4:], torch.cat([image, text]))
    assert distances.amin(dim=1).max() < 1e-4
    rows = distances.argmin(dim=1) % 4
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    expected = F.cross_entropy(output.identity_logits, torch.cat([labels, labels[rows]]))
    torch.testing.assert_close(output.losses["identity"], expected, **CLOSE)
