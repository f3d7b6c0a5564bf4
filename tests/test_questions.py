"""What holds for every question of the registry: its name, its columns, its knobs, its place in the docs."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from questions import experiment
from small_circuits import FILE

import steerscope
from steerscope.analysis.errors import BadArgument, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.results.schema import ROLES
from steerscope.knobs import NONE, SHARED, knobs
from steerscope.questions import QUESTIONS, Question, page_of
from steerscope.table import table

ROOT = Path(__file__).parents[1]
ALL = list(QUESTIONS.values())
ASKED = [question for question in ALL if question.experiment]
KNOBS = [
    (question, name)
    for question in ASKED
    for name, parameter in inspect.signature(question.function).parameters.items()
    if name != "experiment" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
]
Parts = tuple[Model, tuple[Injection, ...], Prompts]


@pytest.fixture
def parts(small_model: Model) -> Parts:
    """What makes an experiment."""
    asked = experiment(small_model)
    return asked.model, asked.injections, asked.prompts


def failing() -> str:
    """Neither a number nor a text nor a sequence."""
    raise AssertionError("nobody calls it")


def named(question: Question) -> str:
    return question.name


@pytest.mark.parametrize("question", ALL, ids=named)
def test_a_question_has_a_function_that_says_what_it_does_and_a_page(question: Question) -> None:
    assert question.asks[-1] in "?." and question.function.__doc__
    page = page_of(question.name)
    assert callable(page.page) and callable(page.headline)
    assert getattr(steerscope, question.name).__doc__


@pytest.mark.parametrize("question", ALL, ids=named)
def test_every_column_has_a_meaning_and_a_role(question: Question) -> None:
    if question.columns is None:
        assert any(other.door == question.name for other in ALL), "only a door has no columns of its own"
        return
    for name, frame in question.columns.items():
        assert frame, f"{name} has no columns"
        for column, about in frame.items():
            assert len(about.meaning) > 3 and about.role in ROLES, f"{question.name}.{name}.{column}"


@pytest.mark.parametrize("question", ASKED, ids=named)
def test_knobs_read_from_the_source_are_those_of_the_signature(question: Question) -> None:
    signature = list(inspect.signature(question.function).parameters.values())
    takes = [p for p in signature[1:] if p.kind is not inspect.Parameter.VAR_KEYWORD]
    read = knobs(question, own=True)
    assert [k.name for k in read.own] == [p.name for p in takes if p.name not in SHARED]
    assert list(read.shared) == [p.name for p in takes if p.name in SHARED]
    by_name = {p.name: p for p in takes}
    for knob in read.own:
        default = by_name[knob.name].default
        assert knob.default == (NONE if default is inspect.Parameter.empty else default), knob.name
        assert len(knob.help) > 3, f"{knob.name} is not described under Args"


@pytest.mark.parametrize("question", ASKED, ids=named)
def test_no_knob_has_the_name_of_an_attribute_of_the_experiment(question: Question) -> None:
    assert not {k.name for k in knobs(question).own} & {field.name for field in fields(Experiment)}


def test_the_docs_list_all_questions() -> None:
    assert (ROOT / "docs" / "questions.md").read_text(encoding="utf-8") == table(), "run make docs"


def test_the_front_door_takes_an_experiment_or_what_makes_one(parts: Parts) -> None:
    model, injection, prompts = parts
    asked = Experiment(model, injection, prompts, references=2, seed=3)
    first = steerscope.sparsify(asked, fractions=(0.5,), steps=2)
    second = steerscope.sparsify(model, injection, prompts, references=2, seed=3, fractions=(0.5,), steps=2)
    assert first.frames["curves"].equals(second.frames["curves"])
    assert first.manifest["seed"] == second.manifest["seed"] == 3


def test_what_makes_no_experiment_is_refused(parts: Parts) -> None:
    model, injection, prompts = parts
    asked = Experiment(model, injection, prompts)
    with pytest.raises(BadArgument, match="expected these to be the experiment"):
        steerscope.exact(asked, seed=1)
    with pytest.raises(BadArgument, match="got str first; expected an Experiment, or a model"):
        steerscope.exact("tinystories-2l", injection, prompts)
    with pytest.raises(BadArgument, match="got no prompts"):
        steerscope.exact(model, injection)
    with pytest.raises(BadArgument, match="got injections twice; expected each once"):
        steerscope.exact(model, injection, prompts, injections=injection)
    with pytest.raises(BadArgument, match="got an experiment and experiment; expected"):
        steerscope.exact(asked, experiment=asked)
    with pytest.raises(BadArgument, match="unexpected keyword argument 'speed'; expected experiment, "):
        steerscope.exact(asked, speed=1)
    with pytest.raises(BadArgument, match="too many positional arguments"):
        steerscope.exact(asked, 3)
    assert steerscope.path_effect(experiment=asked, senders="injection", receivers="logits").kind == "path_effect"


@pytest.mark.parametrize(("question", "knob"), KNOBS, ids=lambda part: getattr(part, "name", part))
def test_a_knob_refuses_what_it_does_not_take_by_name(question: Question, knob: str, small_model: Model) -> None:
    needed = {"path_effect": {"senders": "injection", "receivers": "logits"}, "map_effect": {"circuit": str(FILE)}}
    given = needed.get(question.name, {})
    asked = experiment(small_model)
    for odd in (object(), "\ud800", float("nan"), 1j, [object()], b"L0H0", failing):
        with pytest.raises(SteerscopeError, match=rf"^{question.name} got {knob}=.*; expected .*; ") as refused:
            question.function(asked, **given | {knob: odd})
        assert len(str(refused.value)) < 600 and "\n" not in str(refused.value)
