"""`measured_circuit`: a circuit known by what its heads do, with the heads of one model that are found to do it."""

import networkx as nx
import pandas as pd

from steerscope.analysis.errors import BadArgument, BadCircuit
from steerscope.analysis.gate import gated, shown
from steerscope.analysis.results.result import Result

from .circuit import Circuit, Graph
from .library import circuit as named


@gated(error=BadCircuit)
def measured_circuit(circuit: Circuit | str, census: Result) -> Circuit:
    """The heads of a model that have the roles of a circuit's detectors, as a circuit of that model.

    A head is in it where the census claims the role of it: above threshold, controls and chance. No edges are claimed.

    Args:
        circuit: with detectors, such as "induction"; or its name.
        census: of the model, as `detect_heads` gives it.

    Returns:
        a circuit of confidence "ours"; `reported` holds the score of every head, and caveats name roles that no head
        has.

    Raises:
        BadCircuit: a circuit without detectors, a role that the census did not try, or no head that has any.
        BadArgument: a result that is no census.
    """
    asked = named(circuit) if isinstance(circuit, str) else circuit
    if census.kind != "head_census":
        raise BadArgument(f"a result of kind {shown(census.kind)}; expected head_census; make one with detect_heads")
    if not asked.detectors:
        raise BadCircuit(
            f"circuit {asked.name} has no detectors; expected roles that heads are found by; use it as it is"
        )
    scores, about = census.frames["scores"], census.manifest["model"]
    untried = sorted(set(asked.detectors.values()) - set(scores["role"]))
    if untried:
        raise BadCircuit(
            f"the census of {about['name']} did not try the role {untried[0]!r} of circuit {asked.name}; expected "
            f"{', '.join(asked.detectors.values())}; ask for it (causal=, topics=)"
        )
    graph: Graph = nx.DiGraph()
    reported: dict[str, float] = {}
    absent = []
    for role, detector in asked.detectors.items():
        rows = scores[(scores["role"] == detector) & scores["holds"]]
        for node, score in zip(rows["node"], rows["score"], strict=True):
            roles = graph.nodes[node]["roles"] if node in graph else ()
            graph.add_node(node, roles=(*roles, role), positions={})
            reported[f"{detector}, score of {node}"] = float(score)
        absent += [] if len(rows) else [_absent(role, scores[(scores["role"] == detector) & scores["beyond"]])]
    if not len(graph):
        raise BadCircuit(
            f"no head of {about['name']} is claimed to have a role of circuit {asked.name} "
            f"({', '.join(asked.detectors.values())}); expected at least one; see the census for what heads are "
            "beyond their controls, or take other thresholds"
        )
    sample = f"{census.manifest['sequences']} sequences of {census.manifest['length']} random tokens said twice"
    return Circuit(
        name=f"{asked.name} of {about['name']}",
        title=asked.title,
        model=about["name"],
        graph=graph,
        n_layers=about["n_layers"],
        n_heads=about["n_heads"],
        d_model=about["d_model"],
        task=asked.task,
        metric=asked.metric,
        confidence="ours",
        sources=[*asked.sources, f"head_census of {about['name']}: {sample}, seed {census.manifest['seed']}"],
        rivals=asked.rivals,
        detectors=asked.detectors,
        reported=reported,
        caveats=[
            *asked.caveats,
            *absent,
            "Roles say what heads do on random tokens, and not that the task needs them; no edges are claimed.",
        ],
    )


def _absent(role: str, beyond: pd.DataFrame) -> str:
    """A role that no head has, and which heads do something of it."""
    most = beyond.sort_values("score", ascending=False, kind="stable").head(3)
    named = ", ".join(f"{node} ({score:.2f})" for node, score in zip(most["node"], most["score"], strict=True))
    return f"No head is claimed to have the role {role!r}" + (f"; beyond their controls: {named}." if named else ".")
