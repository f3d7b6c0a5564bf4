"""`found_circuit`: a result of `find_circuit` as a `Circuit`, to be kept, shown, mapped and stressed."""

import re
from collections.abc import Iterable
from typing import Any

import networkx as nx

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.gate import gated
from steerscope.analysis.results.result import Result

from .circuit import LOGITS, Circuit, Graph

RECEIVER = re.compile(r"(L\d{1,4})(?:H(\d{1,4})\.([qkv])|M)", re.ASCII)


@gated(error=BadCircuit)
def found_circuit(result: Result, name: str = "found", title: str = "") -> Circuit:
    """The circuit that was found.

    An edge into keys or values that several query heads share is drawn to each of them that leads on.

    Args:
        result: of kind "find_circuit".
        name: short.
        title: what it does, in words.

    Raises:
        BadCircuit: a result of another kind, or of a circuit without edges.
    """
    if result.kind != "find_circuit":
        raise BadCircuit(
            f"a circuit of a result of kind {brief(result.kind)!r}; expected one of find_circuit; make it with "
            "find_circuit(model, task)"
        )
    manifest, table = result.manifest, result.frames["edges"]
    kept = table[table["kept"].astype(bool)]
    model: dict[str, Any] = dict(manifest["model"])
    group = max(1, int(model["n_heads"]) // int(model["n_kv_heads"]))
    graph = graph_of(zip(kept["sender"], kept["receiver"], kept["conductance"], strict=True), group)
    for node, looks in zip(result.frames["nodes"]["node"], result.frames["nodes"]["looks"], strict=True):
        graph.add_node(str(node), roles=(f"looks at {looks.split()[0]}" if looks else "member",))
    values = result.frames["circuit"]
    reported = {
        f"{r['measure']}, {r['ablation']}": float(r["value"]) for _, r in values.iterrows() if r["value"] == r["value"]
    }
    sizes: dict[str, Any] = {size: int(model[size]) for size in ("n_layers", "n_heads", "d_model")}
    effect = f"{manifest['effect']:.3g} {manifest['metric']['unit']}"
    return Circuit(
        name,
        title or f"found in {model['name']}: {manifest['what']}",
        str(model["name"]),
        graph,
        **sizes,
        level="exact",
        task=manifest.get("task"),
        metric=str(manifest["metric"]["name"]),
        confidence="ours",
        sources=(f"steerscope find_circuit, {manifest['versions']['steerscope']}",),
        reported=reported | {"edges": float(manifest["size"]), "effect": float(manifest["effect"])},
        caveats=(
            f"searched with {manifest['searched']} prompts, judged on {manifest['judged']}, effect {effect}; "
            f"{manifest['ablation']} ablation, {manifest['lost']:.0%} of the {manifest['by']} may be lost",
            *(() if manifest["each_edge_tried"] else ("not every edge was tried by itself",)),
        ),
    )


def graph_of(edges: Iterable[tuple[str, str, float]], shared: int) -> Graph:
    """Sender, receiver and score as a graph of `Circuit`: an edge into keys or values that heads share is one to each
    of them that leads on.

    Args:
        shared: how many query heads share a key-value head.
    """
    rows = [(str(sender), str(receiver), float(score)) for sender, receiver, score in edges]
    leads = {sender for sender, _, _ in rows}
    graph: Graph = nx.DiGraph()
    for sender, receiver, score in rows:
        for head, name in _readers(receiver, shared, leads):
            if not graph.has_edge(sender, head):
                graph.add_edge(sender, head, inputs=(), scores={})
            about = graph.edges[sender, head]
            about["scores"][name] = score
            about["inputs"] += (name,) if name else ()
    return graph


def _readers(receiver: str, group: int, leads: set[str]) -> list[tuple[str, str]]:
    """The nodes that an input belongs to, and its name there."""
    match = RECEIVER.fullmatch(receiver)
    if match is None:
        return [(LOGITS, "")]
    layer, head, name = match.groups()
    if head is None:
        return [(receiver, "")]
    if name == "q":
        return [(f"{layer}H{head}", name)]
    heads = [f"{layer}H{h}" for h in range(int(head) * group, (int(head) + 1) * group)]
    return [(own, name) for own in heads if own in leads]
