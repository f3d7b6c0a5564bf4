"""The report of `exact`: which heads and MLPs carry an injection's effect."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages import freeze_attention, minimal, writers
from steerscope.reports.pages.carried import carried, compared, how_sure
from steerscope.reports.pages.common import everything, layout, metric_unit, missing, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records, way
from steerscope.reports.theme import (
    CONCEPTS,
    LEGEND,
    MARKS,
    NEGATIVE,
    POSITIVE,
    REFERENCE,
    axis,
    bars,
    bold,
    figure,
    key,
    said,
    visible,
)

MEASURES = {
    "necessity": "Necessity: effect lost when the node is set back to clean",
    "sufficiency": "Sufficiency: effect that appears from this node alone",
}
INFLUENT = 0.5  # nats a token above the clean model's own completions
DONE = {
    "necessity": "is lost when the node is set back to its clean value",
    "sufficiency": "appears when only this node is set to its steered value",
}
READING = [
    "Necessity asks what is lost without the node, sufficiency what it brings alone; both are exact forward passes, "
    "and everything downstream reacts. They differ where nodes back each other up (small necessity) or act only "
    "together (small sufficiency).",
    "Nodes patched together are not the sum of single nodes. Nodes before the injection cannot be reached and are "
    "zero.",
    "A reference vector is read along its own change of the logits, as a share of its own whole effect: so each vector "
    "is asked how it flows, not whether it steers towards this one's words. The verdict is one rule for words and "
    "pictures: see 'How sure is this?'.",
]


@drawing
def headline(result: Result) -> list[str]:
    """Who carries the effect, how concentrated it is, who wrote the vector, and whether attention moves or looks."""
    return [
        *carried(result, of(result, "effects", measure="necessity"), DONE["necessity"]),
        _whole(result),
        *minimal.headline(result),
        *writers.headline(result),
        *freeze_attention.headline(result),
    ]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    sections = [
        _maps(result),
        _ranking(result),
        _contrasts(result),
        minimal.section(result),
        writers.section(result),
        freeze_attention.section(result),
        _disturbance(result),
        _tokens(result),
        _completions(result),
        _prompts(result),
        how_sure(result, [of(result, "effects", measure=measure) for measure in MEASURES]),
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


def _whole(result: Result) -> str:
    """The whole effect, and what of it is no finding."""
    total, manifest = _totals(result)["total"], result.manifest
    effect = words.ranged(total, "value", words.signed, total.unit)
    what = f"The whole effect on {manifest.get('metric', {}).get('name', 'the metric').replace('_', ' ')} is {effect}"
    if _own_direction(manifest):
        return f"{what}: along each prompt's own change, and so positive by construction."
    if not words.finite(total.value) or result.frames["prompts"]["effect"].isna().any():
        return f"{what}."
    against = int((result.frames["prompts"]["effect"] * total.value < 0).sum())
    count = len(result.frames["prompts"])
    return (
        f"{what}; {against} of {count} prompts move against it." if against else f"{what}, on each of {count} prompts."
    )


def _own_direction(manifest: Any) -> bool:
    """Whether the metric is along each prompt's own change."""
    name, groups = manifest.get("metric", {}).get("name"), manifest.get("prompts", {}).get("groups")
    return bool(name == "own_direction" or (name == "logit_direction" and groups == 1))


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
    necessity = of(result, "effects", measure="necessity")["verdict"].value_counts()
    prompts = manifest.get("prompts", {})
    way_ = ("wrong way", words.percent(total.wrong_way), "of the prompts move against the mean effect")
    if _own_direction(manifest):
        way_ = ("wrong way", "–", "each prompt is read along its own change: none can move against it")
    beside = [text for text in (compared(result, True), compared(result, False)) if text]
    return [
        (
            "total effect",
            f"{words.signed(total.value)} {total.unit}",
            f"interval over groups of prompts{words.between(total.low, total.high)}",
        ),
        (
            "disturbance",
            f"{words.number(kl.value)} nats",
            f"KL to the clean run{words.between(kl.low, kl.high)}; reference vectors {words.ranged(kl, 'reference')}",
        ),
        (
            "told from noise",
            str(sum(int(necessity.get(name, 0)) for name in ("specific", "concept"))),
            f"of {int(necessity.sum())} nodes by necessity; {int(necessity.get('specific', 0))} specific; jointly "
            f"{words.percent(totals['told_necessity'].share)} of the effect",
        ),
        way_,
        (
            "prompts",
            str(prompts.get("count", len(result.frames["prompts"]))),
            f"in {prompts.get('groups', '?')} independent groups",
        ),
        (
            "references",
            str(manifest.get("references", {}).get("count", "–")),
            words.listing(beside) if beside else "none",
        ),
    ]


def _maps(result: Result) -> Section:
    limit = float(result.frames["effects"]["effect"].abs().max()) or 1.0
    unit, towards = metric_unit(result), way(result)
    panels = [
        Panel(t, heatmap(of(result, "effects", measure=m), unit, limit, towards=towards)) for m, t in MEASURES.items()
    ]
    text = (
        f"Effects in {unit}; orange carries the effect, blue works against it; in full colour where that is claimed. "
        f"Marks: {key(result.frames['effects']['verdict'])} Point at a cell for its interval, its verdict and the "
        "references."
    )
    return Section("Heads by layers", [text], panels)


def _ranking(result: Result) -> Section:
    bands = ["reference_low", "reference_high", "concepts_low", "concepts_high"]
    ends = result.frames["effects"][["low", "high", "effect", *bands]]
    low, high = float(ends.min().min()), float(ends.max().max())
    margin = 0.05 * (high - low or 1.0)
    limits, unit, towards = (low - margin, high + margin), metric_unit(result), way(result)
    panels = [
        Panel(m.capitalize(), ranking(of(result, "effects", measure=m), unit, limits, towards=towards))
        for m in MEASURES
    ]
    beside = [
        what
        for end, what in (("reference_low", "random vectors"), ("concepts_low", "other concepts"))
        if ends[end].notna().any()
    ]
    band = (
        "The bands are where a node would lie if it carried as large a share of this vector as of its references: "
        f"{', and '.join(beside)}. "
    )
    text = (
        f"The strongest nodes with their intervals over groups of prompts. {band if beside else ''}Effects of "
        "different layers do not add up to the total: an early node acts through later ones."
    )
    return Section("Ranked carriers", [text], panels)


def _contrasts(result: Result) -> Section:
    text = (
        "Each vector, real or reference, has its own change of the logits. On the dotted line a node carries the same "
        "share of this vector's change as of the references': it carries whatever is put there. It takes several of "
        "their spreads above the line to be told from them: see 'How sure is this?'."
    )
    kinds = [
        (name, what)
        for name, what, noise in (("reference", "random vectors", True), ("concepts", "other concepts", False))
        if compared(result, noise)
    ]
    panels = [
        Panel(
            f"{measure.capitalize()} against {what}",
            _contrast_chart(of(result, "effects", measure=measure), name, what),
        )
        for name, what in kinds
        for measure in MEASURES
        if result.frames["effects"]["own_share"].notna().any()
    ]
    if not panels:
        panels = [Panel("Necessity", None, "no reference vectors were run, or the whole effect is not told from zero")]
    return Section("Specific or shared", [text], panels)


def _contrast_chart(table: pd.DataFrame, name: str, what: str) -> go.Figure:
    """Nodes of one measure: the share of this vector's own change against that of the references' own changes."""
    middle = "noise_share" if name == "reference" else "concepts_share"
    # Bands are shares times the total; a share knows the total.
    total = float((table[name] / table[middle]).replace([np.inf, -np.inf], np.nan).median())
    rows = table.assign(left=table[f"{name}_low"] / total, right=table[f"{name}_high"] / total)
    rows = rows[(rows["own_share"] != 0) | (rows[middle] != 0)].dropna(subset=["own_share", middle])
    values = np.concatenate([rows["own_share"], rows["left"], rows["right"], [0.0]])
    values = values[np.isfinite(values)]
    low, high = values.min() - 0.03, values.max() * 1.08 + 0.03
    dots = {"color": REFERENCE, "width": 1, "dash": "dot"}
    chart = figure(height=380, **LEGEND)
    chart.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=dots, layer="below")
    named = set(rows.loc[rows["own_share"].abs().sort_values(ascending=False).index[:5], "node"])
    named |= set(rows["node"][rows["verdict"].isin(["specific", "concept"])])
    for verdict, look in MARKS.items():
        part = rows[rows["verdict"] == verdict]
        if part.empty:
            continue
        chart.add_scatter(
            x=part[middle],
            y=part["own_share"],
            mode="markers+text",
            name=verdict,
            textposition="top center",
            text=[str(n) if n in named else "" for n in part["node"]],
            marker={"size": 9, "color": look.colour, "symbol": look.symbol},
            error_x=bars(part[middle], part["left"], part["right"], REFERENCE, 0.8, 0),
            **said([_contrast_hover(r, middle, what) for r in records(part)]),
        )
    chart.update_xaxes(axis(f"share of {what}' own changes (mean and band)"), tickformat=".0%", range=[low, high])
    chart.update_yaxes(axis("share of this vector's own change"), tickformat=".0%", range=[low, high])
    return chart


def _contrast_hover(row: Any, middle: str, what: str) -> str:
    ends = words.between(row.left, row.right, words.percent)
    return (
        f"{bold(row.node)} {row.verdict}\n{words.percent(row.own_share)} of this vector's "
        f"own change\n{words.percent(getattr(row, middle))}{ends} of {what}' own\ntold from noise: "
        f"{words.p_value(row.p_holm)} (Holm)"
    )


def _disturbance(result: Result) -> Section:
    text = (
        "Disturbance is not steering: a random vector of equal norm can change the output as much or more. Here each "
        "vector's effect is along its own change of the logits: how much it moves, not whether it moves as wanted."
    )
    return Section(
        "Effect and disturbance", [text], [Panel("One point a vector", _vectors_chart(result.frames["vectors"]))]
    )


def _vectors_chart(vectors: pd.DataFrame) -> go.Figure:
    """Every vector as a point: KL to the right, effect upwards, intervals over groups of prompts as bars."""
    looks = {"": (POSITIVE, "circle"), "isotropic": (REFERENCE, "circle"), "covariance": (REFERENCE, "square")}
    looks["shuffled"] = (REFERENCE, "triangle-up")
    chart = figure(height=360, **LEGEND)
    for family in dict.fromkeys([*reversed(vectors["family"].tolist())]):
        rows = vectors[vectors["family"] == family]
        colour, symbol = looks.get(family, (CONCEPTS, "diamond"))
        hover = [
            f"{bold(r.label)}\neffect {words.ranged(r, 'effect', words.signed, 'logits')}\nKL "
            f"{words.ranged(r, 'kl', unit='nats')}\ncoefficient {words.number(r.coefficient)}"
            for r in records(rows)
        ]
        chart.add_scatter(
            x=rows["kl"],
            y=rows["effect"],
            mode="markers",
            name=family if family else "this vector",
            marker={"size": 7 if family else 12, "color": colour, "symbol": symbol},
            error_x=bars(rows["kl"], rows["kl_low"], rows["kl_high"], colour, 1, 0),
            error_y=bars(rows["effect"], rows["low"], rows["high"], colour, 1, 0),
            **said(hover),
        )
    chart.update_xaxes(axis("disturbance: KL(steered || clean), nats"), rangemode="tozero")
    chart.update_yaxes(axis("effect along the vector's own change (logits)"))
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
        f"{bold(label)}\n{words.number(r.clean)} → {words.number(r.steered)}\nmean log ratio "
        f"{words.signed(r.change)} nats\ncontribution to KL {words.signed(r.kl)} nats"
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
        [
            r.text,
            str(r.group + 1),
            str(r.tokens),
            *map(words.number, (r.clean, r.steered)),
            words.signed(r.effect),
            words.number(r.kl),
        ]
        for r in records(table)
    ]
    columns = ["prompt", "group", "tokens", f"clean ({unit})", f"steered ({unit})", f"effect ({unit})", "KL (nats)"]
    wrong = frozenset(i for i, e in enumerate(table["effect"]) if e * mean < 0)
    scored = result.manifest.get("metric", {}).get("scored", "")
    text = [f"Scored: {scored}."] if scored else []
    text += ["Coloured rows move against the mean effect."] if wrong else []
    shown = Table(columns, rows, frozenset(columns[1:]), wrong)
    return Section(f"Prompts ({len(table)})", text, table=shown, folded=True)


def _table(result: Result) -> Section:
    columns = ["node", "measure", "effect", "low", "high", "share", "verdict", "own_share", "noise_share"]
    columns += ["concepts_share", "needed", "p", "p_noise", "p_concepts", "p_adjusted", "p_holm", "p_specific"]
    return everything(result.frames["effects"], [*columns, "wrong_way", "stability"], "All nodes", result)
