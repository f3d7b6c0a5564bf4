"""Rows of a frame as plain records, `row.effect` without pandas' long types; which of them work along the whole effect.

Signs are relative to that of the whole effect, everywhere: a node works along it where effect times total is positive,
against it where that is negative; a zero is neither.
"""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result


def records(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row as a record whose attributes are its columns."""
    for record in frame.to_dict("records"):
        yield SimpleNamespace(**{str(name): value for name, value in record.items()})


def largest(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """The rows with the largest effects, of either sign."""
    return frame.sort_values("effect", key=abs, ascending=False).head(count)


def verdicts(table: pd.DataFrame) -> list[Any]:
    """What is said of each row: its verdict, or in tables that have none whether it is significant."""
    return list(table["verdict"] if "verdict" in table else table["significant"].astype(bool))


def total(result: Result) -> float:
    """The whole effect: of the frame of totals where there is one, else of the manifest or beside frozen attention;
    missing where nobody says.
    """
    table = result.frames.get("totals")
    if table is not None and {"quantity", "value"} <= set(table):
        for value in table.loc[table["quantity"].isin(["total", "effect"]), "value"]:
            return float(value)
    table = result.frames.get("attention")
    if "total" not in result.manifest and table is not None and {"outcome", "total"} <= set(table):
        for value in table.loc[table["outcome"] == "effect", "total"]:
            return float(value)
    whole = result.manifest.get("whole", {}).get("effect", {}).get("mean")  # of a sweep
    value = result.manifest.get("total", whole)
    return math.nan if value is None else float(value)


def sign(value: float) -> int:
    """1, -1, or 0 for zero; 1 where the value is missing, so that numbers are judged by themselves."""
    return 1 if math.isnan(value) else int(value > 0) - int(value < 0)


def way(result: Result) -> int:
    """The sign of the whole effect."""
    return sign(total(result))


def sides(frame: pd.DataFrame, towards: int, column: str = "effect") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that work along the whole effect, whose sign is given, and those that work against it."""
    turned = frame[column] * towards
    return frame[turned > 0], frame[turned < 0]
