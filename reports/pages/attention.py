"""The report of `freeze_attention`: what heads move, or where they look; its section stands in that of `localize`,
too.
"""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.survival import by_layer, hover, survival
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, missing, page
from steerscope.reports.records import records

TITLE = "Attention: what heads move, or where they look"
OUTCOMES = ("effect", "damage")


def attention_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    sections = [attention_section(result), _layers(result), _heads(result), _texts(result), _table(result)]
    return page(
        result,
        "What heads move, or where they look: {vector} in {model}",
        "steered runs with attention set back to the clean run's",
        attention_sentences(result),
        sections,
        _glance(result),
    )


def attention_section(result: Result) -> Section:
    """What survives when the attention of all layers is frozen; or the reason why that is not known."""
    table = result.frames.get("attention")
    if table is None or table.empty:
        return Section(TITLE, [f"Missing: {missing(result, 'attention')}."])
    text = [
        "The steered run again, with the attention of all layers set back to the clean run's: patterns (where "
        "heads look; what survives "
        "goes through values and MLPs), values (what heads move), or both (then nothing leaves an injected "
        "position, so something "
        "survives only where injected positions are scored themselves). Effect is the metric on the prompts; "
        "damage is the loss of the "
        "true next tokens of ordinary text. Grey bands: random vectors of equal norm, each of its own change.",
        *_reasons(result),
    ]
    rows = table[table["scope"] == "all"]
    if rows["survives"].isna().all():
        return Section(TITLE, [*text, f"Missing: {_why_not(result, rows, 'run of all layers')}."])
    panel = Panel("Share of effect and damage that survives", survival(rows))
    return Section(TITLE, text, [panel])


def attention_sentences(result: Result) -> list[str]:
    """What frozen patterns and frozen values cost, in a sentence; nothing where that is not known."""
    table = result.frames.get("attention")
    if table is None or table.empty or not (table["scope"] == "all").any():
        return []
    rows = {(r.frozen, r.outcome): r for r in records(table[table["scope"] == "all"])}
    parts = []
    for frozen, name in (("patterns", "Frozen attention patterns"), ("values", "frozen values")):
        asked = [rows[frozen, outcome] for outcome in OUTCOMES if (frozen, outcome) in rows]
        costs = [f"{_cost(r)} of the {r.outcome}" for r in asked if pd.notna(r.survives)]
        if costs:
            parts.append(f"{name} cost {words.listing(costs)}")
    damage = rows.get(("patterns", "damage"))
    sentences = ["; ".join(parts) + "."] if parts else []
    if damage is not None:
        ends = words.between(damage.total_low, damage.total_high)
        sentences.append(f"The damage is {words.signed(damage.total)} {damage.unit}{ends} on ordinary text.")
    return [" ".join(sentences)] if sentences else []


def _cost(row: Any) -> str:
    ends = words.between(1 - row.survives_high, 1 - row.survives_low, words.percent)
    return words.percent(1 - row.survives) + ends


def _reasons(result: Result) -> list[str]:
    """What is missing of the shares, and why."""
    asked = (
        "damage",
        "shares of the effect",
        "shares of the damage",
        *(f"random vectors' shares of the {outcome}" for outcome in OUTCOMES),
    )
    found = {what: missing(result, what, "") for what in asked}
    return [f"Missing: {what}: {why}." for what, why in found.items() if why]


def _glance(result: Result) -> list[tuple[str, str, str]]:
    table = result.frames["attention"]
    found = []
    for outcome in OUTCOMES:
        rows = table[table["outcome"] == outcome]
        if rows.empty:
            continue
        first = next(records(rows))
        found.append(
            (
                outcome,
                f"{words.signed(first.total)} {first.unit}",
                f"steered minus clean; interval{words.between(first.total_low, first.total_high)}",
            )
        )
        for row in records(rows[(rows["scope"] == "all") & (rows["frozen"] != "both")]):
            ends = words.between(row.survives_low, row.survives_high, words.percent)
            note = f"of the {outcome} survives{ends}; random vectors {words.percent(row.control_survives)}"
            found.append((f"{row.frozen} frozen", words.percent(row.survives), note))
    return found


def _layers(result: Result) -> Section:
    table = result.frames["attention"]
    rows = table[table["scope"] == "layer"]
    title = "Layer by layer"
    if rows["survives"].isna().all():
        return Section(title, [f"Missing: {_why_not(result, rows, 'layer')}."])
    text = (
        "What survives when one layer alone is frozen, with intervals over prompts. The costs of layers do not add "
        "up: later layers move what earlier ones have moved."
    )
    return Section(title, [text], [Panel("One layer frozen", by_layer(rows))])


def _why_not(result: Result, rows: pd.DataFrame, scope: str) -> str:
    if rows.empty:
        return f"by={result.manifest.get('by', [])}: no {scope} was frozen"
    return "no share of anything means something here; the table below has the numbers"


def _heads(result: Result) -> Section:
    table = result.frames["attention"]
    rows = table[table["scope"] == "head"]
    title = "Head by head"
    if rows.empty:
        return Section(title, [f"Missing: {_why_not(result, rows, 'head')}."])
    text = [
        "What is lost when one head alone is frozen; bold and full colour (or a dot) is significant after "
        "Benjamini-Hochberg. Columns of "
        "values are key-value heads, where heads share them."
    ]
    why = missing(result, "attention patterns of single heads", "")
    if why:
        text.append(f"Missing: patterns of single heads: {why}.")
    panels = []
    for outcome in OUTCOMES:
        own = rows[rows["outcome"] == outcome]
        for frozen in ("patterns", "values"):
            part = own[own["frozen"] == frozen]
            if len(part):
                factor = 1000.0 if outcome == "damage" else 1.0
                unit = str(part["unit"].iloc[0])
                shown = part.assign(effect=part["lost"], kind="head")
                name = f"{outcome.capitalize()} lost, {frozen} frozen ({'thousandths of ' if factor > 1 else ''}{unit})"
                panels.append(Panel(name, heatmap(shown, unit, describe=lambda row, unit: hover(row), factor=factor)))
    return Section(title, text, panels)


def _texts(result: Result) -> Section:
    table = result.frames["texts"]
    cells = [[r.outcome, r.text, str(r.tokens), words.number(r.clean), words.number(r.steered)] for r in records(table)]
    columns = ["outcome", "text", "tokens", "clean", "steered"]
    numeric = frozenset(columns[2:])
    return Section(f"Texts ({len(table)})", table=Table(columns, cells, numeric), folded=True)


def _table(result: Result) -> Section:
    columns = [
        "outcome",
        "frozen",
        "node",
        "lost",
        "low",
        "high",
        "survives",
        "survives_low",
        "survives_high",
        "control",
        "control_survives",
        "p_adjusted",
        "p_holm",
        "p_own_adjusted",
    ]
    return everything(result.frames["attention"], columns, "All freezings", result)
