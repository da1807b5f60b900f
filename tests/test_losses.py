"""The losses between embeddings against plain Python loops, hand-worked cases and degenerate batches."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_mmet import MMETForPreTraining, MMETForReID, batch_hard_triplet_loss, identity_contrastive_loss
from objectives_mmet import similarity_loss, supervised_contrastive_loss


def _contrastive_by_loops(images, texts, scale, person_ids=None) -> float:
    """L_GC as it is written: the mean over both directions and all rows of -1/|P| sum over positives of log p."""
    images, texts = images.double(), texts.double()
    count = len(images)
    total = 0.0
    for queries, targets in ((images, texts), (texts, images)):
        for row in range(count):
            similarities = [
                math.exp(min(scale, math.log(100))) * F.cosine_similarity(queries[row], targets[column], dim=0).item()
                for column in range(count)
            ]
            positives = [
                column
                for column in range(count)
                if column == row
                or (person_ids is not None and person_ids[row] >= 0 and person_ids[row] == person_ids[column])
            ]
            log_sum = math.log(sum(math.exp(similarity) for similarity in similarities))
            total += sum(log_sum - similarities[column] for column in positives) / len(positives)
    return total / (2 * count)


@pytest.mark.parametrize(
    "person_ids", [None, [0, 1, 2, 3, 4], [7, 7, 3, 7, 3], [-1, -1, 2, 2, -1], [-100] * 5, [5] * 5]
)
@pytest.mark.parametrize("scale", [0.0, 2.6592])
def test_identity_contrastive_loss__equals_loops(person_ids, scale):
    images, texts = torch.randn(5, 8), 3 * torch.randn(5, 8)
    ids = None if person_ids is None else torch.tensor(person_ids)
    loss, logits = identity_contrastive_loss(images, texts, torch.tensor(scale), ids)
    assert loss.item() == pytest.approx(_contrastive_by_loops(images, texts, scale, person_ids), rel=1e-5)
    expected = math.exp(scale) * F.cosine_similarity(images[:, None], texts[None], dim=-1)
    torch.testing.assert_close(logits, expected)


def test_identity_contrastive_loss__unknown_persons_are_each_their_own():
    images, texts = torch.randn(4, 8), torch.randn(4, 8)
    unknown, _ = identity_contrastive_loss(images, texts, torch.tensor(1.0), torch.full((4,), -1))
    unlabelled, _ = identity_contrastive_loss(images, texts, torch.tensor(1.0))
    torch.testing.assert_close(unknown, unlabelled)


def test_identity_contrastive_loss__temperature_is_bounded():
    images, texts = torch.randn(3, 8), torch.randn(3, 8)
    _, logits = identity_contrastive_loss(images, texts, torch.tensor(50.0))
    assert logits.abs().max() <= 100.001


@pytest.mark.parametrize("start", [4.61, 4.7, 1e30, math.inf, -0.01, -50.0, -math.inf])
def test_logit_scale__comes_back_from_out_of_bounds(make_config, make_pretraining_batch, start):
    """Features that match nothing want a low scale, features that match their own caption a high one."""
    model, batch = MMETForPreTraining(make_config(modality_dropout=0.0)).train(), make_pretraining_batch()
    torch.nn.init.constant_(model.mmet.logit_scale, start)
    optimizer = torch.optim.SGD([model.mmet.logit_scale], lr=0.01)
    images = torch.eye(4, 24)
    texts = -images if start > 0 else images
    before = []
    for _ in range(3):
        loss, _ = model._contrast(images, texts, None, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before.append(model.mmet.logit_scale.item())
    assert 0 < before[2] < math.log(100)
    assert abs(before[2] - before[0]) > 1e-4
    assert model(**batch).losses["global_contrastive"].isfinite()


@pytest.mark.parametrize(("start", "inwards"), [(5.0, 1), (math.inf, 1), (-3.0, -1), (-math.inf, -1)])
def test_identity_contrastive_loss__gradient_leads_back_into_the_bounds(start, inwards):
    gradients = []
    for sign in (1, -1):
        scale = torch.tensor([start], requires_grad=True)
        images = torch.eye(3, 8)
        loss, _ = identity_contrastive_loss(images, sign * images, scale)
        loss.backward()
        gradients.append(scale.grad.item())
    assert sum(gradient != 0 for gradient in gradients) == 1, gradients  # the other would lead further away
    assert inwards * sum(gradients) > 0


def test_identity_contrastive_loss__zero_vectors_have_moderate_gradients():
    images, texts = torch.zeros(3, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    loss, _ = identity_contrastive_loss(images, texts, torch.tensor([4.0]))
    loss.backward()
    for features in (images, texts):
        assert features.grad.isfinite().all()
        assert features.grad.abs().max() < 1e9


def _gradient_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return F.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0).item()


HARD_TO_ROUND = {
    "tight positives": lambda persons, noise: persons.repeat_interleave(4, 0) + 1e-3 * noise,
    "uncentred": lambda persons, noise: 10 + 0.1 * persons.repeat_interleave(4, 0) + 0.01 * noise,
    "tight and uncentred": lambda persons, noise: 3 + persons.repeat_interleave(4, 0) + 1e-3 * noise,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("features", HARD_TO_ROUND)
def test_batch_hard_triplet_loss__under_autocast_equals_float64(features, normalize, dtype):
    embeddings = HARD_TO_ROUND[features](torch.randn(5, 32), torch.randn(20, 32))
    labels = torch.arange(5).repeat_interleave(4)
    received = embeddings.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = batch_hard_triplet_loss(received, labels, margin=None, normalize=normalize)
    loss.backward()
    expected = embeddings.double().requires_grad_()
    rows = F.normalize(expected) if normalize else expected
    distances = (rows[:, None] - rows[None]).square().sum(-1).clamp(min=1e-30).sqrt()
    same = labels[:, None] == labels
    gap = distances.masked_fill(~same, 0).amax(1) - distances.masked_fill(same, math.inf).amin(1)
    F.softplus(gap).mean().backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), F.softplus(gap).mean(), atol=1e-5, rtol=1e-5)
    assert _gradient_cosine(received.grad, expected.grad) > 0.999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_identity_contrastive_loss__under_autocast_equals_float64(dtype):
    """Features that share a large mean: what tells them apart is what half precision rounds away."""
    images = 10 + 0.1 * torch.randn(6, 32)
    texts = images + 0.02 * torch.randn(6, 32)
    received = [images.clone().requires_grad_(), texts.clone().requires_grad_()]
    with torch.autocast("cpu", dtype=dtype):
        loss, logits = identity_contrastive_loss(*received, torch.tensor([4.6]))
    loss.backward()
    expected = [images.double().requires_grad_(), texts.double().requires_grad_()]
    scores = math.exp(4.6) * F.normalize(expected[0]) @ F.normalize(expected[1]).T
    reference = (F.cross_entropy(scores, torch.arange(6)) + F.cross_entropy(scores.T, torch.arange(6))) / 2
    reference.backward()
    assert logits.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference.item(), rel=1e-4)
    for gradient, other in zip(received, expected, strict=True):
        assert _gradient_cosine(gradient.grad, other.grad) > 0.999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_identity_head__is_float32_under_autocast(make_config, dtype):
    head = MMETForReID(make_config()).identity_head.eval()
    head.bnneck.running_mean.fill_(50.0)
    features = 50 + torch.randn(4, 32)
    with torch.autocast("cpu", dtype=dtype):
        embeddings, logits = head(features)
    expected, scores = head.double()(features.double())
    torch.testing.assert_close(embeddings, expected.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, scores.float(), atol=1e-4, rtol=1e-4)


def test_batch_hard_triplet_loss__unknown_persons_take_no_part():
    embeddings, labels = torch.randn(6, 8), torch.tensor([0, 0, -100, 1, -1, -1])
    known = labels >= 0
    loss = batch_hard_triplet_loss(embeddings, labels, margin=2.0)
    torch.testing.assert_close(loss, batch_hard_triplet_loss(embeddings[known], labels[known], margin=2.0))


def test_batch_hard_triplet_loss__far_apart_is_finite():
    embeddings = (1e15 * torch.randn(4, 8)).requires_grad_()
    loss = batch_hard_triplet_loss(embeddings, torch.tensor([0, 0, 1, 1]), margin=None, normalize=False)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad.any()


def test_identity_contrastive_loss__one_pair_has_nothing_to_tell_apart():
    loss, logits = identity_contrastive_loss(torch.randn(1, 8), torch.randn(1, 8), torch.tensor(1.0))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.shape == (1, 1)


def test_identity_contrastive_loss__no_pair_is_a_zero_with_gradient():
    images, texts = torch.randn(0, 8, requires_grad=True), torch.randn(0, 8, requires_grad=True)
    loss, logits = identity_contrastive_loss(images, texts, torch.tensor(1.0), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert logits.shape == (0, 0)


def _triplet_by_loops(embeddings, labels, margin, normalize) -> float:
    """Eq. 2 with the hardest pairs, anchor by anchor."""
    embeddings = [row / row.norm() if normalize else row for row in embeddings.double()]
    terms = []
    for anchor, label in enumerate(labels):
        distances = [(embeddings[anchor] - other).norm().item() for other in embeddings]
        positives = [d for i, d in enumerate(distances) if labels[i] == label and i != anchor]
        negatives = [d for i, d in enumerate(distances) if labels[i] != label]
        if positives and negatives:
            gap = max(positives) - min(negatives)
            terms.append(math.log1p(math.exp(gap)) if margin is None else max(gap + margin, 0.0))
    return sum(terms) / len(terms) if terms else 0.0


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    margin=st.sampled_from([None, 0.0, 0.3, 2.0]),
    normalize=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_batch_hard_triplet_loss__equals_loops(labels, margin, normalize, seed):
    embeddings = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(seed))
    loss = batch_hard_triplet_loss(embeddings, torch.tensor(labels), margin, normalize)
    assert loss.item() == pytest.approx(_triplet_by_loops(embeddings, labels, margin, normalize), abs=1e-4)


def test_batch_hard_triplet_loss__by_hand():
    # On a line: person 0 at 0 and 1, person 1 at 3 and 7. Hardest positive minus hardest negative of each anchor:
    # 0 -> 1-3, 1 -> 1-2, 3 -> 4-2, 7 -> 4-6; only the third exceeds the margin's reach.
    embeddings = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    loss = batch_hard_triplet_loss(embeddings, torch.tensor([0, 0, 1, 1]), margin=0.5, normalize=False)
    assert loss.item() == pytest.approx((0 + 0 + 2.5 + 0) / 4)


@pytest.mark.parametrize("margin", [None, 0.3])
@pytest.mark.parametrize(
    "labels", [[1, 1, 1], [0, 1, 2], [0], []], ids=["one person", "one image each", "one image", "empty"]
)
def test_batch_hard_triplet_loss__no_triplet_is_a_zero_with_gradient(labels, margin):
    embeddings = torch.randn(len(labels), 6, requires_grad=True)
    loss = batch_hard_triplet_loss(embeddings, torch.tensor(labels, dtype=torch.long), margin)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_batch_hard_triplet_loss__identical_embeddings_have_finite_gradients():
    embeddings = torch.ones(4, 6, requires_grad=True)
    loss = batch_hard_triplet_loss(embeddings, torch.tensor([0, 0, 1, 1]), margin=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.3, abs=1e-5)
    assert embeddings.grad.isfinite().all()


def _smoothed_cross_entropy(logits, labels, smoothing) -> float:
    """Eq. 1 with label smoothing: targets (1 - e) on the person and e / K on all K."""
    log_probabilities = logits.double().log_softmax(-1)
    terms = [
        -(1 - smoothing) * row[label].item() - smoothing * row.mean().item()
        for row, label in zip(log_probabilities, labels, strict=True)
        if label >= 0
    ]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("labels", [[0, 0, 3, 1], [2, -100, 2, -100]])
def test_identity_loss__equals_formula(make_config, make_batch, labels, smoothing):
    model = MMETForReID(make_config(label_smoothing=smoothing, triplet_weight=0.0)).eval()
    output = model(**make_batch(4), labels=torch.tensor(labels))
    assert output.loss.item() == pytest.approx(_smoothed_cross_entropy(output.logits, labels, smoothing), rel=1e-5)


def test_identity_losses__of_known_persons_alone(make_config, make_batch):
    model = MMETForReID(make_config()).eval()
    batch = make_batch(5)
    partly = model(**batch, labels=torch.tensor([0, -100, 0, 1, 1]))
    known = model(**{name: value[[0, 2, 3, 4]] for name, value in batch.items()}, labels=torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(partly.loss, known.loss)


def test_identity_losses__all_unknown_is_zero(make_config, make_batch):
    model = MMETForReID(make_config())
    output = model(**make_batch(3), labels=torch.full((3,), -100))
    output.loss.backward()
    assert output.loss.item() == 0


def test_reid_loss__is_the_weighted_sum(make_config, make_batch):
    labels = torch.tensor([0, 0, 1, 1])
    losses = {}
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 3.0)):
        torch.manual_seed(0)
        model = MMETForReID(make_config(identity_weight=weights[0], triplet_weight=weights[1])).eval()
        losses[weights] = model(**make_batch(4), labels=labels).loss.item()
    assert losses[1.0, 0.0] > 0
    assert losses[0.0, 1.0] > 0
    assert losses[0.5, 3.0] == pytest.approx(0.5 * losses[1.0, 0.0] + 3 * losses[0.0, 1.0], rel=1e-5)


def _reference_supervised_contrastive(embeddings, labels, kinds, scale):
    """Khosla et al., 2020, view by view, one kind of candidates at a time."""
    terms = []
    for anchors, candidates in ((0, 0), (0, 1), (1, 0), (0, 2), (2, 0)):
        shares = []
        for i, _ in enumerate(labels):
            if kinds[i] != anchors or labels[i] < 0:
                continue
            others = [j for j, _ in enumerate(labels) if j != i and kinds[j] == candidates and labels[j] >= 0]
            total = sum(math.exp(scale * float(embeddings[i] @ embeddings[j])) for j in others)
            shares += [
                math.log(math.exp(scale * float(embeddings[i] @ embeddings[j])) / total)
                for j in others
                if labels[j] == labels[i]
            ]
        if shares:
            terms.append(-sum(shares) / len(shares))
    return sum(terms) / max(len(terms), 1)


@given(
    views=st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), min_size=1, max_size=8),
    scale=st.floats(0.5, 10),
    seed=st.integers(0, 1000),
)
def test_supervised_contrastive__the_published_formula_within_each_pair_of_kinds(views, scale, seed):
    labels, kinds = torch.tensor(views).T
    embeddings = torch.randn(len(views), 5, generator=torch.Generator().manual_seed(seed))
    received = supervised_contrastive_loss(embeddings, labels, kinds, scale)
    unit = F.normalize(embeddings)
    assert received.item() == pytest.approx(
        _reference_supervised_contrastive(unit, labels.tolist(), kinds.tolist(), scale), abs=1e-4
    )


def test_supervised_contrastive__a_view_without_others_of_its_kind_has_a_finite_gradient():
    embeddings = torch.randn(3, 4, requires_grad=True)
    loss = supervised_contrastive_loss(embeddings, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), 10.0)
    loss.backward()
    assert torch.isfinite(embeddings.grad).all()


def test_similarity_loss__mean_squared_difference_of_cosines_without_rows_of_zeros():
    embeddings, kept = torch.randn(4, 3), torch.randn(4, 5)
    kept[2] = 0
    pairs = [(i, j) for i in (0, 1, 3) for j in (0, 1, 3) if i != j]
    expected = sum(
        (F.cosine_similarity(embeddings[i], embeddings[j], dim=0) - F.cosine_similarity(kept[i], kept[j], dim=0)) ** 2
        for i, j in pairs
    ) / len(pairs)
    torch.testing.assert_close(similarity_loss(embeddings, kept), expected)
    assert similarity_loss(embeddings, torch.zeros(4, 5)) == 0
