"""What goes on inside a claimed circuit, without steering and under it: its roles, its edges, where its heads look.

1. Roles: the share of what the input decides that is lost when the nodes of a role alone carry the counterfactual's
   values (completeness).
2. Edges: the same for single edges that the circuit claims, the strongest by its own scores.
3. Looks: mean attention of its heads from the last position to the named places of the task, in the clean prompts.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from steerscope.analysis.results.stats import interval, ratio_interval

from .circuit import INPUT, Circuit
from .conditions import Condition
from .looks import attended
from .masks import Mask, claims, members

WHOLE = "(whole circuit)"
Row = dict[str, Any]


def role_rows(circuit: Circuit | None, mask: Mask, edges: bool, here: Condition, level: float) -> Iterator[Row]:
    """Completeness of the whole circuit, then of each of its roles.

    Args:
        edges: whether the circuit claims single edges: then the whole is cut at these.
    """
    nodes = members(here.runs.contrast, mask) if circuit is None else circuit.nodes
    roles = {} if circuit is None else circuit.roles
    left = here.left(mask, [nodes, *roles.values()])
    left = [left[0 if edges else 1], *left[2:]]
    whole = left[0].whole
    lost = np.stack([whole - own.part for own in left])
    low, high = ratio_interval(lost, whole, level, here.pairs.groups)
    for row, (name, own) in enumerate({WHOLE: (), **roles}.items()):
        known = bool(np.isfinite(low[row]))
        value = float(lost[row].mean() / whole.mean()) if known else float("nan")
        share = value / float(lost[0].mean() / whole.mean()) if known and low[0] > 0 else float("nan")
        about = {"role": name, "nodes": ", ".join(map(str, own)), "completeness": value}
        yield about | {"low": float(low[row]), "high": float(high[row]), "share": share}


def edge_rows(circuit: Circuit | None, here: Condition, most: int, level: float) -> Iterator[Row]:
    """What is lost when a single claimed edge carries the counterfactual's values, the strongest first.

    Args:
        most: how many edges.
    """
    chosen = [] if circuit is None or circuit.level != "exact" else _strongest(circuit, here)[:most]
    if not chosen:
        return
    full = here.runs.contrast.connected
    masks = []
    for _, _, s, r in chosen:
        mask = full.copy()
        mask[s, r] = False
        masks.append(mask)
    left = here.explained(masks)
    lost = np.stack([own.whole - own.part for own in left])
    low, high = ratio_interval(lost, left[0].whole, level, here.pairs.groups)
    for row, (sender, receiver, _, _) in enumerate(chosen):
        known = np.isfinite(low[row])
        value = float(lost[row].mean() / left[0].whole.mean()) if known else float("nan")
        yield {"sender": sender, "receiver": receiver, "lost": value, "low": float(low[row]), "high": float(high[row])}


def _strongest(circuit: Circuit, here: Condition) -> list[tuple[str, str, int, int]]:
    """Claimed edges with the places of each in a mask, the strongest by the circuit's own scores first."""
    contrast = here.runs.contrast
    names = [INPUT, *map(str, contrast.senders[1:])]
    found = [(-size, names[s], str(contrast.receivers[r]), s, r) for (s, r), size in claims(contrast, circuit).items()]
    return [edge[1:] for edge in sorted(found)]


def look_rows(circuit: Circuit | None, here: Condition, level: float) -> Iterator[Row]:
    """Mean attention of the circuit's heads, by named place; nothing where prompts have none."""
    nodes = () if circuit is None else circuit.nodes
    role = {} if circuit is None else {node: name for name, own in circuit.roles.items() for node in own}
    for node, on in attended(here.runs.contrast, nodes, here.pairs.places).items():
        for name, values in on.items():
            low, high = interval(values, level, here.pairs.groups)
            told = {
                "node": str(node),
                "layer": node.layer,
                "head": node.head,
                "role": role.get(node, ""),
                "place": name,
            }
            yield told | {"attention": float(values.mean()), "low": float(low), "high": float(high)}
