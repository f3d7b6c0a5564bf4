"""Circuits as sets of edges of a contrast, and back: which input reads which node."""

from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node

from .circuit import INPUT, LOGITS, Circuit
from .contrast import Contrast

Mask = Bool[NDArray[np.bool_], "sender receiver"]


def leaving(contrast: Contrast, members: Collection[Node]) -> Mask:
    """All edges that leave some nodes, and what is put in: a circuit of nodes."""
    inside = np.array([node is None or node in members for node in contrast.senders])
    return np.asarray(contrast.connected & inside[:, None])


def without(contrast: Contrast, mask: Mask, nodes: Collection[Node]) -> Mask:
    """The edges without those that leave some nodes."""
    outside = np.array([sender is None or sender not in nodes for sender in contrast.senders])
    return np.asarray(mask & outside[:, None])


def members(contrast: Contrast, mask: Mask) -> list[Node]:
    """The nodes that edges leave."""
    rows = zip(contrast.senders, np.any(mask, axis=1).tolist(), strict=True)
    return [node for node, there in rows if there and node is not None]


def claims(contrast: Contrast, circuit: Circuit) -> dict[tuple[int, int], float]:
    """Of each claimed edge that is there, where it stands in a mask, and its size by the circuit's own score (0 of one
    without). One that does not say by which input a head reads it is there for all three.
    """
    place = {str(node): s for s, node in enumerate(contrast.senders)} | {INPUT: 0}
    found: dict[tuple[int, int], float] = {}
    for sender, receiver, about in circuit.graph.edges(data=True):
        if sender not in place or (receiver != LOGITS and receiver not in place):
            continue  # before what is put in
        scores: Mapping[str, float] = about.get("scores", {})
        wanted = set(about.get("inputs") or scores) - {""}
        last = len(contrast.receivers) - 1
        readers = [last] if receiver == LOGITS else np.flatnonzero(contrast.owners[:, place[receiver]]).tolist()
        for r in readers:
            name = contrast.receivers[r].name
            if contrast.connected[place[sender], r] and (not wanted or name in wanted):
                at = place[sender], r
                found[at] = max(found.get(at, 0.0), abs(float(scores.get(name, scores.get("", 0.0)))))
    return found


def mask_of(contrast: Contrast, circuit: Circuit) -> Mask:
    """The edges of a circuit (`claims`); where it claims none by themselves (`level`), all that leave its nodes.

    Raises:
        BadCircuit: it is one of another model.
    """
    circuit.of(contrast.model)
    if circuit.level != "exact":
        return leaving(contrast, circuit.nodes)
    mask = np.zeros_like(contrast.connected)
    for at in claims(contrast, circuit):
        mask[at] = True
    return mask


def without_dead_ends(contrast: Contrast, mask: Mask, inputs: bool = True) -> Mask:
    """The edges that lie on a way from what is put in to the logits.

    Args:
        inputs: whether edges of nodes that read nothing go, too.
    """
    mask, own = np.asarray(mask & contrast.connected), contrast.owners
    while True:
        reads = np.asarray(own[mask.any(0)].any(0))  # nodes of which an input reads something
        reads[0] = True
        alive = np.asarray((own & mask.any(1)).any(1))  # inputs of nodes of which an edge leads on
        alive[-1] = True
        kept = mask & alive[None] & (reads[:, None] if inputs else True)
        if (kept == mask).all():
            return np.asarray(kept)
        mask = kept
