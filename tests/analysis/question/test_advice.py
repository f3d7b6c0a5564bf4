"""Warnings: each is there where its fact holds, and not where it does not."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.advice import SINK, advice
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import perplexity
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.prompt_pair import prompt_pair

TEXTS = ["Tom had a red ball", "One day Lily saw a cake"]


def asked(model: Model, vector: Any = None, prompts: Any = TEXTS, positions: Any = "front", **more: Any) -> Experiment:
    vector = prompt_pair(model, " wedding", " ", 1) if vector is None else vector
    return Experiment(model, (Injection(vector, 2.0, positions=positions),), prompts, references=0, **more)


def test_an_ordinary_question_has_no_warnings(tiny: Model) -> None:
    assert advice(asked(tiny)) == []


def test_a_sink_is_measured_and_told_only_where_something_is_added_there(tiny: Model) -> None:
    row = prompt_pair(tiny, " wedding", " ", 1).row(-1)
    ordinary = asked(tiny, row, positions="0")
    assert advice(ordinary) == []  # a random model has no sink
    kept = tiny.bridge.blocks[0].mlp.original_component.c_proj.bias
    position = tiny.bridge.pos_embed.original_component.weight
    before = position.data.clone()
    try:
        with torch.no_grad():
            position[0] *= 1000.0
        experiment = asked(tiny, row, positions="0")
        streams = [x["resid_pre", 1].norm(dim=-1) for x in experiment.activations(None, [("resid_pre", 1)])]
        ratio = float(torch.stack([x[0] / x[1:].median() for x in streams]).median())
        assert ratio > SINK and kept is not None
        [told] = advice(experiment)
        share = float(2 * row.values.norm() / torch.stack([x[0] for x in streams]).median())
        assert f"is {ratio:.0f} times as long" in told and f"is {share:.1%} as long" in told
        assert advice(asked(tiny, row, positions="1")) == []
    finally:
        position.data.copy_(before)


def test_a_pair_and_prompts_that_begin_otherwise_are_told(tiny: Model) -> None:
    bare = replace(tiny, bos=None)
    ids = [tiny.tokens(t) for t in TEXTS]
    with_bos, without = (prompt_pair(model, " wedding", " ship", 1) for model in (tiny, bare))
    longer = prompt_pair(bare, " wedding cake", " ship ball", 1)
    assert with_bos.norms[0] == 0 < without.norms[0]
    [told] = advice(asked(tiny, with_bos, [ids[0], ids[1][1:]]))
    assert told.startswith("1 of 2 prompts do not begin with BOS") and "nothing is added to their first token" in told
    [told] = advice(asked(bare, longer))
    assert told.startswith("2 of 2 prompts") and "the difference of two first positions" in told
    assert advice(asked(tiny, with_bos)) == []


@pytest.mark.parametrize(("row", "words"), [(-1, "the last row of"), (1, "row 1 of")])
def test_the_row_that_is_put_everywhere_is_named(tiny: Model, row: int, words: str) -> None:
    [told] = advice(asked(tiny, prompt_pair(tiny, " wedding", " ", 1).row(row), positions="all"))
    assert told.startswith("One row is put at every position (all): ") and words in told


def test_copies_that_count_as_independent_are_told(tiny: Model) -> None:
    copies = [TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[0]]
    assert advice(asked(tiny, prompts=copies)) == []  # one group
    [told] = advice(asked(tiny, prompts=make_prompts(tiny, copies, groups="each")))
    assert told.startswith("2 prompts repeat others and are counted as independent")


def test_a_continuation_that_a_token_would_join_is_told(tiny: Model) -> None:
    [told] = advice(asked(tiny, prompts=["One day Li", "Tom had a ball"], metric=perplexity("ly saw")))
    assert told.startswith("Behind 1 of 2 prompts the continuation is tokenized by itself")
    assert advice(asked(tiny, metric=perplexity(" and a cake"))) == []


def test_warnings_stand_in_the_manifest(tiny: Model) -> None:
    experiment = asked(tiny, prompt_pair(tiny, " wedding", " ", 1).row(-1), positions="all")
    result = exact(experiment, completions=0, writers=False, attention=False, growing=False)
    assert result.manifest["warnings"] == advice(experiment) != []
