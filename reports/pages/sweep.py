"""The report of `sweep`: what parts of a steering vector do in randomly chosen nodes."""

import math
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import holm
from steerscope.reports import words
from steerscope.reports.figures.lines import NAME, lines, units
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages import sweep_sections as sections
from steerscope.reports.pages.common import cell, framed, legend, metric_name, metric_unit, missing, model_name, saved
from steerscope.reports.pages.sweep_sections import DIFFERENCE, absent, flagged, frame, of_outcome
from steerscope.reports.records import records, sides, way
from steerscope.reports.theme import axis

MODES = {
    "own": "Mode own: every node gets its own activation difference between the vector's two prompts (a head in its z, "
    "before its output matrix; an MLP in its output), so a trial is the activation addition restricted to the nodes "
    "that were drawn.",
    "through": "Mode through: a head gets the z whose image under its output matrix comes closest to the vector (least "
    "squares), an MLP the vector itself; so each head adds as much of the vector as it can write.",
    "shared": "Mode shared: the vector itself is added to the stream where a node writes. The heads of a layer write "
    "into one stream, so they are one node here: all heads of the layer (L0A).",
    "given": "Mode given: every node gets the vector that was given for it.",
}
SAME = (
    "Adding one vector of the stream to different heads of a layer is the same edit, since they all write into one "
    "stream; a sweep must therefore say what each node gets."
)
KINDS = {
    "uniform": "any of all nodes",
    "stratified": "spread evenly over layers and kinds",
    "horizontal": "all in one layer",
    "vertical": "one node a layer",
}
UNTOLD = "its disturbance cannot be told from zero"
READING = (
    "A contribution is what injecting into a node adds to an outcome when everything else stays as it is: its "
    "coefficient in a regression on all nodes, prompts as blocks, averaged over what else was injected. It is causal "
    "for these injections, since the nodes were drawn at random.",
    "Intervals come from leaving out each group of prompts in turn: they say how far a number holds for further "
    "prompts of this kind, on this model.",
    "Controls are random vectors that write as much into the stream at the same nodes. A node whose contribution is "
    "that of random vectors responds to anything; a responsive node responds to this vector.",
    "Disturbance is the KL divergence from the clean run at the scored positions; loss is the rise of the "
    "log-perplexity of the text that truly follows.",
    "Significant is meant after Benjamini-Hochberg over nodes (or pairs). Sentences at the top of this page use Holm's "
    "correction for nodes.",
    "Effects that need more than two nodes are spread over the contributions; a sweep of small k does not see them.",
)


def headline(result: Result) -> list[str]:
    """What was found; nodes by Holm's p, pairs by the adjusted p, the comparison of designs by Holm's p over
    outcomes.
    """
    if of_outcome(result, "nodes", "effect").empty:
        return ["There is no estimate of any node yet."]
    nodes = _claimed(result)
    parts = [_responsive(result, nodes), _useful(result, nodes), _interaction(result), _direction(result)]
    return [part for part in parts if part]


def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    manifest = result.manifest
    return framed(
        result,
        f"Which nodes respond to {_vectors(manifest)} in {model_name(result)}?",
        f"randomized injection sweep · mode {manifest.get('mode', '?')} · "
        f"{manifest.get('prompts', {}).get('count', '?')} prompts · {manifest.get('trials', {}).get('done', 0):,} "
        f"trials · {metric_name(manifest)}",
        headline(result),
        [
            Section("What a trial injects", _design(manifest)),
            *sections.all_of(result),
            _convergence(result),
            _prompts(result),
            legend(result, READING),
            _table(result),
        ],
        _glance(result),
        _unfinished(manifest),
    )


def _alpha(result: Result) -> float:
    return float(result.manifest.get("alpha", 0.05))


def _vectors(manifest: Any) -> str:
    """The labels of the vectors; of many, the first."""
    labels = [f"({vector.get('label', 'vector')})" for vector in manifest.get("vectors", [])]
    shown = labels if len(labels) <= 3 else [*labels[:3], f"{len(labels) - 3} more"]
    return words.listing(shown or ["the vector"])


def _unfinished(manifest: Any) -> list[str]:
    """What a reader must know of a run that is not whole."""
    trials, found = manifest.get("trials", {}), []
    done, planned = trials.get("done", 0), trials.get("planned", 0)
    if done < planned:
        found.append(f"{done:,} of {planned:,} trials are there: the run is not finished.")
    if trials.get("damaged"):
        damaged = words.listing(list(trials["damaged"]))
        found.append(f"Damaged parts were left out: {damaged}. A resumed run makes them again.")
    return found


def _claimed(result: Result) -> pd.DataFrame:
    """Nodes of which a claim in words may be made, largest first.

    Holm's p is below alpha, the node is responsive, and it does more than random vectors do there, not less.
    """
    table = of_outcome(result, "nodes", "effect")
    responsive = flagged(frame(result, "frontier"), "responsive")["node"]
    control = table["reference"].astype(float).fillna(0.0)
    beyond = (table["contribution"] - control) * table["contribution"] > 0
    rows = table[(table["p_holm"] < _alpha(result)) & table["node"].isin(responsive) & beyond]
    return rows.sort_values("contribution", key=abs, ascending=False)


def _responsive(result: Result, nodes: pd.DataFrame) -> str:
    unit, table = metric_unit(result), of_outcome(result, "nodes", "effect")
    if nodes.empty:
        most = next(records(table.sort_values("contribution", key=abs, ascending=False)))
        beyond = " and goes beyond that of random vectors" if math.isfinite(most.reference) else ""
        text = (
            f"No node of {model_name(result)} can be said to respond to {_vectors(result.manifest)}: none of "
            f"{len(table)} has a contribution that passes Holm's correction{beyond}. The largest is that of "
            f"{_contribution(most, unit)}."
        )
        why = missing(result, "intervals", "")
        return f"{text} There are no intervals: {why}." if why else text
    _, against = sides(nodes, way(result), "contribution")
    shown = [_contribution(row, unit) for row in records(nodes.head(3))]
    text = (
        f"{len(nodes)} of {len(table)} nodes of {model_name(result)} respond to {_vectors(result.manifest)}, above all "
        f"{words.listing(shown)}"
    )
    if 0 < len(against) < len(nodes):
        work = "works" if len(against) == 1 else "work"
        text += (
            f"; {len(against)} of them {work} against the effect ({words.listing(words.some(list(against['node'])))})"
        )
    return text + "."


def _contribution(row: Any, unit: str) -> str:
    control = "no controls were run"
    if math.isfinite(row.reference):
        ends = words.between(row.reference_low, row.reference_high, words.signed)
        control = f"random vectors {words.signed(row.reference)}{ends}"
    return f"{row.node} ({words.ranged(row, 'contribution', words.signed, unit)}; {control})"


def _together(result: Result, column: str) -> float:
    """Effect for each nat of all nodes together, of the vector or (column control) of random ones."""
    effect, kl = (of_outcome(result, "nodes", outcome)[column].astype(float).to_numpy() for outcome in ("effect", "kl"))
    return float(effect.sum() / kl.sum()) if kl.sum() > 0 else math.nan


def _useful(result: Result, nodes: pd.DataFrame) -> str:
    if nodes.empty:
        return ""
    table = flagged(frame(result, "frontier"), "useful")
    table = table[table["node"].isin(nodes["node"])].sort_values("effect", key=lambda e: -e * (way(result) or 1))
    random = _together(result, "reference")
    typical = f"{words.number(_together(result, 'contribution'))} {metric_unit(result)} per nat"
    typical += f"; random vectors: {words.number(random)}" if math.isfinite(random) else ""
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
    found = table[table["p_adjusted"] < _alpha(result)]
    if found.empty:
        return f"No interaction of two nodes is significant ({len(table):,} pairs were tested)."
    row = next(records(found.sort_values("interaction", key=abs, ascending=False)))
    return (
        f"The strongest interaction is between {row.first} and {row.second}: both together do "
        f"{words.ranged(row, 'interaction', words.signed, metric_unit(result))} beyond the sum of their "
        f"contributions{_manner(result, row)} ({words.p_value(row.p_adjusted)}, adjusted; {len(found):,} of "
        f"{len(table):,} pairs are significant)."
    )


def _manner(result: Result, pair: Any) -> str:
    """Whether two nodes stand in for each other: only where both have a significant contribution of the same sign."""
    table = flagged(of_outcome(result, "nodes", "effect"), "significant")
    values = table.loc[table["node"].isin([pair.first, pair.second]), "contribution"].to_numpy(float)
    if len(values) < 2 or values[0] * values[1] <= 0:
        return ""
    return f", so they {'strengthen' if values[0] * pair.interaction > 0 else 'stand in for'} each other"


def _direction(result: Result) -> str:
    table = frame(result, "designs")
    table = table[table["design"] == DIFFERENCE].dropna(subset=["p"])
    if table.empty:
        return ""
    unit, p = metric_unit(result), holm(table["p"].to_numpy(float))
    parts = []
    for row, corrected in zip(records(table), p, strict=True):
        if corrected < _alpha(result):
            of = unit if row.outcome == "effect" else "nats"
            name = {"kl": "disturbance"}.get(row.outcome, row.outcome)
            more = row.mean * (way(result) if row.outcome == "effect" else 1) > 0
            size = words.between(*((row.low, row.high) if row.mean > 0 else (-row.high, -row.low)))
            parts.append(f"{words.number(abs(row.mean))} {of} {'more' if more else 'less'} {name}{size}")
    start = "Horizontally (in one layer)"
    if parts:
        same = "the same number of nodes at the same norm"
        return f"{start} {same} has {words.listing(parts)} than vertically (over layers)."
    effect = next((r for r in records(table) if r.outcome == "effect"), None)
    value = "" if effect is None else f" (effect {words.ranged(effect, 'mean', words.signed, unit)})"
    return (
        f"{start} and vertically (over layers) the same number of nodes at the same norm do the same, as far as can be "
        f"told{value}."
    )


def _design(manifest: Any) -> list[str]:
    """What a trial injects and how trials are drawn, in words."""
    about, trials = manifest.get("design", {}), manifest.get("trials", {})
    low, high = (*about.get("k", [1, 1]), 1)[:2]
    nodes = f"{low} node{'s' if low > 1 else ''}"
    if low < high:
        nodes = f"{low} {'or' if high == low + 1 else 'to'} {high} nodes (each number equally likely)"
    kinds = " or ".join(f"{kind} ({KINDS.get(kind, kind)})" for kind in about.get("kinds", ["uniform"]))
    parts = [
        f"Each of {trials.get('planned', about.get('trials', 0)):,} trials injects into {nodes}, drawn {kinds}, with "
        f"{_vectors(manifest)} at {_coefficients(manifest)}, positions {manifest.get('positions', 'all')}."
    ]
    if about.get("antithetic"):
        parts.append("Every set is followed by its complement.")
    if about.get("mixed"):
        parts.append("Every node draws its own vector.")
    if about.get("controls"):
        parts.append(
            f"One in {about.get('control_every', '?')} draws is a control: the same nodes with one of "
            f"{about['controls']} random vectors that write as much into the stream."
        )
    if about.get("visit"):
        parts.append(f"{about['visit']} trials in a row share prompt, vector and coefficient.")
    mode = MODES.get(manifest.get("mode", ""), f"Mode {manifest.get('mode', 'unknown')}.")
    return [f"{mode} {SAME}", " ".join([*parts, *_cost(manifest)]), *map(str, manifest.get("notes", []))]


def _coefficients(manifest: Any) -> str:
    values = [f"{float(value):g}" for value in manifest.get("coefficients", [1.0])]
    if len(values) == 1:
        return f"coefficient {values[0]}"
    return f"coefficients {words.listing(values)} in turn (contributions are means over them)"


def _cost(manifest: Any) -> list[str]:
    if not manifest.get("seconds"):
        return []
    spent = ", ".join(f"{words.percent(share)} {name}" for name, share in (manifest.get("shares") or {}).items())
    each = f"{words.number(manifest.get('trials_per_second'))} trials a second{f'; {spent}' if spent else ''}"
    return [f"It took {words.number(manifest['seconds'])} seconds ({each})."]


def _glance(result: Result) -> list[tuple[str, str, str]]:
    manifest, unit = result.manifest, metric_unit(result)
    trials, prompts = manifest.get("trials", {}), manifest.get("prompts", {})
    nodes, rows = of_outcome(result, "nodes", "effect"), frame(result, "prompts")
    responsive = flagged(frame(result, "frontier"), "responsive")
    width = (nodes["high"].astype(float) - nodes["low"].astype(float)).median()
    (effect, of_effect), (kl, of_kl) = _whole(result, "effect"), _whole(result, "kl")
    controls = "no controls"
    if trials.get("random", 0):
        count = manifest.get("design", {}).get("controls", "?")
        controls = f"{trials['random']:,} controls with {count} random vectors of equal norm"
    level = words.percent(manifest.get("level", 0.95))
    return [
        ("trials", f"{trials.get('done', 0):,}", f"{trials.get('real', 0):,} with the vector, {controls}"),
        ("prompts", f"{prompts.get('count', len(rows)):,}", str(prompts.get("source", ""))),
        ("whole injection", f"{words.signed(effect)} {unit}", f"mean effect on {metric_name(manifest)}{of_effect}"),
        ("its disturbance", f"{words.number(kl)} nats", f"KL to the clean run{of_kl}"),
        (
            "responsive nodes",
            f"{len(responsive)} of {len(nodes)}",
            f"Benjamini-Hochberg at {_alpha(result):g}, unlike random vectors; {len(_claimed(result))} pass Holm and "
            "do more",
        ),
        (
            "interval width",
            f"{words.number(width)} {unit}" if pd.notna(width) else "–",
            f"median over nodes, of contributions to the effect at level {level}",
        ),
    ]


def _whole(result: Result, outcome: str) -> tuple[float, str]:
    """Mean of the fully steered run over prompts, and its interval in words."""
    found = result.manifest.get("whole", {}).get(outcome) or {}
    if found.get("mean") is not None:
        return found["mean"], words.between(found.get("low"), found.get("high"))
    return float(pd.to_numeric(frame(result, "prompts")[f"steered_{outcome}"]).mean()), ""


def _convergence(result: Result) -> Section:
    title, table = "Are there enough trials?", frame(result, "convergence")
    text = (
        "The estimates again from the first so many trials. The dotted line falls as one over the root of the trials, "
        "what sampling alone would give; where the width stops following it, more prompts help and more trials do not. "
        "The order of the nodes is settled where the agreement nears one."
    )
    if table.empty:
        return absent(result, title, text, "convergence", "too few trials")
    known = (table["width"] > 0).any()
    why = missing(result, "intervals", "no interval over these few prompts")
    panels = [
        Panel("Width of the intervals", _widths(table, metric_unit(result)) if known else None, why),
        Panel("Order of the nodes", _agreement(table)),
    ]
    return Section(title, [text], panels)


def _widths(table: pd.DataFrame, unit: str) -> go.Figure:
    """Interval width against trials, both on log axes; dotted: as one over the root of the trials, from the last
    point.
    """
    known = table[table["width"] > 0].sort_values("trials")
    last = known.groupby("outcome")[["width", "trials"]].transform("last")
    known = known.assign(root=last["width"] * (last["trials"] / known["trials"]) ** 0.5)
    series = {f"{NAME[o]} ({units(o, unit)})": known[known["outcome"] == o] for o in NAME}
    chart = _over_trials(table, series, "width", dotted="root", reference="1/√trials: {}")
    low, high = math.log10(known["width"].min()), math.log10(known["width"].max())
    ticks = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)]
    names = {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    chart.update_yaxes(axis("median interval width (log scale)"), type="log", **names)
    return chart


def _agreement(table: pd.DataFrame) -> go.Figure:
    """Rank correlation of the contributions with those of all trials."""
    known = table.dropna(subset=["agreement"])
    chart = _over_trials(table, {NAME[o]: known[known["outcome"] == o] for o in NAME}, "agreement")
    low = min(0.0, float(table["agreement"].min(skipna=True)) - 0.05)
    chart.update_yaxes(axis("rank agreement with all trials"), range=[low, 1.04])
    return chart


def _over_trials(table: pd.DataFrame, series: dict[str, pd.DataFrame], column: str, **more: Any) -> go.Figure:
    def hover(name: str, row: Any) -> str:
        return f"<b>{row.trials:,} trials</b><br>{escape(name)}: {words.number(getattr(row, column))}"

    drawn = {name: rows.assign(low=math.nan, high=math.nan) for name, rows in series.items() if len(rows)}
    look: dict[str, Any] = {"height": 330, "margin": {"l": 66, "r": 14, "t": 34, "b": 50}}
    chart = lines(drawn, "trials", column, hover, **look, **more)
    counts = sorted(int(n) for n in table["trials"].unique())
    ticks = {"tickvals": counts, "ticktext": [f"{n:,}" for n in counts], "tickangle": 0}
    chart.update_xaxes(axis("trials (log scale)"), type="log", **ticks)
    return chart


def _prompts(result: Result) -> Section:
    table, unit = frame(result, "prompts"), metric_unit(result)
    columns = ["prompt", "tokens", "trials", f"effect ({unit})", "KL (nats)", "clean perplexity"]
    columns += [f"whole injection ({unit})", "its KL (nats)"]
    rows = [
        [
            r.text,
            str(r.tokens),
            f"{r.trials:,}",
            words.signed(r.effect),
            words.number(r.kl),
            words.number(r.clean_perplexity),
            words.signed(r.steered_effect),
            words.number(r.steered_kl),
        ]
        for r in records(table)
    ]
    scored = result.manifest.get("metric", {}).get("scored", "")
    text = ["Effect and KL are means over the trials of a prompt with the vector, not random ones."]
    text += [f"Scored: {scored}."] if scored else []
    text += [f"Missing: {missing(result, 'prompts')}."] if table.empty else []
    return Section(f"Prompts ({len(table)})", text, table=Table(columns, rows, frozenset(columns[1:])), folded=True)


def _table(result: Result) -> Section:
    columns = [
        "node",
        "outcome",
        "contribution",
        "low",
        "high",
        "reference",
        "reference_low",
        "reference_high",
        "difference",
    ]
    columns += ["sampled", "p_adjusted", "p_holm", "p_specific"]
    rows = [[_plain(row[c]) for c in columns] for row in frame(result, "nodes")[columns].to_dict("records")]
    text = [
        "A click on a heading sorts. The buttons save the tables as CSV; the trials themselves are in the parquet "
        "files of the run's folder."
    ]
    downloads, notes = saved(result)
    shown = Table(columns, rows, frozenset(columns) - {"node", "outcome"})
    return Section("All nodes", [*text, *notes], table=shown, folded=True, download=downloads)


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else cell(value)
