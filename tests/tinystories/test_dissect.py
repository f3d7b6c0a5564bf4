"""`dissect`: what it splits adds up to what two plain passes measure, whatever the model, site and operation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from architectures import SHALLOW, boot_native, shallow
from transformer_lens import TransformerBridgeConfig
from transformers import GPTNeoConfig, GPTNeoForCausalLM

import steerscope as st
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.errors import BadArgument, BadInjection, BadMetric, UnsupportedModel
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.results.result import Result
from steerscope.tinystories.dissection.composition import scores
from steerscope.tinystories.dissection.form import form

FAST = ("gpt2", "gptj", "grouped_partly_rotary_gated", "solu")
ALL = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SHALLOW]
PROMPTS = [[3, 14, 15, 9, 26, 5, 35, 2, 7, 8, 1, 40], [2, 71, 82, 81, 8]]  # beyond the windows of local attention
LIMIT = 1e-9  # of the absolute mass; 1e-4 is promised


def small(name: str, layers: int, seed: int = 0) -> Model:
    return load(shallow(name, layers, seed), name=name)


def vector(model: Model, site: st.Site, rows: int = 2, seed: int = 3) -> st.SteeringVector:
    values = torch.randn(rows, model.width(site), generator=torch.Generator().manual_seed(seed))
    return st.SteeringVector(values, site, {"recipe": "given"})


def sums(result: Result, name: str = "parts") -> "pd.Series[float]":
    """The sum of the parts of every row, less the measured change."""
    keys = ["prompt", "position", "token_id"]
    total = result.frames["totals"].set_index(keys)["change"]
    return result.frames[name].groupby(keys)["change"].sum().reindex(total.index, fill_value=0.0) - total


def largest(result: Result) -> float:
    return max(float(check["value"]) for check in result.manifest["checks"])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_everything_adds_up(name: str, layers: int) -> None:
    model = small(name, layers)
    given = st.Injection(vector(model, st.Site("resid_pre", 0)), 1.5, positions=(1, 2))
    result = st.dissect(model, given, PROMPTS, references=0, at="all", most=1, audit=False)
    assert len(result.frames["totals"]) == 2 * sum(map(len, PROMPTS))
    assert result.frames["totals"]["change"].abs().max() > 0.01
    assert len(result.manifest["checks"]) == 3 and largest(result) < LIMIT
    assert sums(result).abs().max() < 1e-9
    table = result.frames["paths"]
    assert not table.duplicated(["prompt", "position", "token_id", "path"]).any()
    keys = ["prompt", "position", "token_id"]
    below = table[table["parent"] != ""].groupby([*keys, "parent"])["change"].sum()
    above = table.set_index([*keys, "path"])["change"]
    assert np.allclose(below, above[below.index], atol=1e-9)


def test_totals_are_what_single_plain_passes_measure() -> None:
    model = small("llama", 2)
    given = st.Injection(vector(model, st.Site("resid_pre", 0)), 1.5, positions=(1, 2))
    experiment = st.Experiment(model, (given,), PROMPTS, references=0)
    totals = st.dissect(experiment, at="all", most=2, audit=False).frames["totals"]
    for prompt, ids in enumerate(PROMPTS):
        logits = [plain_logits(model, ids, edits).double() for edits in ((), experiment.edits(0)[prompt])]
        change = logits[1] - logits[0]
        change = change - change.mean(dim=-1, keepdim=True)
        own = totals[totals["prompt"] == prompt]
        assert np.allclose(own["change"], change.numpy()[own["position"], own["token_id"]], atol=1e-4)
        for position, rows in own[own["position"] > 0].groupby("position"):
            order = change[int(str(position))].argsort(descending=True)
            assert set(rows["token_id"]) == {*order[:2].tolist(), *order[-2:].tolist()}


MORE_SITES = [("k", 0), ("v", 1), ("attn_out", None), ("resid_pre", None)]
SITES = [("q", 1), ("z", 2), ("mlp_out", None), *(pytest.param(*site, marks=pytest.mark.slow) for site in MORE_SITES)]


@pytest.mark.parametrize("layer", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize(("site", "head"), SITES)
def test_an_injection_at_any_site_adds_up(site: str, head: int | None, layer: int) -> None:
    model = small("llama", 2)
    given = st.Injection(vector(model, st.Site(site, layer, head), 1), 2.0, positions=(2,))
    result = st.dissect(model, given, PROMPTS, references=0, at="all", most=1, audit=False)
    assert result.frames["totals"]["change"].abs().max() > 1e-3 and largest(result) < LIMIT


@pytest.mark.parametrize(
    ("operation", "coefficient"),
    [
        ("ablate", 1.0),
        ("rotate", 60.0),
        pytest.param("set", 2.0, marks=pytest.mark.slow),
        pytest.param("norm_add", 3.0, marks=pytest.mark.slow),
    ],
)
def test_any_operation_at_several_layers_adds_up(operation: Any, coefficient: float) -> None:
    model = small("gptj", 2)
    both = tuple(
        st.Injection(vector(model, st.Site("resid_pre", layer), 1), coefficient, positions="all", operation=operation)
        for layer in (0, 1)
    )
    result = st.dissect(model, both, PROMPTS, references=0, at="all", most=1, audit=False)
    assert result.frames["totals"]["change"].abs().max() > 1e-3 and largest(result) < LIMIT


@pytest.mark.parametrize("coefficient", [1e-4, 100.0, pytest.param(-3.0, marks=pytest.mark.slow)])
def test_any_coefficient_adds_up(coefficient: float) -> None:
    model = small("gpt2", 2)
    given = st.Injection(vector(model, st.Site("resid_pre", 0)), coefficient, positions=(1, 2))
    assert largest(st.dissect(model, given, PROMPTS, references=0, at="all", most=1, audit=False)) < LIMIT


@pytest.mark.slow
def test_two_hundred_random_prompts_and_vectors_add_up_on_every_architecture() -> None:
    worst = {}
    for number in range(208):
        generator = np.random.default_rng(number)
        name, layers = SHALLOW[number % len(SHALLOW)], 1 + number // len(SHALLOW) % 2
        model = small(name, layers, seed=number % 5)
        prompt = generator.integers(0, 96, int(generator.integers(3, 14))).tolist()
        coefficient = float(generator.choice([0.1, 1, 3, 10, -3]))
        given = st.Injection(
            vector(model, st.Site("resid_pre", int(generator.integers(layers))), 1, number), coefficient
        )
        given = st.Injection(given.vector, coefficient, positions=(int(generator.integers(len(prompt))),))
        readout = ("centred", "raw", "log_prob")[number % 3]
        result = st.dissect(model, given, [prompt], references=0, at="all", most=1, readout=readout, audit=False)
        worst[name, layers, number] = largest(result)
    print(f"largest error over {len(worst)}: {max(worst.values()):.2g}")  # noqa: T201
    assert max(worst.values()) < LIMIT, max(worst, key=lambda key: worst[key])


def test_half_of_the_interaction_lies_between_clean_first_and_symmetric_parts() -> None:
    model = small("native_without_norm", 1)
    given = st.Injection(vector(model, st.Site("resid_pre", 0)), 1.5, positions=(1, 2))
    experiment = st.Experiment(model, (given,), PROMPTS[1:], references=0)
    result = st.dissect(experiment, at=[2], most=1, share=0, audit=False)
    kept = [experiment.activations(v, [("pattern", 0), ("v", 0)])[0] for v in (None, 0)]
    pattern, value = ([own[site, 0].double() for own in kept] for site in ("pattern", "v"))
    W_U, W_O = model.bridge.unembed.W_U.detach().double(), model.bridge.blocks[0].attn.W_O.detach().double()
    for token, parts in result.frames["parts"].groupby("token_id"):
        r = W_U[:, int(str(token))] - W_U.mean(dim=1)
        seen = [torch.einsum("d,hed,jhe->hj", r, W_O, v) for v in value]
        looked = [p[:, 2] for p in pattern]
        for head in range(4):
            own = parts[parts["writer"] == f"L0H{head}"]
            moved, turned = own[own["kind"] == "ov"], own[own["kind"].isin(["q", "k"])]
            change = [float((looked[a][head] * seen[b][head]).sum()) for a, b in ((0, 1), (1, 0), (1, 1), (0, 0))]
            expected = change[0] - change[3], change[1] - change[3], change[2] - change[0] - change[1] + change[3]
            found = moved["clean_first"].sum(), turned["clean_first"].sum(), moved["interaction"].sum()
            assert np.allclose(found, expected, atol=1e-4) and np.isclose(turned["interaction"].sum(), found[2])


def test_composition_scores_are_those_of_whole_matrices() -> None:
    model = small("native_with_mlp", 2)
    own = form(model)
    found = scores(own)
    below, above = own.attention

    def folded(norm: Any, weight: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (torch.eye(32).double() - 1 / 32) @ (norm.weight[:, None] * weight)
        return found

    V1, O1 = folded(below.norm, below.W_V[2]), below.W_O[2]
    Q2, K2, V2 = (folded(above.norm, w[1]) for w in (above.W_Q, above.W_K, above.W_V))
    matrices = Q2 @ K2.T, K2 @ Q2.T, V2 @ above.W_O[1]
    for channel, read in enumerate(matrices):
        expected = (V1 @ O1 @ read).norm() / ((V1 @ O1).norm() * read.norm())
        assert abs(float(found[channel, 2, 1] - expected)) < 1e-12


def test_the_effect_of_a_pair_of_heads_is_the_sum_of_its_paths() -> None:
    model = small("mlp_without_norm", 2)
    given = st.Injection(vector(model, st.Site("resid_pre", 0)), 1.5, positions=(1, 2))
    result = st.dissect(model, given, PROMPTS[1:], references=0, tokens=[11], share=0, audit=False)
    table = result.frames["paths"]
    leaves = table[~table["path"].isin(table["parent"])]
    for row in result.frames["composition"].to_dict("records"):
        channel = {"v": r"\.ov<-\d+", "k": r"\.k<-\d+", "q": r"\.q"}[row["channel"]]
        through = leaves["path"].str.contains(rf"{row['receiver']}{channel}<-{row['sender']}\.", regex=True)
        assert abs(leaves[through]["change"].sum() - row["signed"]) < 1e-9
        assert abs(abs(row["signed"]) - row["effect"]) < 1e-12  # of a single row


def test_neurons_of_an_mlp_add_up_to_it() -> None:
    model = small("gpt2", 2)
    given = st.Injection(vector(model, st.Site("resid_pre", 0)), 1.5, positions=(1, 2))
    result = st.dissect(model, given, PROMPTS, references=0, most=2, share=0, audit=False)
    keys = ["prompt", "position", "token_id", "node"]
    found = result.frames["neurons"].groupby(keys)[["change", "flow"]].sum()
    flow = result.frames["flow"].set_index(keys)["flow"]
    assert np.allclose(found["flow"], flow[found.index], atol=1e-10)
    paths = result.frames["paths"].rename(columns={"path": "node"}).set_index(keys)["change"]
    assert np.allclose(found["change"], paths[found.index], atol=1e-10)


def test_the_figures_of_the_shipped_model_of_one_layer() -> None:
    """3 x (" wedding" - " ") on three prompts, as found by an independent program."""
    model = st.load("tinystories-1l")
    given = st.Injection(st.steering_vector(model, " wedding", " "), 3)
    prompts = ["Lily went to the park and saw a", "Tom looked out of the window and saw"]
    result = st.dissect(model, given, prompts, references=0, tokens=[" wedding", " bride", " ring", "."])
    total = result.frames["totals"].set_index(["prompt", "token"])["change"].round(2)
    assert total.to_dict() == {
        (0, " wedding"): -1.40,
        (0, " bride"): 2.42,
        (0, " ring"): 7.12,
        (0, "."): 3.25,
        (1, " wedding"): 0.22,
        (1, " bride"): 3.06,
        (1, " ring"): total[1, " ring"],
        (1, "."): 2.94,
    }
    parts = result.frames["parts"]
    group = parts["writer"].where(~parts["kind"].isin(["ov", "k", "q"]), "heads")
    found = parts.groupby(["prompt", "token", group])["change"].sum().round(2).unstack()
    columns = ["final norm", "heads", "L0M"]
    assert found.loc[(0, " bride"), columns].tolist() == [4.39, -0.14, -1.82]
    assert found.loc[(0, " ring"), columns].tolist() == [5.19, 0.15, 1.77]
    assert found.loc[(1, " bride"), columns].tolist() == [0.59, -0.29, 2.75]
    bride = parts[(parts["prompt"] == 0) & (parts["token"] == " bride") & parts["writer"].str.startswith("L0H")]
    assert round(bride["interaction"][bride["kind"] == "ov"].sum(), 2) == -0.52
    assert not len(parts[parts["part"] == "direct"]) and not len(parts[parts["kind"] == "q"])
    assert result.manifest["patching"]["correlation"] > 0.99 and largest(result) < LIMIT


@pytest.mark.parametrize("name", ["tinystories-1l", pytest.param("tinystories-2l", marks=pytest.mark.slow)])
def test_flow_agrees_with_exact_patching_on_a_shipped_model(name: str) -> None:
    model = st.load(name)
    given = st.Injection(st.steering_vector(model, " wedding", " "), 3)
    prompts = ["Lily went to the park and saw a", "Tom looked out of the window and saw"]
    prompts.append("One day, Anna sat with her mom and ate a")
    experiment = st.Experiment(model, (given,), prompts, references=0)
    result = st.dissect(experiment, most=1)
    assert result.manifest["patching"]["correlation"] > 0.999 and result.manifest["patching"]["heads"] > 0.99
    audit = result.frames["audit"]
    found = audit[audit["what"] == "patching"].set_index("node")
    exact = st.localize(experiment, completions=0, writers=False, attention=False, growing=False).frames["effects"]
    for measure in ("necessity", "sufficiency"):
        own = exact[exact["measure"] == measure].set_index("node")["effect"]
        assert np.allclose(found[measure], own[found.index], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
def test_models_of_the_size_of_the_published_ones_add_up(layers: int) -> None:
    """Random weights in the configurations of TinyStories-1Layer-21M and TinyStories-2Layers-33M."""
    config = GPTNeoConfig(
        vocab_size=50257,
        hidden_size=1024,
        num_layers=layers,
        num_heads=16,
        attention_types=[[["global", "local"][:layers], 1]],
        window_size=256,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    random: Any = GPTNeoForCausalLM(config)
    model = load(random.eval(), name="published")
    given = st.Injection(vector(model, st.Site("resid_pre", 0), 1), 0.1, positions=(1,))
    result = st.dissect(model, given, PROMPTS, references=0, most=2, audit=False)
    assert result.frames["totals"]["change"].abs().max() > 0.01 and largest(result) < LIMIT


def test_what_it_cannot_take_apart_is_refused_in_a_sentence() -> None:
    deep = load(shallow("gpt2", 2), name="deep")
    given = st.Injection(vector(deep, st.Site("resid_pre", 0), 1), 1.0, positions=(1,))
    with pytest.raises(UnsupportedModel, match="norms between its nodes and the stream.*localize"):
        st.dissect(load(shallow("gemma2", 2), name="gemma"), given, PROMPTS, references=0)
    with pytest.raises(UnsupportedModel, match="3 layers.*one or two.*localize"):
        st.dissect(load(shallow("gpt2", 3), name="three"), given, PROMPTS, references=0)
    config: dict[str, Any] = {"normalization_type": "LN", "d_mlp": 48, "seed": 0, "act_fn": "relu", "d_vocab": 96}
    config |= {"d_model": 32, "d_head": 8, "n_heads": 4, "n_layers": 1, "n_ctx": 64}
    capped = boot_native(TransformerBridgeConfig(**config, attn_scores_soft_cap=2.0))
    with pytest.raises(UnsupportedModel, match="patterns of layer 0.*localize"):
        st.dissect(load(capped, name="capped"), given, PROMPTS, references=0)
    odd = boot_native(TransformerBridgeConfig(**config))
    odd.blocks[0].mlp.original_component.act = lambda x: torch.relu(x) ** 1.5
    with pytest.raises(UnsupportedModel, match="MLP of layer 0.*localize"):
        st.dissect(load(odd, name="odd"), given, PROMPTS, references=0)
    at_pattern = st.SteeringVector(torch.ones(1, 64), st.Site("pattern", 0, 1), {"recipe": "given"})
    with pytest.raises(BadInjection, match="L0H1.pattern"):
        st.dissect(deep, st.Injection(at_pattern, 0.1, positions=(1,)), PROMPTS, references=0)
    tokens: Sequence[Any]
    for tokens, error in (([], BadArgument), ([96], BadMetric)):
        with pytest.raises(error):
            st.dissect(deep, given, PROMPTS, references=0, tokens=tokens)
