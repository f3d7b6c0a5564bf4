"""`Unit`: what a sweep injects into: a head, an MLP, or (mode shared) all heads of a layer at once."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerscope.analysis.errors import BadNode
from steerscope.analysis.model.nodes import Node, Site, parse_node

if TYPE_CHECKING:  # tables name units where no model is
    from steerscope.analysis.model.models import Model

EXPECTED = "all, heads, mlps, or a list such as L0H1,L2M,L3-L5"


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

    @classmethod
    def parse(cls, name: str) -> "Unit":
        """A unit by its name."""
        if name.endswith("A"):
            return cls(name, "attention", Site("attn_out", int(name[1:-1])))
        return of_node(parse_node(name))


def of_node(node: Node) -> Unit:
    """A head (at its `z`) or an MLP (at its output)."""
    return Unit(str(node), node.kind, node.site)


def units(model: "Model", shared: bool, wanted: str | Sequence[str] = "all") -> tuple[Unit, ...]:
    """The units of a model that are wanted, layer by layer.

    Args:
        shared: heads of a layer are one unit, since a vector added to one is added to all.
        wanted: all, heads, mlps, or names: nodes, layers (`L3`) and ranges of layers (`L3-L5`).

    Raises:
        BadNode: a name that says nothing here.
    """
    if shared:
        kinds = "AM" if model.has_mlp else "A"
        known = tuple(Unit.parse(f"L{layer}{kind}") for layer in range(model.n_layers) for kind in kinds)
    else:
        known = tuple(of_node(node) for node in model.nodes)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    items = [item.strip() for name in names for item in name.split(",")]
    chosen = {unit for item in items for unit in _matching(known, item, model, shared)}
    return tuple(unit for unit in known if unit in chosen)


def _matching(known: Sequence[Unit], item: str, model: "Model", shared: bool) -> list[Unit]:
    span = re.fullmatch(r"L(\d+)(?:-L?(\d+))?", item)
    if item == "all":
        found = list(known)
    elif item in ("heads", "mlps"):
        found = [unit for unit in known if (unit.kind == "mlp") == (item == "mlps")]
    elif span:
        first, last = int(span[1]), int(span[2] or span[1])
        found = [unit for unit in known if first <= unit.layer <= last]
    else:
        found = [unit for unit in known if unit.name == item]
    if not found:
        hint = "; in mode shared the heads of layer 3 together are L3A" if shared else ""
        raise BadNode(f"{item!r} names nothing that a sweep of {model.name} can inject into; expected {EXPECTED}{hint}")
    return found
