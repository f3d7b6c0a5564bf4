"""Hypotheses as files, features in words, and claims alone: against passes by hand, and where the answer is known."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from checkpoints import save_gpt2_shape
from numpy.typing import NDArray

import steerscope as st
from benchmarks.planted_verdicts import plant_verdict
from steerscope.analysis.errors import BadArgument, BadCircuit, BadPrompt
from steerscope.circuits import scrub as scrubbing
from steerscope.circuits.features import Datum, Named
from steerscope.circuits.hypothesis import Claim, Hypothesis, places
from steerscope.circuits.scrub_data import Data, Shuffled, dataset_of
from steerscope.circuits.task import TaskPrompts
from steerscope.circuits.unrolled import Answers, Unrolled, pruned, untouched

TOY = "toy-ioi-query-2"
FILE = """
name: mine
title: what it says
roles: {mover: [L1H0]}
claims:
  - node: mover
    at: END
    reads:
      - {node: [embedding, L0H0], by: [q, k], at: [S1+1, 2], feature: "tokens at [IO, S1]"}
"""


@cache
def toy(n: int = 24) -> tuple[st.Model, TaskPrompts]:
    model = st.load(TOY, selfcheck=False)
    return model, st.task("ioi-minimal")(model, n=n)


# Files.


def test_a_file_is_a_tree_in_which_lists_are_claims_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(FILE)
    found = st.hypothesis(tmp_path / "mine.yaml")
    assert [place.name for place in places(found.tree)] == [
        "logits < L1H0@END",
        *(f"logits < L1H0@END < {by}:{node}@S1+1,2" for node in ("embedding", "L0H0") for by in "qk"),
    ]
    other = found.with_roles({"mover": ["L1H0", "L1H1"]})
    assert len(found) == 5 and len(other) == 10 and other.tree[1].node == "L1H1"
    with pytest.raises(BadCircuit, match="has no role 'teller'"):
        found.with_roles({"teller": []})


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("name: mine", "nome: mine", 1, "name"),
        ("node: mover", "node: mever", 5, "mever"),
        ("[L1H0]", "[L1X0]", 3, "L1X0"),
        ("at: END", "at: -3", 6, "at"),
        ("[q, k]", "[q, z]", 8, "by"),
        ("tokens at [IO, S1]", "tokens of IO", 8, "the feature 'tokens of IO'"),
        ("", "", 9, "twice"),
    ],
)
def test_a_fault_is_told_with_file_and_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    text = FILE.replace(old, new) if old else FILE + "name: again\n"
    (tmp_path / "mine.yaml").write_text(text.lstrip("\n"))
    with pytest.raises(BadCircuit, match=rf"line {line}: .*{says}.*expected a hypothesis as docs/scrubbing.md"):
        st.hypothesis(tmp_path / "mine.yaml")


def test_every_shipped_hypothesis_is_read_and_its_rivals_are_there() -> None:
    table = st.hypotheses().set_index("name")
    for name in table.index:
        found = st.hypothesis(name)
        assert found.name == name and set(found.rivals) <= set(table.index) and found.sources
        assert table["claims"][name] == len(found) > 0
    with pytest.raises(BadCircuit, match="expected one of induction-naive"):
        st.hypothesis("nobody's")


# Features.


def test_features_in_words_are_the_tokens_orders_and_places_that_they_name() -> None:
    datum = Datum(0, (9, 8, 7, 6, 5), True, {"IO": 3, "S1": 1, "END": 4}, (2,))
    values: dict[str, Any] = {
        "token at S1": (8,),
        "token at S1+1": (7,),
        "token at END-1": (6,),
        "token at 0": (9,),
        "tokens at [IO, S1]": (6, 8),
        "order of [IO, S1]": (1, 0),
        "place of IO": (3,),
        "answer": (2,),
        "nothing": None,
        "order": ("S1", "IO", "END"),
        "steered": True,
    }
    for text, value in values.items():
        assert Named(text)(datum) == (value,)
    assert Named("token at S1 and steered")(datum) == ((8,), True)
    for text in ("token at S9", "token at END+1", "token at 5"):
        with pytest.raises(BadCircuit, match="expected one of these"):
            Named(text)(datum)
    for text in ("", "tokens", "token at", "tokens at [", "prompt and answer"):
        with pytest.raises(BadCircuit, match="expected prompt, nothing"):
            Named(text)


# One claim alone, by hand.


def by_hand(model: st.Model, ids: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Logits at the end, where layer 1 reads by its query what layer 0 writes there in another prompt: one prompt."""

    def attend(layer: int, stream: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        attn = model.bridge.blocks[layer].attn
        q, k, v = (
            x @ w[0] + b[0]
            for x, w, b in ((queries, attn.W_Q, attn.b_Q), (stream, attn.W_K, attn.b_K), (stream, attn.W_V, attn.b_V))
        )
        scores = (q @ k.T / q.shape[-1] ** 0.5).masked_fill(torch.ones(len(q), len(q)).triu(1).bool(), -torch.inf)
        return torch.as_tensor(scores.softmax(-1) @ v @ attn.W_O[0] + attn.b_O)

    streams = [model.bridge(row[None], stop_at_layer=0)[0] for row in (ids, other)]
    writes = [attend(0, stream, stream) for stream in streams]
    stream = streams[0] + writes[0]
    queries = stream.clone()
    queries[-1] += writes[1][-1] - writes[0][-1]
    final = stream + attend(1, stream, queries)
    return torch.as_tensor(final[-1] @ model.bridge.unembed.W_U + model.bridge.unembed.b_U)


def test_a_claim_alone_is_a_pass_by_hand_with_one_input_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = toy()
    claims = st.hypothesis("ioi-minimal").tree
    data = Data(dataset_of(model, prompts, "none", (), None, None, None), claims)
    order = np.random.default_rng(0).permutation(len(data))
    monkeypatch.setattr(Data, "alike", lambda self, claim, like, *_: order[like])
    answers = Answers(prompts.clean, data.of)
    every = np.arange(len(data))
    read = Unrolled(data, answers).read(pruned(claims, (0, 0), False), every, True, np.random.default_rng(0))
    ids = torch.tensor(prompts.clean.ids)
    with torch.no_grad():
        logits = torch.stack([by_hand(model, ids[d], ids[order[d]]) for d in every])
    expected = torch.cat([logits[:, answers.ids], logits.logsumexp(-1, keepdim=True)], dim=-1).double().numpy()
    np.testing.assert_allclose(read, expected, atol=2e-4)
    assert np.abs(expected - Unrolled(data, answers).plain).max() > 1


def test_scores_of_all_answers_at_once_are_those_of_one_at_a_time() -> None:
    model, prompts = toy()
    for clean in (prompts.clean, replace(prompts.clean, against=())):
        data = Data(dataset_of(model, clean, "none", (), None, None, None), ())
        answers = Answers(clean, data.of)
        with torch.no_grad():
            logits = model.bridge(torch.tensor(clean.ids))[:, -1].double()
        matrix = answers.matrix(Unrolled(data, answers).plain)
        for d, (own,) in enumerate(clean.targets):
            other = logits[:, clean.against[d][0]] if clean.against else logits.logsumexp(-1)
            np.testing.assert_allclose(matrix[:, d], (logits[:, own] - other).numpy(), atol=1e-4)


# Shares.


def told(*given: Any, **options: Any) -> pd.DataFrame:
    model, prompts = toy()
    found: pd.DataFrame = st.scrub(model, *given, prompts, **options).frames["recovered"].set_index("node")
    return found


def test_the_tree_is_told_claim_by_claim_beside_features_that_are_shuffled() -> None:
    table = told("ioi-minimal")
    teller = "logits < L1H0 < q:L0H0@END"
    assert table["share"]["logits"] > 0.8 and table["share"][teller] > 0.9
    assert table["beyond"]["logits"] and table["beyond"][teller] and table["control"]["logits"] < 0.6
    assert table["within"][f"{teller} < v:embedding@S2"] == table["claim"][teller]
    whole = table.loc["logits < L1H0"]
    assert whole["share"] == 1 and np.isnan(whole["control"]) and whole["alike"] == 1 and not whole["beyond"]
    assert 0.7 < whole["branch"] < 1  # with all that is claimed below it, it is the tree
    assert (table["low"] <= table["share"]).all() and (table["share"] <= table["high"]).all()


def test_a_claim_of_nothing_on_the_edge_that_matters_recovers_nothing_and_is_no_better_than_its_control() -> None:
    for feature in ("nothing", "token at MID"):
        claims = [Claim("L1H0", children=(Claim("L0H0", feature, by="q", at=("END",)),))]
        model, prompts = toy()
        named = [{**own, "MID": 3} for own in prompts.places]
        found = st.scrub(model, claims, prompts, places=named).frames["recovered"].set_index("node")
        row = found.loc["logits < L1H0 < q:L0H0@END"]
        assert row["share"] < 0.7 and not row["beyond"] and row["alike"] == 24
        assert row["control_low"] < row["share"] < row["control_high"]


def test_features_that_are_shuffled_are_as_fine_and_of_another_prompt() -> None:
    model, prompts = toy(64)
    claim = Claim("L1H0", "token at S2")
    data = Data(dataset_of(model, prompts, "none", (), None, None, None), [claim])
    orders = Shuffled(data, 3, np.random.default_rng(0))
    rows, draw = np.tile(np.arange(64), 3 * 50), np.repeat(np.arange(3), 64 * 50)
    shuffled = data.alike(claim, rows, np.random.default_rng(1), orders.rows(draw))
    plain = data.alike(claim, rows, np.random.default_rng(1), None)
    subject = np.array([ids[4] for ids in prompts.clean.ids])
    assert (subject[plain] == subject[rows]).all()
    same: list[NDArray[np.bool_]] = [found == rows for found in (plain, shuffled)]
    assert same[0].mean() == pytest.approx(same[1].mean(), abs=0.02)  # the prompt itself is drawn as often
    assert (subject[shuffled] == subject[rows]).mean() < 0.6
    for k in range(3):  # within a draw it is a partition, too: two prompts draw from the same ones or from others
        pairs = set(zip(rows[draw == k].tolist(), shuffled[draw == k].tolist(), strict=True))
        assert all((b, a) in pairs for a, b in pairs)


def test_numbers_do_not_depend_on_what_is_asked_beside_nor_on_how_much_is_run_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = told("ioi-minimal-untold", alone=False)
    beside = told(["ioi-minimal", "ioi-minimal-untold"], alone=False)
    row = beside[beside["hypothesis"] == "ioi-minimal-untold"]
    pd.testing.assert_frame_equal(alone.drop(columns="p_holm"), row.drop(columns="p_holm"))
    kept = told("ioi-minimal", draws=3)
    monkeypatch.setattr(scrubbing, "WORK", 24 * 6 * 32)  # 24 rows
    again = told("ioi-minimal", draws=3)
    exact = ["logits < L1H0", "logits < L1H0 < k:embedding@IO,S1"]
    pd.testing.assert_frame_equal(kept.loc[exact[1:]], again.loc[exact[1:]])
    assert kept["share"]["logits"] == pytest.approx(again["share"]["logits"], abs=0.2)


def test_nothing_exchanged_is_the_model_and_the_run_says_so() -> None:
    model, prompts = toy()
    result = st.scrub(model, ["ioi-minimal", "planted"], prompts, alone=False, draws=1)
    assert [check["passed"] for check in result.manifest["checks"]] == [True, True]
    data = Data(dataset_of(model, prompts, "none", (), None, None, None), st.hypothesis("ioi-minimal").tree)
    runs, every = Unrolled(data, Answers(prompts.clean, data.of)), np.arange(len(data))
    read = runs.read(untouched(st.hypothesis("ioi-minimal").tree), every, True, np.random.default_rng(0))
    np.testing.assert_allclose(read, runs.plain, atol=1e-4)


def test_the_planted_hypotheses_are_those_of_the_planted_model() -> None:
    made = plant_verdict("unaffected", prompts=20, length=8)
    ids = [tuple(x) for asked in (made.experiment, made.counterfactual) for x in asked.prompts.ids]
    from benchmarks.planted import OTHER, TARGET
    from benchmarks.planted_verdicts import PLUS

    right = tuple((TARGET if x[2] == PLUS else OTHER,) for x in ids)
    wrong = tuple((OTHER if x == (TARGET,) else TARGET,) for x in right)
    prompts = st.Prompts(tuple(ids), ("",) * len(ids), targets=right, against=wrong)
    result = st.scrub(made.model, ["planted", "planted-by-key"], prompts, alone=False)
    table = result.frames["recovered"].set_index("hypothesis")
    assert table["share"]["planted"] > 0.97 and table["beyond"]["planted"]
    assert abs(table["share"]["planted-by-key"]) < 0.25 and not table["beyond"]["planted-by-key"]


def test_prompts_of_several_lengths_are_exchanged_within_their_length() -> None:
    model = st.load("toy-induction", selfcheck=False)
    prompts = st.task("induction-letters")(model, n=40)
    assert len({len(ids) for ids in prompts.clean.ids}) > 2
    result = st.scrub(model, "induction-naive", prompts, alone=False, draws=2)
    assert result.manifest["alignments"]["count"] > 2 and result.manifest["checks"][0]["passed"]
    assert result.frames["recovered"]["share"][0] > 0.7
    claims = [Claim("L1H0", "nothing", at=("answer",))]
    data = Data(dataset_of(model, prompts, "none", (), None, None, None), claims)
    for d, datum in enumerate(data.told):
        mates = np.flatnonzero(data.aligned.number == data.aligned.number[d])
        assert {(len(data.told[m].ids), data.told[m].places["answer"]) for m in mates} == {
            (len(datum.ids), datum.places["answer"])
        }


def test_a_task_is_scrubbed_under_steering_too() -> None:
    model, prompts = toy()
    vector = st.SteeringVector(torch.full((1, model.d_model), 0.5), "L0.resid_pre")
    injection = st.Injection(vector, positions=(5,))
    found = told("ioi-minimal-untold", steering="stands", injections=injection, alone=False)
    metric = st.log_prob(st.PerPrompt(prompts.clean.targets), against=st.PerPrompt(prompts.clean.against))
    asked = st.Experiment(model, injection, prompts.clean, metric, references=0)
    given = {"steering": "stands", "alone": False, "places": prompts.places}
    other = st.scrub(model, "ioi-minimal-untold", asked, **given).frames["recovered"].set_index("node")
    pd.testing.assert_frame_equal(found, other)
    assert found["score"]["logits"] != told("ioi-minimal-untold", alone=False)["score"]["logits"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ioi", "ioi-token-signal", "ioi-position-signal"])
def test_hypotheses_of_gpt2_run_from_end_to_end_on_a_random_model_and_nothing_is_claimed(
    name: str, tmp_path: Path
) -> None:
    model = st.load(save_gpt2_shape(tmp_path), selfcheck=False)
    result = st.scrub(model, name, st.task("ioi")(model, 24, ask=True), draws=1, alone=name != "ioi")
    assert result.manifest["checks"][0]["passed"] and not result.frames["recovered"]["beyond"].any()
    assert "Nothing can be said" in result.summary()[0] or "not shown" in " ".join(result.summary())
    assert st.report(result.save(tmp_path / "out")).exists()


# Bad input.


def test_what_makes_no_sense_is_refused_in_a_sentence() -> None:
    model, prompts = toy()
    vector = st.SteeringVector(torch.ones(1, model.d_model), "L0.resid_pre")
    one = Claim("L1H0")
    with pytest.raises(BadCircuit, match="the place 'S9' of prompt 1"):
        st.scrub(model, [Claim("L1H0", at=("S9",))], prompts)
    with pytest.raises(BadArgument, match="'token at S9' failed on prompt 1 .*S9"):
        st.scrub(model, [Claim("L1H0", "token at S9")], prompts)
    with pytest.raises(BadArgument, match="steering='stands' with 0 injections"):
        st.scrub(model, [one], prompts, steering="stands")
    with pytest.raises(BadArgument, match="steering='none' with 1 injection"):
        st.scrub(model, [one], prompts, injections=st.Injection(vector))
    with pytest.raises(BadCircuit, match="expected at least one"):
        st.scrub(model, [], prompts)
    with pytest.raises(BadCircuit, match="with the names 'a', 'a'"):
        st.scrub(model, [Hypothesis("a", (one,)), Hypothesis("a", ())], prompts)
    with pytest.raises(BadCircuit, match="claims beside hypotheses"):
        st.scrub(model, [one, "planted"], prompts)
    with pytest.raises(BadPrompt, match="without answers"):
        st.scrub(model, [one], st.Prompts(((1, 2),), ("",)))
    with pytest.raises(BadPrompt, match="no two of one length"):
        st.scrub(model, [one], prompts.clean.some([0]))
    with pytest.raises(BadPrompt, match="places of 1 prompts for 24"):
        st.scrub(model, [one], prompts, places=[{"S2": 4}])
    with pytest.raises(BadArgument, match="expected at most 50,000 runs"):
        st.scrub(model, [one], prompts, draws=10_000)
