"""What a sweep found, in sentences, true for a random vector as well, a negative total, or a single prompt."""

import math
from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import holm
from steerscope.analysis.results.verdicts import TOLD
from steerscope.reports import words
from steerscope.reports.pages.common import metric_unit, missing, model_name
from steerscope.reports.pages.sweep_sections import DIFFERENCE, adds, flagged, frame, of_outcome
from steerscope.reports.reading import drawing
from steerscope.reports.records import records, way

UNTOLD = "its disturbance cannot be told from zero"


@drawing
def headline(result: Result) -> list[str]:
    """What was found: nodes by their verdicts, pairs and the comparison of designs by Holm's p."""
    if of_outcome(result, "nodes", "effect").empty:
        return ["There is no estimate of any node yet."]
    nodes = told(result)
    found = (_responsive(result, nodes), *_others(result), _useful(result, nodes), _interaction(result))
    return [part for part in (*found, _direction(result)) if part]


def alpha(result: Result) -> float:
    return float(result.manifest.get("alpha", 0.05))


def vectors(manifest: Any) -> str:
    """The labels of the vectors; of many, the first."""
    labels = [f"({vector.get('label', 'vector')})" for vector in manifest.get("vectors", [])]
    shown = labels if len(labels) <= 3 else [*labels[:3], f"{len(labels) - 3} more"]
    return words.listing(shown or ["the vector"])


def told(result: Result) -> pd.DataFrame:
    """Nodes that are told from random vectors, largest first."""
    table = of_outcome(result, "nodes", "effect")
    return table[table["verdict"].isin(TOLD)].sort_values("contribution", key=abs, ascending=False)


def _said(result: Result, verdict: str) -> list[str]:
    """The nodes of a verdict, largest first, in words; of many, the first."""
    table = of_outcome(result, "nodes", "effect")
    table = table[table["verdict"] == verdict].sort_values("contribution", key=abs, ascending=False)
    return words.some([_shares(result, row) for row in records(table)])


def _responsive(result: Result, nodes: pd.DataFrame) -> str:
    table, named = of_outcome(result, "nodes", "effect"), vectors(result.manifest)
    by = "" if adds(result) else ", beyond the mean of the nodes that it is exchanged for"
    if nodes.empty:
        known = table[table["contribution"].notna()]
        text = f"None of {len(table)} nodes of {model_name(result)} is told from random vectors for {named}{by} (Holm)."
        if len(known):
            most = next(records(known.sort_values("contribution", key=abs, ascending=False)))
            text += f" The largest contribution is that of {_contribution(result, most)}."
        return f"{text}{_why(result)}"
    shown = [_contribution(result, row) for row in records(nodes.head(3))]
    more = f", and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    return (
        f"{len(nodes)} of {len(table)} nodes of {model_name(result)} respond to {named} beyond random vectors{by}: "
        f"{words.listing(shown)}{more}."
    )


def _why(result: Result) -> str:
    """Why nothing could be told from random vectors, where that is so."""
    rate, p = result.manifest.get("leave_one_out", {}).get("effect"), _p_of_whole(result)
    why = [f"There are no intervals: {reason}." for reason in [missing(result, "intervals", "")] if reason]
    why += [f"Nothing to compare with: {reason}." for reason in [missing(result, "controls", "")] if reason]
    if not why and (p is None or not p < alpha(result)):
        why.append("The whole injection has no effect that is told from zero over prompts: there are no shares of it.")
    if rate is not None and rate > 2 * alpha(result):
        why.append(
            f"No verdict is given: random vectors, each played as the real one, would be told apart in "
            f"{words.percent(rate)} of the cases, and {words.percent(alpha(result))} is the rate stated."
        )
    return "".join(f" {part}" for part in why)


def _p_of_whole(result: Result) -> float | None:
    found = (result.manifest.get("whole", {}).get("effect") or {}).get("p")
    return None if found is None else float(found)


def _others(result: Result) -> list[str]:
    """Nodes of which something else is known than that they are told from random vectors."""
    sentences = {
        "shared": "Random vectors pass there as well, and no difference is told",
        "less": "Less than of random vectors",
        "against": "Working against the whole effect, over prompts",
    }
    found = {verdict: _said(result, verdict) for verdict in sentences}
    return [f"{sentences[verdict]}: {words.listing(nodes)}." for verdict, nodes in found.items() if nodes]


def _contribution(result: Result, row: Any) -> str:
    ends = words.between(row.low, row.high)
    return f"{_shares(result, row, f'{words.signed(row.contribution)} {metric_unit(result)}{ends}, ')}"


def _shares(result: Result, row: Any, first: str = "") -> str:
    """A node with its share of the whole effect, and what the same is of random vectors."""
    if not words.finite(row.share):
        return f"{row.node} ({first}of a whole effect of zero)"
    share = f"{words.percent(row.share)} of the effect"
    if result.manifest.get("metric", {}).get("name") != "own_direction":
        share += f", {words.percent(row.own_share)} of its own change"
    size = whole(result, "effect")[0]
    if not words.finite(row.reference) or not size:
        return f"{row.node} ({first}{share}; no random vectors to compare with)"
    ends = sorted([row.reference_low / size, row.reference_high / size])
    others = f"{words.percent(row.reference / size)}{words.between(ends[0], ends[1], words.percent)}"
    return f"{row.node} ({first}{share}; of random vectors {others})"


def _together(result: Result) -> float:
    """Effect for each nat of all nodes together."""
    outcomes = (of_outcome(result, "nodes", outcome) for outcome in ("effect", "kl"))
    effect, kl = (table["contribution"].astype(float).to_numpy() for table in outcomes)
    return float(np.nansum(effect) / np.nansum(kl)) if np.nansum(kl) > 0 else math.nan


def _useful(result: Result, nodes: pd.DataFrame) -> str:
    if nodes.empty or frame(result, "frontier").empty:
        return ""
    table = flagged(frame(result, "frontier"), "useful")
    table = table[table["node"].isin(nodes["node"])].sort_values("effect", key=lambda e: -e * (way(result) or 1))
    typical = f"{words.number(_together(result))} {metric_unit(result)} per nat"
    more = f"with more effect for each nat of disturbance than all nodes have together ({typical})"
    if table.empty:
        return f"None of them is useful, {more}."
    shown = [
        f"{r.node} ({words.ranged(r, 'efficiency') if math.isfinite(r.efficiency) else UNTOLD})"
        for r in records(table.head(4))
    ]
    if len(table) > 4:
        shown.append(f"{len(table) - 4} more")
    return f"Useful, {more}: {words.listing(shown)}."


def _interaction(result: Result) -> str:
    table = of_outcome(result, "pairs", "effect")
    if table.empty:
        return ""
    found = flagged(table, "significant")
    if found.empty:
        return f"No interaction of two nodes is significant ({len(table):,} pairs were tested, Holm)."
    row = next(records(found.sort_values("interaction", key=abs, ascending=False)))
    return (
        f"The largest significant interaction is between {row.first} and {row.second}: both together do "
        f"{words.ranged(row, 'interaction', words.signed, metric_unit(result))} beyond the sum of their "
        f"contributions{_manner(result, row)} ({words.p_value(row.p_holm)} over prompts, Holm; {len(found):,} of "
        f"{len(table):,} pairs are significant; the same of random vectors was not asked)."
    )


def _manner(result: Result, pair: Any) -> str:
    """Whether two nodes stand in for each other: only where both are told from zero and of the same sign."""
    table = of_outcome(result, "nodes", "effect")
    table = table[table["verdict"].isin([*TOLD, "shared", "against"])]
    values = table.loc[table["node"].isin([pair.first, pair.second]), "contribution"].to_numpy(float)
    if len(values) < 2 or not values[0] * values[1] > 0 or not words.finite(pair.interaction):
        return ""
    return f", so they {'strengthen' if values[0] * pair.interaction > 0 else 'stand in for'} each other"


def _direction(result: Result) -> str:
    table = frame(result, "designs")
    table = table[table["design"] == DIFFERENCE].dropna(subset=["p", "mean"])
    if table.empty:
        return ""
    unit, p = metric_unit(result), holm(table["p"].to_numpy(float))
    parts = []
    for row, corrected in zip(records(table), p, strict=True):
        if corrected < alpha(result):
            of = unit if row.outcome == "effect" else "nats"
            name = {"kl": "disturbance"}.get(row.outcome, row.outcome)
            more = row.mean * (way(result) if row.outcome == "effect" else 1) > 0
            size = words.between(*((row.low, row.high) if row.mean > 0 else (-row.high, -row.low)))
            parts.append(f"{words.number(abs(row.mean))} {of} {'more' if more else 'less'} {name}{size}")
    start = "Horizontally (in one layer)"
    if parts:
        same = "the same number of nodes at the same norm"
        return f"{start} {same} has {words.listing(parts)} than vertically (over layers), over prompts."
    effect = next((r for r in records(table) if r.outcome == "effect"), None)
    value = "" if effect is None else f" (effect {words.ranged(effect, 'mean', words.signed, unit)})"
    return (
        f"{start} and vertically (over layers) the same number of nodes at the same norm do the same, as far as can be "
        f"told{value}."
    )


def whole(result: Result, outcome: str) -> tuple[float, str]:
    """Mean of the fully steered run over prompts, and its interval in words."""
    found = result.manifest.get("whole", {}).get(outcome) or {}
    if found.get("mean") is not None:
        return found["mean"], words.between(found.get("low"), found.get("high"))
    return float(pd.to_numeric(frame(result, "prompts")[f"steered_{outcome}"]).mean()), ""
