"""Tokens and positions as options name them."""

import pytest

from steerscope.analysis.errors import BadArgument, BadMetric
from steerscope.analysis.question.answers import PerPrompt
from steerscope.commands.metrics import metric_of, positions_of, scored_cells, tokens_of


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (" wedding, bride", [" wedding", " bride"]),
        ('[","]', [","]),
        ('[" a", 12]', [" a", 12]),
        ('",", a', [",", " a"]),
        ('"say ""no"""', ['say "no"']),
        ("[", ["["]),
        ("a b", ["a b"]),
    ],
)
def test_every_token_can_be_named(text: str, tokens: list[str | int]) -> None:
    assert tokens_of("targets", text) == tokens


@pytest.mark.parametrize("text", [",", "a,,b", "a,", "", "[]", '[""]', "[true]", '"a', "a\nb", "[[1]]"])
def test_what_is_no_token_is_refused_and_not_dropped(text: str) -> None:
    with pytest.raises(BadMetric, match="--targets .*; expected tokens separated by commas, or a JSON list"):
        tokens_of("targets", text)


def test_targets_come_from_options_or_from_a_column() -> None:
    own = metric_of("log_prob", None, None, None, {"targets": [" a", " b"], "against": None})
    assert own.answers is not None and isinstance(own.answers[0], PerPrompt) and own.at_end
    both = metric_of("log_prob", " a", None, None, {"against": [" c", " b"]})
    assert both.answers is not None and isinstance(both.answers[1], PerPrompt)
    with pytest.raises(BadMetric, match="got --targets and --targets-column"):
        metric_of("log_prob", " a", None, None, {"targets": [" a"]})
    with pytest.raises(BadMetric, match="metric kl takes no --targets"):
        metric_of("kl", None, None, None, {"targets": [" a"]})


def test_scored_positions() -> None:
    assert positions_of(None) is None and positions_of("last") == "last" and positions_of("3,-1") == (3, -1)
    assert scored_cells([3, "4,5", [1, 2], "[7]"]).rows == [(3,), (4, 5), (1, 2), (7,)]
    for bad in (lambda: positions_of("x"), lambda: scored_cells(["x"])):
        with pytest.raises(BadArgument, match="expected"):
            bad()
