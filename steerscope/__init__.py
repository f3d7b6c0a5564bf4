"""steerscope: how a steering vector works inside a transformer.

Public names are loaded when they are first used, so that `import steerscope` and the command line's
help cost nothing of torch.
"""

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from steerscope.questions import QUESTIONS

# No run reaches a network on its own; only a hub model that the user names does.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DISABLE_TELEMETRY", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

try:
    __version__ = version("steerscope")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

_HOME = {
    "load": "loader",
    "Model": "analysis.model.models",
    "Node": "analysis.model.nodes",
    "Site": "analysis.model.nodes",
    "Positions": "analysis.model.positions",
    "Layout": "analysis.model.positions",
    "steering_vector": "analysis.vectors.prompt_pair",
    "mean_difference": "analysis.vectors.mean_difference",
    "SteeringVector": "analysis.vectors.vector",
    "read_vector": "analysis.vectors.vector_files",
    "make_vector": "analysis.vectors.making",
    "make_bundle": "analysis.vectors.making",
    "build_vectors": "analysis.vectors.bulk",
    "iti": "analysis.vectors.iti",
    "random_like": "analysis.vectors.random",
    "Injection": "analysis.question.injection",
    "VectorBundle": "analysis.vectors.bundle",
    "bundle": "analysis.question.bundles",
    "everywhere": "analysis.question.bundles",
    "rotation": "analysis.question.bundles",
    "Prompts": "analysis.question.prompts",
    "prompts": "prompt_sets",
    "cost": "analysis.question.cost",
    "read_prompts": "analysis.question.prompt_files",
    "windows": "analysis.question.corpora",
    "generate": "analysis.question.generation",
    "generate_many": "analysis.question.generation",
    "Experiment": "analysis.question.experiment",
    "PerPrompt": "analysis.question.answers",
    "kl": "analysis.question.metrics",
    "log_prob": "analysis.question.metrics",
    "logit_direction": "analysis.question.metrics",
    "own_direction": "analysis.question.metrics",
    "perplexity": "analysis.question.metrics",
    "found_circuit": "circuits.found",
    "Edit": "analysis.engine.edits",
    "Variant": "analysis.engine.edits",
    "run": "analysis.engine.run",
    "executor": "analysis.engine.elsewhere",
    "Result": "analysis.results.result",
    "Column": "analysis.results.schema",
    "Lens": "analysis.lens.lens",
    "load_lens": "analysis.lens.lens",
    "edge_graph": "circuits.edge_graph",
    "Claim": "circuits.hypothesis",
    "Hypothesis": "circuits.hypothesis",
    "hypothesis": "circuits.hypotheses",
    "hypotheses": "circuits.hypotheses",
    "Circuit": "circuits.circuit",
    "circuit": "circuits.library",
    "circuits": "circuits",
    "task": "circuits.tasks",
    "tasks": "circuits.tasks",
    "detect_heads": "circuits.detect",
    "measured_circuit": "circuits.measured",
    "report": "reports.report",
    "SteerscopeError": "analysis.errors",
}
_RENAMED = {"steering_vector": "prompt_pair", "detect_heads": "head_census"}

__all__ = sorted([*_HOME, *QUESTIONS])


def __getattr__(name: str) -> Any:
    if name in QUESTIONS:
        question = QUESTIONS[name]
        value = importlib.import_module("steerscope.ask").door(question) if question.experiment else question.function
    elif name in _HOME:
        value = getattr(importlib.import_module(f"steerscope.{_HOME[name]}"), _RENAMED.get(name, name))
    else:
        raise AttributeError(f"module 'steerscope' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
