"""What the pages of several kinds of result share: failed checks, the manifest, how to reproduce, the legend."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.results import Result
from steerscope.reports import words
from steerscope.reports.page import Section, Table


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
        f"A check failed: {c['name']} is off by {c['value']:.2g}, at most {c['limit']:g} was expected. Do not trust the numbers below."
        for c in failed
    ]


def legend(kind: str, text: Sequence[str]) -> Section:
    """How to read the page: some paragraphs, then every column of every frame."""
    frames: Mapping[str, Mapping[str, tuple[str, str]]] = COLUMNS[kind]
    rows = [[name, column, meaning, unit.format(metric="of the metric", unit="as said in the row")]
            for name, columns in frames.items() for column, (meaning, unit) in columns.items()]  # fmt: skip
    table = Table(["table", "column", "meaning", "unit"], rows)
    return Section("How to read this", text, table=table, folded=True)


def checks(manifest: Any) -> Section:
    """What must hold exactly, and whether it did."""
    rows = [
        [c["name"], f"{c['value']:.2g}", f"{c['limit']:g}", "passed" if c["passed"] else "FAILED"]
        for c in manifest.get("checks", [])
    ]
    failed = frozenset(i for i, c in enumerate(manifest.get("checks", [])) if not c["passed"])
    text = [
        "What must hold exactly was checked on this very run; largest difference in log-probability, in nats."
    ]
    return Section(
        "Checks",
        text,
        table=Table(
            ["check", "value", "limit", "result"], rows, frozenset(["value", "limit"]), failed
        ),
        folded=True,
    )


def whole_manifest(manifest: Any) -> Section:
    """All that is known of the run."""
    return Section(
        "Manifest", code=json.dumps(dict(manifest), indent=2, ensure_ascii=False), folded=True
    )


def reproduce(manifest: Any) -> Section:
    """The command that made it, where one did."""
    command = manifest.get("command")
    if command:
        return Section(
            "How to reproduce it", ["The same seed gives the same numbers."], code=str(command)
        )
    return Section(
        "How to reproduce it", ["Made from Python: see the manifest for every argument."]
    )
