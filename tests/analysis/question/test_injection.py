import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadInjection, BadNode, BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.model.positions import Layout
from steerscope.analysis.question.bundles import bundle, everywhere, rotation
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection, compose
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.bundle import VectorBundle
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


def test_every_operation_does_what_its_formula_says(tiny: Model) -> None:
    """By the formulas of the docstring, on one plain hook."""
    ids = tiny.tokens("One day Lily saw a dragon near the ship")
    vector = prompt_pair(tiny, " wedding", " ship", 1).row(-1)
    v = vector.values[0].double()
    r = v / v.norm()

    def by(change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        def hook(x: torch.Tensor, hook: object) -> torch.Tensor:
            return torch.cat([x[:, :1], torch.stack([change(row.double()).float() for row in x[0, 1:]])[None]], dim=1)

        hooks = [("blocks.1.hook_resid_pre", hook)]
        found: torch.Tensor = tiny.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0]
        return found

    formulas: dict[tuple[Any, float], Callable[[torch.Tensor], torch.Tensor]] = {
        ("add", 2.0): lambda x: x + 2 * v,
        ("norm_add", 2.0): lambda x: (x + 2 * v) * x.norm() / (x + 2 * v).norm(),
        ("set", 2.0): lambda x: x - (x @ r) * r + 2 * v,
        ("clamp", 0.1): lambda x: x - (x @ r) * r + (x @ r).clamp_max(0.1 * v.norm()) * r,
        ("scale", -3.0): lambda x: x - (x @ r) * r - 3 * (x @ r) * r,
        ("ablate", 1.0): lambda x: x - (x @ r) * r,
        ("ablate", 0.25): lambda x: x - 0.25 * (x @ r) * r,
    }
    for (operation, coefficient), formula in formulas.items():
        one = Injection(vector, coefficient, positions="all", operation=operation)
        torch.testing.assert_close(logits(tiny, ids, [one]), by(formula), atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("operation", "coefficient"), [("ablate", 3.0), ("ablate", -0.1), ("rotate", 200.0), ("scale", 1e9)]
)
def test_coefficients_that_an_operation_does_not_have_are_refused(
    operation: Any, coefficient: float, tiny: Model
) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1).row(-1)
    with pytest.raises(BadInjection, match="choose another"):
        Injection(vector, coefficient, operation=operation)


def test_a_direction_ablated_everywhere_is_in_no_stream(tiny: Model) -> None:
    ids = tiny.tokens("One day Lily saw a dragon near the ship")
    vector = prompt_pair(tiny, " wedding", " ship", 1).row(-1)
    r = vector.values[0] / vector.values[0].norm()
    several = everywhere(tiny, vector)
    assert len(several) == 3 * tiny.n_layers
    sites = [("resid_post", layer) for layer in range(tiny.n_layers)]
    [(_, readout)] = list(run(tiny, [ids], [Variant(0, compose(several, tiny.layout(ids)))], reads="none", sites=sites))
    for x in readout.activations.values():
        assert ((x[0, 1:] @ r).abs() < 1e-5 * x[0, 1:].norm(dim=-1)).all()
        assert (x[0, 0] @ r).abs() > 1e-3  # BOS is left out


def test_a_bundle_is_one_injection_a_layer(tiny: Model) -> None:
    vectors = {1: prompt_pair(tiny, " wedding", " ship", 0).row(-1), 0: prompt_pair(tiny, " dog", " cat", 0).row(-1)}
    made = bundle(vectors, 0.5, operation="norm_add", during="both")
    assert [(i.site, i.vector.label) for i in made] == [
        (Site("resid_pre", layer), vectors[layer].label) for layer in (0, 1)
    ]
    assert {(i.coefficient, i.operation, i.during, str(i.place)) for i in made} == {(0.5, "norm_add", "both", "all")}
    with pytest.raises(BadVector, match="expected one vector or more"):
        bundle({})
    with pytest.raises(BadVector, match="all of the same site and width"):
        bundle({0: vectors[0], 1: SteeringVector(torch.ones(3), Site("resid_pre", 0))})
    with pytest.raises(BadVector, match="no vector at layer 3"):
        VectorBundle(vectors).at([0, 3])
    assert list(VectorBundle(vectors).at([1])) == [1]

    heads = [prompt_pair(tiny, " wedding", " ship", 1, site="z", head=head).row(-1) for head in (1, 0)]
    listed = bundle(heads, 2.0)
    assert [(i.site, i.coefficient) for i in listed] == [(v.site, 2.0) for v in heads]
    with pytest.raises(BadInjection, match="at least one"):
        bundle([])


@torch.no_grad()
@pytest.mark.parametrize("degrees", [30.0, 90.0, -170.0, 180.0, 0.0])
def test_a_rotation_in_a_fixed_plane_is_its_matrix(degrees: float, tiny: Model) -> None:
    ids = tiny.tokens("One day Lily saw a dragon")
    one, other = (prompt_pair(tiny, word, " ship", 1).row(-1) for word in (" wedding", " cake"))
    b1 = one.values[0].double() / one.values[0].double().norm()
    across = other.values[0].double() - (other.values[0].double() @ b1) * b1
    plane, angle = torch.stack([b1, across / across.norm()], dim=1), math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    matrix = torch.eye(tiny.d_model, dtype=torch.float64) + plane @ (turn - torch.eye(2)) @ plane.T
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(tiny.d_model, dtype=torch.float64))

    def plain(x: torch.Tensor, hook: object) -> torch.Tensor:
        x = x.clone()
        x[0, 1:] = (x[0, 1:].double() @ matrix.T).to(x)
        return x

    expected = tiny.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=[("blocks.1.hook_resid_pre", plain)])[0]
    found = logits(tiny, ids, list(rotation(one, 3.0 * other, degrees)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert degrees == 0 or (found - logits(tiny, ids, [])).abs().max() > 1e-2


def test_a_rotation_needs_a_plane(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    with pytest.raises(BadInjection, match="not parallel"):
        rotation(vector.row(-1), -2.0 * vector.row(-1), 30.0)
    with pytest.raises(BadInjection, match="one row each, at one site"):
        rotation(vector, vector, 30.0)


@pytest.mark.parametrize("operation", ["ablate", "set", "clamp", "scale", "rotate", "norm_add"])
def test_references_are_put_in_by_the_same_operation(operation: Any, tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1).row(-1)
    injection = Injection(vector, 0.5, positions="all", operation=operation)
    asked = Experiment(tiny, (injection,), make_prompts(tiny, ["One day Lily saw a dragon"]), references=2)
    for own in asked.steering[1:]:
        assert (own[0].operation, own[0].coefficient, own[0].place) == (operation, 0.5, injection.place)
        torch.testing.assert_close(own[0].vector.norms, vector.norms)
    if operation == "norm_add":
        return
    with pytest.raises(BadInjection, match="no strength that can be scaled"):
        Experiment(tiny, (injection,), make_prompts(tiny, ["One day Lily saw a dragon"]), references=2, matched="kl")


def test_what_operations_change_gives_their_run_again(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1).row(-1)
    several = (
        Injection(vector, 40.0, 0, "all", "rotate"),
        Injection(vector, 2.0, 1, "last", "add"),
        Injection(vector, 1.0, 1, "all", "ablate"),
    )
    asked = Experiment(
        tiny, several, make_prompts(tiny, ["One day Lily saw a dragon", "Tom had a red ball"]), references=1
    )
    for number in (0, 1):
        made = asked.held.edits(number)
        assert {edit.operation for own in made for edit in own} == {"add"}
        found = asked.outputs(made).logits
        torch.testing.assert_close(found, asked.outputs_of(number).logits, atol=1e-4, rtol=1e-4)
    added = Injection(vector, 2.0, positions="last")
    alone = Experiment(tiny, (added,), make_prompts(tiny, ["One day Lily saw a dragon"]), references=1)
    assert alone.held is alone
    assert asked.held.held is asked.held
    assert asked.held.fewer(0).holds


def test_an_analysis_refuses_what_edits_no_prompt(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    prompts = make_prompts(tiny, ["One day Lily saw a dragon"])
    with pytest.raises(BadInjection, match="edits generated tokens alone"):
        Experiment(tiny, (Injection(vector, 2.0, during="generation"),), prompts)
