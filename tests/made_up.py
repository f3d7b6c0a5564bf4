"""Frames that are made up and hang together, of writers and of frozen attention, of any size; and results of any
columns, from their roles alone.
"""

from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.verdicts import VERDICTS

Unit = tuple[str, int, int | None, str]
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
    "reference": Column("of reference vectors", "{metric}", "reference"),
    "reference_low": Column("lower end of the band", "{metric}", "reference_low"),
    "reference_high": Column("upper end of the band", "{metric}", "reference_high"),
    "verdict": Column("what is said of it", role="verdict"),
}
CURVE: Frame = {
    "order": Column("which", role="label"),
    "fraction": Column("how many", role="axis"),
    "kept": Column("share", role="estimate"),
    "low": Column("lower end", role="low"),
    "high": Column("upper end", role="high"),
    "reference": Column("of reference vectors", role="reference"),
}


def made_writers(layers: int, heads: int, mlp: bool, scale: float, references: int) -> pd.DataFrame:
    """Every node and the embedding, as writers of a vector at the last layer; what columns the report does not read,
    too.
    """
    names: list[Unit] = [("embedding", 0, None, "embedding")]
    for layer in range(layers):
        names += [(f"L{layer}H{h}", layer, h, "head") for h in range(heads)]
        names += [(f"L{layer}M", layer, None, "mlp")] if mlp else []
    generator = np.random.default_rng(1)
    shares = generator.dirichlet(np.full(len(names), 0.3))
    rows = []
    for i, ((writer, layer, head, kind), share) in enumerate(zip(names, shares, strict=True)):
        row = {
            "injection": 0,
            "writer": writer,
            "layer": None if i == 0 else layer,
            "head": head,
            "kind": kind,
            "norm": 3 * share,
            "share": share,
            "cosine": 0.4,
        }
        for measure in ("alone", "without"):
            value, p = 2 * share * scale, 1e-5 if share > 0.05 else 0.5
            edge = np.nan if not references else 0.1 * scale
            row |= {
                measure: value,
                f"{measure}_low": value - 0.1,
                f"{measure}_high": value + 0.1,
                f"{measure}_reference": edge,
                f"{measure}_reference_low": -edge,
                f"{measure}_reference_high": edge,
                f"{measure}_p": p,
                f"{measure}_p_noise": p,
                f"{measure}_p_adjusted": p,
                f"{measure}_p_holm": p,
                f"{measure}_told": p < 0.05,
                f"{measure}_wrong_way": 0.1,
                f"{measure}_share": value / (2 * scale) if scale else np.nan,
            }
        rows.append(row)
    return pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})


def made_attention(layers: int, heads: int, scale: float, references: int, by: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for outcome, unit, total in (("effect", "nats", 2.0 * scale), ("damage", "nats per token", 0.3 * scale)):
        for frozen, survives in (("patterns", 0.25), ("values", 0.4), ("both", 0.0)):
            places: list[tuple[str, str, int | None, int | None]] = [("all", "all", None, None)]
            places += [("layer", f"L{layer}", layer, None) for layer in range(layers)]
            if frozen != "both":
                places += [("head", f"L{layer}H{h}", layer, h) for layer in range(layers) for h in range(heads)]
            for scope, node, layer, head in (place for place in places if place[0] in by):
                share = survives if scope == "all" else 0.9
                own = np.nan if not references else 0.5
                rows.append(
                    {
                        "outcome": outcome,
                        "unit": unit,
                        "frozen": frozen,
                        "scope": scope,
                        "node": node,
                        "layer": layer,
                        "head": head,
                        "total": total,
                        "total_low": 0.9 * total,
                        "total_high": 1.1 * total,
                        "lost": (1 - share) * total,
                        "survives": share if scale else np.nan,
                        "survives_low": share - 0.1 if scale else np.nan,
                        "survives_high": share + 0.1 if scale else np.nan,
                        "low": 0.8 * (1 - share) * total,
                        "high": 1.2 * (1 - share) * total,
                        "reference": 0.0,
                        "reference_low": -0.1,
                        "reference_high": 0.1,
                        "p": 0.001,
                        "p_adjusted": 0.002,
                        "p_holm": 0.003,
                        "significant": True,
                        "wrong_way": 0.0,
                        "own_survives": share,
                        "reference_survives": own,
                        "reference_survives_low": own,
                        "reference_survives_high": own,
                        "p_own": 0.01,
                        "p_own_adjusted": 0.02,
                    }
                )
    return pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})


def made(kind: str, columns: Frames, rows: int = 24, text: str = "word") -> Result:
    """A result of any columns; `text` stands wherever a name could."""
    frames = {
        name: pd.DataFrame({c: _values(c, about, rows, text) for c, about in f.items()}) for name, f in columns.items()
    }
    return Result(kind, frames, columns, MANIFEST)


def _values(name: str, about: Column, rows: int, text: str) -> Any:
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
        return [list(VERDICTS)[i % len(VERDICTS)] for i in at] if name == "verdict" else at % 2 == 0
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
        "reference": 14.0,
        "reference_low": 13.0,
        "reference_high": 15.0,
        "verdict": "specific",
    }
    return pd.DataFrame(frame | more, columns=list(EFFECTS))


def result(frame: pd.DataFrame, columns: Frame = EFFECTS, kind: str = "unknown", **manifest: Any) -> Result:
    """One frame, named effects."""
    return Result(kind, {"effects": frame}, {"effects": columns}, MANIFEST | manifest)
