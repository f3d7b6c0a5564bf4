"""The report of the study of variants: what differs from the base over seeds, and what could have been told at all."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.over_seeds import common_unit, over_seeds
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, framed, legend, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import NEUTRAL, axis

TITLES = {
    "effect": "Effect where as much is added as there is",
    "per_norm": "Effect for each unit of norm",
    "mlp_share": "Share of the effect through the MLPs",
    "nodes": "Nodes that carry 80% of the effect",
    "safe_front": "Largest safe size, added at the front",
    "safe_all": "Largest safe size, added at all positions",
}
SENTENCES = 6


@drawing
def headline(result: Result) -> list[str]:
    """What is told from the base; and the smallest differences that could have been."""
    apart, count = result.frames["differences"], _seeds(result)
    told = apart[apart["told"].astype(bool)]
    tests = len(apart)
    if told.empty:
        found = [f"With {count} seeds a variant none of {tests} differences from the base is told from chance."]
    else:
        found = [_sentence(row) for row in list(records(told.sort_values("p_holm")))[:SENTENCES]]
        more = f"; the {len(found)} surest stand above" if len(told) > len(found) else ""
        found.append(f"Of {tests} differences from the base {len(told)} are told from chance{more}.")
    return [*found, *_could(result)]


def _sentence(row: Any) -> str:
    return (
        f"{row.variant}: {_lower(row.measure)} {_difference(row)} against the base, {words.p_value(row.p_holm)} (Holm)."
    )


def _difference(row: Any, name: str = "difference") -> str:
    """A ratio as a factor; any other difference with its sign and unit."""
    if row.unit == "times":
        return f"× {words.ranged(row, name)}"
    if row.measure == "mlp_share":
        ends = words.between(100 * row.low, 100 * row.high, words.signed)
        return f"{words.signed(100 * getattr(row, name))} percentage points{ends}"
    return words.ranged(row, name, words.signed, row.unit)


def _lower(measure: str) -> str:
    title = TITLES.get(measure, measure)
    return title[:1].lower() + title[1:]


def _could(result: Result) -> list[str]:
    """The smallest difference that could have been told, by measure: the median over variants."""
    found = []
    for measure, rows in result.frames["differences"].groupby("measure", sort=False):
        value, unit = float(rows["smallest"].median()), str(rows["unit"].iloc[0])
        if not math.isfinite(value):
            continue
        said = f"a factor of {words.number(value)}" if unit == "times" else _plain(str(measure), value, unit)
        found.append(f"{_lower(str(measure))} {said}")
    if not found:
        return []
    return [
        f"The smallest differences that {_seeds(result)} seeds could have told (median over variants): "
        f"{'; '.join(found)}. Smaller ones may be there."
    ]


def _plain(measure: str, value: float, unit: str) -> str:
    if measure == "mlp_share":
        return f"{words.number(100 * value)} percentage points"
    return f"{words.number(value)} {unit}".strip()


def _seeds(result: Result) -> str:
    known = result.frames["models"].groupby("variant").size()
    low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
    return str(low) if low == high else f"{low} to {high}"


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    recipe = result.manifest["recipe"]
    subtitle = (
        f"{len(result.frames['models'])} models of {recipe['layers']} layers, width {recipe['width']}, "
        f"{recipe['steps']} steps each · {_seeds(result)} seeds a variant · {len(recipe['concepts'])} concepts"
    )
    sections = [
        Section("Each variant over seeds", [_HOW], [Panel(*panel) for panel in _panels(result)]),
        _table(result),
        _learned(result),
        Section("What these sizes can show", _limits(result)),
        legend(result, []),
        everything(result.frames["measured"], list(result.columns["measured"]), "All measurements", result),
    ]
    question = "Do activation, norm and order of attention and MLP matter for steering?"
    return framed(result, question, subtitle, headline(result), sections)


_HOW = (
    "Points are means over seeds, bars their intervals; the dashed line is the base (gelu, LayerNorm, attention before "
    "the MLP). Filled points are told from it after correction over all variants and measures."
)


def _panels(result: Result) -> list[tuple[str, go.Figure]]:
    return [
        (TITLES.get(str(measure), str(measure)), _points(result, rows, str(measure)))
        for measure, rows in result.frames["variants"].groupby("measure", sort=False)
    ]


def _points(result: Result, rows: pd.DataFrame, measure: str) -> go.Figure:
    apart = of(result, "differences", measure=measure)
    told = {str(v) for v, sure in zip(apart["variant"], apart["told"].astype(bool), strict=True) if sure}
    sure = [str(v) in told for v in rows["variant"]]
    chart = over_seeds(rows, "variant", sure, 84, symbol=["circle" if s else "circle-open" for s in sure])
    base = [v for v, name in zip(rows["value"], rows["variant"], strict=True) if name not in set(apart["variant"])]
    if base and words.finite(base[0]):
        chart.add_vline(x=float(base[0]), line_width=1, line_color=NEUTRAL, line_dash="dash")
    ratio = len(apart) and str(apart["unit"].iloc[0]) == "times"
    chart.update_xaxes(axis(f"{common_unit(rows)}{' (log scale)' if ratio else ''}"), type="log" if ratio else "linear")
    return chart


def _table(result: Result) -> Section:
    rows = [
        [
            str(r.variant),
            str(r.factor),
            TITLES.get(r.measure, str(r.measure)),
            _difference(r),
            words.p_value(r.p_holm),
            f"× {words.number(r.smallest)}" if r.unit == "times" else _plain(r.measure, r.smallest, r.unit),
        ]
        for r in records(result.frames["differences"])
    ]
    marked = frozenset(i for i, sure in enumerate(result.frames["differences"]["told"].astype(bool)) if sure)
    titles = ["variant", "differs in", "measure", "against the base", "corrected", "smallest that could be told"]
    text = ["Marked rows are told from chance. A difference below the last column could not have been, whatever it is."]
    return Section("Against the base", text, table=Table(titles, rows, marked=marked))


def _learned(result: Result) -> Section:
    """Whether the models are worth steering."""
    rows = []
    for variant, own in result.frames["models"].groupby("variant", sort=False):
        cells = [own["loss"], own["unigram"], own["told"], own["seconds"]]
        rows.append([str(variant), str(len(own)), *(_spread(values) for values in cells)])
    titles = ["variant", "seeds", "loss (nats per token)", "of frequencies alone", "topic told (nats)", "seconds"]
    text = [
        "Mean over seeds, smallest to largest in brackets. Loss is on held-out stories; topic told is how far a topic "
        "in the sentence before raises its own words over what another topic there does."
    ]
    return Section("What the models learned", text, table=Table(titles, rows, frozenset(titles[1:])))


def _spread(values: pd.Series) -> str:
    return f"{words.number(values.mean())} [{words.number(values.min())}, {words.number(values.max())}]"


def _limits(result: Result) -> list[str]:
    recipe, sizes = result.manifest["recipe"], result.manifest["sizes"]
    capped = result.frames["measured"]
    capped = capped[capped["measure"].isin(["safe_front", "safe_all"])]
    beyond = float((capped["value"] >= 0.999 * float(sizes[-1])).mean()) if len(capped) else math.nan
    return [
        f"The sample is of seeds: {len(recipe['concepts'])} concepts, {recipe['openings']} openings and the stories "
        "are the same for all models, so that an interval says nothing of other concepts, prompts or text. Models of "
        "one seed saw the same batches in the same order.",
        f"The models have {recipe['layers']} layers and {recipe['width']} dimensions, and learned "
        f"{recipe['steps']:,} steps of {recipe['batch']} windows of {recipe['context']} tokens of a grammar's stories. "
        "What holds for them need not hold for models that are larger, trained longer, or on what people write; with "
        "another learning rate for each variant differences may be others.",
        f"Safe sizes stop at {words.number(sizes[-1])} sizes of the stream: {words.percent(beyond)} of all measured "
        "ones are not smaller, so that means of these are lower bounds and their differences are too small.",
        "solu is x softmax(x) alone; the LayerNorm behind it, with which Elhage et al. 2022 train, would be a second "
        "change (solu_ln can be trained with `tinystories train`).",
    ]
