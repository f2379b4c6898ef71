"""Bad words become the ids they are written with: single tokens, and sequences for the engine."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quire.services.tokenizer.bad_words import BadIds, bad_ids, without_bad_words
from quire.services.tokenizer.token_ids import pack_ids, unpack_ids
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.tokenizer_files import read_tokenizer_files
from quire.services.tokenizer.validation import Limits
from quire.shared.errors import ApiError
from quire.shared.messages import RequestId, SamplingParams, Submit
from quire.shared.model_files import DEMO_MODEL

LIMITS = Limits(max_model_len=100, vocab_size=2048)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(read_tokenizer_files(DEMO_MODEL))


def refusal(words: Sequence[str], tokenizer: TextTokenizer, allowed: list[int] | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        bad_ids(words, tokenizer.encode_texts, LIMITS, allowed)
    assert caught.value.status == 400 and caught.value.param == "bad_words"
    return caught.value


def written(ids: BadIds, tokenizer: TextTokenizer) -> set[str]:
    return {tokenizer.decode([one]) for one in ids.token_ids} | {
        tokenizer.decode(unpack_ids(sequence)) for sequence in ids.sequences
    }


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("the", {"the", " the"}),
        (" the", {"the", " the"}),
        ("xylophone", {"xylophone", " xylophone"}),
        ("two words", {"two words", " two words"}),
        ("日本", {"日本", " 日本"}),
        ("\n", {"\n", " \n"}),
        ("  ", {"  "}),
    ],
)
def test_a_word_is_banned_at_the_beginning_and_behind_a_space(
    word: str, forms: set[str], tokenizer: TextTokenizer
) -> None:
    found = bad_ids([word], tokenizer.encode_texts, LIMITS)
    assert written(found, tokenizer) == forms
    assert all(len(unpack_ids(sequence)) > 1 for sequence in found.sequences)


def test_what_several_words_share_is_listed_once(tokenizer: TextTokenizer) -> None:
    twice = bad_ids(["the", " the", "the", "xylophone", " xylophone"], tokenizer.encode_texts, LIMITS)
    assert twice == bad_ids(["the", "xylophone"], tokenizer.encode_texts, LIMITS)


def test_a_special_tokens_text_is_text(tokenizer: TextTokenizer) -> None:
    found = bad_ids(["<|im_end|>"], tokenizer.encode_texts, LIMITS)
    assert not tokenizer.special_ids & set(found.token_ids) and found.sequences


def test_the_submit_bans_single_tokens_and_carries_sequences() -> None:
    plain = Submit(RequestId(1), pack_ids([5]), 1, SamplingParams(bad_token_ids=[9, 4]), 0, 0.0)
    submit = without_bad_words(plain, BadIds([4, 7], [pack_ids([1, 2])]))
    assert submit.sampling.bad_token_ids == [4, 7, 9]
    assert submit.bad_sequences == [pack_ids([1, 2])]


def test_words_that_leave_no_allowed_token_are_refused(tokenizer: TextTokenizer) -> None:
    found = bad_ids(["the"], tokenizer.encode_texts, LIMITS)
    assert "allowed_token_ids" in refusal(["the"], tokenizer, found.token_ids).message
    assert bad_ids(["the"], tokenizer.encode_texts, LIMITS, [*found.token_ids, 5]) == found


def test_a_word_without_a_token_is_refused_and_named() -> None:
    def encode(texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        return [[] if "\u200b" in text else [7] for text in texts]

    with pytest.raises(ApiError, match=r"bad_words\[1\]"):
        bad_ids(["a", "\u200b"], encode, LIMITS)


def test_a_word_whose_token_the_model_does_not_have_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ApiError, match="vocabulary"):
        bad_ids(["the"], tokenizer.encode_texts, Limits(max_model_len=100, vocab_size=3))
