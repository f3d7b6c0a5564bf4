"""Toys: their tasks are what they say, training is repeatable, and the shipped ones are what their cards say."""

import json
from dataclasses import replace

import pytest
import torch
from reference import plain_logits

import steerscope as st
from benchmarks.make_toys import card, tokenizer_files
from steerscope.analysis.errors import BadArgument, DamagedRun
from steerscope.analysis.seals import CHECKSUMS, check_folder_seal, digest
from steerscope.circuits.toys.questions import questions
from steerscope.circuits.toys.recipes import INDUCTION, ONE_LAYER, SHIPPED
from steerscope.circuits.toys.tasks import BOS, END, SUBJECT, ioi, repeated
from steerscope.circuits.toys.train import accuracy, train_toy
from steerscope.circuits.toys.zoo import CARD, ZOO, toy, toys
from steerscope.commands.models import models

SHORT = replace(ONE_LAYER, steps=6, warmup=2)
every_toy = pytest.mark.parametrize("name", sorted(SHIPPED))


def test_ioi_asks_for_the_name_that_is_not_repeated_in_all_pairs_some_held_out() -> None:
    learned, held_out = ioi(20, seed=0)
    assert (len(learned.ids), len(held_out.ids)) == (2 * 304, 2 * 76)
    rows = torch.cat([learned.ids, held_out.ids]).tolist()
    assert len({tuple(row) for row in rows}) == 2 * 20 * 19
    for row, answer in zip(rows, torch.cat([learned.answers, held_out.answers])[:, 0].tolist(), strict=True):
        assert {answer, row[SUBJECT]} == set(row[1:3]) and row[0] == BOS
    pairs = [{tuple(row[1:3]) for row in batch.ids.tolist()} for batch in (learned, held_out)]
    assert not pairs[0] & pairs[1]


@pytest.mark.parametrize("distinct", [False, True])
def test_induction_asks_for_what_followed_before(distinct: bool) -> None:
    batch = repeated(7, 50, torch.Generator().manual_seed(0), distinct)
    assert batch.ids.shape == (50, 15) and (batch.ids[:, 1:8] == batch.ids[:, 8:]).all()
    assert batch.asked == tuple(range(8, 14))
    for ids, answers in zip(batch.ids.tolist(), batch.answers.tolist(), strict=True):
        assert answers == ids[3 - 1 : 8] and BOS not in ids[1:]
        assert not distinct or len(set(ids[1:8])) == 7


def test_a_recipe_gives_the_same_weights_again_and_another_seed_others() -> None:
    state = torch.get_rng_state()
    first, again, other = (train_toy(replace(SHORT, seed=seed)).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert torch.equal(torch.get_rng_state(), state)


def test_training_learns() -> None:
    losses = [loss for _, loss in train_toy(replace(ONE_LAYER, steps=150)).losses]
    assert losses[-1] < 0.7 * losses[0]


def test_a_recipe_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(BadArgument, match="shortest=9"):
        replace(INDUCTION, shortest=9, longest=5)
    with pytest.raises(BadArgument, match="rate"):
        replace(INDUCTION, rate=0.0)


def test_all_toys_are_shipped_and_small() -> None:
    assert sorted(toys()) == sorted(SHIPPED)
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in toys().values()]
    assert max(sizes) < 300_000 and sum(sizes) < 2_000_000


@every_toy
def test_a_card_says_what_the_weights_do(name: str) -> None:
    told, known = toy(name), SHIPPED[name]
    assert (told.recipe, told.circuit, told.solved) == (known.recipe, known.circuit, known.solved)
    model = st.load(name)
    found = accuracy(model.bridge, told.recipe)
    assert found == pytest.approx(told.accuracy, abs=1e-3)
    *_, fairest = found.values()
    assert fairest > 0.99 if told.solved else fairest < 0.75
    training = json.loads((ZOO / name / CARD).read_text())
    assert (ZOO / name / "README.md").read_text() == card(training)


@every_toy
def test_a_shipped_folder_is_sealed(name: str) -> None:
    folder = ZOO / name
    check_folder_seal(folder, DamagedRun, "toy")
    listed = json.loads((folder / CHECKSUMS).read_text())["files"]
    assert listed == {p.name: digest(p.read_bytes()) for p in folder.iterdir() if p.name != CHECKSUMS}


@every_toy
def test_a_question_makes_exactly_the_other_prompt(name: str) -> None:
    """Steered logits are the clean ones of the prompt with the other token in its place."""
    model, recipe = st.load(name, selfcheck=False), toy(name).recipe
    asked = next(iter(questions(model, recipe, 1)))
    label = asked.injections[0].vector.label
    new, old = (model.single_token(word) for word in label.split(" - "))
    for p, ids in enumerate(asked.prompts.full):
        (place,) = asked.injected[p]
        assert ids[place] == old
        other = [*ids[:place], new, *ids[place + 1 :]]
        steered, expected = plain_logits(model, ids, list(asked.edits(0)[p])), plain_logits(model, other, [])
        torch.testing.assert_close(steered, expected, atol=1e-4, rtol=1e-4)


def test_text_becomes_the_words_of_the_task() -> None:
    model = st.load("toy-ioi-query", selfcheck=False)
    ids = model.tokens("Anna Ben MID Ben END")
    assert ids == [BOS, 1, 2, 21, 2, 22] and len(ids) == END + 1
    assert model.text(ids[1:]) == "Anna Ben MID Ben END" and model.target("Anna") == model.target(" Anna") == 1
    assert "".join(map(model.token_text, ids[1:])) == " Anna Ben MID Ben END"
    assert set(tokenizer_files(toy("toy-ioi-query").recipe)) <= {p.name for p in (ZOO / "toy-ioi-query").iterdir()}


def test_the_command_lists_toys_apart_from_models() -> None:
    listed = models(small=True).found["toys"]
    assert [one["name"] for one in listed] == sorted(SHIPPED)
    assert not {one["name"] for one in models(small=False).found["models"]} & set(SHIPPED)
