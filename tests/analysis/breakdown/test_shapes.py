"""Ways to inject: geometry of each, and comparison at equal effect."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from questions import experiment, one
from reference import plain_pass

from steerscope.analysis.breakdown.outcomes import Asked, of_runs
from steerscope.analysis.breakdown.remedies import CLOSE, reach, remedies_tables, there
from steerscope.analysis.breakdown.shapes import SEVERAL, WAYS, Shapes, angles_table
from steerscope.analysis.breakdown.strength import at
from steerscope.analysis.model.models import Model
from steerscope.analysis.tools.ordinary import ordinary


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(a, b, dim=1)


def test_each_way_does_what_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(4, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    size, unit = x.norm(dim=1), v / v.norm(dim=1, keepdim=True)
    plain = WAYS["addition"](x, v, 2.5)
    torch.testing.assert_close(plain, x + 2.5 * v)
    same = WAYS["same norm"](x, v, 2.5)
    torch.testing.assert_close(same.norm(dim=1), size)
    torch.testing.assert_close(cosine(same, plain), torch.ones(4, dtype=torch.float64))
    long = WAYS["stretch"](x, v, 2.5)
    torch.testing.assert_close(long.norm(dim=1), plain.norm(dim=1))
    torch.testing.assert_close(cosine(long, x), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(WAYS["rotation"](x, v, 0.0), x)
    whole = WAYS["rotation"](x, v, 1.0)
    torch.testing.assert_close(whole, unit * size[:, None])
    half = WAYS["rotation"](x, v, 0.5)
    torch.testing.assert_close(half.norm(dim=1), size)
    torch.testing.assert_close(torch.acos(cosine(half, x)), torch.acos(cosine(x, v)) / 2)
    torch.testing.assert_close(WAYS["rotation"](x, v, -0.5), WAYS["rotation"](x, -v, 0.5))
    clamped = WAYS["clamping"](x, v, 2.5)
    torch.testing.assert_close((clamped * unit).sum(1), 2.5 * v.norm(dim=1))
    torch.testing.assert_close(
        clamped - (clamped * unit).sum(1, keepdim=True) * unit, x - (x * unit).sum(1, keepdim=True) * unit
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj"])
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out"])
def test_the_stream_is_changed_where_the_injection_stands(
    small_models: "dict[str, Model]", name: str, site: str
) -> None:
    model = small_models[name]
    asked = experiment(model, layer=1, site=site)
    vector = asked.injections[0].vector.values.double()
    for p, ids in enumerate(asked.prompts.ids):
        clean, run = (plain_pass(model, ids), plain_pass(model, ids, Shapes(Asked(asked)).edits("same norm", 2.0)[p]))

        def written(seen: "dict[tuple[str, int], torch.Tensor]") -> torch.Tensor:
            names = {"resid_pre": [], "attn_out": ["attn_out"], "mlp_out": ["attn_out", "mlp_out"]}[site]
            return sum((seen[n, 1] for n in names), seen["resid_pre", 1])[[1, 2]].double()

        before, after = written(clean), written(run)
        if site == "mlp_out" or not model.parallel or site == "resid_pre":
            torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), rtol=1e-4, atol=1e-5)
            assert cosine(after, before + 2.0 * vector).min() > 1 - 1e-6


def test_addition_is_the_injection_itself(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    shapes = Shapes(Asked(asked))
    found = of_runs(shapes.asked, lambda one: [shapes.edits("addition", 2.0, one), at(one, 2.0)])
    for curve in ("effect", "kl", "entropy"):
        np.testing.assert_allclose(found[curve][0], found[curve][1], atol=1e-5)
    several = Shapes(Asked(asked)).edits(SEVERAL, 3.0)
    assert [e.site.layer for e in several[0]] == [1, 2]  # three layers in all
    assert all(
        torch.allclose(e.value, 1.5 * asked.injections[0].vector.values)
        for e in several[0]
        if isinstance(e.value, torch.Tensor)
    )


def test_turn_and_stretch_are_measured_in_degrees_and_factors(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    assert Shapes(Asked(asked)).turned("stretch", 5.0)[0] == pytest.approx(0.0, abs=1e-4)
    assert Shapes(Asked(asked)).turned("same norm", 5.0)[1] == pytest.approx(1.0)
    angle, factor = Shapes(Asked(asked)).turned("addition", 5.0)
    assert angle == pytest.approx(Shapes(Asked(asked)).turned("same norm", 5.0)[0]) and factor > 1
    table = angles_table(Shapes(Asked(asked)), [1.0, 5.0], 0.95)
    assert len(table) == 6 and one(table, "way", "coefficient")("addition", 5.0)["angle"] == pytest.approx(angle)


def test_the_same_effect_is_found_between_knobs() -> None:
    effect = np.array([[1.0, 3.0, 2.0], [-1.0, -3.0, -2.0], [1.0, 1.5, 1.9]])
    other = np.array([[10.0, 30.0, 99.0]] * 3)
    np.testing.assert_allclose(there(other, *reach(effect, np.array([2.0, -2.0, 2.0]))), [20.0, 20.0, np.inf])
    np.testing.assert_allclose(there(other[:1], *reach(effect[:1], np.array([0.5]))), [5.0])


@pytest.fixture(scope="module")
def shapes(small_model: Model) -> Shapes:
    asked = experiment(small_model, layer=1)
    text = [[4, 15, 9, 26, 5, 35, 8, 31], [7, 71, 82, 81, 8], [3, 3, 14, 15, 92, 65]]
    return Shapes(Asked(asked, ordinary(asked, text)))


def test_plain_addition_does_its_own_damage_at_its_own_effect(shapes: Shapes) -> None:
    asked = shapes.asked
    _, equal = remedies_tables(shapes, [0.5, 1.0, 2.0], 1.5, 0.95)
    row = one(equal, "remedy")("addition")
    assert row["knob"] == 1.5 and row["reached"] == 1 and row["error"] == pytest.approx(0, abs=1e-9)
    assert row["target"] == pytest.approx(asked.prompts.effect().mean(), abs=1e-6)
    assert row["kl"] == pytest.approx(asked.prompts.disturbed().mean(), rel=1e-4)
    assert asked.text is not None
    assert row["damage"] == pytest.approx(asked.text.effect().mean(), abs=1e-5)
    assert row["gain"] == 0


def test_knobs_are_added_until_the_answer_stands_still(shapes: Shapes) -> None:
    """A coarse grid comes to what a fine one says, within the error that stands beside it."""
    coarse, fine = [0.3, 1.0, 10.0], np.geomspace(0.01, 10, 200).tolist()
    _, equal = remedies_tables(shapes, coarse, 1.5, 0.95)
    found = one(equal, "remedy")
    for way in ("same norm", "clamping"):
        outcomes = shapes.outcomes(way, fine)
        place = reach(outcomes["effect"].mean(axis=-1)[None], np.array([found(way)["target"]]))
        expected = there(outcomes["damage"].mean(axis=-1)[None], *place)[0]
        row = found(way)
        if np.isinf(expected):
            assert np.isnan(row["damage"]) and row["reached"] < 1
        else:
            assert row["damage"] == pytest.approx(expected, abs=2 * CLOSE)


def test_a_gain_is_the_difference_of_damages(shapes: Shapes) -> None:
    _, equal = remedies_tables(shapes, [0.3, 1.0, 10.0], 1.5, 0.95)
    plain = one(equal, "remedy")("addition")["damage"]
    reached = equal[equal["damage"].notna()]
    np.testing.assert_allclose(reached["gain"], plain - reached["damage"], atol=1e-12)
    assert (reached["reached"] > 0).all() and {"addition", "same norm", "rotation", "clamping"} <= set(equal["remedy"])


def test_one_group_of_prompts_has_no_interval_and_no_gain_to_speak_of(shapes: Shapes) -> None:
    alone = replace(shapes.asked.prompts, prompts=shapes.asked.prompts.prompts.first(1))
    _, equal = remedies_tables(Shapes(shapes.asked.with_prompts(alone)), [1.0, 2.0], 1.5, 0.95)
    assert equal[["damage_low", "kl_low", "gain_low", "gain_high", "target_low", "reached"]].isna().all(axis=None)
    assert equal["damage"].notna().any()
