"""Frames that are made up and hang together, of writers and of frozen attention, of any size."""

import numpy as np
import pandas as pd

Unit = tuple[str, int, int | None, str]


def made_writers(layers: int, heads: int, mlp: bool, scale: float, controls: int) -> pd.DataFrame:
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
            edge = np.nan if not controls else 0.1 * scale
            row |= {
                measure: value,
                f"{measure}_low": value - 0.1,
                f"{measure}_high": value + 0.1,
                f"{measure}_control": edge,
                f"{measure}_control_low": -edge,
                f"{measure}_control_high": edge,
                f"{measure}_p": p,
                f"{measure}_p_adjusted": p,
                f"{measure}_p_holm": p,
                f"{measure}_significant": p < 0.05,
                f"{measure}_wrong_way": 0.1,
                f"{measure}_share": value / (2 * scale) if scale else np.nan,
            }
        rows.append(row)
    return pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})


def made_attention(layers: int, heads: int, scale: float, controls: int, by: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for outcome, unit, total in (("effect", "nats", 2.0 * scale), ("damage", "nats per token", 0.3 * scale)):
        for frozen, survives in (("patterns", 0.25), ("values", 0.4), ("both", 0.0)):
            places: list[tuple[str, str, int | None, int | None]] = [("all", "all", None, None)]
            places += [("layer", f"L{layer}", layer, None) for layer in range(layers)]
            if frozen != "both":
                places += [("head", f"L{layer}H{h}", layer, h) for layer in range(layers) for h in range(heads)]
            for scope, node, layer, head in (place for place in places if place[0] in by):
                share = survives if scope == "all" else 0.9
                own = np.nan if not controls else 0.5
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
                        "control": 0.0,
                        "control_low": -0.1,
                        "control_high": 0.1,
                        "p": 0.001,
                        "p_adjusted": 0.002,
                        "p_holm": 0.003,
                        "significant": True,
                        "wrong_way": 0.0,
                        "own_survives": share,
                        "control_survives": own,
                        "control_survives_low": own,
                        "control_survives_high": own,
                        "p_own": 0.01,
                        "p_own_adjusted": 0.02,
                    }
                )
    return pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})
