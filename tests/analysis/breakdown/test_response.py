"""Response curves and regimes: against plain passes, and on curves whose crossings are known."""

from dataclasses import replace
from math import inf, log
from pathlib import Path

import numpy as np
import pytest
import torch
from questions import PROMPTS, TARGET, experiment, one
from reference import plain_pass

from steerscope.analysis.breakdown.breakdown import COLUMNS, _texts, breakdown
from steerscope.analysis.breakdown.outcomes import CURVES, OUTCOMES, of_runs
from steerscope.analysis.breakdown.phase import phase
from steerscope.analysis.breakdown.regimes import broken, crossing, predictions, regimes, slope
from steerscope.analysis.breakdown.response import Response, default_coefficients, response, response_table
from steerscope.analysis.breakdown.strength import at
from steerscope.analysis.errors import BadArgument, BadInjection, BadLens, BadPrompt
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import kl
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector


def test_the_default_range_is_81_signed_points() -> None:
    found = default_coefficients()
    assert len(found) == 81 and found[40] == 0 and found[-1] == 1e4 == -found[0]
    np.testing.assert_allclose(found, -np.array(found[::-1]))


@torch.no_grad()
def test_every_outcome_equals_one_plain_pass(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    coefficients = [-30.0, 0.5, 4.0]
    found = response(asked, coefficients)
    assert found.coefficients == (-inf, *coefficients, inf)
    for place, c in enumerate(found.coefficients):
        for p, ids in enumerate(PROMPTS):
            scored = list(asked.scored_positions.positions[p])
            runs = [plain_pass(small_model, ids, e)["logits"][scored].log_softmax(-1) for e in ((), at(asked, c)[p])]
            clean, own = (x.double() for x in runs)
            after = [i for i, q in enumerate(scored) if q + 1 < len(ids)]
            following = [ids[scored[i] + 1] for i in after]
            losses = [-x[after, following].mean() for x in (clean, own)]
            expected = {
                "effect": (own - clean)[:, TARGET].mean(),
                "kl": (own.exp() * (own - clean)).sum(-1).mean(),
                "entropy": -(own.exp() * own).sum(-1).mean(),
                "loss": losses[1],
                "damage": losses[1] - losses[0],
            }
            for curve in CURVES:
                assert found.of(curve)[place, p] == pytest.approx(float(expected[curve]), abs=5e-5), (c, curve)


def test_the_curve_comes_to_its_limit_in_both_directions(every_architecture: Model) -> None:
    if every_architecture.norm == "none":
        pytest.skip("has no norm, so no limit")
    found = response(experiment(every_architecture, layer=1), [-1e6, 1e6])
    for curve in ("effect", "kl", "entropy", "loss"):
        values = found.of(curve)
        np.testing.assert_allclose(values[1], values[0], atol=2e-3)
        np.testing.assert_allclose(values[2], values[3], atol=2e-3)


def test_where_there_is_no_limit_it_is_named(small_models: "dict[str, Model]") -> None:
    found = response(experiment(small_models["native_without_norm"]), [1.0, 10.0])
    assert found.coefficients == (1.0, 10.0) and "no norm" in found.missing["limit"]
    assert found.limit("effect", 1) is None


def test_references_are_other_vectors_of_the_same_norm(small_model: Model) -> None:
    asked = experiment(small_model, layer=1, references=2)
    found = response(asked, [2.0])
    for vector in (1, 2):
        own = replace(
            asked, injections=tuple(replace(i, coefficient=2.0) for i in asked.steering[vector]), references=0
        )
        expected = of_runs(asked, [own.edits(0)])
        np.testing.assert_allclose(found.values[vector, : len(OUTCOMES), 1], expected[: len(OUTCOMES), 0], atol=1e-6)
    table = response_table(found, 0.95, 0)
    row = one(table, "outcome", "coefficient")("kl", 2.0)
    assert row["reference"] == pytest.approx(found.values[1:, 1, 1].mean())


def test_crossings_lie_where_straight_lines_in_the_logarithm_cross() -> None:
    sizes = np.array([0.1, 1.0, 10.0])
    gap = np.array([[-1.0, 1.0, 2.0], [-1.0, -1.0, -0.5], [0.5, 1.0, 1.0], [-3.0, -1.0, 1.0]])
    np.testing.assert_allclose(crossing(sizes, gap), [10**-0.5, np.nan, 0.1, 10**0.5])


def test_regimes_of_a_known_curve(small_model: Model) -> None:
    """Effect c / (1 + c) with slope 1: it leaves the line by a tenth at 1/9, half of its limit is at 1; damage 0.1 c"""
    sizes = np.geomspace(1e-3, 1e3, 601)
    asked = experiment(small_model)
    prompts = np.ones(len(PROMPTS))
    curve = np.concatenate([[-1.0], -(sizes / (1 + sizes))[::-1], [0.0], sizes / (1 + sizes), [1.0]])
    hurt = np.concatenate([[100.0], 0.1 * sizes[::-1], [0.0], 0.1 * sizes, [100.0]])
    values = np.zeros((1, len(CURVES), len(curve), len(prompts)))
    values[0, CURVES.index("effect")] = curve[:, None] * prompts
    values[0, CURVES.index("damage")] = hurt[:, None] * prompts
    grid = (-inf, *(-sizes[::-1]).tolist(), 0.0, *sizes.tolist(), inf)
    found = Response(grid, values, {})
    import steerscope.analysis.breakdown.regimes as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "slope", lambda _: prompts)
        table, missing = regimes(asked, found, 0.1, 0.95)
    assert not missing and (table["reached"] == 1).all()
    row = one(table, "regime", "sign")
    for sign in (1, -1):
        assert row("linear", sign)["coefficient"] == pytest.approx(1 / 9, rel=0.01)
        assert row("half", sign)["coefficient"] == pytest.approx(1.0, rel=0.01)
        assert row("safe", sign)["coefficient"] == pytest.approx(10 * log(1.1), rel=0.01)
        assert row("fluency", sign)["coefficient"] == pytest.approx(10 * log(1.01), rel=0.01)
    assert broken(found, 0.1, 1) == pytest.approx(500, rel=0.02)
    assert broken(Response(grid, 0 * values, {}), 0.1, 1) is None


def test_the_slope_is_that_of_small_coefficients(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    effects = of_runs(asked, [at(asked, c) for c in (0.01, -0.01)])[0]
    np.testing.assert_allclose(slope(asked), (effects[0] - effects[1]) / 0.02, rtol=2e-2, atol=1e-4)


@torch.no_grad()
def test_norms_alone_predict_where_the_stream_has_turned_halfway(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    table = predictions(asked, 0.95)
    own = one(table, "layer", "norm")(1, "attention")
    vector = asked.injections[0].vector.values
    ratios = [
        float((plain_pass(small_model, ids)["resid_pre", 1][[1, 2]].norm(dim=1) / vector.norm(dim=1)).mean())
        for ids in PROMPTS
    ]
    assert own["predicted"] == pytest.approx(np.mean(ratios), rel=1e-5)


@pytest.mark.parametrize(
    ("dtype", "huge"), [("float16", 1e6), ("bfloat16", 1e25), ("float32", 1e25), ("float32", 1e38)]
)
def test_overflows_are_named_and_left_out(tiny_folder: Path, dtype: str, huge: float) -> None:
    model = load(tiny_folder, name="half", dtype=dtype, selfcheck=False)
    asked = Experiment(
        model,
        (Injection(prompt_pair(model, " wedding", " ship", 0), 1.0),),
        make_prompts(model, ["One day Lily saw a dragon"]),
        references=0,
    )
    found = response(asked, [1.0, huge, 2 * huge])
    assert f"{dtype} overflows" in found.missing["overflow"] and f"{huge:.3g}" in found.missing["overflow"]
    table = response_table(found, 0.95, 0)
    assert 1.0 in set(table["coefficient"]) and not {huge, 2 * huge} & set(table["coefficient"])
    assert table["value"].notna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": 0.0}, "loss=0.0"),
        ({"coefficients": [1.0, float("nan")]}, "finite"),
        ({"broken_at": 0.0}, "broken_at=0.0"),
    ],
)
def test_arguments_out_of_range_are_refused(small_model: Model, options: "dict[str, float]", message: str) -> None:
    given = {"coefficients": [1.0, 30.0]} | options
    with pytest.raises(BadArgument, match=message):
        breakdown(experiment(small_model), **given)  # type: ignore[arg-type]


def test_injections_without_one_place_in_the_stream_are_refused(small_model: Model) -> None:
    values = torch.ones(1, small_model.d_head)
    inside = Injection(SteeringVector(values, Site("z", 0, 1), {"recipe": "given"}), 1.0, positions=(1,))
    asked = Experiment(small_model, (inside,), make_prompts(small_model, PROMPTS), kl(), references=0)
    with pytest.raises(BadInjection, match="L0H1.z"):
        breakdown(asked)
    with pytest.raises(BadInjection, match="coefficient 0"):
        at(experiment(small_model), 1.0) and at(
            replace(
                experiment(small_model), injections=(replace(experiment(small_model).injections[0], coefficient=0.0),)
            ),
            1.0,
        )


def test_texts_and_lenses_may_be_named(tiny: Model, stories: list[str], tmp_path: Path) -> None:
    file = tmp_path / "topic.txt"
    file.write_text("\n".join(stories[5:7]), encoding="utf-8")
    named, given = _texts(tiny, str(file)), _texts(tiny, stories[5:7])
    assert named and given and named.ids == given.ids and named.source == str(file) and _texts(tiny, None) is None
    with pytest.raises(BadPrompt, match="no prompts file"):
        breakdown(experiment(tiny), on_topic=str(tmp_path / "nowhere.txt"))
    with pytest.raises(BadLens, match="holds no lens"):
        breakdown(experiment(tiny), lens=str(tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def result(tiny: Model, stories: list[str]) -> Result:
    asked = Experiment(
        tiny,
        (Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0),),
        make_prompts(tiny, stories[:5]),
        references=2,
    )
    return breakdown(asked, coefficients=[-100, -1, 0, 0.1, 1, 3, 10, 100, 1e4], on_topic=stories[5:7])


def test_all_tables_have_the_columns_that_are_described(result: Result) -> None:
    assert {name: list(frame.columns) for name, frame in result.frames.items()} == {
        name: list(columns) for name, columns in COLUMNS.items()
    }
    assert all(c["passed"] for c in result.manifest["checks"]), result.manifest["checks"]
    assert "damage_on_topic" in set(result.frames["response"]["outcome"])


def test_the_phase_diagram_holds_the_injection_as_it_is(tiny: Model, stories: list[str]) -> None:
    asked = Experiment(
        tiny,
        (Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0),),
        make_prompts(tiny, stories[:3]),
        references=0,
    )
    row = one(phase(asked, [3.0]), "layer", "place")(1, "front")
    assert row["kl"] == pytest.approx(of_runs(asked, [asked.edits(0)])[1].mean(), abs=1e-6)
    assert {"front", "middle", "back", "last"} == set(phase(asked, [3.0])["place"])
