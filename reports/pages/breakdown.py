"""The report of `breakdown`: why large coefficients break this model, or why they do not."""

from collections.abc import Callable
from itertools import cycle
from math import inf, isinf
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.coefficient import curves
from steerscope.reports.figures.dots import dots, names, none_and_all
from steerscope.reports.figures.grid import grid
from steerscope.reports.figures.layers import by_layer
from steerscope.reports.figures.lines import COLOURS
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.breakdown_words import crossed, open_ends, regime, sentences, sign_of, text_of
from steerscope.reports.pages.common import everything, layout, metric_unit, missing, of
from steerscope.reports.pages.lens import trajectories
from steerscope.reports.reading import drawing
from steerscope.reports.records import records, way
from steerscope.reports.theme import LEGEND, NEUTRAL, axis, bold, figure, said

CURVES = {
    "effect": "Effect",
    "damage": "Damage: rise of the loss of the text",
    "kl": "Disturbance: KL to the clean run",
    "entropy": "Entropy of the prediction",
}
REGIMES = {
    "linear": "leaves the gradient by a tenth",
    "half": "half of the limit",
    "fluency": "costs 1% of perplexity",
    "safe": "largest safe coefficient",
}
CAUSES = {
    "patterns": "where heads look (patterns)",
    "seen": "injected positions are seen",
    "values": "what heads move from them (values)",
    "scales": "what norms divide by",
    "norm": "length of the injected stream",
    "mean": "part along the mean stream",
    "rogue": "part in the largest dimensions",
    "sink": "part along the first position",
}
LOOKS = {
    "gone": ("damage that goes, undone alone", "#c4501b", "circle", -0.22),
    "shapley": ("share of the damage (Shapley)", "#8f63ad", "square", 0.0),
    "effect": ("steering that stays, undone alone", "#2f7bbf", "diamond", 0.22),
}
SURPRISE = {
    "surprise": "Surprise under the clean model (nats a token)",
    "repeated": "Runs of four tokens that repeat",
    "distinct": "Different pairs of tokens",
}
LINES = 8  # in one figure
OFF = (
    "Beyond the fluent regime a run is off the model's manifold: what stands here explains the breakage, not the "
    "behaviour."
)


@drawing
def headline(result: Result) -> list[str]:
    """Safe range and limit; the main cause; shape of the response; the best remedy."""
    return sentences(result)


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "The limits at plus and minus infinity are runs of their own, not extrapolations: as the coefficient grows, "
        "every norm at an injected position sees only the direction of the vector, and what later layers write there "
        "vanishes beside it.",
        f"Damage is by how much the loss of {text_of(result)} rises above that of the clean run, read after the "
        "injected positions. Effect, KL and entropy are means over the scored positions of each prompt, then over "
        "prompts. Intervals go by groups: of prompts, or of the text.",
        OFF,
    ]
    seen = (
        f"Seen through the {result.manifest.get('lens', {}).get('name', 'lens')}: what the stream before each layer "
        "would predict. A lens is trained on ordinary text, so on streams far from it says less."
    )
    parts = (_response, _regimes, _limits, _causes, _angles, _remedies, _phase, _inside, _completions, _cache)
    return layout(
        result,
        "What does a large coefficient of {vector} do to {model}?",
        "exact runs, the limits among them",
        headline(result),
        [
            *(part(result) for part in parts),
            *trajectories(result.frames["lens"], result.frames["tokens"], seen),
            _table(result),
        ],
        text=text,
    )


def _response(result: Result) -> Section:
    sign = sign_of(result)
    marked = {"damage": "safe", "effect": "half"}
    panels = []
    for outcome, title in CURVES.items():
        rows = of(result, "response", outcome=outcome)
        row = regime(result, marked[outcome], sign) if outcome in marked else None
        marks = {marked[outcome]: sign * row.coefficient} if row and row.coefficient == row.coefficient else {}
        series = {"this vector": rows}
        on_topic = of(result, "response", outcome="damage_on_topic")
        if outcome == "damage" and len(on_topic):
            series["on-topic text"] = on_topic
        unit = metric_unit(result) if outcome == "effect" else "nats"
        chart = curves(series, unit, title=outcome, reference=rows, marks=marks) if len(rows) else None
        panels.append(Panel(title, chart, "not computed"))
    overflow = result.manifest.get("missing", {}).get("overflow")
    text = [
        "Bands are intervals, grey is the band of reference vectors of equal norm. Diamonds are the exact limits. The "
        f"text is {text_of(result)}.",
        *([f"Left out: {overflow}."] if overflow else []),
    ]
    return Section("Response", text, panels)


def _regimes(result: Result) -> Section:
    rows = [
        [REGIMES.get(r.regime, str(r.regime)), "plus" if r.sign > 0 else "minus", crossed(r), words.percent(r.reached)]
        for r in records(result.frames["regimes"])
    ]
    titles = ["regime", "sign", "size of the coefficient", "resamples in which it happens"]
    text = [
        "Where the curves cross a threshold for the first time, straight between the coefficients that were run. What "
        "is crossed at the smallest already may be crossed anywhere below; intervals count resamples that cross below "
        "or beyond what was tried, and say so where such a one is their end.",
        *([f"Missing: damage: {missing(result, 'damage')}."] if missing(result, "damage", "") else []),
    ]
    named = [
        f"{words.ranged(r, 'predicted')} ({'the final norm' if r.norm == 'final' else f'L{r.layer} {r.norm}'})"
        for r in records(result.frames["predictions"])
    ]
    if named:
        text.append(
            "From norms alone, an injected stream has turned halfway to the vector where the coefficient times its "
            f"length is the stream's: at {words.listing(named)}."
        )
    return Section("Regimes", text, table=Table(titles, rows, frozenset(titles[2:])))


def _limits(result: Result) -> Section:
    table = result.frames["limits"]
    if table.empty:
        return Section("At infinity", [], [Panel("Limits", None, missing(result, "limit"))])
    rows = []
    for (sign, seen), own in table.groupby(["sign", "seen"], sort=False):
        by = {r.outcome: words.ranged(r) for r in records(own)}
        cells = [by.get(outcome, "–") for outcome in CURVES]
        rows.append(["plus" if sign == 1 else "minus", "see them" if seen else "do not", *cells])
    titles = ["infinity", "later positions", f"effect ({metric_unit(result)})", "damage (nats)", "KL (nats)"]
    titles.append("entropy (nats)")
    text = (
        "The exact limits, with later positions attending to the injected ones and without: the difference is what "
        "attention carries."
    )
    return Section("At infinity", [text], table=Table(titles, rows, frozenset(titles[2:])))


def _causes(result: Result) -> Section:
    table, title = result.frames["causes"], "What breaks it"
    if table.empty:
        return Section(title, [], [Panel("Causes", None, missing(result, "causes"))])
    text = [
        f"At {words.number(result.manifest.get('broken_at'))}, every subset of the mechanisms undone. What goes alone "
        "need not add up, since mechanisms overlap, and is more than all of it where the loss ends below that of the "
        "clean run; Shapley shares, with what is left when all are undone, add up to all of the damage. Hiding the "
        "injected positions also hides the prompt's own tokens there. Nodes are chosen on one half of the text and "
        "judged on the other.",
        *(
            f"Missing: {what}: {why}."
            for what in ("nodes", "shares of the damage")
            if (why := missing(result, what, ""))
        ),
        OFF,
    ]
    rows = [
        [r.cause, *(words.ranged(r, share, words.percent) for share in ("gone", "effect")), words.number(r.halves)]
        for r in records(table[table["kind"] == "node"])
    ]
    titles = ["node set back to clean", "damage that goes", "steering that stays", "halves that chose it"]
    panels = [Panel("Mechanisms", _mechanisms(table))]
    return Section(title, text, panels, table=Table(titles, rows, frozenset(titles[1:])))


def _mechanisms(table: pd.DataFrame) -> go.Figure:
    """A row a mechanism, largest Shapley share first; all together last."""
    rows = table[table["kind"] == "mechanism"].sort_values("shapley", ascending=False)
    rows = pd.concat([rows, table[table["kind"] == "together"]])
    hover = [
        f"{bold(CAUSES.get(r.cause, str(r.cause)))}\nundone alone: {words.ranged(r, 'gone', words.percent)} "
        f"of the damage goes\n{words.ranged(r, 'effect', words.percent)} of the steering stays\nShapley share "
        f"{words.ranged(r, 'shapley', words.percent)}"
        for r in records(rows)
    ]
    chart = figure(height=110 + 44 * len(rows), margin={"l": 230, "r": 20, "t": 34, "b": 46}, **LEGEND)
    for column, (title, colour, symbol, offset) in LOOKS.items():
        at = [i + offset for i in range(len(rows))]
        dots(chart, rows, at, column, hover, colour=colour, symbol=symbol, name=title)
    none_and_all(chart, "share of the damage, or of the steering")
    names(chart, [CAUSES.get(c, str(c)) for c in rows["cause"]])
    return chart


def _angles(result: Result) -> Section:
    table, panels = result.frames["angles"], []
    units = {"effect": metric_unit(result), "damage": "nats"}
    for column, unit in units.items():
        low, high = table[f"{column}_low"], table[f"{column}_high"]
        drawn = table.drop(columns=list(units)).assign(value=table[column], low=low, high=high)
        series = {str(way): drawn[drawn["way"] == way] for way in dict.fromkeys(drawn["way"])}
        chart = curves(series, unit, title=column) if series else None
        panels.append(Panel(column.capitalize(), chart, "not computed"))
    if (table["way"] == "addition").any():
        turned = table[table["way"] != "stretch"]
        for column, unit in units.items():
            titles = ("angle that streams turn (degrees)", f"{column} ({unit})")
            panels.append(Panel(f"{column.capitalize()} by angle", _traded(turned, "way", "angle", column, titles)))
    text = (
        "An injection turns each stream and lengthens it. Same norm: the turn alone. Stretch: the length alone, "
        "without turning."
    )
    return Section("Turn and stretch", [text], panels)


def _traded(
    table: pd.DataFrame, by: str, x: str, y: str, titles: tuple[str, str], target: float | None = None
) -> go.Figure:
    """Two outcomes along the knob of each way to inject, a line for each value of the column `by`.

    Args:
        target: a value of `x` at which all are compared.
    """
    chart = figure(height=380, margin={"l": 62, "r": 14, "t": 52, "b": 50}, **LEGEND)
    knob = "knob" if "knob" in table else "coefficient"
    for name, colour in zip(dict.fromkeys(table[by]), cycle(COLOURS), strict=False):
        rows = table[table[by] == name]
        hover = [
            f"{bold(name)}, {words.number(getattr(r, knob))}\n{titles[0]} "
            f"{words.number(getattr(r, x))}\n{titles[1]} {words.number(getattr(r, y))}"
            for r in records(rows)
        ]
        chart.add_scatter(
            x=[0, *rows[x]],
            y=[0, *rows[y]],
            mode="lines+markers",
            name=str(name),
            line={"color": colour, "width": 2},
            marker={"size": 5, "color": colour},
            **said(["none", *hover]),
        )
    if target is not None:
        chart.add_vline(x=target, line_width=1, line_dash="dash", line_color=NEUTRAL)
    chart.update_xaxes(axis(titles[0]))
    chart.update_yaxes(axis(titles[1]))
    return chart


def _remedies(result: Result) -> Section:
    table, equal = result.frames["remedies"], result.frames["equal_effect"]
    if table.empty:
        return Section("Remedies", [], [Panel("Remedies", None, "not computed")])
    target, unit = float(equal["target"].iloc[0]) if len(equal) else None, metric_unit(result)
    effect, damage, kl = f"effect ({unit})", "damage (nats)", "KL (nats)"
    panels = [
        Panel("Damage against effect", _traded(table, "remedy", "effect", "damage", (effect, damage), target)),
        Panel("Disturbance against effect", _traded(table, "remedy", "effect", "kl", (effect, kl), target)),
    ]
    rows = [
        [
            r.remedy,
            words.number(r.knob),
            *(_open(r, name, "not reached" if r.knob != r.knob else "–") for name in ("damage", "kl")),
            words.number(r.error),
            "–" if r.remedy == "addition" else _open(r, "gain", "–"),
            words.percent(r.reached),
        ]
        for r in records(equal)
    ]
    titles = ["way", "knob", "damage at equal effect (nats)", "KL there", "error of the interpolation (nats)"]
    titles += ["less than addition by (nats)", "resamples that reach it"]
    given = "" if target is None else f" ({words.signed(target)} {unit}, dashed)"
    text = (
        f"All ways at the same effect, that of the injection as given{given}: lower is better. Knobs were added where "
        "the effect is reached, until the damage there moved by little: the error. The last interval is over the same "
        "draws of prompts and text for both, its level corrected over the remedies."
    )
    return Section("Remedies", [text], panels, table=Table(titles, rows, frozenset(titles[1:])))


def _open(row: Any, name: str, otherwise: str) -> str:
    """A number with its interval, of which an end may be open."""
    value, low, high = (getattr(row, column) for column in (name, f"{name}_low", f"{name}_high"))
    if value != value:
        return otherwise
    known = words.finite(low) or words.finite(high)
    return words.number(value) + (open_ends(low, high) if known else "")


def _phase(result: Result) -> Section:
    table, panels = result.frames["phase"], []
    places = dict.fromkeys(table["place"])
    for place in places:
        own = table[table["place"] == place]
        layers = {layer: f"L{layer}" for layer in sorted(set(own["layer"]))}
        sizes = {c: words.number(c, 2) for c in sorted(set(own["coefficient"]), key=abs)}
        for column, title in (("effect", "effect"), ("kl", "disturbance")):

            def cell(r: Any, column: str = column) -> str:
                return words.short(getattr(r, column))

            look: dict[str, Any] = {"value": column, "cell": cell, "title": "coefficient"}
            look["towards"] = way(result) if column == "effect" else 1
            limit = float(table[column].abs().max()) or 1.0
            chart = grid(own, ("layer", "coefficient"), layers, sizes, _phase_hover, limit=limit, **look)
            panels.append(Panel(f"{str(place).capitalize()}: {title}", chart))
    for place in places:
        own = table[table["place"] == place]
        own = own.assign(layer=[f"L{n}" for n in own["layer"]])
        chart = _traded(own, "layer", "kl", "effect", ("KL (nats)", "effect"))
        panels.append(Panel(f"{str(place).capitalize()}: effect against disturbance", chart))
    text = (
        "The same vector at other layers and places. Effect along one direction of logits for all; disturbance in "
        "nats. In the last panels a line is a layer, from small coefficients to large: the upper left is the frontier."
    )
    return Section("Layers and places", [text], panels or [Panel("Phase", None, "not computed")])


def _phase_hover(r: Any) -> str:
    where = f"L{r.layer}, {words.number(r.coefficient)}"
    return f"{where}\neffect {words.signed(r.effect)}\nKL {words.number(r.kl)}"


def _inside(result: Result) -> Section:
    attention, committed = (of(result, "probes", quantity=name) for name in ("attention", "committed"))
    panels = [
        Panel(
            "Attention on the injected positions", _by(attention, lambda r: f"L{r.layer}", "share of attention", True)
        )
    ]

    def norm(r: Any) -> str:
        return "final" if r.at == "final" else f"L{r.layer} {r.at}"

    for where in ("injected", "later"):
        scale = _by(of(result, "probes", quantity="scale", where=where), norm, "over the clean run's", log=True)
        panels.append(Panel(f"What norms divide by, {where} positions", scale))
    stays = _by(committed, lambda r: "later positions", "layer")
    panels.append(Panel("Layer from which the most probable token stays", stays))
    text = (
        f"Later positions are those after the first injected one. Of more than {LINES} layers or norms some are drawn, "
        "evenly spaced; all are in the tables."
    )
    return Section("Inside the model", [text], panels)


def _by(
    table: pd.DataFrame, name: Callable[[Any], str], title: str, percent: bool = False, log: bool = False
) -> go.Figure | None:
    """A line for each name; of many, some that are evenly spaced, the first and the last among them."""
    if table.empty:
        return None
    found = [name(r) for r in records(table)]
    different = list(dict.fromkeys(found))
    shown = [different[round(i)] for i in np.linspace(0, len(different) - 1, min(LINES, len(different)))]
    groups = {n: table[[m == n for m in found]] for n in dict.fromkeys(shown)}
    chart = curves(groups, "", title=title, percent=percent)
    if log:
        chart.update_yaxes(type="log")
    return chart


def _completions(result: Result) -> Section:
    table, panels = result.frames["completions"], []
    for quantity, title in SURPRISE.items():
        series = {"completions": of(result, "completions", quantity=quantity)}
        look: dict[str, Any] = {"title": quantity, "percent": quantity != "surprise", "legend": False}
        panels.append(Panel(title, curves(series, "", **look) if len(table) else None, "none were asked for"))
    rows = [
        ["∞" if isinf(r.coefficient) else words.number(r.coefficient), r.prompt, r.completion]
        for r in records(result.frames["texts"].groupby("coefficient", sort=False).head(2))
    ]
    text = "Sampled (temperature 1, top-p 0.95) with the same random numbers at every coefficient."
    shown = Table(["coefficient", "prompt", "completion"], rows, frozenset(["coefficient"]))
    return Section("Completions", [text], panels, table=shown)


def _cache(result: Result) -> Section:
    table, panels = result.frames["cache"], []
    for quantity in ("surprise", "repeated"):
        own = of(result, "cache", quantity=quantity)
        if len(own):
            condition = [f"{r.run}, {'kept' if r.cache == 'kept' else 'hidden'}" for r in records(own)]
            chart = by_layer(own.assign(condition=condition, layer=own["token"]), "condition", quantity)
            chart.update_xaxes(title_text="first token of the window")
            panels.append(Panel(SURPRISE[quantity], chart))
    text = (
        "Generated tokens see the keys and values of the injected positions in the cache (kept), or do not (hidden). "
        "Hiding also hides the prompt's own tokens there; the clean run with them hidden says what that alone does."
    )
    surprise = table[(table["quantity"] == "surprise") & (table["token"] == table["token"].max())]
    last = [f"{r.run}, {r.cache}: {words.ranged(r)}" for r in records(surprise)]
    found = [f"Surprise in the last window, in nats: {'; '.join(last)}."] if last else []
    return Section("The cache of injected positions", [text, *found], panels or [Panel("Cache", None, "not computed")])


def _table(result: Result) -> Section:
    frame = result.frames["response"]
    ends = {inf: "∞", -inf: "−∞"}
    frame = frame.assign(coefficient=[ends.get(c, words.number(c)) for c in frame["coefficient"]])
    columns = ["outcome", "coefficient", "value", "low", "high", "reference", "reference_low", "reference_high"]
    return everything(frame, columns, "All coefficients", result)
