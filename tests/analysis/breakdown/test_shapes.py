"""Ways to inject: geometry of each, and comparison at equal effect."""

import numpy as np
import pytest
import torch
from questions import experiment, one
from reference import plain_pass

from steerscope.analysis.breakdown.outcomes import of_runs
from steerscope.analysis.breakdown.shapes import SEVERAL, WAYS, Shapes, _reach, angles_table, remedies_tables
from steerscope.analysis.breakdown.strength import at
from steerscope.analysis.model.models import Model


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
        clean, run = (plain_pass(model, ids), plain_pass(model, ids, Shapes(asked).edits("same norm", 2.0)[p]))

        def written(seen: "dict[tuple[str, int], torch.Tensor]") -> torch.Tensor:
            names = {"resid_pre": [], "attn_out": ["attn_out"], "mlp_out": ["attn_out", "mlp_out"]}[site]
            return sum((seen[n, 1] for n in names), seen["resid_pre", 1])[[1, 2]].double()

        before, after = written(clean), written(run)
        if site == "mlp_out" or not model.parallel or site == "resid_pre":
            torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), rtol=1e-4, atol=1e-5)
            assert cosine(after, before + 2.0 * vector).min() > 1 - 1e-6


def test_addition_is_the_injection_itself(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    own, same = of_runs(asked, [Shapes(asked).edits("addition", 2.0), at(asked, 2.0)]).transpose(1, 0, 2)
    np.testing.assert_allclose(own, same, atol=1e-5)
    several = Shapes(asked).edits(SEVERAL, 3.0)
    assert [e.site.layer for e in several[0]] == [1, 2]  # three layers in all
    assert all(
        torch.allclose(e.value, 1.5 * asked.injections[0].vector.values)
        for e in several[0]
        if isinstance(e.value, torch.Tensor)
    )


def test_turn_and_stretch_are_measured_in_degrees_and_factors(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    assert Shapes(asked).turned("stretch", 5.0)[0] == pytest.approx(0.0, abs=1e-4)
    assert Shapes(asked).turned("same norm", 5.0)[1] == pytest.approx(1.0)
    angle, factor = Shapes(asked).turned("addition", 5.0)
    assert angle == pytest.approx(Shapes(asked).turned("same norm", 5.0)[0]) and factor > 1
    table = angles_table(Shapes(asked), [1.0, 5.0], 0.95)
    assert len(table) == 6 and one(table, "way", "coefficient")("addition", 5.0)["angle"] == pytest.approx(angle)


def test_the_same_effect_is_found_between_knobs() -> None:
    effect = np.array([[1.0, 3.0, 2.0], [-1.0, -3.0, -2.0], [1.0, 1.5, 1.9]])
    other = np.array([[10.0, 30.0, 99.0]] * 3)
    np.testing.assert_allclose(_reach(effect, other, np.array([2.0, -2.0, 2.0])), [20.0, 20.0, np.nan])
    np.testing.assert_allclose(_reach(effect[:1], other[:1], np.array([0.5])), [5.0])


def test_plain_addition_does_its_own_damage_at_its_own_effect(small_model: Model) -> None:
    asked = experiment(small_model, layer=1)
    found = of_runs(asked, [asked.edits(0)])
    _, equal = remedies_tables(Shapes(asked), [0.5, 1.0, 1.5, 2.0], found[0, 0], 0.95)
    row = one(equal, "remedy")("addition")
    assert row["kl"] == pytest.approx(found[1].mean(), rel=1e-3)
