"""Estimates against a response function whose main effects and interactions are known: no model."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node
from steerscope.analysis.results.stats import benjamini_hochberg
from steerscope.analysis.sweeps import adding, estimate
from steerscope.analysis.sweeps.comparable import comparable
from steerscope.analysis.sweeps.design import KINDS, Design
from steerscope.analysis.sweeps.estimate import Trials
from steerscope.analysis.sweeps.units import of_node

Array = NDArray[np.float64]
MAIN = np.array([1.0, 0.5, 0.0, 0.0, -0.7, 0.2, 0.0, 0.9])
NODES, PROMPTS = len(MAIN), 60
PAIRS = {(0, 1): -0.6, (2, 5): 0.5}
REPEATS = 150
UNITS = [of_node(Node(layer, head)) for layer in range(4) for head in (0, 1, 2, None)]  # 4 layers of 3 heads and an MLP


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
    scale: Sequence[float] = (0.0,),
) -> Trials:
    """Trials of a known response: prompts differ in every main effect; noise on top."""
    rng = np.random.default_rng(seed)
    prompt = np.arange(trials) // 8 % PROMPTS
    order = rng.random((trials, NODES)).argsort(axis=1).argsort(axis=1)
    x = order < rng.integers(k[0], k[1] + 1, trials)[:, None]
    slopes = main + spread * rng.normal(size=(PROMPTS, NODES))
    cell = rng.integers(len(scale), size=trials)
    together = np.einsum("ti,ij,tj->t", x, interactions(pairs or {}), x)
    y = (x * slopes[prompt]).sum(1) + together + np.asarray(scale)[cell]
    return Trials(x, (y + 0.5 * rng.normal(size=trials))[:, None], prompt, cell)


def covered(found: estimate.Estimate, truth: Array) -> NDArray[np.bool_]:
    low, high = found.interval(0.95)
    return np.asarray((low[:, 0] <= truth) & (truth <= high[:, 0]))


def added(k: tuple[int, int], pairs: dict[tuple[int, int], float]) -> Array:
    """What a node adds, by listing all sets of other nodes; a mean over their numbers."""
    table, found = interactions(pairs), np.zeros(NODES)
    sizes = range(k[0] - 1, k[1])
    for node in range(NODES):
        others = [n for n in range(NODES) if n != node]
        for size in sizes:
            partners = [sum(table[node, r] + table[r, node] for r in rest) for rest in combinations(others, size)]
            found[node] += (MAIN[node] + np.mean(partners)) / len(sizes)
    return found


def contributions(trials: Trials) -> estimate.Estimate:
    """Where the design tells what a node adds."""
    found, adds = adding.contributions(trials)
    assert adds
    return found


def test_intervals_of_main_effects_cover_the_truth_at_their_rate() -> None:
    hits = [covered(contributions(drawn(s)), MAIN) for s in range(REPEATS)]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_intervals_of_marginal_contributions_cover_under_interactions() -> None:
    truth = added((1, 4), PAIRS)
    assert np.abs(truth - MAIN).max() > 0.1  # a node's partners are in its marginal contribution
    hits = [covered(contributions(drawn(s, pairs=PAIRS)), truth) for s in range(REPEATS)]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_with_a_fixed_number_of_nodes_a_contribution_is_what_a_node_does_beyond_the_others() -> None:
    truth = (MAIN - MAIN.mean()) * NODES / (NODES - 1)
    hits = []
    for seed in range(REPEATS):
        found, adds = adding.contributions(drawn(seed, k=(3, 3)))
        assert not adds
        hits.append(covered(found, truth))
    assert 0.92 <= np.mean(hits) <= 0.98


def saturating(seed: int, k: tuple[int, int], towards: int, active: int = 2, inert: int = 14) -> Trials:
    """Some nodes act and saturate together, the others do nothing; prompts respond more and less."""
    rng, count = np.random.default_rng(seed), 1200
    prompt = np.arange(count) // 8 % 40
    order = rng.random((count, active + inert)).argsort(axis=1).argsort(axis=1)
    x = order < rng.integers(k[0], k[1] + 1, count)[:, None]
    slope = 1 + 0.3 * rng.normal(size=40)
    y = towards * slope[prompt] * np.tanh(2.0 * x[:, :active].sum(axis=1)) + 0.3 * rng.normal(size=count)
    return Trials(x, y[:, None], prompt, np.zeros(count, int))


@pytest.mark.parametrize("towards", [1, -1])
@pytest.mark.parametrize("k", [(1, 1), (1, 4), (3, 6)])
def test_nodes_that_do_nothing_are_significant_at_their_rate_where_the_response_saturates(
    k: tuple[int, int], towards: int
) -> None:
    inert, active = [], []
    for seed in range(40):
        found, adds = adding.contributions(saturating(seed, k, towards))
        assert adds
        inert.append(found.p[2:, 0] < 0.05)
        active.append(found.p[:2, 0] < 0.05)
    assert np.mean(inert) <= 1.5 * 0.05 and np.mean(active) > 0.99


@pytest.mark.parametrize("k", [(1, 3), (1, 2)])
def test_nodes_that_do_nothing_have_no_interactions_where_three_others_saturate(k: tuple[int, int]) -> None:
    found = []
    for seed in range(40):
        chosen, _, each = adding.pairs(saturating(seed, k, -1, active=3, inert=5))
        found.append(each.p[(chosen >= 3).any(axis=1), 0] < 0.05)
    assert np.mean(np.concatenate(found)) <= 1.5 * 0.05


def test_with_a_fixed_number_of_nodes_there_are_no_interactions() -> None:
    chosen, together, found = adding.pairs(saturating(0, (3, 3), 1))
    assert len(chosen) == len(together) == len(found.value) == 0


@pytest.mark.parametrize(
    ("kinds", "k", "spacing"),
    [
        (("horizontal",), (1, 3), "any"),
        (("vertical",), (1, 3), "any"),
        (("vertical",), (1, 3), "consecutive"),
        (("stratified",), (1, 6), "any"),
        (KINDS, (1, 2), "any"),
    ],
)
def test_nodes_that_do_nothing_get_nothing_under_every_design(
    kinds: tuple[str, ...], k: tuple[int, int], spacing: str
) -> None:
    """One node in each layer acts, and they saturate together: where a node stands says what acts beside it."""
    inert, active = [], []
    for seed in range(30):
        design = Design(trials=1600, prompts=40, kinds=kinds, k=k, spacing=spacing, controls=0, seed=seed)
        trials = [design.trial(i, UNITS) for i in range(1600)]
        x = np.zeros((len(trials), len(UNITS)), bool)
        for row, trial in zip(x, trials, strict=True):
            row[list(trial.units)] = True
        rng, of = np.random.default_rng(seed), np.array([KINDS.index(t.kind) for t in trials])
        acting = np.arange(len(UNITS)) % 4 == 1
        y = np.tanh(1.5 * x[:, acting].sum(axis=1)) + 0.2 * rng.normal(size=len(trials))
        prompt = np.array([t.prompt for t in trials])
        where = comparable(x, of, UNITS, spacing)
        found, adds = adding.contributions(Trials(x, y[:, None], prompt, prompt * 0, prompt, of, *where))
        assert adds
        inert.append(found.p[~acting, 0] < 0.05)
        active.append(found.p[acting, 0] < 0.05)
    assert np.mean(inert) <= 1.5 * 0.05 and np.mean(active) > 0.9


def test_prompts_of_a_group_are_left_out_together_and_intervals_cover_from_eight_groups_on() -> None:
    """Copies and templates: slopes are those of the group; by prompt the same intervals would cover too little."""
    for groups in (8, 20):
        hits, by_prompt, false = [], [], []
        for seed in range(80):
            rng, count = np.random.default_rng(seed), 960
            prompt = np.arange(count) // 8 % 40
            of = np.arange(40) % groups
            order = rng.random((count, NODES)).argsort(axis=1).argsort(axis=1)
            x = order < rng.integers(1, 4, count)[:, None]
            slopes = MAIN + 0.5 * rng.normal(size=(groups, NODES))
            y = ((x * slopes[of[prompt]]).sum(axis=1) + 0.2 * rng.normal(size=count))[:, None]
            trials = Trials(x, y, prompt, prompt * 0, of[prompt])
            assert all(len(set(trials.group[of[prompt] == g])) == 1 for g in range(groups))
            found = contributions(trials)
            hits.append(covered(found, MAIN))
            false.append(found.p[MAIN == 0, 0] < 0.05)
            by_prompt.append(covered(contributions(Trials(x, y, prompt, prompt * 0)), MAIN))
        assert np.mean(hits) >= 0.92 and np.mean(false) <= 1.5 * 0.05
        assert np.mean(by_prompt) < 0.9


def test_intervals_of_interactions_cover_the_truth_at_their_rate() -> None:
    hits = []
    for seed in range(REPEATS):
        chosen, _, found = adding.pairs(drawn(seed, pairs=PAIRS, k=(1, 3)))
        assert len(chosen) == NODES * (NODES - 1) // 2
        hits.append(covered(found, interactions(PAIRS)[chosen[:, 0], chosen[:, 1]]))
    assert 0.93 <= np.mean(hits) <= 0.97


def test_false_discoveries_among_interactions_stay_below_their_rate() -> None:
    """A third of the pairs interact; Benjamini-Hochberg at 5% then makes 3.3% false discoveries on average."""
    real = {(0, j): -0.6 for j in range(1, 6)} | {(6, 7): 0.6, (2, 5): 0.5, (3, 6): -0.7, (1, 7): 0.8}
    shares, power = [], []
    for seed in range(60):
        chosen, _, found = adding.pairs(drawn(seed, pairs=real, trials=4800))
        discovered = benjamini_hochberg(found.p[:, 0]) < 0.05
        true = interactions(real)[chosen[:, 0], chosen[:, 1]] != 0
        shares.append((discovered & ~true).sum() / max(1, discovered.sum()))
        power.append(discovered[true].mean())
    assert np.mean(shares) <= 0.05
    assert np.mean(power) > 0.8


def test_false_discoveries_among_nodes_stay_below_their_rate() -> None:
    shares = []
    main = np.where(np.arange(NODES) < 4, MAIN, 0.0)
    for seed in range(100):
        found = contributions(drawn(seed, main=main))
        discovered = benjamini_hochberg(found.p[:, 0]) < 0.05
        shares.append((discovered & (main == 0)).sum() / max(1, discovered.sum()))
    assert np.mean(shares) <= 0.05


def test_differences_are_means_in_minus_means_out() -> None:
    trials = drawn(1, trials=4800, spread=0.0)
    found = estimate.differences(trials)
    for unit in range(NODES):
        inside = trials.x[:, unit]
        plain = trials.y[inside].mean() - trials.y[~inside].mean()
        assert found.value[unit, 0] == pytest.approx(plain, abs=0.08)


def test_coefficients_and_vectors_are_no_part_of_a_contribution() -> None:
    found = contributions(drawn(3, scale=(0.0, 5.0, -3.0), trials=4800))
    assert np.abs(found.value[:, 0] - MAIN).max() < 0.25


def test_interactions_are_found_and_counted_and_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = drawn(5, pairs=PAIRS, trials=9600)
    chosen, together, found = adding.pairs(trials)
    truth = interactions(PAIRS)[chosen[:, 0], chosen[:, 1]]
    assert np.abs(found.value[:, 0] - truth).max() < 0.3
    i, j = chosen[3]
    assert together[3] == (trials.x[:, i] & trials.x[:, j]).sum()
    monkeypatch.setattr(adding, "BATCH", 3)
    _, _, again = adding.pairs(trials)
    np.testing.assert_allclose(again.value, found.value, atol=1e-9)
    np.testing.assert_allclose(again.replicates, found.replicates, atol=1e-9)


def test_each_random_vector_has_contributions_from_its_own_trials() -> None:
    trials = drawn(2, trials=9600, spread=0.0)
    vector = np.arange(9600) // 8 % 4
    trials = Trials(trials.x, trials.y * (1 + vector)[:, None], trials.prompt, trials.cell)
    found = adding.of_each(trials, vector)
    assert found.shape == (4, NODES, 1)
    np.testing.assert_allclose(found[:, :, 0], MAIN * np.arange(1, 5)[:, None], atol=0.5)
    assert np.abs(found[0, :, 0] - MAIN).max() < 0.3


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


def test_what_a_design_cannot_tell_gets_no_made_up_number() -> None:
    rng = np.random.default_rng(0)
    x = np.zeros((2000, 6), bool)
    for row in x:  # one of the first three and one of the last three, always
        row[rng.integers(3)] = row[3 + rng.integers(3)] = True
    y = x @ np.array([1.0, 2.0, 3.0, 0.0, 0.0, 1.0])
    of = np.full(2000, KINDS.index("vertical"))
    units = [of_node(Node(layer, head)) for layer in range(2) for head in range(3)]
    where = comparable(x, of, units)
    prompt = np.arange(2000) % 20
    found, adds = adding.contributions(Trials(x, y[:, None], prompt, prompt * 0, prompt, of, *where))
    assert not adds
    # Each against the mean of the others of its layer: nothing is said between layers.
    assert found.value[:, 0] == pytest.approx([-1.5, 0.0, 1.5, -0.5, -0.5, 1.0], abs=0.02)


@pytest.mark.parametrize("prompts", [1, 3])
def test_too_few_prompts_give_no_interval(prompts: int) -> None:
    full = drawn(0)
    trials = Trials(full.x, full.y, full.prompt % prompts, full.cell)
    found = contributions(trials)
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
