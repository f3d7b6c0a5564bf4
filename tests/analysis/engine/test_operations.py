"""Operations that read the activation: what they promise, whatever the numbers are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from steerscope.analysis.engine.edits import Edit, matched
from steerscope.analysis.engine.operations import DIRECTED, changed
from steerscope.analysis.errors import BadArgument, BrokenInvariant
from steerscope.analysis.model.nodes import Site

SIZES = st.sampled_from([1e-6, 1e-2, 1.0, 30.0, 1e4])


@st.composite
def rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    count, width = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    x, v = torch.randn(2, count, width, generator=generator)
    return draw(SIZES) * x, draw(SIZES) * v


def along(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = (x.double() * v.double()).sum(-1) / v.double().norm(dim=-1)
    return found


@given(rows())
@settings(max_examples=40, deadline=None)
def test_an_ablated_direction_is_gone_and_a_second_time_changes_nothing(given: tuple[torch.Tensor, ...]) -> None:
    x, v = given
    once = changed("stretch", x, v, 0.0)
    assert (along(once, v).abs() <= 1e-5 * x.norm(dim=-1)).all()
    assert_close(changed("stretch", once, v, 0.0), once, atol=float(1e-5 * x.norm()), rtol=0)
    across = x - along(x, v).float()[:, None] * v / v.norm(dim=-1, keepdim=True)
    assert_close(once, across, atol=float(1e-5 * x.norm()), rtol=0)


@given(rows(), st.floats(-180, 180))
@settings(max_examples=40, deadline=None)
def test_a_rotation_and_a_norm_add_keep_norms(given: tuple[torch.Tensor, ...], degrees: float) -> None:
    x, v = given
    for operation, amount in (("rotate", degrees), ("norm_add", 1.0)):
        assert_close(changed(operation, x, v, amount).norm(dim=-1), x.norm(dim=-1), rtol=1e-4, atol=1e-12)


@given(rows(), st.floats(1, 179))
@settings(max_examples=40, deadline=None)
def test_a_rotation_turns_by_its_angle_towards_the_direction(given: tuple[torch.Tensor, ...], degrees: float) -> None:
    x, v = given
    turned = changed("rotate", x, v, degrees)
    cosine = torch.cosine_similarity(x.double(), turned.double())
    assert_close(cosine.clamp(-1, 1).arccos().rad2deg(), torch.full_like(cosine, degrees), rtol=0, atol=0.1)
    back = changed("rotate", turned, v, -degrees)
    between = torch.cosine_similarity(x.double(), v.double()).clamp(-1, 1).arccos().rad2deg()
    same = (between - degrees > 1) & (between < 179)  # beyond the direction, backwards is another way
    assert_close(back[same], x[same], rtol=1e-2, atol=float(1e-2 * x.norm()))


@given(rows(), st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_a_projection_is_set_to_the_amount_times_the_norm(given: tuple[torch.Tensor, ...], amount: float) -> None:
    x, v = given
    wanted, atol = amount * v.double().norm(dim=-1), float(1e-5 * (x.norm() + 5 * v.norm()))
    assert_close(along(changed("project", x, v, amount), v), wanted, rtol=1e-4, atol=atol)
    assert_close(along(changed("clamp", x, v, amount), v), along(x, v).minimum(wanted), rtol=1e-4, atol=atol)


@pytest.mark.parametrize("operation", DIRECTED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_without_a_direction_and_no_share_change_nothing(operation: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[300.0, -2.0, 7.0], [0.0, 0.0, 0.0]], dtype=dtype)
    assert torch.equal(changed(operation, x, torch.zeros(3), 0.5), x)
    assert torch.equal(changed(operation, x, torch.tensor([1.0, 2.0, -3.0]), 30.0, share=0.0), x)
    for value in (torch.tensor([1.0, 2.0, -3.0]), -x[:1].float(), x[:1].float()):
        assert changed(operation, x, value, 0.5).isfinite().all()


@pytest.mark.parametrize("operation", DIRECTED)
def test_gradients_flow_through(operation: str) -> None:
    x, v = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    v.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: changed(operation, a, b, 0.7, 0.6), (x, v))
    nothing = torch.zeros(2, 5, requires_grad=True)
    [gradient] = torch.autograd.grad(changed(operation, nothing, torch.ones(5), 0.7).sum(), nothing)
    assert gradient.isfinite().all()


def test_an_edit_that_reads_goes_a_share_of_its_way_and_matching_leaves_it() -> None:
    edit = Edit(Site("resid_pre", 0), "rotate", torch.ones(1, 4), (1,), amount=30.0)
    assert (edit.times(0.5).share, edit.times(0.5).amount) == (0.5, 30.0)
    added = Edit(Site("resid_pre", 0), "add", torch.ones(1, 4), (1,))
    like = Edit(Site("resid_pre", 0), "add", 3 * torch.ones(1, 4), (1,))
    one, other = matched((edit, added), (edit, like), 3)
    assert one is edit
    assert_close(other.value, like.value)


def test_sites_without_directions_and_unknown_operations_are_refused() -> None:
    with pytest.raises(BadArgument, match="expected an activation that has directions"):
        Edit(Site("pattern", 0, 0), "rotate", torch.ones(4))
    with pytest.raises(BrokenInvariant, match="reads no activation"):
        changed("add", torch.ones(1, 2), torch.ones(2), 1.0)
