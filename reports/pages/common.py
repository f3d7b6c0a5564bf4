"""What the pages of several kinds of result share: failed checks, the manifest, how to reproduce, the legend."""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.heatmap import Hover, heatmap
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.records import largest, records

ROWS = 20_000  # of a frame that a page carries along as CSV
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def layout(
    result: Result,
    question: str,
    method: str,
    headline: Sequence[str],
    sections: Sequence[Section],
    glance: Sequence[tuple[str, str, str]] = (),
    text: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Page:
    """A page with what all have: title, injection, warnings, legend, checks, manifest, command.

    Args:
        question: the title; `{vector}` and `{model}` stand for theirs.
        method: how it was answered.
        text: paragraphs on how to read the page.
        warnings: what a reader must know first, beside checks that failed.
    """
    manifest = result.manifest
    labels = list(dict.fromkeys(i["vector"]["label"] for i in manifest.get("injections", []))) or ["the vector"]
    count = manifest.get("prompts", {}).get("count", "?")
    return framed(
        result,
        question.format(vector=words.listing(words.some(labels)), model=model_name(result)),
        f"{words.injection(manifest)} · {count} prompts · {metric_name(manifest)} · {method}",
        headline,
        [*sections, legend(result, [*text, *_held(manifest)])],
        glance,
        warnings,
    )


HELD = (
    "What operations other than addition do is held here: what each changes in the steered run is kept as an addition, "
    "whatever else is changed."
)
ALIKE = (
    "Reference vectors are put in by the same operation with the same coefficient. Their norms are those of the "
    "vector; how much they change the stream is not made equal."
)


def _held(manifest: Any) -> list[str]:
    """What a reader must know of operations other than addition."""
    others = any(one.get("operation", "add") != "add" for one in manifest.get("injections", []))
    alike = [ALIKE] * bool(others and manifest.get("references", {}).get("count"))
    return [HELD] * bool(manifest.get("held")) + alike


def framed(
    result: Result,
    title: str,
    subtitle: str,
    headline: Sequence[str],
    sections: Sequence[Section],
    glance: Sequence[tuple[str, str, str]] = (),
    warnings: Sequence[str] = (),
) -> Page:
    """The frame around the sections of any page: failed checks above, or in the section that they concern; checks,
    manifest and command below.
    """
    manifest = result.manifest
    titles = {section.title for section in sections}
    device = manifest.get("model", {}).get("device")
    sections = [replace(s, warnings=[*failed_checks(manifest, only=s.title), *s.warnings]) for s in sections]
    return Page(
        title,
        subtitle,
        list(headline),
        warnings=[*failed_checks(manifest, but=titles), *manifest.get("warnings", []), *warnings],
        glance=list(glance),
        sections=[*sections, checks(manifest), whole_manifest(manifest), reproduce(manifest)],
        footer=f"steerscope {manifest.get('versions', {}).get('steerscope', '')} · {manifest.get('created', '')} · "
        f"{words.number(manifest.get('seconds', math.nan))} seconds" + (f" on {device}" if device else ""),
    )


def model_name(result: Result) -> str:
    """The model's name."""
    return str(result.manifest.get("model", {}).get("name", "the model"))


def of(result: Result, frame: str, **values: Any) -> pd.DataFrame:
    """Rows of a frame in which columns have these values."""
    table = result.frames[frame]
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def shares(rows: pd.DataFrame, most: int) -> list[str]:
    """Names of the largest, each with its share of the effect."""
    return [f"{r.node} ({words.percent(r.share)})" for r in records(largest(rows, most))]


def opponents(named: Sequence[str]) -> str:
    """What works against the effect, as the end of a sentence; nothing where nothing does."""
    return f"; working against it: {words.listing(words.some(named))}" if named else ""


def everything(frame: pd.DataFrame, columns: Sequence[str], title: str, result: Result) -> Section:
    """A folded table with buttons that save all tables of the result."""
    rows = [[cell(row[c]) for c in columns] for _, row in frame[list(columns)].iterrows()]
    numeric = frozenset(c for c in columns if pd.api.types.is_numeric_dtype(frame[c]))
    downloads = {f"{name}.csv": table for name, table in result.frames.items()}
    text = ["A click on a heading sorts. The buttons save the tables as CSV."]
    return Section(title, text, table=Table(columns, rows, numeric), folded=True, download=downloads)


def saved(result: Result) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """What the buttons of a page save, by file name, and a word where that is not all."""
    notes = [
        f"{name}.csv holds the first {ROWS:,} of {len(table):,} rows; all of them are in {name}.parquet of the run's "
        "folder."
        for name, table in result.frames.items()
        if len(table) > ROWS
    ]
    return {f"{name}.csv": table.head(ROWS) for name, table in result.frames.items()}, notes


def map_panel(name: str, table: pd.DataFrame, unit: str, describe: Hover, towards: int = 1) -> Panel:
    """A map whose numbers are multiplied where they are too small for two decimals."""
    limit = float(table["effect"].abs().max())
    power = 3 * math.ceil(math.log10(0.2 / limit) / 3) if 0 < limit < 0.2 else 0
    small = f"10{str(-power).translate(RAISED)} " if power else ""
    chart = heatmap(table, unit, limit, describe=describe, factor=10.0**power, bar=True, towards=towards)
    numbers = any(trace.mode == "text" for trace in chart.data if trace.type == "scatter")
    shown = f"{small if numbers else ''}{unit}".strip()
    return Panel(f"{name} ({shown})" if shown else name, chart)


def metric_name(manifest: Any) -> str:
    """The metric with its targets, and what they are compared with."""
    metric = manifest.get("metric", {})
    parts = [str(metric.get("name", "metric")).replace("_", " ")]
    for word, key in (("of", "targets"), ("against", "against")):
        named = metric.get(key)  # in words, where each prompt has its own
        parts += [f"{word} {named if isinstance(named, str) else ', '.join(map(repr, named))}"] if named else []
    return " ".join(parts)


def metric_unit(result: Result) -> str:
    """The metric's unit."""
    return str(result.manifest.get("metric", {}).get("unit", ""))


def missing(result: Result, what: str, otherwise: str = "not in this result") -> str:
    """Why a frame, or a part of one, is not there."""
    return str(result.manifest.get("missing", {}).get(what, otherwise)).rstrip(".")


def no_intervals(result: Result) -> list[str]:
    """A sentence where no interval over prompts can be given."""
    why = missing(result, "intervals", "")
    return [f"{why[0].upper()}{why[1:]}."] if why else []


def cell(value: Any) -> str:
    """A cell of a table: text as it is, numbers as a reader wants them."""
    return value if isinstance(value, str) else words.number(value)


def failed_checks(manifest: Any, only: str | None = None, but: Collection[str] = ()) -> list[str]:
    """A warning for each check that did not hold.

    Args:
        only: the section that they must concern. but: sections that they must not concern.
    """
    failed = [c for c in manifest.get("checks", []) if not c["passed"]]
    where = "" if only is None else "of this section"
    return [
        f"A check failed: {words.printable(c['name'])} is off by {c['value']:.2g}, at most {c['limit']:.2g} was "
        f"expected. Do not trust the numbers {where or _whose(c)}."
        for c in failed
        if (only is None or c.get("section") == only) and not (c.get("section") and c["section"] in but)
    ]


def _whose(check: Any) -> str:
    return f"of the section “{check['section']}”" if check.get("section") else "below"


def legend(result: Result, text: Sequence[str]) -> Section:
    """How to read the page: some paragraphs, then every column of every frame."""
    rows = [
        [name, column, about.meaning, unit_of(about.unit, "of the metric", "as said in the row")]
        for name, columns in result.columns.items()
        for column, about in columns.items()
    ]
    return Section("How to read this", text, table=Table(["table", "column", "meaning", "unit"], rows), folded=True)


def unit_of(unit: str, metric: str, row: str) -> str:
    """A column's unit, where it is the metric's or stands in the row."""
    return unit.replace("{metric}", metric).replace("{unit}", row)


def checks(manifest: Any) -> Section:
    """What must hold exactly, and whether it did."""
    rows = [
        [c["name"], f"{c['value']:.2g}", f"{c['limit']:g}", "passed" if c["passed"] else "FAILED"]
        for c in manifest.get("checks", [])
    ]
    failed = frozenset(i for i, c in enumerate(manifest.get("checks", [])) if not c["passed"])
    text = ["What must hold exactly was checked on this very run; largest difference in log-probability, in nats."]
    text += precision(manifest)
    return Section(
        "Checks",
        text,
        table=Table(["check", "value", "limit", "result"], rows, frozenset(["value", "limit"]), failed),
        folded=True,
    )


def precision(manifest: Any) -> list[str]:
    """What was not computed in float32, and how exact it is; or why it was, where something else was asked for."""
    about = manifest.get("precision", {})
    if about.get("asked", "exact") == "exact":
        return []
    if about.get("mode") != "delta":
        return [f"Nothing ran in delta precision: {about.get('why')}."]
    return [
        "The real vector ran in float32. What reference vectors do at single nodes ran in delta precision: changes in "
        "bfloat16, the runs that they are changes of in float32. "
        f"Of {int(about['runs']):,} such runs {int(about['again']):,} were made again in float32, and were off by at "
        f"most {words.percent(about['worst'])} of the limit. What a reference does at a node may be off by up to "
        f"{words.percent(about['bound'])} of its whole effect."
    ]


def whole_manifest(manifest: Any) -> Section:
    """All that is known of the run."""
    return Section("Manifest", code=json.dumps(dict(manifest), indent=2, ensure_ascii=False), folded=True)


def reproduce(manifest: Any) -> Section:
    """The command that made it, where one did."""
    command = manifest.get("command")
    if command:
        return Section("How to reproduce it", ["The same seed gives the same numbers."], code=str(command))
    return Section("How to reproduce it", ["Made from Python: see the manifest for every argument."])
