"""Shapley values against enumeration, against the `shap` package, and against their own promises."""

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from steerscope.analysis.carriers.shapley import COLUMNS, ESTIMATORS, Game, coalitions, shapley
from steerscope.analysis.carriers.surrogate import fit
from steerscope.analysis.errors import BadArgument, BadNode
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import parse_node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.tools.patching import effects
from steerscope.analysis.vectors.prompt_pair import prompt_pair

Values = NDArray[np.float64]
NODES = ["L0H1", "L0M", "L1H2", "L1M", "L1H0", "L0H3"]


@pytest.fixture(scope="module")
def experiment(tiny: Model, stories: list[str]) -> Experiment:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 4.0)
    return Experiment(tiny, (injection,), make_prompts(tiny, stories[:3], groups="each"), references=2)


def game_of(experiment: Experiment, names: list[str]) -> Game:
    return Game(experiment, tuple(parse_node(name) for name in names), 0, experiment.along)


def everything(players: int) -> NDArray[np.bool_]:
    return np.array(list(itertools.product([False, True], repeat=players)))


def enumerated(values: dict[tuple[bool, ...], Values], players: int) -> tuple[Values, Values]:
    """By the definitions: mean contributions over orders, and mean second differences."""
    single = np.zeros((players, len(next(iter(values.values())))))
    pairs = []
    for i in range(players):
        for row in values:
            if not row[i]:
                size = sum(row)
                weight = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
                single[i] += weight * (values[_with(row, i)] - values[row])
    for i, j in itertools.combinations(range(players), 2):
        total = np.zeros(single.shape[1])
        for row in values:
            if not row[i] and not row[j]:
                size = sum(row)
                weight = math.factorial(size) * math.factorial(players - size - 2) / math.factorial(players - 1)
                total += weight * (
                    values[_with(_with(row, i), j)] - values[_with(row, i)] - values[_with(row, j)] + values[row]
                )
        pairs.append(total)
    return single, np.array(pairs)


def _with(row: tuple[bool, ...], i: int) -> tuple[bool, ...]:
    return (*row[:i], True, *row[i + 1 :])


def test_with_all_coalitions_both_estimators_equal_the_definition(experiment: Experiment) -> None:
    game = game_of(experiment, NODES)
    rows = everything(len(NODES))
    values = {tuple(row): v for row, v in zip(rows.tolist(), game.values(rows), strict=True)}
    single, pairs = enumerated(values, len(NODES))
    result = shapley(experiment, nodes=NODES, passes=64)
    table = result.frames["effects"].set_index("node")["effect"]
    order = [str(n) for n in experiment.reachable if str(n) in NODES]
    at = [NODES.index(name) for name in order]
    np.testing.assert_allclose(table[order], single[at].mean(-1), atol=1e-5)
    found = {frozenset((r.node_a, r.node_b)): r.effect for r in result.frames["interactions"].itertuples()}
    for (i, j), value in zip(itertools.combinations(range(len(NODES)), 2), pairs, strict=True):
        assert found[frozenset((NODES[i], NODES[j]))] == pytest.approx(value.mean(), abs=1e-5)
    assert abs(pairs).max() > 1e-3


def test_the_shap_package_says_the_same(experiment: Experiment) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap

    names = NODES[:5]
    game = game_of(experiment, names)

    def value(masks: NDArray[Any]) -> Values:
        return np.asarray(game.values(masks.astype(bool)).mean(axis=1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masker = shap.maskers.Independent(np.zeros((1, 5)), max_samples=1)
        found = shap.ExactExplainer(value, masker)(np.ones((1, 5))).values[0]
    table = shapley(experiment, nodes=names, passes=32).frames["effects"].set_index("node")["effect"]
    np.testing.assert_allclose(table[names], found, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_values_and_the_direct_way_add_up_to_the_effect(experiment: Experiment, estimator: Any) -> None:
    result = shapley(experiment, estimator=estimator, passes=40)
    totals = result.frames["totals"].set_index("quantity")["value"]
    assert totals["nodes"] + totals["direct"] == pytest.approx(totals["effect"], abs=1e-6)
    assert result.frames["effects"]["effect"].sum() == pytest.approx(totals["nodes"], abs=1e-6)
    assert totals["effect"] == pytest.approx(effects(experiment).basis.total.mean(), abs=1e-5)
    assert all(check["passed"] for check in result.manifest["checks"])
    assert {n: list(f.columns) for n, f in result.frames.items()} == {n: list(c) for n, c in COLUMNS.items()}


def test_estimators_agree_within_their_stated_errors(experiment: Experiment) -> None:
    game = Game(experiment, experiment.reachable, 0, experiment.along)
    found = [ESTIMATORS[name](game, 400, False)[0] for name in ("regression", "permutation")]
    gap = abs(found[0].values.mean(-1) - found[1].values.mean(-1))
    stated = np.sqrt(found[0].error ** 2 + found[1].error ** 2)
    assert (gap <= 4 * stated + 1e-6).mean() > 0.9
    assert stated.max() < 0.5 * abs(found[0].values.mean(-1)).max()


def synthetic(players: int, seed: int, order: int = 4) -> Any:
    generator = np.random.default_rng(seed)
    size = generator.exponential(size=players)
    terms = {
        subset: generator.normal() * np.prod(size[list(subset)]) * 0.5 ** len(subset)
        for k in range(1, order + 1)
        for subset in itertools.combinations(range(players), k)
    }

    def value(members: NDArray[np.bool_]) -> Values:
        return np.array([sum(c * members[:, list(t)].all(axis=1) for t, c in terms.items())]).T

    single = np.array([sum(c / len(t) for t, c in terms.items() if i in t) for i in range(players)])
    return value, single


def test_the_regression_is_much_nearer_than_its_coalitions_allow_and_says_so() -> None:
    """Games of 9 players whose truth is known: errors against what is stated."""
    ratios, errors, naive = [], [], []
    for seed in range(12):
        value, truth = synthetic(9, seed)
        rows = coalitions(9, 40, seed)
        found = fit(rows, value(rows), value(~rows), interactions=False)
        error = found.values[:, 0] - truth
        ratios.append(error / np.maximum(found.error, 1e-12))
        errors.append(error)
        linear, *_ = np.linalg.lstsq(np.where(rows, 1.0, -1.0), (value(rows) - value(~rows)) / 2, rcond=None)
        naive.append(2 * linear[:, 0] - truth)
    assert np.sqrt(np.mean(np.square(errors))) < np.sqrt(np.mean(np.square(naive)))
    assert (np.abs(ratios) < 2).mean() > 0.9


def test_a_pair_that_stands_in_for_each_other_and_one_that_needs_each_other() -> None:
    rows = everything(4)
    rows = rows[rows[:, 0]][::-1]

    def value(m: NDArray[np.bool_]) -> Values:
        return ((m[:, 0] | m[:, 1]) + 2.0 * (m[:, 2] & m[:, 3]))[:, None].astype(float)

    found = fit(rows, value(rows), value(~rows))
    np.testing.assert_allclose(found.values[:, 0], [0.5, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(found.pairs[:, 0], [-1, 0, 0, 0, 0, 2], atol=1e-6)


def test_coalitions_are_different_and_as_many_of_each_size_as_they_should_be() -> None:
    rows = coalitions(30, 60, 3)
    assert rows.shape == (60, 30) and rows[0].all()
    assert len({min(r.tobytes(), (~r).tobytes()) for r in rows}) == 60
    sizes = np.minimum(rows[1:].sum(1), 30 - rows[1:].sum(1))
    weight = 1 / (np.arange(1, 16) * (30 - np.arange(1, 16)))
    weight[-1] /= 2
    expected = 59 * weight / weight.sum()
    # Singles run into each other now and then, and the next size takes their place.
    assert np.abs(np.bincount(sizes, minlength=16)[1:] - expected).max() < 5
    assert (coalitions(30, 60, 3) == rows).all() and (coalitions(30, 60, 4) != rows).any()
    assert len(coalitions(4, 100, 0)) == 8  # all there are


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"passes": 0}, BadArgument, "passes=0; expected an integer from 1"),
        ({"passes": 21}, BadArgument, "passes=21 for 10 nodes; expected 22 to"),
        ({"passes": 2561}, BadArgument, "passes=2561 for 10 nodes; expected 22 to 2560 coalitions"),
        ({"estimator": "guess"}, BadArgument, "estimator='guess'; expected one of regression, permutation"),
        ({"nodes": ["L0H9", "L0M"]}, BadNode, "L0H9.z is outside of"),
        ({"nodes": ["L0M"]}, BadArgument, "expected at least 2"),
    ],
)
def test_bad_input_is_refused(
    experiment: Experiment, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        shapley(experiment, **options)
