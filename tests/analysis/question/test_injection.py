import math

import pytest
import torch

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadInjection, BadNode
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.model.positions import Layout
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection, compose
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector


def logits(model: Model, ids: list[int], injections: list[Injection]) -> torch.Tensor:
    variants = [Variant(0, compose(injections, Layout(len(ids), True)))]
    [(_, readout)] = list(run(model, [ids], variants, [range(len(ids))]))
    assert readout.logits is not None
    return readout.logits


def test_an_injection_at_the_front_is_the_published_activation_addition(tiny: Model) -> None:
    """The published hook adds `coefficient * (plus - minus)` to the first positions of `resid_pre`."""
    ids = tiny.tokens("One day Lily saw a dragon")
    vector = prompt_pair(tiny, " wedding", " ship", 1)

    def published(x: torch.Tensor, hook: object) -> torch.Tensor:
        x = x.clone()
        x[:, : vector.rows] += 3.0 * vector.values
        return x

    expected = tiny.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=[("blocks.1.hook_resid_pre", published)])[0]
    torch.testing.assert_close(logits(tiny, ids, [Injection(vector, 3.0)]), expected, atol=2e-5, rtol=0)


def test_coefficient_zero_gives_bit_identical_logits(tiny: Model) -> None:
    ids = tiny.tokens("One day Lily saw a dragon")
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    assert torch.equal(logits(tiny, ids, [Injection(vector, 0.0)]), logits(tiny, ids, []))


def test_injections_compose_by_addition(tiny: Model) -> None:
    ids = tiny.tokens("One day Lily saw a dragon")
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    twice = logits(tiny, ids, [Injection(vector, 1.0), Injection(vector, 2.0)])
    torch.testing.assert_close(twice, logits(tiny, ids, [Injection(vector, 3.0)]), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("positions", "changed"), [("front", 1), ("last", -1), ("4", 4), ("back", -2)])
def test_nothing_before_the_first_injected_position_changes(positions: str, changed: int, tiny: Model) -> None:
    ids = tiny.tokens("One day Lily saw a dragon near the ship")
    vector = prompt_pair(tiny, " wedding", " ship", 0)
    place = positions if positions == "front" else positions
    injected = Injection(vector.body if positions == "back" else vector, 5.0, positions=place)
    moved = (logits(tiny, ids, [injected]) - logits(tiny, ids, [])).abs().amax(-1) > 1e-4
    first = min(injected.edit(Layout(len(ids), True)).positions or ())
    assert not moved[: max(first, 1)].any()
    assert moved[changed if positions != "back" else -1]


def test_last_and_indices_leave_the_row_for_bos_out(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 0)
    edit = Injection(vector.row(-1), 2.0, positions="last").edit(Layout(9, True))
    assert edit.positions == (8,)
    assert torch.equal(edit.value, 2.0 * vector.values[-1:])  # type: ignore[arg-type]


@pytest.mark.parametrize("kinds", ["isotropic:1", "concepts:1", "covariance:1"])
def test_a_reference_keeps_everything_but_the_direction(kinds: str, tiny: Model) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 4.0, layer=1, positions="back")
    asked = Experiment(tiny, (injection,), make_prompts(tiny, ["One day Lily saw a dragon"]), references=kinds)
    _, (reference,) = asked.steering
    assert (reference.coefficient, reference.site, reference.place) == (4.0, Site("resid_pre", 1), injection.place)
    torch.testing.assert_close(reference.vector.norms, injection.vector.norms)
    assert torch.cosine_similarity(reference.vector.values[1], injection.vector.values[1], dim=0) < 0.95


@pytest.mark.parametrize("coefficient", [math.nan, math.inf, -math.inf])
def test_a_coefficient_that_is_no_number_is_refused(coefficient: float) -> None:
    with pytest.raises(BadInjection, match="expected a finite number"):
        Injection(SteeringVector(torch.ones(4), Site("resid_pre", 0)), coefficient)


def test_rows_that_do_not_fit_positions_are_refused() -> None:
    vector = SteeringVector(torch.ones(3, 4), Site("resid_pre", 0))
    with pytest.raises(BadInjection, match=r"3 rows and positions last take one.*vector.row\(-1\)"):
        Injection(vector, positions="last")
    with pytest.raises(BadInjection, match="3 rows for 2 positions"):
        Injection(vector, positions="1,2")


def test_an_injection_that_does_not_fit_the_model_is_refused(tiny: Model) -> None:
    with pytest.raises(BadInjection, match="width 5, tiny has 32"):
        Injection(SteeringVector(torch.ones(5), Site("resid_pre", 0))).check(tiny)
    with pytest.raises(BadNode, match="layers 0 to 1"):
        Injection(SteeringVector(torch.ones(32), Site("resid_pre", 0)), layer=9).check(tiny)
