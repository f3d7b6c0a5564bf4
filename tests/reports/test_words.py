import math
from types import SimpleNamespace
from typing import Any

import pytest

from steerscope.analysis.results.verdicts import VERDICTS
from steerscope.reports import words
from steerscope.reports.theme import MARKS, key


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


def row(**more: Any) -> SimpleNamespace:
    nothing = dict.fromkeys(("p_noise", "p_concepts", "p_holm", "p_specific", "reference", "concepts"), math.nan)
    return SimpleNamespace(**{**nothing, "noise_share": math.nan, "concepts_share": math.nan, "p": 0.5} | more)


def test_a_share_stands_beside_those_of_the_references_that_there_are() -> None:
    assert words.beside(row()) == ""
    assert words.beside(row(noise_share=0.05)) == "; random vectors 5%"
    both = row(noise_share=0.05, concepts_share=0.16)
    assert words.beside(both) == "; other concepts 16%, random vectors 5%"


def test_clouds_are_named_only_where_they_are() -> None:
    assert words.clouds(row()) == "no reference vectors to compare with"
    some = row(reference=0.1, reference_low=0.0, reference_high=0.2, concepts=1.0, concepts_low=0.5, concepts_high=2.0)
    assert words.clouds(some) == "random vectors +0.100 [0.00, 0.200], other concepts +1.00 [0.500, 2.00]"


def test_p_values_say_what_they_are_over() -> None:
    assert words.told(row()) == "p = 0.500 (over prompts)"
    every = row(p=1e-6, p_noise=1e-5, p_concepts=0.2, p_holm=0.01, p_specific=1.0)
    assert words.told(every) == (
        "p < 0.001 (over prompts)\np < 0.001 (from random vectors), p = 0.200 (from other concepts)\np = 0.010 "
        "(told, Holm), p = 1.000 (specific, Holm)"
    )


def test_a_verdict_is_said_with_its_meaning_and_anything_else_as_it_is() -> None:
    assert words.verdict("shared") == f"shared: {VERDICTS['shared']}"
    assert words.verdict("<b>") == "<b>"


def test_marks_are_explained_only_where_they_are_drawn() -> None:
    assert key(["shared", "small", "small"]) == (
        f"■ shared: {VERDICTS['shared']}. Open circles, and cells without a mark, are small."
    )
    assert key([]) == "" and key(["specific"]) == f"● specific: {VERDICTS['specific']}."
    assert set(MARKS) == set(VERDICTS)
