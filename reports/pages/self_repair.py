"""The report of `self_repair`: what later nodes and the final norm do when a carrier is removed."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.verdicts import TOLD
from steerscope.reports import words
from steerscope.reports.figures.dots import names
from steerscope.reports.figures.lines import clear
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.carried import compared, how_sure, nothing_tested
from steerscope.reports.pages.common import everything, layout, metric_unit, of, shares
from steerscope.reports.reading import drawing
from steerscope.reports.records import largest, records, sides, way
from steerscope.reports.theme import CLAIMS, NEUTRAL, axis, bars, bold, figure, said, side

HARDLY = 0.05  # of the net loss
SHOWN = 5  # later nodes with a step of their own
LOSS = "#5f666f"


@drawing
def headline(result: Result) -> list[str]:
    """The strongest repair by a node, by the norm, and the strongest passing on, of nodes that carry the effect; the
    removed ones that work against it.
    """
    unit, later = metric_unit(result), _of_net(result)
    table = result.frames["later"]
    why = nothing_tested(result, table) if len(table) else ""
    found = [_untested(later, unit, why)] if why else [*_repair(result, later, unit), _passed(later, unit)]
    return [line for line in (*found, _norm(result), _against(result)) if line]


@drawing
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
        [_stairs(result), _summary(result), how_sure(result, [result.frames["later"]]), _table(result)],
        text=text,
    )


def _of_net(result: Result) -> pd.DataFrame:
    """What later nodes do after the loss of one that carries the effect, as a share of its net loss, too."""
    net = _removed(result)[0].set_index("node")["effect"]
    table = result.frames["later"]
    table = table[table["carrier"].isin(net.index)]
    return table.assign(of_net=table["effect"] / table["carrier"].map(net).astype(float))


def _removed(result: Result) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Net losses of the removed nodes: of those that carry the effect, and of those that work against it."""
    return sides(of(result, "carriers", part="net"), way(result))


def _against(result: Result) -> str:
    rows = _removed(result)[1]
    rows = rows[rows["verdict"] == "against"]
    named = words.listing(shares(rows, len(rows)))
    return f"Of the removed nodes, these work against the effect: {named}." if len(rows) else ""


def _repair(result: Result, later: pd.DataFrame, unit: str) -> list[str]:
    """Later nodes that make up for more of this vector's loss than of that of noise; those that do it for any."""
    told = later[later["verdict"].isin(TOLD) & (later["of_net"] > 0)].sort_values("of_net", ascending=False)
    noise = compared(result, True) or compared(result, False) or "reference vectors"
    if told.empty:
        found = [f"No later node is told to make up for more of a removed node than with {noise}."]
    elif told["of_net"].iloc[0] < HARDLY:
        found = [
            f"Later nodes hardly make up for any removed node; of those beyond noise the most is {_one(told, unit)}."
        ]
    else:
        found = [f"Later nodes that make up for a removed one, more than with {noise}: {_many(told, unit)}."]
    shared = later[(later["verdict"] == "shared") & (later["of_net"] > 0)]
    return found + ([f"Shared with reference vectors: {_many(shared, unit)}."] if len(shared) else [])


def _passed(later: pd.DataFrame, unit: str) -> str:
    """Losses that later nodes add to, different from zero over prompts; references stand beside."""
    rows = later[(later["verdict"] == "against") & (later["of_net"] < 0)]
    text = "Loss that later nodes pass on (told from zero over prompts; not tested against reference vectors)"
    return f"{text}: {_many(rows, unit, 2)}." if len(rows) else ""


def _untested(later: pd.DataFrame, unit: str, why: str) -> str:
    rows = later[later["effect"] != 0]
    shown = f" Largest changes, as they are: {_many(largest(rows, 3), unit)}." if len(rows) else ""
    return f"Of no later node can it be said that it makes up for a removed one, or passes its loss on: {why}.{shown}"


def _many(rows: pd.DataFrame, unit: str, most: int = 3) -> str:
    first = largest(rows, most)
    named = [_one(first.iloc[[i]], unit) for i in range(len(first))]
    return words.listing([*named, f"{len(rows) - most} more"] if len(rows) > most else named)


def _one(rows: pd.DataFrame, unit: str) -> str:
    """`L1M for L0H1 (0.420 logits, 12% of its net loss; of the effect 5%; other concepts 1%, random vectors 2%)`."""
    r = next(records(rows))
    does = "makes up" if r.of_net > 0 else "adds"
    verb = f"{r.node} {'for' if r.of_net > 0 else 'after'} {r.carrier}"
    return (
        f"{verb} ({does} {words.number(abs(r.effect))} {unit}, {words.percent(abs(r.of_net))} of its net loss, "
        f"{words.percent(r.share)} of the effect{words.beside(r)})"
    )


def _norm(result: Result) -> str:
    """What the final norm does, where it is told from noise, or from zero against the effect."""
    table = of(result, "carriers", part="norm")
    carriers = table["node"].isin(_removed(result)[0]["node"])
    rows = table[table["verdict"].isin(CLAIMS) & table["of_direct"].notna() & carriers]
    for r in records(rows.sort_values("of_direct", key=abs, ascending=False).head(1)):
        verb = "makes up for" if r.of_direct > 0 else "adds"
        return (
            f"The final norm, by rescaling the stream that is left, {verb} "
            f"{words.percent(abs(r.of_direct))}{words.between(r.of_direct_low, r.of_direct_high, words.percent)} of "
            f"the direct loss of {r.node} ({words.percent(r.share)} of the effect{words.beside(r)})."
        )
    return ""


def _stairs(result: Result) -> Section:
    panels = []
    for node in dict.fromkeys(result.frames["carriers"]["node"]):
        own, later = of(result, "carriers", node=node), of(result, "later", carrier=node)
        panels.append(Panel(f"Without {node}", _staircase(own, later, metric_unit(result), way(result))))
    text = (
        "From the direct loss at the top to the net loss at the bottom: orange steps add to the loss (the later node "
        "passed the signal on), blue ones repair it; pale ones are not told from noise (repair) or from zero (loss "
        "passed on). Whiskers are intervals over groups of prompts of each step."
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
        colour = colour if not step or row.verdict in CLAIMS else clear(colour, 0.4)
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
    steps = [(str(r.node), r) for r in records(order.head(SHOWN))]
    rest, none = order.iloc[SHOWN:], float("nan")
    if len(rest):
        row = SimpleNamespace(effect=float(rest["effect"].sum()), low=none, high=none, verdict="")
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
    lines = [bold(name), f"{verb} {size} {unit}{words.between(row.low, row.high)}"]
    if row.verdict:
        lines += [words.verdict(row.verdict), words.clouds(row), words.told(row)]
    return "\n".join(lines)


def _summary(result: Result) -> Section:
    rows = []
    for node in dict.fromkeys(result.frames["carriers"]["node"]):
        by = {r.part: r for r in records(of(result, "carriers", node=node))}
        direct, nodes, norm, net = (words.ranged(by[part], "effect") for part in ("direct", "nodes", "norm", "net"))
        shares = f"{words.percent(by['nodes'].own_share)}{words.beside(by['nodes'])}"
        rows.append([str(node), direct, nodes, norm, words.number(by["remainder"].effect), net, shares])
    titles = ["carrier", f"direct loss ({metric_unit(result)})", "nodes repair", "norm repairs", "together", "net loss"]
    titles.append("nodes, of own effect")
    text = (
        "Direct loss = what later nodes repair + what the final norm repairs + together + net loss. Negative repair is "
        "loss passed on. Last: what later nodes repair over the effect along the vector's own change of logits, and "
        "the same of reference vectors."
    )
    return Section("Carriers", [text], table=Table(titles, rows, frozenset(titles[1:])))


def _table(result: Result) -> Section:
    columns = ["carrier", "node", "effect", "low", "high", "share", "of_direct", "reference", "concepts"]
    columns += ["p", "p_noise", "p_holm", "verdict", "wrong_way"]
    return everything(result.frames["later"], columns, "All later nodes", result)
