"""The twelve vectors."""

import itertools
import json
from collections import Counter

import pytest

from steerscope.analysis.errors import BadCorpus
from steerscope.tinystories.corpus import topic_stories
from steerscope.tinystories.twelve import CUT, Concept, twelve
from steerscope.tinystories.zoo import shipped


def test_there_are_twelve_of_every_kind_and_of_both_recipes() -> None:
    assert len({concept.name for concept in twelve()}) == 12
    kinds = Counter(concept.kind for concept in twelve())
    assert set(kinds) == {"topic", "sentiment", "name", "gender", "tense"}
    assert min(Counter(concept.recipe for concept in twelve()).values()) >= 5


@pytest.mark.parametrize("model", sorted(shipped()))
def test_every_word_is_one_token_of_the_shipped_models(model: str) -> None:
    vocabulary = json.loads((shipped()[model] / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    for concept in twelve():
        words = [*concept.plus, *concept.minus, *concept.raises, *concept.lowers]
        assert [word for word in words if word.replace(" ", "Ġ") not in vocabulary] == [], concept.name


def test_no_word_stands_on_both_sides() -> None:
    for concept in twelve():
        assert not {*concept.plus} & {*concept.minus} and not {*concept.raises} & {*concept.lowers}


def test_texts_of_a_mean_are_beginnings_of_stories_that_end_in_its_words() -> None:
    stories = list(itertools.islice(topic_stories(seed=3), 5000))
    for concept in (concept for concept in twelve() if concept.recipe == "mean_difference"):
        for words, texts in zip((concept.plus, concept.minus), concept.texts(8, seed=3), strict=True):
            assert len(set(texts)) == 8
            for text in texts:
                assert text.endswith(words) and CUT[0] <= len(text.split()) <= CUT[1]
                after = [story[len(text) :][:1] for story in stories if story.startswith(text)]
                assert after and not any(letter.isalnum() for letter in after)


def test_words_that_no_story_has_are_refused() -> None:
    nothing = Concept("nothing", "topic", "mean_difference", (" xylophone",), (" is",), (" is",), (" was",))
    with pytest.raises(BadCorpus, match="0 texts end in one of ' xylophone'; expected 1 "):
        nothing.texts(1)
