"""How many of the edges that a circuit claims are among the strongest of the effect: the overlap of both graphs.

All edges of the effect are scored by conductance (`conductance`); as many of the strongest are taken as the circuit
claims. How many both have stands beside what chance gives: circuits with as many edges between any two layers and kinds
of nodes (`consensus.profile`), a hypergeometric distribution for each such pair, convolved. Edges out of the input are
left out: a circuit's begin at the tokens, the effect's at the injection.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.errors import UnsupportedModel
from steerscope.analysis.question.experiment import Experiment

from .circuit import Circuit
from .conductance import edge_conductance
from .consensus import profile
from .contrast import contrast_of
from .enrichment import Matched, counted_in
from .map_columns import COLUMNS
from .masks import mask_of

NONE = "no circuit here claims single edges that the injection can reach"


def overlap_table(
    experiment: Experiment | None, circuits: Sequence[Circuit], points: int
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The columns of `overlap`, and why there are none.

    Args:
        points: gradients a prompt; 0 for no overlap.
    """
    empty = pd.DataFrame(columns=list(COLUMNS["overlap"]))
    exact = [circuit for circuit in circuits if circuit.level == "exact"]
    if experiment is None or not points:
        return empty, {"overlap": "asked of a saved result" if experiment is None else "run with overlap=0"}
    if not exact:
        return empty, {"overlap": NONE}
    try:
        contrast = contrast_of(experiment)
    except UnsupportedModel as reason:
        return empty, {"overlap": str(reason)}
    there = contrast.connected.copy()
    there[0] = False
    edges = np.flatnonzero(there)
    strata: list[Any] = profile(contrast).ravel()[edges].tolist()
    sizes = np.abs(edge_conductance(contrast, points=points).conductance.mean(-1)).ravel()[edges]
    rows = []
    for circuit in exact:
        members = mask_of(contrast, circuit).ravel()[edges]
        strongest = np.zeros(len(edges), dtype=bool)
        strongest[np.argsort(-sizes, kind="stable")[: int(members.sum())]] = True
        if not members.any():
            continue
        found = counted_in(Matched(strata, members), strongest)
        told = {"claimed": int(members.sum()), "tested": int(Matched(strata, members).tested.sum())}
        told |= {"shared": int((members & strongest).sum()), "shared_tested": int(found.value)}
        rows.append(
            {"circuit": circuit.name, **told, "expected": found.expected, "p": found.above, "least": found.least}
        )
    return pd.DataFrame(rows, columns=list(COLUMNS["overlap"])), {} if rows else {"overlap": NONE}
