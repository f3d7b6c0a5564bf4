"""The trace of norms against streams of plain passes, split by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from reference import plain_pass
from torch import Tensor

from steerscope.analysis.errors import BadInjection, UnsupportedModel
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.trace import COLUMNS, trace
from steerscope.analysis.vectors.vector import SteeringVector

PROMPTS = [[3, 14, 15, 9, 26, 5, 35], [2, 71, 82, 81, 8], [7, 1, 9, 33, 4, 6]]


def experiment(model: Model, site: str = "resid_pre", coefficient: float = 4.0) -> Experiment:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(2, model.d_model, generator=generator)
    values[0] = 0  # as BOS is in a prompt pair
    values[1] *= 2
    vector = SteeringVector(values, Site(site, 1), {"recipe": "given"})
    return Experiment(model, (Injection(vector, coefficient),), make_prompts(model, PROMPTS), references=2)


def test_shares_are_those_of_streams_split_by_hand(every_architecture: Model) -> None:
    model = every_architecture
    if model.norm == "none":
        pytest.skip("has no norms")
    asked = experiment(model)
    table = trace(asked).frames["stream"].set_index(["layer", "norm", "where", "quantity"])["value"]
    found: dict[str, list[float]] = {}
    last = model.n_layers
    for p, prompt in enumerate(PROMPTS):
        clean, steered = plain_pass(model, prompt), plain_pass(model, prompt, asked.edits(0)[p])
        before, after = (seen["resid_post", last - 1][1] for seen in (clean, steered))
        added = 4.0 * asked.injections[0].vector.values[1]
        hidden, shift = steered["hidden"][1], _final_bias(model)
        normed = hidden - shift  # what the unembedding reads, without the norm's bias
        for name, part in (("rest", before), ("vector", added), ("response", after - before - added)):
            own = normed * centred(model, part) / centred(model, after)  # each dimension's part of what is there
            found.setdefault(name, []).append((own @ normed / (normed @ normed)).item())
        found.setdefault("clean_norm", []).append(before.norm().item())
        found.setdefault("stretch", []).append((after.norm() / before.norm()).item())
        cosine = torch.cosine_similarity(before, after, dim=0).item()
        found.setdefault("angle", []).append(np.degrees(np.arccos(cosine)))
    for quantity, values in found.items():
        assert table[last, "final", "injected", quantity] == pytest.approx(np.mean(values), rel=2e-3, abs=2e-4)


def centred(model: Model, x: Tensor) -> Tensor:
    return x - x.mean() if "LN" in model.norm else x


def _final_bias(model: Model) -> Tensor:
    with torch.no_grad():
        bias: Tensor = model.bridge.ln_final(torch.zeros(1, 1, model.d_model))[0, 0]
    return bias


def test_shares_add_up_and_the_run_says_so(small_model: Model) -> None:
    result = trace(experiment(small_model))
    table = result.frames["stream"].query("quantity in ['rest', 'vector', 'response']")
    sums = table.groupby(["layer", "norm", "where"])["value"].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    [check] = result.manifest["checks"]
    assert check["passed"] and check["value"] < 1e-5
    assert {n: list(f.columns) for n, f in result.frames.items()} == {n: list(c) for n, c in COLUMNS.items()}


def test_before_the_injection_nothing_moves(small_model: Model) -> None:
    table = trace(experiment(small_model, "attn_out")).frames["stream"]
    same = table[(table["layer"] == 0) | ((table["layer"] == 1) & (table["norm"] == "attention"))]
    wide = same.pivot_table(index=["layer", "norm", "where"], columns="quantity", values="value")
    assert (wide["angle"] < 1e-5).all() and (abs(wide["rest"] - 1) < 1e-6).all()
    there = table.query("layer == 1 and norm == 'mlp' and where == 'injected'")
    assert there.set_index("quantity")["value"]["vector"] > 0.1


def test_without_a_coefficient_nothing_moves(small_model: Model) -> None:
    asked = experiment(small_model, coefficient=0.0)
    table = trace(asked).frames["nodes"]
    assert set(table["where"]) == {"later"}  # no position is injected
    assert (table[table["quantity"] == "angle"]["value"] < 1e-5).all()


def test_what_cannot_be_traced_is_refused(small_model: Model, small_models: Any) -> None:
    with pytest.raises(UnsupportedModel, match="has no norms"):
        trace(experiment(small_models["native_without_norm"]))
    vector = SteeringVector(torch.ones(1, small_model.d_head), Site("z", 1, 2))
    asked = Experiment(small_model, (Injection(vector),), make_prompts(small_model, PROMPTS), references=0)
    with pytest.raises(BadInjection, match="reaches the stream through a head's output matrix"):
        trace(asked)


def test_folded_weights_are_named_and_change_what_a_share_means(small_models: Any) -> None:
    raw, other = (load(small_models.folder("gpt2"), name=name) for name in ("raw", "folded"))
    other.bridge.enable_compatibility_mode(disable_warnings=True)
    folded = load(other.bridge, name="folded")
    results = [trace(experiment(model)) for model in (raw, folded)]
    assert [r.manifest["weights"] for r in results] == ["raw", "folded"]
    assert all(check["passed"] for r in results for check in r.manifest["checks"])
