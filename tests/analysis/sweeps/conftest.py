"""Runs of a sweep without a model: rows of a known response, written as a sweep writes them."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node
from steerscope.analysis.results.result import Result
from steerscope.analysis.sweeps.design import Design
from steerscope.analysis.sweeps.rows import SCHEMA
from steerscope.analysis.sweeps.store import PROMPTS, Store
from steerscope.analysis.sweeps.summary import summarize
from steerscope.analysis.sweeps.units import of_node

Array = NDArray[np.float64]
UNITS = [of_node(Node(layer, head)) for layer in range(2) for head in (0, 1, 2, 3, 4, None)]


def saturated(load: Array) -> Array:
    return np.tanh(load)


def run(
    folder: Path,
    slopes: Array,
    *,
    towards: float = 1.0,
    prompts: int = 40,
    groups: Sequence[int] | None = None,
    response: Callable[[Array], Array] = saturated,
    spread: float = 0.3,
    noise: float = 0.05,
    seed: int = 0,
    metric: str = "log_prob",
    **design: Any,
) -> Result:
    """Trials of a response of the summed slopes of the injected nodes, and their summary.

    Args:
        slopes: by vector (0 is the real one) and node.
        towards: multiplies the effect along the metric, not that along the own change.
        groups: by prompt; slopes differ between groups by `spread`.
    """
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"trials": 2400, "k": (1, 3), "controls": len(slopes) - 1, "seed": seed} | design
    made = Design(prompts=prompts, **options)
    of = np.arange(prompts) if groups is None else np.asarray(groups)
    scale = (1 + spread * rng.normal(size=(of.max() + 1, slopes.shape[1])))[of]
    store = Store(folder)
    ids = pa.array([[0, p] for p in range(prompts)])
    text = pa.array([f"prompt {p}" for p in range(prompts)])
    content = io.BytesIO()
    pq.write_table(pa.table({"prompt": range(prompts), "text": text, "ids": ids, "group": of}), content)
    store.create(_about(made, prompts, int(of.max()) + 1, metric), {PROMPTS: content.getvalue()})
    rows = []
    for index in range(made.trials):
        trial = made.trial(index, UNITS)
        own = slopes[trial.control + 1] * scale[trial.prompt]
        effect = float(response(own[list(trial.units)].sum()))
        whole = float(response(own.sum()))
        size = float(np.abs(own[list(trial.units)]).sum())
        rows.append(
            {
                "trial": index,
                "visit": trial.visit,
                "prompt": trial.prompt,
                "nodes": [UNITS[u].name for u in trial.units],
                "k": len(trial.units),
                "design": trial.kind,
                "antithetic": trial.antithetic,
                "mode": "through",
                "vector": 0,
                "control": trial.control,
                "coefficient": trial.coefficient,
                "effect": towards * (effect + noise * rng.normal()),
                "own": effect + noise * rng.normal(),
                "kl": 0.1 * size + 0.01 * abs(rng.normal()),
                "perplexity": float(np.exp(1.0 + 0.02 * size)),
                "entropy": 1.0,
                "norm": float(len(trial.units)),
                "clean_perplexity": float(np.exp(1.0)),
                "clean_entropy": 1.0,
                "steered_effect": towards * whole,
                "steered_own": whole,
                "steered_kl": 0.5,
                "steered_perplexity": float(np.exp(1.5)),
            }
        )
    store.append(0, pa.Table.from_pylist(rows, schema=SCHEMA))
    return summarize(store)


def _about(design: Design, prompts: int, groups: int, metric: str) -> dict[str, Any]:
    return {
        "model": {"name": "synthetic", "weights_hash": ""},
        "mode": "through",
        "nodes": [unit.name for unit in UNITS],
        "left_out": [],
        "vectors": [{"label": "synthetic"}],
        "coefficients": list(design.coefficients),
        "positions": "all",
        "design": design.describe(),
        "prompts": {"count": prompts, "source": "given", "groups": groups},
        "metric": {"name": metric, "unit": "logits", "options": {}},
        "sources": {},
        "paths": {},
        "block": design.trials,
    }


@pytest.fixture(scope="session")
def synthetic() -> Callable[..., Result]:
    return run
