"""A tree from left to right: boxes with their lines of text, what they are read by on their left."""

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import plotly.graph_objects as go

from steerscope.reports.theme import INK, figure, said

HIGH, WIDE = 62, 1.0  # of a box with its gap, in points; of a column
EDGE = "rgba(128,134,144,0.55)"
LEFT = 0.02  # of a column, before its boxes


@dataclass(frozen=True)
class Box:
    """One node of a tree.

    Attributes:
        lines: what stands in it.
        within: number of the box that it belongs to, which comes before it; -1 for the first.
        fill: its colour.
        about: what is known of it, for those who point at it.
        open: drawn with a broken line.
    """

    lines: Sequence[str]
    within: int
    fill: str
    about: str = ""
    open: bool = False


def tree(boxes: Sequence[Box]) -> go.Figure:
    """Boxes in columns by their depth; each stands in the middle of those that belong to it."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(boxes)))
    graph.add_edges_from((box.within, number) for number, box in enumerate(boxes) if 0 <= box.within < number)
    depth = {number: 0 for number in graph if not graph.in_degree(number)}
    for sender, receiver in nx.bfs_edges(nx.compose(graph, _rooted(graph)), -1):
        depth[receiver] = 0 if sender == -1 else depth[sender] + 1
    heights: dict[int, float] = {}
    row = 0.0
    for number in nx.dfs_postorder_nodes(_rooted(graph, all_of=True), -1):
        own = [heights[child] for child in graph.successors(number)] if number != -1 else []
        if number != -1 and not own:
            heights[number], row = row, row + 1
        elif number != -1:
            heights[number] = (own[0] + own[-1]) / 2
    columns = 1 + max(depth.values(), default=0)
    chart = figure(height=int(60 + HIGH * max(row, 1)), margin={"l": 8, "r": 8, "t": 10, "b": 10})
    for first, second in graph.edges:
        x0, x1 = depth[first] * WIDE + 0.2, depth[second] * WIDE + LEFT
        y0, y1 = heights[first], heights[second]
        middle = (x0 + x1) / 2
        path = f"M {x0} {y0} C {middle} {y0} {middle} {y1} {x1} {y1}"
        chart.add_shape(type="path", path=path, line={"color": EDGE, "width": 1.5}, layer="below")
    for number, box in enumerate(boxes):
        chart.add_annotation(
            x=depth[number] * WIDE + LEFT,
            y=heights[number],
            text="\n".join(box.lines),
            xanchor="left",
            align="left",
            showarrow=False,
            font={"size": 12, "color": INK},
            bgcolor=box.fill,
            bordercolor=EDGE if box.open else INK,
            borderwidth=1,
            borderpad=5,
        )
    chart.add_scatter(
        x=[depth[n] * WIDE + 0.12 for n in range(len(boxes))],
        y=[heights[n] for n in range(len(boxes))],
        mode="markers",
        marker={"size": 40, "opacity": 0, "color": INK},
        **said([box.about for box in boxes]),
    )
    chart.update_xaxes(visible=False, range=[-0.02, columns * WIDE], fixedrange=True)
    chart.update_yaxes(visible=False, range=[max(row, 1) - 0.4, -0.6], fixedrange=True)
    return chart


def _rooted(graph: "nx.DiGraph[int]", all_of: bool = False) -> "nx.DiGraph[int]":
    """The first boxes below one root, -1; with the others too."""
    found: nx.DiGraph[int] = nx.DiGraph()
    found.add_node(-1)
    found.add_edges_from((-1, number) for number in graph if not graph.in_degree(number))
    if all_of:
        found.add_edges_from(graph.edges)
    return found
