"""Rows of a frame as plain records: `row.effect` without pandas' long types."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pandas as pd


def records(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row as a record whose attributes are its columns."""
    for record in frame.to_dict("records"):
        yield SimpleNamespace(**{str(name): value for name, value in record.items()})


def largest(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """The rows with the largest effects, of either sign."""
    return frame.sort_values("effect", key=abs, ascending=False).head(count)
