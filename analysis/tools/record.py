"""`record`: what a method found as a `Result`, with the manifest that all methods share."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch

from steerscope.analysis.engine.elsewhere import where
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.advice import advice
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Frames
from steerscope.analysis.results.stats import effective

PACKAGES = ("steerscope", "torch", "transformers", "transformer-lens", "scipy", "numpy")
EXACT = {"mode": "exact", "why": "this question runs nothing in delta precision"}
TYPICAL = 10.0  # size of log-probabilities, in nats
RELATIVE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-3}  # at two layers


def record(
    kind: str,
    experiment: Experiment,
    frames: Mapping[str, pd.DataFrame],
    columns: Frames,
    start: float,
    *,
    checks: Sequence[Mapping[str, object]],
    missing: Mapping[str, str] | None = None,
    **knobs: Any,
) -> Result:
    """A `Result` with the experiment, the method's own knobs, its checks, versions, date and duration.

    Args:
        columns: of each frame, what its columns mean: the `COLUMNS` of the question.
        start: `time.perf_counter()` when the work began.
        checks: as `check` makes them.
        missing: what could not be computed, and why.
        knobs: everything else that the manifest should say (JSON types only).
    """
    manifest = experiment.describe() | {"precision": EXACT} | knobs
    manifest["precision"] = {"asked": experiment.precision, **manifest["precision"]}
    found = effective(experiment.effect(), experiment.prompts.by_group)
    manifest["prompts"] |= {name: value for name, value in found.items() if value == value}
    manifest |= {
        "checks": [dict(c) for c in checks],
        "warnings": advice(experiment),
        "missing": _reasons(experiment) | dict(missing or {}),
    } | made_now(start)
    return Result(kind, frames, columns, manifest)


def made_now(start: float) -> dict[str, Any]:
    """When a result was made, in how long and with what: of every manifest, an experiment's or not.

    Args:
        start: `time.perf_counter()` when the work began.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "executor": where(),
        "seconds": round(time.perf_counter() - start, 2),
        "versions": {p: version(p) for p in PACKAGES},
    }


def tolerance(model: Model, size: float = TYPICAL) -> float:
    """How far two computations of one thing may be apart: rounding grows with its size, and over layers as their root.

    Args:
        size: of what is compared; log-probabilities, the default, are about 10 in size.
    """
    relative = RELATIVE.get(model.dtype, RELATIVE[torch.bfloat16])
    return float(relative * max(size, TYPICAL) * max(1.0, model.n_layers / 2) ** 0.5)


def check(name: str, value: float, limit: float, section: str = "") -> dict[str, object]:
    """Something that must hold exactly, and how far it does: an entry of the manifest's checks.

    Args:
        section: title of the one section of the page that it concerns, where it does not concern all of it.
    """
    found = {"name": name, "value": float(value), "limit": float(limit), "passed": bool(value <= limit)}
    return found | ({"section": section} if section else {})


def _reasons(experiment: Experiment) -> dict[str, str]:
    reasons = {}
    groups = int(experiment.prompts.by_group.max()) + 1
    if groups < 2:
        what = "one prompt" if len(experiment.prompts) == 1 else "one group of prompts (copies, or one template)"
        reasons["intervals"] = f"{what} gives no interval over prompts, and nothing can be tested; give others"
    if not len(experiment.beside):
        reasons["references"] = "run with references=0: effects stand without reference vectors beside them"
    return reasons
