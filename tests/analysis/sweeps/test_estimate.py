"""Estimates against a response function whose main effects and interactions are known: no model."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from steerscope.analysis.results.stats import benjamini_hochberg
from steerscope.analysis.sweeps import estimate
from steerscope.analysis.sweeps.estimate import Trials

Array = NDArray[np.float64]
MAIN = np.array([1.0, 0.5, 0.0, 0.0, -0.7, 0.2, 0.0, 0.9])
NODES, PROMPTS = len(MAIN), 60
PAIRS = {(0, 1): -0.6, (2, 5): 0.5}
REPEATS = 500


def interactions(pairs: dict[tuple[int, int], float]) -> Array:
    table = np.zeros((NODES, NODES))
    for (i, j), value in pairs.items():
        table[i, j] = value
    return table


def drawn(
    seed: int,
    k: tuple[int, int] = (1, 4),
    pairs: dict[tuple[int, int], float] | None = None,
    main: Array = MAIN,
    trials: int = 1440,
    spread: float = 0.3,
    level: float = 1.0,
    scale: Sequence[float] = (0.0,),
) -> Trials:
    """Trials of a known response: prompts differ in level and in every main effect; noise on top."""
    rng = np.random.default_rng(seed)
    prompt = np.arange(trials) // 8 % PROMPTS
    order = rng.random((trials, NODES)).argsort(axis=1).argsort(axis=1)
    x = order < rng.integers(k[0], k[1] + 1, trials)[:, None]
    slopes = main + spread * rng.normal(size=(PROMPTS, NODES))
    levels = level * rng.normal(size=PROMPTS)
    cell = rng.integers(len(scale), size=trials)
    together = np.einsum("ti,ij,tj->t", x, interactions(pairs or {}), x)
    y = (x * slopes[prompt]).sum(1) + together + np.asarray(scale)[cell] + levels[prompt]
    return Trials(x, (y + 0.5 * rng.normal(size=trials))[:, None], prompt, cell)


def covered(found: estimate.Estimate, truth: Array) -> NDArray[np.bool_]:
    low, high = found.interval(0.95)
    return np.asarray((low[:, 0] <= truth) & (truth <= high[:, 0]))


def projection(k: tuple[int, int], pairs: dict[tuple[int, int], float]) -> Array:
    """What a regression on single nodes tends to under a design, by listing all its sets."""
    rows, y, weight = [], [], []
    for size in range(k[0], k[1] + 1):
        sets = list(combinations(range(NODES), size))
        for chosen in sets:
            x = np.isin(np.arange(NODES), chosen).astype(float)
            rows.append(x)
            y.append(x @ MAIN + x @ interactions(pairs) @ x)
            weight.append(1 / len(sets))
    x, root = np.array(rows), np.sqrt(np.array(weight))[:, None]
    design = np.hstack([x, np.ones((len(x), 1))])
    return np.asarray(np.linalg.lstsq(design * root, np.array(y) * root[:, 0], rcond=None)[0][:NODES])


def test_intervals_of_main_effects_cover_the_truth_at_their_rate() -> None:
    hits = [covered(estimate.contributions(drawn(s)), MAIN) for s in range(REPEATS)]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_intervals_of_marginal_contributions_cover_under_interactions() -> None:
    truth = projection((1, 4), PAIRS)
    assert np.abs(truth - MAIN).max() > 0.1  # a node's partners are in its marginal contribution
    hits = [covered(estimate.contributions(drawn(s, pairs=PAIRS)), truth) for s in range(REPEATS)]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_with_a_fixed_number_of_nodes_the_common_constant_is_fixed_by_nothing_injected_nothing_changed() -> None:
    hits = [covered(estimate.contributions(drawn(s, k=(3, 3), level=0.0)), MAIN) for s in range(REPEATS)]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_intervals_of_interactions_cover_the_truth_at_their_rate() -> None:
    hits = []
    for seed in range(REPEATS):
        chosen, _, found, method = estimate.pairs(drawn(seed, pairs=PAIRS))
        assert method == "joint" and len(chosen) == NODES * (NODES - 1) // 2
        hits.append(covered(found, interactions(PAIRS)[chosen[:, 0], chosen[:, 1]]))
    assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.parametrize("joint", [True, False])
def test_false_discoveries_among_interactions_stay_below_their_rate(
    joint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of the pairs interact; Benjamini-Hochberg at 5% then makes 3.3% false discoveries on average."""
    monkeypatch.setattr(estimate, "JOINT", 600 if joint else 0)
    real = {(0, j): -0.6 for j in range(1, 6)} | {(6, 7): 0.6, (2, 5): 0.5, (3, 6): -0.7, (1, 7): 0.8}
    shares, power = [], []
    for seed in range(200):
        chosen, _, found, method = estimate.pairs(drawn(seed, pairs=real))
        assert method == ("joint" if joint else "one at a time")
        discovered = benjamini_hochberg(found.p[:, 0]) < 0.05
        true = interactions(real)[chosen[:, 0], chosen[:, 1]] != 0
        shares.append((discovered & ~true).sum() / max(1, discovered.sum()))
        power.append(discovered[true].mean())
    assert np.mean(shares) <= 0.05
    assert np.mean(power) > 0.8


def test_one_pair_at_a_time_keeps_the_rate_of_its_p_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "JOINT", 0)
    p = [estimate.pairs(drawn(seed))[2].p[:, 0] for seed in range(300)]
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.06
    assert np.mean(np.array(p) < 0.01) <= 0.014


def test_false_discoveries_among_nodes_stay_below_their_rate() -> None:
    shares = []
    main = np.where(np.arange(NODES) < 4, MAIN, 0.0)
    for seed in range(300):
        found = estimate.contributions(drawn(seed, main=main))
        discovered = benjamini_hochberg(found.p[:, 0]) < 0.05
        shares.append((discovered & (main == 0)).sum() / max(1, discovered.sum()))
    assert np.mean(shares) <= 0.05


def test_differences_are_means_in_minus_means_out() -> None:
    trials = drawn(1, level=0.0, trials=4800, spread=0.0)
    found = estimate.differences(trials)
    for unit in range(NODES):
        inside = trials.x[:, unit]
        plain = trials.y[inside].mean() - trials.y[~inside].mean()
        assert found.value[unit, 0] == pytest.approx(plain, abs=0.08)


def test_coefficients_and_vectors_are_no_part_of_a_contribution() -> None:
    found = estimate.contributions(drawn(3, scale=(0.0, 5.0, -3.0), trials=4800))
    assert np.abs(found.value[:, 0] - MAIN).max() < 0.25


def test_one_pair_at_a_time_finds_the_interactions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = drawn(5, pairs=PAIRS, trials=9600)
    chosen, together, joint, _ = estimate.pairs(trials)
    monkeypatch.setattr(estimate, "JOINT", 0)
    _, _, single, method = estimate.pairs(trials)
    assert method == "one at a time"
    truth = interactions(PAIRS)[chosen[:, 0], chosen[:, 1]]
    assert np.abs(single.value[:, 0] - truth).max() < 0.25
    assert np.corrcoef(single.value[:, 0], joint.value[:, 0])[0, 1] > 0.95
    i, j = chosen[3]
    assert together[3] == (trials.x[:, i] & trials.x[:, j]).sum()


def test_pairs_at_a_time_do_not_depend_on_the_batch() -> None:
    trials = drawn(5, pairs=PAIRS)
    chosen = np.array([(i, j) for i, j in combinations(range(NODES), 2)])
    small, large = (estimate._single(trials, chosen, chosen[:0], batch) for batch in (3, 1000))
    np.testing.assert_allclose(small.value, large.value)
    np.testing.assert_allclose(small.replicates, large.replicates)


def test_the_comparison_at_equal_norm_is_not_fooled_by_the_norm() -> None:
    rng = np.random.default_rng(0)
    count = 6000
    first = rng.random(count) < 0.5
    norm = rng.gamma(4.0, size=count) + np.where(first, 1.0, 0.0)
    y = np.stack([2 * norm + np.where(first, 0.7, 0.0), 2 * norm], axis=1)
    y += 0.3 * rng.normal(size=y.shape)
    trials = Trials(np.ones((count, 2), bool), y, np.arange(count) % 40, np.zeros(count, int))
    found = estimate.matched(trials, first, ~first, norm, bins=80)
    assert found.value == pytest.approx([0.7, 0.0], abs=0.1)
    raw = y[first].mean(0) - y[~first].mean(0)
    assert raw[1] > 1.5


def test_an_open_direction_of_the_design_is_counted_and_gets_no_made_up_number() -> None:
    rng = np.random.default_rng(0)
    x = np.zeros((2000, 6), bool)
    for row in x:  # one of the first three and one of the last three, always
        row[rng.integers(3)] = row[3 + rng.integers(3)] = True
    y = x @ np.array([1.0, 2.0, 3.0, 0.0, 0.0, 1.0])
    trials = Trials(x, y[:, None], np.arange(2000) % 20, np.zeros(2000, int))
    assert estimate.open_directions(trials) == 1
    found = estimate.contributions(trials).value[:, 0]
    assert np.diff(found[:3]) == pytest.approx([1, 1]) and np.diff(found[3:]) == pytest.approx([0, 1])
    assert estimate.open_directions(drawn(0)) == estimate.open_directions(drawn(0, k=(3, 3))) == 0


@pytest.mark.parametrize("prompts", [1, 3])
def test_too_few_prompts_give_no_interval(prompts: int) -> None:
    full = drawn(0)
    trials = Trials(full.x, full.y, full.prompt % prompts, full.cell)
    found = estimate.contributions(trials)
    assert np.isfinite(found.value).all() and np.isnan(found.error).all()


def test_a_mean_has_its_interval_over_prompts_not_over_trials() -> None:
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(40), 100)
    y = rng.normal(size=40)[prompt] + 0.01 * rng.normal(size=4000)
    found = estimate.means(Trials(np.zeros((4000, 0), bool), y[:, None], prompt, prompt * 0))
    low, high = found.interval()
    assert 0.4 < float(high[0] - low[0]) < 0.9  # 2 x 1.96 / sqrt(40) = 0.62; over trials it would be 0.06


def test_the_jackknife_of_a_mean_is_its_textbook_error() -> None:
    rng = np.random.default_rng(1)
    values: Any = rng.normal(size=30)
    found = estimate.means(Trials(np.zeros((30, 0), bool), values[:, None], np.arange(30), np.zeros(30, int)))
    assert found.error[0] == pytest.approx(values.std(ddof=1) / np.sqrt(30))
