"""The metric that options name, and how they name tokens and positions."""

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any

from steerscope.analysis.errors import BadArgument, BadMetric

NAMED = "targets", "against"


def metric_of(
    name: str,
    targets: str | None,
    against: str | None,
    continuation: str | None,
    columns: Mapping[str, Sequence[Any] | None] | None = None,
) -> Any:
    """The metric that the options name.

    Args:
        columns: for `targets` and `against`, the cells of a column of the prompts' file, where one is named.

    Raises:
        BadMetric: an unknown one, or options that do not fit it.
    """
    from steerscope.analysis.question.answers import PerPrompt
    from steerscope.analysis.question.metrics import METRICS

    if name not in METRICS:
        raise BadMetric(f"unknown metric {name!r}; expected one of {', '.join(METRICS)}; choose one")
    given = dict(zip(NAMED, (targets, against), strict=True))
    cells = {option: (columns or {}).get(option) for option in NAMED}
    for option in NAMED:
        if given[option] is not None and cells[option] is not None:
            raise BadMetric(f"got --{option} and --{option}-column; expected one of them; leave one out")
    wanted, others = (
        PerPrompt(cells[option]) if cells[option] is not None else tokens_of(option, given[option])  # type: ignore[arg-type]
        for option in NAMED
    )
    if (name == "log_prob") != (wanted is not None):
        need = "needs --targets" if wanted is None else "takes no --targets"
        raise BadMetric(
            f'metric {name} {need}; expected --metric log_prob --targets " wedding, bride", or --targets-column; give '
            "both or neither"
        )
    if continuation is not None and name != "perplexity":
        raise BadMetric(f"metric {name} takes no --continuation; expected it with perplexity; leave it out")
    if others is not None and wanted is None:
        raise BadMetric("got --against without --targets; expected both; name the targets")
    if wanted is not None:
        return METRICS[name](wanted, others or ())
    return METRICS[name](continuation) if continuation is not None else METRICS[name]()


def tokens_of(option: str, text: str | None) -> list[str | int] | None:
    """Tokens separated by commas, one with a comma in it in double quotes; or a JSON list of texts and ids.

    Raises:
        BadMetric: an empty one, or quotes that are not closed.
    """
    if text is None:
        return None
    expected = """expected tokens separated by commas, or a JSON list such as '[" wedding", ","]'; mend it"""
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        found = None  # a token that begins with a bracket
    if isinstance(found, list):
        if not found or not all(isinstance(t, str | int) and not isinstance(t, bool) and t != "" for t in found):
            raise BadMetric(f"--{option} {text!r} holds what is no token; {expected}")
        return found
    try:
        [row] = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as reason:
        raise BadMetric(f"--{option} {text!r} cannot be parted into tokens ({reason}); {expected}") from reason
    if not row or "" in row:
        raise BadMetric(f"--{option} {text!r} holds an empty token; {expected}")
    return list(row)


def positions_of(text: str | None) -> str | tuple[int, ...] | None:
    """Scored positions: all, last, or indices.

    Raises:
        BadArgument: anything else.
    """
    if text is None or text in ("all", "last"):
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise BadArgument(f"--scored {text!r}; expected all, last, or indices such as 3,4,-1; mend it") from error


def scored_cells(cells: Sequence[Any]) -> Any:
    """Scored positions from the cells of a column: an index, a list of them, or indices separated by commas.

    Raises:
        BadArgument: a cell holds anything else.
    """
    from steerscope.analysis.question.answers import PerPrompt

    try:
        rows = [
            [int(part) for part in cell.strip("[] ").split(",")] if isinstance(cell, str) else cell for cell in cells
        ]
    except ValueError as error:
        raise BadArgument(f"--scored-column: {error}; expected indices such as 3,4 in every row; mend it") from error
    return PerPrompt(rows)
