"""The page of any result: every frame is drawn by the roles of its columns, and told in sentences that say no more than
it holds.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from steerscope.analysis.results.result import Result
from steerscope.questions import QUESTIONS
from steerscope.reports import words
from steerscope.reports.figures.coefficient import curves
from steerscope.reports.figures.lines import lines
from steerscope.reports.figures.ranking import SHOWN, ranking
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import framed, legend, map_panel, metric_name, missing, model_name, saved
from steerscope.reports.reading import drawing
from steerscope.reports.roles import (
    Drawn,
    at,
    axis_value,
    claim,
    drawn,
    first,
    largest_of,
    placed,
    plain,
    sentence,
    towards,
    verdict,
)
from steerscope.reports.theme import axis, bold, key

SENTENCES = 4
GROUPS = 6  # of a frame, each with panels of its own
LINES = 8  # in one figure
WIDE = 50  # largest over smallest from which on an axis is logarithmic
LONG = 44  # letters of a name in a figure
LISTED = 500  # rows of a table
READING = "Rankings, maps and lines are drawn from the roles of the columns below; the tables hold everything."


@drawing
def headline(result: Result) -> list[str]:
    """The largest estimates of the first frame that has any; or what there is instead."""
    shown = first(result)
    if shown is None:
        sizes = [
            f"{name} ({len(table):,} row{'s' if len(table) != 1 else ''})" for name, table in result.frames.items()
        ]
        return [f"No table of this result has an estimate that can be ranked; it holds {words.listing(sizes)}."]
    return [sentence(shown, *group) for group in list(shown.groups())[:SENTENCES]]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    question, manifest = QUESTIONS.get(result.kind), result.manifest
    title = question.asks if question else plain(result.kind).capitalize()
    count = manifest.get("prompts", {}).get("count")
    about = [
        model_name(result) if "model" in manifest else "",
        words.injection(manifest) if manifest.get("injections") else "",
        f"{count} prompts" if count else "",
        metric_name(manifest) if "metric" in manifest else "",
    ]
    return framed(
        result,
        title,
        " · ".join(part for part in about if part),
        headline(result),
        [
            *(section for name in result.columns for section in _section(result, name, drawn(result, name))),
            legend(result, [READING]),
            _downloads(result),
        ],
        _glance(result),
    )


def _glance(result: Result) -> list[tuple[str, str, str]]:
    """The largest estimate of each group of the first frame that has any, and whether checks held."""
    found = []
    shown = first(result)
    if shown is not None:
        for group, unit, rows in list(shown.groups())[:SENTENCES]:
            row, value = largest_of(rows, unit)
            where, ends = ", ".join(part for part in (at(shown, row), group) if part), words.between(row.low, row.high)
            found.append((f"largest {plain(shown.what)}", value, f"{where}{f'; interval{ends}' if ends else ''}"))
    checks = [bool(check["passed"]) for check in result.manifest.get("checks", [])]
    if checks:
        found.append(("checks", f"{sum(checks)} of {len(checks)}", "of what must hold exactly held on this run"))
    return found


def _section(result: Result, name: str, shown: Drawn | None) -> list[Section]:
    """A frame: drawn, with its table folded; or its table."""
    title, table = plain(name).capitalize(), result.frames[name]
    if table.empty:
        return [Section(title, [], [Panel(title, None, missing(result, name, "this table has no rows"))])]
    if shown is None:
        return [_table(result, name, title)]
    groups = list(shown.groups())
    text = [f"{plain(shown.what).capitalize()}: {shown.meaning}.", " ".join(_how(shown, groups))]
    panels = [panel for group in groups[:GROUPS] for panel in _panels(shown, *group)]
    return [Section(title, text, panels), _table(result, name, f"{title}: all numbers", folded=True)]


def _how(shown: Drawn, groups: Sequence[tuple[str, str, pd.DataFrame]]) -> list[str]:
    """What a reader must know of the figures: what is drawn, what is left out."""
    most = max(rows["name"].nunique() for _, _, rows in groups)
    grey = math.isinf(shown.table["x"].abs().max())  # among lines with limits, where there is one
    found = []
    if shown.axis:
        found += ["Bands are intervals."] if shown.table["low"].notna().any() else []
        if shown.table["reference"].notna().any() and not (grey and most > 1):
            found.append(f"{'Grey' if grey else 'Dotted'}: reference vectors.")
        found += [f"Of up to {most} lines, those with the largest values are drawn."] if most > LINES else []
    else:
        found += [f"The {SHOWN} largest in size are ranked; zeros are left out."] if most > SHOWN else []
        found += ["Bars are intervals."] if shown.table["low"].notna().any() else []
        found += ["Grey bands: reference vectors."] if shown.table["reference_low"].notna().any() else []
        found += _marked(shown)
    if len(groups) > GROUPS:
        found.append(f"Of {len(groups)} groups the first {GROUPS} are drawn.")
    return found


def _marked(shown: Drawn) -> list[str]:
    """What marks and pale cells mean."""
    if not shown.verdict:
        return []
    said = shown.table["verdict"]
    if said.map(lambda v: isinstance(v, bool | np.bool_)).all():
        return [f"Open circles and pale cells are not {claim(shown)}."]
    return [key(said)]


def _panels(shown: Drawn, group: str, unit: str, rows: pd.DataFrame) -> list[Panel]:
    name = group or plain(shown.what)
    titled = f"{name} ({unit})" if shown.table["unit"].nunique() > 1 else name
    if shown.axis:
        return [Panel(titled, _lines(shown, unit, rows))]

    def hover(row: Any, unit: str) -> str:
        return _hover(shown, row, unit, str(row.name))

    if rows["effect"].eq(0).all():
        return [Panel(titled, None, f"every {plain(shown.what)} is zero")]
    rows = rows.assign(node=[_short(n) for n in rows["name"]])
    look: dict[str, Any] = {"title": plain(shown.what), "towards": towards(rows), "references": "reference vectors"}
    found = [Panel(titled, ranking(rows, unit, describe=hover, **look))]
    cells = placed(rows)
    return [map_panel(name, cells, unit, hover, towards(rows)), *found] if len(cells) > 1 else found


def _lines(shown: Drawn, unit: str, rows: pd.DataFrame) -> go.Figure:
    """A line for each name, its interval as a band, reference vectors dotted."""
    size = rows["effect"].abs().groupby(rows["name"], sort=False).max()
    kept = size.sort_values(ascending=False, kind="stable").index[:LINES]
    names = [n for n in size.index if n in kept]
    short = [_short(n) for n in names]
    titles = short if len(set(short)) == len(short) else names
    series = {t or plain(shown.what): rows[rows["name"] == n] for t, n in zip(titles, names, strict=True)}
    along, what = plain(shown.axis), plain(shown.what)
    if rows["x"].abs().max() == math.inf:
        series = {t: own.assign(coefficient=own["x"], value=own["effect"]) for t, own in series.items()}
        reference = next(iter(series.values())) if len(series) == 1 else None
        return curves(series, unit, title=what, along=along, reference=reference)

    def hover(name: str, row: Any) -> str:
        return _hover(shown, row, unit, name)

    chart = lines(series, "x", "effect", hover, dotted="reference")
    low, high = rows["x"].min(), rows["x"].max()
    whole = rows["x"].mod(1).eq(0).all() and high - low <= 12
    if low > 0 and high > WIDE * low:
        chart.update_xaxes(axis(f"{along} (log scale)"), type="log")
    else:
        chart.update_xaxes(axis(along), dtick=1 if whole else None)
    chart.update_yaxes(axis(f"{what} ({unit})" if unit else what))
    return chart


def _hover(shown: Drawn, row: Any, unit: str, name: str) -> str:
    at = f", {plain(shown.axis)} {axis_value(row.x)}" if shown.axis else ""
    found = [f"{bold(name)}{at}", words.ranged(row, "effect", words.signed, unit)]
    if words.finite(row.reference):
        found.append(f"reference vectors {words.ranged(row, 'reference', words.signed)}")
    if shown.verdict:
        found.append(words.verdict(row.verdict) if isinstance(row.verdict, str) else verdict(shown, row))
    return "\n".join(found)


def _short(name: str) -> str:
    return name if len(name) <= LONG else f"{name[: LONG - 1]}…"


def _table(result: Result, name: str, title: str, folded: bool = False) -> Section:
    table = result.frames[name]
    rows = [[_cell(value) for value in row] for row in table.head(LISTED).itertuples(index=False, name=None)]
    numeric = frozenset(str(c) for c in table if is_numeric_dtype(table[c]) and not is_bool_dtype(table[c]))
    text = [f"The first {LISTED} of {len(table):,} rows."] if len(table) > LISTED else []
    return Section(title, text, table=Table([str(c) for c in table], rows, numeric), folded=folded)


def _cell(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float | np.floating):
        return words.number(value) if not math.isinf(value) else axis_value(float(value))
    return "–" if value is None or value is pd.NA else str(value)


def _downloads(result: Result) -> Section:
    downloads, notes = saved(result)
    return Section("All tables", ["The buttons save the tables as CSV.", *notes], folded=True, download=downloads)
