"""What a question can tell and what it takes, before it is asked."""

from dataclasses import replace
from inspect import signature
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.question import cost as module
from steerscope.analysis.question.cost import Cost, cost, duration, size
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.stats import holm, nonzero_p, prediction_p
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.questions import QUESTIONS

KNOWN = Cost(
    "exact", 240, 8, 8, {"random vectors": 12, "other concepts": 12}, 0.05, 1e5, True, 1260.0, 600_000_000, None
)


def ask(model: Model, texts: list[str], layer: int = 0, **options: Any) -> Experiment:
    injection = Injection(prompt_pair(model, " wedding", " ship", layer), 3.0)
    groups = options.pop("groups", "each")
    return Experiment(model, (injection,), make_prompts(model, texts, groups=groups), **options)


@pytest.mark.parametrize(("count", "nodes"), [(4, 1), (12, 22), (20, 240)])
def test_a_share_so_many_spreads_away_is_just_told_from_the_references(count: int, nodes: int) -> None:
    others = np.random.default_rng(0).normal(2.0, 0.7, count)
    needed = replace(KNOWN, nodes=nodes, references={"random vectors": count}).spreads["random vectors"]
    for factor, told in ((0.999, False), (1.001, True)):
        value = others.mean() + factor * needed * others.std(ddof=1)
        p = np.ones(nodes)
        p[0] = prediction_p(np.array(value), others)
        assert (holm(p)[0] < 0.05) == told


@pytest.mark.parametrize(("groups", "nodes"), [(2, 1), (3, 22), (9, 240)])
def test_an_effect_so_many_standard_errors_large_is_just_told_from_zero(groups: int, nodes: int) -> None:
    off = np.random.default_rng(1).normal(size=groups)
    off -= off.mean()
    error = off.std(ddof=1) / np.sqrt(groups)
    needed = replace(KNOWN, nodes=nodes, prompts=groups, groups=groups).errors
    for factor, told in ((0.999, False), (1.001, True)):
        p = np.ones(nodes)
        p[0] = nonzero_p(off + factor * needed * error)
        assert (holm(p)[0] < 0.05) == told


def test_more_references_and_groups_are_advised_as_long_as_they_tell_much_more() -> None:
    advised, limit = KNOWN.advised, 3.7  # what infinitely many would need, for 240 nodes
    few = {kind: advised["references"] - 1 for kind in KNOWN.references}
    assert max(replace(KNOWN, references=few).spreads.values()) > module.NEAR_Z * limit
    assert max(replace(KNOWN, groups=advised["groups"]).errors, 0) < module.NEAR_T * limit * 1.01
    assert 15 <= advised["references"] <= 25 and 8 <= advised["groups"] <= 15


def test_power_is_said_in_spreads_with_what_more_references_would_bring() -> None:
    said = " ".join(KNOWN.sentences)
    assert "12 random vectors and 12 other concepts, 240 nodes" in said
    assert f"must be {KNOWN.spreads['other concepts']:.1f} spreads" in said and "8 prompts in 8 groups" in said
    more = KNOWN.advised["references"]
    at_more = replace(KNOWN, references={kind: more for kind in KNOWN.references})
    assert f"with {more} of a kind it would be {at_more.spreads['other concepts']:.1f}" in said
    assert "it would be" not in at_more.sentences[0]
    assert "21 minutes" in said and "600 MB" in said and "screen" not in said


def test_kinds_of_different_number_have_figures_of_their_own() -> None:
    uneven = replace(KNOWN, references={"random vectors": 20, "other concepts": 8})
    noise, concepts = uneven.spreads.values()
    said = uneven.sentences[0]
    assert (
        noise < concepts and f"{noise:.1f} spreads (standard deviations of their shares) from the mean of the" in said
    )
    assert f"random vectors and {concepts:.1f} from that of the other concepts" in said


@pytest.mark.parametrize("references", [{}, {"random vectors": 3}])
def test_too_few_references_tell_nothing(references: dict[str, int]) -> None:
    assert "nothing can be told from noise" in replace(KNOWN, references=references).sentences[0]


def test_a_kind_that_is_missing_is_said_to_be_missing() -> None:
    noise = replace(KNOWN, references={"random vectors": 20}).sentences[0]
    assert "no node can be called specific" in noise and "noise is not asked" not in noise
    other = replace(KNOWN, references={"random vectors": 3, "other concepts": 20}).sentences[0]
    assert "noise is not asked about" in other and "no node can" not in other


@pytest.mark.parametrize(
    ("prompts", "groups", "said"),
    [
        (1, 1, "One prompt: effects have no intervals, and nothing can be claimed"),
        (12, 1, "12 prompts of one group (a template, copies): effects have no intervals, and nothing can be claimed"),
        (12, 3, "only huge effects count"),
    ],
)
def test_few_groups_are_said_to_claim_nothing_or_little(prompts: int, groups: int, said: str) -> None:
    sentence = replace(KNOWN, prompts=prompts, groups=groups).sentences[1]
    assert said in sentence and f"{KNOWN.advised['groups']} groups" in sentence


def test_the_groups_and_references_are_those_of_the_experiment(tiny: Model, stories: list[str]) -> None:
    found = cost(ask(tiny, stories, groups=["a", "b"] * 7, references="isotropic:5,covariance:2"), "exact")
    assert (found.prompts, found.groups, found.references) == (14, 2, {"random vectors": 7})
    assert found.nodes == len(tiny.nodes)
    assert cost(ask(tiny, stories, layer=1, references=0), "exact").nodes == len(tiny.nodes) // tiny.n_layers
    strict = cost(ask(tiny, stories, references=7), "exact", alpha=0.01)
    assert strict.spreads["random vectors"] > found.spreads["random vectors"]


def test_patched_rows_are_counted_from_the_layer_of_their_node_on(tiny: Model, stories: list[str]) -> None:
    asked = ask(tiny, stories, references=3)
    rows = [
        (tiny.n_layers - node.layer) / tiny.n_layers
        for node in asked.reachable
        for _measure in range(2)
        for _prompt in stories
        for _vector in asked.vectors
    ]
    assert module._single(asked, len(asked.reachable)) == pytest.approx(sum(rows))


def test_seconds_are_passes_at_the_pace_of_one_timed_batch(
    tiny: Model, stories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    found = cost(ask(tiny, stories, layer=1, references=3), "exact")
    assert found.seconds == pytest.approx(found.passes / (module.ROWS / 2))  # behind the last of two layers
    assert next(ticks) == 2  # the clock was read twice


def test_asking_leaves_the_experiment_as_it_was(tiny: Model, stories: list[str]) -> None:
    asked = ask(tiny, stories, references=3)
    before = set(asked.__dict__)
    cost(asked, "exact")
    assert not {"_runs", "steering", "along"} & (set(asked.__dict__) - before)


def test_the_methods_of_localize_are_told_apart(tiny: Model, stories: list[str]) -> None:
    asked = ask(tiny, stories, references=10)
    found = {m: cost(asked, "localize", method=m) for m in ("exact", "screen", "gradient", "ig", "shapley")}
    assert [found[m].question for m in found] == ["exact", "screen", "attribute", "attribute", "shapley"]
    assert found["ig"].passes > found["gradient"].passes
    assert cost(asked, "localize").passes == found["exact"].passes
    most = signature(QUESTIONS["shapley"].function).parameters["references_at_most"].default
    assert most < 10 and found["shapley"].references == {"random vectors": most}
    assert cost(asked, "shapley", passes=1000).passes > found["shapley"].passes
    with pytest.raises(BadArgument, match="unknown method 'guess'"):
        cost(asked, "localize", method="guess")
    with pytest.raises(BadArgument, match="unknown question 'sweep'"):
        cost(asked, "sweep")


def test_the_screen_is_named_where_it_takes_half_as_long(stories: list[str], small_models: Any, tiny: Model) -> None:
    assert cost(ask(tiny, stories, references=3), "exact").screened is None  # too few nodes to leave out
    large = replace(KNOWN, screened=(9000.0, 113.0)).sentences[-1]
    assert "localize --method screen" in large and "9,000 passes" in large and "2 minutes" in large


def test_questions_without_a_formula_say_that_they_count_the_runs_alone(tiny: Model, stories: list[str]) -> None:
    asked = ask(tiny, stories, references=6)
    for name, question in QUESTIONS.items():
        if question.experiment and name not in ("localize", *module.FORMULAS):
            found = cost(asked, name)
            assert (
                not found.whole
                and found.nodes == 1
                and "At least (the runs of the vectors alone)" in found.sentences[2]
            )
    assert "At least" not in cost(asked, "exact").sentences[2]


def test_memory_is_less_where_the_budget_is(tiny: Model, stories: list[str]) -> None:
    free, tight = (cost(ask(tiny, stories, references=3, budget=b), "exact").memory for b in (None, 200_000))
    assert 0 < tight < free


@pytest.mark.parametrize(("seconds", "words"), [(0.1, "1 s"), (42, "42 s"), (1260, "21 minutes"), (9000, "2.5 hours")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_sizes_in_words() -> None:
    assert (size(12_400_000), size(1_440_000_000)) == ("12 MB", "1.4 GB")


@pytest.mark.parametrize(
    ("question", "knobs"),
    [
        ("exact", {"nothing": 1}),
        ("exact", {"experiment": 1}),
        ("localize", {"method": "magic"}),
        ("localize", {"method": []}),
        ("localize", {"method": "screen", "top": "many"}),
        ("localize", {"method": "screen", "top": -1}),
        ("localize", {"method": "ig", "steps": 2**70}),
        ("localize", {"alpha": float("nan")}),
        ("localize", {"alpha": 0}),
        ("shapley", {"passes": 1.5}),
        ("shapley", {"nodes": 5}),
        ("", {}),
        ("load", {}),
        ("\ud800", {}),
    ],
)
def test_what_the_question_would_not_take_is_refused(question: str, knobs: dict[str, Any], tiny: Model) -> None:
    experiment = ask(tiny, ["Tom saw a ship"], references=2)
    with pytest.raises(BadArgument):
        cost(experiment, question, **knobs)


def test_an_estimate_of_relevance_costs_what_the_method_itself_says(tiny: Model) -> None:
    experiment = ask(tiny, ["Tom saw a ship"], references=2)
    passes = {method: cost(experiment, "localize", method=method).passes for method in ("gradient", "atp", "ig")}
    more = module.BACKWARD * 3  # of one prompt and three vectors
    assert passes["atp"] - passes["gradient"] == more * (tiny.n_layers - 2)
    assert passes["ig"] - passes["gradient"] == more * (8 - 2)
