"""Sweeps without a model: the manifest of a run, and results with frames as an analysis of some thousand trials has
them."""

from typing import Any

import numpy as np
import pandas as pd
from made_up import Unit

from steerscope.analysis.results.result import Result
from steerscope.questions import QUESTIONS
from steerscope.reports.records import records

ABOUT: dict[str, Any] = {
    "model": {"name": "none", "weights_hash": ""},
    "mode": "own",
    "nodes": [],
    "left_out": [],
    "vectors": [],
    "coefficients": [1.0],
    "positions": "all",
    "design": {"trials": 5, "spacing": "any"},
    "prompts": {"count": 1, "source": "given"},
    "metric": {"name": "kl", "unit": "nats", "options": {}},
    "sources": {},
    "paths": {},
    "block": 2,
}
"""The least that the manifest of a run says."""


def make_sweep(
    layers: int = 2,
    heads: int = 10,
    mode: str = "own",
    scale: float = 1.0,
    text: str = "One day",
    references: int = 20,
    seed: int = 0,
    **manifest: Any,
) -> Result:
    """A result of kind "sweep", with frames as an analysis of some thousand trials has them; `text` as above."""
    generator = np.random.default_rng(seed)
    units = sweep_units(layers, heads, mode)
    nodes = sweep_nodes(units, scale, references, generator)
    frames = {
        "nodes": nodes,
        "frontier": sweep_frontier(nodes),
        "response": sweep_response(nodes),
        "dose": sweep_dose(scale, references),
        "pairs": sweep_pairs(units, scale, generator),
        "trends": sweep_trends(nodes),
        "designs": sweep_designs(scale),
        "convergence": pd.DataFrame(
            [
                {
                    "trials": n,
                    "outcome": outcome,
                    "width": size * scale * (n**-0.5 + 0.004),
                    "agreement": 1 - 3 * n**-0.5 if n < 12000 else 1.0,
                }
                for n in (93, 187, 375, 750, 1500, 3000, 6000, 12000)
                for outcome, size in (("effect", 3.0), ("kl", 0.8))
            ]
        ),
        "prompts": pd.DataFrame(
            [
                {
                    "prompt": i,
                    "text": f"{text} {i}",
                    "tokens": 9 + i,
                    "trials": 400,
                    "effect": 0.1 * i * scale,
                    "kl": 0.05,
                    "clean_perplexity": 12.5,
                    "steered_effect": (2.0 + i) * scale,
                    "steered_kl": 0.6,
                }
                for i in range(30)
            ]
        ),
    }
    base = {
        "model": {"name": f"model {text}", "device": "cpu", "n_layers": layers, "n_heads": heads},
        "mode": mode,
        "vectors": [{"label": f'"{text}" - " "', "norm": 3.0}],
        "coefficients": [0.5, 1.0, 2.0],
        "positions": "all",
        "design": {
            "kinds": ["uniform", "horizontal", "vertical"],
            "k": [1, 6],
            "antithetic": False,
            "visit": 8,
            "control_every": 4,
            "controls": references,
            "trials": 12000,
            "seed": 0,
        },
        "trials": {
            "planned": 12000,
            "done": 12000,
            "real": 9000 if references else 12000,
            "random": 3000 if references else 0,
            "damaged": [],
        },
        "prompts": {"count": 30, "source": f"{text}.txt", "hash": "abc", "tokens": 39},
        "metric": {
            "name": "log_prob",
            "unit": "nats",
            "targets": [f" {text}"],
            "scored": "positions after the injection",
        },
        "whole": {
            "effect": {"mean": 2.5 * scale, "low": 2.2 * scale, "high": 2.8 * scale},
            "kl": {"mean": 0.6, "low": 0.5, "high": 0.7},
        },
        "pairs": {"method": "joint", "tested": len(frames["pairs"]) // 2},
        "alpha": 0.05,
        "level": 0.95,
        "seed": 0,
        "missing": {},
        "notes": [],
        "checks": [{"name": "trials equal plain passes", "value": 1e-6, "limit": 1e-4, "passed": True}],
        "executor": "local",
        "seconds": 340.0,
        "trials_per_second": 35.3,
        "shares": {"forward": 0.8, "metrics": 0.15, "writing": 0.05},
        "command": f"steerscope sweep --plus '{text}'",
        "created": "2026-11-20",
        "versions": {"steerscope": "0.1.0"},
    }
    return Result("sweep", frames, QUESTIONS["sweep"].columns, base | manifest)


def sweep_units(layers: int, heads: int, mode: str) -> list[Unit]:
    found: list[Unit] = []
    for layer in range(layers):
        if mode == "shared":
            found.append((f"L{layer}A", layer, None, "attention"))
        else:
            found += [(f"L{layer}H{h}", layer, h, "head") for h in range(heads)]
        found.append((f"L{layer}M", layer, None, "mlp"))
    return found


def sweep_nodes(units: list[Unit], scale: float, references: int, generator: Any) -> pd.DataFrame:
    """A few nodes with large contributions among many with small ones."""
    strong = generator.random(len(units)) < max(0.08, 3 / len(units))
    effect = np.where(strong, generator.normal(0.14, 0.1, len(units)), generator.normal(0, 0.012, len(units))) * scale
    cost = 0.1 * np.abs(effect) + generator.exponential(0.01, len(units)) * scale
    rows = []
    for outcome, values, half in (("effect", effect, 0.03), ("kl", cost, 0.008), ("loss", cost * 0.4, 0.01)):
        for (node, layer, head, kind), value, jitter in zip(
            units, values, generator.uniform(0.5, 1.5, len(units)), strict=True
        ):
            width = half * jitter * scale
            clear = bool(abs(value) > 1.6 * width and scale)
            p, whole = 1e-6 if clear else 0.4, (2.5 if outcome == "effect" else 0.6) * scale
            share = value / whole if whole else np.nan
            told = "concept" if references else "untested"
            said = "untested" if not clear else told if value * whole > 0 else "against"
            random = np.nan if not references else 0.0 if outcome == "effect" else 0.8 * value
            rows.append(
                {
                    "node": node,
                    "layer": layer,
                    "head": head,
                    "kind": kind,
                    "outcome": outcome,
                    "unit": "nats",
                    "sampled": 1234,
                    "mean_in": value + 0.2,
                    "mean_out": 0.2,
                    "difference": value,
                    "difference_low": value - 2 * width,
                    "difference_high": value + 2 * width,
                    "contribution": value,
                    "low": value - width,
                    "high": value + width,
                    "reference": random,
                    "reference_low": random - width / 2,
                    "reference_high": random + width / 2,
                    "share": share,
                    "verdict": said,
                    "own_share": share,
                    "vectors": references,
                    "p": p / 2,
                    "p_noise": p if references else np.nan,
                    "p_adjusted": p,
                    "p_holm": min(1.0, 2 * p),
                }
            )
    frame = pd.DataFrame(rows)
    frame["head"] = frame["head"].astype("Int64")
    return frame


def sweep_frontier(nodes: pd.DataFrame) -> pd.DataFrame:
    effect, kl, loss = (nodes[nodes["outcome"] == o].set_index("node") for o in ("effect", "kl", "loss"))
    e, d = effect["contribution"].to_numpy(), kl["contribution"].to_numpy()
    clear = kl["low"].to_numpy() > 0
    ratio = np.where(clear, e / np.where(d == 0, 1, d), np.nan)
    typical = e.sum() / d.sum() if d.sum() else 0.0
    told = effect["verdict"].isin(["specific", "concept"]).to_numpy()
    return pd.DataFrame(
        {
            "node": effect.index,
            "layer": effect["layer"].to_numpy(),
            "kind": effect["kind"].to_numpy(),
            "effect": e,
            "effect_low": effect["low"].to_numpy(),
            "effect_high": effect["high"].to_numpy(),
            "kl": d,
            "kl_low": kl["low"].to_numpy(),
            "kl_high": kl["high"].to_numpy(),
            "loss": loss["contribution"].to_numpy(),
            "efficiency": ratio,
            "efficiency_low": ratio - 0.5,
            "efficiency_high": ratio + 0.5,
            "verdict": effect["verdict"].to_numpy(),
            "useful": told & (e > 0) & (e > typical * d),
            "frontier": [not ((e > a) & (d < b)).any() for a, b in zip(e, d, strict=True)],
        }
    )


def sweep_response(nodes: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for r in records(nodes[nodes["outcome"] != "loss"]):
        for by, levels in (("k", (1.0, 2.0, 3.5, 5.0, 6.0)), ("coefficient", (0.5, 1.0, 2.0))):
            for level in levels:
                value = r.contribution * (1 - 0.08 * level if by == "k" else np.tanh(level))
                rows.append(
                    {
                        "node": r.node,
                        "by": by,
                        "level": level,
                        "trials": 2000,
                        "outcome": r.outcome,
                        "contribution": value,
                        "low": value - 1.5 * (r.high - r.contribution),
                        "high": value + 1.5 * (r.high - r.contribution),
                    }
                )
    return pd.DataFrame(rows)


def sweep_dose(scale: float, references: int) -> pd.DataFrame:
    rows = []
    for by, levels in (("k", (1.0, 2.0, 3.5, 5.0, 6.0)), ("coefficient", (0.5, 1.0, 2.0))):
        for vector in ("real", "random") if references else ("real",):
            for outcome, slope in (
                ("effect", 0.1 if vector == "real" else 0.0),
                ("kl", 0.03 if vector == "real" else 0.024),
                ("loss", 0.01),
            ):
                rows += [
                    {
                        "by": by,
                        "level": level,
                        "vector": vector,
                        "outcome": outcome,
                        "trials": 1800,
                        "mean": slope * level * scale,
                        "low": (slope * level - 0.02) * scale,
                        "high": (slope * level + 0.02) * scale,
                    }
                    for level in levels
                ]
    return pd.DataFrame(rows)


def sweep_pairs(units: list[Unit], scale: float, generator: Any) -> pd.DataFrame:
    rows = []
    for outcome, size in (("effect", 0.02), ("kl", 0.006)):
        found = []
        for i, first in enumerate(units):
            for second in units[i + 1 :]:
                if generator.random() < 0.05:
                    continue
                value = float(generator.standard_t(2.5)) * size * scale
                p = 1e-4 if abs(value) > 6 * size * scale and scale else 0.7
                found.append(
                    {
                        "first": first[0],
                        "second": second[0],
                        "outcome": outcome,
                        "together": 120,
                        "interaction": value,
                        "low": value - 2 * size * scale,
                        "high": value + 2 * size * scale,
                        "p": p / 2,
                        "p_adjusted": p,
                        "p_holm": min(1.0, 2 * p),
                        "significant": p < 0.02,
                    }
                )
        rows += sorted(found, key=lambda row: -abs(float(str(row["interaction"]))))
    return pd.DataFrame(rows)


def sweep_trends(nodes: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for kind in nodes["kind"].unique():
        for outcome in ("effect", "kl"):
            own = nodes[(nodes["kind"] == kind) & (nodes["outcome"] == outcome)]
            for layer, part in own.groupby("layer"):
                mean = part["contribution"].mean()
                rows.append(
                    {
                        "kind": kind,
                        "layer": layer,
                        "outcome": outcome,
                        "nodes": len(part),
                        "contribution": mean,
                        "low": mean - 0.01,
                        "high": mean + 0.01,
                        "p": 0.2,
                    }
                )
            rows.append(
                {
                    "kind": kind,
                    "layer": None,
                    "outcome": outcome,
                    "nodes": len(own),
                    "contribution": 0.004,
                    "low": 0.002,
                    "high": 0.006,
                    "p": 0.0004 if kind == "mlp" else 0.6,
                }
            )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def sweep_designs(scale: float) -> pd.DataFrame:
    rows = []
    for design, shift, trials in (
        ("uniform", 0.0, 3000),
        ("horizontal", 0.05, 3000),
        ("vertical", 0.09, 3000),
        ("horizontal - vertical", -0.3, 6000),
    ):
        last = " - " in design
        for outcome, mean in (("effect", 0.25), ("kl", 0.07), ("loss", 0.02)):
            value = (mean + shift * mean) * scale if not last else shift * mean * scale
            rows.append(
                {
                    "design": design,
                    "outcome": outcome,
                    "trials": trials,
                    "k": 3.5,
                    "norm": 0.41,
                    "mean": value,
                    "low": value - 0.03 * scale,
                    "high": value + 0.03 * scale,
                    "p": (0.0001 if outcome == "effect" else 0.6) if last else np.nan,
                }
            )
    return pd.DataFrame(rows)
