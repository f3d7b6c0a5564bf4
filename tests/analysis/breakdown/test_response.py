"""Response curves and regimes: against plain passes, and on curves whose crossings are known."""

from dataclasses import replace
from math import inf, log
from pathlib import Path

import numpy as np
import pytest
import torch
from questions import PROMPTS, TARGET, experiment, one
from reference import plain_pass

from steerscope.analysis.breakdown.breakdown import COLUMNS, _asked, _texts, breakdown
from steerscope.analysis.breakdown.outcomes import CURVES, Asked, of_runs, open_interval
from steerscope.analysis.breakdown.phase import phase
from steerscope.analysis.breakdown.regimes import broken, crossing, ends, predictions, regimes, slope
from steerscope.analysis.breakdown.response import Response, default_coefficients, response, response_table
from steerscope.analysis.breakdown.strength import at
from steerscope.analysis.errors import BadArgument, BadInjection, BadLens, BadPrompt
from steerscope.analysis.frozen.freeze_attention import freeze_attention
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import kl
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.ordinary import ordinary
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector

TEXT = [[4, 15, 9, 26, 5, 35, 8, 31], [7, 71, 82, 81, 8], [3, 3, 14, 15, 92, 65]]


def test_the_default_range_is_81_signed_points() -> None:
    found = default_coefficients()
    assert len(found) == 81 and found[40] == 0 and found[-1] == 1e4 == -found[0]
    np.testing.assert_allclose(found, -np.array(found[::-1]))


@torch.no_grad()
def test_every_outcome_equals_one_plain_pass(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    coefficients = [-30.0, 0.5, 1.5, 4.0]  # 1.5 is the given one
    both = Asked(asked, ordinary(asked, TEXT))
    found = response(both, [-30.0, 0.5, 4.0])
    assert found.coefficients == (-inf, *coefficients, inf)

    def runs(one: Experiment, c: float, p: int) -> "list[torch.Tensor]":
        ids, scored = one.prompts.full[p], list(one.scored_positions.positions[p])
        edits = ((), at(one, c)[p])
        return [plain_pass(small_model, ids, e)["logits"][scored].double().log_softmax(-1) for e in edits]

    for place, c in enumerate(found.coefficients):
        for p in range(len(PROMPTS)):
            clean, own = runs(asked, c, p)
            expected = {
                "effect": (own - clean)[:, TARGET].mean(),
                "kl": (own.exp() * (own - clean)).sum(-1).mean(),
                "entropy": -(own.exp() * own).sum(-1).mean(),
            }
            for curve, value in expected.items():
                assert found.of(curve)[place, p] == pytest.approx(float(value), abs=5e-5), (c, curve)
        for p, ids in enumerate(TEXT):
            after = [q + 1 for q in both.text.scored_positions.positions[p]] if both.text else []
            losses = [-x[range(len(after)), [ids[q] for q in after]].mean() for x in runs(both.text or asked, c, p)]
            assert found.of("loss")[place, p] == pytest.approx(float(losses[1]), abs=5e-5)
            assert found.of("damage")[place, p] == pytest.approx(float(losses[1] - losses[0]), abs=5e-5)


def test_the_curve_comes_to_its_limit_in_both_directions(every_architecture: Model) -> None:
    if every_architecture.norm == "none":
        pytest.skip("has no norm, so no limit")
    asked = experiment(every_architecture, layer=1)
    found = response(Asked(asked, ordinary(asked, TEXT)), [-1e6, 1e6])
    for curve in CURVES:
        values = found.of(curve)
        np.testing.assert_allclose(values[1], values[0], atol=2e-3)
        np.testing.assert_allclose(values[3], values[4], atol=2e-3)


def test_where_there_is_no_limit_it_is_named(small_models: "dict[str, Model]") -> None:
    found = response(Asked(experiment(small_models["native_without_norm"])), [1.0, 10.0])
    assert found.coefficients == (1.0, 1.5, 10.0) and "no norm" in found.missing["limit"]
    assert found.limit("effect", 1) is None


def test_references_are_other_vectors_of_the_same_norm(small_model: Model) -> None:
    asked = experiment(small_model, layer=1, references=2)
    both = Asked(asked)
    found = response(both, [2.0])
    at_two = found.coefficients.index(2.0)
    for vector in (1, 2):
        moved = tuple(replace(i, coefficient=2.0) for i in asked.steering[vector])
        own = replace(asked, injections=moved, references=0)
        expected = of_runs(both, lambda _, own=own: [own.edits(0)])  # type: ignore[misc]
        for curve in ("effect", "kl", "entropy"):
            np.testing.assert_allclose(found.of(curve, vector)[at_two], expected[curve][0], atol=1e-6)
    row = one(response_table(both, found, 0.95), "outcome", "coefficient")("kl", 2.0)
    assert row["reference"] == pytest.approx(found.values["kl"][1:, at_two].mean())


def test_crossings_lie_where_straight_lines_in_the_logarithm_cross() -> None:
    sizes = np.array([0.1, 1.0, 10.0])
    gap = np.array([[-1.0, 1.0, 2.0], [-1.0, -1.0, -0.5], [0.5, 1.0, 1.0], [-3.0, -1.0, 1.0]])
    np.testing.assert_allclose(crossing(sizes, gap), [10**-0.5, np.inf, 0.0, 10**0.5])
    assert np.isnan(crossing(sizes, np.array([[-1.0, np.nan, 1.0]]))).all()


def test_resamples_that_never_cross_count_as_beyond() -> None:
    """The interval is that of the places in order, with those that were not seen at its ends."""
    places = np.array([1.0, *np.linspace(1, 2, 989), *[np.inf] * 11])
    low, high = ends(places, 0.95, 10_000)
    assert 1 <= low < 1.1 and 1.9 < high < 2
    assert ends(np.append(places, [np.inf] * 20), 0.95, 10_000)[1] == np.inf
    low, high = ends(np.append(places, [0.0] * 40), 0.95, 10_000)
    assert low == 0 and 1.9 < high < 2
    assert ends(np.array([np.inf] * 50), 0.95, 10_000) == (np.inf, np.inf)
    assert np.isnan(ends(np.array([1.0, *[np.nan] * 50]), 0.95, 1)).all()
    few = ends(np.array([1.0, *np.linspace(1, 2, 999)]), 0.95, 3)
    assert few[0] < 1.01 and few[1] > 1.99  # three groups: as wide as there is


def test_an_open_interval_has_the_ends_of_the_closed_one_where_it_is_closed() -> None:
    values = np.linspace(-1, 3, 1000)
    np.testing.assert_allclose(open_interval(values, 0.9, 10**6), np.percentile(values[1:], [5, 95]), rtol=1e-4)
    assert open_interval(np.append(values, [-np.inf] * 100), 0.9, 10**6)[0] == -np.inf


def test_regimes_of_a_known_curve(small_model: Model) -> None:
    """Effect c / (1 + c) with slope 1: it leaves the line by a tenth at 1/9, half of its limit is at 1; damage 0.1 c"""
    sizes = np.geomspace(1e-3, 1e3, 601)
    asked = experiment(small_model)
    prompts = np.ones(len(PROMPTS))
    curve = np.concatenate([[-1.0], -(sizes / (1 + sizes))[::-1], [0.0], sizes / (1 + sizes), [1.0]])
    hurt = np.concatenate([[100.0], 0.1 * sizes[::-1], [0.0], 0.1 * sizes, [100.0]])
    values = {name: np.zeros((1, len(curve), len(prompts))) for name in CURVES}
    values["effect"][0] = curve[:, None] * prompts
    values["damage"][0] = hurt[:, None] * prompts
    grid = (-inf, *(-sizes[::-1]).tolist(), 0.0, *sizes.tolist(), inf)
    found = Response(grid, values, {})
    import steerscope.analysis.breakdown.regimes as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "slope", lambda _: prompts)
        table, missing = regimes(Asked(asked, asked), found, 0.1, 0.95)
        upper = [i for i, c in enumerate(grid) if c >= 2 or c == -inf]
        cut = Response(tuple(grid[i] for i in upper), {n: v[:, upper] for n, v in values.items()}, {})
        outside, _ = regimes(Asked(asked, asked), cut, 1e5, 0.95)
    assert not missing and (table["reached"] == 1).all() and (table["where"] == "within").all()
    side = one(outside, "regime", "sign")
    for name, where in (("linear", "below"), ("half", "below"), ("fluency", "below"), ("safe", "within")):
        cell = side(name, 1)
        assert cell["where"] == cell["low_where"] == cell["high_where"] == where
        assert np.isnan(cell["coefficient"]) == (where != "within") == np.isnan(cell["low"])
        assert cell["smallest"] == pytest.approx(2, rel=0.03) and cell["largest"] == pytest.approx(1e3)
    row = one(table, "regime", "sign")
    for sign in (1, -1):
        assert row("linear", sign)["coefficient"] == pytest.approx(1 / 9, rel=0.01)
        assert row("half", sign)["coefficient"] == pytest.approx(1.0, rel=0.01)
        assert row("safe", sign)["coefficient"] == pytest.approx(10 * log(1.1), rel=0.01)
        assert row("fluency", sign)["coefficient"] == pytest.approx(10 * log(1.01), rel=0.01)
    assert broken(found, 0.1, 1) == pytest.approx(500, rel=0.02)
    assert broken(Response(grid, {name: 0 * own for name, own in values.items()}, {}), 0.1, 1) is None


def test_a_threshold_outside_of_what_was_tried_has_a_side_and_no_number(small_model: Model) -> None:
    sizes, prompts = np.array([1.0, 2.0, 4.0]), np.ones(len(PROMPTS))
    asked = experiment(small_model, metric=kl())
    for height, where, reached in ((1.0, "below", 1.0), (1e-6, "beyond", 0.0)):
        values = {name: np.zeros((1, 3, len(prompts))) for name in CURVES}
        values["damage"][0] = height * np.arange(1, 4)[:, None] * prompts
        table, _ = regimes(Asked(asked, asked), Response(tuple(sizes), values, {}), 0.1, 0.95)
        row = one(table, "regime", "sign")("safe", 1)
        assert row["where"] == row["low_where"] == row["high_where"] == where and row["reached"] == reached
        assert np.isnan([row["coefficient"], row["low"], row["high"]]).all()


def test_the_slope_is_that_of_small_coefficients(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    effects = of_runs(Asked(asked), lambda one: [at(one, c) for c in (0.01, -0.01)])["effect"]
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
    both = Asked(asked, ordinary(asked))
    found = response(both, [1.0, huge, 2 * huge])
    assert f"{dtype} overflows" in found.missing["overflow"] and f"{huge:.3g}" in found.missing["overflow"]
    table = response_table(both, found, 0.95)
    assert 1.0 in set(table["coefficient"]) and not {huge, 2 * huge} & set(table["coefficient"])
    assert table["value"].notna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": 0.0}, "loss=0.0"),
        ({"coefficients": [1.0, float("nan")]}, "finite"),
        ({"coefficients": []}, "0 coefficients; expected 1 to 500"),
        ({"coefficients": range(501)}, "501 coefficients; expected 1 to 500"),
        ({"broken_at": 0.0}, "broken_at=0"),
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
    with pytest.raises(BadPrompt, match="nowhere.txt"):
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


def test_damage_is_the_same_number_as_of_frozen_attention(tiny: Model, stories: list[str], result: Result) -> None:
    asked = Experiment(
        tiny, (Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0),), make_prompts(tiny, stories), references=0
    )
    other = freeze_attention(asked, by=("all",))
    total = other.frames["attention"].query("outcome == 'damage'").iloc[0]
    here = one(result.frames["response"], "outcome", "coefficient")("damage", 3.0)
    assert here["value"] == pytest.approx(total["total"], abs=1e-6)
    assert [here["low"], here["high"]] == pytest.approx([total["total_low"], total["total_high"]], abs=1e-6)
    about = dict(result.manifest["text"])
    assert about.pop("clean_loss") > 0 and about == other.manifest["text"]


def test_a_text_of_ones_own_is_measured_and_named(tiny: Model, stories: list[str]) -> None:
    asked = Experiment(
        tiny, (Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0),), make_prompts(tiny, stories), references=0
    )
    both, missing = _asked(asked, stories[:2])
    assert not missing and both.text is not None and len(both.text.prompts) == 2
    found = response(both, [1.0])
    np.testing.assert_allclose(found.at("damage", 3.0), ordinary(asked, stories[:2]).effect(), atol=1e-5)


def test_without_a_text_the_reason_stands_in_the_place_of_damage(small_model: Model) -> None:
    found = breakdown(experiment(small_model), coefficients=[-1.0, 1.0, 30.0])
    assert "no text to measure it on" in found.manifest["missing"]["damage"]
    assert set(found.frames["response"]["outcome"]) == {"effect", "kl", "entropy"}
    assert set(found.frames["regimes"]["regime"]) == {"linear", "half"} and found.frames["causes"].empty
    assert found.summary()[0].startswith("Damage was not measured: no text to measure it on")


def test_the_phase_diagram_holds_the_injection_as_it_is(tiny: Model, stories: list[str]) -> None:
    asked = Experiment(
        tiny,
        (Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0),),
        make_prompts(tiny, stories[:3]),
        references=0,
    )
    row = one(phase(asked, [3.0]), "layer", "place")(1, "front")
    expected = of_runs(Asked(asked), lambda one: [one.edits(0)])["kl"]
    assert row["kl"] == pytest.approx(expected.mean(), abs=1e-6)
    assert {"front", "middle", "back", "last"} == set(phase(asked, [3.0])["place"])
