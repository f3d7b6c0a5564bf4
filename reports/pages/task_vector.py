"""The report of learned weights against an added vector."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.over_seeds import common_unit, over_seeds
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, framed, legend, model_name
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import axis

OWN = "task vector"


@drawing
def headline(result: Result) -> list[str]:
    """Losses and cosines of the task vector, and against the activation vector."""
    topic, level = result.manifest["topic"], float(result.manifest.get("level", 0.95))
    own = [row for row in records(result.frames["arms"]) if str(row.arm).startswith(OWN)]
    found, on, off = [], _of(own, "on topic"), _of(own, "off topic")
    if on and off:
        found.append(
            f"At a KL of {words.number(result.manifest['kl'])} nats, weights that learned more about {topic} change "
            f"the loss of {topic} stories by {_value(on)} and that of other stories by {_value(off)}."
        )
    cosine, seeds = _of(own, "cosine with the activation vector"), _of(own, "cosine with task vectors")
    if cosine and seeds and words.finite(cosine.value):
        found.append(
            f"Their change of the logits has a cosine of {_value(cosine)} with that of the activation vector, and of "
            f"{_value(seeds)} with those of other seeds of fine-tuning."
        )
    for row in records(result.frames["differences"]):
        if not str(row.measure).startswith("on topic"):
            continue
        told = words.finite(row.p) and row.p < 1 - level
        less = "less" if row.difference < 0 else "more"
        found.append(
            f"Against the {row.against}, the loss on the topic is {words.number(abs(row.difference))} nats {less}"
            f"{words.between(row.low, row.high)}."
            if told
            else f"Against the {row.against}, no difference of the loss on the topic is told{_interval(row)}."
        )
    return found


def _of(rows: list[Any], measure: str) -> Any:
    """The first row of a measure; none where there is none."""
    return next((row for row in rows if str(row.measure).startswith(measure)), None)


def _value(row: Any) -> str:
    return words.ranged(row, "value", words.signed if row.unit else words.number, row.unit)


def _interval(row: Any) -> str:
    return f" ({words.ranged(row, 'difference', words.signed)})" if words.finite(row.difference) else ""


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    recipe = result.manifest["recipe"]
    subtitle = (
        f"{recipe['seeds']} seeds of {recipe['steps']} steps · every change disturbs by "
        f"{words.number(result.manifest['kl'])} nats"
    )
    missing = [f"{name}: {why}" for name, why in result.manifest["missing"].items()]
    text = [
        "All changes are scaled to the same disturbance of openings that name no topic. Bars are intervals over seeds "
        "of fine-tuning, or over random vectors; the activation vector is one, and has none. Model, stories and "
        "openings are the same for all."
    ]
    arms = result.frames["arms"]
    panels = [Panel(str(measure), _points(rows)) for measure, rows in arms.groupby("measure", sort=False)]
    title = f"Learned weights or an added vector: {result.manifest['topic']} in {model_name(result)}"
    sections = [
        Section("Beside each other", [*text, *missing], panels),
        _table(result),
        legend(result, []),
        everything(result.frames["runs"], list(result.columns["runs"]), "All runs", result),
    ]
    return framed(result, title, subtitle, headline(result), sections)


def _points(rows: pd.DataFrame) -> go.Figure:
    chart = over_seeds(rows, "arm", [name == OWN for name in rows["arm"]], 190)
    chart.update_xaxes(axis(common_unit(rows)), zeroline=True)
    return chart


def _table(result: Result) -> Section:
    measures = list(dict.fromkeys(result.frames["arms"]["measure"]))
    rows = []
    for arm, own in result.frames["arms"].groupby("arm", sort=False):
        by = {r.measure: words.ranged(r, "value") for r in records(own)}
        rows.append([str(arm), str(own["seeds"].max()), *(by.get(m, "–") for m in measures)])
    titles = ["change", "seeds", *map(str, measures)]
    return Section("All changes", [], table=Table(titles, rows, frozenset(titles[1:])))
