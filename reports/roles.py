"""Frames as charts read them, whatever their question: by the roles of their columns."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_string_dtype

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Frame, with_role
from steerscope.reports import words
from steerscope.reports.records import records, way

NUMBERS = {
    "low": "low",
    "high": "high",
    "reference": "reference",
    "reference_low": "reference_low",
    "reference_high": "reference_high",
}
LARGEST_MAP = 20_000  # cells
COSTS = ("kl", "loss", "damage")  # outcomes that have signs of their own


@dataclass(frozen=True)
class Drawn:
    """What of a frame can be drawn: a ranking of names, or lines along an axis.

    Attributes:
        frame: its name.
        what: the column of the estimate; meaning: in words.
        axis: the column that rows run along; empty for a ranking.
        verdict: the column of verdicts, or of truth values, that marks rows; empty where there is none.
        table: group (the measure), unit, name, effect, low, high, reference, reference_low, reference_high, verdict
            (true where there is none), layer, head, kind, towards (the sign of the whole effect), and x along the axis.
            One row for each group, name and x.
    """

    frame: str
    what: str
    meaning: str
    axis: str
    verdict: str
    table: pd.DataFrame

    def groups(self) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """Name, unit and rows of each group."""
        for (group, unit), rows in self.table.groupby(["group", "unit"], sort=False):
            yield str(group), str(unit), rows


def drawn(result: Result, name: str) -> Drawn | None:
    """What of a frame can be drawn; None where there is nothing to rank or to follow, or rows cannot be told apart."""
    table, frame = result.frames[name].reset_index(drop=True), result.columns[name]
    estimates = with_role(frame, "estimate")
    if table.empty or not estimates:
        return None
    what = estimates[0]
    own = _own(frame, estimates)
    axes = [column for column in with_role(frame, "axis") if _numeric(table[column])][:1]
    labels = with_role(frame, "node") + [c for c in frame if frame[c].role in ("label", "axis") and c not in axes]
    verdicts = [c for c in with_role(own, "verdict") if _verdicts(table[c]) is not None]
    made = _numbers(table, frame, own).assign(
        group=_names(table, with_role(frame, "measure")),
        unit=_units(result, table, frame[what].unit),
        name=_names(table, labels),
        verdict=_verdicts(table[verdicts[0]]) if verdicts else True,
        towards=_towards(result, table, frame[what].unit),
        x=pd.to_numeric(table[axes[0]]).astype(float) if axes else 0.0,
    )
    made = made.dropna(subset=["effect", "x"])
    if not (labels or axes) or made.duplicated(["group", "unit", "name", "x"]).any() or made.empty:
        return None
    return Drawn(name, what, frame[what].meaning, next(iter(axes), ""), next(iter(verdicts), ""), made)


def placed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a group that have a place among heads by layers; none where two have the same."""
    found = rows[rows["layer"].ge(0) & rows["kind"].ne("") & ~rows["head"].lt(0)]
    cells = (found["layer"].max() + 1) * (found["head"].max(skipna=True) + 2 if found["head"].notna().any() else 2)
    clash = found.duplicated(["layer", "head", "kind"]).any()
    return found.iloc[:0] if clash or not cells <= LARGEST_MAP else found


def towards(rows: pd.DataFrame) -> int:
    """The sign of the whole effect, of the rows of a group."""
    return int(rows["towards"].iloc[0])


def _towards(result: Result, table: pd.DataFrame, unit: str) -> Any:
    """The sign of the whole effect for effects; 1 for what has a sign of its own."""
    if "{metric}" in unit:
        return way(result)
    costs = [table[c].isin(COSTS) for c in ("outcome", "quantity") if c in table]
    return np.where(np.any(costs, axis=0), 1, way(result)) if unit == "{unit}" and costs else 1


def _verdicts(column: pd.Series) -> pd.Series | None:
    """Truth values, missing ones as false; or words, missing ones as untested; None where it is neither."""
    known = column.dropna().infer_objects()
    if is_bool_dtype(known):
        return column.astype("boolean").fillna(False).astype(bool)
    return column.fillna("untested").astype(object) if is_string_dtype(known) else None


def _numeric(column: pd.Series) -> bool:
    return bool(pd.to_numeric(column, errors="coerce").notna().eq(column.notna()).all())


def _own(frame: Frame, estimates: Sequence[str]) -> Frame:
    """What belongs to the first estimate: of several, it and what stands before the next."""
    if len(estimates) == 1:
        return frame
    columns = list(frame)
    return {c: frame[c] for c in columns[columns.index(estimates[0]) : columns.index(estimates[1])]}


def _numbers(table: pd.DataFrame, frame: Frame, own: Frame) -> pd.DataFrame:
    """The estimate with its interval and reference, and its place on the node map."""
    roles = {"effect": "estimate", **NUMBERS}
    found = {name: next(iter(with_role(own, role)), "") for name, role in roles.items()}
    node, layer, head = (next(iter(with_role(frame, role)), "") for role in ("node", "layer", "head"))
    found |= {"layer": layer, "head": head}
    missing = pd.Series(math.nan, index=table.index)
    numbers = pd.DataFrame(
        {name: pd.to_numeric(table[c], errors="coerce").astype(float) if c else missing for name, c in found.items()}
    ).replace([math.inf, -math.inf], math.nan)
    if not (node and layer and head):
        return numbers.assign(kind="")
    last = table[node].astype(str).str[-1:].map({"M": "mlp", "A": "attention"}).fillna("")
    return numbers.assign(kind=last.where(numbers["head"].isna(), "head"))


def _units(result: Result, table: pd.DataFrame, unit: str) -> Any:
    metric = str(result.manifest.get("metric", {}).get("unit", ""))
    unit = unit.replace("{metric}", metric)
    return table["unit"].astype(str) if unit == "{unit}" and "unit" in table else unit.replace("{unit}", "")


def _names(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """What rows are called: text as it is, numbers with the name of their column."""
    parts = [[_name(c, value) for value in table[c]] for c in columns]
    joined = [", ".join(row) for row in zip(*parts, strict=True)] if parts else ""
    return pd.Series(joined, index=table.index, dtype=object)


def _name(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    return f"{plain(column)} {'–' if missing else f'{value:g}' if isinstance(value, float) else value}"


def first(result: Result) -> Drawn | None:
    """The first frame that can be drawn."""
    return next((shown for name in result.columns if (shown := drawn(result, name))), None)


def sentence(shown: Drawn, group: str, unit: str, rows: pd.DataFrame) -> str:
    """The largest estimate of a group, with its interval and its reference, and no more."""
    what, where = plain(shown.what), plain(shown.frame) + (f" ({group})" if group else "")
    row, value = largest_of(rows, unit)
    count = f"{len(rows):,} row{'s' if len(rows) > 1 else ''}"
    if row.effect == 0:
        return f"Every {what} in {where} is zero ({count})."
    size = " by size" if (rows["effect"] * towards(rows) < 0).any() else ""
    ends = words.between(row.low, row.high)
    beside = ""
    if words.finite(row.reference):
        beside = f" (reference vectors {words.ranged(row, 'reference', words.signed)})"
    said = f", {verdict(shown, row)}" if shown.verdict else ""
    return f"Largest {what}{size} in {where}: {at(shown, row)}, {value}{ends}{beside}{said}; {count}."


def verdict(shown: Drawn, row: Any) -> str:
    """What is said of a row: its verdict, or whether it is what the column is called."""
    if isinstance(row.verdict, str):
        return f"{plain(shown.verdict)} {row.verdict}"
    return f"{'' if row.verdict else 'not '}{claim(shown)}"


def claim(shown: Drawn) -> str:
    """What a true verdict says."""
    return plain(shown.verdict).removesuffix("told") + ("told from noise" if shown.verdict.endswith("told") else "")


def largest_of(rows: pd.DataFrame, unit: str) -> tuple[Any, str]:
    """The row with the largest estimate, of either sign, and that estimate with its unit."""
    row = next(records(rows.loc[[rows["effect"].abs().idxmax()]]))
    spoken = len(unit.split()) <= 3 and "," not in unit  # some units are explanations
    return row, f"{words.signed(row.effect)} {unit if spoken else ''}".strip()


def at(shown: Drawn, row: Any) -> str:
    """What a row is called, and where it stands on its axis."""
    along = f"{plain(shown.axis)} {axis_value(row.x)}" if shown.axis else ""
    return " at ".join(part for part in (str(row.name), along) if part)


def axis_value(x: float) -> str:
    """A place on an axis; limits are exact runs, too."""
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    return f"{x:,.0f}".replace("-", "−") if x.is_integer() else words.number(x)


def plain(name: str) -> str:
    """The name of a column or frame as words."""
    return name.replace("_", " ")
