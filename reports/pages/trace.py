"""The report of `trace`: norms, angles and shares of the injected part, layer by layer, and what each layer would
predict.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.lines import lines
from steerscope.reports.figures.strip import strip
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.carried import compared
from steerscope.reports.pages.common import everything, layout, no_intervals, of
from steerscope.reports.pages.lens import trajectories
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import GRID, LEGEND, axis, bold, figure, said

PARTS = {
    "rest": ("clean stream", "#9aa3ad"),
    "vector": ("the vector", "#c4501b"),
    "response": ("what nodes wrote because of it", "#2f7bbf"),
}
PLACES = ("injected", "later")
Norm = tuple[int, str]


@drawing
def headline(result: Result) -> list[str]:
    """Relative norm at both ends, what the last norm sees, commitment."""
    found = []
    relative = _by_norm(result, "relative_norm", "injected")
    if relative:
        ends = list(relative.values())
        found.append(
            f"Where it enters, the injected part is {words.ranged(ends[0])} times as long as the clean stream; at the "
            f"last norm {words.ranged(ends[-1])} times."
        )
    parts = {p: _by_norm(result, p, "injected") for p in PARTS}
    if relative and all(parts.values()):
        last = list(relative)[-1]
        shares = {p: words.percent(by[last].value) for p, by in parts.items()}
        found.append(
            f"Of what the unembedding reads at injected positions, {shares['rest']} is the clean stream, "
            f"{shares['vector']} the vector, and {shares['response']} what nodes wrote because of it."
        )
    later = list(_by_norm(result, "response", "later").values())
    if later:
        found.append(
            f"At later positions, where the vector itself is not, {words.ranged(later[-1], 'value', words.percent)} of "
            f"what the unembedding reads was written because of it{_beside(result, later[-1])}."
        )
    committed = {r.run: words.number(r.value) for r in records(of(result, "lens", quantity="committed", where="later"))}
    if {"clean", "steered"} <= set(committed):
        found.append(
            f"Seen through the {_lens(result)}, later positions commit before layer {committed['clean']} on average in "
            f"the clean run, {committed['steered']} in the steered one."
        )
    return found + no_intervals(result)


def _beside(result: Result, row: Any) -> str:
    """What is written because of reference vectors; whether that is less is not tested."""
    others = words.listing([name for name in (compared(result, True), compared(result, False)) if name])
    if not words.finite(row.reference):
        return ""
    return f" (of {others}, each by itself: {words.ranged(row, 'reference', words.percent)} on average)"


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    weights = result.manifest.get("weights", "raw")
    folded = (
        "the norms' own weights are folded into what reads them, so shares of the normalized stream leave them out."
        if weights == "folded"
        else "nothing is folded, so shares of the normalized stream have the norms' own weights in them."
    )
    text = [
        f"The model's weights are {weights}: {folded}",
        "A norm is linear once its scale is given, so the normalized stream is exactly the sum of the clean stream, "
        "the vector, and what nodes wrote differently because of it, each normalized with the steered scale. A part's "
        "share is its projection on the whole; shares add up to 1.",
    ]
    seen = f"Seen through the {_lens(result)}: what the stream before each layer would predict."
    sections = [
        _norms(result),
        _split(result),
        _turn(result),
        _positions(result),
        _nodes(result),
        *trajectories(result.frames["lens"], result.frames["tokens"], seen),
        _table(result),
    ]
    question, method = "How does {vector} travel through {model}?", "exact split at every norm"
    return layout(result, question, method, headline(result), sections, text=text)


def _lens(result: Result) -> str:
    return str(result.manifest.get("lens", {}).get("name", "lens"))


def _order(table: pd.DataFrame) -> list[Norm]:
    """The norms as they come: attention before MLP, the final one last."""
    rank = {"attention": 0, "mlp": 1, "final": 2}
    found = set(zip(table["layer"], table["norm"], strict=True))
    return sorted(found, key=lambda item: (item[0], rank.get(item[1], 3)))


def _short(norm: Norm) -> str:
    """`L0A`, `L0M`, `end`."""
    layer, name = norm
    return "end" if name == "final" else f"L{layer}{dict(attention='A', mlp='M').get(name, name)}"


def _by_norm(result: Result, quantity: str, where: str) -> dict[Norm, Any]:
    """Rows of a quantity, in the order of the norms."""
    table = of(result, "stream", quantity=quantity, where=where)
    by = {(r.layer, r.norm): r for r in records(table)}
    return {norm: by[norm] for norm in _order(table)}


def _along(
    result: Result, quantities: Mapping[str, tuple[str, str]], title: str, log: bool = False, reference: bool = False
) -> go.Figure:
    """A line for each entry of `quantities`: name -> (quantity, where); dotted are reference vectors, if asked for."""
    norms = _order(result.frames["stream"])

    def hover(name: str, r: Any) -> str:
        beside = f"\nreference vectors {words.ranged(r, 'reference')}" if words.finite(r.reference) else ""
        return f"{bold(name)}, {_short((r.layer, r.norm))}\n{words.ranged(r)}{beside}"

    series = {n: of(result, "stream", quantity=q, where=where) for n, (q, where) in quantities.items()}
    places = {n: [norms.index(item) for item in zip(t["layer"], t["norm"], strict=True)] for n, t in series.items()}
    series = {n: table.assign(x=places[n]) for n, table in series.items() if len(table)}
    chart = lines(series, "x", "value", hover, dotted="reference" if reference else "", reference="references: {}")
    _norm_axis(chart, norms)
    chart.update_yaxes(axis(title), **({"type": "log"} if log else {"rangemode": "tozero"}))
    return chart


def _norm_axis(chart: go.Figure, norms: list[Norm]) -> None:
    ticks = {"tickvals": list(range(len(norms))), "ticktext": [_short(norm) for norm in norms]}
    chart.update_xaxes(axis("norm (A attention, M MLP)"), tickangle=-45 if len(norms) > 12 else 0, **ticks)


def _norms(result: Result) -> Section:
    panels = [
        Panel(
            f"Length of the stream, {where} positions",
            _along(result, {run: (f"{run}_norm", where) for run in ("clean", "steered")}, "length", log=True),
        )
        for where in PLACES
    ]
    relative = _along(result, {"relative norm": ("relative_norm", "injected")}, "times", reference=True)
    ratio = _along(result, {where: ("scale_ratio", where) for where in PLACES}, "ratio", log=True)
    panels += [
        Panel("Relative norm: what was injected over the clean stream", relative),
        Panel("What norms divide by, steered over clean", ratio),
    ]
    return Section("Norms", ["Each norm in order, as it reads the stream. Bands are intervals over prompts."], panels)


def _split(result: Result) -> Section:
    panels = [Panel(f"{where.capitalize()} positions", _split_chart(result, where)) for where in PLACES]
    return Section("What the normalized stream is made of", ["A share below 0 points against the whole."], panels)


def _split_chart(result: Result, where: str) -> go.Figure:
    """What the normalized stream is made of at each norm; bars add up to 1."""
    norms = _order(result.frames["stream"])
    chart = figure(height=320, margin={"l": 62, "r": 14, "t": 34, "b": 46}, barmode="relative", **LEGEND)
    for part, (name, colour) in PARTS.items():
        rows = of(result, "stream", quantity=part, where=where)
        if rows.empty:
            continue
        hover = [
            f"{bold(name)}, "
            f"{_short((r.layer, r.norm))}\n{words.ranged(r, 'value', words.percent)}"
            + (f"\nreference vectors {words.percent(r.reference)}" if words.finite(r.reference) else "")
            for r in records(rows)
        ]
        at = [norms.index(item) for item in zip(rows["layer"], rows["norm"], strict=True)]
        chart.add_bar(x=at, y=rows["value"], name=name, marker_color=colour, **said(hover))
    chart.add_hline(y=1, line_width=1, line_color=GRID)
    _norm_axis(chart, norms)
    chart.update_yaxes(axis("share of the normalized stream"), tickformat=".0%")
    return chart


def _turn(result: Result) -> Section:
    angle = _along(result, {where: ("angle", where) for where in PLACES}, "degrees", reference=True)
    cosine = _along(result, {"cosine": ("cosine", "injected")}, "cosine", reference=True)
    stretch = _along(result, {where: ("stretch", where) for where in PLACES}, "factor", log=True)
    panels = [
        Panel("Angle between clean and steered stream (degrees)", angle),
        Panel("Cosine between the steered stream and the vector", cosine),
        Panel("Stretch: steered length over clean length", stretch),
    ]
    return Section("Turn and stretch", ["Dotted: reference vectors of equal norm."], panels)


def _positions(result: Result) -> Section:
    """Every position of the first prompt: what of the normalized stream is there because of the injection."""
    table, title = result.frames["positions"], "One prompt, position by position"
    if table.empty:
        return Section(title, [], [Panel("Positions", None, "no position is reached")])
    own = table[table["prompt"] == table["prompt"].min()]
    place = {_short(norm): i for i, norm in enumerate(_order(own))}
    rows = own.assign(node=[_short(item) for item in zip(own["layer"], own["norm"], strict=True)])
    rows = rows.sort_values(["node", "position"], key=lambda c: c.map(place) if c.name == "node" else c)
    injected = set(own[own["where"] == "injected"]["position"])
    caused = strip(rows.assign(effect=rows["vector"] + rows["response"]), "", 1.0, injected)
    panels = [
        Panel("Share that is there because of the injection", caused),
        Panel(
            "Angle between clean and steered stream (degrees)",
            strip(rows.assign(effect=rows["angle"]), "degrees", 90.0, injected),
        ),
    ]
    return Section(title, ["A row is a norm, a column a token; ● marks what the vector is added to."], panels)


def _nodes(result: Result) -> Section:
    table = result.frames["nodes"]
    wide = table.assign(column=table["where"] + " " + table["quantity"]).pivot_table(
        index=["layer", "node"], columns="column", values="value", sort=False
    )
    frame = wide.reset_index().rename_axis(None, axis=1)
    frame = frame.sort_values("later ratio" if "later ratio" in frame else frame.columns[-1], ascending=False)
    columns = ["node", *[c for c in frame.columns if c not in ("layer", "node")]]
    return everything(frame, columns, "How much each node's output changes", result)


def _table(result: Result) -> Section:
    columns = [
        "layer",
        "norm",
        "where",
        "quantity",
        "value",
        "low",
        "high",
        "reference",
        "reference_low",
        "reference_high",
    ]
    return everything(result.frames["stream"], columns, "All numbers", result)
