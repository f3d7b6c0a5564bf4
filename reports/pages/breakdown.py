"""The report of `breakdown`: why large coefficients break this model, or why they do not."""

from collections.abc import Callable
from math import inf, isinf
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.causes import causes
from steerscope.reports.figures.coefficient import curves
from steerscope.reports.figures.grid import grid
from steerscope.reports.figures.layers import by_layer, read
from steerscope.reports.figures.traded import traded
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, metric_unit, missing, page
from steerscope.reports.records import records
from steerscope.reports.sentences_breakdown import breakdown_sentences, regime, sign_of

CURVES = {
    "effect": "Effect",
    "damage": "Damage: loss on ordinary text",
    "kl": "Disturbance: KL to the clean run",
    "entropy": "Entropy of the prediction",
}
REGIMES = {
    "linear": "leaves the gradient by a tenth",
    "half": "half of the limit",
    "fluency": "costs 1% of perplexity",
    "safe": "largest safe coefficient",
}
LINES = 8  # in one figure
OFF = (
    "Beyond the fluent regime a run is off the model's manifold: what stands here explains the breakage, not the "
    "behaviour."
)


def breakdown_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "The limits at plus and minus infinity are runs of their own, not extrapolations: as the coefficient "
        "grows, every norm at an injected "
        "position sees only the direction of the vector, and what later layers write there vanishes beside it.",
        "Damage is the loss on the prompts' own tokens after the injection, above that of the clean run. It "
        "and the effect are means over scored "
        "positions, then over prompts; intervals resample prompts.",
        OFF,
    ]
    sections = [
        _response(result),
        _regimes(result),
        _limits(result),
        _causes(result),
        _angles(result),
        _remedies(result),
        _phase(result),
        _inside(result),
        _completions(result),
        _cache(result),
        *_lens(result),
        _table(result),
    ]
    return page(
        result,
        "What does a large coefficient of {vector} do to {model}?",
        "exact runs, the limits among them",
        breakdown_sentences(result),
        sections,
        text=text,
    )


def _named(result: Result, outcome: str) -> pd.DataFrame:
    table = result.frames["response"]
    return table[table["outcome"] == outcome]


def _response(result: Result) -> Section:
    sign = sign_of(result)
    safe, half = regime(result, "safe", sign), regime(result, "half", sign)
    panels = []
    for outcome, title in CURVES.items():
        rows = _named(result, outcome)
        marked = {"safe": safe} if outcome == "damage" else {"half": half} if outcome == "effect" else {}
        marks = {
            name: sign * row.coefficient
            for name, row in marked.items()
            if row is not None and row.coefficient == row.coefficient
        }
        unit = metric_unit(result) if outcome == "effect" else "nats"
        series = {"this vector": rows}
        if outcome == "damage" and len(_named(result, "damage_on_topic")):
            series["on-topic text"] = _named(result, "damage_on_topic")
        panels.append(
            Panel(
                title,
                curves(series, unit, title=outcome, control=rows, marks=marks) if len(rows) else None,
                "not computed",
            )
        )
    overflow = result.manifest.get("missing", {}).get("overflow")
    text = [
        (
            "Bands are intervals over prompts, grey is the band of random vectors of equal norm. Diamonds are the "
            "exact limits."
        )
    ]
    return Section("Response", text + ([f"Left out: {overflow}."] if overflow else []), panels)


def _regimes(result: Result) -> Section:
    rows = [
        [
            REGIMES.get(r.regime, str(r.regime)),
            "plus" if r.sign > 0 else "minus",
            words.number(r.coefficient) + words.between(r.low, r.high) if r.coefficient == r.coefficient else "never",
            words.percent(r.reached),
        ]
        for r in records(result.frames["regimes"])
    ]
    titles = ["regime", "sign", "size of the coefficient", "resamples in which it happens"]
    table = result.frames["predictions"]
    text = ["Where the curves cross a threshold for the first time, straight between the coefficients that were run."]
    if len(table):
        named = [
            (
                f"{words.number(r.predicted)}{words.between(r.low, r.high)} "
                f"({'the final norm' if r.norm == 'final' else f'L{r.layer} {r.norm}'})"
            )
            for r in records(table)
        ]
        text.append(
            "From norms alone, an injected stream has turned halfway to the vector where the coefficient times "
            "its length is the stream's: at "
            f"{words.listing(named)}."
        )
    return Section("Regimes", text, table=Table(titles, rows, frozenset(titles[2:])))


def _limits(result: Result) -> Section:
    table, unit = result.frames["limits"], metric_unit(result)
    if table.empty:
        return Section("At infinity", [], [Panel("Limits", None, missing(result, "limit"))])
    rows = []
    for (sign, seen), own in table.groupby(["sign", "seen"], sort=False):
        by = {r.outcome: r for r in records(own)}
        cells = [
            words.number(by[o].value) + words.between(by[o].low, by[o].high) if o in by else "–"
            for o in ("effect", "damage", "kl", "entropy")
        ]
        rows.append(["plus" if sign == 1 else "minus", "see them" if seen else "do not", *cells])
    titles = ["infinity", "later positions", f"effect ({unit})", "damage (nats)", "KL (nats)", "entropy (nats)"]
    text = (
        "The exact limits, with later positions attending to the injected ones and without: the difference is what "
        "attention carries."
    )
    return Section("At infinity", [text], table=Table(titles, rows, frozenset(titles[2:])))


def _causes(result: Result) -> Section:
    table, title = result.frames["causes"], "What breaks it"
    if table.empty:
        return Section(title, [], [Panel("Causes", None, missing(result, "causes"))])
    c = result.manifest.get("broken_at")
    text = [
        f"At {words.number(c)}, every subset of the mechanisms undone. What goes alone need not add up, since "
        "mechanisms overlap; Shapley shares, with "
        "what is left when all are undone, add up to all of the damage. Hiding the injected positions also "
        "hides the prompt's own tokens there.",
        OFF,
    ]
    nodes = table[table["kind"] == "node"]
    rows = [
        [
            r.cause,
            f"{words.percent(r.gone)}{words.between(r.gone_low, r.gone_high, words.percent)}",
            f"{words.percent(r.effect)}{words.between(r.effect_low, r.effect_high, words.percent)}",
        ]
        for r in records(nodes)
    ]
    titles = ["node set back to clean", "damage that goes", "steering that stays"]
    return Section(title, text, [Panel("Mechanisms", causes(table))], table=Table(titles, rows, frozenset(titles[1:])))


def _angles(result: Result) -> Section:
    table = result.frames["angles"]
    panels = []
    for column, title in (("effect", "Effect"), ("damage", "Damage")):
        series = {
            str(way): table[table["way"] == way]
            .drop(columns=["damage", "effect"])
            .assign(
                value=table[table["way"] == way][column],
                low=table[table["way"] == way][f"{column}_low"],
                high=table[table["way"] == way][f"{column}_high"],
            )
            for way in dict.fromkeys(table["way"])
        }
        unit = metric_unit(result) if column == "effect" else "nats"
        panels.append(Panel(title, curves(series, unit, title=column) if series else None, "not computed"))
    turn = table[table["way"] == "addition"]
    if len(turn):
        panels.append(
            Panel(
                "Effect by angle",
                traded(
                    table[table["way"] != "stretch"],
                    "way",
                    "angle",
                    "effect",
                    ("angle that streams turn (degrees)", f"effect ({metric_unit(result)})"),
                ),
            )
        )
        panels.append(
            Panel(
                "Damage by angle",
                traded(
                    table[table["way"] != "stretch"],
                    "way",
                    "angle",
                    "damage",
                    ("angle that streams turn (degrees)", "damage (nats)"),
                ),
            )
        )
    text = (
        "An injection turns each stream and lengthens it. Same norm: the turn alone. Stretch: the length alone, "
        "without turning."
    )
    return Section("Turn and stretch", [text], panels)


def _remedies(result: Result) -> Section:
    table, equal = result.frames["remedies"], result.frames["equal_effect"]
    if table.empty:
        return Section("Remedies", [], [Panel("Remedies", None, "not computed")])
    target = float(equal["target"].iloc[0]) if len(equal) else None
    unit = metric_unit(result)
    panels = [
        Panel(
            "Damage against effect",
            traded(table, "remedy", "effect", "damage", (f"effect ({unit})", "damage (nats)"), target),
        )
    ]
    panels.append(
        Panel(
            "Disturbance against effect",
            traded(table, "remedy", "effect", "kl", (f"effect ({unit})", "KL (nats)"), target),
        )
    )
    rows = [
        [
            r.remedy,
            words.number(r.damage) + words.between(r.damage_low, r.damage_high)
            if r.damage == r.damage
            else "not reached",
            words.number(r.kl) + words.between(r.kl_low, r.kl_high) if r.kl == r.kl else "–",
            words.percent(r.reached),
        ]
        for r in records(equal)
    ]
    titles = ["way", "damage at equal effect (nats)", "KL there", "resamples that reach it"]
    text = (
        f"All ways at the same effect, that of the injection as given ({words.signed(target)} {unit}, dashed): "
        "lower is better."
    )
    return Section("Remedies", [text], panels, table=Table(titles, rows, frozenset(titles[1:])))


def _phase(result: Result) -> Section:
    table, panels = result.frames["phase"], []
    for place in dict.fromkeys(table["place"]):
        for column, title in (("effect", "effect"), ("kl", "disturbance")):
            own = table[table["place"] == place]
            layers, sizes = sorted(set(own["layer"])), sorted(set(own["coefficient"]), key=abs)
            limit = float(table[column].abs().max()) or 1.0
            z = np.full((len(layers), len(sizes)), np.nan)
            text, hover = np.full(z.shape, "", dtype=object), np.full(z.shape, "", dtype=object)
            for r in records(own):
                spot = layers.index(r.layer), sizes.index(r.coefficient)
                z[spot] = value = getattr(r, column)
                text[spot] = words.short(value)
                hover[spot] = (
                    f"L{r.layer}, {words.number(r.coefficient)}<br>effect {words.signed(r.effect)}<br>KL "
                    f"{words.number(r.kl)}"
                )
            panels.append(
                Panel(
                    f"{str(place).capitalize()}: {title}",
                    grid(
                        z,
                        [f"L{n}" for n in layers],
                        [words.number(c, 2) for c in sizes],
                        hover,
                        limit=limit,
                        text=text,
                        title="coefficient",
                    ),
                )
            )
    for place in dict.fromkeys(table["place"]):
        own = table[table["place"] == place].assign(layer=[f"L{n}" for n in table[table["place"] == place]["layer"]])
        panels.append(
            Panel(
                f"{str(place).capitalize()}: effect against disturbance",
                traded(own, "layer", "kl", "effect", ("KL (nats)", "effect")),
            )
        )
    text_ = (
        "The same vector at other layers and places. Effect along one direction of logits for all; disturbance "
        "in nats. In the last panels a line is a "
        "layer, from small coefficients to large: the upper left is the frontier."
    )
    return Section("Layers and places", [text_], panels or [Panel("Phase", None, "not computed")])


def _inside(result: Result) -> Section:
    table = result.frames["probes"]
    panels = []
    attention = table[table["quantity"] == "attention"]
    panels.append(
        Panel(
            "Attention on the injected positions", _by(attention, lambda r: f"L{r.layer}", "share of attention", True)
        )
    )
    for where in ("injected", "later"):
        scale = table[(table["quantity"] == "scale") & (table["where"] == where)]
        panels.append(
            Panel(
                f"What norms divide by, {where} positions",
                _by(
                    scale,
                    lambda r: "final" if r.at == "final" else f"L{r.layer} {r.at}",
                    "over the clean run's",
                    False,
                    True,
                ),
            )
        )
    committed = table[table["quantity"] == "committed"]
    panels.append(
        Panel(
            "Layer from which the most probable token stays",
            _by(committed, lambda r: "later positions", "layer", False),
        )
    )
    return Section(
        "Inside the model",
        [
            (
                f"Later positions are those after the first injected one. Of more than {LINES} layers or norms "
                "some are drawn, evenly spaced; all are in the tables."
            )
        ],
        panels,
    )


def _by(
    table: pd.DataFrame, name: Callable[[Any], str], title: str, percent: bool, log: bool = False
) -> go.Figure | None:
    """A line for each name; of many, some that are evenly spaced, the first and the last among them."""
    if table.empty:
        return None
    names = [name(r) for r in records(table)]
    different = list(dict.fromkeys(names))
    shown = [different[round(i)] for i in np.linspace(0, len(different) - 1, min(LINES, len(different)))]
    groups = {n: table[[m == n for m in names]] for n in dict.fromkeys(shown)}
    chart = curves(groups, "", title=title, percent=percent)
    if log:
        chart.update_yaxes(type="log")
    return chart


def _completions(result: Result) -> Section:
    table, texts = result.frames["completions"], result.frames["texts"]
    names = {
        "surprise": "Surprise under the clean model (nats a token)",
        "repeated": "Runs of four tokens that repeat",
        "distinct": "Different pairs of tokens",
    }
    panels = [
        Panel(
            title,
            curves({"completions": table[table["quantity"] == q]}, "", title=q, percent=q != "surprise", legend=False)
            if len(table)
            else None,
            "none were asked for",
        )
        for q, title in names.items()
    ]
    rows = [
        ["∞" if isinf(r.coefficient) else words.number(r.coefficient), r.prompt, r.completion]
        for r in records(texts.groupby("coefficient", sort=False).head(2))
    ]
    text = "Sampled (temperature 1, top-p 0.95) with the same random numbers at every coefficient."
    return Section(
        "Completions",
        [text],
        panels,
        table=Table(["coefficient", "prompt", "completion"], rows, frozenset(["coefficient"])),
    )


def _cache(result: Result) -> Section:
    table, panels = result.frames["cache"], []
    names = {"surprise": "Surprise under the clean model (nats a token)", "repeated": "Runs of four tokens that repeat"}
    for quantity, title in names.items():
        own = table[table["quantity"] == quantity]
        if len(own):
            own = own.assign(
                condition=[f"{r.run}, {'kept' if r.cache == 'kept' else 'hidden'}" for r in records(own)],
                layer=own["token"],
            )
            chart = by_layer(own, "condition", quantity)
            chart.update_xaxes(title_text="first token of the window")
            panels.append(Panel(title, chart))
    text = (
        "Generated tokens see the keys and values of the injected positions in the cache (kept), or do not "
        "(hidden). Hiding also hides the "
        "prompt's own tokens there; the clean run with them hidden says what that alone does."
    )
    surprise = table[(table["quantity"] == "surprise") & (table["token"] == table["token"].max())]
    last = [f"{r.run}, {r.cache}: {words.number(r.value)}{words.between(r.low, r.high)}" for r in records(surprise)]
    found = [f"Surprise in the last window, in nats: {'; '.join(last)}."] if last else []
    return Section("The cache of injected positions", [text, *found], panels or [Panel("Cache", None, "not computed")])


def _lens(result: Result) -> list[Section]:
    table, tokens = result.frames["lens"], result.frames["tokens"]
    about = result.manifest.get("lens", {})
    text = (
        f"Seen through the {about.get('name', 'lens')}: what the stream before each layer would predict. A "
        "lens is trained on ordinary text, so on "
        "streams far from it says less."
    )
    return lens_sections(table, tokens, text)


def lens_sections(table: pd.DataFrame, tokens: pd.DataFrame, text: str) -> list[Section]:
    """Entropy and divergences by layer, then every layer and position of one prompt in each run."""
    title = "Prediction trajectories"
    if table.empty:
        return [Section(title, [], [Panel("Lens", None, "not computed")])]
    last = int(table["layer"].max())
    names = {
        "kl_final": "KL of the final prediction (later positions, nats)",
        "kl_clean": "KL from the clean run (later positions, nats)",
        "entropy": "Entropy (later positions, nats)",
        "neighbours": "Divergence between neighbouring positions (nats)",
    }
    later = table[table["where"] == "later"]
    panels = [
        Panel(title, by_layer(later[later["quantity"] == q], "run", q.replace("_", " "), last))
        for q, title in names.items()
    ]
    largest = float(tokens["entropy"].max()) if len(tokens) else 1.0
    sections = [Section(title, [text], panels)]
    for run in dict.fromkeys(tokens["run"]):
        shown = read(tokens[tokens["run"] == run], largest)
        sections.append(Section("", [], [Panel(f"Most probable next token, {run}", shown)]))
    return sections


def _table(result: Result) -> Section:
    frame = result.frames["response"]
    frame = frame.assign(
        coefficient=["∞" if c == inf else "−∞" if c == -inf else words.number(c) for c in frame["coefficient"]]
    )
    columns = ["outcome", "coefficient", "value", "low", "high", "control", "control_low", "control_high"]
    return everything(frame, columns, "All coefficients", result)
