"""Causal scrubbing: true hypotheses explain planted and trained circuits, and wrong ones do not."""

from collections.abc import Hashable
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch

import steerscope as st
from benchmarks.planted import OTHER, TARGET
from benchmarks.planted_verdicts import AT, PLUS, PlantedVerdict, plant_verdict
from steerscope import cli
from steerscope.analysis.errors import BadNode, BadPrompt
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.prompts import make_prompts
from steerscope.circuits.features import Datum, Feature
from steerscope.circuits.hypothesis import Claim
from steerscope.circuits.scrub import scrub
from steerscope.circuits.toys.tasks import END, FIRST, SECOND, SUBJECT, ioi_prompt


def sign(datum: Datum) -> bool:
    return datum.ids[AT] == PLUS


def sign_steered(datum: Datum) -> Hashable:
    return sign(datum), datum.steered


def steered(datum: Datum) -> bool:
    return datum.steered


def beside(datum: Datum) -> bool:
    """A feature of the token beside the signal, which nobody reads."""
    return datum.ids[AT + 1] % 2 == 0


def everything(planted: PlantedVerdict) -> Experiment:
    """All prompts of a planted model, plus and minus, each with its own answer."""
    ids = [list(x) for asked in (planted.experiment, planted.counterfactual) for x in asked.prompts.ids]
    right = [TARGET if x[AT] == PLUS else OTHER for x in ids]
    wrong = [OTHER if answer == TARGET else TARGET for answer in right]
    metric = st.log_prob(st.PerPrompt(right), against=st.PerPrompt(wrong))
    prompts = make_prompts(planted.model, ids)
    return Experiment(planted.model, planted.experiment.injections, prompts, metric, references=0)


@cache
def planted(verdict: str, norm: str | None = None) -> tuple[Experiment, dict[str, str]]:
    made = plant_verdict(verdict, norm=norm, prompts=20, length=8)
    return everything(made), {role.split(":")[0]: str(node) for node, role in made.roles.items()}


def chain(last: str, first: str, feature: Feature | None = sign, by: str = "v") -> tuple[Claim, ...]:
    token = Claim("embedding", feature, by="v", at=(AT,))
    return (Claim(last, feature, children=(Claim(first, feature, by=by, children=(token,)),)),)  # type: ignore[arg-type]


def found(experiment: Experiment, steering: str = "none", **claims: tuple[Claim, ...]) -> pd.DataFrame:
    result = scrub(experiment.model, claims, experiment, steering=steering, alone=False)  # type: ignore[arg-type]
    table = result.frames["recovered"]
    return table[table["node"] == "logits"].set_index("hypothesis")


@pytest.mark.parametrize("norm", [None, "LN", "RMS"])
def test_the_true_chain_explains_all_and_wrong_ones_nothing(norm: str | None) -> None:
    experiment, head = planted("unaffected", norm)
    table = found(
        experiment,
        right=chain(head["A1"], head["A0"]),
        too_fine=chain(head["A1"], head["A0"], None),
        wrong_feature=chain(head["A1"], head["A0"], beside),
        wrong_edge=chain(head["A1"], head["A0"], by="k"),
        wrong_node=chain("L1H3", head["A0"]),
        wrong_middle=chain(head["A1"], "L0H3"),
        none=(),
    )
    assert (table.loc[["right", "too_fine"], ["share", "squared"]].to_numpy() > 0.97).all()
    assert (table.drop(["right", "too_fine"])["share"].abs() < 0.25).all()
    assert (table.drop(["right", "too_fine"])["squared"] < 0.4).all()
    assert (table["low"] <= table["share"]).all() and (table["share"] <= table["high"]).all()


def test_a_whole_model_that_is_claimed_as_it_is_is_recovered_exactly() -> None:
    experiment, _ = planted("unaffected")
    nodes = [str(node) for node in experiment.model.nodes]
    table = found(experiment, all=(Claim("embedding"), *(Claim(node) for node in nodes)))
    assert [table[name]["all"] for name in ("share", "squared")] == pytest.approx([1, 1], abs=1e-5)


def test_under_steering_the_new_chain_explains_and_the_old_one_does_not() -> None:
    experiment, head = planted("rerouted")
    old, new = chain(head["A1"], head["A0"]), chain(head["B1"], head["B0"])
    stands = found(experiment, "stands", old=old, new=new)["share"]
    assert stands["new"] > 0.97 and abs(stands["old"]) < 0.25
    clean = found(experiment, old=old, new=new)["share"]
    assert clean["old"] > 0.97 and abs(clean["new"]) < 0.25


def test_with_steering_as_a_feature_both_gates_are_needed() -> None:
    experiment, head = planted("rerouted")

    def gated(last: str, first: str, gate: Feature) -> Claim:
        read = Claim(first, sign, by="v")
        look = Claim("embedding", gate, by="k", at=(0,))
        return Claim(last, sign_steered, children=(read, look))

    both = tuple(gated(head[f"{c}1"], head[f"{c}0"], steered) for c in "AB")
    blind = tuple(gated(head[f"{c}1"], head[f"{c}0"], lambda datum: 0) for c in "AB")
    table = found(experiment, "feature", both=both, blind=blind, alone=both[:1])
    assert (table.loc["both", ["share", "squared"]] > 0.97).all()
    assert table["share"]["alone"] < 0.75 and table["squared"]["blind"] < 0.9


def test_the_same_seed_gives_the_same_numbers() -> None:
    experiment, head = planted("weaker")
    claims = chain(head["A1"], head["A0"], beside)
    pd.testing.assert_frame_equal(found(experiment, a=claims), found(experiment, a=claims))


def test_what_cannot_be_scrubbed_is_refused() -> None:
    experiment, _ = planted("unaffected")
    for wrong in (
        Claim("L1H0", by="q"),
        Claim("L0H0", children=(Claim("L1H0", by="q"),)),
        Claim("L1H0", children=(Claim("L0H0"),)),
        Claim("L7H0"),
        Claim("embedding", children=(Claim("embedding"),)),
    ):
        with pytest.raises(BadNode, match="expected"):
            scrub(experiment.model, {"wrong": [wrong]}, experiment)
    with pytest.raises(BadPrompt, match="without answers"):
        scrub(experiment.model, {"none": []}, plant_verdict("unaffected").counterfactual)


@cache
def minimal_ioi() -> Experiment:
    """All prompts of four names, for the toy that solves it by query composition."""
    model = st.load("toy-ioi-query-2", selfcheck=False)
    pairs = [(a, b) for a in range(1, 5) for b in range(1, 5) if a != b]
    ids = [ioi_prompt(a, b, s, 20) for a, b in pairs for s in (a, b)]
    repeated = [x[SUBJECT] for x in ids]
    right = [sum(x[FIRST : SECOND + 1]) - s for x, s in zip(ids, repeated, strict=True)]
    metric = st.log_prob(st.PerPrompt(right), against=st.PerPrompt(repeated))
    vector = st.random_like(st.SteeringVector(torch.ones(1, model.d_model), "L0.resid_pre"), seed=0)
    return Experiment(model, (st.Injection(vector, positions=(1,)),), make_prompts(model, ids), metric, references=0)


def names(datum: Datum) -> Hashable:
    return datum.ids[FIRST], datum.ids[SECOND]


def subject(datum: Datum) -> int:
    return datum.ids[SUBJECT]


def test_a_trained_toy_looks_by_the_query_for_the_name_that_is_not_repeated() -> None:
    end = Claim("L0H0", subject, by="q", at=(END,), children=(Claim("embedding", subject, by="v", at=(SUBJECT,)),))
    both = [Claim("embedding", names, by=by, at=(FIRST, SECOND)) for by in ("k", "v")]
    moved = [Claim("L0H0", names, by=by, at=(FIRST, SECOND)) for by in ("k", "v")]

    def tree(*children: Claim) -> tuple[Claim, ...]:
        return (Claim("L1H0", children=children),)

    table = found(
        minimal_ioi(),
        right=tree(end, *both, *moved),
        no_query=tree(*both, *moved),
        other_name=tree(Claim("L0H0", names, by="q", at=(END,)), *both, *moved),
        no_value=tree(end, both[0], moved[0]),
    )
    assert (table.loc["right", ["share", "squared"]] > 0.8).all()
    assert (table.drop("right")["share"].abs() < 0.3).all()


def test_the_command_carries_injections_as_the_function_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = st.load("toy-ioi-query-2", selfcheck=False)
    vector = st.random_like(st.SteeringVector(torch.ones(1, model.d_model), "L0.resid_pre"), seed=0)
    vector.save(tmp_path / "v.safetensors")
    monkeypatch.chdir(tmp_path)
    line = ["steerscope", "circuits", "scrub", "--model", "toy-ioi-query-2", "--task", "ioi-minimal", "--n", "12"]
    line += ["--hypothesis", "ioi-minimal", "--whole", "--draws", "2"]
    inject = ["--inject", "vector=v.safetensors,coef=3,positions=all"]

    def run(*more: str) -> int:
        monkeypatch.setattr("sys.argv", [*line, *more])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0)

    asked = st.task("ioi-minimal")(model, 12, 0)
    put_in = st.Injection(vector, 3.0, positions="all")
    for steering, more in (("stands", inject), ("feature", [*inject, "--steering", "feature"])):
        assert run(*more, "--out", steering) == 0, capsys.readouterr().err
        given = {"steering": steering, "injections": put_in, "alone": False, "draws": 2, "seed": 0}
        expected = scrub(model, "ioi-minimal", asked, **given)
        table = st.Result.load(tmp_path / steering).frames["recovered"]
        pd.testing.assert_frame_equal(table, expected.frames["recovered"])
    assert run("--steering", "stands", "--out", "refused") == 2
    assert "--steering stands without --inject" in capsys.readouterr().err
