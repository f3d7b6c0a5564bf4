"""The contract of every method of finding carriers: whichever is asked, one table of effects."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerscope.analysis.carriers.localize import METHODS, localize
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.effects import EFFECTS, NUMBERS
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.verdicts import TOLD, VERDICTS
from steerscope.analysis.tools.patching import MEASURES
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.questions import QUESTIONS

QUICK: dict[str, dict[str, Any]] = {
    "exact": {"completions": 0, "writers": False, "attention": False},
    "shapley": {"passes": 40},
}
OWN_MEASURES = {"shapley": {"shapley"}, "ig": {"conductance"}}
COUNTED = [name for name in NUMBERS if name != "verdict"]
every_method = pytest.mark.parametrize("method", METHODS)


def ask(model: Model, texts: list[str], layer: int = 0, references: str = "concepts:4,isotropic:4") -> Experiment:
    injection = Injection(prompt_pair(model, " wedding", " ship", layer), 2.0)
    return Experiment(model, (injection,), make_prompts(model, texts, groups="each"), references=references)


def answer(method: str, experiment: Experiment, **knobs: Any) -> Result:
    return localize(experiment, method=method, **QUICK.get(method, {}), **knobs)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def texts(stories: list[str]) -> list[str]:
    return [*stories[:3], "Tom had a red ball and a ring", "They saw a big cake"]


@pytest.fixture(scope="module")
def results(tiny: Model, texts: list[str]) -> dict[str, Result]:
    return {method: answer(method, ask(tiny, texts)) for method in METHODS}


@every_method
def test_all_give_the_same_columns_of_the_same_types(results: dict[str, Result], method: str) -> None:
    table, columns = results[method].frames["effects"], results[method].columns["effects"]
    assert list(table)[: len(EFFECTS)] == list(EFFECTS)
    assert {name: c.role for name, c in columns.items() if name in EFFECTS} == {n: c.role for n, c in EFFECTS.items()}
    assert table["head"].dtype == "Int64" and table["layer"].dtype == int and set(table["verdict"]) <= set(VERDICTS)
    assert {str(table[name].dtype) for name in NUMBERS if name != "verdict"} == {"float64"}
    assert table[["node", "kind", "measure"]].map(lambda text: isinstance(text, str)).all(axis=None)


@every_method
def test_every_node_that_can_be_reached_has_a_row_of_each_measure(
    tiny: Model, texts: list[str], results: dict[str, Result], method: str
) -> None:
    for asked, result in (
        (ask(tiny, texts), results[method]),
        (ask(tiny, texts[:3], 1), answer(method, ask(tiny, texts[:3], 1))),
    ):
        table = result.frames["effects"]
        assert set(table["measure"]) == OWN_MEASURES.get(method, set(MEASURES))
        for _, own in table.groupby("measure"):
            assert not own["node"].duplicated().any()
            assert {str(node) for node in asked.reachable} <= set(own["node"]) <= {str(node) for node in tiny.nodes}


@every_method
def test_estimates_lie_in_their_intervals_and_shares_are_of_the_whole_effect(
    tiny: Model, texts: list[str], results: dict[str, Result], method: str
) -> None:
    table = results[method].frames["effects"]
    slack = 1e-9 + 1e-6 * table["effect"].abs()
    assert np.isfinite(table[COUNTED].astype(float)).all(axis=None)
    assert (table["low"] <= table["effect"] + slack).all() and (table["effect"] <= table["high"] + slack).all()
    for name in ("reference", "concepts"):
        near = 1e-9 + 1e-6 * table[name].abs()
        assert (table[f"{name}_low"] <= table[name] + near).all()
        assert (table[name] <= table[f"{name}_high"] + near).all()
    total = ask(tiny, texts).effect().mean()
    np.testing.assert_allclose(table["share"] * total, table["effect"], rtol=1e-5)
    assert table["p"].between(0, 1).all() and (table["p_adjusted"] >= table["p"] - 1e-12).all()
    assert (table["p_holm"] >= table["p_adjusted"] - 1e-12).all()
    alpha, smallest = (results[method].manifest[name] for name in ("alpha", "smallest"))
    told = table[table["verdict"].isin(TOLD)]
    assert (told["p_holm"] < alpha).all() and (told["share"] >= smallest).all()
    assert (table[table["verdict"] == "specific"]["p_specific"] < alpha).all()
    assert (table[table["share"].abs() < smallest]["verdict"].isin(["small", "less"])).all()
    assert table["effect"].abs().max() > 1e-3


@every_method
def test_another_order_of_the_prompts_changes_nothing(
    tiny: Model, texts: list[str], results: dict[str, Result], method: str
) -> None:
    table, turned = (result.frames["effects"] for result in (results[method], answer(method, ask(tiny, texts[::-1]))))
    pd.testing.assert_frame_equal(table[["node", "measure"]], turned[["node", "measure"]])
    scale = table["effect"].abs().max()
    np.testing.assert_allclose(
        table[COUNTED].astype(float), turned[COUNTED].astype(float), rtol=2e-3, atol=1e-4 * scale
    )


@every_method
def test_one_prompt_without_references_has_effects_and_says_what_is_missing(
    tiny: Model, texts: list[str], method: str
) -> None:
    result = answer(method, ask(tiny, texts[:1], references="isotropic:0"))
    table = result.frames["effects"]
    assert np.isfinite(table[["effect", "share"]]).all(axis=None) and set(table["verdict"]) == {"untested"}
    assert table[["low", "high", "reference", "reference_low", "reference_high"]].isna().all(axis=None)
    assert {"intervals", "references"} <= set(result.manifest["missing"])


@every_method
def test_a_result_is_saved_and_loaded_whole(results: dict[str, Result], method: str, tmp_path: Path) -> None:
    result = results[method]
    assert QUESTIONS[result.kind].door == "localize"
    found = Result.load(result.save(tmp_path))
    assert (found.kind, found.columns) == (result.kind, result.columns)
    assert found.manifest == result.manifest
    assert list(found.frames) == list(result.frames)
    for name, frame in result.frames.items():
        pd.testing.assert_frame_equal(frame, found.frames[name], check_dtype=len(frame) > 0)


@every_method
def test_a_knob_that_a_method_does_not_have_is_refused_with_those_that_it_has(
    tiny: Model, texts: list[str], method: str
) -> None:
    with pytest.raises(BadArgument, match=rf"method '{method}' got speed; expected no other knobs than \w+, \w+.*; "):
        localize(ask(tiny, texts[:2], references="isotropic:0"), method=method, speed=3)  # type: ignore[arg-type]


def test_an_unknown_method_is_refused(tiny: Model, texts: list[str]) -> None:
    with pytest.raises(BadArgument, match="method='magic'; expected one of exact, screen, gradient"):
        localize(ask(tiny, texts[:2], references="isotropic:0"), method="magic")  # type: ignore[arg-type]
