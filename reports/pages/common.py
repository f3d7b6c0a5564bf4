"""What the pages of several kinds of result share: failed checks, the manifest, how to reproduce, the legend."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.page import Page, Section, Table


def page(
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
    model = manifest.get("model", {})
    labels = [i["vector"]["label"] for i in manifest.get("injections", [])] or ["the vector"]
    count = manifest.get("prompts", {}).get("count", "?")
    return Page(
        title=question.format(vector=words.listing(labels), model=model.get("name", "the model")),
        subtitle=f"{words.injection(manifest)} · {count} prompts · {metric_name(manifest)} · {method}",
        headline=list(headline),
        warnings=[*failed_checks(manifest), *warnings],
        glance=list(glance),
        sections=[
            *sections,
            legend(result.kind, text),
            checks(manifest),
            whole_manifest(manifest),
            reproduce(manifest),
        ],
        footer=f"steerscope {manifest.get('versions', {}).get('steerscope', '')} · {manifest.get('created', '')} · "
        f"{words.number(manifest.get('seconds', math.nan))} seconds on {model.get('device', '?')}",
    )


def everything(frame: pd.DataFrame, columns: Sequence[str], title: str, result: Result) -> Section:
    """A folded table with buttons that save all tables of the result."""
    rows = [[cell(row[c]) for c in columns] for _, row in frame[list(columns)].iterrows()]
    numeric = frozenset(c for c in columns if pd.api.types.is_numeric_dtype(frame[c]))
    downloads = {f"{name}.csv": table for name, table in result.frames.items()}
    text = ["A click on a heading sorts. The buttons save the tables as CSV."]
    return Section(title, text, table=Table(columns, rows, numeric), folded=True, download=downloads)


def metric_name(manifest: Any) -> str:
    """The metric with its targets."""
    metric = manifest.get("metric", {})
    targets = metric.get("targets")
    return str(metric.get("name", "metric")).replace("_", " ") + (
        f" of {', '.join(map(repr, targets))}" if targets else ""
    )


def metric_unit(result: Result) -> str:
    """The metric's unit."""
    return str(result.manifest.get("metric", {}).get("unit", ""))


def missing(result: Result, what: str, otherwise: str = "not in this result") -> str:
    """Why a frame, or a part of one, is not there."""
    return str(result.manifest.get("missing", {}).get(what, otherwise)).rstrip(".")


def cell(value: Any) -> str:
    """A cell of a table: text as it is, numbers as a reader wants them."""
    return value if isinstance(value, str) else words.number(value)


def failed_checks(manifest: Any) -> list[str]:
    """A warning for each check that did not hold."""
    failed = [c for c in manifest.get("checks", []) if not c["passed"]]
    return [
        (
            f"A check failed: {c['name']} is off by {c['value']:.2g}, at most {c['limit']:g} was expected. Do not "
            "trust the numbers below."
        )
        for c in failed
    ]


def legend(kind: str, text: Sequence[str]) -> Section:
    """How to read the page: some paragraphs, then every column of every frame."""
    frames: Mapping[str, Mapping[str, tuple[str, str]]] = COLUMNS[kind]
    rows = [
        [name, column, meaning, unit.format(metric="of the metric", unit="as said in the row")]
        for name, columns in frames.items()
        for column, (meaning, unit) in columns.items()
    ]
    table = Table(["table", "column", "meaning", "unit"], rows)
    return Section("How to read this", text, table=table, folded=True)


def checks(manifest: Any) -> Section:
    """What must hold exactly, and whether it did."""
    rows = [
        [c["name"], f"{c['value']:.2g}", f"{c['limit']:g}", "passed" if c["passed"] else "FAILED"]
        for c in manifest.get("checks", [])
    ]
    failed = frozenset(i for i, c in enumerate(manifest.get("checks", [])) if not c["passed"])
    text = ["What must hold exactly was checked on this very run; largest difference in log-probability, in nats."]
    return Section(
        "Checks",
        text,
        table=Table(["check", "value", "limit", "result"], rows, frozenset(["value", "limit"]), failed),
        folded=True,
    )


def whole_manifest(manifest: Any) -> Section:
    """All that is known of the run."""
    return Section("Manifest", code=json.dumps(dict(manifest), indent=2, ensure_ascii=False), folded=True)


def reproduce(manifest: Any) -> Section:
    """The command that made it, where one did."""
    command = manifest.get("command")
    if command:
        return Section("How to reproduce it", ["The same seed gives the same numbers."], code=str(command))
    return Section("How to reproduce it", ["Made from Python: see the manifest for every argument."])
