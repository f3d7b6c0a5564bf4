"""What is shipped for any model: words that stand in place of the real one, and a general set of prompts."""

from pathlib import Path

import pytest

import steerscope.analysis.question as room
from steerscope.analysis.question.groups import groups_of
from steerscope.loader import load

DATA = Path(room.__path__[0]) / "data"
WORDS = DATA.joinpath("words.txt").read_text(encoding="utf-8").splitlines()
PROMPTS = DATA.joinpath("prompts_general.txt").read_text(encoding="utf-8").splitlines()


def test_the_words_are_many_common_ones_and_each_stands_once() -> None:
    assert 550 <= len(WORDS) == len(set(WORDS))
    assert all(word.isascii() and word.isalpha() and word == word.lower() and 2 < len(word) < 12 for word in WORDS)
    assert sum(len(word) <= 7 for word in WORDS) > 0.85 * len(WORDS)


def test_many_words_are_one_token_of_a_story_model_as_well() -> None:
    tokenizer = load("tinystories-2l", selfcheck=False).tokenizer
    single = [word for word in WORDS if len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1]
    assert len(single) > 200


def test_no_word_is_another_in_the_plural() -> None:
    assert [word for word in WORDS if {f"{word}s", f"{word}es"} & set(WORDS)] == []


def test_general_prompts_are_beginnings_of_like_length_and_none_repeats_another() -> None:
    assert len(PROMPTS) == 32 and all(8 <= len(line.split()) <= 13 for line in PROMPTS)
    assert all(line == line.strip() for line in PROMPTS)  # a space at the end would be a token of its own
    starts = {" ".join(line.split()[:2]) for line in PROMPTS}
    assert len(starts) == len(PROMPTS)


@pytest.mark.parametrize("kind", ["words", "tokens"])
def test_every_general_prompt_is_a_group_by_itself(kind: str) -> None:
    model = load("tinystories-2l", selfcheck=False)
    words = {word: n for n, word in enumerate({word for line in PROMPTS for word in line.split()})}
    ids = [[words[w] for w in line.split()] if kind == "words" else model.tokens(line) for line in PROMPTS]
    assert len(set(groups_of(ids))) == len(PROMPTS)
