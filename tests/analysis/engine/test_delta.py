"""Delta precision against float32: the same numbers where nothing changes, and nearly the same where something does."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_variants import PROMPTS, random_variants
from torch import Tensor, nn
from torch.testing import assert_close

from steerscope.analysis.engine import delta
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout, measure
from steerscope.analysis.engine.sharing import Packing
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site

EVERYWHERE = [range(len(prompt)) for prompt in PROMPTS]


def based(model: Model, seed: int = 0) -> list[Variant]:
    """Variants of all kinds, each with a base: no edits, the beginning of its own, those of another, or none."""
    chance = random.Random(seed)
    found: list[Variant] = []
    for variant in random_variants(model, PROMPTS, 40, seed):
        others = [v.edits for v in found if v.prompt == variant.prompt]
        base = chance.choice([(), variant.edits[:1], variant.edits, *others[-1:], None])
        found.append(replace(variant, base=base))
    return found


def hidden(model: Model, variants: Sequence[Variant], precision: str) -> Tensor:
    """`[variant, pos, width]`, padded."""

    def read(readout: Readout) -> Tensor:
        assert readout.hidden is not None
        longest = max(map(len, PROMPTS))
        rows = [readout.hidden[readout.row == n] for n in range(len(readout.variants))]
        return torch.stack([nn.functional.pad(own, (0, 0, 0, longest - len(own))) for own in rows])

    options = {"reads": "hidden", "precision": precision}
    return measure(model, PROMPTS, variants, EVERYWHERE, read, **options)  # type: ignore[arg-type]


@torch.no_grad()
def test_with_changes_in_float32_it_is_the_exact_pass(
    every_architecture: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bases, packings, late splits, several prompts: whatever is added to what, it adds up."""
    variants = based(every_architecture)
    exact = hidden(every_architecture, variants, "exact")
    monkeypatch.setattr(delta, "COARSE", torch.float32)
    assert_close(hidden(every_architecture, variants, "delta"), exact, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_changes_lose_little_and_bases_nothing(every_architecture: Model) -> None:
    model, patches = every_architecture, patched(every_architecture)
    exact, found = hidden(model, patches, "exact"), hidden(model, patches, "delta")
    bases = hidden(model, [replace(v, edits=v.base or ()) for v in patches], "exact")
    change, error = (exact - bases).flatten(1).norm(dim=1), (found - exact).flatten(1).norm(dim=1)
    assert (change > 0).all()
    assert (error / change).median() < 0.01
    assert (error / change).max() < 0.05
    assert error.max() > 0  # and it was coarse


def patched(model: Model) -> list[Variant]:
    """A head's output scaled, in the clean run and in a run with something added: what patching asks."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for p in range(len(PROMPTS)):
        added = Edit(Site("resid_pre", 0), "add", 0.3 * torch.randn(model.d_model, generator=generator), (0, 1))
        for base in ((), (added,)):
            found += [Variant(p, (*base, edit), base) for edit in off(model)]
    return found


def off(model: Model) -> list[Edit]:
    return [Edit(Site("z", layer, head), "scale", 0.0) for layer in range(model.n_layers) for head in (0, 1)]


@torch.no_grad()
def test_base_rows_are_those_of_float32_bit_for_bit(every_architecture: Model) -> None:
    """In the batch of the delta pass, with rows that are computed coarsely beside them."""
    model = every_architecture
    own = [v for v in patched(model) if v.prompt == 0]
    bases = [Variant(0, base, base) for base in {id(v.base): v.base for v in own}.values() if base is not None]
    several, alone = hidden(model, [*bases, *own], "delta"), hidden(model, [*bases, *bases], "delta")
    assert_close(several[: len(bases)], alone[: len(bases)], rtol=2e-6, atol=2e-6)  # batches of two sizes
    assert torch.equal(hidden(model, bases, "delta"), hidden(model, bases, "exact"))


@torch.no_grad()
def test_a_variant_without_a_base_stays_float32(small_model: Model) -> None:
    variants = patched(small_model)
    alone = [replace(variant, base=None) for variant in variants]
    assert torch.equal(hidden(small_model, alone, "delta"), hidden(small_model, alone, "exact"))
    mixed = [v if n % 2 else replace(v, base=None) for n, v in enumerate(variants)]
    found, exact = hidden(small_model, mixed, "delta"), hidden(small_model, mixed, "exact")
    assert_close(found[::2], exact[::2], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_every_linear_map_of_the_blocks_is_replaced_and_put_back(every_architecture: Model) -> None:
    model, patches = every_architecture, patched(every_architecture)
    found = [leaf for layer in range(model.n_layers) for _, leaf in delta.leaves(model, layer)]
    kinds = {kind for layer in range(model.n_layers) for kind, _ in delta.leaves(model, layer)}
    assert kinds == {0, 1, 2} if model.has_mlp else {0, 1}
    with delta.cheap(model, [(delta.Bases.made(np.arange(1), False),) * 3] * model.n_layers):
        assert all("forward" in vars(leaf) for leaf in found)
    hidden(model, patches, "delta")
    assert not any("forward" in vars(leaf) for leaf in found)


def test_weights_are_cast_once_and_again_when_they_change() -> None:
    leaf = nn.Linear(3, 2)
    first = delta.coarse(leaf)
    assert delta.coarse(leaf) is first
    assert_close(first, leaf.weight.detach().bfloat16().t())
    with torch.no_grad():
        leaf.weight += 1.0
    second = delta.coarse(leaf)
    assert second is not first
    assert_close(second, leaf.weight.detach().bfloat16().t())
    leaf.weight = nn.Parameter(torch.ones(2, 3))
    assert delta.coarse(leaf).eq(1.0).all()


def test_bases_that_are_missing_join_once() -> None:
    edit, other = (Edit(Site("z", 0, 0), "scale", 0.0) for _ in range(2))
    variants = [
        Variant(0, (edit, other), (edit,)),
        Variant(0, (other,), ()),
        Variant(1, (other,), ()),
        Variant(0, (edit,), ()),
        Variant(0, (other, edit), (edit,)),
        Variant(0, (other,)),
    ]
    rows, of = delta.with_bases(variants)
    assert [(v.prompt, v.edits) for v in rows[6:]] == [(0, ()), (1, ())]
    assert of == [3, 6, 7, 3, 3, 5, 6, 7]  # the fourth is the base of others, and so its own


def test_a_packed_place_refers_to_where_its_base_stands() -> None:
    """Two rows of three positions; the second differs from the first in the last position alone."""
    packing = Packing(np.array([0, 1, 2, 5]), np.array([0, 1, 2, 0, 1, 3]), 2)
    [(looking, output, mlp)] = delta.plan([0, 0], [[0, 1]], [(packing, None)], [True], 1)
    assert (looking.base.tolist(), looking.of.tolist()) == ([0], [0])
    assert (output.base.tolist(), output.of.tolist()) == ([0, 1, 2], [0, 1, 2, 2])
    assert (mlp.base.tolist(), mlp.of.tolist()) == ([0], [0, 0])


def test_what_pays_is_timed() -> None:
    assert delta.gain(torch.device("cpu")) > 0
