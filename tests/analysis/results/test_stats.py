"""Statistics against scipy and against planted truth."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from steerscope.analysis.results.stats import (
    benjamini_hochberg,
    carrier_p,
    holm,
    interval,
    ratio_interval,
    sign_flip_p,
    stability,
)


def test_sign_flips_equal_scipys_exact_permutation_test() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, size=(5, 9))
    expected = scipy_stats.permutation_test(  # type: ignore[call-overload]
        (values,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
        axis=1,
    ).pvalue
    np.testing.assert_allclose(sign_flip_p(values), expected)


def test_random_sign_flips_come_close_to_the_t_test_on_many_prompts() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, size=(4, 40))
    np.testing.assert_allclose(sign_flip_p(values), scipy_stats.ttest_1samp(values, 0, axis=1).pvalue, atol=0.015)


def test_no_effect_at_all_has_p_one() -> None:
    assert sign_flip_p(np.zeros((2, 12))).tolist() == [1.0, 1.0]


def test_a_prompt_that_counts_twice_does_not_flip_twice() -> None:
    values = np.array([[1.0, 2.0, 3.0]])
    assert sign_flip_p(values, weights=np.array([2.0, 1.0, 1.0]))[0] == pytest.approx(2 / 8)


def test_the_smallest_p_is_two_over_all_sign_patterns() -> None:
    assert sign_flip_p(np.ones(10)) == pytest.approx(2 / 2**10)


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, 0.04, 0.02])


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    values = np.random.default_rng(2).normal(1.0, 1, size=(300, 30))
    low, high = interval(values, level=0.9)
    covered = ((low <= 1.0) & (high >= 1.0)).mean()
    assert 0.82 <= covered <= 0.95


def test_one_prompt_has_no_interval_and_a_constant_has_its_value() -> None:
    assert np.isnan(interval(np.ones((3, 1)))[0]).all()
    low, high = interval(np.array([[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]]))
    assert low[0] == high[0] == 2.0
    assert low[1] < 7 / 3 < high[1]


def test_the_interval_of_a_ratio_resamples_prompts_together() -> None:
    whole = np.random.default_rng(3).uniform(1, 5, 20)
    low, high = ratio_interval(0.4 * whole, whole)
    assert low == pytest.approx(0.4) and high == pytest.approx(0.4)


def test_a_planted_carrier_becomes_significant_at_the_default_sizes_and_false_ones_rarely_do() -> None:
    """156 nodes, 32 prompts, 20 references: six carriers of one standard deviation above their references."""
    generator = np.random.default_rng(4)
    false, missed, repeats = 0, 0.0, 40
    for _ in range(repeats):
        reference = generator.normal(0, 1, (156, 20, 32)).mean(1)
        effect = generator.normal(0, 1, (156, 32))
        effect[:6] += 1.3
        found = benjamini_hochberg(carrier_p(effect, reference)) < 0.05
        missed += float((~found[:6]).sum())
        false += bool(found[6:].any())
    assert missed / (6 * repeats) < 0.05
    assert false / repeats < 0.35  # of ~6 found, one false in 3 runs would be a rate of 0.05


def test_a_node_that_does_less_than_its_reference_is_no_carrier() -> None:
    noise = np.random.default_rng(5).normal(0, 0.01, (2, 16))
    effect = np.array([[0.5], [2.0]]) + noise
    reference = np.ones((2, 16))
    p = carrier_p(effect, reference)
    assert p[0] == 1.0 and p[1] < 0.001


def test_a_steady_list_overlaps_with_itself_on_resampled_prompts() -> None:
    overlap, share = stability(lambda weights: np.array([True, False, True]), prompts=10)
    assert overlap.tolist() == [1.0] * 100 and share.tolist() == [1.0, 0.0, 1.0]


def test_an_unsteady_list_does_not() -> None:
    overlap, _ = stability(lambda weights: weights[:2] > 0, prompts=8)
    assert 0 < np.nanmean(overlap) < 1


@pytest.mark.parametrize("prompts", [6, 40])
@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_of_what_is_missing_nothing_is_claimed(prompts: int, missing: float) -> None:
    values = np.ones((3, prompts))
    values[1, 2] = missing
    with np.errstate(invalid="ignore"):
        p = sign_flip_p(values)
        carrier = carrier_p(values, np.zeros_like(values))
    assert p[1] == carrier[1] == 1.0 and (p[[0, 2]] < 0.05).all() and (carrier[[0, 2]] < 0.05).all()
