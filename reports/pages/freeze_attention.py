"""The report of `freeze_attention`: what heads move, or where they look; its section stands in that of `exact`, too."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.dots import bands, dots, names, none_and_all
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.lines import EFFECT, LOSS, line
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.breakdown_words import share, text_of
from steerscope.reports.pages.common import everything, layout, missing, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records, sign
from steerscope.reports.theme import LEGEND, axis, bold, figure

TITLE = "Attention: what heads move, or where they look"
OUTCOMES = ("effect", "damage")
FROZEN = {"patterns": "patterns frozen", "values": "values frozen", "both": "both frozen"}
LOOKS = {"effect": (EFFECT, "circle", -0.16), "damage": (LOSS, "diamond", 0.16)}


@drawing
def headline(result: Result) -> list[str]:
    """What frozen patterns and frozen values cost, in a sentence; nothing where that is not known."""
    table = result.frames.get("attention")
    if table is None or table.empty or not (table["scope"] == "all").any():
        return []
    rows = {(r.frozen, r.outcome): r for r in records(of(result, "attention", scope="all"))}
    parts = []
    for frozen, name in (("patterns", "Frozen attention patterns"), ("values", "frozen values")):
        asked = [rows[frozen, outcome] for outcome in OUTCOMES if (frozen, outcome) in rows]
        costs = [_cost(r) for r in asked if pd.notna(r.survives)]
        if costs:
            parts.append(f"{name} cost {words.listing(costs)}")
    damage = rows.get(("patterns", "damage"))
    sentences = ["; ".join(parts) + "."] if parts else []
    if damage is not None:
        whole = words.ranged(damage, "total", words.signed, damage.unit)
        sentences.append(f"The damage is {whole} on {text_of(result)}.")
    return [" ".join(sentences)] if sentences else []


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    return layout(
        result,
        "What heads move, or where they look: {vector} in {model}",
        "steered runs with attention set back to the clean run's",
        headline(result),
        [section(result), _layers(result), _heads(result), _texts(result), _table(result)],
        _glance(result),
    )


def section(result: Result) -> Section:
    """What survives when the attention of all layers is frozen; or the reason why that is not known."""
    table = result.frames.get("attention")
    if table is None or table.empty:
        return Section(TITLE, [f"Missing: {missing(result, 'attention')}."])
    text = [
        "The steered run again, with the attention of all layers set back to the clean run's: patterns (where heads "
        "look; what survives goes through values and MLPs), values (what heads move), or both (then nothing leaves an "
        "injected position, so something survives only where injected positions are scored themselves). Effect is the "
        f"metric on the prompts; damage is by how much the loss of {text_of(result)} rises. Grey bands: random vectors "
        "of equal norm, each of its own change.",
        *_reasons(result),
    ]
    rows = table[table["scope"] == "all"]
    if rows["survives"].isna().all():
        return Section(TITLE, [*text, f"Missing: {_why_not(result, rows, 'run of all layers')}."])
    return Section(TITLE, text, [Panel("Share of effect and damage that survives", _survival(rows))])


def _cost(row: Any) -> str:
    return share(1 - row.survives, 1 - row.survives_high, 1 - row.survives_low, row.outcome)


def _reasons(result: Result) -> list[str]:
    """What is missing of the shares, and why."""
    shares = ("shares of the effect", "shares of the damage")
    random = (f"random vectors' shares of the {outcome}" for outcome in OUTCOMES)
    found = {what: missing(result, what, "") for what in ("damage", *shares, *random)}
    return [f"Missing: {what}: {why}." for what, why in found.items() if why]


def _glance(result: Result) -> list[tuple[str, str, str]]:
    found = []
    for outcome in OUTCOMES:
        rows = of(result, "attention", outcome=outcome)
        if rows.empty:
            continue
        first = next(records(rows))
        ends = words.between(first.total_low, first.total_high)
        found.append((outcome, f"{words.signed(first.total)} {first.unit}", f"steered minus clean; interval{ends}"))
        for row in records(rows[(rows["scope"] == "all") & (rows["frozen"] != "both")]):
            ends = words.between(row.survives_low, row.survives_high, words.percent)
            left = "is left: it turns round" if row.survives < -0.005 else "is left" if row.survives > 1 else "survives"
            note = f"of the {outcome} {left}{ends}; random vectors {words.percent(row.reference_survives)}"
            found.append((f"{row.frozen} frozen", words.percent(row.survives), note))
    return found


def _survival(table: pd.DataFrame) -> go.Figure:
    """A row for each of patterns, values and both; effect and damage side by side, each over its references."""
    frozen = [name for name in FROZEN if (table["frozen"] == name).any()]
    chart = figure(height=100 + 62 * len(frozen), margin={"l": 112, "r": 20, "t": 30, "b": 46}, **LEGEND)
    for outcome, (colour, symbol, offset) in LOOKS.items():
        rows = table[(table["outcome"] == outcome) & table["survives"].notna()]
        at = [frozen.index(name) + offset for name in rows["frozen"]]
        bands(chart, at, rows["reference_survives_low"], rows["reference_survives_high"], 0.12)
        look: dict[str, Any] = {"colour": colour, "symbol": symbol, "marker": {"size": 10}}
        dots(chart, rows, at, "survives", [_hover(r) for r in records(rows)], name=outcome, **look)
    none_and_all(chart, "share that survives")
    names(chart, [FROZEN[name] for name in frozen])
    return chart


def _layers(result: Result) -> Section:
    rows, title = of(result, "attention", scope="layer"), "Layer by layer"
    if rows["survives"].isna().all():
        return Section(title, [f"Missing: {_why_not(result, rows, 'layer')}."])
    text = (
        "What survives when one layer alone is frozen, with intervals over prompts. The costs of layers do not add up: "
        "later layers move what earlier ones have moved."
    )
    return Section(title, [text], [Panel("One layer frozen", _by_layer(rows))])


def _by_layer(table: pd.DataFrame) -> go.Figure:
    """A column for each of patterns, values and both."""
    frozen = [name for name in FROZEN if (table["frozen"] == name).any()]
    chart = figure(height=320, margin={"l": 62, "r": 12, "t": 52, "b": 46}, **LEGEND)
    titles, close = [FROZEN[n] for n in frozen], {"shared_yaxes": True, "horizontal_spacing": 0.03}
    chart.set_subplots(rows=1, cols=len(frozen), subplot_titles=titles, **close)
    chart.update_annotations(font_size=13)
    table = table[table["survives"].notna()]
    for outcome, (colour, _, _) in LOOKS.items():
        for column, name in enumerate(frozen, 1):
            rows = table[(table["outcome"] == outcome) & (table["frozen"] == name)].sort_values("layer")
            if len(rows):
                where: dict[str, Any] = {"place": {"row": 1, "col": column}, "name": outcome, "shown": column == 1}
                hover = [_hover(r) for r in records(rows)]
                rows = rows.assign(low=rows["survives_low"], high=rows["survives_high"])
                line(chart, rows, "layer", "survives", colour, hover=hover, **where)
    chart.update_layout(legend_y=1.12)
    chart.update_xaxes(axis("layer", dtick=max(1, int(table["layer"].max()) // 8)))
    chart.update_yaxes(axis(), tickformat=".0%", nticks=9)
    chart.update_yaxes(title_text="share that survives", row=1, col=1)
    return chart


def _hover(row: Any, unit: str = "") -> str:
    """All that is known of a freezing and an outcome."""
    unit = str(row.unit)
    lost = f"{words.signed(row.lost)} of {words.signed(row.total)} {unit}{words.between(row.low, row.high)}"
    title = f"{FROZEN.get(row.frozen, str(row.frozen))}: {row.outcome}"
    return "\n".join(
        [
            f"{bold(row.node)} {title}",
            f"{words.ranged(row, 'survives', words.percent)} survives",
            f"lost {lost}",
            f"random vectors of their own: {words.ranged(row, 'reference_survives', words.percent)} survives",
            words.verdict(row.verdict),
            f"{words.p_value(row.p_adjusted)} (adjusted), {words.p_value(row.p_holm)} (Holm)",
        ]
    )


def _why_not(result: Result, rows: pd.DataFrame, scope: str) -> str:
    if rows.empty:
        return f"by={result.manifest.get('by', [])}: no {scope} was frozen"
    return "no share of anything means something here; the table below has the numbers"


def _heads(result: Result) -> Section:
    rows, title = of(result, "attention", scope="head"), "Head by head"
    if rows.empty:
        return Section(title, [f"Missing: {_why_not(result, rows, 'head')}."])
    text = [
        "What is lost when one head alone is frozen; bold and full colour is what is told from random vectors, by the "
        "share of each vector's own change (or own damage) that is lost. Columns of values are key-value heads, where "
        "heads share them."
    ]
    why = missing(result, "attention patterns of single heads", "")
    if why:
        text.append(f"Missing: patterns of single heads: {why}.")
    panels = []
    for outcome in OUTCOMES:
        for frozen in ("patterns", "values"):
            part = rows[(rows["outcome"] == outcome) & (rows["frozen"] == frozen)]
            if len(part):
                factor = 1000.0 if outcome == "damage" else 1.0
                unit = str(part["unit"].iloc[0])
                look: dict[str, Any] = {"describe": _hover, "factor": factor, "towards": sign(part["total"].iloc[0])}
                chart = heatmap(part.assign(effect=part["lost"], kind="head"), unit, **look)
                thousandths = "thousandths of " if factor > 1 else ""
                panels.append(Panel(f"{outcome.capitalize()} lost, {frozen} frozen ({thousandths}{unit})", chart))
    return Section(title, text, panels)


def _texts(result: Result) -> Section:
    table = result.frames["texts"]
    cells = [[r.outcome, r.text, str(r.tokens), words.number(r.clean), words.number(r.steered)] for r in records(table)]
    columns = ["outcome", "text", "tokens", "clean", "steered"]
    return Section(f"Texts ({len(table)})", table=Table(columns, cells, frozenset(columns[2:])), folded=True)


def _table(result: Result) -> Section:
    columns = ["outcome", "frozen", "node", "lost", "low", "high", "survives", "survives_low", "survives_high"]
    columns += ["verdict", "reference_survives", "concepts_survives", "p_adjusted", "p_holm"]
    return everything(result.frames["attention"], columns, "All freezings", result)
