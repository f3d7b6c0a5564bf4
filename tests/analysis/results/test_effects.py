"""The columns that tables of effects share."""

import numpy as np

from steerscope.analysis.results.effects import AGREEMENT, ENOUGH, agreement


def test_a_correlation_needs_enough_pairs_that_differ() -> None:
    exact = np.arange(float(ENOUGH))
    found = agreement(2 * exact, exact, -10.0)
    assert set(found) == set(AGREEMENT)
    assert found["pearson"] > 0.999 and found["kendall"] > 0.999
    assert (found["worst_error"], found["worst_share"]) == (ENOUGH - 1, (ENOUGH - 1) / 10)
    for few in (agreement(exact[1:], exact[1:], 1.0), agreement(np.ones(ENOUGH), exact, 1.0)):
        assert np.isnan(few["pearson"]) and np.isnan(few["kendall"]) and few["worst_error"] >= 0
    assert np.isnan(agreement(exact[:0], exact[:0], 1.0)["worst_error"])
