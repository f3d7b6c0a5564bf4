"""Circuits that are found: of trained toys, of planted models, of injections; and what is not one."""

from typing import Any

import numpy as np
import pytest

import steerscope as st
from benchmarks.planted_verdicts import plant_verdict
from benchmarks.stressed import prompts_of
from steerscope.analysis.errors import BadArgument, BadCircuit
from steerscope.analysis.results.result import Result
from steerscope.circuits.circuit_files import read_circuit
from steerscope.circuits.circuit_run import CircuitRuns, faithfulness
from steerscope.circuits.consensus import MANY, how_many_random, profile, random_like
from steerscope.circuits.contrast import contrast_of_task
from steerscope.circuits.find_circuit import find_circuit, halves
from steerscope.circuits.found import found_circuit
from steerscope.circuits.masks import mask_of
from steerscope.circuits.task import TaskPrompts

FEW: dict[str, Any] = {"resamples": 20, "randoms": 5, "curve": False}


def members(result: Result) -> set[str]:
    return set(result.frames["nodes"]["node"])


def value(result: Result, measure: str, ablation: str = "resample") -> dict[str, float]:
    table = result.frames["circuit"]
    [row] = table[(table["measure"] == measure) & (table["ablation"] == ablation)].to_dict("records")
    return {str(name): x for name, x in row.items()}


@pytest.fixture(scope="module")
def toy() -> tuple[Any, TaskPrompts, Result]:
    model = st.load("toy-ioi-query")
    made = st.task("ioi-minimal")(model, n=24)
    return model, made, find_circuit(model, made, **FEW | {"curve": True})


@pytest.mark.parametrize("norm", [None, "LN", "RMS"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_chain_is_found_whole_and_alone(norm: str | None, seed: int) -> None:
    planted = plant_verdict("unaffected", norm=norm, seed=seed, prompts=12)
    result = find_circuit(planted.model, prompts_of(planted), lost=0.1, **FEW)
    assert members(result) == {str(node) for node in planted.circuits.clean}
    edges = result.frames["edges"]
    chain = set(zip(edges["sender"][edges["kept"]], edges["receiver"][edges["kept"]], strict=True))
    [first, last] = sorted(members(result))
    assert chain == {("input", f"{first}.v"), (first, f"{last}.v"), (last, "logits")}
    assert value(result, "faithfulness")["value"] == pytest.approx(1, abs=0.1)
    assert value(result, "completeness")["value"] == pytest.approx(1, abs=0.1)
    assert all(check["passed"] for check in result.manifest["checks"])


def test_a_toys_circuit_is_found_from_the_repeated_name_to_the_answer(toy: tuple[Any, TaskPrompts, Result]) -> None:
    model, made, result = toy
    assert members(result) == {"L0H0", "L1H0"}
    table = result.frames["edges"]
    sizes = dict(zip(table["sender"] + " " + table["receiver"], table["share"], strict=True))
    assert sizes["L0H0 L1H0.q"] > 2 * abs(sizes["L0H0 L1H0.v"]) and sizes["L1H0 logits"] > 0.8  # told by the query
    assert "IO" in result.frames["nodes"].set_index("node")["looks"]["L1H0"]
    faithful = value(result, "faithfulness")
    assert faithful["value"] > 0.5 and faithful["low"] < faithful["value"] < faithful["high"]
    kept = result.frames["edges"][result.frames["edges"]["kept"]]
    assert result.manifest["size"] == len(kept) < result.manifest["all_edges"]
    contrast = contrast_of_task(model, made.clean, made.corrupted)
    runs, (_, judge) = CircuitRuns(contrast), halves(contrast.groups, 0)
    known = faithfulness(runs.values([mask_of(contrast, found_circuit(result))], judge), runs.ends[:, judge])
    assert known[0] == pytest.approx(faithful["value"], abs=1e-4)


def test_the_curve_ends_with_all_that_the_model_does(toy: tuple[Any, TaskPrompts, Result]) -> None:
    curve = toy[2].frames["curve"]
    last = curve[curve["edges"] == toy[2].manifest["all_edges"]]
    assert set(last["ablation"]) == set(curve["ablation"]) >= {"resample", "mean"}
    np.testing.assert_allclose(last["faithfulness"], 1, atol=1e-3)


def test_what_is_found_is_saved_and_read_as_a_circuit(toy: tuple[Any, TaskPrompts, Result], tmp_path: Any) -> None:
    model, made, result = toy
    found = found_circuit(result, "mine", "what it does")
    again = read_circuit(found.save(tmp_path / "mine.yaml"))
    contrast = contrast_of_task(model, made.clean, made.corrupted)
    assert (mask_of(contrast, again) == mask_of(contrast, found)).all()
    assert mask_of(contrast, found).sum() == result.manifest["size"]
    assert again.of(model) is again and again.confidence == "ours" and "faithfulness, resample" in again.reported


def test_an_injection_has_a_circuit_too() -> None:
    planted = plant_verdict("overwritten", prompts=8)
    result = find_circuit(planted.model, planted.experiment, lost=0.05, **FEW)
    assert result.manifest["what"] == "steered against unsteered"
    assert members(result) == {str(node) for node, role in planted.roles.items() if role.startswith("C1")}


def test_where_no_other_circuit_has_its_profile_nothing_is_said_of_chance(toy: tuple[Any, TaskPrompts, Result]) -> None:
    text = " ".join(toy[2].summary())
    assert "no other circuit has its profile" in text and "not told from" not in text


def test_one_prompt_is_searched_with_and_judged_on_and_says_so() -> None:
    planted = plant_verdict("unaffected", prompts=1)
    result = find_circuit(planted.model, prompts_of(planted), **FEW)
    assert {"other prompts", "intervals", "mean ablation", "consensus"} <= set(result.manifest["missing"])
    said = " ".join(result.summary())
    assert "On the prompt that it was searched with" in said and "other prompts" not in said and " core" not in said
    assert np.isnan(value(result, "faithfulness")["low"]) and members(result)


def test_copies_are_no_other_prompts_and_are_not_drawn_again() -> None:
    planted = plant_verdict("unaffected", prompts=1)
    one = prompts_of(planted)
    result = find_circuit(planted.model, (one[0].some([0] * 6), one[1].some([0] * 6)), **FEW)
    said = " ".join(result.summary())
    assert "or copies" in said and "other prompts" not in said and " core" not in said
    assert "told from" not in said and np.isnan(result.frames["edges"]["frequency"]).all()


def test_where_there_is_no_difference_there_is_no_circuit() -> None:
    planted = plant_verdict("unaffected", prompts=8)
    clean, _ = prompts_of(planted)
    with pytest.raises(BadCircuit, match="clear of zero"):
        find_circuit(planted.model, (clean, clean), **FEW)
    with pytest.raises(BadArgument, match="expected the same one"):
        find_circuit(plant_verdict("weaker").model, planted.experiment)
    with pytest.raises(BadCircuit, match="kind 'made'"):
        found_circuit(Result("made", {}, {}, {}))


def test_random_circuits_have_the_profile_of_the_one_they_stand_beside(toy: tuple[Any, TaskPrompts, Result]) -> None:
    model, made, result = toy
    contrast = contrast_of_task(model, made.clean, made.corrupted)
    mask, strata = mask_of(contrast, found_circuit(result)), profile(contrast)
    for other in random_like(contrast, mask, 5, np.random.default_rng(0)):
        assert not (other & ~contrast.connected).any()
        assert sorted(strata[other]) == sorted(strata[mask])


def test_circuits_of_a_profile_are_counted_up_to_a_bound(toy: tuple[Any, TaskPrompts, Result]) -> None:
    planted = plant_verdict("unaffected", idle=30, prompts=2)
    wide = contrast_of_task(planted.model, *prompts_of(planted))
    assert how_many_random(wide, wide.connected & (np.arange(wide.connected.shape[1]) % 2 == 0)) == MANY
    assert toy[2].manifest["random_circuits"] == 1


def test_halves_hold_prompts_of_every_group() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    search, judge = halves(groups, 3)
    assert sorted(search + judge) == list(range(9)) and abs(len(search) - len(judge)) <= 1
    assert set(groups[search]) == set(groups[judge]) == {0, 1, 2}
    assert halves(np.array([0]), 0) == ([0], [0])
