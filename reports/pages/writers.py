"""The report of `writers`: who wrote the steering vector; its section stands in the report of `exact`, too."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.verdicts import LEAST
from steerscope.reports import words
from steerscope.reports.figures.dots import bands, dots, names
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.common import everything, layout, metric_unit, missing, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import DIVERGING, LEGEND, NAMELESS, NEUTRAL, axis, bold, figure, visible
from steerscope.reports.words import finite

TITLE = "Writers"
ALONE = 0.999  # share from which on a vector has one writer
NAMED, ENOUGH = 3, 0.9  # writers in a sentence: so many, or as many as have written so much
SHOWN = 14
LOOKS = {
    "alone": ("#c4501b", "circle", -0.2, "its part alone"),
    "without": ("#2f7bbf", "square", 0.2, "lost without it"),
}


@drawing
def headline(result: Result) -> list[str]:
    """Who wrote each vector, in a sentence; nothing where no writers are known."""
    table = result.frames.get("writers")
    if table is None or table.empty:
        return []
    numbers = sorted(table["injection"].unique())
    sentences = []
    for number in numbers:
        name = f"({_label(result, number)}) was written" if len(numbers) > 1 else "Written"
        own = table[table["injection"] == number].sort_values("share", ascending=False)
        sentences.append(f"{name} {_by(own)}.")
    return [*sentences, *_untested(result)]


def _untested(result: Result) -> list[str]:
    """Why nothing can be said of what parts do, where that is so."""
    table = result.frames["writers"]
    if any(finite(p) for measure in LOOKS for p in table[f"{measure}_p_noise"]):
        return []
    manifest = result.manifest
    count = manifest.get("references", {}).get("count", 0)
    why = "the whole effect is not told from zero over these prompts"
    if not count:
        why = "no random parts were run in their place"
    elif count < LEAST:
        why = f"{count} random parts in their place are too few ({LEAST} are needed)"
    why = str(manifest.get("missing", {}).get("intervals", why)).rstrip(".")
    return [f"Of no part can it be said that it does more than a random one: {why}."]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    sections = [section(result), _rows(result), _table(result)]
    return layout(result, "Who wrote {vector} in {model}?", "exact parts", headline(result), sections, _glance(result))


def section(result: Result) -> Section:
    """Ranked writers, a panel for each vector; or the reason why there are none."""
    table = result.frames.get("writers")
    if table is None or table.empty:
        return Section(TITLE, [f"Missing: {missing(result, 'writers')}."])
    [total] = of(result, "totals", quantity="total")["value"].astype(float)
    text = (
        "Who wrote the vector, in the runs that it was recorded from. The upright stroke is a writer's share along the "
        "vector; these add up to 1. The circle is the effect of injecting its part alone, the square what is lost when "
        "its part is left out, both over the total effect, with intervals over groups of prompts; grey bands are "
        "random parts of equal norm, filled marks are told from these and from zero after Holm. In a linear model all "
        "three would be the same."
    )
    panels = [
        Panel(_label(result, number), _chart(table[table["injection"] == number], total, metric_unit(result)))
        for number in sorted(table["injection"].unique())
    ]
    return Section(TITLE, [text], panels)


def _by(table: pd.DataFrame) -> str:
    first = next(records(table))
    if first.share > ALONE and table["norm"].iloc[1:].max() < (1 - ALONE) * first.norm or len(table) == 1:
        return f"by {_name(first.writer)} alone"
    counts = 1 + int((table["share"].cumsum() < ENOUGH).sum())
    shown = list(records(table.head(min(NAMED, counts))))
    text = f"above all by {words.listing([f'{_name(r.writer)} ({words.percent(r.share)} of it)' for r in shown])}"
    told = table.head(len(shown))
    told = told[told["alone_told"].astype(bool) & (told["alone_share"] > 0)]  # a share has the effect's sign
    if told.empty:
        return text
    who, shares = ([_name(w) for w in told["writer"]], [words.percent(s) for s in told["alone_share"]])
    part = f"the part{'s' if len(who) > 1 else ''} of {words.listing(who)} ha{'ve' if len(who) > 1 else 's'}"
    return f"{text}; injected alone, {part} {words.listing(shares)} of the effect, more than random parts of equal norm"


def _name(writer: str) -> str:
    return "the embedding" if writer == "embedding" else writer


def _label(result: Result, number: int) -> str:
    injections = result.manifest.get("injections", [])
    return str(injections[number]["vector"]["label"]) if number < len(injections) else "the vector"


def _glance(result: Result) -> list[tuple[str, str, str]]:
    totals = {r.quantity: r for r in records(result.frames["totals"])}
    total, alone, without = (totals[name] for name in ("total", "sum_alone", "sum_without"))
    checked = {c["name"]: c["value"] for c in result.manifest.get("checks", [])}
    error = next((v for name, v in checked.items() if "add up" in name), None)

    def ends(row: Any) -> str:
        return words.between(row.share_low, row.share_high, words.percent)

    return [
        (
            "total effect",
            f"{words.signed(total.value)} {total.unit}",
            f"interval{words.between(total.low, total.high)}",
        ),
        ("writers", str(len(result.frames["writers"])), "embedding, heads and MLPs below the vector's site"),
        ("conservation error", words.number(error), "norm of the parts' sum minus the vector, over the vector's norm"),
        (
            "alone, summed",
            words.percent(alone.share),
            f"of the effect{ends(alone)}: 100% would be parts that do not interact",
        ),
        (
            "without, summed",
            words.percent(without.share),
            f"of the effect{ends(without)}: less where parts stand in for each other",
        ),
    ]


def _chart(table: pd.DataFrame, total: float, unit: str) -> go.Figure:
    """The strongest writers of one injection: share along the vector, effect of the part alone, effect lost without.

    Args:
        total: the effect that causal shares are of.
    """
    total = total or float("nan")
    sizes = table[["share", "alone_share", "without_share"]].abs().max(axis=1)
    rows = table.loc[sizes.sort_values(ascending=False, kind="stable").index[:SHOWN]]
    rows = rows.sort_values("share", ascending=False, kind="stable")
    chart = figure(height=96 + 34 * max(2, len(rows)), margin={"l": 92, "r": 14, "t": 30, "b": 46}, **LEGEND)
    for measure, (colour, symbol, offset, name) in LOOKS.items():
        at = [y + offset for y in range(len(rows))]
        bands(chart, at, rows[f"{measure}_reference_low"] / total, rows[f"{measure}_reference_high"] / total, 0.14)
        ends = rows[[f"{measure}_low", f"{measure}_high"]] / total  # a negative total turns them round
        shown = rows.assign(low=ends.min(axis=1), high=ends.max(axis=1))
        symbols = [symbol if s else f"{symbol}-open" for s in rows[f"{measure}_told"]]
        look: dict[str, Any] = {
            "colour": colour,
            "symbol": symbols,
            "marker": {"line": {"color": colour, "width": 1.5}},
        }
        hover = [_hover(r, measure, unit) for r in records(rows)]
        dots(chart, shown, at, f"{measure}_share", hover, ends=("low", "high"), name=name, showlegend=False, **look)
        legend = {"size": 9, "color": colour, "symbol": symbol}  # filled, whatever the first writer is
        chart.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=legend)
    stroke = {"size": 12, "symbol": "line-ns-open", "line": {"width": 2.5}}
    hover = [
        f"{bold(r.writer)}\n{words.percent(r.share)} along the vector\nnorm {words.number(r.norm)}, "
        f"cosine {words.number(r.cosine)}"
        for r in records(rows)
    ]
    none = rows.assign(low=float("nan"), high=float("nan"))
    where, along = range(len(rows)), {"colour": NEUTRAL, "name": "share along the vector"}
    dots(chart, none, where, "share", hover, ends=("low", "high"), marker=stroke, **along)
    chart.update_xaxes(axis("share of the vector, of the effect"), tickformat=".0%", rangemode="tozero")
    names(chart, [str(writer) for writer in rows["writer"]])
    return chart


def _hover(row: Any, measure: str, unit: str) -> str:
    """What is known of a writer's part in one measure."""
    share, over, noise, corrected = (getattr(row, f"{measure}_{name}") for name in ("share", "p", "p_noise", "p_holm"))
    tested = [
        f"{words.p_value(p)} ({name})"
        for p, name in ((over, "over prompts"), (noise, "from random parts"), (corrected, "told, Holm"))
        if finite(p)
    ]
    return "\n".join(
        [
            f"{bold(row.writer)} {LOOKS[measure][3]}",
            f"{words.ranged(row, measure, words.signed, unit)}, {words.percent(share)} of the effect",
            f"random parts of equal norm {words.ranged(row, f'{measure}_reference', words.signed)}",
            ", ".join(tested),
        ]
    )


def _rows(result: Result) -> Section:
    table = result.frames["rows"]
    panels = [
        Panel(_label(result, number), _map(table[table["injection"] == number]))
        for number in sorted(table["injection"].unique())
    ]
    text = "The share of each row of the vector that each writer wrote; a row of zeros (BOS) has none."
    return Section("Row by row", [text], panels)


def _map(table: pd.DataFrame) -> go.Figure:
    """Writers by rows of one vector: the share of each row that each wrote."""
    size = table.groupby("writer", sort=False)["share"].apply(lambda s: s.abs().max())
    kept = [str(w) for w in size.sort_values(ascending=False, kind="stable").index[:SHOWN]]
    writers = [str(w) for w in table["writer"].unique() if str(w) in kept]
    grid = table.pivot(index="writer", columns="row", values="share").loc[writers]
    tokens = table.drop_duplicates("row").sort_values("row")
    limit = float(grid.abs().max().max()) or 1.0
    chart = figure(height=100 + 26 * max(3, len(writers)), margin={"l": 92, "r": 14, "t": 10, "b": 64})
    chart.add_heatmap(
        z=grid.to_numpy(),
        x=list(range(len(tokens))),
        y=list(range(len(writers))),
        colorscale=DIVERGING,
        zmin=-limit,
        zmax=limit,
        showscale=False,
        xgap=2,
        ygap=2,
        text=[[_cell(v) for v in line] for line in grid.to_numpy()],
        texttemplate="%{text}" if len(tokens) <= 12 else None,
        hoverongaps=False,
        customdata=[[name] * len(tokens) for name in writers],
        hovertemplate=f"{bold('%{customdata}')}\n%{{z:.1%}} of this row{NAMELESS}",
    )
    ticks = [f"{visible(r.plus)}\n{visible(r.minus)}" for r in records(tokens)]
    title, plain = axis("row of the vector: plus over minus"), {"showgrid": False, "zeroline": False}
    chart.update_xaxes(title, tickvals=list(range(len(tokens))), ticktext=ticks, **plain)
    names(chart, [name for name in writers], autorange="reversed", range=None)
    return chart


def _cell(share: float) -> str:
    return "" if pd.isna(share) else words.percent(share + 0.0 if abs(share) >= 0.005 else 0.0)


def _table(result: Result) -> Section:
    columns = ["writer", "norm", "share", "cosine"]
    columns += [f"{measure}{part}" for measure in LOOKS for part in ("", "_low", "_high", "_reference", "_p_holm")]
    return everything(result.frames["writers"], columns, "All writers", result)
