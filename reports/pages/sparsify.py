"""The report of `sparsify`: how few dimensions of a vector keep its effect."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.lines import lines
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.carried import compared
from steerscope.reports.pages.common import everything, layout, missing, no_intervals
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import GRID, REFERENCE, axis, bold

SCALES = {False: "as they are", True: "scaled back to the vector's norm"}
NAME = {"gradient": "largest by gradient", "size": "largest values", "first": "the first ones", "random": "random ones"}
COLOURS = {"gradient": "#c4501b", "size": "#2f7bbf", "first": "#8f63ad", "random": "#5f666f"}
TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@drawing
def headline(result: Result) -> list[str]:
    """The best order's smallest fraction, a random choice of as many, the disturbance, reference vectors."""
    table, smallest = _scaled(result, "curves", False), _scaled(result, "smallest", False)
    best = next(records(smallest.sort_values("fraction", kind="stable")))
    at = {r.order: r for r in records(table[table["fraction"] == best.fraction])}
    own, other = at[best.order], at.get("random")
    first = (
        f"{words.ranged(best, 'fraction', words.percent)} of the dimensions ({best.dimensions} a row), "
        f"{NAME[best.order]}, are the fewest tried that keep {words.percent(best.keep)} of the effect: "
        f"{words.ranged(own, 'kept', words.percent)} of it, with {words.percent(own.kl_kept)} of the disturbance"
    )
    if best.order != "random" and other is not None:
        first += f"; as many random ones keep {words.ranged(other, 'kept', words.percent)}"
    found = [first + "."]
    found += _compared(result, best, own)
    scaled = _scaled(result, "smallest", True)
    for r in records(scaled.sort_values("fraction", kind="stable").head(1)):
        found.append(
            f"Scaled back to the vector's norm, {words.ranged(r, 'fraction', words.percent)} ({NAME[r.order]}) are "
            f"enough, with {words.percent(r.kl_kept)} of the disturbance."
        )
    return found + no_intervals(result)


def _compared(result: Result, best: Any, own: Any) -> list[str]:
    """Whether reference vectors keep as much with as many, as far as that is told."""
    others = compared(result, True) or compared(result, False)
    if not words.finite(own.reference) or not others:
        return [f"Whether other vectors need as many is not known: {missing(result, 'references')}."]
    same = f"{words.percent(own.own_kept)} of its own change ({others}: {words.percent(own.reference)} of theirs)"
    if own.fraction >= 1:
        return [f"With all dimensions there is nothing to compare; {others} need {_needed(best)}."]
    if own.significant and words.finite(own.own_kept):
        how = "more" if own.own_kept > own.reference else "less"
        return [f"So many keep {how} of this vector than of reference vectors: {same}."]
    why = "too few were run to tell" if not words.finite(own.p) else "not told apart"
    return [f"Of this vector so many keep {same}: {why}. For as much of their own change these need {_needed(best)}."]


def _needed(best: Any) -> str:
    return f"{words.ranged(best, 'reference', words.percent)} (this vector, of its own: {words.percent(best.own)})"


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "Dimensions are the model's own, ordered in each row of the vector by itself; the others are set to zero. The "
        "gradient is averaged along the coefficient, and its order is chosen on one half of the prompts and measured "
        "on the other.",
        "Effect kept is not the same output kept: a sparse vector can push as far along the metric and disturb more "
        "besides, so both are shown. Reference vectors of equal norm are judged each by its own change of logits: what "
        "they can lose as well says nothing about this one.",
    ]
    return layout(
        result,
        "How few dimensions does {vector} need in {model}?",
        "dimensions set to zero, exactly",
        headline(result),
        [_curves(result), _smallest(result), _table(result)],
        text=text,
    )


def _scaled(result: Result, frame: str, rescaled: bool) -> pd.DataFrame:
    table = result.frames[frame]
    return table[table["rescaled"].astype(bool) == rescaled]


def _curves(result: Result) -> Section:
    panels = []
    for rescaled, name in SCALES.items():
        own = _scaled(result, "curves", rescaled)
        if len(own):
            effect = _kept(own, float(result.manifest.get("keep", 0.9)))
            panels += [Panel(f"Effect, {name}", effect), Panel(f"Disturbance, {name}", _disturbed(own))]
    known = result.frames["curves"]["reference"].notna().any()
    without = "" if known else f" (missing: {missing(result, 'references')})"
    text = (
        "Bands are intervals over prompts. Dotted: reference vectors of equal norm, in the same order, each of its own "
        f"change of logits{without}. The dashed line is the share that is asked for."
    )
    return Section("Kept against dimensions", [text], panels)


def _kept(table: pd.DataFrame, keep: float) -> go.Figure:
    """Share of the effect over the share of dimensions, a line an order with its band; dotted: reference vectors."""
    drawn = table.assign(low=table["kept_low"], high=table["kept_high"])
    chart = _over_dimensions(drawn, "kept", _kept_hover, dotted="reference")
    chart.add_hline(y=keep, line_width=1, line_color=REFERENCE, line_dash="dash")
    chart.update_yaxes(axis("share of the effect kept"), tickformat=".0%", rangemode="tozero")
    return chart


def _kept_hover(name: str, row: Any) -> str:
    tested = f"{words.p_value(row.p_holm)} (Holm)" if words.finite(row.p_holm) else "not tested"
    return "\n".join(
        [
            f"{bold(name)}: {row.dimensions} dimensions, {words.percent(row.norm)} of the norm",
            f"{words.ranged(row, 'kept', words.percent)} of the effect, {words.percent(row.kl_kept)} of the "
            "disturbance",
            f"reference vectors, of their own: {words.ranged(row, 'reference', words.percent)}",
            f"unlike them: {tested}",
        ]
    )


def _disturbed(table: pd.DataFrame) -> go.Figure:
    """Share of the disturbance over the share of dimensions."""

    def hover(name: str, row: Any) -> str:
        kl = words.ranged(row, "kl", unit="nats")
        return f"{bold(name)}, {words.percent(row.fraction)}\nKL {kl}"

    chart = _over_dimensions(table.assign(low=float("nan"), high=float("nan")), "kl_kept", hover)
    chart.add_hline(y=1.0, line_width=1, line_color=GRID)
    chart.update_yaxes(axis("disturbance over that of the whole vector"), tickformat=".0%", rangemode="tozero")
    return chart


def _over_dimensions(table: pd.DataFrame, y: str, hover: Any, dotted: str = "") -> go.Figure:
    known = [order for order in NAME if (table["order"] == order).any()]
    series = {NAME[order]: table[table["order"] == order] for order in known}
    look: dict[str, Any] = {"height": 390, "margin": {"l": 66, "r": 14, "t": 56, "b": 50}}
    chart = lines(series, "fraction", y, hover, dotted=dotted, colours=[COLOURS[order] for order in known], **look)
    ticks = [t for t in TICKS if t >= float(table["fraction"].min()) * 0.9]
    names = [f"{100 * t:g}%" for t in ticks]
    chart.update_xaxes(axis("dimensions kept (log scale)"), type="log", tickvals=ticks, ticktext=names)
    return chart


def _smallest(result: Result) -> Section:
    rows = [
        [
            NAME.get(r.order, r.order),
            SCALES[bool(r.rescaled)],
            words.ranged(r, "fraction", words.percent),
            str(r.dimensions),
            words.percent(r.kl_kept),
            words.percent(r.own),
            words.ranged(r, "reference", words.percent),
        ]
        for r in records(result.frames["smallest"])
    ]
    titles = ["order", "values", "smallest fraction", "dimensions a row", "disturbance there"]
    titles += ["for its own change of logits", "reference vectors"]
    text = (
        f"The smallest fraction tried from which on {words.percent(result.manifest.get('keep', 0.9))} of the effect is "
        "kept, whatever is added."
    )
    return Section("How few are enough", [text], table=Table(titles, rows, frozenset(titles[2:])))


def _table(result: Result) -> Section:
    columns = ["order", "rescaled", "fraction", "dimensions", "norm", "effect", "low", "high", "kept", "kl", "kl_kept"]
    columns += ["reference", "p", "p_holm", "wrong_way"]
    return everything(result.frames["curves"].astype({"rescaled": str}), columns, "All fractions", result)
