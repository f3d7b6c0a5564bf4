"""Known answers of the exact decomposition: identities, symmetries and limits, each against what needs no secant."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from architectures import shallow
from torch import Tensor

import steerscope as st
from steerscope.analysis.engine.plain import plain_hooks, plain_logits
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.norms import Norm
from steerscope.tinystories.dissection.activations import Pointwise
from steerscope.tinystories.dissection.audit import audits
from steerscope.tinystories.dissection.flow import flow
from steerscope.tinystories.dissection.form import MLP, form
from steerscope.tinystories.dissection.mlps import MLPSecants
from steerscope.tinystories.dissection.parts import parts
from steerscope.tinystories.dissection.readouts import Rows, rows
from steerscope.tinystories.dissection.runs import Runs, fitted, runs
from steerscope.tinystories.dissection.secants import NormSecant, divided_difference, logarithmic_mean, softmax_back
from steerscope.tinystories.dissection.shapley import shapley
from steerscope.tinystories.dissection.stack import Stack, stack
from steerscope.tinystories.dissection.tree import grow

PROMPT = [3, 14, 15, 9, 26, 5, 35, 2]
TOKENS = (4, 11, 60)


def double(name: str, layers: int, change: Callable[[Any], None] | None = None) -> Model:
    """A small random model in double precision, changed by hand."""
    bridge = shallow(name, layers).double()
    with torch.no_grad():
        if change is not None:
            change(bridge)
    return load(bridge, name=name)


def injected(model: Model, coefficient: float = 1.5, at: tuple[int, ...] = (1, 2), seed: int = 3) -> st.Experiment:
    values = torch.randn(len(at), model.d_model, generator=torch.Generator().manual_seed(seed))
    vector = st.SteeringVector(values, st.Site("resid_pre", 0), {"recipe": "given"})
    return st.Experiment(model, (st.Injection(vector, coefficient, positions=at),), [PROMPT], references=0)


def both(experiment: st.Experiment) -> tuple[Stack, Runs]:
    own = form(experiment.model)
    found = runs(own, experiment.prompts.ids, experiment.edits(0))
    own = fitted(own, found)
    return stack(own, found), found


def read(secants: Stack, at: tuple[int, ...] = (2, 5, 7), readout: Any = "centred") -> Rows:
    return rows(secants.form, secants.runs, [(0, i, token) for i in at for token in TOKENS], readout)


def split(secants: Stack, asked: Rows) -> pd.Series:
    """The change of every part, by row and name."""
    found = parts(secants, asked, torch.zeros_like(asked.change))
    return found.set_index(["row", "part"])["change"].sort_index()


def apart(a: pd.Series, b: pd.Series) -> float:
    return float(a.sub(b, fill_value=0.0).abs().max())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_without_an_injection_all_parts_are_zero(name: str) -> None:
    model = double(name, 2)
    own = form(model)
    found = runs(own, [PROMPT], [()])
    secants = stack(fitted(own, found), found)
    asked = read(secants)
    assert not len(parts(secants, asked, torch.zeros_like(asked.change)))
    through = flow(secants, asked)
    assert all(not value.any() for value in (*through.heads, *through.mlps, through.total, asked.change))


@pytest.mark.parametrize("name", ["gpt2", "gptj", "qwen3"])
def test_swapped_runs_have_the_negated_parts(name: str) -> None:
    secants, found = both(injected(double(name, 2)))
    swapped = replace(found, kept={site: x.flip(0) for site, x in found.kept.items()}, logits=found.logits.flip(0))
    other = stack(secants.form, swapped)
    there, back = split(secants, read(secants)), split(other, read(other))
    assert there.abs().max() > 0.01 and apart(there, -back) < 1e-12


def test_an_injection_split_at_random_has_parts_that_add_up() -> None:
    secants, _ = both(injected(double("gpt2", 1)))
    asked = read(secants, at=(5,))
    own, h = secants.heads[0], torch.tensor([1, 1, 1])
    r = secants.final.at(asked.b, asked.i).frozen(asked.reads) @ own.own.W_O[1].T
    seen, source = own.values(r, asked.b, asked.i, h), torch.tensor([2, 2, 2])
    for by_source, through in ((seen.ov, own.through_value), (seen.k, own.through_key)):
        back = through(r, asked.b, asked.i, h, source)
        whole = secants.direct[0][0, 2]
        first = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0)).double()
        assert torch.allclose(back @ first + back @ (whole - first), by_source[:, 2], atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "grouped_partly_rotary_gated"])
def test_a_tiny_injection_flows_as_gradients_say(name: str) -> None:
    model = double(name, 2)
    secants, _ = both(injected(model, coefficient=1e-5))
    asked = read(secants, at=(5,))
    through = flow(secants, asked)
    ids = torch.tensor([PROMPT])
    for row, token in enumerate(TOKENS):
        for layer in (0, 1):
            with torch.enable_grad():
                found: dict[int, Tensor] = {}

                def keep(x: Tensor, hook: Any, found: dict[int, Tensor] = found, layer: int = layer) -> Tensor:
                    found[layer] = x.detach().requires_grad_()
                    return found[layer]

                logits = model.bridge.run_with_hooks(ids, fwd_hooks=[(model.hook("z", layer), keep)])[0, 5]
                (slope,) = torch.autograd.grad(logits[token] - logits.mean(), found[layer])
            expected = (slope[0] * secants.heads[layer].Dz[0]).sum(dim=(0, 2))
            assert torch.allclose(
                through.heads[layer][row], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
            )


def test_of_two_tokens_the_pattern_moves_by_the_harmonic_mean() -> None:
    scores = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0)).double() * 3
    clean, steered = scores.softmax(dim=-1)
    mean, moved = logarithmic_mean(clean, steered), scores[1] - scores[0]
    one = mean[:, 0] * mean[:, 1] / (mean[:, 0] + mean[:, 1]) * (moved[:, 0] - moved[:, 1])
    assert torch.allclose(one, steered[:, 0] - clean[:, 0], atol=1e-14)
    first = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(50, 2)
    assert torch.allclose((softmax_back(mean, first) * moved).sum(dim=-1), one, atol=1e-14)


def test_a_pattern_that_ends_in_zeros_is_split_without_nan() -> None:
    scores = torch.tensor([[0.0, 300.0, -torch.inf], [300.0, 0.0, -torch.inf]], dtype=torch.float64)
    clean, steered = scores.softmax(dim=-1)
    moved = torch.tensor([300.0, -300.0, 0.0], dtype=torch.float64)
    for player in range(3):
        above = torch.eye(3, dtype=torch.float64)[player]
        change = (softmax_back(logarithmic_mean(clean, steered), above) * moved).sum()
        assert abs(float(change - (steered - clean)[player])) < 1e-12


def test_constants_in_keys_and_values_move_nothing() -> None:
    def constants(bridge: Any) -> None:
        attention, shift = bridge.blocks[0].attn, torch.randn(32, generator=torch.Generator().manual_seed(5))
        shift = shift.double()
        attention.k.bias += shift
        attention.v.bias += shift
        attention.o.bias -= torch.einsum("he,hed->d", shift.reshape(4, 8), attention.W_O)

    plain, moved = (both(injected(double("native_with_mlp", 2, change)))[0] for change in (None, constants))
    there = split(plain, read(plain))
    assert there.abs().max() > 0.01 and apart(there, split(moved, read(moved))) < 1e-11


def test_a_head_in_two_copies_has_half_of_its_parts_in_each() -> None:
    def alone(bridge: Any) -> None:
        bridge.blocks[0].attn.o.weight[:, 24:] = 0

    def twice(bridge: Any) -> None:
        attention = bridge.blocks[0].attn
        for part in (attention.q, attention.k, attention.v):
            part.weight[24:], part.bias[24:] = part.weight[:8].clone(), part.bias[:8].clone()
        attention.o.weight[:, :8] /= 2
        attention.o.weight[:, 24:] = attention.o.weight[:, :8]

    one, two = (both(injected(double("native_with_mlp", 1, change)))[0] for change in (alone, twice))
    single, copies = split(one, read(one)), split(two, read(two))
    names = [name for name in single.index.get_level_values("part").unique() if "H0" in name]
    assert len(names) == 6
    for name in names:
        whole = single.xs(name, level="part")
        for copy in (name, name.replace("H0", "H3")):
            assert np.allclose(copies.xs(copy, level="part"), whole / 2, atol=1e-12)


def test_along_the_stream_itself_a_norm_without_eps_cancels() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, clean = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((16,), (3, 16)))
    for centred in (True, False):
        norm = Norm(weight, torch.zeros_like(weight), centred, 0.0)
        secant = NormSecant.of(norm, clean, 3.7 * clean)
        r = torch.randn(3, 16, generator=generator, dtype=torch.float64)
        frozen, scale = ((own * 2.7 * clean).sum(dim=-1) for own in (secant.frozen(r), secant.scale(r)))
        assert frozen.abs().min() > 1e-3 and torch.allclose(frozen, -scale, atol=1e-12)


@pytest.mark.parametrize("centred", [True, False])
def test_a_norm_s_secant_takes_the_change_of_its_input_to_that_of_its_output(centred: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    clean, steered = torch.randn(2, 5, 16, generator=generator, dtype=torch.float64)
    norm = Norm(weight, bias, centred, 1e-2)
    secant = NormSecant.of(norm, clean, steered)
    assert torch.allclose(secant.forward(steered - clean), norm(steered) - norm(clean), atol=1e-12)
    r = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    there = (r * secant.forward(clean)).sum(dim=-1)
    assert torch.allclose((secant.back(r) * clean).sum(dim=-1), there, atol=1e-12)


def test_with_an_identity_and_no_norm_secant_shapley_and_integrated_gradients_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, first, second = torch.randn(3, 1, 1, 6, generator=generator, dtype=torch.float64)
    W_in, W_out = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((6, 9), (9, 6)))
    mlp = MLP(None, W_in, torch.zeros(9).double(), None, torch.zeros(9).double(), W_out, Pointwise(lambda x: 1.0 * x))
    own = MLPSecants.of(mlp, torch.stack([clean, clean + first + second]))
    r, zero = torch.randn(1, 6, generator=generator, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    ours = own.frozen(r, zero, zero) @ torch.stack([first[0, 0], second[0, 0]]).T
    steps = torch.stack([first[0, 0], second[0, 0]])
    values, how = shapley(lambda members: (clean[0, 0] + members.double() @ steps) @ W_in @ W_out @ r.T, 2)
    assert how == "exact" and torch.allclose(values[:, 0], ours[0], atol=1e-12)
    assert torch.allclose(ours[0], steps @ W_in @ W_out @ r[0], atol=1e-12)  # the gradient is the same all the way


@pytest.mark.parametrize("name", ["gpt2", "gptj", "native_without_norm"])
def test_where_nothing_is_injected_heads_cut_the_flow_of_one_layer(name: str) -> None:
    secants, _ = both(injected(double(name, 1)))
    asked = read(secants, at=(5, 7))
    found = flow(secants, asked)
    assert torch.allclose(found.heads[0].sum(dim=1), asked.change, atol=1e-12)


@pytest.mark.parametrize("readout", ["centred", "raw", "log_prob"])
@pytest.mark.parametrize("name", ["gpt2", "capped_logits"])
def test_readouts_are_differences_of_plain_passes(name: str, readout: str) -> None:
    model = double(name, 2)
    experiment = injected(model)
    secants, _ = both(experiment)
    asked = read(secants, readout=readout)
    logits = [plain_logits(model, PROMPT, edits) for edits in ((), experiment.edits(0)[0])]
    if readout != "raw":
        logits = [x.log_softmax(-1) if readout == "log_prob" else x - x.mean(-1, keepdim=True) for x in logits]
    expected = (logits[1] - logits[0])[asked.i, asked.token]
    assert torch.allclose(asked.change, expected, atol=1e-12)
    assert np.allclose(split(secants, asked).groupby("row").sum(), expected, atol=1e-11)


def test_nothing_goes_through_what_writes_nothing() -> None:
    def silent(bridge: Any) -> None:
        bridge.blocks[0].attn.o.weight[:, 8:16] = 0
        bridge.blocks[1].mlp.out.weight[:] = 0

    secants, _ = both(injected(double("native_with_mlp", 2, silent)))
    asked = read(secants)
    names = grow(secants, asked, torch.zeros_like(asked.change)).names()[3]
    assert len(names) > 500 and not [name for name in names if "L0H1" in name or "L1M" in name]


@pytest.mark.parametrize("name", ["gpt2", "gptj"])
def test_opening_a_node_changes_neither_it_nor_its_siblings(name: str) -> None:
    secants, _ = both(injected(double(name, 2)))
    asked = read(secants, at=(5,))
    trees = []
    for share in (0.0, 0.02, 0.3):
        row, parent, change, names = grow(secants, asked, share * asked.change.abs()).names()
        below = np.zeros(len(change))
        np.add.at(below, parent[parent >= 0], change[parent >= 0])
        open_ = np.isin(np.arange(len(change)), parent)
        assert np.abs(below - change)[open_].max() < 1e-12
        found = pd.Series(change, index=pd.MultiIndex.from_arrays([row, names]))
        assert found.index.is_unique
        trees.append(found)
    whole, *others = trees
    for tree in others:
        common = tree[[not name.endswith("others") for _, name in tree.index]]
        assert 3 < len(common) < len(whole) and np.allclose(common, whole[common.index], atol=1e-12)


@pytest.mark.parametrize("name", ["mlp_without_norm", "native_without_norm"])
def test_the_flow_through_a_node_is_the_sum_of_all_paths_through_it(name: str) -> None:
    secants, _ = both(injected(double(name, 2)))
    asked = read(secants, at=(4,))
    row, parent, change, names = grow(secants, asked, torch.zeros_like(asked.change)).names()
    leaf = ~np.isin(np.arange(len(change)), parent)
    through = flow(secants, asked)
    assert torch.allclose(through.total, asked.change, atol=1e-12)
    nodes = {f"L{layer}H{head}": own[:, head] for layer, own in enumerate(through.heads) for head in range(4)}
    nodes |= {f"L{layer}M": own for layer, own in enumerate(through.mlps)}
    for node, found in nodes.items():
        mine = leaf & np.array([node in name for name in names])
        expected = np.bincount(row[mine], change[mine], minlength=len(asked.change))
        assert np.allclose(found, expected, atol=1e-11), node


def test_queries_and_keys_are_shared_out_by_four_patterns_of_plain_passes() -> None:
    model = double("native_without_norm", 1)
    experiment = injected(model)
    secants, _ = both(experiment)
    asked = read(secants, at=(2,))
    sites, edits = ("q", "k", "v", "pattern"), experiment.edits(0)[0]

    def run(hooks: Sequence[Any]) -> dict[str, Tensor]:
        """What a plain hooked pass holds at the sites."""
        seen: dict[str, Tensor] = {}

        def keep(site: str) -> Callable[..., None]:
            return lambda x, hook: seen.update({site: x.detach()})

        with torch.no_grad():
            model.bridge.run_with_hooks(
                torch.tensor([PROMPT]), fwd_hooks=[*hooks, *((model.hook(site, 0), keep(site)) for site in sites)]
            )
        return seen

    steer = plain_hooks(model, edits, len(PROMPT))
    kept = {"c": run([]), "s": run(steer)}

    def mixed(site: str) -> Tensor:
        """The pattern of the steered run with queries (or keys) of the clean one."""
        return run([*steer, (model.hook(site, 0), lambda x, hook: kept["c"][site])])["pattern"][0, :, 2]

    clean, steered = (kept[of]["pattern"][0, :, 2] for of in ("c", "s"))
    by_query = (mixed("k") - clean + steered - mixed("q")) / 2
    by_key = (mixed("q") - clean + steered - mixed("k")) / 2
    middle = (kept["c"]["v"] + kept["s"]["v"])[0] / 2
    W_U = model.bridge.unembed.W_U.detach()
    for row, token in enumerate(TOKENS):
        r = W_U[:, token] - W_U.mean(dim=1)
        seen = torch.einsum("d,hed,jhe->hj", r, model.bridge.blocks[0].attn.W_O.detach(), middle)
        found = split(secants, asked).loc[row]
        for head in range(4):
            q, k = (float((by[head] * seen[head]).sum()) for by in (by_query, by_key))
            own = found[[name for name in found.index if name.startswith(f"L0H{head}.k")]]
            assert abs(found.get(f"L0H{head}.q", 0.0) - q) < 1e-11 and abs(own.sum() - k) < 1e-11


def test_divided_differences_are_exact_near_and_far() -> None:
    a = torch.linspace(-3, 3, 101).double()
    for step in (0.0, 1e-9, 1e-7, 1e-4, 1.0, 40.0):
        for function in (torch.tanh, torch.relu, torch.nn.functional.gelu):
            found = divided_difference(function, a, a + step)
            assert torch.isfinite(found).all()
            assert torch.allclose(found * ((a + step) - a), function(a + step) - function(a), atol=1e-15, rtol=1e-9)


def test_sampled_shapley_values_add_up_and_come_near_the_exact_ones() -> None:
    weights = torch.randn(17, generator=torch.Generator().manual_seed(0)).double()

    def game(members: Tensor) -> Tensor:
        return torch.tanh(members.double() @ weights)[:, None]

    found, how = shapley(game, 17)
    everybody = game(torch.ones(1, 17, dtype=torch.bool)) - game(torch.zeros(1, 17, dtype=torch.bool))
    assert how == "128 permutations" and torch.allclose(found.sum(dim=0), everybody[0], atol=1e-12)
    few = weights[:8]
    exact, _ = shapley(lambda members: torch.tanh(members.double() @ few)[:, None], 8)
    orders = [np.random.default_rng(n).permutation(8) for n in range(4000)]
    drawn = np.zeros(8)
    for order in orders:
        steps = np.tanh(np.concatenate([[0], np.cumsum(few.numpy()[order])]))
        drawn[order] += np.diff(steps) / len(orders)
    assert np.abs(exact[:, 0].numpy() - drawn).max() < 0.02


def test_shapley_values_of_an_mlp_are_those_of_plain_passes_with_patched_heads() -> None:
    model = double("gpt2", 1)
    experiment = injected(model)
    secants, _ = both(experiment)
    asked = read(secants, at=(5,))
    (audit,) = audits(secants, asked, 0, 5)
    z = [experiment.activations(v, [("z", 0)])[0]["z", 0] for v in (None, 0)]
    r = secants.final.at(asked.b, asked.i).frozen(asked.reads)

    def value(members: tuple[int, ...]) -> Tensor:
        seen: dict[str, Tensor] = {}

        def put(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[0, 5, list(members)] = z[1][5, list(members)]
            return x

        def keep(x: Tensor, hook: Any) -> None:
            seen["mlp"] = x[0, 5].detach()

        with torch.no_grad():
            hooks = [(model.hook("z", 0), put), (model.hook("mlp_out", 0), keep)]
            model.bridge.run_with_hooks(torch.tensor([PROMPT]), fwd_hooks=hooks)
        return r @ seen["mlp"]

    orders = list(permutations(range(4)))
    expected = torch.zeros(4, len(TOKENS)).double()
    values = {own: value(own) for size in range(5) for own in combinations(range(4), size)}
    for order in orders:
        for n, head in enumerate(order):
            step = values[tuple(sorted(order[: n + 1]))] - values[tuple(sorted(order[:n]))]
            expected[head] += step / len(orders)
    assert audit.players == ["L0H0", "L0H1", "L0H2", "L0H3"] and audit.method == "exact"
    assert torch.allclose(audit.reference, expected, atol=1e-5)  # an audit is made in single precision
    assert torch.allclose(audit.ours.sum(dim=0), expected.sum(dim=0), atol=1e-10)
    far = (audit.ours - expected).abs().sum(dim=0) / expected.abs().sum(dim=0)
    assert torch.allclose(audit.distance, far, atol=1e-4) and 1e-4 < float(far.max()) < 0.3


def test_audits_of_queries_and_keys_share_out_what_the_split_shares_out() -> None:
    secants, _ = both(injected(double("llama", 2)))
    asked = read(secants, at=(5,))
    found = [audit for audit in audits(secants, asked, 0, 5) if audit.what in ("q", "k")]
    assert {audit.node for audit in found} == {f"L1H{head}" for head in range(4)} and len(found) == 8
    table = parts(secants, asked, torch.zeros_like(asked.change))
    for audit in found:
        whole = table[(table["writer"] == audit.node) & (table["kind"] == audit.what)]
        total = np.bincount(whole["row"], whole["change"], len(TOKENS))
        for values in (audit.ours, audit.reference):
            assert np.allclose(values.sum(dim=0), total, atol=1e-10)
