"""The report of `exact`: which heads and MLPs carry an injection's effect."""

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages import freeze_attention, writers
from steerscope.reports.pages.common import everything, layout, metric_unit, missing, model_name, of, opponents, shares
from steerscope.reports.records import records, sides, way
from steerscope.reports.theme import LEGEND, NEGATIVE, NEUTRAL, POSITIVE, REFERENCE, axis, bars, figure, said, visible

MEASURES = {
    "necessity": "Necessity: effect lost when the node is set back to clean",
    "sufficiency": "Sufficiency: effect that appears from this node alone",
}
INFLUENT = 0.5  # nats a token above the clean model's own completions
REACH = {"none": NEUTRAL, "general": "#5b6b7a", "specific": POSITIVE}
READING = [
    "Necessity asks what is lost without the node, sufficiency what it brings alone; both are exact forward passes, "
    "and everything downstream reacts. They differ where nodes back each other up (small necessity) or act only "
    "together (small sufficiency).",
    "Nodes patched together are not the sum of single nodes. Nodes before the injection cannot be reached and are "
    "zero.",
    "A node is significant when its effect differs from zero and goes beyond the mean reference in the same direction, "
    "by sign-flip tests over prompts, corrected over nodes. Sentences at the top of this page use Holm's correction.",
]


def headline(result: Result) -> list[str]:
    """Who carries the effect, who wrote the vector, and whether attention moves or looks."""
    return [*_carriers(result), *writers.headline(result), *freeze_attention.headline(result)]


def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    sections = [
        _maps(result),
        _ranking(result),
        _reach(result),
        writers.section(result),
        freeze_attention.section(result),
        _disturbance(result),
        _tokens(result),
        _completions(result),
        _prompts(result),
        _table(result),
    ]
    return layout(
        result,
        "Who carries {vector} in {model}?",
        "exact patching of every head and MLP",
        headline(result),
        sections,
        _glance(result),
        READING,
        _beyond_fluency(result),
    )


def _carriers(result: Result) -> list[str]:
    """What was found, in two or three plain sentences; claims are corrected by Holm over all nodes."""
    total, manifest = _totals(result)["total"], result.manifest
    tested = of(result, "effects", measure="necessity")
    nodes = tested[tested["p_holm"] < manifest.get("alpha", 0.05)].sort_values("effect", key=abs, ascending=False)
    along, against = sides(nodes, way(result))
    effect = words.ranged(total, "value", words.signed, total.unit)
    reference = " (no references were run)"
    if words.finite(total.reference):
        reference = f" (random vectors of equal norm: {words.ranged(total, 'reference', words.signed)})"
    whole = f"The whole effect on {manifest.get('metric', {}).get('name', 'the metric').replace('_', ' ')} is {effect}"
    if nodes.empty:
        count = manifest.get("prompts", {}).get("count", len(result.frames["prompts"]))
        return [
            f"No head or MLP of {model_name(result)} can be called a carrier of {words.injection(manifest)} on these "
            f"{count} prompts (none passes Holm's correction over all nodes).",
            f"{whole}{reference}.",
        ]
    shown = shares(along, 4)
    first = f"{len(along)} of {len(tested)} heads and MLPs of {model_name(result)} carry {words.injection(manifest)}"
    if shown:
        first += (
            f", above all {words.listing(shown)}: the share of the effect that is lost when the node is set back to "
            "its clean value"
        )
    first += opponents(shares(against, len(against)))
    together = words.ranged(_totals(result)["carriers_necessity"], "share", words.percent)
    return [
        first + ".",
        f"{whole}{reference}; all significant nodes set back together take away {together} of it (which is not the sum "
        "of their single effects).",
        *([_reached(along)] if shown else []),
    ]


def _reached(nodes: pd.DataFrame) -> str:
    """How many carriers are specific to this vector."""
    specific, general = (words.some(list(nodes[nodes["reach"] == kind]["node"]), 6) for kind in ("specific", "general"))
    parts = []
    if specific:
        parts.append(f"specific to this vector, carrying more of it than of random ones: {words.listing(specific)}")
    if general:
        parts.append(f"general, carrying whatever is put there: {words.listing(general)}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _totals(result: Result) -> dict[str, Any]:
    return {r.quantity: r for r in records(result.frames["totals"])}


def _beyond_fluency(result: Result) -> list[str]:
    """A warning where steered completions surprise the clean model much more than its own do."""
    clean, steered = _surprises(result)
    if not steered - clean > INFLUENT:
        return []
    return [
        "The injection is beyond the fluent regime: steered completions surprise the clean model by "
        f"{words.number(steered)} nats a token, its own by {words.number(clean)}. What carries it here explains the "
        "breakage rather than the behaviour; see steerscope breakdown for smaller coefficients."
    ]


def _surprises(result: Result) -> tuple[float, float]:
    """Of clean and steered completions, in nats a token; missing where they are not known."""
    table = result.frames["completions"].reindex(columns=["clean_surprise", "steered_surprise"]).astype(float)
    return float(table["clean_surprise"].mean()), float(table["steered_surprise"].mean())


def _glance(result: Result) -> list[tuple[str, str, str]]:
    totals, manifest = _totals(result), result.manifest
    total, kl = totals["total"], totals["kl"]
    stability, references = manifest.get("stability", {}), manifest.get("references", {})
    jaccard = stability.get("jaccard")
    stable = str(stability.get("note", ""))
    if jaccard is not None:
        ends = f"[{stability['low']:.2f}, {stability['high']:.2f}]"
        stable = f"Jaccard overlap of the carriers on resampled prompts {ends}; 0.8 is the field's bar"
    return [
        (
            "total effect",
            f"{words.signed(total.value)} {total.unit}",
            f"interval{words.between(total.low, total.high)}; references {words.ranged(total, 'reference', words.signed)}",
        ),
        (
            "disturbance",
            f"{words.number(kl.value)} nats",
            f"KL to the clean run{words.between(kl.low, kl.high)}; references {words.ranged(kl, 'reference')}",
        ),
        (
            "carriers together",
            words.percent(totals["carriers_necessity"].share),
            "of the effect lost when all significant nodes are set back at once",
        ),
        ("wrong way", words.percent(total.wrong_way), "of the prompts move against the mean effect"),
        ("stability", "–" if jaccard is None else f"{jaccard:.2f}", stable),
        (
            "references",
            str(references.get("count", "–")),
            f"random vectors of equal {references.get('matched', 'norm')}, position by position",
        ),
    ]


def _maps(result: Result) -> Section:
    limit = float(result.frames["effects"]["effect"].abs().max()) or 1.0
    unit, towards = metric_unit(result), way(result)
    panels = [
        Panel(t, heatmap(of(result, "effects", measure=m), unit, limit, towards=towards)) for m, t in MEASURES.items()
    ]
    text = (
        f"Effects in {unit}; orange carries the effect, blue works against it. Bold and full colour (or a dot) is "
        f"significant after Benjamini-Hochberg at {result.manifest.get('alpha', 0.05):g}; everything else is muted. "
        "Point at a cell for its interval and reference."
    )
    return Section("Heads by layers", [text], panels)


def _ranking(result: Result) -> Section:
    ends = result.frames["effects"][["low", "high", "reference_low", "reference_high", "effect"]]
    low, high = float(ends.min().min()), float(ends.max().max())
    margin = 0.05 * (high - low or 1.0)
    limits, unit, towards = (low - margin, high + margin), metric_unit(result), way(result)
    panels = [
        Panel(m.capitalize(), ranking(of(result, "effects", measure=m), unit, limits, towards=towards))
        for m in MEASURES
    ]
    text = (
        "The strongest nodes with their intervals over prompts. The grey band is where the same measure falls for "
        "random vectors of equal norm. Open circles are not significant. Effects of different layers do not add up to "
        "the total: an early node acts through later ones."
    )
    return Section("Ranked carriers", [text], panels)


def _reach(result: Result) -> Section:
    text = (
        "Each vector, real or random, has its own change of the logits. On the dotted line a node carries the same "
        "share of this vector's change as of any other vector's: it carries whatever is put there. Above the line it "
        "is specific to this vector."
    )
    panels = [Panel(m.capitalize(), _reach_chart(of(result, "effects", measure=m))) for m in MEASURES]
    if not result.manifest.get("references", {}).get("count", 0):
        panels = [Panel("Necessity", None, missing(result, "references"))]
    return Section("Specific or general", [text], panels)


def _reach_chart(table: pd.DataFrame) -> go.Figure:
    """Nodes of one measure: the share of this vector's own change against that of random vectors' own changes."""
    rows = table[(table["own_share"] != 0) | (table["own_reference"] != 0)]
    values = np.concatenate([rows["own_share"], rows["own_reference_low"], rows["own_reference_high"], [0.0]])
    values = values[np.isfinite(values)]
    low, high = values.min() - 0.03, values.max() * 1.08 + 0.03
    dots = {"color": REFERENCE, "width": 1, "dash": "dot"}
    chart = figure(height=380, **LEGEND)
    chart.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=dots, layer="below")
    order = rows["own_share"].abs().sort_values(ascending=False).index
    named = set(rows.loc[order[:5], "node"]) & set(rows[rows["significant"]]["node"])
    for kind, colour in REACH.items():
        part = rows[rows["reach"] == kind]
        middle, hover = part["own_reference"], [_reach_hover(r) for r in records(part)]
        chart.add_scatter(
            x=middle,
            y=part["own_share"],
            mode="markers+text",
            name=kind,
            textposition="top center",
            text=[escape(str(n)) if n in named else "" for n in part["node"]],
            marker={"size": 9, "color": colour, "symbol": "circle-open" if kind == "none" else "circle"},
            error_x=bars(middle, part["own_reference_low"], part["own_reference_high"], REFERENCE, 0.8, 0),
            **said(hover),
        )
    title = "share of random vectors' own changes (mean and band)"
    chart.update_xaxes(axis(title), tickformat=".0%", range=[low, high])
    chart.update_yaxes(axis("share of this vector's own change"), tickformat=".0%", range=[low, high])
    return chart


def _reach_hover(row: Any) -> str:
    return (
        f"<b>{escape(str(row.node))}</b> {escape(str(row.reach))}<br>{words.percent(row.own_share)} of this vector's "
        f"own change<br>{words.ranged(row, 'own_reference', words.percent)} of random vectors' "
        f"own<br>{words.p_value(row.p_own_adjusted)} (adjusted)"
    )


def _disturbance(result: Result) -> Section:
    text = (
        "Disturbance is not steering: a random vector of equal norm can change the output as much or more. What counts "
        "is how far the steering vector stands above the grey points at a like disturbance."
    )
    chart = _disturbance_chart(result.frames["vectors"], metric_unit(result))
    return Section("Effect and disturbance", [text], [Panel("One point a vector", chart)])


def _disturbance_chart(vectors: pd.DataFrame, unit: str) -> go.Figure:
    """Every vector as a point: KL to the right, effect upwards, intervals over prompts as bars."""
    chart = figure(height=340)
    for real in (False, True):
        rows = vectors[(vectors["vector"] == "steering") == real]
        colour = POSITIVE if real else REFERENCE
        hover = [
            f"<b>{escape(str(r.vector))}</b><br>effect {words.ranged(r, 'effect', words.signed, escape(unit))}<br>KL "
            f"{words.ranged(r, 'kl', unit='nats')}<br>coefficient {words.number(r.coefficient)}"
            for r in records(rows)
        ]
        chart.add_scatter(
            x=rows["kl"],
            y=rows["effect"],
            mode="markers+text" if real else "markers",
            text=["  steering vector"] * len(rows) if real else None,
            textposition="middle left",
            marker={"size": 11 if real else 7, "color": colour},
            error_x=bars(rows["kl"], rows["kl_low"], rows["kl_high"], colour, 1, 0),
            error_y=bars(rows["effect"], rows["low"], rows["high"], colour, 1, 0),
            **said(hover),
        )
    chart.update_xaxes(axis("disturbance: KL(steered || clean), nats"), rangemode="tozero")
    chart.update_yaxes(axis(f"effect ({unit})"))
    return chart


def _tokens(result: Result) -> Section:
    table, title = result.frames["tokens"], "The next token after the prompts"
    if table.empty:
        why = "the injection does not change the next token after these prompts"
        return Section(title, [], [Panel("Next token", None, why)])
    names = {"gain": "More probable", "loss": "Less probable"}
    panels = [Panel(name, _token_bars(table, side)) for side, name in names.items() if (table["side"] == side).any()]
    text = "Mean probability over the prompts, clean → steered; contributions to the divergence on hover."
    return Section(title, [text], panels)


def _token_bars(table: pd.DataFrame, side: str) -> go.Figure:
    """Bars of the change of probability of one side, `gain` or `loss`; the KL contribution on hover."""
    rows = table[table["side"] == side]
    labels = [visible(t) for t in rows["token"]]
    chart = figure(height=80 + 23 * max(3, len(rows)), margin={"l": 90, "r": 14, "t": 8, "b": 46})
    hover = [
        f"<b>{label}</b><br>{words.number(r.clean)} → {words.number(r.steered)}<br>mean log ratio "
        f"{words.signed(r.change)} nats<br>contribution to KL {words.signed(r.kl)} nats"
        for label, r in zip(labels, records(rows), strict=True)
    ]
    chart.add_bar(
        x=rows["steered"] - rows["clean"],
        y=list(range(len(rows))),
        orientation="h",
        marker_color=POSITIVE if side == "gain" else NEGATIVE,
        text=[f"{words.percent(r.clean)} → {words.percent(r.steered)}" for r in records(rows)],
        textposition="auto",
        **said(hover),
    )
    chart.update_xaxes(axis("change of probability, mean over prompts"))
    chart.update_yaxes(axis(), autorange="reversed", tickvals=list(range(len(rows))), ticktext=labels, showgrid=False)
    return chart


def _completions(result: Result) -> Section:
    table, title = result.frames["completions"], "A few completions"
    if table.empty:
        return Section(title, [f"Missing: {missing(result, 'completions')}."])
    text = ["Sampled with the same random numbers; only the prompt's own positions are injected."]
    clean, steered = _surprises(result)
    if steered == steered:
        text.append(
            f"Loss under the clean model, in nats a token: clean completions {words.number(clean)}, steered "
            f"{words.number(steered)}."
        )
    rows = [[r.text, r.clean, r.steered] for r in records(table)]
    return Section(title, text, table=Table(["prompt", "clean", "steered"], rows))


def _prompts(result: Result) -> Section:
    table, unit = result.frames["prompts"], metric_unit(result)
    mean = table["effect"].mean()
    rows = [
        [r.text, str(r.tokens), *map(words.number, (r.clean, r.steered)), words.signed(r.effect), words.number(r.kl)]
        for r in records(table)
    ]
    columns = ["prompt", "tokens", f"clean ({unit})", f"steered ({unit})", f"effect ({unit})", "KL (nats)"]
    wrong = frozenset(i for i, e in enumerate(table["effect"]) if e * mean < 0)
    scored = result.manifest.get("metric", {}).get("scored", "")
    text = [f"Scored: {scored}."] if scored else []
    text += ["Coloured rows move against the mean effect."] if wrong else []
    shown = Table(columns, rows, frozenset(columns[1:]), wrong)
    return Section(f"Prompts ({len(table)})", text, table=shown, folded=True)


def _table(result: Result) -> Section:
    columns = ["node", "measure", "effect", "low", "high", "share", "reference", "p_adjusted", "p_holm", "own_share"]
    columns += ["own_reference", "reach", "wrong_way", "stability"]
    return everything(result.frames["effects"], columns, "All nodes", result)
