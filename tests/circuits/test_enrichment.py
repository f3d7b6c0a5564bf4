"""Tests of sets of nodes: exact against brute enumeration, and as rare on noise as they say."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from steerscope.circuits.enrichment import Matched, compared, counted_in, ranked, summed, thirds

STRATA = [0] * 5 + [1] * 4 + [2] + [3] * 3  # the third has no other choice, of the fourth all are in
MEMBERS = np.isin(np.arange(13), [0, 3, 6, 9, 10, 11, 12])


def every_set(strata: list[int], members: NDArray[np.bool_]) -> list[set[int]]:
    """All sets with as many nodes in every stratum, by filtering all sets of that size."""
    wanted = [strata[place] for place in np.flatnonzero(members)]
    return [
        set(choice)
        for choice in combinations(range(len(strata)), len(wanted))
        if sorted(strata[place] for place in choice) == sorted(wanted)
    ]


def test_the_sets_of_its_make_are_all_that_there_are_and_each_once() -> None:
    matched = Matched(STRATA, MEMBERS)
    found, whole = matched.others(1000, 0)
    varied = set(range(9))
    expected = {frozenset(one & varied) for one in every_set(STRATA, MEMBERS)}
    assert whole and {frozenset(np.flatnonzero(row).tolist()) for row in found} == expected
    assert len(found) == len(expected) == matched.count == 40
    assert list(np.flatnonzero(matched.tested)) == [0, 3, 6]


def test_drawn_sets_have_as_many_nodes_of_every_stratum() -> None:
    matched = Matched(STRATA, MEMBERS)
    found, whole = matched.others(39, 1)
    assert not whole and len(found) == 39 and not found[:, 9:].any()
    assert (found[:, :5].sum(1) == 2).all() and (found[:, 5:9].sum(1) == 1).all()
    assert len({row.tobytes() for row in found}) > 15
    again, _ = matched.others(39, 1)
    assert (again == found).all()


@pytest.mark.parametrize("carriers", [[0, 6], [1, 2, 5], [0, 3, 6, 9, 12], [], list(range(13)), [9, 10]])
def test_p_of_a_number_of_carriers_is_that_of_enumerating_all_sets(carriers: list[int]) -> None:
    flags = np.isin(np.arange(13), carriers)
    found = counted_in(Matched(STRATA, MEMBERS), flags)
    counts = [len(one & set(carriers) & set(range(9))) for one in every_set(STRATA, MEMBERS)]
    value = len({0, 3, 6} & set(carriers))
    assert found.value == value and found.expected == pytest.approx(np.mean(counts))
    assert found.above == pytest.approx(np.mean([count >= value for count in counts]))
    assert found.below == pytest.approx(np.mean([count <= value for count in counts]))
    assert found.least == pytest.approx(np.mean([count == max(counts) for count in counts]))


def test_small_samples_say_how_small_p_can_be() -> None:
    matched = Matched([0] * 12, np.arange(12) < 3)
    two, one = (counted_in(matched, np.arange(12) < count) for count in (2, 1))
    assert (round(two.above, 3), round(two.least, 3)) == (0.045, 0.045)
    assert one.above == one.least == pytest.approx(0.25)


def test_p_of_a_sum_is_the_share_of_all_sets_with_as_much() -> None:
    scores = np.random.default_rng(0).normal(size=13)
    found = summed(Matched(STRATA, MEMBERS), scores, 1000, 0)
    sums = [sum(scores[place] for place in one if place < 9) for one in every_set(STRATA, MEMBERS)]
    value = scores[[0, 3, 6]].sum()
    assert found.value == pytest.approx(value) and found.expected == pytest.approx(np.mean(sums))
    assert found.above == pytest.approx(np.mean([one >= value - 1e-9 for one in sums]))
    drawn = summed(Matched(STRATA, MEMBERS), scores, 39, 0)
    assert drawn.least == 1 / 40 and drawn.sets == 39
    assert drawn.above == pytest.approx(found.above, abs=0.25)


def test_of_a_large_circuit_p_is_found_and_the_sets_fit_a_table() -> None:
    layers, dice = np.repeat(np.arange(12), 12), np.random.default_rng(0)
    matched = Matched(layers.tolist(), dice.random(144) < 0.4)
    found = counted_in(matched, dice.random(144) < 0.2)
    assert matched.count > 2**63 and np.array([found.sets]).dtype == np.int64
    assert 0 < found.least < found.above <= 1 and found.above + found.below > 1


def test_equal_values_that_differ_by_rounding_are_ties() -> None:
    found = compared(0.1 + 0.2, np.array([0.3, 0.3, 0.3, 0.1]), False)
    assert found.above == 4 / 5 and found.below == 1.0
    itself = compared(1.0, np.array([1.0 - 1e-5, 0.5, 0.2, 0.1]), True)  # the same set, run in another batch
    assert itself.above == itself.least == 1 / 4


def test_thirds_are_of_each_stratum() -> None:
    sizes = np.array([9.0, 1.0, 5.0, 300.0, 100.0, 200.0, 7.0])
    made = thirds([0, 0, 0, 1, 1, 1, 2], sizes)
    assert [third for _, third in made] == [2, 0, 1, 2, 0, 1, 0]
    assert [stratum for stratum, _ in made] == [0, 0, 0, 1, 1, 1, 2]


def test_ranks_that_agree_by_layer_alone_are_no_agreement() -> None:
    dice = np.random.default_rng(0)
    layers = np.repeat(np.arange(4), 6)
    first, second = (10.0 * layers + dice.random(24) for _ in range(2))
    by_layer = ranked(first, second, layers.tolist(), 200, 0)
    assert by_layer.value > 0.6 and by_layer.above > 0.05
    assert ranked(first, first, layers.tolist(), 200, 0).above < 0.01
    alone = ranked(first[::6], second[::6], layers[::6].tolist(), 200, 0)
    assert alone.sets == 0 and alone.above == alone.least == 1.0


def false_alarms(trials: int, pooled: bool) -> float:
    """How often a circuit of random heads is told to carry more, by the sum or the count: effects and how many heads of
    a layer are in circuits both depend on depth, and on nothing else."""
    dice = np.random.default_rng(5)
    layers = np.repeat(np.arange(6), 8)
    told = 0
    for trial in range(trials):
        scores = np.exp(0.8 * layers) * dice.standard_t(3, size=48) ** 2
        members = dice.random(48) < (0.05 + 0.1 * layers)
        if not members.any() or members.all():
            continue
        carriers = scores > np.quantile(scores, 0.8)
        matched = Matched([0] * 48 if pooled else layers.tolist(), members)
        p = min(summed(matched, scores, 199, trial).above, counted_in(matched, carriers).above)
        told += 2 * p < 0.05
    return told / trials


def test_random_circuits_are_told_no_more_often_than_stated_where_layers_are_kept_apart() -> None:
    assert false_alarms(250, pooled=False) <= 0.05 + 2 * (0.05 * 0.95 / 250) ** 0.5
    assert false_alarms(100, pooled=True) > 0.1  # why strata are needed


@pytest.mark.slow
def test_random_circuits_are_told_no_more_often_than_stated_in_many_trials() -> None:
    assert false_alarms(5000, pooled=False) <= 0.05 + 2 * (0.05 * 0.95 / 5000) ** 0.5
