"""The report of `self_repair`: what later nodes and the final norm do when a carrier is removed."""

from html import escape
from types import SimpleNamespace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.dots import names
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, layout, metric_unit, of, opponents, shares
from steerscope.reports.records import largest, records, sides, way
from steerscope.reports.theme import NEUTRAL, axis, bars, figure, said, side

HARDLY = 0.05  # of the net loss
SHOWN = 5  # later nodes with a step of their own
LOSS = "#5f666f"


def headline(result: Result) -> list[str]:
    """The strongest repair by a node, by the norm, and the strongest passing on, of nodes that carry the effect; the
    removed ones that work against it.
    """
    unit, later = metric_unit(result), _of_net(result)
    return [_repair(later, unit), *(line for line in (_norm(result), _passed(later, unit), _against(result)) if line)]


def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "Removed means set back to its clean output in the steered run. Direct loss: only the carrier's own write to "
        "the final stream is taken back, all later nodes and the final norm's scale held at the steered run. Net loss: "
        "everything reacts; this is the carrier's necessity. Between them stands what each later node does because of "
        "the removal, by itself, and what the final norm does by rescaling what is left. Together: what these do "
        "beyond their sum; zero where the metric is linear in the logits.",
        "A step that lowers the loss is self-repair. One that raises it is the opposite: the later node carried the "
        "carrier's signal on, and now does not. Most early carriers act through later nodes; their direct loss is "
        "small and shares of it would mean nothing.",
    ]
    return layout(
        result,
        "Does {model} repair itself when carriers of {vector} are removed?",
        "direct against net loss, exactly",
        headline(result),
        [_stairs(result), _summary(result), _table(result)],
        text=text,
    )


def _of_net(result: Result) -> pd.DataFrame:
    """Later nodes that react significantly to the loss of one that carries the effect, with what they repair as a share
    of its net loss.
    """
    net = _removed(result)[0].set_index("node")["effect"]
    table = result.frames["later"]
    table = table[table["significant"].astype(bool) & table["carrier"].isin(net.index)]
    return table.assign(of_net=table["effect"] / table["carrier"].map(net).astype(float))


def _removed(result: Result) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Net losses of the removed nodes: of those that carry the effect, and of those that work against it."""
    return sides(of(result, "carriers", part="net"), way(result))


def _against(result: Result) -> str:
    rows = _removed(result)[1]
    count = f"{len(rows)} of the removed nodes {'is' if len(rows) == 1 else 'are'} no carrier{'s' * (len(rows) > 1)}"
    return f"{count} of the effect{opponents(shares(rows, len(rows)))}." if len(rows) else ""


def _repair(later: pd.DataFrame, unit: str) -> str:
    rows = later[later["of_net"] > 0].sort_values("of_net", ascending=False).head(3)
    if rows.empty:
        return "No later node significantly makes up for a removed carrier."
    named = [
        f"{r.node} for {r.carrier} ({words.number(abs(r.effect))} {unit}, {words.percent(r.of_net)} of its net loss)"
        for r in records(rows)
    ]
    if rows["of_net"].iloc[0] < HARDLY:
        return f"Later nodes hardly make up for any removed carrier; the most is {named[0]}."
    return f"Later nodes that make up for a removed carrier, most of all: {words.listing(named)}."


def _norm(result: Result) -> str:
    table = of(result, "carriers", part="norm")
    carriers = table["node"].isin(_removed(result)[0]["node"])
    rows = table[table["significant"].astype(bool) & table["of_direct"].notna() & carriers]
    for r in records(rows.sort_values("of_direct", key=abs, ascending=False).head(1)):
        verb = "makes up for" if r.of_direct > 0 else "adds"
        return (
            f"The final norm, by rescaling the stream that is left, {verb} "
            f"{words.percent(abs(r.of_direct))}{words.between(r.of_direct_low, r.of_direct_high, words.percent)} of "
            f"the direct loss of {r.node}."
        )
    return ""


def _passed(later: pd.DataFrame, unit: str) -> str:
    named = [
        f"{r.node} after {r.carrier} ({words.number(abs(r.effect))} {unit}, {words.percent(-r.of_net)} of its net loss)"
        for r in records(largest(later[later["of_net"] < 0], 2))
    ]
    text = f"Most of the loss is passed on by nodes that carried the signal further: {words.listing(named)}."
    return text if named else ""


def _stairs(result: Result) -> Section:
    panels = []
    for node in dict.fromkeys(result.frames["carriers"]["node"]):
        own, later = of(result, "carriers", node=node), of(result, "later", carrier=node)
        panels.append(Panel(f"Without {node}", _staircase(own, later, metric_unit(result), way(result))))
    text = (
        "From the direct loss at the top to the net loss at the bottom: orange steps add to the loss (the later node "
        "passed the signal on), blue ones repair it. Whiskers are intervals over prompts of each step."
    )
    return Section("From direct to net loss", [text], panels)


def _staircase(parts: pd.DataFrame, later: pd.DataFrame, unit: str, towards: int = 1) -> go.Figure:
    """Bars from left to right, of one carrier: orange adds to the loss, blue repairs it; whiskers are intervals of each
    step.
    """
    by = {r.part: r for r in records(parts)}
    steps = _steps(by, later)
    chart = figure(height=110 + 27 * len(steps), margin={"l": 132, "r": 14, "t": 8, "b": 46})
    drawn, level = [], 0.0
    for name, row, step in steps:
        start, way = (level, -1) if step else (0.0, 1)
        width = way * row.effect
        level = start + width
        low, high = (max(0.0, e) if e == e else 0.0 for e in (row.effect - row.low, row.high - row.effect))
        below, above = (high, low) if step else (low, high)
        colour = side(width, towards) if step else LOSS
        drawn.append(
            (start, width, width - below, width + above, colour, _hover(name, row, unit, towards if step else 0))
        )
    base, widths, lows, highs, colours, hover = (pd.Series(column) for column in zip(*drawn, strict=True))
    chart.add_bar(
        x=widths,
        base=base,
        y=list(range(len(steps))),
        orientation="h",
        marker_color=colours,
        text=[words.number(-row.effect if step else row.effect) for _, row, step in steps],
        textposition="auto",
        insidetextanchor="middle",
        error_x=bars(widths, lows, highs, NEUTRAL, 1.3),
        **said(hover),
    )
    ends = [0.0, *base, *(base + widths)]
    margin = 0.16 * (max(ends) - min(ends) or 1.0)  # for numbers beside their bars
    limits = [min(ends) - margin * (min(ends) < 0), max(ends) + margin]
    chart.update_xaxes(axis(f"loss ({unit})"), zeroline=True, range=limits)
    names(chart, [name for name, _, _ in steps])
    return chart


def _steps(by: dict[str, Any], later: pd.DataFrame) -> list[tuple[str, Any, bool]]:
    """(name, row, whether a step between both losses) of each bar."""
    order = later[later["effect"] != 0].sort_values("effect", key=abs, ascending=False)
    steps = [(escape(str(r.node)), r) for r in records(order.head(SHOWN))]
    rest, none = order.iloc[SHOWN:], float("nan")
    if len(rest):
        row = SimpleNamespace(effect=float(rest["effect"].sum()), low=none, high=none, reference=none, p_adjusted=none)
        steps.append((f"{len(rest)} other nodes", row))
    steps += [
        (name, by[part]) for name, part in (("final norm", "norm"), ("together", "remainder")) if by[part].effect != 0
    ]
    middle = [(name, row, True) for name, row in steps]
    return [("direct loss", by["direct"], False), *middle, ("net loss", by["net"], False)]


def _hover(name: str, row: Any, unit: str, towards: int) -> str:
    """Of a step, with the sign of the whole effect; of a loss without."""
    verb = ("repairs" if row.effect * towards > 0 else "adds") if towards else "loss"
    size = words.number(abs(row.effect) if towards else row.effect)
    lines = [f"<b>{name}</b>", f"{verb} {size} {escape(unit)}{words.between(row.low, row.high)}"]
    lines.append(f"random vectors {words.signed(row.reference)}")
    if row.p_adjusted == row.p_adjusted:
        lines.append(f"{words.p_value(row.p_adjusted)} (adjusted)")
    return "<br>".join(lines)


def _summary(result: Result) -> Section:
    rows = []
    for node in dict.fromkeys(result.frames["carriers"]["node"]):
        by = {r.part: r for r in records(of(result, "carriers", node=node))}
        direct, nodes, norm, net = (words.ranged(by[part], "effect") for part in ("direct", "nodes", "norm", "net"))
        shares = f"{words.percent(by['nodes'].own_share)}; {words.percent(by['nodes'].own_reference)}"
        rows.append([str(node), direct, nodes, norm, words.number(by["remainder"].effect), net, shares])
    titles = ["carrier", f"direct loss ({metric_unit(result)})", "nodes repair", "norm repairs", "together", "net loss"]
    titles.append("nodes, of own effect; random")
    text = (
        "Direct loss = what later nodes repair + what the final norm repairs + together + net loss. Negative repair is "
        "loss passed on. Last: what later nodes repair over the effect along the vector's own change of logits, and "
        "the same of random vectors."
    )
    return Section("Carriers", [text], table=Table(titles, rows, frozenset(titles[1:])))


def _table(result: Result) -> Section:
    columns = ["carrier", "node", "effect", "low", "high", "share", "of_direct", "reference"]
    columns += ["p_adjusted", "p_holm", "wrong_way"]
    return everything(result.frames["later"], columns, "All later nodes", result)
