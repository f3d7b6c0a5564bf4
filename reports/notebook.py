"""A result as a notebook shows it: its headline, a few numbers and one figure, all of it still, without a script."""

import io
import warnings
from html import escape
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import with_role
from steerscope.questions import page_of
from steerscope.reports.pages import default
from steerscope.reports.reading import drawing
from steerscope.reports.records import largest
from steerscope.reports.roles import Drawn, claim, drawn, plain, towards
from steerscope.reports.theme import MARKS, NEUTRAL, POSITIVE, REFERENCE, mark, side
from steerscope.reports.words import printable

SHOWN = 12  # names
LINES = 5
LONG = 32  # letters of a name
INK = "#010203"  # stands for the colour of the notebook's text
COLOURS = (POSITIVE, "#2f7bbf", "#8f63ad", "#4f8f4f", "#b08a1e")
SYMBOLS = {"circle": "o", "diamond": "D", "square": "s", "triangle-down": "v", "x": "X", "circle-open": "o"}
TILE = "border:1px solid rgba(128,134,144,.4);padding:6px 12px;flex:1 1 150px;max-width:260px"
SMALL = "font-size:.85em;opacity:.75"


@drawing
def html(result: Result) -> str:
    """For `_repr_html_`."""
    page = page_of(result.kind).page(result)
    title = f"<div style='{SMALL}'>steerscope · {_safe(result.kind)}</div><b>{_safe(page.title)}</b>"
    said = "".join(f"<p style='margin:.4em 0'>{_safe(line)}</p>" for line in [*page.warnings, *page.headline])
    tiles = "".join(
        f"<div style='{TILE}'><div style='{SMALL}'>{_safe(name)}</div><div "
        f"style='font-size:1.25em'>{_safe(value)}</div><div style='{SMALL}'>{_safe(note)}</div></div>"
        for name, value, note in page.glance or default.page(result).glance
    )
    boxes = f"<div style='display:flex;flex-wrap:wrap;gap:6px;margin:.6em 0'>{tiles}</div>" if tiles else ""
    return f"<div style='max-width:60em'>{title}{said}{boxes}{_picture(result)}</div>"


def _picture(result: Result) -> str:
    """The ranking of the first frame of nodes; else the first lines; else any ranking."""
    found = [shown for name in result.columns if (shown := drawn(result, name))]
    nodes = [s for s in found if with_role(result.columns[s.frame], "node") and not s.axis]
    shown = next(iter(nodes or [s for s in found if s.axis] or found), None)
    if shown is None:
        return ""
    group, unit, rows = next(shown.groups())
    most, count = (LINES, rows["name"].nunique()) if shown.axis else (SHOWN, len(rows))
    parts = [", ".join(part for part in (plain(shown.frame), group) if part)]
    parts += [f"the {most} largest of {count:,}"] if count > most else []
    parts += [f"{'dotted' if shown.axis else 'grey'}: reference vectors"] if rows["reference"].notna().any() else []
    parts += [_open(shown)] if shown.verdict and not shown.axis else []
    return f"<div style='{SMALL}'>{_safe('; '.join(parts))}</div>{_svg(shown, unit, rows)}"


def _open(shown: Drawn) -> str:
    """What open circles mean, and, where verdicts are words, the colours of the others."""
    said = set(shown.table["verdict"])
    if all(isinstance(one, bool) for one in said):
        return f"open: not {claim(shown)}"
    named = [f"{look.sign} {name}" for name, look in MARKS.items() if name in said and look.sign]
    return "; ".join([*named, "open: small or untested"])


def _svg(shown: Drawn, unit: str, rows: pd.DataFrame) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "font.size": 9}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that a font does not have: the browser has its own
        figure = Figure(figsize=(7, 2.6) if shown.axis else (7, 0.9 + 0.24 * min(len(rows), SHOWN)), layout="tight")
        axes = figure.add_subplot()
        (_lines if shown.axis else _ranking)(axes, shown, rows)
        estimate = f"{plain(shown.what)} ({unit})" if unit else plain(shown.what)
        (axes.set_ylabel if shown.axis else axes.set_xlabel)(_text(estimate), color=INK, parse_math=False)
        axes.tick_params(colors=INK)
        axes.grid(color=NEUTRAL, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(NEUTRAL)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def _ranking(axes: Any, shown: Drawn, rows: pd.DataFrame) -> None:
    """The largest estimates with their intervals, over the bands of reference vectors; open where nothing is said."""
    rows = largest(rows, SHOWN)
    at = range(len(rows))
    axes.barh(
        at, rows["reference_high"] - rows["reference_low"], 0.64, rows["reference_low"], color=REFERENCE, alpha=0.4
    )
    axes.hlines(at, rows["low"], rows["high"], color=NEUTRAL, linewidth=1.2)
    for y, (effect, verdict) in enumerate(zip(rows["effect"], rows["verdict"], strict=True)):
        look = mark(verdict, effect, towards(rows))
        style = "none" if look.symbol.endswith("open") else "full"
        colour = side(effect, towards(rows)) if verdict is False else look.colour
        axes.plot(effect, y, SYMBOLS[look.symbol], markersize=5, color=colour, fillstyle=style)
    axes.axvline(0, color=NEUTRAL, linewidth=0.8)
    axes.set_yticks(at, [_text(name) for name in rows["name"]], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)


def _lines(axes: Any, shown: Drawn, rows: pd.DataFrame) -> None:
    """Estimates along an axis with their intervals, reference vectors dotted; without exact limits."""
    rows = rows[rows["x"].abs() != float("inf")]
    size = rows["effect"].abs().groupby(rows["name"], sort=False).max().sort_values(ascending=False, kind="stable")
    for name, colour in zip(size.index[:LINES], COLOURS, strict=False):
        own = rows[rows["name"] == name].sort_values("x")
        axes.fill_between(own["x"], own["low"], own["high"], color=colour, alpha=0.18, linewidth=0)
        axes.plot(own["x"], own["reference"], ":", color=colour, linewidth=1)
        axes.plot(own["x"], own["effect"], "o-", color=colour, linewidth=1.6, markersize=3, label=_text(name))
    axes.set_xlabel(_text(plain(shown.axis)), color=INK, parse_math=False)
    if len(size) > 1:
        for text in axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1)).get_texts():
            text.set_parse_math(False)


def _text(name: str) -> str:
    """A name that fits."""
    shown = printable(name)
    return shown if len(shown) <= LONG else f"{shown[: LONG - 1]}…"


def _safe(text: str) -> str:
    return escape(printable(text))
