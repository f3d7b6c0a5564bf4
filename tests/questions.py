"""A question that any small model can be asked: two prompts of token ids, a random vector at their second and third
tokens.
"""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.vector import SteeringVector

PROMPTS = [[3, 14, 15, 9, 26, 5, 35], [2, 71, 82, 81, 8]]
TARGET = 11


def experiment(model: Model, layer: int = 0, site: str = "resid_pre", **options: Any) -> Experiment:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(2, model.width(Site("resid_pre", 0)), generator=generator)
    vector = SteeringVector(values, Site(site, layer), {"recipe": "given"})
    injection = Injection(vector, 1.5, positions=(1, 2))
    given: dict[str, Any] = {"metric": log_prob([TARGET]), "references": 0} | options
    return Experiment(model, (injection,), make_prompts(model, PROMPTS), **given)


def one(frame: pd.DataFrame, *columns: str) -> Callable[..., dict[str, Any]]:
    """Looks a row up by its values in some columns: `one(table, "node", "measure")("L0M", "necessity")`."""

    def row(*key: object) -> dict[str, Any]:
        (found,) = [r for r in frame.to_dict("records") if tuple(r[c] for c in columns) == key]
        return {str(name): value for name, value in found.items()}

    return row
