"""Frames that are made up and hang together, of writers and of frozen attention, of any size; and results of any
columns, from their roles alone.
"""

from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.results.effects import NUMBERS
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


P = {"specific": (1e-5, 1e-5, 1e-4, 1e-4), "concept": (1e-5, 0.4, 1e-4, 1.0), "less": (0.001, 0.001, 1.0, 1.0)}
ELSE = (0.6, 0.7, 1.0, 1.0)  # p_noise, p_concepts, p_holm, p_specific
CLEAR = ("specific", "concept", "shared", "less", "against")


def made_numbers(
    values: Any, verdicts: Any, total: float = 2.0, references: bool = True, intervals: bool = True
) -> dict[str, Any]:
    """The columns of `NUMBERS` for some effects and their verdicts, so that both hang together."""
    effect, said = np.asarray(values, dtype=float), list(verdicts)
    share = effect / total if total else np.full(len(effect), np.nan)
    nothing, half = np.full(len(effect), np.nan), 0.05 * max(abs(total), np.abs(effect).max(initial=0.0))
    noise = np.array([{"shared": s, "less": abs(s) + 0.3}.get(v, 0.01) for v, s in zip(said, share, strict=True)])
    meaning = np.array(
        [{"specific": s / 4, "concept": s}.get(v, n) for v, s, n in zip(said, share, noise, strict=True)]
    )
    p = np.array([1e-5 if v in CLEAR else 0.5 for v in said]) if intervals else np.ones(len(said))
    found: dict[str, Any] = {"effect": effect, "low": effect - half, "high": effect + half, "share": share}
    found |= {"verdict": said, "own_share": share if intervals else nothing, "needed": noise + 0.1}
    for name, own in (("reference", noise), ("concepts", meaning)):
        own = own if references and intervals else nothing
        edge = np.abs(total) * 0.03
        found |= {name: own * total, f"{name}_low": own * total - edge, f"{name}_high": own * total + edge}
        found[f"{'noise' if name == 'reference' else 'concepts'}_share"] = own
    tested = np.array([P.get(v, ELSE) for v in said]).reshape(len(said), 4).T
    for name, column in zip(("p_noise", "p_concepts", "p_holm", "p_specific"), tested, strict=True):
        known = column if references and intervals else nothing if name in ("p_noise", "p_concepts") else column * 0 + 1
        found[name] = known
    found |= {"p": p, "p_adjusted": found["p_holm"] / 2, "wrong_way": np.full(len(said), 0.1)}
    if not intervals:
        found |= {"low": nothing, "high": nothing}
    if not (references and intervals):
        found["needed"] = nothing
    return {name: found[name] for name in NUMBERS}


def fitting(values: Any, total: float = 2.0) -> list[str]:
    """A verdict for each effect that its sign allows; of two nodes in three nothing is said."""
    along = ["specific", "concept", "shared"]
    return [
        "untested" if i % 3 == 2 or v == 0 else "against" if v * total < 0 else along[(i // 2) % 3]
        for i, v in enumerate(values)
    ]


def made_references(count: int, concepts: bool = True) -> dict[str, Any]:
    """What a manifest says of so many random vectors, and as many other words."""
    families = {"isotropic": count, "concepts": count} if concepts else {"isotropic": count}
    return {"count": sum(families.values()), "families": families if count else {}, "matched": "norm"}


def made_tests(count: int, told: float | None = 0.05) -> list[dict[str, Any]]:
    """What a manifest says of the test's own check, by kind of references and measure."""
    about = {"vectors": count, "used": count, "least": 4, "told": told, "trusted": told is not None and told <= 0.1}
    pairs = [(kind, measure) for measure in ("necessity", "sufficiency") for kind in ("noise", "concepts")]
    return [{"kind": kind, "measure": measure} | about for kind, measure in pairs] if count else []


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
                about = {"outcome": outcome, "unit": unit, "frozen": frozen, "scope": scope, "node": node}
                lost = (1 - share) * total
                numbers = made_numbers([lost], ["specific" if lost else "untested"], total or 0.0, bool(references))
                known = {name: column[0] for name, column in numbers.items() if name not in ("effect", "share")}
                row = about | {"layer": layer, "head": head} | known
                row |= {"total": total, "total_low": 0.9 * total, "total_high": 1.1 * total, "lost": lost}
                row |= {"low": 0.8 * lost, "high": 1.2 * lost, "survives": share if scale else np.nan}
                row |= {"survives_low": share - 0.1 if scale else np.nan}
                row |= {"survives_high": share + 0.1 if scale else np.nan, "own_survives": share}
                row |= dict.fromkeys(("reference_survives", "concepts_survives"), own)
                row |= dict.fromkeys(("reference_survives_low", "reference_survives_high"), own)
                rows.append(row)
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
