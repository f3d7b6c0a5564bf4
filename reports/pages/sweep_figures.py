"""The sections of a sweep's page that hold figures: maps, ranks, frontier, response, pairs, layers, designs,
convergence.
"""

from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import sentences_sweep as say
from steerscope.reports import words
from steerscope.reports.figures.contribution import contribution, efficiency
from steerscope.reports.figures.convergence import agreement, width
from steerscope.reports.figures.designs import designs
from steerscope.reports.figures.frontier import frontier
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.lines import units
from steerscope.reports.figures.matrix import SHOWN, matrix, strongest
from steerscope.reports.figures.ranking import SHOWN as RANKED
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.figures.response import dose, response
from steerscope.reports.figures.trends import trends
from steerscope.reports.page import Panel, Section, Table
from steerscope.reports.pages.common import metric_unit, missing
from steerscope.reports.records import largest, records

TITLES = {
    "effect": "Contribution to the effect",
    "kl": "Contribution to the disturbance",
    "loss": "Contribution to the loss of the true text",
}
FOLLOWED = 8  # nodes whose response is drawn
LISTED = 15  # pairs


def sections(result: Result) -> list[Section]:
    """All of them, in the page's order."""
    return [
        _maps(result),
        _ranking(result),
        _frontier(result),
        _response(result),
        _dose(result),
        _pairs(result),
        _trends(result),
        _designs(result),
        _convergence(result),
    ]


def _absent(result: Result, title: str, text: str, name: str, otherwise: str) -> Section:
    """A section whose frame has no rows: why."""
    return Section(title, [text], [Panel("No figure", None, missing(result, name, otherwise))])


def _outcome(result: Result, outcome: str) -> pd.DataFrame:
    """Rows of `nodes` as the maps and ranks read them."""
    return say.of_outcome(result, "nodes", outcome).rename(columns={"contribution": "effect"})


def _maps(result: Result) -> Section:
    title, unit = "Which nodes respond", metric_unit(result)
    text = (
        "A contribution is what injecting into a node adds to an outcome, all else equal. Orange raises the "
        "outcome, blue lowers it; bold and "
        "full colour (or a dot) is significant after Benjamini-Hochberg at "
        f"{result.manifest.get('alpha', 0.05):g}, everything else is muted. "
        "Each map has a scale of its own. Point at a cell for its interval and its control."
    )
    panels = []
    for outcome, name in TITLES.items():
        table, of = _outcome(result, outcome), units(outcome, unit)
        if table.empty:
            return _absent(result, title, text, "nodes", "no trials to estimate from")
        panels.append(_map(name, table, of, contribution))
    ratio = say.frame(result, "frontier").drop(columns=["effect"])
    shown = ratio["responsive"].astype(bool) & ratio["efficiency"].notna()
    ratio = ratio.rename(columns={"efficiency": "effect"}).assign(significant=shown)
    if ratio["effect"].notna().any():
        heads = say.of_outcome(result, "nodes", "effect")[["node", "head"]]
        last = _map(
            "Efficiency: effect for each nat of disturbance",
            ratio.merge(heads, on="node"),
            f"{unit} per nat",
            efficiency,
        )
        panels.append(last)
        text += (
            " Efficiency is blank where the disturbance cannot be told from zero; there bold is responsive: "
            "significant and beyond random vectors."
        )
    return Section(title, [text], panels)


def _map(name: str, table: pd.DataFrame, unit: str, describe: Any) -> Panel:
    """A map whose numbers are multiplied where they are too small for two decimals."""
    limit = float(table["effect"].abs().max())
    power = 3 * int(np.ceil(np.log10(0.2 / limit) / 3)) if 0 < limit < 0.2 else 0
    small = f"10{str(-power).translate(_RAISED)} " if power else ""
    chart = heatmap(table, unit, limit, describe=describe, factor=10.0**power, bar=True)
    numbers = any(trace.mode == "text" for trace in chart.data if trace.type == "scatter")
    return Panel(f"{name} ({small if numbers else ''}{unit})", chart)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _ranking(result: Result) -> Section:
    unit = metric_unit(result)
    text = (
        "The largest contributions with their intervals over prompts. The grey band is the interval of the "
        "same node's contribution for random "
        "vectors of equal norm: a node that goes clearly further than its band responds to this vector, one "
        "within it to anything, and one that falls "
        "short of it does less than chance would. Open circles are not significant."
    )
    if not result.manifest.get("trials", {}).get("random", 1):
        text += f" No bands: {missing(result, 'controls', 'no trials with random vectors')}."
    panels = [
        Panel(
            TITLES[outcome],
            ranking(table, units(outcome, unit), _limits(table), describe=contribution, title="contribution"),
        )
        for outcome in ("effect", "kl")
        if len(table := _outcome(result, outcome))
    ]
    return Section("Ranked contributions", [text], panels)


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Of an axis that holds zero, the largest contributions, their intervals and their bands."""
    rows = largest(table, RANKED)
    columns = ["effect", "low", "high", "control_low", "control_high"]
    low, high = min(0.0, rows[columns].min().min()), max(0.0, rows[columns].max().max())
    margin = 0.05 * (high - low or 1.0)
    return low - margin, high + margin


def _frontier(result: Result) -> Section:
    title, table = "Effect without disruption", say.frame(result, "frontier")
    text = (
        "Each node's contribution to the effect against its contribution to the disturbance, with both "
        "intervals. Useful nodes (orange) raise the "
        "effect significantly, beyond random vectors, and lie above the dotted line: more effect for each nat "
        "than all nodes have together. "
        "No node lies above and to the left of the stairs. Names: useful nodes first, at most fourteen."
    )
    if table.empty:
        return _absent(result, title, text, "frontier", "no trials to estimate from")
    return Section(title, [text], [Panel("One point a node", frontier(table, metric_unit(result)))])


def _followed(result: Result, table: pd.DataFrame) -> list[str]:
    """The nodes whose response is drawn: responsive ones first, by the size of their effect."""
    order = say.frame(result, "frontier")
    order = order[order["node"].isin(table["node"])]
    order = order.assign(size=order["effect"].abs(), first=order["responsive"].astype(bool))
    return [str(n) for n in order.sort_values(["first", "size"], ascending=False)["node"].head(FOLLOWED)]


def _response(result: Result) -> Section:
    title, table = "Response of single nodes", say.frame(result, "response")
    text = (
        "The contribution of the strongest nodes, estimated anew from the trials at each level. A line that "
        "falls with k: the node does less where "
        "more is injected beside it. A line that rises with the coefficient less than in proportion: the node "
        "saturates. Bands are intervals over prompts."
    )
    nodes = _followed(result, table)
    if not nodes:
        return _absent(result, title, text, "response", "only one value of k and of the coefficient")
    chart = response(table, nodes, metric_unit(result))
    return Section(title, [text], [Panel("A column a node; each row has one scale", chart)])


def _dose(result: Result) -> Section:
    title, table = "Dose", say.frame(result, "dose")
    text = (
        "Mean outcomes of whole trials. Where the real vector moves the effect and random ones do not, at a "
        "like disturbance, the sweep sees "
        "steering and not mere disruption. Bands are intervals over prompts."
    )
    if table.empty:
        return _absent(result, title, text, "dose", "no trials")
    return Section(title, [text], [Panel("Real against random vectors", dose(table, metric_unit(result)))])


def _pairs(result: Result) -> Section:
    title, table = "Interactions", say.frame(result, "pairs")
    about, unit = result.manifest.get("pairs", {}), metric_unit(result)
    text = (
        "What two nodes do together beyond the sum of their contributions. Against the sign of their "
        "contributions (blue, where these are positive): "
        "they stand in for each other; with it: they strengthen each other. Muted cells are not significant, "
        "grey cells were not seen together often "
        "enough. Interactions have no control of their own."
    )
    if table.empty:
        return _absent(result, title, text, "pairs", "no two nodes were injected into together often enough")
    nodes = strongest(table)
    method = say.METHODS.get(str(about.get("method")), "from the trials that have both")
    how = f"{about.get('tested', len(table)):,} pairs were estimated, {method}"
    if len({*table["first"], *table["second"]}) > len(nodes):
        how += f"; shown are the {len(nodes)} nodes (at most {SHOWN}) with the most significant or largest interactions"
    panels = [
        Panel(f"{name}: interaction ({units(outcome, unit)})", matrix(part, nodes, units(outcome, unit)))
        for outcome, name in {"effect": "Effect", "kl": "Disturbance"}.items()
        if len(part := table[table["outcome"] == outcome])
    ]
    return Section(title, [text, f"{how}. The table lists the strongest on the effect."], panels, _list(table, unit))


def _list(table: pd.DataFrame, unit: str) -> Table:
    """The strongest interactions on the effect: significant ones first, then by size."""
    effect, kl = (table[table["outcome"] == outcome] for outcome in ("effect", "kl"))
    found = effect.assign(size=effect["interaction"].abs(), sure=effect["significant"].astype(bool))
    found = found.sort_values(["sure", "size"], ascending=False).head(LISTED)
    found = found.merge(
        kl[["first", "second", "interaction"]], on=["first", "second"], how="left", suffixes=("", "_kl")
    )
    rows = [
        [
            f"{r.first} and {r.second}",
            words.signed(r.interaction),
            words.between(r.low, r.high).strip() or "–",
            words.number(r.p_adjusted),
            words.signed(r.interaction_kl),
            f"{r.together:,}",
        ]
        for r in records(found)
    ]
    columns = [
        "pair",
        f"interaction ({unit})",
        "interval",
        "p adjusted",
        "on the disturbance (nats)",
        "trials together",
    ]
    return Table(columns, rows, frozenset(columns[1:]), frozenset(i for i, s in enumerate(found["sure"]) if s))


def _trends(result: Result) -> Section:
    title, table = "Over layers", say.frame(result, "trends")
    text = "Mean contribution of the nodes of a layer, by kind. Bands are intervals over prompts."
    if table.empty:
        return _absent(result, title, text, "trends", "no trials to estimate from")
    panels = [
        Panel(TITLES[outcome], trends(part, units(outcome, metric_unit(result))))
        for outcome in ("effect", "kl")
        if _has_layers(part := table[table["outcome"] == outcome])
    ]
    return Section(title, [text, *say.slopes(result)], panels)


def _has_layers(part: pd.DataFrame) -> bool:
    """Whether there is anything to draw."""
    return bool(part["layer"].notna().any())


def _designs(result: Result) -> Section:
    title, table, unit = "Horizontal against vertical", say.frame(result, "designs"), metric_unit(result)
    text = [
        "Horizontal trials inject into nodes of one layer, vertical ones into one node a layer. The grey means "
        "of the designs differ in k and in "
        "norm; the coloured difference compares trials of equal k and equal injected norm only."
    ]
    if not (table["design"] == say.DIFFERENCE).any():
        text.append(
            "No comparison: "
            f"{missing(result, 'designs', 'the sweep did not have both horizontal and vertical trials')}."
        )
    if table.empty:
        return Section(title, text)
    rows = [
        [
            r.design.replace(" - ", " − "),
            r.outcome,
            f"{r.trials:,}",
            words.number(r.k),
            words.number(r.norm),
            f"{words.signed(r.mean)} {units(r.outcome, unit)}",
            words.between(r.low, r.high).strip() or "–",
            words.number(r.p),
        ]
        for r in records(table)
    ]
    columns = ["design", "outcome", "trials", "mean k", "norm (stream norms)", "mean", "interval", "p"]
    marked = frozenset(i for i, d in enumerate(table["design"]) if d == say.DIFFERENCE)
    panel = Panel("Means of trials, and the difference at equal k and norm", designs(table, unit))
    return Section(title, text, [panel], Table(columns, rows, frozenset(columns[2:]), marked))


def _convergence(result: Result) -> Section:
    title, table = "Are there enough trials?", say.frame(result, "convergence")
    text = (
        "The estimates again from the first so many trials. The dotted line falls as one over the root of the "
        "trials, what sampling alone would give; "
        "where the width stops following it, more prompts help and more trials do not. The order of the nodes "
        "is settled where the agreement nears one."
    )
    if table.empty:
        return _absent(result, title, text, "convergence", "too few trials")
    unit = metric_unit(result)
    panels = [
        Panel("Width of the intervals", width(table, unit))
        if (table["width"] > 0).any()
        else Panel("Width of the intervals", None, missing(result, "intervals", "no interval over these few prompts")),
        Panel("Order of the nodes", agreement(table)),
    ]
    return Section(title, [text], panels)
