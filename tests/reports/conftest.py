"""Results as `localize` saves them, of any size, with numbers that are made up but hang together."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.results import Result

Maker = Callable[..., Result]


def make_result(
    layers: int = 2,
    heads: int = 4,
    mlp: bool = True,
    scale: float = 1.0,
    text: str = "One day",
    controls: int = 5,
    **manifest: Any,
) -> Result:
    """A result of kind "localize"; `text` stands wherever a model, a prompt or a file could put something."""
    generator = np.random.default_rng(0)
    nodes: list[tuple[str, int, int | None, str]] = []
    nodes += [(f"L{layer}H{h}", layer, h, "head") for layer in range(layers) for h in range(heads)]
    nodes += [(f"L{layer}M", layer, None, "mlp") for layer in range(layers)] if mlp else []
    rows = []
    for measure in ("necessity", "sufficiency"):
        for index, (node, layer, head, kind) in enumerate(nodes):
            effect = float(generator.normal()) * scale
            significant = index % 3 == 0 and scale > 0
            p = 1e-5 if significant else 0.5
            rows.append({
                "node": node, "layer": layer, "head": head, "kind": kind, "measure": measure, "effect": effect,
                "low": effect - 0.1 * scale, "high": effect + 0.1 * scale, "share": effect / 2, "control": 0.0,
                "control_low": -0.2 * scale, "control_high": 0.2 * scale, "p": p, "p_adjusted": p, "p_holm": p,
                "own_share": effect / 2, "own_control": 0.1 * scale, "own_control_low": 0.0, "own_control_high": 0.2 * scale,
                "p_own": p, "p_own_adjusted": p, "significant": significant,
                "reach": ("specific" if index % 2 else "general") if significant else "none", "wrong_way": 0.1, "stability": 0.9,
            })  # fmt: skip
    effects = pd.DataFrame(rows)
    effects["head"] = effects["head"].astype("Int64")
    totals = pd.DataFrame([
        {"quantity": name, "value": 2.0 * scale, "low": 1.5 * scale, "high": 2.5 * scale, "unit": "nats", "share": share,
         "share_low": share - 0.1, "share_high": share + 0.1, "control": 0.1, "control_low": -0.2, "control_high": 0.4,
         "p": 0.001, "wrong_way": 0.05}
        for name, share in [("total", np.nan), ("kl", np.nan), ("carriers_necessity", 0.7), ("carriers_sufficiency", 0.6),
                            ("all_necessity", 1.0), ("all_sufficiency", 1.0)]
    ])  # fmt: skip
    vectors = pd.DataFrame([
        {"vector": "steering" if i == 0 else f"control {i - 1}", "norm": 3.0, "coefficient": 3.0, "effect": 2.0 / (i + 1),
         "low": 1.0 / (i + 1), "high": 3.0 / (i + 1), "own_effect": 5.0, "kl": 0.5 + i / 10, "kl_low": 0.4, "kl_high": 1.2}
        for i in range(1 + controls)
    ])  # fmt: skip
    prompts = pd.DataFrame([
        {"prompt": i, "text": f"{text} {i}", "tokens": 9, "injected": "0,1", "scored": "2,3", "clean": -3.0, "steered": -1.0,
         "effect": -0.5 if i == 2 else 2.0, "kl": 0.5} for i in range(3)
    ])  # fmt: skip
    tokens = pd.DataFrame([
        {"token": f" {text}", "id": i, "clean": 0.1, "steered": 0.3 if side == "gain" else 0.01, "change": 1.0, "kl": 0.2, "side": side}
        for i in range(3) for side in ("gain", "loss")
    ])  # fmt: skip
    completions = pd.DataFrame(
        [{"prompt": 0, "text": text, "clean": f" {text} clean", "steered": f" {text} steered"}]
    )
    frames = {"effects": effects, "per_prompt": pd.DataFrame(columns=list(COLUMNS["localize"]["per_prompt"])), "totals": totals,
              "vectors": vectors, "prompts": prompts, "positions": pd.DataFrame(columns=list(COLUMNS["localize"]["positions"])), "tokens": tokens, "completions": completions}  # fmt: skip
    base = {
        "model": {"name": f"model {text}", "device": "cpu"},
        "injections": [{"vector": {"label": f'"{text}" - " "'}, "coefficient": 3.0, "site": "L0.resid_pre", "positions": "front"}],
        "metric": {"name": "log_prob", "unit": "nats", "targets": [f" {text}"], "scored": "positions after the injection"},
        "prompts": {"count": 3}, "controls": {"count": controls, "matched": "norm"}, "alpha": 0.05, "level": 0.95,
        "stability": {"jaccard": 0.9, "low": 0.8, "high": 1.0, "resamples": 100, "note": ""},
        "checks": [{"name": "sampled nodes equal one plain pass each", "value": 1e-6, "limit": 1e-4, "passed": True}],
        "command": f"steerscope localize --plus '{text}'", "missing": {}, "seconds": 12.0, "created": "2026-11-20",
        "versions": {"steerscope": "0.1.0"},
    }  # fmt: skip
    return Result("localize", frames, base | manifest)


@pytest.fixture
def maker() -> Maker:
    return make_result
