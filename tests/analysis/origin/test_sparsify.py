"""Sparse vectors against plain passes, their gradients against autograd, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from questions import one
from reference import plain_pass
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import measure
from steerscope.analysis.errors import BadArgument, BadInjection, BadMetric
from steerscope.analysis.model.models import Model
from steerscope.analysis.origin.kept import Curves, Tried, smallest
from steerscope.analysis.origin.sparsify import COLUMNS, Order, sparsify
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import Metric, kl, log_prob
from steerscope.analysis.question.outputs import Outputs
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.question.scored import Scored
from steerscope.analysis.question.scores import Score
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.injected_gradient import injected_gradient
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.vector import SteeringVector

FEW = (0.02, 0.25, 0.5)


def experiment(model: Model, texts: list[str], coefficient: float = 3.0, **options: object) -> Experiment:
    injection = Injection(prompt_pair(model, " wedding", " ship", 0), coefficient)
    return Experiment(model, (injection,), make_prompts(model, texts, groups="each"), references=2, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(tiny: Model, stories: list[str]) -> Result:
    return sparsify(experiment(tiny, stories[:6]), fractions=FEW, references_at_most=2)


def slow_effect(asked: Experiment, p: int, values: Tensor, target: int) -> float:
    """Log-probability of the target with these values injected, minus that of the clean run: two plain passes."""
    ids, positions = asked.prompts.ids[p], list(asked.scored_positions.positions[p])
    edits = [replace(edit, value=values) for edit in asked.edits(0)[p]]
    found = [
        float(plain_pass(asked.model, ids, e)["logits"].detach()[positions].log_softmax(-1)[:, target].mean())
        for e in ([], edits)
    ]
    return found[1] - found[0]


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("order", ["size", "first", "gradient"])
def test_what_is_kept_equals_plain_passes_with_a_vector_that_was_cut_by_hand(
    order: Order, rescaled: bool, tiny: Model, stories: list[str]
) -> None:
    target = tiny.single_token(" wedding")
    asked = experiment(tiny, [stories[0], "Tom had a red ball", stories[3]], metric=log_prob([target]))
    table = sparsify(asked, orders=[order], fractions=FEW, references_at_most=0, steps=4).frames["per_prompt"]
    kept = table[table["rescaled"] == rescaled].set_index(["fraction", "prompt"])["effect"]
    value = asked.edits(0)[0][0].value
    assert isinstance(value, Tensor)
    score = asked.metric.prepare(asked.scored_positions, asked.clean, asked.steered)
    gradient = injected_gradient(asked, 0, score, 4, "logits")[0]
    for p in range(3):
        others = [q for q in range(3) if q % 2 != p % 2]  # chosen on the other half
        weight = {
            "size": value.abs(),
            "first": -torch.arange(32.0).expand_as(value),
            "gradient": (value * gradient[others].mean(0)).abs(),
        }[order]
        for dimensions in (1, 8, 16):
            cut = torch.zeros_like(value)
            for row in range(len(value)):
                for i in sorted(range(32), key=lambda i: -float(weight[row, i]))[:dimensions]:
                    cut[row, i] = value[row, i]
                if rescaled and cut[row].any():
                    cut[row] *= value[row].norm() / cut[row].norm()
            expected = slow_effect(asked, p, cut, target)
            assert kept[dimensions / 32, p] == pytest.approx(expected, abs=3e-5)


def test_all_dimensions_keep_everything_exactly(result: Result, tiny: Model, stories: list[str]) -> None:
    table = result.frames["curves"]
    full = table[table["fraction"] == 1]
    assert len(full) == 4 * 2
    for column in ("kept", "kl_kept", "norm", "own_kept", "reference", "kept_low", "kept_high"):
        np.testing.assert_allclose(full[column], 1.0, rtol=1e-5)
    checks = result.manifest["checks"]
    assert len(checks) == 3 and all(c["passed"] and c["value"] < 1e-5 for c in checks)


def test_the_largest_values_have_more_of_the_norm_than_any_others(result: Result) -> None:
    norm = result.frames["curves"].query("not rescaled").pivot(index="fraction", columns="order", values="norm")
    assert (norm["size"] >= norm.max(axis=1) - 1e-9).all()
    assert (norm.diff().dropna() > 0).all(axis=None)


def test_it_has_the_columns_that_are_described(result: Result) -> None:
    assert {name: list(frame.columns) for name, frame in result.frames.items()} == {
        name: list(columns) for name, columns in COLUMNS.items()
    }


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "z"])
def test_the_gradient_is_that_of_the_injected_values_averaged_along_the_coefficient(
    site: str, tiny: Model, stories: list[str]
) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 0, site=site, head=1 if site == "z" else None)
    asked = Experiment(
        tiny, (Injection(vector, 3.0),), make_prompts(tiny, stories[:2]), log_prob([" wedding"]), references=0
    )
    score = asked.metric.prepare(asked.scored_positions, asked.clean, asked.steered)
    found = injected_gradient(asked, 0, score, 3, "logits")[0]
    points, weights = np.polynomial.legendre.leggauss(3)
    for p in range(2):
        edit = asked.edits(0)[p][0]
        assert isinstance(edit.value, Tensor)
        expected = torch.zeros_like(edit.value)
        for x, w in zip((points + 1) / 2, weights / 2, strict=True):
            leaf = (edit.value * float(x)).requires_grad_()
            value = measure(
                tiny,
                asked.prompts.full,
                [Variant(p, (replace(edit, value=leaf),))],
                asked.scored_positions.positions,
                lambda readout: readout.mean(score(readout)),
                grad=True,
            )
            expected += float(w) * torch.autograd.grad(value.sum(), leaf)[0]
        np.testing.assert_allclose(found[p].numpy(), expected.numpy(), atol=2e-5)


def test_contributions_of_all_dimensions_add_up_to_the_effect(tiny: Model, stories: list[str]) -> None:
    """Of a row that stands at several positions, too; and where the metric is KL, whose gradient is zero at the clean
    run.
    """
    row = prompt_pair(tiny, " wedding", " ship", 0).row(-1)
    for metric in (log_prob([" wedding"]), kl()):
        asked = Experiment(
            tiny, (Injection(row, 0.5, positions=[1, 2, 4]),), make_prompts(tiny, stories[:3]), metric, references=0
        )
        found = sparsify(asked, orders=["gradient"], fractions=[1.0], steps=24)
        total = found.frames["dimensions"]["contribution"].sum()
        assert total == pytest.approx(found.manifest["total"], rel=0.02)
        assert found.manifest["gradient"]["gap"] < 0.03
        assert len(found.frames["dimensions"]) == tiny.d_model


def test_fractions_that_come_to_the_same_dimensions_are_run_once(tiny: Model, stories: list[str]) -> None:
    asked = experiment(tiny, stories[:2])
    table = sparsify(
        asked, orders=["size"], fractions=[0.001, 0.01, 0.03, 0.04, 1.0], references_at_most=0, rescale=False
    ).frames["curves"]
    assert table["dimensions"].tolist() == [1, 2, 32]
    assert table["fraction"].tolist() == [1 / 32, 2 / 32, 1.0]


def test_several_injections_are_cut_each_by_its_own_width(tiny: Model, stories: list[str]) -> None:
    stream = Injection(prompt_pair(tiny, " wedding", " ship", 0), 2.0)
    inside = Injection(prompt_pair(tiny, " wedding", " ship", 1, site="z", head=1), 2.0)
    asked = Experiment(tiny, (stream, inside), make_prompts(tiny, stories[:3]), references=1)
    found = sparsify(asked, fractions=[0.25], references_at_most=1, draws=1)
    assert found.frames["curves"]["fraction"].min() == (8 + 2) / (32 + 8)
    assert set(found.frames["dimensions"]["injection"]) == {0, 1}
    assert all(c["passed"] for c in found.manifest["checks"])


def test_the_smallest_fraction_is_the_first_from_which_on_enough_is_kept() -> None:
    share = np.array([0.3, 0.95, 0.7, 0.92, 1.0])  # 0.95 does not last
    values = np.ones(4)[None, None, None, :] * share[None, None, :, None]
    whole = np.ones(4)
    real = Curves(values, values, values, np.ones((1, 5)), whole, whole, whole)
    reference = replace(real, own=values * np.array([1, 1, 1, 0.5, 1])[None, None, :, None])
    tried = Tried(("size",), (False,), (0.1, 0.2, 0.3, 0.5, 1.0), (10,))
    table = smallest([real, reference], tried, 0.9, Statistics(), np.arange(4), 0)
    row = table.iloc[0]
    assert (row["fraction"], row["low"], row["high"], row["dimensions"]) == (0.5, 0.5, 0.5, 5)
    assert (row["own"], row["reference"]) == (0.5, 1.0)
    assert row["kl_kept"] == 0.92


def test_the_same_seed_gives_the_same_numbers(result: Result, tiny: Model, stories: list[str]) -> None:
    again = sparsify(experiment(tiny, stories[:6]), fractions=FEW, references_at_most=2)
    for name, frame in result.frames.items():
        assert frame.equals(again.frames[name])


def test_one_prompt_and_no_references_say_what_is_missing(tiny: Model, stories: list[str]) -> None:
    found = sparsify(experiment(tiny, stories[:1]), fractions=[0.5], references_at_most=0, draws=1)
    assert {"intervals", "references", "halves"} <= set(found.manifest["missing"])
    table = found.frames["curves"]
    assert table[["low", "reference", "p", "p_adjusted"]].isna().all(axis=None)
    assert found.frames["smallest"]["low"].isna().all()


@pytest.mark.parametrize(
    ("knobs", "match"),
    [
        ({"orders": ["size", "gradients"]}, "each one of size, gradient, first, random"),
        ({"orders": []}, "no orders"),
        ({"fractions": [0.0, 0.5]}, "0 among the fractions"),
        ({"fractions": [0.5, 1.5]}, "each a number from 0 to 1"),
        ({"fractions": []}, "no fractions"),
        ({"keep": 1.0}, "keep=1.0"),
        ({"draws": 0}, "draws=0"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_arguments_out_of_range_are_refused(
    knobs: dict[str, object], match: str, tiny: Model, stories: list[str]
) -> None:
    with pytest.raises(BadArgument, match=match):
        sparsify(experiment(tiny, stories[:2]), **knobs)  # type: ignore[arg-type]


def test_an_injection_without_effect_is_refused(tiny: Model, stories: list[str]) -> None:
    with pytest.raises(BadInjection, match=r"no effect \(coefficient 0\)"):
        sparsify(experiment(tiny, stories[:2], 0.0), references_at_most=0)


def test_a_metric_without_a_gradient_is_refused_by_the_gradients_order_alone(tiny: Model, stories: list[str]) -> None:
    def prepare(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
        return lambda readout: readout.logits.detach()[:, 3]  # type: ignore[union-attr]

    asked = experiment(tiny, stories[:2], metric=Metric("a logit", "logits", prepare))
    with pytest.raises(BadMetric, match="a logit has no gradient"):
        sparsify(asked, references_at_most=0)
    found = sparsify(asked, orders=["size"], fractions=[0.5], references_at_most=0)
    assert found.frames["dimensions"]["gradient"].isna().all()


def test_a_vector_that_lives_in_one_dimension_is_found_out_and_a_random_one_is_not(
    tiny: Model, stories: list[str]
) -> None:
    """By size one dimension holds all of it, which is not so of random vectors."""
    vector = prompt_pair(tiny, " wedding", " ship", 0)
    values = torch.zeros_like(vector.values)
    values[:, 3] = vector.values[:, 3]
    planted = SteeringVector(values, vector.site)
    prompts = make_prompts(tiny, stories[:6], groups="each")
    for injected, found_out in ((planted, True), (random_like(planted, 77), False)):
        asked = Experiment(tiny, (Injection(injected, 1.0),), prompts, references=12)
        found = sparsify(asked, orders=["size"], fractions=[1 / 32], rescale=False, references_at_most=12)
        row = one(found.frames["curves"], "fraction")(1 / 32)
        assert row["significant"] == found_out and row["reference"] < 0.7
        if found_out:
            assert row["kept"] == pytest.approx(1.0, abs=1e-5)
            assert found.frames["smallest"]["dimensions"].item() == 1
