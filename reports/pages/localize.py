"""The report of `localize`: which heads and MLPs carry an injection's effect."""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.disturbance import disturbance
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.figures.reach import reach
from steerscope.reports.figures.tokens import tokens
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.attention import attention_section, attention_sentences
from steerscope.reports.pages.common import everything, metric_unit, missing, page
from steerscope.reports.pages.writers import writers_section, writers_sentences
from steerscope.reports.records import records

MEASURES = {
    "necessity": "Necessity: effect lost when the node is set back to clean",
    "sufficiency": "Sufficiency: effect that appears from this node alone",
}
INFLUENT = 0.5  # nats a token above the clean model's own completions
READING = [
    "Necessity asks what is lost without the node, sufficiency what it brings alone; both are exact forward "
    "passes, and everything "
    "downstream reacts. They differ where nodes back each other up (small necessity) or act only together "
    "(small sufficiency).",
    (
        "Nodes patched together are not the sum of single nodes. Nodes before the injection cannot be reached and "
        "are zero."
    ),
    "A node is significant when its effect differs from zero and goes beyond the mean control in the same "
    "direction, by sign-flip "
    "tests over prompts, corrected over nodes. Sentences at the top of this page use Holm's correction.",
]


def localize_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    headline = [*words.headline(result), *writers_sentences(result), *attention_sentences(result)]
    sections = [
        _maps(result),
        _ranking(result),
        _reach(result),
        writers_section(result),
        attention_section(result),
        _disturbance(result),
        _tokens(result),
        _completions(result),
        _prompts(result),
        _table(result),
    ]
    return page(
        result,
        "Who carries {vector} in {model}?",
        "exact patching of every head and MLP",
        headline,
        sections,
        _glance(result),
        READING,
        beyond_fluency(result),
    )


def beyond_fluency(result: Result) -> list[str]:
    """A warning where steered completions surprise the clean model much more than its own do."""
    table = result.frames["completions"]
    if "steered_surprise" not in table or table.empty:
        return []
    clean, steered = (float(table[f"{run}_surprise"].mean()) for run in ("clean", "steered"))
    if not steered - clean > INFLUENT:
        return []
    return [
        "The injection is beyond the fluent regime: steered completions surprise the clean model by "
        f"{words.number(steered)} nats a token, its own by "
        f"{words.number(clean)}. What carries it here explains the breakage rather than the behaviour; see "
        "steerscope breakdown for smaller coefficients."
    ]


def _measure(result: Result, name: str) -> pd.DataFrame:
    table = result.frames["effects"]
    return table[table["measure"] == name]


def _glance(result: Result) -> list[tuple[str, str, str]]:
    totals, manifest = result.frames["totals"].set_index("quantity"), result.manifest
    total, kl = totals.loc["total"], totals.loc["kl"]
    stability = manifest.get("stability", {})
    jaccard = stability.get("jaccard")
    controls = manifest.get("controls", {})
    return [
        (
            "total effect",
            f"{words.signed(total['value'])} {total['unit']}",
            (
                f"interval{words.between(total['low'], total['high'])}; controls "
                f"{words.signed(total['control'])}{words.between(total['control_low'], total['control_high'])}"
            ),
        ),
        (
            "disturbance",
            f"{words.number(kl['value'])} nats",
            (
                f"KL to the clean run{words.between(kl['low'], kl['high'])}; controls "
                f"{words.number(kl['control'])}{words.between(kl['control_low'], kl['control_high'])}"
            ),
        ),
        (
            "carriers together",
            words.percent(totals.loc["carriers_necessity", "share"]),
            "of the effect lost when all significant nodes are set back at once",
        ),
        ("wrong way", words.percent(total["wrong_way"]), "of the prompts move against the mean effect"),
        ("stability", "–" if jaccard is None else f"{jaccard:.2f}", _stability(stability)),
        (
            "controls",
            str(controls.get("count", "–")),
            f"random vectors of equal {controls.get('matched', 'norm')}, position by position",
        ),
    ]


def _stability(stability: Any) -> str:
    if stability.get("jaccard") is None:
        return str(stability.get("note", ""))
    low, high = stability["low"], stability["high"]
    return f"Jaccard overlap of the carriers on resampled prompts [{low:.2f}, {high:.2f}]; 0.8 is the field's bar"


def _maps(result: Result) -> Section:
    limit = float(result.frames["effects"]["effect"].abs().max()) or 1.0
    unit = metric_unit(result)
    panels = [Panel(title, heatmap(_measure(result, name), unit, limit)) for name, title in MEASURES.items()]
    text = (
        f"Effects in {unit}; orange carries the effect, blue works against it. Bold and full colour (or a dot) "
        "is significant after "
        f"Benjamini-Hochberg at {result.manifest.get('alpha', 0.05):g}; everything else is muted. Point at a "
        "cell for its interval and control."
    )
    return Section("Heads by layers", [text], panels)


def _ranking(result: Result) -> Section:
    table = result.frames["effects"]
    columns = ["low", "high", "control_low", "control_high", "effect"]
    low, high = float(table[columns].min().min()), float(table[columns].max().max())
    margin = 0.05 * (high - low or 1.0)
    limits = (low - margin, high + margin)
    panels = [
        Panel(name.capitalize(), ranking(_measure(result, name), metric_unit(result), limits)) for name in MEASURES
    ]
    text = (
        "The strongest nodes with their intervals over prompts. The grey band is where the same measure falls "
        "for random vectors of "
        "equal norm. Open circles are not significant. Effects of different layers do not add up to the total: "
        "an early node acts through later ones."
    )
    return Section("Ranked carriers", [text], panels)


def _reach(result: Result) -> Section:
    text = (
        "Each vector, real or random, has its own change of the logits. On the dotted line a node carries the "
        "same share of this "
        "vector's change as of any other vector's: it carries whatever is put there. Above the line it is "
        "specific to this vector."
    )
    if not result.manifest.get("controls", {}).get("count", 0):
        return Section("Specific or general", [text], [Panel("Necessity", None, missing(result, "controls"))])
    return Section(
        "Specific or general", [text], [Panel(name.capitalize(), reach(_measure(result, name))) for name in MEASURES]
    )


def _disturbance(result: Result) -> Section:
    text = (
        "Disturbance is not steering: a random vector of equal norm can change the output as much or more. "
        "What counts is how far the "
        "steering vector stands above the grey points at a like disturbance."
    )
    return Section(
        "Effect and disturbance",
        [text],
        [Panel("One point a vector", disturbance(result.frames["vectors"], metric_unit(result)))],
    )


def _tokens(result: Result) -> Section:
    table = result.frames["tokens"]
    if table.empty:
        panel = Panel("Next token", None, "the injection does not change the next token after these prompts")
        return Section("The next token after the prompts", [], [panel])
    names = {"gain": "More probable", "loss": "Less probable"}
    panels = [Panel(name, tokens(table, side)) for side, name in names.items() if (table["side"] == side).any()]
    text = "Mean probability over the prompts, clean → steered; contributions to the divergence on hover."
    return Section("The next token after the prompts", [text], panels)


def _completions(result: Result) -> Section:
    table = result.frames["completions"]
    title = "A few completions"
    if table.empty:
        return Section(title, [f"Missing: {missing(result, 'completions')}."])
    rows = [[r.text, r.clean, r.steered] for r in records(table)]
    text = ["Sampled with the same random numbers; only the prompt's own positions are injected."]
    clean, steered = (
        float(table[f"{run}_surprise"].mean()) if f"{run}_surprise" in table else float("nan")
        for run in ("clean", "steered")
    )
    if steered == steered:
        text.append(
            f"Loss under the clean model, in nats a token: clean completions {words.number(clean)}, steered "
            f"{words.number(steered)}."
        )
    return Section(title, text, table=Table(["prompt", "clean", "steered"], rows))


def _prompts(result: Result) -> Section:
    table, unit = result.frames["prompts"], metric_unit(result)
    mean = table["effect"].mean()
    rows = [
        [
            r.text,
            str(r.tokens),
            words.number(r.clean),
            words.number(r.steered),
            words.signed(r.effect),
            words.number(r.kl),
        ]
        for r in records(table)
    ]
    columns = ["prompt", "tokens", f"clean ({unit})", f"steered ({unit})", f"effect ({unit})", "KL (nats)"]
    wrong = frozenset(i for i, e in enumerate(table["effect"]) if e * mean < 0)
    scored = result.manifest.get("metric", {}).get("scored", "")
    text = [f"Scored: {scored}."] if scored else []
    text += ["Coloured rows move against the mean effect."] if wrong else []
    return Section(
        f"Prompts ({len(table)})", text, table=Table(columns, rows, frozenset(columns[1:]), wrong), folded=True
    )


def _table(result: Result) -> Section:
    columns = [
        "node",
        "measure",
        "effect",
        "low",
        "high",
        "share",
        "control",
        "p_adjusted",
        "p_holm",
        "own_share",
        "own_control",
        "reach",
        "wrong_way",
        "stability",
    ]
    return everything(result.frames["effects"], columns, "All nodes", result)
