"""Train a BERT tokenizer on captions, without a download: WordPiece, lower-cased, in BERT's format.

A vocabulary of one dataset cuts the sentences of others into many small pieces. Therefore it always includes a list of
words that describe people (`person_words.txt`).

    >>> tokenizer = train_wordpiece_tokenizer(["A man in a blue coat."], vocab_size=4000)
    >>> tokenizer.tokenize("A blue coat")
    ['a', 'blue', 'coat']
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator
from importlib import resources

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from transformers import BertTokenizer

from mmet.data.schema import DatasetError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CONTINUATION = "##"
_WORD_CHARACTERS = frozenset(string.ascii_lowercase + string.digits)


def load_person_words() -> list[str]:
    """Read the package's list of English words that describe people (colours, garments, body, …), sorted."""
    return resources.files("mmet.data").joinpath("person_words.txt").read_text(encoding="utf-8").split()


def train_wordpiece_tokenizer(
    captions: Iterable[str], *, vocab_size: int, extra_words: Iterable[str] | None = None
) -> BertTokenizer:
    """Train a lower-cased WordPiece vocabulary and return it as a `BertTokenizer`.

    The vocabulary holds, in this order: BERT's five special tokens; every character of the captions and ASCII, at the
    start of a word and inside; `extra_words`; and pieces learnt from the captions, up to `vocab_size`.
    The same captions always give the same vocabulary.

    Args:
        captions: sentences; blank ones are ignored.
        vocab_size: maximum number of tokens (the captions may yield fewer).
        extra_words: words that are always in the vocabulary; None for `load_person_words()`.

    Raises:
        DatasetError: no caption has a word.
        ValueError: `vocab_size` cannot hold the characters and the extra words.
    """
    trainable = Tokenizer(WordPiece(unk_token="[UNK]"))
    trainable.normalizer = BertNormalizer(lowercase=True)
    trainable.pre_tokenizer = BertPreTokenizer()
    sentences = [caption for caption in captions if caption.strip()]
    if not sentences:
        raise DatasetError("expected captions to train a tokenizer on, received none that has a word")

    words = sorted(set(_words(trainable, load_person_words() if extra_words is None else extra_words)))
    starting, inside = _characters(trainable, sentences, words)
    alphabet = [*sorted(starting), *(_CONTINUATION + character for character in sorted(inside))]
    required = list(dict.fromkeys([*SPECIAL_TOKENS, *alphabet, *words]))
    if vocab_size < len(required):
        raise ValueError(
            f"expected a vocab_size of at least {len(required)} ({len(alphabet)} characters, {len(words)} extra words "
            f"and {len(SPECIAL_TOKENS)} special tokens), received {vocab_size}"
        )
    # The trainer numbers the alphabet in the order of a randomly seeded hash map and breaks ties by those numbers.
    # Passing the alphabet as special tokens fixes the numbers, and with them the result.
    fixed = [*SPECIAL_TOKENS, *alphabet]
    trainer = WordPieceTrainer(vocab_size=vocab_size, special_tokens=fixed, show_progress=False)
    trainable.train_from_iterator(sentences, trainer)
    vocabulary = trainable.get_vocab(with_added_tokens=False)
    learnt = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens = list(dict.fromkeys([*required, *learnt]))[:vocab_size]
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, do_lower_case=True)


def _characters(tokenizer: Tokenizer, sentences: list[str], words: list[str]) -> tuple[set[str], set[str]]:
    """The characters at the start of a word (or alone) and inside a word: ASCII and those of the sentences."""
    starting, inside = set(_WORD_CHARACTERS) | set(string.punctuation), set(_WORD_CHARACTERS)
    for word in itertools.chain(words, _words(tokenizer, sentences)):
        starting.add(word[0])
        inside.update(word[1:])
    return starting, inside


def _words(tokenizer: Tokenizer, sentences: Iterable[str]) -> Iterator[str]:
    """The words of the sentences as the tokenizer sees them: normalised, split at spaces and punctuation."""
    for sentence in sentences:
        normalised = tokenizer.normalizer.normalize_str(sentence)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalised):
            yield word
