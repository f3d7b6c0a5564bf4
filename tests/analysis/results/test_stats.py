"""Statistics against scipy, against slow references by hand, and against simulation."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from steerscope.analysis.results.stats import (
    benjamini_hochberg,
    draws,
    effective,
    holm,
    interval,
    mean_interval,
    nonzero_p,
    numbered,
    percentiles,
    prediction_p,
    ratio_interval,
    resampled,
    stability,
    standard_error,
    told_apart,
)

Values = NDArray[np.float64]
CLUSTERS = np.array([4, 4, 4, 7, 7, 0, 2, 2, 2, 2])  # any numbers, groups of different sizes


def jackknife(values: Values, groups: Any) -> tuple[float, int]:
    """Standard error of a mean by group (CV3): means with each group left out in turn, in plain loops."""
    names = sorted(set(groups))
    left = []
    for name in names:
        kept = [value for value, group in zip(values, groups, strict=True) if group != name]
        left.append(sum(kept) / len(kept))
    count = len(names)
    centre = sum(left) / count
    return math.sqrt((count - 1) / count * sum((x - centre) ** 2 for x in left)), count - 1


def test_where_every_prompt_is_a_group_it_is_the_usual_t() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, size=(5, 9))
    expected = scipy_stats.ttest_1samp(values, 0, axis=1)
    for groups in (None, np.arange(9), np.arange(9)[::-1] * 3):
        np.testing.assert_allclose(nonzero_p(values, groups), expected.pvalue)
        for level in (0.8, 0.95):
            ends = expected.confidence_interval(level)
            low, high = interval(values, level, groups)
            np.testing.assert_allclose(low, ends.low)
            np.testing.assert_allclose(high, ends.high)


@pytest.mark.parametrize("groups", [CLUSTERS, np.arange(10) // 2, np.array([0] * 9 + [1])])
def test_by_group_its_error_is_that_of_the_delete_group_jackknife(groups: Any) -> None:
    values = np.random.default_rng(1).normal(0.4, 1, size=(4, 10))
    low, high = interval(values, 0.9, groups)
    for row, p, left, right in zip(values, nonzero_p(values, groups), low, high, strict=True):
        error, freedom = jackknife(row, groups)
        found = standard_error(row, groups)
        assert [float(found[0]), found[1]] == pytest.approx([error, freedom])
        assert p == pytest.approx(2 * scipy_stats.t.sf(abs(row.mean()) / error, freedom))
        half = scipy_stats.t.ppf(0.95, freedom) * error
        assert (left, right) == (pytest.approx(row.mean() - half), pytest.approx(row.mean() + half))


def test_copies_of_prompts_say_no_more_than_the_prompts() -> None:
    values = np.random.default_rng(2).normal(0.5, 1, size=(3, 7))
    copied, groups = np.repeat(values, 4, axis=1), np.repeat(np.arange(7), 4)
    np.testing.assert_allclose(interval(copied, 0.95, groups), interval(values, 0.95))
    np.testing.assert_allclose(nonzero_p(copied, groups), nonzero_p(values))


@pytest.mark.parametrize("groups", [np.zeros(6, dtype=int), np.full(6, 3)])
def test_one_group_says_nothing(groups: Any) -> None:
    values = np.random.default_rng(3).normal(5, 1, size=(2, 6))
    assert np.isnan(interval(values, 0.95, groups)).all() and (nonzero_p(values, groups) == 1.0).all()
    assert np.isnan(resampled(values, groups)[1:]).all()
    assert np.isnan(percentiles(resampled(values, groups), groups=1)).all()
    overlap, share = stability(lambda weights: np.array([True, True]), groups)
    assert np.isnan(overlap).all() and np.isnan(share).all()
    assert np.isnan(ratio_interval(values, values[0], groups=groups)).all()


def test_one_prompt_has_no_interval_and_a_constant_has_its_value() -> None:
    assert np.isnan(interval(np.ones((3, 1)))[0]).all() and (nonzero_p(np.ones((3, 1))) == 1).all()
    low, high = interval(np.array([[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]]))
    assert low[0] == high[0] == 2.0
    assert low[1] < 7 / 3 < high[1]
    assert nonzero_p(np.array([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])).tolist() == [0.0, 1.0]
    assert np.isnan(mean_interval(np.array([]))).all()
    values = np.array([1.0, 2.0, 4.0])
    assert mean_interval(values, 0.9) == (values.mean(), *map(float, interval(values, 0.9)))


def test_groups_of_equal_size_give_the_cluster_robust_error_of_liang_and_zeger() -> None:
    values, groups = np.random.default_rng(18).normal(size=(3, 12)), np.arange(12) // 3
    off = values - values.mean(axis=1, keepdims=True)
    sums = off.reshape(3, 4, 3).sum(axis=2)
    expected = np.sqrt(4 / 3 * np.square(sums).sum(axis=1)) / 12
    np.testing.assert_allclose(standard_error(values, groups)[0], expected)


@pytest.mark.parametrize("per_group", [1, 4])
@pytest.mark.parametrize("count", [4, 8, 16])
def test_intervals_cover_the_mean_and_tests_err_as_often_as_they_say(count: int, per_group: int) -> None:
    """96% of the variance lies between groups, as between templates."""
    generator = np.random.default_rng(4)
    groups = np.repeat(np.arange(count), per_group)
    values = 1.0 + generator.normal(0, 1, (4000, count))[:, groups] + generator.normal(0, 0.2, (4000, len(groups)))
    low, high = interval(values, 0.95, groups)
    assert ((low <= 1.0) & (high >= 1.0)).mean() == pytest.approx(0.95, abs=0.015)
    assert (nonzero_p(values - 1.0, groups) < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    if per_group > 1:  # what taking them as independent would have given
        assert (nonzero_p(values - 1.0) < 0.05).mean() > 0.2


@pytest.mark.parametrize("sizes", [(1, 1, 2, 2, 3, 3, 8, 8), (1, 2, 3, 4, 5, 6, 7, 8, 9, 20)])
def test_groups_of_unequal_size_make_it_little_bolder(sizes: tuple[int, ...]) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    generator = np.random.default_rng(19)
    values = generator.normal(0, 1, (4000, len(sizes)))[:, groups] + generator.normal(0, 0.3, (4000, len(groups)))
    rate = (nonzero_p(values, groups) < 0.05).mean()
    off = values - values.mean(axis=1, keepdims=True)
    sums = np.stack([off[:, groups == g].sum(axis=1) for g in range(len(sizes))], axis=1)
    usual = np.sqrt(len(sizes) / (len(sizes) - 1) * np.square(sums).sum(axis=1)) / len(groups)  # Liang and Zeger
    t = np.abs(values.mean(axis=1)) / usual
    assert 0.01 < rate < 0.09 and rate < (2 * scipy_stats.t.sf(t, len(sizes) - 1) < 0.05).mean()


def test_an_interval_leaves_zero_out_exactly_where_the_test_says_so() -> None:
    values = np.random.default_rng(5).normal(0.6, 1, size=(500, 10))
    further = np.full(500, 0.1)
    for more in (0.0, further):
        low, high = interval(values, 0.95, CLUSTERS, more)
        p = nonzero_p(values, CLUSTERS, more)
        assert ((low * high > 0) == (p < 0.05)).all() and 0.05 < (p < 0.05).mean() < 0.95


def test_further_error_is_added_in_squares() -> None:
    values = np.random.default_rng(6).normal(1, 1, size=(3, 12))
    further = np.array([0.0, 0.3, 2.0])
    error, freedom = standard_error(values)
    low, high = interval(values, 0.95, None, further)
    both = np.sqrt(error**2 + further**2)
    np.testing.assert_allclose((high - low) / 2, scipy_stats.t.ppf(0.975, freedom) * both)
    np.testing.assert_allclose(
        nonzero_p(values, None, further), 2 * scipy_stats.t.sf(np.abs(values.mean(-1)) / both, freedom)
    )


@pytest.mark.parametrize("prompts", [6, 40])
@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_of_what_is_missing_nothing_is_claimed(prompts: int, missing: float) -> None:
    values = np.ones((3, prompts)) + 0.01 * np.arange(prompts)
    values[1, 2] = missing
    with np.errstate(invalid="ignore"):
        p = nonzero_p(values)
    assert p[1] == 1.0 and (p[[0, 2]] < 0.05).all()
    others = np.random.default_rng(7).normal(size=(8, 3))
    with np.errstate(invalid="ignore"):
        found = prediction_p(np.array([50.0, missing, 50.0]), others)
    assert found[1] == 1.0 and (found[[0, 2]] < 0.05).all()


def test_a_new_value_among_others_by_hand() -> None:
    generator = np.random.default_rng(8)
    others, values = generator.normal(3, 2, (7, 4)), generator.normal(3, 4, 4)
    found = prediction_p(values, others)
    for n in range(4):
        t = (values[n] - others[:, n].mean()) / (others[:, n].std(ddof=1) * math.sqrt(1 + 1 / 7))
        assert found[n] == pytest.approx(2 * scipy_stats.t.sf(abs(t), 6))
        # The same test, as the two-sample t with a sample of one.
        one = scipy_stats.ttest_ind([values[n]], others[:, n])
        assert found[n] == pytest.approx(one.pvalue)


def test_missing_others_are_left_out_and_too_few_or_equal_ones_say_nothing() -> None:
    others = np.random.default_rng(9).normal(size=(6, 1))
    gaps = np.concatenate([others, np.full((3, 1), np.nan)])
    np.testing.assert_allclose(prediction_p(np.array([2.0]), gaps), prediction_p(np.array([2.0]), others))
    assert prediction_p(np.array([2.0]), others[:1])[0] == 1.0
    assert prediction_p(np.array([2.0]), others[:0])[0] == 1.0
    assert prediction_p(np.array([2.0]), np.full((5, 1), np.nan))[0] == 1.0
    assert prediction_p(np.array([2.0]), np.full((5, 1), 2.0))[0] == 1.0


@pytest.mark.parametrize("count", [4, 12])
def test_one_more_of_the_others_is_told_from_them_as_often_as_it_says(count: int) -> None:
    drawn = np.random.default_rng(10).normal(2, 3, (1 + count, 20_000))
    p = prediction_p(drawn[0], drawn[1:])
    for alpha in (0.01, 0.05, 0.2):
        assert (p < alpha).mean() == pytest.approx(alpha, rel=0.12)


@pytest.mark.parametrize(("others", "tests"), [(4, 1), (12, 22), (20, 240)])
def test_so_many_spreads_off_is_just_told(others: int, tests: int) -> None:
    values = np.random.default_rng(11).normal(size=others)
    for factor, told in ((0.999, False), (1.001, True)):
        off = values.mean() + factor * told_apart(others, tests) * values.std(ddof=1)
        p = np.ones(tests)
        p[0] = prediction_p(np.array(off), values)
        assert (holm(p)[0] < 0.05) == told


def test_with_fewer_than_two_others_nothing_is_ever_told() -> None:
    assert told_apart(1, 5) == told_apart(0, 5) == math.inf
    assert told_apart(8, 0) == told_apart(8, 1) < told_apart(8, 2)


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, 0.04, 0.02])


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_tests_that_were_not_made_count_as_p_one(correct: Any) -> None:
    p = np.random.default_rng(12).uniform(0, 0.05, 6)
    np.testing.assert_allclose(correct(p, 10), correct(np.concatenate([p, np.ones(4)]))[:6])
    np.testing.assert_allclose(correct(p, 3), correct(p))
    assert len(correct(p[:0], 3)) == 0 and (correct(p, 10) > correct(p)).any()


def test_the_interval_of_a_share_takes_part_and_whole_from_the_same_prompts() -> None:
    whole = np.random.default_rng(13).uniform(1, 5, 20)
    low, high = ratio_interval(0.4 * whole, whole)
    assert low == pytest.approx(0.4) and high == pytest.approx(0.4)


def test_the_interval_of_a_share_is_a_t_interval_of_its_linear_part_by_hand() -> None:
    generator = np.random.default_rng(14)
    whole = generator.normal(5, 1, 10)
    part = 0.3 * whole + generator.normal(0, 0.5, (2, 10))
    low, high = ratio_interval(part, whole, 0.9, CLUSTERS)
    for row, left, right in zip(part, low, high, strict=True):
        ratio = row.mean() / whole.mean()
        error, freedom = jackknife((row - ratio * whole) / whole.mean(), CLUSTERS)
        half = scipy_stats.t.ppf(0.95, freedom) * error
        assert (left, right) == (pytest.approx(ratio - half), pytest.approx(ratio + half))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_interval_of_a_share_covers_it_as_often_as_it_says(sign: float) -> None:
    generator, covered = np.random.default_rng(15), []
    groups = np.repeat(np.arange(12), 2)
    for _ in range(800):
        between = generator.normal(0, 1, 12)[groups]
        whole = sign * (6 + between + generator.normal(0, 0.3, 24))
        part = sign * (0.3 * (6 + between) + generator.normal(0, 0.4, 12)[groups])
        low, high = ratio_interval(part, whole, 0.95, groups)
        covered.append(low <= 0.3 <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_a_share_of_what_may_be_nothing_has_no_interval() -> None:
    whole = np.array([1.0, -1.1, 0.9, -0.8])
    assert np.isnan(ratio_interval(np.ones((2, 4)), whole)).all()


def test_whole_groups_are_drawn_again_and_the_first_is_what_there_is() -> None:
    groups = numbered(CLUSTERS, 10)
    weights = draws(groups, 3, 200)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    for row in weights:
        assert all(len(set(row[groups == g])) == 1 for g in range(4))  # all of a group, or none of it
        times = row / row[row > 0].min()
        np.testing.assert_allclose(times, times.round())
    assert len({tuple(row) for row in weights.round(9)}) > 10
    values = np.random.default_rng(16).normal(size=(2, 10))
    means = resampled(values, CLUSTERS, seed=3, resamples=200)
    np.testing.assert_allclose(means[0], values.mean(axis=1))
    np.testing.assert_allclose(means[1:], weights @ values.T)
    assert (resampled(values, CLUSTERS, 3) == resampled(values, CLUSTERS, 3)).all()
    assert (resampled(values, CLUSTERS, 3)[1:] != resampled(values, CLUSTERS, 4)[1:]).any()


def test_every_group_is_drawn_as_often_as_any_other() -> None:
    weights = draws(np.arange(6), 0, 4000)
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 6, atol=0.01)


def test_percentiles_are_moved_out_for_few_groups() -> None:
    means = np.concatenate([[0.0], np.linspace(0, 1, 10_001)])  # the first is what there is, and no resample
    np.testing.assert_allclose(percentiles(means, 0.9), (0.05, 0.95), atol=1e-6)
    for count in (3, 8, 40):
        tail = scipy_stats.norm.cdf(math.sqrt(count / (count - 1)) * scipy_stats.t.ppf(0.05, count - 1))
        np.testing.assert_allclose(percentiles(means, 0.9, count), (tail, 1 - tail), atol=1e-6)
    widths = [np.ptp(percentiles(means, 0.9, count)) for count in (3, 8, 40, 10_000)]
    assert widths == sorted(widths, reverse=True) and widths[-1] == pytest.approx(0.9, abs=1e-3)


def test_what_some_resamples_lack_is_left_out() -> None:
    means = np.concatenate([[[0.5, 0.5]], np.stack([np.linspace(0, 1, 101), np.full(101, np.nan)], axis=1)])
    means[1::2, 0] = np.nan
    low, high = percentiles(means, 0.9)
    assert low[0] == pytest.approx(0.05, abs=0.02) and high[0] == pytest.approx(0.95, abs=0.02)
    assert np.isnan([low[1], high[1]]).all()


@pytest.mark.parametrize("count", [8, 16])
def test_percentile_intervals_cover_what_they_say(count: int) -> None:
    values = 1 + np.random.default_rng(17).normal(size=(1500, count))
    low, high = percentiles(resampled(values, None, 0, 999), 0.95, count)
    assert ((low <= 1) & (high >= 1)).mean() >= 0.92


def test_a_steady_list_overlaps_with_itself_on_resampled_prompts() -> None:
    overlap, share = stability(lambda weights: np.array([True, False, True]), np.arange(10))
    assert overlap.tolist() == [1.0] * 100 and share.tolist() == [1.0, 0.0, 1.0]


def test_an_unsteady_list_does_not() -> None:
    overlap, share = stability(lambda weights: weights[:2] > 0, np.arange(8))
    assert 0 < np.nanmean(overlap) < 1 and ((share > 0) & (share < 1)).all()


def test_how_many_independent_prompts_there_are_as_good_as() -> None:
    groups = np.repeat(np.arange(6), 4)
    generator = np.random.default_rng(20)
    same = generator.normal(size=6)[groups]
    assert effective(same, groups) == pytest.approx({"between": 1.0, "effective": 6.0})
    # Within a group as different as between groups: near all of them.
    many = np.array([effective(generator.normal(size=24), groups)["effective"] for _ in range(300)])
    assert np.median(many) > 20 and (many <= 24 + 1e-9).all() and (many >= 6 - 1e-9).all()
    mixed = same + 0.5 * generator.normal(size=24)
    means = np.array([mixed[groups == g].mean() for g in range(6)])
    found = effective(mixed, groups)
    assert found["between"] == pytest.approx(means.var() / mixed.var()) and 6 < found["effective"] < 12
    assert effective(same, np.zeros(24, dtype=int))["effective"] == 1
    assert effective(same, np.arange(24))["effective"] == 24


def test_what_is_never_found_has_no_overlap() -> None:
    overlap, share = stability(lambda weights: np.array([False]), np.arange(5))
    assert np.isnan(overlap).all() and share.tolist() == [0.0]
