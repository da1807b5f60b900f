"""Distil a small text encoder from a large sentence encoder, on sentences about people.

The teacher is all-MiniLM-L6-v2 or any BERT whose mean state is a sentence's vector. The student is smaller and has a
smaller vocabulary. It learns to predict the teacher's vectors of captions and short phrases, including words that no
drawn world uses: "crimson" ends up near "red", "parka" near "coat".

    vocabulary = choose_vocabulary(teacher_tokenizer, captions, size=12_000)
    student = start_student(teacher, teacher_tokenizer.convert_tokens_to_ids(vocabulary), config)
    distil(student, tokenizer, texts, sentence_vectors(teacher, teacher_tokenizer, texts))
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import BertTokenizer, PreTrainedModel, get_cosine_schedule_with_warmup

from configuration_mmet import MMETTextConfig
from mmet.starter.phrases import phrases
from modeling_mmet import MMETTextModel

SHORTEST_PIECES = 3
"""Word pieces of at most this many letters are always kept, so that any word in ASCII letters can be spelled."""


def choose_vocabulary(tokenizer: BertTokenizer, texts: Iterable[str], size: int) -> list[str]:
    """
    Choose the tokens to keep, in the tokenizer's own order: special tokens, short pieces, all tokens of the texts, and
    the first whole words, because WordPiece vocabularies list words by frequency.

    Raises:
        ValueError: `size` is too small for the special tokens, the short pieces and the tokens of the texts.
    """
    ids = tokenizer.get_vocab()
    ordered = sorted(ids, key=ids.__getitem__)
    kept = set(tokenizer.all_special_tokens)
    kept |= {token for token in ordered if token.isascii() and len(token.removeprefix("##")) <= SHORTEST_PIECES}
    for text in texts:
        kept.update(tokenizer.tokenize(text))
    if len(kept) > size:
        raise ValueError(f"expected a vocabulary of at least {len(kept)} tokens for these texts, received {size}")
    frequent = (token for token in ordered if token.isascii() and token.isalpha() and token not in kept)
    kept.update(itertools.islice(frequent, size - len(kept)))
    return [token for token in ordered if token in kept]


@torch.no_grad()
def start_student(teacher: PreTrainedModel, teacher_ids: Sequence[int], config: MMETTextConfig) -> MMETTextModel:
    """
    Make a new text encoder, whose word embeddings are the first principal components of the teacher's.

    Args:
        teacher: a BERT.
        teacher_ids: for each token of the student, its id in the teacher's vocabulary.
        config: configuration of the student; not wider than the teacher, with one token per id.
    """
    student = MMETTextModel(config)
    embedding = cast(torch.nn.Embedding, teacher.get_input_embeddings())
    words = embedding.weight[torch.tensor(teacher_ids)].double()
    centred = words - words.mean(dim=0)
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : config.hidden_size]
    projected = centred @ components
    student.embeddings.token_embedding.weight.copy_(projected / projected.std() * 0.05)  # BERT's own deviation
    return student


@torch.inference_mode()
def sentence_vectors(
    teacher: PreTrainedModel, tokenizer: BertTokenizer, texts: Sequence[str], batch_size: int = 64
) -> torch.Tensor:
    """Embed texts as unit vectors `(N, D)`: the mean of the teacher's last states over a text's tokens."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    vectors = torch.empty(len(texts), teacher.config.hidden_size)
    for start in tqdm(range(0, len(order), batch_size), desc="teacher", unit="batch"):
        rows = order[start : start + batch_size]
        inputs = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        states = teacher(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        vectors[rows] = F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1))
    return vectors


def distil(
    student: MMETTextModel,
    tokenizer: BertTokenizer,
    texts: Sequence[str],
    vectors: torch.Tensor,
    *,
    steps: int = 1200,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    max_length: int = 48,
    seed: int = 0,
) -> float:
    """
    Train the student in place to predict the teacher's vectors of texts, through a linear map that is then dropped.

    A second loss makes the cosines between the texts of a batch equal to those of the teacher.

    Args:
        student: the text encoder to train.
        tokenizer: the student's tokenizer.
        texts: the texts to learn from.
        vectors: `(N, D)`, the teacher's vectors of the texts.
        steps: number of optimisation steps.
        batch_size: texts in a batch.
        learning_rate: highest learning rate; it warms up over a twentieth of the steps and then follows a cosine.
        max_length: longest text in tokens.
        seed: random seed.

    Returns:
        The mean cosine to the teacher's vectors over the last tenth of the steps.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    head = torch.nn.Linear(student.config.hidden_size, vectors.shape[1])
    parameters = [p for p in (*student.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    centred = F.normalize(vectors - vectors.mean(dim=0))
    student.train()
    cosines = []
    batches = batches_of_one_length(texts, min(batch_size, len(texts)), rng)
    for rows in tqdm(itertools.islice(batches, steps), total=steps, desc="text encoder", unit="step"):
        inputs = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        )
        states = student(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        received, expected = F.normalize(head(states)), centred[rows]
        cosine = (received * expected).sum(dim=1).mean()
        loss = (1 - cosine) + 10 * ((received @ received.T) - (expected @ expected.T)).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        cosines.append(cosine.item())
    student.train(False)
    last = cosines[-max(1, steps // 10) :]
    return sum(last) / len(last)


def batches_of_one_length(texts: Sequence[str], batch_size: int, rng: random.Random) -> Iterator[list[int]]:
    """Yield batches of rows without end, of texts of similar length: four batches are drawn and sorted at a time."""
    while True:
        drawn = rng.sample(range(len(texts)), min(4 * batch_size, len(texts)))
        drawn.sort(key=lambda row: len(texts[row]))
        starts = list(range(0, len(drawn) - batch_size + 1, batch_size))
        rng.shuffle(starts)
        yield from (drawn[start : start + batch_size] for start in starts)


def texts_to_learn(captions: Sequence[str], num_captions: int, num_phrases: int, seed: int = 0) -> list[str]:
    """Choose different captions (at most `num_captions`) and phrases, in random order."""
    rng = random.Random(seed)
    different = sorted(set(captions))
    chosen = rng.sample(different, min(num_captions, len(different)))
    texts = sorted({*chosen, *itertools.islice(phrases(seed), num_phrases)})
    rng.shuffle(texts)
    return texts
