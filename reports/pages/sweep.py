"""The report of `sweep`: what parts of a steering vector do in randomly chosen nodes."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.lines import NAME, lines, units
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages import sweep_sections as sections
from steerscope.reports.pages.common import cell, framed, legend, metric_name, metric_unit, missing, model_name, saved
from steerscope.reports.pages.sweep_sections import absent, frame, of_outcome
from steerscope.reports.pages.sweep_words import alpha, told, vectors, whole
from steerscope.reports.pages.sweep_words import headline as headline
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import axis, bold

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
READING = (
    "A contribution is what injecting into a node adds to an outcome: trials with the node against trials without it, "
    "among those that have as many other nodes, whichever these are. The nodes were drawn at random, so this is causal "
    "for these injections, and a node that does nothing gets zero whatever the others do. Where every trial injects "
    "into the same number of nodes, it is what a node does beyond the mean of those that it is exchanged for.",
    "Two samples stand behind every number. Intervals and p come from leaving out each group of prompts in turn: they "
    "say how far a number holds for further prompts of this kind, on this model. Whether a node is told from random "
    "vectors is asked over vectors: its share of the whole effect against its share of the whole effects of random "
    "vectors, each along its own change of the logits and from its own trials (a prediction t).",
    "A random vector writes as much into the stream at the same nodes. Only random vectors are run: a node that is "
    "told from them carries meaning, and whether it is this vector's or that of any other word is not asked here "
    "(localize does).",
    "Disturbance is the KL divergence from the clean run at the scored positions; loss is the rise of the "
    "log-perplexity of the text that truly follows.",
    "One rule decides, in words and in pictures: Holm's correction over nodes (or pairs). The tables hold "
    "Benjamini-Hochberg's beside it.",
    "Effects that need more than two nodes are spread over the contributions; a sweep of small k does not see them.",
)


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    manifest = result.manifest
    return framed(
        result,
        f"Which nodes respond to {vectors(manifest)} in {model_name(result)}?",
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
        f"{vectors(manifest)} at {_coefficients(manifest)}, positions {manifest.get('positions', 'all')}."
    ]
    if about.get("antithetic"):
        parts.append("Every set is followed by its complement.")
    if about.get("mixed"):
        parts.append("Every node draws its own vector.")
    if about.get("controls"):
        parts.append(
            f"One in {about.get('control_every', '?')} draws is a control: the same nodes with one of "
            f"{about['controls']} random vectors that write as much into the stream, read along its own change."
        )
    if about.get("visit"):
        parts.append(f"{about['visit']} trials in a row share prompt, vector and coefficient.")
    mode = MODES.get(manifest.get("mode", ""), f"Mode {manifest.get('mode', 'unknown')}.")
    metric = manifest.get("metric", {}).get("about")
    if metric:
        parts.append(f"The metric takes {str(metric).rstrip('.')}.")
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
    width = (nodes["high"].astype(float) - nodes["low"].astype(float)).median()
    (effect, of_effect), (kl, of_kl) = whole(result, "effect"), whole(result, "kl")
    controls = "no controls"
    if trials.get("random", 0):
        count = manifest.get("design", {}).get("controls", "?")
        controls = f"{trials['random']:,} with {count} random vectors of equal norm"
    level = words.percent(manifest.get("level", 0.95))
    return [
        ("trials", f"{trials.get('done', 0):,}", f"{trials.get('real', 0):,} with the vector, {controls}"),
        (
            "prompts",
            f"{prompts.get('count', len(rows)):,}",
            f"{str(prompts.get('source', ''))}, in {manifest.get('groups', '?')} groups",
        ),
        ("whole injection", f"{words.signed(effect)} {unit}", f"mean effect on {metric_name(manifest)}{of_effect}"),
        ("its disturbance", f"{words.number(kl)} nats", f"KL to the clean run{of_kl}"),
        (
            "beyond random vectors",
            f"{len(told(result))} of {len(nodes)} nodes",
            f"Holm at {alpha(result):g}{_rate(result)}",
        ),
        (
            "interval width",
            f"{words.number(width)} {unit}" if pd.notna(width) else "–",
            f"median over nodes, of contributions to the effect at level {level}",
        ),
    ]


def _rate(result: Result) -> str:
    rate = result.manifest.get("leave_one_out", {}).get("effect")
    if rate is None:
        return ""
    return f"; uncorrected, a random vector is told from the others in {words.percent(rate)} of the cases"


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
        return f"{bold(f'{row.trials:,} trials')}\n{name}: {words.number(getattr(row, column))}"

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
    columns = ["node", "outcome", "verdict", "contribution", "low", "high", "share", "own_share", "reference"]
    columns += ["reference_low", "reference_high", "difference", "sampled", "vectors"]
    columns += ["p", "p_noise", "p_adjusted", "p_holm"]
    rows = [[_plain(row[c]) for c in columns] for row in frame(result, "nodes")[columns].to_dict("records")]
    text = [
        "A click on a heading sorts. The buttons save the tables as CSV; the trials themselves are in the parquet "
        "files of the run's folder."
    ]
    downloads, notes = saved(result)
    shown = Table(columns, rows, frozenset(columns) - {"node", "outcome", "verdict"})
    return Section("All nodes", [*text, *notes], table=shown, folded=True, download=downloads)


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else cell(value)
