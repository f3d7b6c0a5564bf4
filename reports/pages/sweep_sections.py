"""The sections of a sweep's report on what was found: maps, ranks, frontier, response, pairs, layers, designs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import holm
from steerscope.analysis.results.verdicts import TOLD
from steerscope.reports import words
from steerscope.reports.figures.dots import dots, names
from steerscope.reports.figures.frontier import frontier
from steerscope.reports.figures.lines import COLOUR, NAME, levels, line, lines, units
from steerscope.reports.figures.matrix import SHOWN, matrix, strongest
from steerscope.reports.figures.ranking import SHOWN as RANKED
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Panel, Section, Table
from steerscope.reports.pages.common import map_panel, metric_unit, missing
from steerscope.reports.records import largest, records, way
from steerscope.reports.theme import LEGEND, NEUTRAL, POSITIVE, REFERENCE, axis, bold, figure, key, side

TITLES = {
    "effect": "Contribution to the effect",
    "kl": "Contribution to the disturbance",
    "loss": "Contribution to the loss of the true text",
}
KINDS = {"head": "heads", "attention": "attention, all heads", "mlp": "MLPs"}
KIND_COLOURS = {"head": "#2f7bbf", "attention": "#2f7bbf", "mlp": "#c4501b"}
ALONG = {"k": "k (nodes)", "coefficient": "coefficient"}
DIFFERENCE = "horizontal - vertical"
FOLLOWED = 8  # nodes whose response is drawn
LISTED = 15  # pairs
# What is read of a frame that is not there.
READ = (
    "node layer head kind outcome contribution low high share own_share verdict reference reference_low reference_high "
    "difference sampled vectors p p_noise p_adjusted p_holm significant effect kl efficiency useful by level vector "
    "mean first second interaction design k width agreement trials steered_effect steered_kl"
).split()


def all_of(result: Result) -> list[Section]:
    """All of them, in the page's order."""
    parts = (_maps, _ranking, _frontier, _response, _dose, _pairs, _trends, _designs)
    return [part(result) for part in parts]


def frame(result: Result, name: str) -> pd.DataFrame:
    """A frame of a sweep; without rows where the result does not have it."""
    return result.frames.get(name, pd.DataFrame(columns=READ))


def flagged(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rows in which a column of truth values holds."""
    return table[table[name].astype(bool)]


def of_outcome(result: Result, name: str, outcome: str) -> pd.DataFrame:
    """Rows of a frame that are of one outcome."""
    table = frame(result, name)
    return table[table["outcome"] == outcome]


def adds(result: Result) -> bool:
    """Whether contributions are what nodes add; else, what they do beyond the others."""
    return bool(result.manifest.get("adds", True))


def absent(result: Result, title: str, text: str, name: str, otherwise: str) -> Section:
    """A section whose frame has no rows: why."""
    return Section(title, [text], [Panel("No figure", None, missing(result, name, otherwise))])


def _outcome(result: Result, outcome: str) -> pd.DataFrame:
    """Rows of `nodes` as the maps and ranks read them."""
    return of_outcome(result, "nodes", outcome).rename(columns={"contribution": "effect"})


def _towards(result: Result, outcome: str) -> int:
    """The sign of the whole effect; disturbance and loss are judged by themselves."""
    return way(result) if outcome == "effect" else 1


def _contribution(row: Any, unit: str) -> str:
    """All that is known of a node and an outcome."""
    return "\n".join(
        [
            f"{bold(row.node)} {row.outcome}",
            words.verdict(row.verdict),
            f"contribution {words.ranged(row, 'effect', words.signed, unit)}, {words.percent(row.share)}",
            f"of random vectors {words.ranged(row, 'reference', words.signed)}, {row.vectors} of them",
            f"with the node {words.number(row.mean_in)}, without {words.number(row.mean_out)}, in {row.sampled:,} "
            "trials",
            f"{words.p_value(row.p)} over prompts; {_known(row.p_noise)} over vectors; both "
            f"{words.p_value(row.p_holm)} (Holm)",
        ]
    )


def _known(p: Any) -> str:
    return words.p_value(p) if words.finite(p) else "not tested"


def _efficiency(row: Any, unit: str) -> str:
    """A node's effect for each nat of disturbance."""
    found = [name for name in ("useful", "frontier") if getattr(row, name)]
    title = f"{bold(row.node)} {words.listing(found) if found else ''}"
    ends = words.between(row.efficiency_low, row.efficiency_high)
    return f"{title}\n{words.verdict(row.verdict)}\n{words.signed(row.effect)} {unit}{ends}"


def _maps(result: Result) -> Section:
    title, unit = "Which nodes respond", metric_unit(result)
    text = (
        f"{_what(result)} Orange raises the outcome, blue lowers it; on the map of the effect orange works along the "
        "whole effect, blue against it. Bold and full colour is told from random vectors, or works against the whole "
        "(Holm over nodes), everything else is muted. Each map has a scale of its own. Point at a cell for its "
        f"interval and for random vectors. {key(frame(result, 'nodes')['verdict'])}"
    )
    panels = []
    for outcome, name in TITLES.items():
        table, of = _outcome(result, outcome), units(outcome, unit)
        if table.empty:
            return absent(result, title, text, "nodes", "no trials to estimate from")
        panels.append(map_panel(name, table, of, _contribution, _towards(result, outcome)))
    ratio = frame(result, "frontier").drop(columns=["effect"]).rename(columns={"efficiency": "effect"})
    ratio = ratio[ratio["effect"].notna()]
    if len(ratio):
        ratio = ratio.merge(of_outcome(result, "nodes", "effect")[["node", "head"]], on="node")
        panels.append(
            map_panel(
                "Efficiency: effect for each nat of disturbance", ratio, f"{unit} per nat", _efficiency, way(result)
            )
        )
        text += (
            " Efficiency is blank where the disturbance cannot be told from zero; its marks are those of the effect."
        )
    return Section(title, [text], panels)


def _what(result: Result) -> str:
    """What a contribution is, in a sentence."""
    if adds(result):
        return "A contribution is what injecting into a node adds to an outcome, beside as many other nodes."
    return "A contribution is what a node does beyond the mean of the nodes that it is exchanged for."


def _ranking(result: Result) -> Section:
    text = (
        "The largest contributions with their intervals over prompts. The grey band holds what they would be if the "
        "node had the share that it has of random vectors (95% of these vectors): each vector is read along its own "
        "change. Colours and symbols are verdicts."
    )
    if not result.manifest.get("trials", {}).get("random", 1):
        text += f" No bands: {missing(result, 'controls', 'no trials with random vectors')}."
    panels = []
    for outcome in ("effect", "kl"):
        table, unit = _outcome(result, outcome), units(outcome, metric_unit(result))
        if len(table):
            look: dict[str, Any] = {"title": "contribution", "towards": _towards(result, outcome)}
            chart = ranking(table, unit, _limits(table), describe=_contribution, **look)
            panels.append(Panel(TITLES[outcome], chart))
    return Section("Ranked contributions", [text], panels)


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Of an axis that holds zero, the largest contributions, their intervals and their bands."""
    ends = largest(table, RANKED)[["effect", "low", "high", "reference_low", "reference_high"]]
    low, high = min(0.0, ends.min().min()), max(0.0, ends.max().max())
    margin = 0.05 * (high - low or 1.0)
    return low - margin, high + margin


def _frontier(result: Result) -> Section:
    title, table = "Effect without disruption", frame(result, "frontier")
    side = "below" if way(result) < 0 else "above"
    text = (
        "Each node's contribution to the effect against its contribution to the disturbance, with both intervals. "
        "Responsive nodes are told from random vectors, along the whole effect (Holm). Useful ones (orange) are those "
        f"of them that lie {side} the dotted line: more effect for each nat than all nodes have together. No node lies "
        f"{side} and to the left of the stairs. Names: useful nodes first, at most fourteen."
    )
    if table.empty:
        return absent(result, title, text, "frontier", "no trials to estimate from")
    known = table[table["effect"].notna()].assign(responsive=lambda t: t["verdict"].isin(TOLD))
    return Section(title, [text], [Panel("One point a node", frontier(known, metric_unit(result)))])


def _followed(result: Result, table: pd.DataFrame) -> list[str]:
    """The nodes whose response is drawn: those told from random vectors first, by the size of their effect."""
    order = of_outcome(result, "nodes", "effect")
    order = order[order["node"].isin(table["node"])]
    order = order.assign(size=order["contribution"].abs(), first=order["verdict"].isin(TOLD))
    return [str(n) for n in order.sort_values(["first", "size"], ascending=False)["node"].head(FOLLOWED)]


def _response(result: Result) -> Section:
    title, table = "Response of single nodes", frame(result, "response")
    text = (
        "The contribution of the strongest nodes, estimated anew from the trials at each level (by k: what it adds to "
        "reach that many nodes). A line that falls with k: the node does less where more is injected beside it. A line "
        "that rises with the coefficient less than in proportion: the node saturates. Bands are intervals over prompts."
    )
    nodes = _followed(result, table)
    if not nodes:
        return absent(result, title, text, "response", "only one value of k and of the coefficient")
    chart = _responses(table, nodes, metric_unit(result))
    return Section(title, [text], [Panel("A column a node; each row has one scale", chart)])


def _responses(table: pd.DataFrame, nodes: Sequence[str], unit: str) -> go.Figure:
    """A column a node, a row for each outcome over each of k and coefficient; a row shares its scale."""
    found = set(zip(table["by"], table["outcome"], strict=True))
    rows = [(by, outcome) for by in ALONG for outcome in NAME if (by, outcome) in found]
    chart = figure(height=70 + 184 * len(rows), margin={"l": 74, "r": 12, "t": 30, "b": 52})
    gaps = {"horizontal_spacing": 0.012, "vertical_spacing": min(0.14, 0.34 / len(rows))}
    titles = [node for node in nodes]
    chart.set_subplots(rows=len(rows), cols=len(nodes), shared_yaxes="rows", subplot_titles=titles, **gaps)
    chart.update_annotations(font_size=13)
    for i, (by, outcome) in enumerate(rows, 1):
        part = table[(table["by"] == by) & (table["outcome"] == outcome)]
        of, middle = units(outcome, unit), (len(nodes) + 1) // 2
        for j, node in enumerate(nodes, 1):
            own = part[part["node"] == node]
            hover = levels(own, "contribution", of, f"{bold(node)}\n")
            line(chart, own, "level", "contribution", COLOUR[outcome], hover=hover, place={"row": i, "col": j})
            chart.update_xaxes(axis(ALONG[by] if j == middle else "", **_ticks(part, 4)), row=i, col=j)
            title = f"{NAME[outcome]} ({of})" if j == 1 else ""
            chart.update_yaxes(axis(title, nticks=5, rangemode="tozero"), row=i, col=j)
    return chart


def _ticks(table: pd.DataFrame, most: int) -> dict[str, Any]:
    """Whole numbers where there are few of them."""
    at = table["level"]
    whole = 1 < at.nunique() and at.max() - at.min() < most and (at % 1 == 0).all()
    return {"dtick": 1} if whole else {"nticks": most}


def _dose(result: Result) -> Section:
    title, table = "Dose", frame(result, "dose")
    own = ""
    if result.manifest.get("metric", {}).get("name") == "own_direction":
        own = ", each along its own change of the logits, so that both effects are positive by construction"
    text = (
        f"Mean outcomes of whole trials, with the real vector and with random ones of equal norm{own}. Bands are "
        "intervals over prompts."
    )
    if table.empty:
        return absent(result, title, text, "dose", "no trials")
    return Section(title, [text], [Panel("Real against random vectors", _doses(table, metric_unit(result)))])


def _doses(table: pd.DataFrame, unit: str) -> go.Figure:
    """Mean outcomes of whole trials, real against random vectors: a column an outcome, a row for k and coefficient."""
    ways = [by for by in ALONG if (table["by"] == by).any()]
    outcomes = [o for o in NAME if (table["outcome"] == o).any()]
    chart = figure(height=60 + 250 * len(ways), margin={"l": 66, "r": 12, "t": 34, "b": 52}, **LEGEND)
    chart.set_subplots(rows=len(ways), cols=len(outcomes), horizontal_spacing=0.075, vertical_spacing=0.2)
    for i, by in enumerate(ways, 1):
        for j, outcome in enumerate(outcomes, 1):
            part, of = table[(table["by"] == by) & (table["outcome"] == outcome)], units(outcome, unit)
            where: dict[str, Any] = {"row": i, "col": j}
            for vector, colour in (("random", REFERENCE), ("real", POSITIVE)):
                own, name = part[part["vector"] == vector], f"{vector} vectors"
                hover = levels(own, "mean", of, f"{bold(name)}\n")
                if len(own):
                    legend: dict[str, Any] = {"name": name, "shown": i == j == 1}
                    line(chart, own, "level", "mean", colour, hover=hover, place=where, **legend)
            chart.update_xaxes(axis(ALONG[by], **_ticks(part, 8)), **where)
            chart.update_yaxes(axis(f"{NAME[outcome]} ({of})", nticks=6, rangemode="tozero"), **where)
    return chart


def _pairs(result: Result) -> Section:
    title, table = "Interactions", frame(result, "pairs")
    about, unit = result.manifest.get("pairs", {}), metric_unit(result)
    text = (
        "What two nodes do together beyond the sum of their contributions. Against the sign of their contributions "
        "(blue, where these work along the effect): they stand in for each other; with it: they strengthen each other. "
        "Muted cells are not significant over prompts (Holm over pairs), grey cells were not seen together often "
        "enough. The same of random vectors is not asked: an interaction may be one of any vector."
    )
    if table.empty:
        return absent(result, title, text, "pairs", "no two nodes were injected into together often enough")
    nodes = strongest(table)
    how = f"{about.get('tested', len(table)):,} pairs were tested, each beside as many other nodes"
    if len({*table["first"], *table["second"]}) > len(nodes):
        how += f"; shown are the {len(nodes)} nodes (at most {SHOWN}) with the most significant or largest interactions"
    panels = [
        Panel(
            f"{name}: interaction ({units(outcome, unit)})",
            matrix(part, nodes, units(outcome, unit), _interaction, towards=_towards(result, outcome)),
        )
        for outcome, name in {"effect": "Effect", "kl": "Disturbance"}.items()
        if len(part := table[table["outcome"] == outcome])
    ]
    return Section(title, [text, f"{how}. The table lists the strongest on the effect."], panels, _list(table, unit))


def _interaction(row: Any, unit: str) -> str:
    return "\n".join(
        [
            bold(f"{row.first} and {row.second}"),
            f"{words.signed(row.interaction)} {unit} beyond the sum{words.between(row.low, row.high)}",
            f"{words.p_value(row.p_holm)} (Holm), together in {row.together:,} trials",
        ]
    )


def _list(table: pd.DataFrame, unit: str) -> Table:
    """The strongest interactions on the effect: significant ones first, then by size."""
    effect, kl = (table[table["outcome"] == outcome] for outcome in ("effect", "kl"))
    found = effect.assign(size=effect["interaction"].abs(), sure=effect["significant"].astype(bool))
    found = found.sort_values(["sure", "size"], ascending=False).head(LISTED)
    ends = ["first", "second"]
    found = found.merge(kl[[*ends, "interaction"]], on=ends, how="left", suffixes=("", "_kl"))
    rows = [
        [
            f"{r.first} and {r.second}",
            words.signed(r.interaction),
            words.between(r.low, r.high).strip() or "–",
            words.number(r.p_holm),
            words.signed(r.interaction_kl),
            f"{r.together:,}",
        ]
        for r in records(found)
    ]
    columns = ["pair", f"interaction ({unit})", "interval", "p (Holm)", "on the disturbance (nats)", "trials together"]
    return Table(columns, rows, frozenset(columns[1:]), frozenset(i for i, s in enumerate(found["sure"]) if s))


def _trends(result: Result) -> Section:
    title, table = "Over layers", frame(result, "trends")
    text = "Mean contribution of the nodes of a layer, by kind. Bands are intervals over prompts."
    if table.empty:
        return absent(result, title, text, "trends", "no trials to estimate from")
    layers = table[table["layer"].notna()].astype({"layer": int})
    panels = [
        Panel(TITLES[outcome], _trend(part, units(outcome, metric_unit(result))))
        for outcome in ("effect", "kl")
        if len(part := layers[layers["outcome"] == outcome])
    ]
    return Section(title, [text, *_slopes(result)], panels)


def _trend(rows: pd.DataFrame, unit: str) -> go.Figure:
    """One outcome's lines over layers with their intervals."""

    def hover(name: str, row: Any) -> str:
        value = words.ranged(row, "contribution", words.signed, unit)
        return f"{bold(f'layer {row.layer}, {name}')} (mean of {row.nodes})\n{value}\n{words.p_value(row.p)}"

    kinds = [str(kind) for kind in rows["kind"].unique()]
    series = {KINDS.get(kind, kind): rows[rows["kind"] == kind] for kind in kinds}
    look: dict[str, Any] = {"height": 330, "margin": {"l": 66, "r": 14, "t": 34, "b": 48}}
    colours = [KIND_COLOURS.get(kind, NEUTRAL) for kind in kinds]
    chart = lines(series, "layer", "contribution", hover, colours=colours, **look)
    layers = sorted(rows["layer"].unique())
    ticks = layers[:: max(1, -(-len(layers) // 16))]
    chart.update_xaxes(axis("layer"), zeroline=False, tickvals=ticks, range=[min(layers) - 0.3, max(layers) + 0.3])
    chart.update_yaxes(axis(f"mean contribution ({unit})"))
    return chart


def _slopes(result: Result) -> list[str]:
    """Slopes over layers whose p is below alpha, Holm over all slopes."""
    table = frame(result, "trends")
    table = table[table["layer"].isna()].dropna(subset=["p", "contribution"])
    if table.empty:
        return []
    found = []
    for row, corrected in zip(records(table), holm(table["p"].to_numpy(float)), strict=True):
        if corrected < result.manifest.get("alpha", 0.05):
            unit = f"{units(row.outcome, metric_unit(result))} per layer"
            slope = words.ranged(row, "contribution", words.signed, unit)
            outcome = "effect" if row.outcome == "effect" else "disturbance"
            found.append(f"{outcome} of {KINDS.get(row.kind, row.kind)} {slope}")
    if not found:
        return ["No slope over layers is told from zero over prompts (Holm over all slopes)."]
    return [
        f"Slopes told from zero over prompts (Holm over all slopes): {'; '.join(found)}. Random vectors may have them."
    ]


def _designs(result: Result) -> Section:
    title, table, unit = "Horizontal against vertical", frame(result, "designs"), metric_unit(result)
    text = [
        "Horizontal trials inject into nodes of one layer, vertical ones into one node a layer. The grey means of the "
        "designs differ in k and in norm; the coloured difference compares trials of equal k and equal injected norm "
        "only."
    ]
    if not (table["design"] == DIFFERENCE).any():
        why = missing(result, "designs", "the sweep did not have both horizontal and vertical trials")
        text.append(f"No comparison: {why}.")
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
    marked = frozenset(i for i, d in enumerate(table["design"]) if d == DIFFERENCE)
    panel = Panel("Means of trials, and the difference at equal k and norm", _means(table, unit, way(result)))
    return Section(title, text, [panel], Table(columns, rows, frozenset(columns[2:]), marked))


def _means(table: pd.DataFrame, unit: str, towards: int = 1) -> go.Figure:
    """A column an outcome; each design's mean in grey, the difference at equal k and norm in colour, open where it may
    be zero.
    """
    outcomes = [o for o in NAME if (table["outcome"] == o).any()]
    order = sorted(table["design"].unique(), key=lambda name: name == DIFFERENCE)
    chart = figure(height=96 + 34 * len(order), margin={"l": 150, "r": 16, "t": 10, "b": 50})
    chart.set_subplots(rows=1, cols=len(outcomes), shared_yaxes=True, horizontal_spacing=0.04)
    for j, outcome in enumerate(outcomes, 1):
        rows = table[table["outcome"] == outcome].set_index("design").reindex(order).reset_index()
        of = units(outcome, unit)
        difference = (rows["design"] == DIFFERENCE).to_numpy()
        clear = ~difference | (rows["low"] * rows["high"] > 0).to_numpy()
        sign = towards if outcome == "effect" else 1
        coloured = zip(rows["mean"], difference & clear, strict=True)
        colour = [side(mean, sign) if shown else NEUTRAL for mean, shown in coloured]
        symbol = np.where(clear, "circle", "circle-open").tolist()
        hover = [
            f"{bold(r.design)}, {r.trials:,} "
            f"trials\n{words.ranged(r, 'mean', words.signed, of)}\nk {words.number(r.k)}, norm "
            f"{words.number(r.norm)} stream norms"
            for r in records(rows)
        ]
        look: dict[str, Any] = {"colour": colour, "symbol": symbol, "whisker": NEUTRAL, "row": 1, "col": j}
        dots(chart, rows, range(len(rows)), "mean", hover, ends=("low", "high"), **look)
        chart.update_xaxes(axis(f"{NAME[outcome]} ({of})", nticks=6, zeroline=True), rangemode="tozero", row=1, col=j)
    labels = [f"{bold(d.replace(' - ', ' − '))}  " if d == DIFFERENCE else f"mean of {d}  " for d in order]
    names(chart, labels, showgrid=True)
    return chart
