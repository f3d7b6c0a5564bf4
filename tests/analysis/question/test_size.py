"""How large and how small an injection may be: up to the bound, what is measured is what double precision measures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerscope.analysis.engine.backward import backward
from steerscope.analysis.engine.edits import Variant, added
from steerscope.analysis.errors import BadInjection
from steerscope.analysis.loading.loading import load as load_folder
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.generation import generate
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import own_direction
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.question.size import bounds, largest
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.loader import load

TEXTS = ["Once upon a time there was a little girl", "One day Tom went to the park and saw a"]
IDS = [[3, 5, 7, 9, 11, 13, 2, 4], [1, 2, 3, 4, 5, 6, 7, 8]]
DTYPES = ("float64", "float32", "bfloat16", "float16")


def gaussian(model: Model, rows: int = 1, site: str = "resid_pre") -> SteeringVector:
    generator = torch.Generator().manual_seed(1)
    return SteeringVector(torch.randn(rows, model.d_model, generator=generator), Site(site, 0))


def ask(model: Model, injections: Any, prompts: Any, *rest: Any, **options: Any) -> Experiment:
    """The door takes one injection, and texts."""
    return Experiment(model, injections, prompts, *rest, **options)


def most(model: Model, vector: SteeringVector) -> float:
    return largest(model, [Injection(vector)])


def gradient(asked: Experiment) -> torch.Tensor:
    """Of the effect, at the stream after the first layer."""
    found: dict[tuple[str, int], torch.Tensor] = {}

    def collect(indices: list[int], site: str, layer: int, x: torch.Tensor, own: torch.Tensor) -> None:
        found[site, layer] = own.double()

    groups = [[Variant(p, own)] for p, own in enumerate(asked.edits(0))]
    positions = asked.scored_positions.positions
    backward(
        asked.model, asked.prompts.full, groups, positions, asked.along, [("resid_pre", 1)], collect, reads=asked.reads
    )
    return found["resid_pre", 1]


@pytest.fixture(scope="module")
def trained() -> dict[str, Model]:
    return {dtype: load("tinystories-2l", dtype=dtype, selfcheck=False) for dtype in DTYPES}


def test_up_to_the_bound_single_precision_measures_what_double_does(trained: dict[str, Model]) -> None:
    double, single = trained["float64"], trained["float32"]
    vector = prompt_pair(double, " wedding", " ship", 0)
    bound = most(single, vector)
    assert 1e14 < bound < 1e18  # the squares overflow at 5e18
    for coefficient in (*np.geomspace(1, bound, 9), -bound):
        exact, found = (
            ask(model, (Injection(vector, coefficient),), TEXTS, references=1) for model in (double, single)
        )
        for read in (Experiment.effect, Experiment.disturbed):
            assert read(found) == pytest.approx(read(exact), rel=1e-4)
        assert found.own_effect(1) == pytest.approx(exact.own_effect(1), rel=1e-4)
        one, other = gradient(exact), gradient(found)
        assert (one - other).norm() < 1e-4 * one.norm()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_up_to_the_bound_halves_measure_it_as_well_as_they_can(dtype: str, trained: dict[str, Model]) -> None:
    vector = prompt_pair(trained["float64"], " wedding", " ship", 0)
    bound = most(trained[dtype], vector)
    for coefficient in np.geomspace(1, bound, 5):
        exact, found = (
            ask(trained[name], (Injection(vector, coefficient),), TEXTS, references=0).effect()
            for name in ("float64", dtype)
        )
        assert found == pytest.approx(exact, rel=2e-2)
    with pytest.raises(BadInjection, match=rf"hold \({dtype}\); expected .* at most .*; .*dtype='float32'"):
        Injection(vector, 1.001 * bound).check(trained[dtype])


def test_no_architecture_overflows_below_the_bound_in_single_or_half_precision(
    every_architecture: Model, small_models: Any
) -> None:
    name = every_architecture.name
    models = [every_architecture]
    if not name.startswith("native"):
        models += [load_folder(small_models.folder(name), dtype="float16", selfcheck=False)]
    for model in models:
        vector = gaussian(model)
        finite = [
            ask(model, (Injection(vector, c, positions="1"),), IDS, own_direction(), references=1)
            for c in (0.1 * most(model, vector), most(model, vector))
        ]
        for vector_number in (0, 1):
            one, other = (asked.own_effect(vector_number) for asked in finite)
            assert np.isfinite([one, other]).all() and (other > 0).all()
            if model.norm.lower() != "none":
                assert other == pytest.approx(one, rel=2e-2)  # far beyond the stream, nothing changes any more


@pytest.mark.parametrize("coefficient", [1e19, -1e19, 1e30, 1e308, 10**300])
def test_a_coefficient_beyond_is_refused_before_a_run_and_the_largest_is_told(coefficient: float, tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    told = "expected a coefficient of at most (.*); choose a smaller one$"
    with pytest.raises(BadInjection, match=told) as caught:
        Injection(vector, coefficient).check(tiny)
    Injection(vector, float(str(caught.value).split(" at most ")[1].split(";")[0])).check(tiny)
    with pytest.raises(BadInjection, match=told):
        ask(tiny, Injection(vector, coefficient), TEXTS)
    with pytest.raises(BadInjection, match=told):
        generate(tiny, TEXTS[0], Injection(vector, coefficient))


def test_bounds_are_tight_and_those_of_the_dtype() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        entry, norm = bounds(dtype)
        assert 4 * entry == min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
        squares = torch.float64 if dtype == torch.float64 else torch.float32
        assert torch.isfinite(torch.tensor((1000 * norm) ** 2, dtype=squares))
        assert not torch.isfinite(torch.tensor(1025 * norm, dtype=squares).square())


def test_injections_count_together(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    half = Injection(vector, 0.6 * most(tiny, vector))
    half.check(tiny)
    with pytest.raises(BadInjection, match="at most"):
        ask(tiny, (half, half), TEXTS)
    with pytest.raises(BadInjection, match="at most"):
        generate(tiny, TEXTS[0], [half, half])
    both = ask(tiny, (half, Injection(vector, 0.3 * most(tiny, vector))), TEXTS, references=2)
    for number in both.vectors:
        norms = [
            added(own, len(ids), 32).norm(dim=-1).max()
            for own, ids in zip(both.edits(number), both.prompts.ids, strict=True)
        ]
        assert max(norms) < bounds(torch.float32)[1] and np.isfinite(both.own_effect(number)).all()


def test_a_vector_of_huge_or_tiny_values_is_the_same_vector_at_another_coefficient(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    plain = ask(tiny, Injection(vector, 3.0), TEXTS, references=1)
    for size in (2.0**100, 2.0**-100):
        scaled = SteeringVector(vector.values * size, vector.site)
        asked = ask(tiny, Injection(scaled, 3.0 / size), TEXTS, references=1)
        assert asked.effect() == pytest.approx(plain.effect(), rel=1e-5)
        assert asked.own_effect(1) == pytest.approx(plain.own_effect(1), rel=1e-5)
    with pytest.raises(BadInjection, match="times a vector of norm .*e.31 is more than .*at most"):
        Injection(2.0**100 * vector).check(tiny)


def test_what_is_rounded_to_nothing_is_said_to_be(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    for coefficient in (1e-39, 1e-320):
        with pytest.raises(BadInjection, match=r"is rounded to nothing in float32; expected .* at least .*, or 0$"):
            Injection(vector, coefficient).check(tiny)
    for coefficient in (1e-12, -1e-30):
        asked = ask(tiny, Injection(vector, coefficient), TEXTS, references=1)
        with pytest.raises(BadInjection, match="so small that all of it is rounded away in float32; expected"):
            asked.effect()
    assert ask(tiny, Injection(vector, 1e-3), TEXTS, references=1).effect().any()


def test_what_changes_nothing_for_another_reason_is_an_effect_of_0(tiny: Model, planted: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    assert not ask(tiny, Injection(vector, 0.0), TEXTS, references=0).effect().any()
    dead = SteeringVector(torch.ones(1, planted.d_head), Site("z", 1, 0))  # of a head that writes nothing
    assert not ask(planted, Injection(dead, 3.0, positions="1"), TEXTS, references=0).effect().any()


def test_equal_disturbance_is_not_looked_for_beyond_the_bound(tiny: Model, tiny_folder: Path) -> None:
    half = load_folder(tiny_folder, dtype="float16", selfcheck=False)
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    near = ask(half, Injection(vector, 0.5 * most(half, vector)), TEXTS, references=0)
    with pytest.raises(BadInjection, match="no coefficient from 1/1000 to 1000"):
        near.at_kl(near.injections, 1e4)
    asked = ask(tiny, Injection(vector, 0.5), make_prompts(tiny, TEXTS), references=1, matched="kl")
    assert asked.disturbed(1).mean() == pytest.approx(asked.disturbed(0).mean(), rel=0.02)
