"""Maps of an effect: true circuits are found and wrong ones are not; shares are those of plain passes."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from questions import TARGET, experiment, one
from reference import plain_logits, plain_pass
from small_circuits import FILE

import steerscope as st
from benchmarks.planted import OTHER, Planted, plant
from benchmarks.planted import TARGET as PLANTED
from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.errors import BadArgument, BadCircuit
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import parse_node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.circuits import targeted
from steerscope.circuits.circuit import Circuit
from steerscope.circuits.conductance import edge_conductance
from steerscope.circuits.consensus import random_like
from steerscope.circuits.contrast import Contrast, contrast_of
from steerscope.circuits.found import graph_of
from steerscope.circuits.map_effect import map_effect
from steerscope.circuits.masks import Mask
from steerscope.circuits.pruning import ordered, strongest
from steerscope.circuits.solving import log_odds, solved
from steerscope.circuits.task import TaskPrompts

QUICK: dict[str, Any] = {"targeted": False, "permutations": 100}
MEASURES = ("necessity", "sufficiency")


def clear(model: Model, seed: int) -> Experiment:
    """A random vector on six prompts, whose effect along its own change of the logits is told from zero."""
    dice, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    asked = experiment(model)
    vector = replace(asked.injections[0].vector, values=torch.randn(2, model.d_model, generator=generator))
    prompts = make_prompts(model, [dice.integers(3, 90, size=6).tolist() for _ in range(6)])
    injection = replace(asked.injections[0], vector=vector, coefficient=3.0)
    return Experiment(model, (injection,), prompts, st.own_direction(), references=0, seed=seed)


def circuit(name: str, *nodes: str, **options: Any) -> Circuit:
    graph: Any = nx.DiGraph()
    for node in nodes:
        graph.add_node(node, roles=("member",))
    return Circuit(name, name, "planted", graph, **options)


@cache
def planted(case: str, **options: Any) -> Planted:
    """With so many idle heads that a layer has ten, and a circuit of one in each of two is one of a hundred."""
    return plant(case, idle=8, prompts=5, **options)


def mapped(made: Planted, asked: Experiment | None = None, **options: Any) -> Result:
    """A planted model's own carriers as a circuit, and as many idle heads of the same layers."""
    right = [str(node) for node in made.roles]
    wrong = [f"L{node.layer}H{7 + n}" for n, node in enumerate(made.roles)]
    both = [circuit("right", *right), circuit("wrong", *wrong)]
    return map_effect(asked or made.experiment, both, **QUICK | options)


@pytest.mark.parametrize(
    ("case", "norm"),
    [
        ("relay_value", None),
        ("relay", "RMS"),
        *(
            pytest.param(c, n, marks=pytest.mark.slow)
            for c in ("relay_query", "relay_key")
            for n in (None, "RMS", "LN")
        ),
    ],
)
def test_a_true_circuit_carries_more_than_sets_of_its_make_and_a_wrong_one_does_not(
    case: str, norm: str | None
) -> None:
    result = mapped(planted(case, norm=norm, references=0))
    row = one(result.frames["circuits"], "circuit", "measure")
    for measure in MEASURES:
        right, wrong = (row(name, measure) for name in ("right", "wrong"))
        assert right["among"] == "more" and right["p_more"] < 0.05 and right["share"] > 0.8
        assert wrong["among"] != "more" and abs(wrong["share"]) < 0.1
        assert right["share_low"] < right["share"] < right["share_high"]
    said = " ".join(result.summary())
    assert "By necessity “right” carries more than other sets" in said and "“wrong” carries more" not in said


def test_of_heads_of_which_either_is_enough_only_together_they_are_necessary() -> None:
    table = mapped(planted("redundant", references=0), sets=20).frames["tests"]
    row = one(table[table["matched"] == "layer and kind"], "circuit", "measure", "test")
    assert row("right", "necessity", "joint")["value"] > 0.9
    assert row("right", "necessity", "sum")["value"] < 0.3
    assert row("right", "necessity", "joint")["tested"] == 2  # the MLP has no other of its kind


def test_a_negative_effect_has_the_same_shares_and_the_same_circuits() -> None:
    made = planted("relay_value", references=0)
    turned = replace(made.experiment, metric=log_prob([OTHER], [PLANTED]))
    first, second = (mapped(made, asked, sets=20) for asked in (made.experiment, turned))
    assert second.manifest["total"] == pytest.approx(-first.manifest["total"], rel=1e-5) and first.manifest["total"] > 0
    for name in ("circuits", "tests"):
        a, b = (result.frames[name] for result in (first, second))
        columns = [c for c in a if c in ("share", "among", "value", "p", "p_more", "p_holm", "least")]
        pd.testing.assert_frame_equal(a[columns], b[columns], rtol=1e-4)
    assert [line.replace("−", "") for line in first.summary()] == [line.replace("−", "") for line in second.summary()]


def set_by_hand(
    model: Model, asked: Experiment, names: list[str], measure: str, factor: float = 1.0
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """By prompt, logits of one plain pass with these nodes set so far towards the other run; of the clean run and the
    steered one."""
    found = []
    for prompt, edits in zip(asked.prompts.full, asked.edits(0), strict=True):
        clean, steered = plain_pass(model, prompt), plain_pass(model, prompt, edits)
        start, end = (steered, clean) if measure == "necessity" else (clean, steered)
        given = list(edits) if measure == "necessity" else []
        for node in map(parse_node, names):
            key = node.site.name, node.layer
            a, b = (run[key] if node.head is None else run[key][:, node.head] for run in (start, end))
            given.append(Edit(node.site, "set", (a + factor * (b - a)).detach()))
        found.append((plain_logits(model, prompt, given), clean["logits"], steered["logits"]))
    return found


def log_p(asked: Experiment, prompt: int, logits: torch.Tensor) -> float:
    places = list(asked.scored_positions.positions[prompt])
    return float(logits.detach().double().log_softmax(-1)[places, TARGET].mean())


def test_joint_effects_of_circuits_and_roles_are_those_of_plain_passes(small_model: Model) -> None:
    asked = experiment(small_model)
    result = map_effect(asked, str(FILE), **QUICK, sets=2)
    found = one(result.frames["circuits"], "measure")
    roles = one(result.frames["roles"], "role", "measure")
    groups = {
        "": ["L0H1", "L0H2", "L1H1", "L1H2", "L1H3", "L1M"],
        "second": ["L1H1", "L1H2", "L1H3"],
        "reader": ["L1M"],
    }
    for role, names in groups.items():
        for measure in MEASURES:
            rows = set_by_hand(small_model, asked, names, measure)
            ends = [[log_p(asked, p, logits) for logits in row] for p, row in enumerate(rows)]
            expected = np.mean([s - x if measure == "necessity" else x - c for x, c, s in ends])
            effect = roles(role, measure)["effect"] if role else found(measure)["effect"]
            assert effect == pytest.approx(expected, abs=2e-5)


def test_what_is_let_through_at_equal_disturbance_is_that_of_plain_passes(small_model: Model) -> None:
    asked = experiment(small_model)
    table = map_effect(asked, str(FILE), sets=0, permutations=10, controls=2, tasks=0).frames["targeted"]
    row = one(table, "at", "scale")
    whole = row("whole", "as it is")["kl"]
    names = ["L1H1", "L1H2", "L1H3"]
    for scale in ("as it is", "equal KL"):
        told = row("role: second", scale)
        rows = set_by_hand(small_model, asked, names, "sufficiency", told["factor"])
        effect = np.mean([log_p(asked, p, x) - log_p(asked, p, c) for p, (x, c, _) in enumerate(rows)])
        assert told["effect"] == pytest.approx(effect, abs=1e-4)
        kls = []
        for p, (x, c, _) in enumerate(rows):
            own, clean = (
                y.detach().double().log_softmax(-1)[list(asked.scored_positions.positions[p])] for y in (x, c)
            )
            kls.append(float((own.exp() * (own - clean)).sum(-1).mean()))
        assert told["kl"] == pytest.approx(np.mean(kls), rel=1e-3)
    assert row("role: second", "equal KL")["kl"] == pytest.approx(whole, rel=0.01)
    assert row("role: second", "equal KL")["factor"] != pytest.approx(1.0, rel=0.01)
    assert row("nothing", "as it is")["effect"] == row("nothing", "as it is")["kl"] == 0.0
    assert {"circuit", "outside", "role: first", "role: reader"} <= set(table["at"])
    inside = row("circuit", "as it is")
    assert inside["reference_low"] <= inside["reference"] <= inside["reference_high"]


def test_nodes_before_the_injection_are_undefined_and_never_zero(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    early, late = circuit("early", "L0H1", "L0M"), circuit("late", "L0H1", "L1H2")
    result = map_effect(asked, [early, late], **QUICK)
    row = one(result.frames["circuits"], "circuit", "measure")
    assert row("early", "necessity")["among"] == "undefined" and np.isnan(row("early", "necessity")["effect"])
    assert (row("early", "necessity")["inside"], row("early", "necessity")["unreached"]) == (0, 2)
    assert (row("late", "necessity")["inside"], row("late", "necessity")["unreached"]) == (1, 1)
    nodes = one(result.frames["nodes"], "circuit", "node", "measure")
    assert not nodes("late", "L0H1", "necessity")["reached"] and np.isnan(nodes("late", "L0H1", "necessity")["effect"])
    tests = result.frames["tests"]
    assert (tests[tests["circuit"] == "early"]["p"] == 1).all() and (
        tests[tests["circuit"] == "early"]["sets"] == 0
    ).all()
    assert "The injection reaches none of the 2 nodes of “early”" in " ".join(result.summary())


@pytest.mark.parametrize("prompts", [[[3, 14, 15, 9, 26]], [[3, 14, 15, 9, 26]] * 4], ids=["one", "copies"])
def test_of_one_prompt_or_copies_of_it_nothing_is_said(small_model: Model, prompts: list[list[int]]) -> None:
    asked = experiment(small_model)
    result = map_effect(replace(asked, prompts=make_prompts(small_model, prompts)), str(FILE), **QUICK, sets=3)
    assert set(result.frames["circuits"]["among"]) == {"undefined"}
    assert (result.frames["tests"]["p"] == 1).all() and result.frames["circuits"]["share_low"].isna().all()
    assert result.summary()[0].startswith("Of no circuit can it be said that")


def test_too_few_sets_to_choose_from_are_told_as_such() -> None:
    made = plant("relay_value", idle=0, references=0)  # two heads a layer
    table = map_effect(made.experiment, circuit("right", "L0H0", "L1H0"), **QUICK).frames["circuits"]
    assert set(table["among"]) == {"cannot tell"} and (table["least"] >= 0.25).all()


def test_only_mlps_leave_nothing_to_compare(small_model: Model) -> None:
    result = map_effect(experiment(small_model), circuit("mlps", "L0M", "L1M"), **QUICK)
    assert (result.frames["tests"]["tested"] == 0).all() and (result.frames["tests"]["p"] == 1).all()
    assert result.frames["circuits"]["effect"].abs().min() > 0


@cache
def localized(method: str) -> Result:
    found: Result = st.localize(
        planted("relay_value", references=4).experiment,
        method=method,
        **({"completions": 0, "writers": False, "attention": False, "growing": False} if method == "exact" else {}),
    )
    return found


@pytest.mark.parametrize("method", ["exact", "screen", pytest.param("ig", marks=pytest.mark.slow)])
def test_a_saved_result_is_mapped_as_far_as_it_says(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planted("relay_value", references=4)
    saved = Result.load(localized(method).save(tmp_path / "run"))
    both = [circuit("right", *map(str, made.roles)), circuit("wrong", "L0H6", "L1H5")]
    whole = map_effect(made.experiment, both, **QUICK | {"permutations": 1000}, sets=0) if method == "exact" else None
    monkeypatch.setattr("steerscope.analysis.engine.run.run", None)  # nothing is run
    result = st.map_effect(saved, both)
    measure = result.frames["circuits"]["measure"].iloc[0]
    row = one(result.frames["circuits"], "circuit", "measure")
    assert row("right", measure)["among"] == "more" and row("wrong", measure)["among"] == "alike"
    assert np.isnan(row("right", measure)["effect"]) and result.frames["targeted"].empty
    assert "give the experiment" in result.manifest["missing"]["joint"] and result.manifest["of"] == saved.kind
    assert result.summary()
    if whole is not None:
        assert result.manifest["total"] == pytest.approx(whole.manifest["total"], rel=1e-4)
        tests = [frame[frame["matched"] == "layer and kind"] for frame in (r.frames["tests"] for r in (result, whole))]
        columns = ["circuit", "measure", "test", "value", "p", "p_holm", "least"]
        first, second = (t[columns].sort_values(columns[:3], ignore_index=True) for t in tests)
        pd.testing.assert_frame_equal(first, second, rtol=1e-5)


def test_of_a_saved_result_nodes_before_the_injection_are_undefined_and_one_prompt_says_nothing(
    small_model: Model,
) -> None:
    shorter: Any = {"completions": 0, "writers": False, "attention": False, "growing": False}
    asked = experiment(small_model, layer=1)
    single = replace(asked, prompts=make_prompts(small_model, [[3, 14, 15, 9, 26]]))
    for one_of in (asked, single):
        result = map_effect(
            st.exact(one_of, **shorter), [circuit("early", "L0H1", "L0M"), circuit("late", "L0H1", "L1H2")]
        )
        row = one(result.frames["circuits"], "circuit", "measure")
        assert (row("early", "necessity")["inside"], row("late", "necessity")["inside"]) == (0, 1)
        assert row("early", "necessity")["among"] == "undefined"
        assert not (result.frames["effects"]["layer"] == 0).any()
    assert set(result.frames["circuits"]["among"]) == {"undefined"}
    assert "one prompt gives no interval" in result.summary()[0]


def test_the_task_of_a_circuit_is_answered_with_the_same_nodes(
    small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ((3, 1, 4, 1, 5), (9, 2, 6, 5, 3), (5, 8, 9, 7, 9))
    prompts = st.Prompts(ids, ("a", "b", "c"), targets=((11,), (12,), (13,)), against=((14,), (15,), (16,)))

    def made(model: Model, n: int, seed: int) -> TaskPrompts:
        sides: Any = (("x",),) * 3
        return TaskPrompts("ioi", prompts, prompts, ({},) * 3, sides, sides, solved(model, prompts, prompts), {})

    monkeypatch.setattr(targeted, "named", lambda name: made)
    asked, own = clear(small_model, 0), circuit("c", "L0H1", "L1H2", "L1M", task="ioi")
    result = map_effect(asked, own, sets=0, permutations=10)
    row = one(result.frames["targeted"], "at", "scale")
    clean = log_odds(small_model, prompts).double().mean()
    assert row("nothing", "as it is")["task"] == pytest.approx(float(clean), abs=1e-4)
    steered = []
    injection = asked.injections[0]
    for prompt, target, against in zip(ids, prompts.targets, prompts.against, strict=True):
        edits = [Edit(injection.site, "add", 3.0 * injection.vector.values, (1, 2))]
        last = plain_logits(small_model, prompt, edits)[-1].detach()
        steered.append(float(last[target[0]] - last[against[0]]))
    assert row("whole", "as it is")["task"] == pytest.approx(np.mean(steered), abs=1e-4)
    assert row("circuit", "as it is")["task"] not in (
        row("nothing", "as it is")["task"],
        row("whole", "as it is")["task"],
    )
    assert result.manifest["tasks"]["c"]["prompts"] == 3 and np.isfinite(row("circuit", "as it is")["task_reference"])
    assert "In the circuit's own task the log odds of the right answer are" in " ".join(result.summary())


def test_a_task_that_cannot_be_asked_is_told_with_its_reason(small_model: Model) -> None:
    own = circuit("c", "L0H1", task="ioi")
    result = map_effect(experiment(small_model), own, sets=0, permutations=10)
    assert "no tokenizer" in result.manifest["missing"]["task of c"] and result.frames["targeted"]["task"].isna().all()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("ioi", "is one of gpt2"),
        ("induction", "has no list of nodes"),
        ([], "no circuits; expected one or more"),
        ([circuit("a", "L0H1"), circuit("a", "L0H2")], "two circuits called a;"),
        (circuit("a", "L7H1"), "holds L7H1, which gpt2 has not"),
        (circuit("a", "L0H99"), "holds L0H99, which gpt2 has not"),
        ("nowhere.yaml", "nowhere.yaml"),
        ("nothing of the kind", "no circuit"),
    ],
)
def test_circuits_that_do_not_fit_are_refused_before_anything_is_run(
    given: Any, why: str, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = experiment(small_model)
    monkeypatch.setattr("steerscope.circuits.carried.effects", None)
    with pytest.raises(BadCircuit, match=why):
        map_effect(asked, given)


def test_results_that_do_not_say_what_nodes_carry_are_refused(small_model: Model) -> None:
    own = circuit("a", "L0H1")
    with pytest.raises(BadArgument, match="a map of a result of kind 'writers'; expected one of exact, screen"):
        map_effect(Result("writers", {}, {}, {}), own)
    saved = localized("exact")
    changes: list[dict[str, Any]] = [{"injections": []}, {"model": {}}, {"seed": "x"}]
    for change in changes:
        with pytest.raises(BadArgument, match="the effects of this result cannot be read"):
            map_effect(replace(saved, manifest={**saved.manifest, **change}), own)
    broken = {**saved.frames, "effects": saved.frames["effects"].assign(node="nobody")}
    with pytest.raises(BadArgument, match="the effects of this result cannot be read"):
        map_effect(replace(saved, frames=broken), own)


def test_edges_have_the_effect_of_their_path_alone_where_the_injection_reaches(small_model: Model) -> None:
    asked = experiment(small_model)
    found = one(map_effect(asked, str(FILE), **QUICK, sets=0).frames["edges"], "sender", "receiver", "measure")
    for sender, receiver, into in (("L0H1", "L1H1", "L1H1.v"), ("L1H2", "L1M", "L1M"), ("L1H1", "logits", "logits")):
        paths = one(st.path_effect(asked, sender, into).frames["paths"], "measure")
        for measure in MEASURES:
            expected, row = paths(measure), found(sender, receiver, measure)
            assert (row["effect"], row["low"], row["high"]) == pytest.approx(
                (expected["effect"], expected["low"], expected["high"]), abs=1e-6
            )
    assert np.isnan(found("input", "L0H1", "necessity")["effect"])
    few = map_effect(asked, str(FILE), **QUICK, sets=0, paths=1).frames["edges"].dropna(subset="effect")
    assert set(few["sender"] + few["receiver"]) == {"L1Mlogits"} and few["score"].tolist() == [2.0, 2.0]
    late = map_effect(experiment(small_model, layer=1), str(FILE), **QUICK, sets=0).frames["edges"]
    assert late[late["sender"].str.startswith("L0")]["effect"].isna().all()


def test_a_circuit_s_own_scores_are_ranked_with_the_effect(small_model: Model) -> None:
    table = map_effect(experiment(small_model), str(FILE), **QUICK, sets=0).frames["ranks"]
    assert set(table["nodes"]) == {6} and len(table) == 2
    assert map_effect(experiment(small_model), circuit("a", "L0H1"), **QUICK, sets=0).frames["ranks"].empty


@pytest.mark.slow
def test_random_circuits_and_random_vectors_are_told_no_more_often_than_stated(small_model: Model) -> None:
    """Sixty random vectors, each with a random circuit of its own: heads of a layer drawn at equal chances."""
    dice = np.random.default_rng(0)
    heads = [node for node in small_model.nodes if node.head is not None]
    told = tested = 0
    for trial in range(60):
        chosen = [str(node) for node in heads if dice.random() < 0.4] or [str(heads[0])]
        options: dict[str, Any] = {"targeted": False, "permutations": 200, "sets": 60}
        table = map_effect(clear(small_model, trial), circuit("random", *chosen), **options).frames["circuits"]
        tested += int((table["among"] != "undefined").sum())
        told += int(table["among"].isin(["more", "less"]).sum())
    assert tested > 60 and told / tested <= 2 * 0.05 + 2 * (0.1 * 0.9 / 60) ** 0.5


def named(contrast: Contrast, mask: Mask) -> list[tuple[str, str, float]]:
    """Edges of a mask by name; none leaves the input."""
    return [(str(contrast.senders[s]), str(contrast.receivers[r]), 1.0) for s, r in zip(*np.nonzero(mask), strict=True)]


def test_edges_that_the_effect_takes_overlap_and_others_as_chance_has_it(small_models: Any) -> None:
    asked = clear(small_models["gpt2"], 1)
    contrast = contrast_of(asked)
    scores = edge_conductance(contrast, points=8).conductance.mean(-1)
    scores[0] = 0  # a circuit's input is none of the injection's edges
    mask = strongest(contrast, ordered(contrast, scores), 40)
    dice = np.random.default_rng(0)
    masks = {"its own": mask, "others": next(random_like(contrast, mask, 1, dice))}
    made = [Circuit(name, name, "m", graph_of(named(contrast, own), 1), level="exact") for name, own in masks.items()]
    result = map_effect(asked, [*made, circuit("nodes", "L0H1")], paths=0, sets=2, **QUICK)
    rows = one(result.frames["overlap"], "circuit")
    own, other = rows("its own"), rows("others")
    assert own["shared"] == own["claimed"] == 40 and own["p"] < 0.01
    assert other["shared"] == (masks["others"] & mask).sum() and other["p"] > 0.05
    drawn = [int((one_of & mask).sum()) for one_of in random_like(contrast, mask, 400, dice)]
    fixed = own["shared"] - own["shared_tested"]  # of strata that have no others
    assert own["expected"] + fixed == pytest.approx(np.mean(drawn), abs=float(4 * np.std(drawn) / 20))
    assert "overlap" in map_effect(asked, circuit("nodes", "L0H1"), sets=2, **QUICK).manifest["missing"]
