"""Flow through every node, on an experiment's metric, against exact patching of the node.

Flow is close to the mean of necessity and sufficiency, which are not additive: it splits evenly what both runs do.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.scores import Projection
from steerscope.analysis.tools.patching import MEASURES, patched

from .batches import alike, two_runs
from .flow import flow
from .form import Form
from .readouts import Rows
from .stack import stack

MOST = 12  # prompts that are patched


@dataclass(frozen=True, eq=False)
class Patched:
    """By node, means over prompts.

    Attributes:
        correlation: of flow with the mean of necessity and sufficiency, over nodes; NaN for fewer than three.
        heads: the same over heads alone.
    """

    table: pd.DataFrame
    prompts: int
    correlation: float
    heads: float

    def describe(self) -> dict[str, Any]:
        """What the manifest says."""
        found = {"correlation": self.correlation, "heads": self.heads}
        return {"prompts": self.prompts, "nodes": len(self.table)} | {k: v for k, v in found.items() if v == v}


def against_patching(experiment: Experiment, model: Form) -> Patched | None:
    """The audit of flow; None where no projection of the logits is measured (a model that caps them)."""
    score = experiment.along if isinstance(experiment.along, Projection) else experiment.own(0)
    if not isinstance(score, Projection):
        return None
    chosen = list(range(min(len(experiment.prompts), MOST)))
    nodes, edits = experiment.reachable, experiment.edits(0)
    sources = dict(zip(MEASURES, (experiment.patches(v, nodes) for v in (None, 0)), strict=True))
    variants = [patched(m, p, edits, [sources[m][node][p]]) for m in MEASURES for node in nodes for p in chosen]
    values = experiment.scores(variants, [score])[:, 0].reshape(len(MEASURES), len(nodes), len(chosen))
    necessity = experiment.value(0, score)[chosen] - values[0]
    sufficiency = values[1] - experiment.value(None, score)[chosen]
    own = _flows(experiment, model, score, chosen)
    ours = np.array([own[node] for node in nodes])
    table = pd.DataFrame(
        {
            "node": [str(node) for node in nodes],
            "ours": ours.mean(axis=1),
            "necessity": necessity.mean(axis=1),
            "sufficiency": sufficiency.mean(axis=1),
        }
    )
    table["reference"] = (table["necessity"] + table["sufficiency"]) / 2
    heads = table[[node.head is not None for node in nodes]]
    return Patched(table, len(chosen), _correlation(table), _correlation(heads))


def _correlation(table: pd.DataFrame) -> float:
    if len(table) < 3 or table["ours"].std() == 0 or table["reference"].std() == 0:
        return float("nan")
    return float(np.corrcoef(table["ours"], table["reference"])[0, 1])


def _flows(
    experiment: Experiment, model: Form, score: Projection, chosen: list[int]
) -> dict[Node, NDArray[np.float64]]:
    """By node, flow on a projection: of each prompt, the mean over its scored positions."""
    positions = experiment.scored_positions.positions
    first = np.concatenate([[0], np.cumsum([len(own) for own in positions])])
    total = {node: np.zeros(len(chosen)) for node in experiment.model.nodes}
    for prompts in alike(experiment, chosen):
        form, found = two_runs(experiment, model, prompts)
        asked = [(b, i, first[p] + n) for b, p in enumerate(prompts) for n, i in enumerate(positions[p])]
        b, i, place = (torch.tensor(column, device=experiment.model.device) for column in zip(*asked, strict=True))
        reads = score.along[score.which[place]].double()
        nothing = torch.zeros(len(b), dtype=reads.dtype, device=reads.device)
        through = flow(stack(form, found), Rows(b, i, torch.full_like(b, -1), reads, nothing, nothing, nothing))
        weight = 1 / np.array([len(positions[p]) for p in prompts])[b.cpu().numpy()]
        for node in total:
            own = through.mlps[node.layer] if node.head is None else through.heads[node.layer][:, node.head]
            means = np.bincount(b.cpu().numpy(), own.cpu().numpy() * weight, minlength=len(prompts))
            total[node][[chosen.index(p) for p in prompts]] = means
    return total
