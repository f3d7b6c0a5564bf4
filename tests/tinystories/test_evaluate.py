"""Bits per character, held against sums by hand."""

import math

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from steerscope.tinystories.evaluate import _windows, evaluate
from steerscope.tinystories.tokenizer import encode, end_token, train_tokenizer

STORIES = ["Anna saw a ship.", "Tom had a long, long, long day at the wedding of his aunt."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(STORIES, 300)


def test_a_uniform_model_pays_the_logarithm_of_the_vocabulary_for_every_token(tokenizer: Tokenizer) -> None:
    def uniform(tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 300)

    score = evaluate(uniform, tokenizer, STORIES, context=8)
    tokens = sum(len(tokenizer.encode(story).ids) + 1 for story in STORIES)  # with the story's end
    assert score.tokens == tokens
    assert score.loss == pytest.approx(math.log(300))
    characters = sum(map(len, STORIES))
    assert score.bits_per_character == pytest.approx(tokens * math.log2(300) / characters)


def test_windows_give_the_same_score_as_a_long_context_for_a_model_without_memory(tokenizer: Tokenizer) -> None:
    table = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))

    def bigram(tokens: Tensor) -> Tensor:
        return table[tokens]

    scores = [evaluate(bigram, tokenizer, STORIES, context).nats for context in (4, 7, 1000)]
    assert scores == pytest.approx([scores[-1]] * 3, rel=1e-5)


@pytest.mark.parametrize("length", range(2, 40))
@pytest.mark.parametrize("context", [4, 8, 9])
def test_every_token_is_counted_once_and_with_half_a_window_before_it(length: int, context: int) -> None:
    counted = []
    for ids, skip in _windows(list(range(length)), context):
        assert len(ids) <= context + 1
        assert ids[0] == 0 or skip >= context // 2
        counted += ids[skip + 1 :]
    assert counted == list(range(1, length))


def test_every_story_stands_behind_an_end_token_in_the_stream(tokenizer: Tokenizer) -> None:
    stream = encode(tokenizer, STORIES).tolist()
    end = end_token(tokenizer)
    assert [position for position, token in enumerate(stream) if token == end] == [
        0,
        1 + len(tokenizer.encode(STORIES[0]).ids),
        len(stream) - 1,
    ]
    assert tokenizer.decode(stream, skip_special_tokens=True) == "".join(STORIES)
