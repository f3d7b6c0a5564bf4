"""A text that goes on is parted together with what stands before it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerscope.analysis.errors import BadMetric, BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob, perplexity
from steerscope.analysis.question.prompts import continued, make_prompts
from steerscope.analysis.vectors.prompt_pair import paired, prompt_pair

OPENING = "Once upon a time"


@pytest.fixture(scope="module")
def sentencepiece(stories260k: Model) -> Model:
    assert stories260k.encode(" there") != stories260k.encode_inner(" there")
    return stories260k


def test_a_continuation_has_the_tokens_that_it_has_in_the_whole_text(sentencepiece: Model) -> None:
    model = sentencepiece
    prompts = make_prompts(model, [OPENING, model.tokens(OPENING)[1:]])
    whole = model.tokens(OPENING + " there was a girl")
    assert continued(model, prompts, " there was a girl").full == (tuple(whole), tuple(whole[1:]))


def test_log_perplexity_of_a_continuation_is_that_of_the_whole_text(sentencepiece: Model) -> None:
    model = sentencepiece
    injection = Injection(prompt_pair(model, " there", " girl", 1), 0.0)
    prompts = make_prompts(model, [OPENING])
    value = Experiment(model, (injection,), prompts, perplexity(" there"), references=0).value(None)[0]
    batch = [model.tokens(OPENING + " there")]
    with torch.no_grad():
        logits = model.bridge(torch.tensor(batch))[0, -2]
    assert value == pytest.approx(float(-logits.log_softmax(-1)[batch[0][-1]]), abs=1e-4)
    assert value == pytest.approx(3.55, abs=0.01)  # what is found by hand; the text tokenized alone gives 12.087


def test_a_seam_inside_of_a_token_leaves_the_prompt_as_it_is(sentencepiece: Model, tiny: Model) -> None:
    for model, text, more in ((sentencepiece, "She was ha", "ppy"), (tiny, "One day Li", "ly")):
        ids = model.tokens(text)
        found = model.following(ids, more)
        assert not found.seamless and model.text_after(ids, found.ids) == more
        assert not model.text(found.ids[:1]).startswith(" ")
    assert found.ids == tuple(tiny.encode("ly"))


@given(st.text(" abcdeily.\n", max_size=12).map("Tom".__add__), st.text(" abcdeily.\n", min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_what_follows_spells_the_text(stories260k: Model, tiny: Model, before: str, text: str) -> None:
    for model in (stories260k, tiny):
        ids = model.tokens(before)
        found = model.following(ids, text)
        assert model.text_after(ids, found.ids) == text
        assert not found.seamless or [*ids, *found.ids] == model.tokens(before + text)


def test_a_byte_level_bpe_parts_what_follows_as_before(tiny: Model) -> None:
    for text in (" there", "there", " a big dog", "!"):
        assert tiny.encode_inner(text) == tiny.encode(text)
        assert list(tiny.following(tiny.tokens("One day Lily"), text).ids) == tiny.encode(text)


def test_a_target_is_the_token_that_spells_it_inside_of_a_text(sentencepiece: Model) -> None:
    model = sentencepiece
    there = model.tokens(OPENING + " there")[-1]
    assert model.single_token(" there") == there and model.token_text(there) == " there"
    assert model.token_text(model.single_token(" ")) == " "
    with pytest.raises(BadMetric, match=r"'there' is not a single token .*\(' there' is one\)"):
        model.single_token("there")
    injection = Injection(prompt_pair(model, " girl", " boy", 1), 1.0)
    prepared = Experiment(model, (injection,), make_prompts(model, [OPENING]), log_prob([" there"]))
    assert prepared.metric.tokens == (" there",)


def test_sides_of_a_pair_have_the_words_of_the_text_and_no_space_alone(sentencepiece: Model) -> None:
    model = sentencepiece
    first, second = paired(model, " day", " ")
    day, space = (model.single_token(t) for t in (" day", " "))
    assert (first, second) == ([model.bos, day], [model.bos, space])
    assert paired(model, "day", " ") == (first, second)  # SentencePiece begins every text with a space


def test_text_that_was_generated_keeps_its_first_space(sentencepiece: Model) -> None:
    model = sentencepiece
    ids, more = model.tokens(OPENING), list(model.following(model.tokens(OPENING), " there was").ids)
    assert model.text_after(ids, more) == " there was" and model.text(more) == "there was"
    bare = replace(model, tokenizer=None)
    assert bare.text_after([3, 4], [5, 6]) == "5 6"


def test_a_text_after_ids_of_a_model_without_a_tokenizer_is_refused(tiny: Model) -> None:
    bare = replace(tiny, tokenizer=None)
    with pytest.raises(BadPrompt, match="no tokenizer, got the text ' there'"):
        continued(bare, make_prompts(bare, [[1, 2]]), " there")
