"""`edge_graph`: the edges of a result as a weighted `networkx.DiGraph` from the injection to the logits."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Count, gated
from steerscope.analysis.results.result import Result

if TYPE_CHECKING:
    Graph = nx.DiGraph[str]
else:  # networkx knows of vertices' types in its stubs alone
    Graph = nx.DiGraph
INJECTION, LOGITS = "injection", "logits"
ENDS = ((INJECTION, "sender", "sender_layer"), (LOGITS, "receiver", "receiver_layer"))
LAYERS, HEADS = ("sender_layer", "receiver_layer"), 1024
SENDER = re.compile(rf"{INJECTION}|L\d{{1,4}}(H\d{{1,4}}|M)", re.ASCII)
RECEIVER = re.compile(rf"{LOGITS}|L\d{{1,4}}(H\d{{1,4}}\.[qkv]|M)", re.ASCII)


@gated
def edge_graph(result: Result, strongest: Count = 40) -> Graph:
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

    Raises:
        BadArgument: a result of another kind, or one whose tables are not as `edges` makes them.
    """
    table, shared = _edges(result)
    size = table["effect"].abs()
    chosen = table.assign(size=size).nlargest(strongest, "size", keep="first")
    ends = {name: table.loc[table[side] == name, layer] for name, side, layer in ENDS}
    layers = {name: int(own.iloc[0]) for name, own in ends.items() if len(own)}
    return _on_a_way(wired(zip(chosen["sender"], chosen["receiver"], chosen["effect"], strict=True), shared, layers))


def wired(edges: Iterable[tuple[str, str, float]], shared: int, ends: Mapping[str, int]) -> Graph:
    """Edges into queries, keys, values, MLPs and the logits as one graph, a head's inputs joined.

    Args:
        edges: sender, receiver and weight.
        shared: how many query heads share a key-value head.
        ends: layers of the vertices that are no nodes: what is put in, and the logits.
    """
    graph: Graph = nx.DiGraph()
    for sender, receiver, weight in edges:
        vertex, name = _vertex(receiver, shared)
        _add(graph, sender, ends)
        _add(graph, vertex, ends)
        if not graph.has_edge(sender, vertex):
            graph.add_edge(sender, vertex, weight=0.0, inputs={})
        edge = graph.edges[sender, vertex]
        edge["weight"] += float(weight)
        edge["inputs"][name] = edge["inputs"].get(name, 0.0) + float(weight)
    _join_shared(graph, shared)
    return graph


def _edges(result: Result) -> tuple[pd.DataFrame, int]:
    """The table, and how many query heads share a key-value head; of a result that is as `edges` makes it."""
    table, shared = result.frames.get("edges"), result.manifest.get("shared", 1)
    if result.kind != "edges" or table is None:
        raise BadArgument(
            f"a graph of a result of kind {brief(result.kind)!r}; expected one of edges; make it with edges(experiment)"
        )
    names = {"sender": SENDER, "receiver": RECEIVER}
    wrong = [name for name in ("effect", *LAYERS) if name not in table or not is_numeric_dtype(table[name])]
    wrong += [name for name in LAYERS if name not in wrong and not np.isfinite(table[name].to_numpy(float)).all()]
    for name, form in names.items():
        if name not in table or not all(isinstance(x, str) and form.fullmatch(x) for x in table[name]):
            wrong.append(name)
    if not isinstance(shared, int) or not 1 <= shared <= HEADS:
        wrong.append("shared")
    if wrong:
        raise BadArgument(
            f"the edges of this result have something else in {', '.join(wrong)} than nodes, layers and numbers; "
            "expected them as edges(experiment) makes them; make them again"
        )
    return table, shared


def _vertex(receiver: str, shared: int) -> tuple[str, str]:
    match = re.fullmatch(r"(L\d+)H(\d+)\.([qkv])", receiver)
    if match is None:
        return receiver, "logits" if receiver == LOGITS else "mlp"
    if match[3] in "kv" and shared > 1:
        return f"{match[1]}KV{match[2]}", match[3]
    return f"{match[1]}H{match[2]}", match[3]


def _add(graph: Graph, vertex: str, ends: Mapping[str, int]) -> None:
    if vertex in ends:
        graph.add_node(vertex, kind="logits" if vertex == LOGITS else "injection", layer=ends[vertex])
    else:
        kind = "mlp" if vertex.endswith("M") else "shared" if "KV" in vertex else "head"
        graph.add_node(vertex, kind=kind, layer=int(re.findall(r"\d+", vertex)[0]))


def _join_shared(graph: Graph, shared: int) -> None:
    for vertex in [v for v, data in graph.nodes(data=True) if data["kind"] == "shared"]:
        layer, group = map(int, re.findall(r"\d+", vertex))
        for head in range(group * shared, (group + 1) * shared):
            if f"L{layer}H{head}" in graph:
                graph.add_edge(vertex, f"L{layer}H{head}", weight=0.0, inputs={})


def _on_a_way(graph: Graph) -> Graph:
    if INJECTION not in graph or LOGITS not in graph:
        return nx.DiGraph()
    after = nx.descendants(graph, INJECTION) | {INJECTION}
    before = nx.ancestors(graph, LOGITS) | {LOGITS}
    found: Graph = nx.DiGraph(graph.subgraph(after & before))
    return found
