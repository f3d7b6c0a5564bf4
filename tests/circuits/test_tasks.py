"""Tasks: pairs of prompts whose slots are single tokens, and what a model gets right of them."""

from typing import Any

import pytest
import torch
from checkpoints import save_gpt2_shape

import steerscope as st
from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.circuits.solving import log_odds
from steerscope.circuits.task import SLOT
from steerscope.circuits.tasks import TASKS
from steerscope.circuits.words import Words


@pytest.fixture(scope="module")
def model() -> Model:
    model: Model = st.load("tinystories-2l")
    return model


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small random model with GPT-2's own tokenizer."""
    return load(save_gpt2_shape(tmp_path_factory.mktemp("gpt2"), layers=1, heads=2, width=16))


@pytest.mark.parametrize("name", TASKS)
def test_gpt2s_tokenizer_can_be_asked_every_task(name: str, gpt2: Model) -> None:
    made = st.task(name)(gpt2, 12, seed=1, ask=True)
    again = st.task(name)(gpt2, 12, seed=1, ask=True)
    assert made.table.equals(again.table) and len(set(made.clean.texts)) == 12
    for p in range(len(made)):
        clean, corrupted = made.clean.ids[p], made.corrupted.ids[p]
        assert len(clean) == len(corrupted) and clean != corrupted
        assert made.places[p]["END"] == len(clean) - 1 and max(made.places[p].values()) < len(clean)
        assert list(clean) == gpt2.tokens(made.clean.texts[p])  # the text says what the ids say
        for token, text in zip(made.clean.targets[p], made.answers[p], strict=True):
            assert gpt2.token_text(token) == text
        assert not set(made.clean.targets[p]) & set(made.clean.against[p])
        for place, index in made.places[p].items():  # what is named is a word of the template, or the end
            assert place == "END" or gpt2.token_text(clean[index]).strip()


def test_ioi_names_stand_where_the_places_say(gpt2: Model) -> None:
    made = st.task("ioi")(gpt2, 16, ask=True)
    for ids, other, places, answer, wrong in zip(
        made.clean.ids, made.corrupted.ids, made.places, made.answers, made.distractors, strict=True
    ):
        assert gpt2.token_text(ids[places["IO"]]) == answer[0]
        assert gpt2.token_text(ids[places["S1"]]) == gpt2.token_text(ids[places["S2"]]) == wrong[0]
        changed = {i for i, (a, b) in enumerate(zip(ids, other, strict=True)) if a != b}
        assert changed == {places["IO"], places["S1"], places["S2"]}
    flipped = st.task("ioi-flip")(gpt2, 16, ask=True)
    for ids, other, places in zip(flipped.clean.ids, flipped.corrupted.ids, flipped.places, strict=True):
        assert [i for i, (a, b) in enumerate(zip(ids, other, strict=True)) if a != b] == [places["S2"]]


def test_what_is_right_is_what_plain_passes_say(model: Model) -> None:
    made = st.task("gender")(model, 10, ask=True)
    odds = log_odds(model, made.clean)
    for p, ids in enumerate(made.clean.ids):
        with torch.no_grad():
            logits = model.bridge(torch.tensor([ids]))[0, -1]
        sides = (logits[list(side[p])].logsumexp(0) for side in (made.clean.targets, made.clean.against))
        assert odds[p] == pytest.approx(float(torch.sub(*sides)), abs=1e-4)
    assert made.solved.share == int((odds > 0).sum()) / len(odds)
    assert made.solved.low <= made.solved.share <= made.solved.high


def test_an_unsolved_task_is_refused_unless_asked(model: Model) -> None:
    with pytest.raises(BadCircuit, match=r"does not solve the task agreement-across: \d+% right .* pass ask=True"):
        st.task("agreement-across")(model, 16)
    assert len(st.task("agreement-across")(model, 16, ask=True)) == 16


def test_a_tokenizer_without_the_words_an_unknown_task_and_a_model_without_texts(model: Model) -> None:
    with pytest.raises(BadCircuit, match="words of the list 'capitalised' are single tokens of tinystories-2l"):
        st.task("acronyms")(model, 4)
    with pytest.raises(BadCircuit, match="no task 'oi'; expected one of ioi"):
        st.task("oi")
    with pytest.raises(BadCircuit, match=r"draws of the task agreement gave \d+ prompts"):
        st.task("agreement")(model, 300)


def test_the_corrupted_induction_prompt_has_not_seen_the_answer(gpt2: Model) -> None:
    made = st.task("induction")(gpt2, 8, ask=True)
    for clean, corrupted, answer in zip(made.clean.ids, made.corrupted.ids, made.clean.targets, strict=True):
        assert answer[0] in clean and answer[0] not in corrupted
    assert len({len(ids) for ids in made.clean.ids}) > 3  # at one length a model may go by position


def test_every_slot_of_a_template_is_filled(gpt2: Model) -> None:
    import numpy as np

    rng, words = np.random.default_rng(0), Words(gpt2)
    for task in TASKS.values():
        pair: Any = task.draw(words, rng)
        assert set(SLOT.findall(pair.template)) == set(pair.clean) == set(pair.corrupted)
        assert set(pair.at.values()) | set(pair.one) <= set(pair.clean)
