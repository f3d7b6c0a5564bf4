"""Results of any columns, with numbers that are made up from the roles alone."""

from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames

ATTACK = "</script><img src=x onerror=\"document.title='pwned'\">$\\frac{a}{b}$ \x07"
MANIFEST: dict[str, Any] = {
    "model": {"name": "model", "device": "cpu"},
    "injections": [
        {"vector": {"label": '"A" - " "'}, "coefficient": 3.0, "site": "L0.resid_pre", "positions": "front"}
    ],
    "metric": {"name": "log_prob", "unit": "nats", "targets": [" A"]},
    "prompts": {"count": 3},
    "checks": [{"name": "rows equal plain passes", "value": 1e-6, "limit": 1e-4, "passed": True}],
}
EFFECTS: Frame = {
    "node": Column("head or MLP", role="node"),
    "layer": Column("its layer", role="layer"),
    "head": Column("its head", role="head"),
    "measure": Column("which of two", role="measure"),
    "effect": Column("mean over prompts", "{metric}", "estimate"),
    "low": Column("lower end", "{metric}", "low"),
    "high": Column("upper end", "{metric}", "high"),
    "control": Column("of random vectors", "{metric}", "reference"),
    "control_low": Column("lower end of the band", "{metric}", "reference_low"),
    "control_high": Column("upper end of the band", "{metric}", "reference_high"),
    "significant": Column("whether it is", role="verdict"),
}
CURVE: Frame = {
    "order": Column("which", role="label"),
    "fraction": Column("how many", role="axis"),
    "kept": Column("share", role="estimate"),
    "low": Column("lower end", role="low"),
    "high": Column("upper end", role="high"),
    "control": Column("of random vectors", role="reference"),
}


def made(kind: str, columns: Frames, rows: int = 24, text: str = "word") -> Result:
    """A result of any columns; `text` stands wherever a name could."""
    frames = {
        name: pd.DataFrame({c: _values(about, rows, text) for c, about in f.items()}) for name, f in columns.items()
    }
    return Result(kind, frames, columns, MANIFEST)


def _values(about: Column, rows: int, text: str) -> Any:
    at = np.arange(rows)
    if about.role == "node":
        return [f"L{i // 4}M" if i % 4 == 3 else f"L{i // 4}H{i % 4}" for i in at]
    if about.role == "layer":
        return at // 4
    if about.role == "head":
        return pd.array([None if i % 4 == 3 else i % 4 for i in at], dtype="Int64")
    if about.role == "measure":
        return [f"{text} measure"] * rows
    if about.role in ("label", "axis"):
        return at if about.role == "axis" else [f"{text} {i}" for i in at]
    if about.role == "verdict":
        return at % 2 == 0
    if about.role == "detail":
        return [text] * rows
    return np.random.default_rng(0).normal(size=rows) + {"low": -1, "high": 1}.get(about.role.split("_")[-1], 0)


def effects(values: Any, nodes: Any = None, measure: str = "necessity", **more: Any) -> pd.DataFrame:
    """Rows of `EFFECTS` of one measure."""
    values = np.asarray(values, dtype=float)
    nodes = list(nodes or [f"L{i // 2}{'M' if i % 2 else 'H0'}" for i in range(len(values))])
    frame = {
        "node": nodes,
        "layer": [i // 2 for i in range(len(values))],
        "head": pd.array([None if i % 2 else 0 for i in range(len(values))], dtype="Int64"),
        "measure": measure,
        "effect": values,
        "low": values - 1,
        "high": values + 1,
        "control": 14.0,
        "control_low": 13.0,
        "control_high": 15.0,
        "significant": True,
    }
    return pd.DataFrame(frame | more, columns=list(EFFECTS))


def result(frame: pd.DataFrame, columns: Frame = EFFECTS, kind: str = "unknown", **manifest: Any) -> Result:
    """One frame, named effects."""
    return Result(kind, {"effects": frame}, {"effects": columns}, MANIFEST | manifest)
