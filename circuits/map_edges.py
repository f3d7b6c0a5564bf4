"""The edges that a circuit claims, with the effect of each direct path: exact, as `path_effect` patches them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.errors import BadNode
from steerscope.analysis.model.nodes import parse_node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.stats import interval
from steerscope.analysis.routes.path_effect import Path, Receiver, check_path, exact_paths

from .carried import Carried
from .circuit import INPUT, LOGITS, Circuit, Graph
from .map_columns import COLUMNS

HEAD = ("q", "k", "v")


def edge_table(
    carried: Carried, circuits: Sequence[Circuit], most: int, options: Statistics, experiment: Experiment | None
) -> pd.DataFrame:
    """The columns of `edges`.

    Args:
        most: edges of each circuit that are patched, those that it scores highest first.
    """
    tables = [_edges(carried, circuit, most, options, experiment) for circuit in circuits]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS["edges"]))


def _edges(
    carried: Carried, circuit: Circuit, most: int, options: Statistics, experiment: Experiment | None
) -> pd.DataFrame:
    graph: Graph = circuit.graph
    claimed = list(graph.edges(data=True))
    scores = [
        float(np.abs([*about["scores"].values()]).sum()) if about.get("scores") else np.nan for *_, about in claimed
    ]
    order = np.argsort(-np.nan_to_num(scores), kind="stable")
    paths: dict[int, Path] = {}
    for place in order if experiment is not None else ():
        path = _path(experiment, *claimed[place])
        if path is not None and len(paths) < most:
            paths[int(place)] = path
    values = exact_paths(experiment, list(paths.values())) if experiment is not None and paths else None
    rows: list[dict[str, Any]] = []
    for m, measure in enumerate(carried.measures):
        for place, (sender, receiver, about) in enumerate(claimed):
            row: dict[str, Any] = {"sender": str(sender), "receiver": str(receiver), "measure": measure}
            row |= {"inputs": ", ".join(about.get("inputs", ())), "score": scores[place]}
            if values is not None and place in paths and carried.basis is not None:
                own = values[m, list(paths).index(place)]
                low, high = interval(own, options.level, carried.basis.groups)
                share = own.mean() / carried.total if carried.clear else np.nan
                row |= {"effect": own.mean(), "low": float(low), "high": float(high), "share": float(share)}
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS["edges"])).assign(circuit=circuit.name)


def _path(experiment: Experiment | None, sender: str, receiver: str, about: dict[str, Any]) -> Path | None:
    """A claimed edge as a path of this model; None where the injection cannot reach it, or it begins at the tokens."""
    if experiment is None or sender == INPUT:
        return None
    node = None if receiver == LOGITS else parse_node(receiver)
    inputs = tuple(name for name in HEAD if name in about.get("inputs", ())) or HEAD
    path = parse_node(sender), Receiver(node, inputs if node is not None and node.head is not None else ())
    try:
        check_path(experiment, *path)
    except BadNode:
        return None
    return path
