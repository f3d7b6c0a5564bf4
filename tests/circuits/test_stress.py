"""Verdicts on planted circuits are right; what they rest on equals plain runs, one at a time."""

from dataclasses import replace
from functools import cache
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from architectures import AT_ONCE
from reference import plain_logits

import steerscope as st
from benchmarks.planted import NORMS
from benchmarks.planted_verdicts import VERDICTS, PlantedVerdict, faithful, plant_verdict, read
from benchmarks.stressed import EXPECTED, claim_of, prompts_of, stressed
from steerscope.analysis.errors import BadArgument, BadCircuit, BadInjection, BadPrompt, SteerscopeError
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.results.result import Result
from steerscope.circuits import conditions
from steerscope.circuits.circuit import Circuit
from steerscope.circuits.conditions import Conditions
from steerscope.circuits.pairs import Pairs
from steerscope.circuits.searched import circuit_found
from steerscope.circuits.solving import Solved
from steerscope.circuits.stress import stress
from steerscope.circuits.task import TaskPrompts
from steerscope.reports.pages.stress import headline, page

CASES = [(verdict, None, 0) for verdict in VERDICTS] + [("rerouted", "LN", 1), ("weaker", "RMS", 2)]


@cache
def planted_of(verdict: str, norm: str | None = None, seed: int = 0) -> PlantedVerdict:
    return plant_verdict(verdict, norm=norm, seed=seed)


@cache
def result_of(verdict: str, norm: str | None = None, seed: int = 0) -> Result:
    return stressed(planted_of(verdict, norm, seed), randoms=1)


def row_of(result: Result) -> Any:
    return result.frames["verdicts"].iloc[0]


@pytest.mark.parametrize(("verdict", "norm", "seed"), CASES)
def test_the_verdict_on_a_planted_circuit_is_the_planted_one(verdict: str, norm: str | None, seed: int) -> None:
    row = row_of(result_of(verdict, norm, seed))
    assert (row["verdict"], row["detail"]) == EXPECTED[verdict]
    assert row["point"] == row["verdict"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_and_so_it_is_over_seeds_and_norms(verdict: str, norm: str | None, seed: int) -> None:
    row = row_of(stressed(plant_verdict(verdict, norm=norm, seed=seed)))
    assert (row["verdict"], row["detail"]) == EXPECTED[verdict]


@pytest.mark.parametrize("verdict", ["weaker", "overwritten"])
def test_answers_are_those_of_plain_runs(verdict: str) -> None:
    planted, row = planted_of(verdict), row_of(result_of(verdict))
    for steered, ends in ((False, "_0"), (True, "")):
        found = read(planted, steered)
        assert row[f"D{ends}"] == pytest.approx(found.decided, abs=1e-4)
        assert row[f"B{ends}"] == pytest.approx(found.pushed, abs=1e-4)
        assert row[f"P{ends}"] == found.accuracy


@pytest.mark.parametrize(("verdict", "norm"), [("weaker", None), ("rerouted", "RMS")])
def test_what_a_circuit_explains_is_what_patching_its_complement_says(verdict: str, norm: str | None) -> None:
    """The reference sets every node outside to its output on the counterfactual, one plain run a prompt."""
    planted = planted_of(verdict, norm, 0)
    row = row_of(stressed(planted))
    assert row["F0"] == pytest.approx(faithful(planted, planted.circuits.clean, False), abs=1e-4)
    assert row["Fc"] == pytest.approx(faithful(planted, planted.circuits.clean, True), abs=1e-4)


def test_the_circuit_under_steering_is_found_on_one_half_and_measured_on_the_other() -> None:
    result = result_of("rerouted")
    row, planted = row_of(result), planted_of("rerouted")
    assert planted.circuits.steered is not None and row["size"] == len(planted.circuits.steered)
    assert row["Fcc"] == pytest.approx(1, abs=0.02) and row["F0c"] == pytest.approx(0, abs=0.02)
    assert row["jaccard"] == 0 and result.manifest["task"]["measured"] == 6


def test_no_prompt_and_no_group_is_searched_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = planted_of("rerouted")
    groups = tuple(p // 3 for p in range(12))
    clean, corrupted = (replace(own, groups=groups) for own in prompts_of(planted))
    asked: list[set[int]] = []

    def noted(runs: Any, prompts: Any, *more: Any) -> Any:
        asked.append(set(prompts))
        return circuit_found(runs, prompts, *more)

    monkeypatch.setattr(conditions, "circuit_found", noted)
    here = Conditions(Pairs(planted.model, "x", clean, corrupted), "resample", 0.9, "nodes", 0).unsteered
    [found] = here.explained([here.found], found=True)
    measured = set(np.flatnonzero(np.isfinite(found.part)).tolist())
    assert measured | asked[0] == set(range(12)) and not measured & asked[0]
    assert len(measured) == 6 and not {groups[p] for p in measured} & {groups[p] for p in asked[0]}


def test_two_lists_that_explain_both_conditions_are_no_break() -> None:
    """Half of the vector lets both chains speak: the old one explains half, what is found explains all of both."""
    planted = planted_of("rerouted")
    [injection] = planted.experiment.injections
    given: dict[str, Any] = {"model": planted.model, "coefficients": [0.25], "randoms": 0, "find": "always"}
    row = row_of(stress(claim_of(planted), prompts_of(planted), injection, **given))
    assert row["verdict"] != "rerouted" and row["jaccard"] < 1


def test_a_rerouted_chain_loses_with_its_edges_until_v_opens_the_other() -> None:
    """Every claimed edge carries all of it without steering, and nothing under it."""
    made = plant_verdict("rerouted", prompts=12, length=8)
    first, last = sorted(made.circuits.clean)
    graph: nx.DiGraph[str] = nx.DiGraph()
    for sender, receiver, name in (("input", first, "v"), (first, last, "v"), (last, "logits", "")):
        graph.add_edge(str(sender), str(receiver), inputs=(name,) if name else (), scores={name: 1.0})
    claim = Circuit("chain", "t", "planted", graph, level="exact")
    given: Any = {"model": made.model, "coefficients": [1.0], "randoms": 0, "find": "never"}
    edges = stress(claim, prompts_of(made), made.experiment.injections, **given).frames["edges"]
    assert list(edges["coefficient"]) == [0.0] * 3 + [1.0] * 3
    np.testing.assert_allclose(edges["lost"], [1, 1, 1, 0, 0, 0], atol=0.05)


def test_where_heads_look_is_read_in_every_condition() -> None:
    toy = st.load("toy-ioi-query")
    graph: nx.DiGraph[str] = nx.DiGraph([("L0H0", "L1H0")])
    claim = Circuit("two heads", "t", "toy", graph)
    injection = st.Injection(st.SteeringVector(50 * torch.ones(1, toy.d_model), st.Site("resid_pre", 1)), positions=[3])
    given: Any = {"model": toy, "coefficients": [1.0], "randoms": 0, "find": "never", "n": 12}
    looks = stress(claim, "ioi-minimal", injection, **given).frames["looks"]
    assert set(looks["place"]) == {"IO", "S1", "S2", "first"} and set(looks["node"]) == {"L0H0", "L1H0"}
    mover = looks[(looks["node"] == "L1H0") & (looks["place"] == "IO")].set_index("coefficient")["attention"]
    assert mover[0.0] > 0.6 and abs(mover[1.0] - mover[0.0]) > 1e-3  # it moves the name
    early = looks[looks["node"] == "L0H0"].groupby("place")["attention"].agg(["min", "max"])
    np.testing.assert_allclose(early["min"], early["max"], atol=1e-6)  # before the injection


def test_roles_lose_what_the_chain_loses() -> None:
    roles = result_of("rerouted").frames["roles"]
    clean, steered = (roles[roles["vector"] == name].set_index("role")["completeness"] for name in ("", "planted"))
    assert clean.to_numpy() == pytest.approx(1, abs=0.02)  # all of it, with either head
    assert steered.to_numpy() == pytest.approx(0, abs=0.02)


def test_a_rival_and_a_template_are_judged_beside_the_claim() -> None:
    planted = planted_of("weaker")
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("L0H3", roles=("idle",))
    rival = Circuit("rival", "another", planted.model.name, graph)
    clean, corrupted = prompts_of(planted)
    names = tuple("ab"[int(label > 0)] for label in planted.labels)
    solved = Solved(1.0, 0.7, 1.0, 4.0, -4.0)
    task = TaskPrompts("signs", clean, corrupted, (), (), (), solved, {}, names)
    result = stress([claim_of(planted), rival], task, planted.experiment.injections[0], model=planted.model, **FEW)
    verdicts = result.frames["verdicts"].set_index("circuit")
    assert verdicts.loc["planted", "verdict"] == "weaker" and verdicts.loc["rival", "verdict"] != "weaker"
    templates = result.frames["templates"]
    assert set(templates["template"]) == {"a", "b"} and set(templates["prompts"]) == {6}
    assert (templates[templates["circuit"] == "planted"]["verdict"] == "weaker").all()
    assert headline(result)[-1] == "By values, each of 2 templates has the verdicts of all prompts together."


@pytest.mark.parametrize("name", AT_ONCE)
def test_answers_of_many_vectors_in_one_call_are_those_of_one_run_at_a_time(name: str, small_models: Any) -> None:
    model = small_models[name]
    sides: dict[str, Any] = {"targets": ((7,), (8,)), "against": ((8,), (9,))}
    ids = ((1, 2, 3, 4), (1, 5, 6, 2))
    pairs = Pairs(model, "made up", Prompts(ids, ("a", "b"), **sides), Prompts(ids[::-1], ("b", "a"), **sides))
    vector = st.SteeringVector(torch.ones(1, model.d_model), st.Site("resid_pre", 1))
    steered = [(), *((st.Injection(vector, c, positions=[2]),) for c in (0.5, -2.0))]
    for injections, found in zip(steered, pairs.answers(steered), strict=True):
        for side, prompts in enumerate((pairs.clean, pairs.corrupted)):
            for p, row in enumerate(prompts.ids):
                edits = [one.edit(model.layout(row)) for one in injections]
                logits = plain_logits(model, row, edits)[-1].detach()
                expected = logits[sides["targets"][p][0]] - logits[sides["against"][p][0]]
                assert found.m[side, p] == pytest.approx(float(expected), abs=1e-4)
    assert pairs.varied


def test_answers_are_fixed_where_prompts_share_them_and_vary_elsewhere() -> None:
    planted = planted_of("weaker")
    pairs = Pairs(planted.model, "x", *prompts_of(planted))
    assert not pairs.varied and (pairs.labels == planted.labels).all()


def test_random_vectors_have_the_norms_of_the_vector_that_they_stand_beside() -> None:
    table = result_of("unaffected").frames["verdicts"]
    assert table["vector"].tolist() == ["planted", "planted: random 1"]
    assert table["beside"].tolist() == ["", "planted"] and (table["verdict"] == "unaffected").all()


def test_the_same_seed_gives_the_same_numbers_and_a_small_budget_too() -> None:
    planted = planted_of("rerouted")
    claim, prompts, [vector] = claim_of(planted), prompts_of(planted), planted.experiment.injections
    first, second, small = (
        stress(claim, prompts, vector, model=planted.model, budget=budget, **FEW).frames["verdicts"]
        for budget in (None, None, 300_000)
    )
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(first, small, atol=1e-4)


def test_a_circuit_of_our_own_is_found_where_none_is_claimed() -> None:
    planted = planted_of("rerouted")
    result = stress(None, prompts_of(planted), planted.experiment.injections[0], model=planted.model, **FEW)
    [claim] = result.manifest["circuits"]
    assert claim["nodes"] == sorted(map(str, planted.circuits.clean)) and row_of(result)["verdict"] == "rerouted"


def test_edges_find_what_nodes_find() -> None:
    planted = planted_of("rerouted")
    result = stress(
        None, prompts_of(planted), planted.experiment.injections[0], model=planted.model, units="edges", **FEW
    )
    assert result.manifest["circuits"][0]["nodes"] == sorted(map(str, planted.circuits.clean))
    assert row_of(result)["verdict"] == "rerouted"


def test_one_pair_settles_nothing_and_the_page_says_so() -> None:
    planted = plant_verdict("rerouted", prompts=1)
    result = stressed(planted)
    assert row_of(result)["verdict"] == "undetermined" and "intervals" in result.manifest["missing"]
    assert any("undetermined" in sentence for sentence in headline(result))
    assert page(result).sections


def test_the_page_says_what_breaks_and_what_random_vectors_do() -> None:
    said = " ".join(headline(result_of("rerouted")))
    assert "the circuit planted is rerouted at 1.00" in said and "the claim breaks" in said
    assert "Of 1 verdicts under random vectors" in said
    assert "the claim breaks" not in " ".join(headline(result_of("weaker")))


def changed(prompts: tuple[Prompts, Prompts], **more: Any) -> list[Prompts]:
    return [replace(prompts[0], **more), prompts[1]]


def test_what_cannot_be_asked_is_refused() -> None:
    planted = planted_of("weaker")
    claim, prompts, [vector] = claim_of(planted), prompts_of(planted), planted.experiment.injections
    graph: nx.DiGraph[str] = nx.DiGraph([("L0H0", "L7H0")])
    far = Circuit("far", "elsewhere", "other", graph)
    wrong: list[tuple[type[SteerscopeError], str, dict[str, Any]]] = [
        (BadArgument, "not 0", {"coefficients": [0.0]}),
        (BadArgument, "twice", {"circuit": [claim, claim]}),
        (BadArgument, "no circuit", {"circuit": []}),
        (BadCircuit, "no circuit", {"circuit": "nonsense"}),
        (BadCircuit, "L7H0", {"circuit": far}),
        (BadCircuit, "no task", {"task": "nonsense"}),
        (BadCircuit, "expected two", {"task": prompts[:1]}),
        (BadPrompt, "answers and distractors", {"task": changed(prompts, targets=(), against=())}),
        (BadPrompt, "expected pairs", {"task": [prompts[0].first(3), prompts[1]]}),
        (BadPrompt, "unequal length", {"task": [prompts[0], prompts[1].some([*range(1, 12), 0])]}),
        (BadInjection, "expected add", {"injections": replace(vector, operation="ablate")}),
        (BadInjection, "no injection", {"injections": {"x": []}}),
        (BadInjection, "one or more", {"injections": []}),
    ]
    for error, match, more in wrong:
        given = {"circuit": claim, "task": prompts, "injections": vector, "model": planted.model, **FEW, **more}
        with pytest.raises(error, match=match):
            stress(given.pop("circuit"), given.pop("task"), given.pop("injections"), **given)


FEW: dict[str, Any] = {"coefficients": [1.0], "randoms": 0}
