"""steerscope: how a steering vector works inside a transformer.

Public names are loaded when they are first used, so that `import steerscope` and the command line's
help cost nothing of torch.
"""

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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
    "Model": "analysis.models",
    "steering_vector": "analysis.vectors.prompt_pair",
    "SteeringVector": "analysis.vectors.vector",
    "random_like": "analysis.vectors.random",
    "Injection": "analysis.injection",
    "Positions": "analysis.positions",
    "Prompts": "analysis.prompts",
    "read_prompts": "analysis.prompts",
    "Experiment": "analysis.experiment",
    "localize": "analysis.attribution.localize",
    "writers": "analysis.attribution.writers",
    "freeze_attention": "analysis.attribution.ov_qk",
    "screen": "analysis.attribution.screen",
    "attribute": "analysis.attribution.attribute",
    "shapley": "analysis.attribution.shapley",
    "path_effect": "analysis.attribution.path_effect",
    "edges": "analysis.attribution.edges",
    "edge_graph": "analysis.attribution.edge_graph",
    "by_position": "analysis.attribution.positions",
    "sparsify": "analysis.attribution.sparsify",
    "self_repair": "analysis.attribution.self_repair",
    "trace": "analysis.trace",
    "breakdown": "analysis.breakdown.breakdown",
    "train_lens": "analysis.lens.train",
    "load_lens": "analysis.lens.lens",
    "Lens": "analysis.lens.lens",
    "plant": "circuits.planted",
    "sweep": "analysis.sweeps.runner",
    "windows": "analysis.corpora",
    "generate": "analysis.generation",
    "kl": "analysis.metrics",
    "log_prob": "analysis.metrics",
    "logit_direction": "analysis.metrics",
    "perplexity": "analysis.metrics",
    "Node": "analysis.nodes",
    "Site": "analysis.nodes",
    "Edit": "analysis.edits",
    "Variant": "analysis.edits",
    "run": "analysis.engine",
    "Result": "analysis.results",
    "report": "reports.report",
    "SteerscopeError": "analysis.errors",
}
_RENAMED = {"steering_vector": "prompt_pair"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steerscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"steerscope.{_HOME[name]}"), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
