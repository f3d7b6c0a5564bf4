"""The report of `self_repair`: what later nodes and the final norm do when a carrier is removed."""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.repair import staircase
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, metric_unit, page
from steerscope.reports.records import largest, records

HARDLY = 0.05  # of the net loss


def self_repair_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "Removed means set back to its clean output in the steered run. Direct loss: only the carrier's own "
        "write to the final stream is taken "
        "back, all later nodes and the final norm's scale held at the steered run. Net loss: everything "
        "reacts; this is the "
        "carrier's necessity. Between them stands what each later node does because of the removal, by itself, "
        "and what the final norm does by "
        "rescaling what is left. Together: what these do beyond their sum; zero where the metric is linear in "
        "the logits.",
        "A step that lowers the loss is self-repair. One that raises it is the opposite: the later node "
        "carried the carrier's signal on, and "
        "now does not. Most early carriers act through later nodes; their direct loss is small and shares of "
        "it would mean nothing.",
    ]
    sections = [_stairs(result), _summary(result), _table(result)]
    return page(
        result,
        "Does {model} repair itself when carriers of {vector} are removed?",
        "direct against net loss, exactly",
        self_repair_sentences(result),
        sections,
        text=text,
    )


def self_repair_sentences(result: Result) -> list[str]:
    """The strongest repair by a node, by the norm, and the strongest passing on."""
    unit = metric_unit(result)
    return [_repair(result, unit), *(line for line in (_norm(result, unit), _passed(result, unit)) if line)]


def _signed(result: Result) -> pd.DataFrame:
    """Later nodes that react significantly, with what they repair as a share of the carrier's net loss, whatever its
    sign.
    """
    parts = result.frames["carriers"]
    net = parts[parts["part"] == "net"].set_index("node")["effect"]
    table = result.frames["later"]
    table = table[table["significant"].astype(bool)].copy()
    table["of_net"] = table["effect"] / table["carrier"].map(net).astype(float)
    return table


def _repair(result: Result, unit: str) -> str:
    table = _signed(result)
    rows = table[table["of_net"] > 0].sort_values("of_net", ascending=False).head(3)
    if rows.empty:
        return "No later node significantly makes up for a removed carrier."
    named = [
        f"{r.node} for {r.carrier} ({words.number(abs(r.effect))} {unit}, {words.percent(r.of_net)} of its net loss)"
        for r in records(rows)
    ]
    if rows["of_net"].iloc[0] < HARDLY:
        return f"Later nodes hardly make up for any removed carrier; the most is {named[0]}."
    return f"Later nodes that make up for a removed carrier, most of all: {words.listing(named)}."


def _norm(result: Result, unit: str) -> str:
    table = result.frames["carriers"]
    rows = table[(table["part"] == "norm") & table["significant"].astype(bool) & table["of_direct"].notna()]
    rows = rows.sort_values("of_direct", key=abs, ascending=False).head(1)
    for r in records(rows):
        verb = "makes up for" if r.of_direct > 0 else "adds"
        return (
            f"The final norm, by rescaling the stream that is left, {verb} {words.percent(abs(r.of_direct))}"
            f"{words.between(r.of_direct_low, r.of_direct_high, words.percent)} of the direct loss of {r.node}."
        )
    return ""


def _passed(result: Result, unit: str) -> str:
    table = _signed(result)
    rows = largest(table[table["of_net"] < 0], 2)
    named = [
        f"{r.node} after {r.carrier} ({words.number(abs(r.effect))} {unit}, {words.percent(-r.of_net)} of its net loss)"
        for r in records(rows)
    ]
    return (
        f"Most of the loss is passed on by nodes that carried the signal further: {words.listing(named)}."
        if named
        else ""
    )


def _stairs(result: Result) -> Section:
    unit, parts, later = metric_unit(result), result.frames["carriers"], result.frames["later"]
    panels = []
    for node in dict.fromkeys(parts["node"]):
        own = parts[parts["node"] == node]
        panels.append(Panel(f"Without {node}", staircase(own, later[later["carrier"] == node], unit)))
    text = (
        "From the direct loss at the top to the net loss at the bottom: orange steps add to the loss (the "
        "later node passed the "
        "signal on), blue ones repair it. Whiskers are intervals over prompts of each step."
    )
    return Section("From direct to net loss", [text], panels)


def _summary(result: Result) -> Section:
    table, unit = result.frames["carriers"], metric_unit(result)
    rows = []
    for node in dict.fromkeys(table["node"]):
        by = {r.part: r for r in records(table[table["node"] == node])}
        own = by["nodes"]
        rows.append(
            [
                str(node),
                _value(by["direct"]),
                _value(own),
                _value(by["norm"]),
                words.number(by["remainder"].effect),
                _value(by["net"]),
                f"{words.percent(own.own_share)}; {words.percent(own.own_control)}",
            ]
        )
    titles = [
        "carrier",
        f"direct loss ({unit})",
        "nodes repair",
        "norm repairs",
        "together",
        "net loss",
        "nodes, of own effect; random",
    ]
    text = (
        "Direct loss = what later nodes repair + what the final norm repairs + together + net loss. Negative "
        "repair is loss passed on. Last: what later nodes repair over the effect along the vector's own change of "
        "logits, and the same of random vectors."
    )
    return Section("Carriers", [text], table=Table(titles, rows, frozenset(titles[1:])))


def _value(row: Any) -> str:
    return f"{words.number(row.effect)}{words.between(row.low, row.high)}"


def _table(result: Result) -> Section:
    columns = [
        "carrier",
        "node",
        "effect",
        "low",
        "high",
        "share",
        "of_direct",
        "control",
        "p_adjusted",
        "p_holm",
        "wrong_way",
    ]
    return everything(result.frames["later"], columns, "All later nodes", result)
