"""Gradient estimates against finite differences, conservation laws and exact patching."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from architectures import AT_ONCE
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
from steerscope.analysis.results.verdicts import TOLD
from steerscope.analysis.tools import gradients
from steerscope.analysis.tools.gradients import METHODS, _ends, estimate, finer, rank
from steerscope.analysis.tools.patching import effects
from steerscope.analysis.tools.relevance import relevance, secant, secants
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
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


@pytest.mark.parametrize("every_architecture", AT_ONCE, indirect=True)
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
    assert found.path is not None and found.gap is not None and found.steps == 80
    np.testing.assert_allclose(found.path[0], found.path[1], rtol=5e-3, atol=2e-3)
    np.testing.assert_allclose(found.path[1], asked.effect(), rtol=1e-3, atol=1e-4)


def test_steps_are_doubled_until_the_gap_is_small(small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = experiment(small_model, 4.0)
    found = estimate(asked, "ig", steps=2)
    assert found.gap is not None and found.steps is not None
    assert found.gap < 0.01 and found.steps in (4, 8, 16, 32, 64)
    monkeypatch.setattr(gradients, "COMPLETE", np.inf)
    one = estimate(asked, "ig", steps=found.steps // 2)
    assert one.gap is not None and one.gap > 0.01 > found.gap and one.steps == found.steps // 2
    monkeypatch.setattr(gradients, "COMPLETE", 0.0)
    assert estimate(asked, "ig", steps=24).steps == 64
    assert finer(5, 64) == [5, 10, 20, 40, 64] and finer(80, 64) == [80]


def test_conductances_of_a_whole_layer_add_up_to_the_effect(small_models: Any) -> None:
    """Where the injection is a head's output, all of it flows through that head: the chain rule along the path."""
    model = small_models["native_attention_only"]
    generator = torch.Generator().manual_seed(3)
    vector = SteeringVector(torch.randn(2, 8, generator=generator), Site("z", 0, 1), {"recipe": "given"})
    asked = Experiment(
        model,
        (Injection(vector, 3.0, positions=(1, 2)),),
        make_prompts(model, PROMPTS),
        metric=log_prob([TARGET]),
        references=0,
    )
    found = estimate(asked, "ig", steps=32)
    assert found.measures == ("conductance",) and found.values.shape[0] == 1
    own = found.values[0, [str(node) for node in asked.reachable].index("L0H1")]
    np.testing.assert_allclose(own, asked.effect(), rtol=2e-3, atol=1e-4)


@torch.no_grad()
def test_conductance_is_gradient_times_change_in_many_small_steps(small_model: Model) -> None:
    asked = experiment(small_model, 2.0)
    with torch.enable_grad():
        found = estimate(asked, "ig", steps=64).values[0]
    shares = np.linspace(0, 1, 41)
    for n in (1, 4, 7):
        node = asked.reachable[n]
        total = 0.0
        for low, high in itertools.pairwise(shares):
            edits = [list(asked.edits(0, float(share))[0]) if share else [] for share in (low, high)]
            ends = [plain_pass(small_model, PROMPTS[0], own)[node.site.name, node.layer] for own in edits]
            a, b = (x if node.head is None else x[:, node.head] for x in ends)
            halves = [metric(asked, 0, [*edits[0], Edit(node.site, "set", x)]) for x in (a, b)]
            other = [metric(asked, 0, [*edits[1], Edit(node.site, "set", x)]) for x in (a, b)]
            total += (halves[1] - halves[0] + other[1] - other[0]) / 2
        assert found[n, 0] == pytest.approx(total, rel=0.02, abs=2e-3)


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_relevance_is_conserved_where_nothing_is_added(small_models: Any) -> None:
    """Without biases, what the rules hand back is the same in every layer: the logit itself."""
    model = small_models["llama"]
    totals: dict[int, Tensor] = {}

    def collect(indices: list[int], site: str, layer: int, x: Tensor, g: Tensor) -> None:
        totals[layer] = (x * g).sum((1, 2))[torch.argsort(torch.tensor(indices))]

    def score(readout: Readout) -> Tensor:
        assert readout.logits is not None
        return readout.logits[:, TARGET]

    sites = [("resid_pre", layer) for layer in range(model.n_layers)]
    values = backward(
        model, PROMPTS, [[Variant(0)], [Variant(1)]], [(6,), (4,)], score, sites, collect, rules=relevance
    )
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
        rules=relevance,
    )
    np.testing.assert_allclose(values, clean, rtol=1e-4, atol=1e-4)


def test_a_secant_takes_the_whole_change_of_scores_to_that_of_the_pattern() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = 10 * torch.randn(2, 3, 4, 6, generator=generator).double()
    scores[:, :, 1, 3:] = -torch.inf  # hidden keys
    pattern = scores.softmax(-1)
    for place in range(6):  # the secant's rows one by one
        gradient = torch.zeros_like(pattern)
        gradient[..., place] = 1.0
        found = secant(pattern, gradient)
        torch.testing.assert_close(found[0], found[1])
        moved = torch.where(scores[0].isinf(), 0.0, scores[1] - scores[0])
        torch.testing.assert_close(
            (found[0] * moved).sum(-1), pattern[1, ..., place] - pattern[0, ..., place], atol=2e-3, rtol=0
        )


def test_a_secant_between_two_equal_patterns_is_the_slope() -> None:
    scores = torch.randn(1, 2, 3, 5, generator=torch.Generator().manual_seed(2)).expand(2, -1, -1, -1)
    scores = scores.clone().requires_grad_()
    weight = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(4))
    pattern = scores.softmax(-1)
    (slope,) = torch.autograd.grad((pattern * weight).sum(), scores)
    torch.testing.assert_close(secant(pattern.detach(), weight), slope, atol=1e-5, rtol=1e-4)


def test_secants_act_in_every_architecture_and_leave_the_forward_pass_alone(every_architecture: Model) -> None:
    """A small injection bends nothing, so that the secant is the slope; a large one moves patterns."""
    for size, same in ((1e-3, True), (4.0, False)):
        asked = experiment(every_architecture, size)
        plain, _ = _ends(asked, 0, asked.along, None)
        turned, _ = _ends(asked, 0, asked.along, secants)
        scale = max(np.abs(x).max() for x in plain)
        off = max(np.abs(x - y).max() for x, y in zip(plain, turned, strict=True)) / scale
        assert off < 1e-2 if same else off > 5e-3
    scored = asked.scored_positions
    groups = [[Variant(p), Variant(p, asked.edits(0)[p])] for p in range(len(PROMPTS))]
    for recompute in (False, True):
        values = backward(
            asked.model,
            asked.prompts.full,
            groups,
            scored.positions,
            asked.along,
            [("z", 0)],
            lambda *found: None,
            rules=secants,
            recompute=recompute,
        )
        expected = [metric(asked, p, edits) for p in range(2) for edits in ([], list(asked.edits(0)[p]))]
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


def test_secants_are_the_same_when_activations_are_computed_again(
    small_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = experiment(small_models["llama"], 3.0)
    kept = estimate(asked, "atp*").values
    monkeypatch.setattr("steerscope.analysis.engine.backward.KEPT", 0)
    np.testing.assert_allclose(estimate(asked, "atp*").values, kept, rtol=1e-4, atol=1e-6)


def test_sizes_are_never_below_those_of_all_paths_and_a_drop_shows_what_cancels(small_models: Any) -> None:
    """Two layers: with the second dropped, the first acts directly alone."""
    model = small_models["native_attention_only"]
    asked = experiment(model, 0.5)

    def without_the_second(model: Model) -> Any:
        turned, acted = secants(model)
        return [*turned, (model.hook("attn_out", 1), lambda x, hook: x.detach())], acted

    repaired = estimate(asked, "atp*")
    plain, _ = _ends(asked, 0, asked.along, secants)
    direct, _ = _ends(asked, 0, asked.along, without_the_second)
    first = [n for n, node in enumerate(asked.reachable) if node.layer == 0]
    for found, every, alone in zip(repaired.at, plain, direct, strict=True):
        assert (np.abs(found) >= np.abs(every) - 1e-9).all()
        assert (np.sign(found) == np.sign(every))[np.abs(every) > 1e-9].all()
        np.testing.assert_allclose(
            np.abs(found[:, first]), np.maximum(np.abs(every), np.abs(alone))[:, first], rtol=1e-4, atol=1e-7
        )
    assert max(np.abs(a).max() for a in direct) > 0


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


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_calibrated_result(tiny: Model, stories: list[str], method: Any) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 2.0)
    asked = Experiment(tiny, (injection,), make_prompts(tiny, stories[:4]), references=2)
    result = attribute(asked, method, sample=5, steps=12)
    assert {n: list(f.columns) for n, f in result.frames.items()} == {n: list(c) for n, c in COLUMNS.items()}
    assert all(check["passed"] for check in result.manifest["checks"])
    measures = ["conductance"] if method == "ig" else ["necessity", "sufficiency"]
    assert result.frames["effects"]["measure"].unique().tolist() == measures  # nothing stands there twice
    exact = effects(asked).along.mean(-1)
    sample = result.frames["sample"]
    for row in sample.to_dict("records"):
        n = [str(node) for node in asked.reachable].index(row["node"])
        measure = ("necessity", "sufficiency").index(row["measure"])
        assert row["effect"] == pytest.approx(exact[measure, n], abs=1e-5)
    calibration = result.frames["calibration"].set_index("measure")
    own = sample[sample["measure"] == "necessity"]
    assert calibration["worst_error"]["necessity"] == pytest.approx(abs(own["estimate"] - own["effect"]).max())
    assert calibration["pearson"].isna().all()  # of 5
    ranked, passes = rank(asked, method)
    table = result.frames["effects"].query("measure == @measures[0]")["effect"]
    np.testing.assert_allclose(table, ranked[0], rtol=5e-2 if method == "ig" else 1e-4, atol=1e-3)
    assert ranked.shape[0] == 2 and 0 < passes < result.manifest["passes"]
    if method == "ig":
        assert result.manifest["complete"] and result.manifest["gap"] < 0.01 and result.manifest["steps"] >= 12
    else:
        assert result.manifest["gap"] is None is result.manifest["steps"]


def test_references_are_read_along_their_own_change(tiny: Model, stories: list[str]) -> None:
    """The share of a reference in the table is its gradient's along its own change over its own whole effect."""
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 2.0)
    asked = Experiment(tiny, (injection,), make_prompts(tiny, stories[:6], groups="each"), references=6)
    table = attribute(asked, "gradient").frames["effects"].query("measure == 'necessity'")
    shares = []
    for vector in asked.vectors[1:]:
        own = estimate(asked, "gradient", vector, score=asked.own(vector)).values[0].mean(-1)
        shares.append(own / asked.own_effect(vector).mean())
    clear = asked.basis().members(True)
    assert len(clear) == 6
    np.testing.assert_allclose(table["noise_share"], np.mean(shares, axis=0), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_nothing_is_told_of_a_random_vector(tiny: Model, stories: list[str]) -> None:
    real = prompt_pair(tiny, " wedding", " ship", 0)
    told = 0
    for seed in range(4):
        prompts = make_prompts(tiny, stories[:8], groups="each")
        asked = Experiment(tiny, (Injection(random_like(real, seed=100 + seed), 2.0),), prompts, references=12)
        assert asked.basis().clear.all()
        for method in ("gradient", "atp*"):
            table = attribute(asked, method).frames["effects"]
            told += int(table["verdict"].isin(TOLD).sum())
    assert told <= 1  # of 112: Holm over the nodes of a measure


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
    with pytest.raises(BadArgument, match="sample=1; expected an integer from 2"):
        attribute(asked, sample=1)
