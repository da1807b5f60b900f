# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""The training objectives of MMET: heads and losses (section 3.3 and Eq. 1-3 of the paper).

Losses are computed over the batches of all processes. `save_pretrained` puts this module beside `modeling_mmet.py`,
which imports it.

    >>> loss, logits = identity_contrastive_loss(image_features, text_features, logit_scale, person_ids)
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils.generic import maybe_autocast

try:
    from .configuration_mmet import MMETConfig, MMETEncoderConfig, MMETMultimodalConfig, MMETTextConfig
    from .inputs_mmet import IGNORE_INDEX, take
    from .layers_mmet import MMETStartingLinear
except ImportError:
    from configuration_mmet import MMETConfig, MMETEncoderConfig, MMETMultimodalConfig, MMETTextConfig
    from inputs_mmet import IGNORE_INDEX, take
    from layers_mmet import MMETStartingLinear

IMAGE_VIEW, TEXT_VIEW, BOTH_VIEW = range(3)
"""Kinds of views of a sample, for `supervised_contrastive_loss`."""

LOSS_NAMES = ("mim", "mlm", "mmm_image", "mmm_text", "itm", "global_contrastive", "identity", "triplet")
"""Keys of `MMETForPreTrainingOutput.losses`; the weight of `name` is `config.<name>_weight`."""

MIN_LOGIT_SCALE, MAX_LOGIT_SCALE = 0.0, math.log(100)
"""Bounds of the logarithm of L_GC's inverse temperature, as in FLAVA."""

_SMALLEST_NORM = 1e-6
"""Shorter vectors are not scaled to unit norm, because the gradient grows as the norm shrinks."""

_NO_VIEW = -101
"""Label of a row that only pads the exchange between processes."""


# --- Heads -----------------------------------------------------------------------------------------------------------


class MMETPredictionTransform(nn.Module):
    """Dense layer, activation and layer norm before a prediction, as in BERT."""

    def __init__(self, config: MMETEncoderConfig, output_size: int):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, output_size)
        self.activation = ACT2FN[config.hidden_act]
        self.layer_norm = nn.LayerNorm(output_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.layer_norm(self.activation(self.dense(hidden_states)))


class MMETCodePredictionHead(nn.Module):
    """Classifies masked patches `(num_masked, hidden_size)` into image codes `(num_masked, codebook_size)`."""

    def __init__(self, config: MMETEncoderConfig, codebook_size: int):
        super().__init__()
        self.transform = MMETPredictionTransform(config, config.hidden_size)
        self.decoder = nn.Linear(config.hidden_size, codebook_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden_states))


class MMETTokenPredictionHead(nn.Module):
    """Classifies masked tokens `(num_masked, hidden_size)` into words; the decoder may be tied to the embeddings."""

    def __init__(self, config: MMETEncoderConfig, text_config: MMETTextConfig):
        super().__init__()
        self.transform = MMETPredictionTransform(config, text_config.hidden_size)
        self.decoder = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(text_config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden_states)) + self.bias

    @torch.no_grad()
    def set_vocabulary(self, decoder: nn.Linear):
        """Use another decoder; known words keep their biases, a new word gets the mean."""
        self.decoder = decoder
        bias, vocab_size = self.bias, decoder.out_features
        if len(bias) != vocab_size:
            added = bias.mean().expand(max(vocab_size - len(bias), 0))
            self.bias = nn.Parameter(torch.cat([bias[:vocab_size], added]), requires_grad=bias.requires_grad)


class MMETClassComparison(nn.Module):
    """
    Compares [CLS_I] and [CLS_T] `(B, D)` feature by feature: a small network, which starts at zero, reads the products
    and absolute differences of both, each normalised (as InferSent does with two sentences, Conneau et al., 2017).
    """

    def __init__(self, config: MMETMultimodalConfig, intermediate_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(2 * config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(2 * config.hidden_size, intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = MMETStartingLinear(intermediate_size, 2)

    def forward(self, image_class: Tensor, text_class: Tensor) -> Tensor:
        image, text = (F.layer_norm(state, state.shape[1:]) for state in (image_class, text_class))
        compared = self.norm(torch.cat([image * text, (image - text).abs()], dim=1))
        return self.fc2(self.activation(self.fc1(compared)))


class MMETMatchingHead(nn.Module):
    """
    Decides from h_CLS,M `(B, hidden_size)` whether image and text belong together: `(B, 2)`, mismatch and match. With
    `matching_comparison_size`, it also compares the class tokens `(B, hidden_size)` that h_CLS,M was made from.
    """

    def __init__(self, config: MMETConfig):
        super().__init__()
        width, comparison_size = config.multimodal_config.hidden_size, config.matching_comparison_size
        self.dense = nn.Linear(width, width)
        self.classifier = nn.Linear(width, 2)
        self.comparison = MMETClassComparison(config.multimodal_config, comparison_size) if comparison_size else None

    def forward(self, cls_state: Tensor, class_tokens: tuple[Tensor, Tensor] | None = None) -> Tensor:
        logits = self.classifier(torch.tanh(self.dense(cls_state)))
        return logits if self.comparison is None else logits + self.comparison(*class_tokens)


class MMETBNNeck(nn.BatchNorm1d):
    """
    Batch norm without a bias, in float32 (Luo et al., "Bag of Tricks", 2019).

    If its weight is frozen, as by PEFT, it also keeps its statistics and normalises with them in training: an adapter
    saves only weights, and would otherwise be loaded with other statistics than it was trained with.
    """

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.register_parameter("bias", None)

    def reset_parameters(self):
        """As in the base class, with or without a bias."""
        self.reset_running_stats()
        init.ones_(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Features `(B, D)` of any dtype to float32 `(B, D)`."""
        features = features.to(self.weight.dtype)
        if self.training and not self.weight.requires_grad:
            return F.batch_norm(features, self.running_mean, self.running_var, self.weight, eps=self.eps).float()
        return super().forward(features).float()


class MMETIdentityClassifier(nn.Linear):
    """Scores of the training identities, without a bias, in float32 whatever the dtype of the weights."""

    def __init__(self, hidden_size: int, num_identities: int):
        super().__init__(hidden_size, num_identities, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings `(B, D)` to float32 `(B, num_identities)`."""
        with maybe_autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings.float(), self.weight.float())


class MMETIdentityHead(nn.Module):
    """
    BNNeck and classifier, on the class token that `config.identity_pooling` names.

    The embedding is the feature after batch norm. Classifier, triplet and retrieval all use it, as the paper's
    released code does.
    """

    def __init__(self, config: MMETConfig):
        super().__init__()
        hidden_size = getattr(config, f"{config.identity_pooling}_config").hidden_size
        self.bnneck = MMETBNNeck(hidden_size)
        self.classifier = MMETIdentityClassifier(hidden_size, config.num_identities) if config.num_identities else None

    @property
    def is_trained(self) -> bool:
        """Whether batch norm has seen a batch. A new one only scales: the normalised embedding is the feature."""
        batches = self.bnneck.num_batches_tracked
        return batches.is_meta or bool(batches)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features `(B, D)` to embeddings after batch norm `(B, D)` and logits `(B, num_identities)`, in float32."""
        embeddings = self.bnneck(features)
        return embeddings, self.classifier(embeddings) if self.classifier is not None else None


# --- Losses ----------------------------------------------------------------------------------------------------------


def masked_cross_entropy(logits: Tensor, labels: Tensor, count: float) -> Tensor:
    """Sum of the cross-entropy of `(M, C)` logits divided by `count`; if M is 0, a 0 that still has a gradient."""
    return F.cross_entropy(logits.float(), labels.long(), reduction="sum") / count


class _ClampLogitScale(torch.autograd.Function):
    """
    Clamp `logit_scale` to its bounds; outside of them, only a gradient that leads back passes.

    The gradient of `clamp` is 0 there, so a temperature out of bounds would never move again.
    """

    @staticmethod
    def forward(ctx, logit_scale: Tensor) -> Tensor:
        ctx.save_for_backward(logit_scale < MIN_LOGIT_SCALE, logit_scale > MAX_LOGIT_SCALE)
        return logit_scale.clamp(MIN_LOGIT_SCALE, MAX_LOGIT_SCALE)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        below, above = ctx.saved_tensors
        leads_away = (below & (gradient > 0)) | (above & (gradient < 0))  # a step goes against the gradient
        return gradient.masked_fill(leads_away, 0)


def contrastive_logits(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Scaled cosine similarities `(images, texts)` of features `(B, D)`, as in `identity_contrastive_loss`."""
    with maybe_autocast(image_features.device.type, enabled=False):
        image_features = F.normalize(image_features.float(), eps=_SMALLEST_NORM)
        text_features = F.normalize(text_features.float(), eps=_SMALLEST_NORM)
        return _ClampLogitScale.apply(logit_scale.float()).exp() * image_features @ text_features.T


def identity_contrastive_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor, person_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """
    L_GC: symmetric cross-entropy between images and texts, in which all pairs of one person are positives.

    With `person_ids`, the target of a row is uniform over the columns of the same person, so that no pair of one
    person is ever a negative; without them, only the diagonal is positive (CLIP, FLAVA). Computed in float32, also
    under autocast.

    Args:
        image_features, text_features: `(B, D)`, normalised here.
        logit_scale: `(1,)`, logarithm of the inverse temperature; clamped to 0 to ln(100), as in FLAVA.
        person_ids: `(B,)` integers; each negative id is an unknown person different from all others.

    Returns:
        The loss (0 for no pair at all) and `(B, B)` logits, images in rows.
    """
    with maybe_autocast(image_features.device.type, enabled=False):
        logits = contrastive_logits(image_features, text_features, logit_scale)
        if not len(logits):
            return logits.sum(), logits  # a mean over nothing would be NaN
        positive = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        if person_ids is not None:
            same_person = person_ids[:, None] == person_ids[None, :]
            positive = positive | (same_person & (person_ids >= 0)[:, None])
        targets = positive.float() / positive.sum(dim=1, keepdim=True)
        loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    return loss, logits


def batch_hard_triplet_loss(
    embeddings: Tensor, labels: Tensor, margin: float | None = None, normalize: bool = True
) -> Tensor:
    """
    L_triplet (Eq. 2) with the hardest positive and negative of the batch (Hermans et al., 2017).

    Distances are computed from float32 differences, also under autocast: |a|^2 + |b|^2 - 2 a.b would lose the distance
    of two close images to rounding.

    Args:
        embeddings: `(B, D)`.
        labels: `(B,)` person labels; negative ones are unknown persons, who take no part.
        margin: m of Eq. 2; `None` is the soft margin log(1 + exp(d_ap - d_an)).
        normalize: Whether embeddings are L2-normalised before distances are computed.

    Returns:
        The mean over anchors that have both a positive and a negative; 0 if there are none.
    """
    if not len(embeddings):
        return embeddings.float().sum()  # argmax needs a column
    known = labels >= 0
    same_person = labels[:, None] == labels[None, :]
    positive = same_person & known & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negative = ~same_person & known[:, None] & known
    anchor = positive.any(dim=1) & negative.any(dim=1)
    with maybe_autocast(embeddings.device.type, enabled=False):
        embeddings = embeddings.float()
        if normalize:
            embeddings = F.normalize(embeddings, eps=_SMALLEST_NORM)
        distances = torch.cdist(embeddings.detach(), embeddings.detach(), compute_mode="donot_use_mm_for_euclid_dist")
        hardest_positive = distances.masked_fill(~positive, -math.inf).argmax(dim=1)
        hardest_negative = distances.masked_fill(~negative, math.inf).argmin(dim=1)
        # The gradient of the norm is 0 for two equal embeddings.
        gap = torch.linalg.vector_norm(embeddings - embeddings[hardest_positive], dim=1)
        gap = gap - torch.linalg.vector_norm(embeddings - embeddings[hardest_negative], dim=1)
    terms = F.softplus(gap) if margin is None else F.relu(gap + margin)
    # where, not indexing: shapes stay fixed, and a batch without anchors gives a zero that still has a gradient.
    return torch.where(anchor, terms, 0.0).sum() / anchor.sum().clamp(min=1)


def supervised_contrastive_loss(embeddings: Tensor, labels: Tensor, kinds: Tensor, scale: float) -> Tensor:
    """
    Supervised contrastive loss (Khosla et al., 2020) between views `(B, D)`, separately for each pair of kinds.

    A view should be nearer to views of its person than to others, among candidates of one kind: images, texts, or
    both. Among candidates of all kinds at once, the model mostly learns to tell kinds apart.

    Args:
        embeddings: `(B, D)`; compared by cosine.
        labels: `(B,)` person labels; negative ones are unknown persons, who take no part.
        kinds: `(B,)`, `IMAGE_VIEW`, `TEXT_VIEW` or `BOTH_VIEW`. Texts are not compared with each other.
        scale: inverse temperature.

    Returns:
        The mean over the pairs of kinds in which a view has others of its person; 0 if there are none.
    """
    with maybe_autocast(embeddings.device.type, enabled=False):
        normed = F.normalize(embeddings.float(), eps=_SMALLEST_NORM)
        cosines = scale * (normed @ normed.T)
    comparable = (
        (labels >= 0) & (labels[:, None] >= 0) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    )
    same = labels[:, None] == labels
    terms, present = [], []
    others = [pair for other in (TEXT_VIEW, BOTH_VIEW) for pair in itertools.permutations((IMAGE_VIEW, other))]
    for anchors, candidates in ((IMAGE_VIEW, IMAGE_VIEW), *others):
        pairs = comparable & (kinds[:, None] == anchors) & (kinds == candidates)
        positives = pairs & same
        log_shares = cosines - cosines.masked_fill(~pairs, -math.inf).logsumexp(dim=1, keepdim=True)
        count = positives.sum()
        terms.append(-torch.where(positives, log_shares, 0.0).sum() / count.clamp(min=1))
        present.append(count > 0)
    return torch.stack(terms).sum() / torch.stack(present).sum().clamp(min=1)


def similarity_loss(embeddings: Tensor, kept: Tensor) -> Tensor:
    """
    Mean squared difference between the cosines of embeddings `(B, D)` and those of features to be kept `(B, K)`
    (similarity-preserving distillation, Tung & Mori, 2019), over pairs of different rows; rows of zeros take no part.
    """
    known = kept.any(dim=1)
    pairs = known & known[:, None] & ~torch.eye(len(kept), dtype=torch.bool, device=kept.device)
    with maybe_autocast(embeddings.device.type, enabled=False):
        embeddings, kept = (F.normalize(rows.float(), eps=_SMALLEST_NORM) for rows in (embeddings, kept.detach()))
        squares = (embeddings @ embeddings.T - kept @ kept.T).square()
    return torch.where(pairs, squares, 0.0).sum() / pairs.sum().clamp(min=1)


class MMETIdentityScores(NamedTuple):
    """Output of the identity head for views: embeddings `(V, D)`, logits `(V, num_identities)`, and losses."""

    embeddings: Tensor | None = None
    logits: Tensor | None = None
    losses: dict[str, Tensor] = {}  # noqa: RUF012


def identity_losses(
    model: PreTrainedModel,
    features: Tensor,
    labels: Tensor,
    max_views: list[int] | None = None,
    kinds: Tensor | None = None,
    kept: Tensor | None = None,
) -> MMETIdentityScores:
    """
    L_ID (Eq. 1) and L_triplet (Eq. 2) of the views `(V, D)` whose label is known, by the model's identity head.
    Where they have a weight, also the two losses that are no part of the paper: `supervised_contrastive_loss` between
    views of `kinds` `(V,)`, and `similarity_loss` to the features `kept` `(V, K)`, zero for views that have none.

    If losses span processes, each process computes them from the views of all, because batch norm makes every
    embedding depend on every view. `max_views` is the largest number of views of each process; embeddings and logits
    are those of this process's views.
    """
    config, losses = model.config, {}
    kept = kept if config.similarity_weight > 0 else None
    kinds = kinds if config.supervised_contrastive_weight > 0 else None
    if max_views is not None:
        extra = [
            rows.to(features.dtype)
            for rows in (kept, kinds[:, None] if kinds is not None else None)
            if rows is not None
        ]
        joined, labels, is_own = gather_views(torch.cat([features, *extra], dim=1), labels, max_views)
        features, *extra = joined.split([rows.shape[1] for rows in (features, *extra)], dim=1)
        kinds = extra.pop().squeeze(1).long() if kinds is not None else None
        kept = extra.pop() if kept is not None else None
    embeddings, logits = model.identity_head(features)
    if config.identity_weight > 0 and logits is not None:
        known, smoothing = labels >= 0, float(config.label_smoothing)
        targets = labels.long().masked_fill(~known, IGNORE_INDEX)
        summed = F.cross_entropy(
            logits, targets, label_smoothing=smoothing, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        losses["identity"] = summed / known.sum().clamp(min=1)
    if config.triplet_weight > 0:
        losses["triplet"] = batch_hard_triplet_loss(
            embeddings, labels, config.triplet_margin, config.triplet_normalize
        )
    if kinds is not None:
        losses["supervised_contrastive"] = supervised_contrastive_loss(
            embeddings, labels, kinds, config.supervised_contrastive_scale
        )
    if kept is not None:
        losses["similarity"] = similarity_loss(embeddings, kept)
    if max_views is not None:
        embeddings, logits = embeddings[is_own], take(logits, is_own)
    return MMETIdentityScores(embeddings, logits, losses)


def weighted_sum(config: MMETConfig, losses: dict[str, Tensor | None]) -> Tensor | None:
    """Sum of the computed losses times their `<name>_weight`; `None` if there are none."""
    weighted = [getattr(config, f"{name}_weight") * loss for name, loss in losses.items() if loss is not None]
    return sum(weighted) if weighted else None


# --- Several processes -----------------------------------------------------------------------------------------------


def losses_span_processes(module: nn.Module) -> bool:
    """Whether losses are computed over the batches of all processes: in training, like synchronised batch norm."""
    return module.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def exchange_counts(
    inputs: dict[str, Tensor | None], counts: dict[str, Tensor | int], device: torch.device
) -> dict[str, list[int]]:
    """
    Exchange the `counts` of all processes, in the order of their ranks; the only exchange of a step that Python reads.

    Raises:
        ValueError: some processes have an input that others lack (raised on every process). They would compute
            different losses and wait for each other forever.
    """
    values = [int(value is not None) for value in inputs.values()] + list(counts.values())
    row = torch.stack([torch.as_tensor(value, dtype=torch.long, device=device).reshape(()) for value in values])
    gathered = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, row)
    rows = torch.stack(gathered).tolist()
    kinds = [row[: len(inputs)] for row in rows]
    if any(kind != kinds[0] for kind in kinds):
        names = [", ".join(itertools.compress(inputs, kind)) or "none" for kind in kinds]
        held = "; ".join(f"process {rank} has {name}" for rank, name in enumerate(names))
        raise ValueError(f"expected batches of one kind on all processes, received different inputs: {held}")
    return {name: [row[len(inputs) + place] for row in rows] for place, name in enumerate(counts)}


def mean_count(counts: dict[str, list[int]] | None, name: str, local_count: int) -> float:
    """
    The divisor of a process's sum over `local_count` items: the mean of all processes' counts (1 if all are 0).

    The mean of the quotients over the processes, which is what data-parallel training makes of their gradients, is
    then the mean over all items of all processes. `counts` are `None` where losses do not span processes.
    """
    if counts is None:
        return max(local_count, 1)
    return sum(counts[name]) / len(counts[name]) or 1


def own_rows(counts: list[int]) -> slice:
    """The slice of this process's rows in the result of [`gather_rows`]."""
    first = sum(counts[: dist.get_rank()])
    return slice(first, first + counts[dist.get_rank()])


class _GatherRows(torch.autograd.Function):
    """All processes' rows; see [`gather_rows`]."""

    @staticmethod
    def forward(ctx, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.own_rows, ctx.num_processes = own_rows(counts), len(counts)
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own_rows] * ctx.num_processes, None


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """
    Gather the rows of all processes `(sum(counts), ...)` by rank, with gradients for this process's rows.

    For losses that every process computes from all rows in the same way. The gradient of a process's rows is
    multiplied by the number of processes, so that the mean over processes, which data-parallel training takes, is the
    gradient of the common loss. The backward pass exchanges nothing.

    Args:
        rows: `(counts[rank], ...)`, own rows; the number may differ between processes, the other dimensions may not.
        counts: the number of rows of each process ([`exchange_counts`]).
    """
    return _GatherRows.apply(rows, counts) if any(counts) else rows


def gather_views(features: Tensor, labels: Tensor, max_views: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """
    As [`gather_rows`], if other processes only know that this one has at most `max_views[rank]` rows.

    Returns:
        Features and labels of all processes, and which of these rows are this process's own `(num_rows,)`.
    """
    missing = max_views[dist.get_rank()] - len(labels)
    features = gather_rows(F.pad(features, (0, 0, 0, missing)), max_views)
    labels = gather_rows(F.pad(labels, (0, missing), value=_NO_VIEW), max_views)
    is_own = torch.zeros_like(labels, dtype=torch.bool)
    is_own[own_rows(max_views)] = True
    is_view = labels != _NO_VIEW
    return features[is_view], labels[is_view], is_own[is_view]
