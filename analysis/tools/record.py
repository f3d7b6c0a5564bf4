"""`record`: what a method found as a `Result`, with the manifest that all methods share."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch

from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Frames

PACKAGES = ("steerscope", "torch", "transformers", "transformer-lens", "scipy", "numpy")


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
    manifest = experiment.describe() | knobs
    manifest |= {
        "checks": [dict(c) for c in checks],
        "missing": _reasons(experiment) | dict(missing or {}),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 2),
        "versions": {p: version(p) for p in PACKAGES},
    }
    return Result(kind, frames, columns, manifest)


def tolerance(model: Model) -> float:
    """How far two computations of one thing may be apart, relatively."""
    return 1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2


def check(name: str, value: float, limit: float) -> dict[str, object]:
    """Something that must hold exactly, and how far it does: an entry of the manifest's checks."""
    return {"name": name, "value": float(value), "limit": float(limit), "passed": bool(value <= limit)}


def _reasons(experiment: Experiment) -> dict[str, str]:
    reasons = {}
    if len(experiment.prompts) < 2:
        reasons["intervals"] = "one prompt gives no interval over prompts; give more"
    if experiment.references == 0:
        reasons["references"] = "run with references=0: effects stand without random vectors beside them"
    return reasons
