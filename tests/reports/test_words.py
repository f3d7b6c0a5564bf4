import math
from collections.abc import Callable

import pytest

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.pages.exact import _carriers

Maker = Callable[..., Result]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (1.5571, "1.56"),
        (-0.07671, "−0.0767"),
        (12345.6, "12,346"),
        (0.00002, "2.0e−05"),
        (math.nan, "–"),
        (None, "–"),
        (math.inf, "–"),
    ],
)
def test_numbers_have_three_digits_and_a_true_minus(value: float | None, text: str) -> None:
    assert words.number(value) == text


def test_intervals_vanish_where_there_are_none() -> None:
    assert words.between(1.0, 2.0) == " [1.00, 2.00]"
    assert words.between(math.nan, 2.0) == ""


def test_the_headline_claims_only_what_passes_holm(maker: Maker) -> None:
    result = maker(layers=1, heads=2, mlp=True, text="wedding")
    table = result.frames["effects"]
    table.loc[table["measure"] == "necessity", "effect"] = [1.0, 0.2, -0.4]
    table.loc[table["measure"] == "necessity", "share"] = [0.5, 0.1, -0.2]
    table.loc[table["measure"] == "necessity", "p_holm"] = [0.001, 0.2, 0.01]
    table.loc[table["measure"] == "necessity", "reach"] = ["specific", "none", "general"]
    first, second, third = _carriers(result)
    assert first.startswith(
        '1 of 3 heads and MLPs of model wedding carry 3 × ("wedding" - " ") at L0.resid_pre, front, above all '
        "L0H0 (50%)"
    )
    assert "; working against it: L0M (−20%)." in first and "L0H1" not in first
    assert "+2.00 nats [1.50, 2.50] (random vectors of equal norm: +0.100 [−0.200, 0.400])" in second
    assert "70% [60%, 80%]" in second and "not the sum" in second
    assert "specific" in third.lower() and "L0H0" in third


def test_nothing_found_is_said_plainly(maker: Maker) -> None:
    result = maker()
    result.frames["effects"]["p_holm"] = 0.9
    first, second = _carriers(result)
    assert first.startswith("No head or MLP of model One day can be called a carrier")
    assert "The whole effect on log prob is" in second
