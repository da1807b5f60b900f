"""The tokenizer trained offline: reproducible, complete, and an ordinary `BertTokenizer`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertTokenizer

from mmet.data.schema import DatasetError
from mmet.training.tokenization import SPECIAL_TOKENS, load_person_words, train_wordpiece_tokenizer

CAPTIONS = [
    "A female adult wears short blue upper-body clothes and white lower-body clothes and dark shoes.",
    "There is a young male with short hair, who wears blue upper-body clothes in an overcast afternoon.",
    "The flibbertigibbet carries a flibbertigibbet.",
    "",
] * 5


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return train_wordpiece_tokenizer(CAPTIONS, vocab_size=1500)


def test_sentences_come_back(tokenizer: BertTokenizer) -> None:
    ids = tokenizer(CAPTIONS[0])["input_ids"]
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" - ", "-") == CAPTIONS[0].lower()


def test_special_tokens_come_first(tokenizer: BertTokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(SPECIAL_TOKENS)
    assert tokenizer.pad_token_id == 0
    assert tokenizer.mask_token_id == 4
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_shipped_words_are_whole_tokens(tokenizer: BertTokenizer) -> None:
    words = load_person_words()
    assert len(words) == len(set(words)) > 500
    assert all(tokenizer.tokenize(word) == [word] for word in words)
    assert tokenizer.tokenize("A woman in a maroon cardigan") == ["a", "woman", "in", "a", "maroon", "cardigan"]


def test_pieces_are_learnt_from_the_captions(tokenizer: BertTokenizer) -> None:
    assert len(tokenizer.tokenize("flibbertigibbet")) == 1
    assert tokenizer.unk_token not in tokenizer.tokenize("zyzzyva, 42 ünïcode!")


def test_without_extra_words_other_wording_falls_to_pieces(tokenizer: BertTokenizer) -> None:
    bare = train_wordpiece_tokenizer(CAPTIONS, vocab_size=1500, extra_words=())
    sentence = "a lady in a maroon cardigan with a backpack"
    assert len(bare.tokenize(sentence)) > 2 * len(tokenizer.tokenize(sentence))


def test_extra_words_are_normalised(tokenizer: BertTokenizer) -> None:
    with_words = train_wordpiece_tokenizer(CAPTIONS, vocab_size=300, extra_words=["Déshabillé", "T-shirt"])
    assert with_words.tokenize("deshabille t-shirt") == ["deshabille", "t", "-", "shirt"]


def test_vocab_size_is_kept_and_explained() -> None:
    assert len(train_wordpiece_tokenizer(CAPTIONS, vocab_size=130, extra_words=["coat"])) == 130
    with pytest.raises(ValueError, match=r"at least \d+ .* received 50"):
        train_wordpiece_tokenizer(CAPTIONS, vocab_size=50)


@pytest.mark.parametrize("captions", [[], ["", "  "]])
def test_no_captions__error(captions: list[str]) -> None:
    with pytest.raises(DatasetError, match="received none"):
        train_wordpiece_tokenizer(captions, vocab_size=1500)


def test_round_trip(tokenizer: BertTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    for again in (BertTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert isinstance(again, BertTokenizer)
        assert again.get_vocab() == tokenizer.get_vocab()
        text = "A [MASK] man, in a FLIBBERTIGIBBET"
        assert again(text, text)["input_ids"] == tokenizer(text, text)["input_ids"]


def test_another_process_learns_the_same_vocabulary() -> None:
    """The trainer hashes with a seed of its own in every process; the vocabulary must not depend on it."""
    program = (
        "import hashlib, random\n"
        "from mmet.training.tokenization import load_person_words, train_wordpiece_tokenizer\n"
        "random.seed(0)\n"
        "captions = [' '.join(random.choices(load_person_words(), k=12)) for _ in range(200)]\n"
        "tokenizer = train_wordpiece_tokenizer(captions, vocab_size=700, extra_words=())\n"
        "digest = hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()\n"
    )
    here: dict[str, str] = {}
    exec(program, here)
    there = subprocess.run(
        [sys.executable, "-c", program + "print(digest)"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here["digest"]
