"""Completions of many rows at once against `generate`, and what hidden positions mean."""

import numpy as np
import pytest
import torch
from reference import plain_logits

from steerscope.analysis.breakdown.completions import Row, cache, complete, completions, fluency
from steerscope.analysis.breakdown.strength import at, rows
from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.generation import generate, surprises
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.prompt_pair import prompt_pair


@pytest.fixture(scope="module")
def asked(tiny: Model, stories: list[str]) -> Experiment:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 4.0)
    return Experiment(tiny, (injection,), make_prompts(tiny, stories[:3]), references=0)


def test_completions_are_those_of_generate(asked: Experiment) -> None:
    model = asked.model
    given = [
        Row(ids, edits[p], seed=p)
        for edits in (asked.nothing, asked.edits(0))
        for p, ids in enumerate(asked.prompts.ids)
    ]
    made = complete(model, given, 10, "test")
    for i, row in enumerate(given):
        own = asked.injections if i >= 3 else ()
        assert made[i] == generate(model, row.prompt, own, tokens=10, seed=row.seed)


@torch.no_grad()
def test_the_limit_is_completed_without_touching_new_tokens(asked: Experiment) -> None:
    """Its edits name positions of the prompt alone."""
    model, ids = asked.model, asked.prompts.ids[0]
    edits = at(asked, float("inf"))[0]
    made = complete(model, [Row(ids, edits)], 3, "test")[0]
    assert all(e.positions is not None and max(e.positions) < len(ids) for e in edits)
    logits = plain_logits(model, [*ids, *made[:2]], edits)[-1]
    assert torch.isfinite(logits).all() and float(logits.softmax(-1)[made[2]]) > 0


@torch.no_grad()
def test_hidden_positions_are_not_seen_by_new_tokens_alone(asked: Experiment) -> None:
    model, ids = asked.model, asked.prompts.ids[1]
    where = rows(asked, 4.0)[1][0]
    made = complete(model, [Row(ids, asked.edits(0)[1], where, seed=5)], 2, "test")[0]
    # The first new token is predicted by a position of the prompt, which sees everything; the second is not.
    full = [*ids, made[0]]
    keys = torch.zeros(len(full))
    keys[list(where)] = 1
    hide = [
        Edit(Site("pattern", n, h), "hide", keys, (len(ids),))
        for n in range(model.n_layers)
        for h in range(model.n_heads)
    ]
    for edits, prompt, token in ((asked.edits(0)[1], ids, made[0]), ((*asked.edits(0)[1], *hide), full, made[1])):
        ordered = plain_logits(model, prompt, edits)[-1].softmax(-1).sort(descending=True)
        rank = ordered.indices.tolist().index(token)
        assert float(ordered.values[:rank].sum()) < 0.95  # within top-p
    seen = complete(model, [Row(ids, asked.edits(0)[1], (), seed=5)], 12, "test")[0]
    hidden = complete(model, [Row(ids, asked.edits(0)[1], where, seed=5)], 12, "test")[0]
    assert seen[0] == hidden[0] and seen != hidden


@torch.no_grad()
def test_surprise_is_the_clean_models_loss(asked: Experiment) -> None:
    model, ids = asked.model, asked.prompts.ids[0]
    made = [7, 31, 12]
    logits = plain_logits(model, [*ids, *made]).log_softmax(-1)
    expected = [-float(logits[len(ids) - 1 + i, token]) for i, token in enumerate(made)]
    found = surprises(model, [ids, asked.prompts.ids[1]], [made, []])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert len(found[1]) == 0


def test_fluency_of_known_texts() -> None:
    found = fluency([1, 2, 3, 4, 1, 2, 3, 4], np.ones(8))
    assert found["surprise"] == 1 and found["distinct"] == pytest.approx(4 / 7)
    assert found["repeated"] == pytest.approx(1 / 5)
    assert np.isnan(list(fluency([], np.array([])).values())).all()


def test_tables_have_a_row_for_each_question(asked: Experiment) -> None:
    table, texts = completions(asked, [0.0, 4.0, float("inf")], 2, 6, 0.95)
    assert len(table) == 3 * 3 and len(texts) == 3 * 2
    kept = cache(asked, 4.0, 2, 20, 0.95)
    assert len(kept) == 4 * 2 * 3 and set(kept["token"]) == {0, 16}
