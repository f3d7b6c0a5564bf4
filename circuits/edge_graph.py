"""`edge_graph`: the edges of a result as a weighted `networkx.DiGraph` from the injection to the logits."""

import re

import networkx as nx
import pandas as pd

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.results.result import Result

INJECTION, LOGITS = "injection", "logits"


def edge_graph(result: Result, strongest: int = 40) -> "nx.DiGraph[str]":
    """The strongest edges that lie on a way from the injection to the logits.

    A head's inputs are joined: an edge's `weight` is the sum of its scores, `inputs` says which of q, k and v has how
    much of it. Keys and values that several query heads share are a vertex of their own (`L2KV1`), with an edge of
    weight 0 to each of these heads.

    Args:
        result: of kind "edges".
        strongest: how many edges to begin with, by size; those that lead nowhere are left out.

    Returns:
        a graph whose vertices have `layer` and `kind` (injection, head, mlp, shared, logits); those that lie on no
        way are not there.
    """
    if result.kind != "edges" or strongest < 1:
        raise BadArgument(
            f"a graph of the {strongest} strongest edges of a result of kind {result.kind!r}; expected at least 1, "
            "and edges; make it with edges(experiment)"
        )
    table = result.frames["edges"]
    size = table["effect"].abs()
    chosen = table.assign(size=size).nlargest(strongest, "size", keep="first")
    shared = int(result.manifest.get("shared", 1))
    graph: nx.DiGraph[str] = nx.DiGraph()
    for sender, receiver, weight in zip(chosen["sender"], chosen["receiver"], chosen["effect"], strict=True):
        vertex, name = _vertex(receiver, shared)
        _add(graph, sender, table)
        _add(graph, vertex, table)
        if not graph.has_edge(sender, vertex):
            graph.add_edge(sender, vertex, weight=0.0, inputs={})
        edge = graph.edges[sender, vertex]
        edge["weight"] += float(weight)
        edge["inputs"][name] = edge["inputs"].get(name, 0.0) + float(weight)
    _join_shared(graph, shared)
    return _on_a_way(graph)


def _vertex(receiver: str, shared: int) -> tuple[str, str]:
    match = re.fullmatch(r"(L\d+)H(\d+)\.([qkv])", receiver)
    if match is None:
        return receiver, "logits" if receiver == LOGITS else "mlp"
    if match[3] in "kv" and shared > 1:
        return f"{match[1]}KV{match[2]}", match[3]
    return f"{match[1]}H{match[2]}", match[3]


def _add(graph: "nx.DiGraph[str]", vertex: str, table: pd.DataFrame) -> None:
    if vertex in graph:
        return
    if vertex == INJECTION:
        rows = table[table["sender"] == INJECTION]
        graph.add_node(vertex, kind="injection", layer=int(rows["sender_layer"].iloc[0]))
    elif vertex == LOGITS:
        layer = int(table.loc[table["receiver"] == LOGITS, "receiver_layer"].iloc[0])
        graph.add_node(vertex, kind="logits", layer=layer)
    else:
        kind = "mlp" if vertex.endswith("M") else "shared" if "KV" in vertex else "head"
        graph.add_node(vertex, kind=kind, layer=int(re.findall(r"\d+", vertex)[0]))


def _join_shared(graph: "nx.DiGraph[str]", shared: int) -> None:
    for vertex in [v for v, data in graph.nodes(data=True) if data["kind"] == "shared"]:
        layer, group = map(int, re.findall(r"\d+", vertex))
        for head in range(group * shared, (group + 1) * shared):
            if f"L{layer}H{head}" in graph:
                graph.add_edge(vertex, f"L{layer}H{head}", weight=0.0, inputs={})


def _on_a_way(graph: "nx.DiGraph[str]") -> "nx.DiGraph[str]":
    if INJECTION not in graph or LOGITS not in graph:
        return nx.DiGraph()
    after = nx.descendants(graph, INJECTION) | {INJECTION}
    before = nx.ancestors(graph, LOGITS) | {LOGITS}
    found: nx.DiGraph[str] = nx.DiGraph(graph.subgraph(after & before))
    return found
