"""Gradient estimates against finite differences, conservation laws and exact patching."""

from typing import Any

import numpy as np
import pytest
import torch
from reference import plain_logits, plain_pass
from torch import Tensor

from steerscope.analysis.carriers.attribute import COLUMNS, attribute
from steerscope.analysis.carriers.inputs import INPUTS, input_estimates
from steerscope.analysis.engine.backward import backward
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout
from steerscope.analysis.errors import BadArgument, BadMetric
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import Metric, kl, log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.tools.gradients import METHODS, estimate, rank
from steerscope.analysis.tools.patching import effects
from steerscope.analysis.tools.relevance import relevance
from steerscope.analysis.vectors.vector import SteeringVector

PROMPTS = [[3, 14, 15, 9, 26, 5, 35], [2, 71, 82, 81, 8]]
TARGET = 11


def experiment(model: Model, size: float = 1.0, **options: Any) -> Experiment:
    generator = torch.Generator().manual_seed(3)
    values = size * torch.randn(2, model.d_model, generator=generator)
    vector = SteeringVector(values, Site("resid_pre", 0), {"recipe": "given"})
    injection = Injection(vector, 1.0, positions=(1, 2))
    given: dict[str, Any] = {"metric": log_prob([TARGET]), "references": 0} | options
    return Experiment(model, (injection,), make_prompts(model, PROMPTS), **given)


def metric(asked: Experiment, p: int, edits: list[Edit]) -> float:
    logits = plain_logits(asked.model, PROMPTS[p], edits).double().log_softmax(-1)
    values = logits[list(asked.scored_positions.positions[p]), TARGET]
    return float(values.mean().detach())


def between(asked: Experiment, p: int, share: float) -> Any:
    """By node, the edit that sets it that far from its clean to its steered output."""
    clean = plain_pass(asked.model, PROMPTS[p])
    steered = plain_pass(asked.model, PROMPTS[p], asked.edits(0)[p])

    def edit(node: Any) -> Edit:
        a, b = (seen[node.site.name, node.layer] for seen in (clean, steered))
        a, b = (x if node.head is None else x[:, node.head] for x in (a, b))
        return Edit(node.site, "set", a + share * (b - a))

    return edit


@torch.no_grad()
def test_estimates_are_slopes_of_patching(every_architecture: Model) -> None:
    """How the metric moves as one node is moved a little from its steered output to its clean one, and back."""
    asked = experiment(every_architecture, 0.5)
    with torch.enable_grad():
        found = estimate(asked, "gradient").values
    step = 0.02
    for n in range(0, len(asked.reachable), 3):
        node = asked.reachable[n]
        for p in range(len(PROMPTS)):
            steering = list(asked.edits(0)[p])
            for measure, (base, at) in enumerate(((steering, 1.0), ([], 0.0))):
                ends = [metric(asked, p, [*base, between(asked, p, at + s)(node)]) for s in (step, -step)]
                slope = (ends[0] - ends[1]) / (2 * step)
                assert found[measure, n, p] == pytest.approx(slope, rel=0.02, abs=2e-4)


def test_integrated_gradients_add_up_at_the_injection(every_architecture: Model) -> None:
    asked = experiment(every_architecture)
    found = estimate(asked, "ig", steps=80)
    assert found.path is not None
    np.testing.assert_allclose(found.path[0], found.path[1], rtol=5e-3, atol=2e-3)
    coarse = estimate(asked, "ig", steps=1).path
    assert coarse is not None
    assert abs(coarse[0] - coarse[1]).max() > abs(found.path[0] - found.path[1]).max()


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_relevance_is_conserved_where_nothing_is_added(small_models: Any) -> None:
    """Without biases, what the rules hand back is the same in every layer: the logit itself."""
    model = small_models["llama"]
    rules, fired = relevance(model)
    totals: dict[int, Tensor] = {}

    def collect(indices: list[int], site: str, layer: int, x: Tensor, g: Tensor) -> None:
        totals[layer] = (x * g).sum((1, 2))[torch.argsort(torch.tensor(indices))]

    def score(readout: Readout) -> Tensor:
        assert readout.logits is not None
        return readout.logits[:, TARGET]

    sites = [("resid_pre", layer) for layer in range(model.n_layers)]
    values = backward(model, PROMPTS, [[Variant(0)], [Variant(1)]], [(6,), (4,)], score, sites, collect, rules=rules)
    fired()
    plain = [plain_logits(model, ids)[-1, TARGET] for ids in PROMPTS]
    torch.testing.assert_close(values, torch.stack(plain).detach(), rtol=1e-4, atol=1e-5)
    for layer in range(model.n_layers):
        torch.testing.assert_close(totals[layer], values, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_the_rules_act_and_leave_the_forward_pass_alone(every_architecture: Model) -> None:
    asked = experiment(every_architecture)
    plain, other = (estimate(asked, method).values for method in ("gradient", "relp"))
    assert np.isfinite(other).all()
    assert abs(plain - other).max() > 1e-4
    clean = [metric(asked, p, []) for p in range(2)]
    rules, _ = relevance(every_architecture)
    scored = asked.scored_positions
    score = asked.metric.prepare(scored, asked.clean, asked.steered)
    values = backward(
        asked.model,
        asked.prompts.full,
        [[Variant(0)], [Variant(1)]],
        scored.positions,
        score,
        [("z", 0)],
        lambda *found: None,
        rules=rules,
    )
    np.testing.assert_allclose(values, clean, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_dropped_layer_leaves_the_paths_around_it(small_models: Any) -> None:
    """Two layers: with the second dropped, the first acts directly alone."""
    model = small_models["native_attention_only"]
    asked = experiment(model, 0.5)
    with torch.enable_grad():
        plain, dropped = (estimate(asked, method).values for method in ("gradient", "atp*"))
    step = 0.02
    first = [n for n, node in enumerate(asked.reachable) if node.layer == 0]
    direct = np.zeros((len(first), 2))
    for p in range(2):
        steering = list(asked.edits(0)[p])
        seen = plain_pass(model, PROMPTS[p], steering)
        frozen = Edit(Site("attn_out", 1), "set", seen["attn_out", 1])
        for n in first:
            node = asked.reachable[n]
            ends = [metric(asked, p, [*steering, between(asked, p, 1 + s)(node), frozen]) for s in (step, -step)]
            direct[n, p] = (ends[0] - ends[1]) / (2 * step)
    assert np.abs(dropped[0, first]).sum() > 0
    for n in first:  # position by position its size counts, so it is at least what is left after cancelling
        assert (np.abs(direct[n]) <= np.abs(_sizes(asked, n)) + 1e-3).all()
    assert plain.shape == dropped.shape


def _sizes(asked: Experiment, n: int) -> Any:
    with torch.enable_grad():
        found = estimate(asked, "atp*").at
    return [np.abs(at[0, n]).sum() for at in found]


@torch.no_grad()
def test_inputs_are_exact_where_the_metric_is_linear(small_models: Any) -> None:
    """The last layer of a model without norms: the logits are linear in z, so the estimates are exact."""
    model = small_models["native_without_norm"]
    linear = Metric("logit", "logits", lambda *runs: lambda r: r.logits[:, TARGET])
    asked = experiment(model, 2.0, metric=linear)
    with torch.enable_grad():
        found = input_estimates(asked)
    last = model.n_layers - 1
    heads = [node for node in asked.reachable if node.head is not None]
    for p in range(2):
        steering = list(asked.edits(0)[p])
        clean, steered = plain_pass(model, PROMPTS[p]), plain_pass(model, PROMPTS[p], steering)
        read = list(asked.scored_positions.positions[p])
        for n, node in enumerate(heads):
            if node.layer == last:
                for i, name in enumerate(INPUTS):
                    site = Site(name, last, node.head)
                    for measure, (base, other) in enumerate(((steering, clean), ([], steered))):
                        edit = Edit(site, "set", other[name, last][:, node.head])
                        own, edited = (
                            plain_logits(model, PROMPTS[p], e)[read, TARGET].mean() for e in (base, [*base, edit])
                        )
                        lost = (own - edited) if measure == 0 else (edited - own)
                        assert found[measure, i, n, p] == pytest.approx(lost.item(), rel=1e-3, abs=1e-5)


def test_values_of_shared_heads_go_to_each_query_head(small_models: Any) -> None:
    asked = experiment(small_models["llama"])
    found = input_estimates(asked)
    assert found.shape == (2, 3, 12, 2)
    through = found[0].sum(axis=0)  # q, k and v together: the first order of the head's own effect
    own = estimate(asked, "gradient").values[0]
    heads = [i for i, node in enumerate(asked.reachable) if node.head is not None]
    assert np.corrcoef(through.ravel(), own[heads].ravel())[0, 1] > 0.5


@pytest.mark.parametrize("method", ["gradient", "relp", "atp*", "ig"])
def test_every_method_gives_a_calibrated_result(tiny: Model, stories: list[str], method: Any) -> None:
    from steerscope.analysis.vectors.prompt_pair import prompt_pair

    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 2.0)
    asked = Experiment(tiny, (injection,), make_prompts(tiny, stories[:4]), references=2)
    result = attribute(asked, method, sample=5, steps=12)
    assert {n: list(f.columns) for n, f in result.frames.items()} == {n: list(c) for n, c in COLUMNS.items()}
    assert all(check["passed"] for check in result.manifest["checks"])
    exact = effects(asked).along[0].mean(-1)
    sample = result.frames["sample"]
    for row in sample.to_dict("records"):
        n = [str(node) for node in asked.reachable].index(row["node"])
        measure = ("necessity", "sufficiency").index(row["measure"])
        assert row["effect"] == pytest.approx(exact[measure, n], abs=1e-5)
    calibration = result.frames["calibration"].set_index("measure")
    own = sample[sample["measure"] == "necessity"]
    assert calibration["worst_error"]["necessity"] == pytest.approx(abs(own["estimate"] - own["effect"]).max())
    ranked, passes = rank(asked, method)
    table = result.frames["effects"].query("measure == 'necessity'")["effect"]
    if method != "ig":
        np.testing.assert_allclose(table, ranked[0], rtol=1e-4, atol=1e-6)
    assert passes > 0


def test_kl_has_no_slope_in_the_clean_run(small_model: Model) -> None:
    asked = experiment(small_model, metric=kl())
    for method in METHODS:
        if method != "ig":
            with pytest.raises(BadMetric, match='use the integrated form, method="ig"'):
                estimate(asked, method)
    found = estimate(asked, "ig", steps=20)
    assert found.path is not None
    np.testing.assert_allclose(found.path[0], found.path[1], rtol=5e-3, atol=1e-4)


def test_a_metric_without_a_slope_is_refused(small_model: Model) -> None:
    steps = Metric("top token", "share", lambda *runs: lambda r: (r.logits.argmax(-1) == 3).float())
    with pytest.raises(BadMetric, match="top token has no gradient"):
        estimate(experiment(small_model, metric=steps), "gradient")


def test_bad_options_are_refused(small_model: Model) -> None:
    asked = experiment(small_model)
    with pytest.raises(BadArgument, match="unknown method 'best'; expected one of gradient, relp"):
        estimate(asked, "best")
    with pytest.raises(BadArgument, match="steps=0"):
        estimate(asked, "ig", steps=0)
    with pytest.raises(BadArgument, match="sample=1; expected at least 2"):
        attribute(asked, sample=1)
