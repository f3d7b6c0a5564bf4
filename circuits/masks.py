"""Circuits as sets of edges of a contrast, and back: which input reads which node."""

from collections.abc import Collection, Mapping
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node, parse_node

from .circuit import INPUT, LOGITS, Circuit, Graph
from .contrast import Contrast

Mask = Bool[NDArray[np.bool_], "sender receiver"]


def owners(contrast: Contrast) -> Bool[NDArray[np.bool_], "receiver sender"]:
    """Which nodes an input is one of; keys and values may be of several heads. The logits are of none."""
    group = contrast.model.n_heads // contrast.model.n_kv_heads
    found = np.zeros((len(contrast.receivers), len(contrast.senders)), dtype=bool)
    for r, receiver in enumerate(contrast.receivers):
        for s, node in enumerate(contrast.senders):
            if node is None or node.layer != receiver.layer or (node.head is None) != (receiver.head is None):
                continue
            if node.head is None or receiver.head == (node.head if receiver.name == "q" else node.head // group):
                found[r, s] = True
    return found


def leaving(contrast: Contrast, members: Collection[Node]) -> Mask:
    """All edges that leave some nodes, and what is put in: a circuit of nodes."""
    inside = np.array([node is None or node in members for node in contrast.senders])
    return np.asarray(contrast.connected & inside[:, None])


def mask_of(contrast: Contrast, circuit: Circuit) -> Mask:
    """The edges of a circuit; where it claims none by themselves (`level`), all that leave its nodes.

    An edge that does not say by which input a head reads it is there for all three.

    Raises:
        BadCircuit: it is one of another model.
    """
    circuit.of(contrast.model)
    if circuit.level != "exact":
        return leaving(contrast, circuit.nodes)
    mask = np.zeros_like(contrast.connected)
    place = {str(node): s for s, node in enumerate(contrast.senders)}
    place[INPUT] = 0
    own = owners(contrast)
    for sender, receiver, about in circuit.graph.edges(data=True):
        if sender not in place or (receiver != LOGITS and receiver not in place):
            continue  # before what is put in
        if receiver == LOGITS:
            mask[place[sender], -1] = True
            continue
        wanted = about.get("inputs") or about.get("scores") or ()
        for r in np.flatnonzero(own[:, place[receiver]]):
            if not wanted or contrast.receivers[r].name in wanted or parse_node(receiver).head is None:
                mask[place[sender], r] = True
    return mask & contrast.connected


def graph_of(contrast: Contrast, mask: Mask, scores: Float[NDArray[np.float64], "sender receiver"]) -> Any:
    """The edges as a graph of `Circuit`: an edge into keys or values that heads share is one to each that leads on."""
    graph: Graph = nx.DiGraph()
    own, leads = owners(contrast), np.asarray(mask.any(1))
    names = [INPUT, *map(str, contrast.senders[1:])]
    for s, name in enumerate(names[1:], start=1):
        if leads[s]:
            graph.add_node(name, roles=("member",))
    for s, r in zip(*np.nonzero(mask), strict=True):
        receiver = contrast.receivers[r]
        heads = [LOGITS] if receiver.name == "logits" else [names[t] for t in np.flatnonzero(own[r] & leads)]
        for head in heads:
            _join(graph, names[s], head, receiver.name if receiver.head is not None else "", float(scores[s, r]))
    return graph


def _join(graph: Any, sender: str, receiver: str, name: str, score: float) -> None:
    if not graph.has_edge(sender, receiver):
        graph.add_edge(sender, receiver, inputs=(), scores={})
    edge: Mapping[str, Any] = graph.edges[sender, receiver]
    edge["scores"][name] = score
    graph.edges[sender, receiver]["inputs"] = (*edge["inputs"], *((name,) if name else ()))


def without_dead_ends(contrast: Contrast, mask: Mask, inputs: bool = True) -> Mask:
    """The edges that lie on a way from what is put in to the logits.

    Args:
        inputs: whether edges of nodes that read nothing go, too.
    """
    mask = mask & contrast.connected
    own = owners(contrast)
    while True:
        leads = np.asarray(mask.any(1))  # senders of which an edge leads on
        reads = np.array([s == 0 or mask[:, own[:, s]].any() for s in range(len(contrast.senders))])
        alive = np.array([r == mask.shape[1] - 1 or leads[own[r]].any() for r in range(mask.shape[1])])
        kept = mask & alive[None] & (reads[:, None] if inputs else True)
        if (kept == mask).all():
            return np.asarray(kept)
        mask = kept
