"""BOS is a fact of the ids: a model may be given one, and a prompt of ids may yet begin without."""

from dataclasses import replace

import pytest

from steerscope.analysis.breakdown.mechanisms import Undo
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.corpora import windows
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.generation import generate
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.tools.places import added, places
from steerscope.analysis.vectors.prompt_pair import prompt_pair

TEXT = "One day Lily saw a dragon"


@pytest.fixture(scope="module")
def bare(tiny: Model) -> Model:
    """The same model, which puts no BOS anywhere."""
    return replace(tiny, bos=None)


def asked(model: Model, *prompts: list[int], positions: str = "all", scored: str | None = None) -> Experiment:
    vector = prompt_pair(model, " wedding", " ", 1).row(-1)
    return Experiment(model, Injection(vector, 2.0, positions=positions), prompts, references=0, scored=scored)  # type: ignore[arg-type]


def test_a_model_knows_bos_that_it_does_not_put(tiny: Model, bare: Model) -> None:
    assert bare.bos is None and bare.bos_token == tiny.bos
    with_bos, without = tiny.tokens(TEXT), bare.tokens(TEXT)
    assert with_bos == [tiny.bos, *without]
    for model in (tiny, bare):
        assert model.has_bos(with_bos) and not model.has_bos(without) and not model.has_bos([])
    assert bare.tokens(tiny.text(with_bos)) == tiny.tokens(tiny.text(with_bos)) == with_bos


def test_the_first_word_of_ids_without_bos_is_steered_and_scored(tiny: Model, bare: Model) -> None:
    with_bos, without = tiny.tokens(TEXT), bare.tokens(TEXT)
    for model in (tiny, bare):
        experiment = asked(model, with_bos, without)
        assert experiment.injected == (tuple(range(1, len(with_bos))), tuple(range(len(without))))
        assert [edits[0].positions for edits in experiment.edits(0)] == list(experiment.injected)
        assert experiment.prompts.groups == (0, 0)  # one text, with BOS and without
        at_end = asked(model, with_bos, without, positions="0")
        assert at_end.scored_positions.positions == (tuple(range(1, len(with_bos))), tuple(range(1, len(without))))


def test_generation_steers_the_first_word_of_ids_without_bos(tiny: Model, bare: Model) -> None:
    ids, injection = bare.tokens(TEXT), Injection(prompt_pair(tiny, " wedding", " ", 0).row(-1), 3.0, positions="all")
    places = replace(injection, positions=list(range(len(ids))))
    kept = replace(injection, positions=list(range(1, len(ids))))
    made = [generate(tiny, ids, one, tokens=12, temperature=0) for one in (injection, places, kept)]
    assert made[0] == made[1] != made[2]


def test_positions_are_called_by_what_each_prompt_begins_with(tiny: Model) -> None:
    ids = tiny.tokens(TEXT)
    experiment = asked(tiny, ids, ids[1:], positions="0,1")
    named = [places(added(experiment, p), len(x), experiment.layouts[p].has_bos) for p, x in enumerate((ids, ids[1:]))]
    assert named[0]["bos"] == (0,) and named[0]["injected 1"] == (1,)
    assert "bos" not in named[1] and named[1]["injected 1"] == (0,) and named[1]["injected 2"] == (1,)


def test_a_sink_is_undone_only_where_a_prompt_has_bos(tiny: Model) -> None:
    ids = tiny.tokens(TEXT)
    there = [Undo(asked(tiny, *prompts, positions="2"), 1.0).there for prompts in ([ids], [ids[1:]], [ids, ids[1:]])]
    assert ["sink" in names for names in there] == [True, False, True]


def test_windows_of_a_model_without_bos_are_cut_at_one_in_the_text(tiny: Model, bare: Model, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    end = tiny.token_text(tiny.bos_token or 0)
    path.write_text(f"{TEXT} and a big red ball{end}{TEXT} and a small blue ball")
    found = windows(bare, path, tokens=6, shuffle=False)
    assert found.ids and not any(tiny.bos in row for row in found.ids)
