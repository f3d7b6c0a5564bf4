"""`Unit`: what a sweep injects into: a head, an MLP, or (mode shared) all heads of a layer at once."""

import re
from dataclasses import dataclass

from steerscope.analysis.gate import gated
from steerscope.analysis.model.nodes import Node, Site, parse_node


@gated
@dataclass(frozen=True)
class Unit:
    """A place that a trial may inject into.

    Attributes:
        name: `L5H3`, `L5M`, or `L5A` for the attention of a layer, all its heads together.
        kind: head, mlp or attention.
        site: where its addition goes.
    """

    name: str
    kind: str
    site: Site

    @property
    def layer(self) -> int:
        return self.site.layer

    @property
    def head(self) -> int | None:
        return self.site.head

    @staticmethod
    @gated
    def parse(name: str) -> "Unit":
        """A unit by its name.

        Raises:
            BadNode: it is none.
        """
        attention = re.fullmatch(r"L([0-9]{1,6})A", name)
        if attention:
            return Unit(name, "attention", Site("attn_out", int(attention[1])))
        return of_node(parse_node(name))


@gated
def of_node(node: Node) -> Unit:
    """A head (at its `z`) or an MLP (at its output)."""
    return Unit(str(node), node.kind, node.site)
