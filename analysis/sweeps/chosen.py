"""Which units of a model a sweep may inject into."""

import re
from collections.abc import Mapping, Sequence

from steerscope.analysis.errors import BadArgument, BadNode
from steerscope.analysis.gate import gated, shown
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.vectors.vector import SteeringVector

from .additions import Given
from .units import Unit, of_node

EXPECTED = "all, heads, mlps, or a list such as L0H1,L2M,L3-L5"


@gated
def units(model: Model, shared: bool, wanted: str | Sequence[Node | str] = "all") -> tuple[Unit, ...]:
    """The units of a model that are wanted, layer by layer.

    Args:
        shared: heads of a layer are one unit, since a vector added to one is added to all.
        wanted: all, heads, mlps, or names: nodes, layers (`L3`) and ranges of layers (`L3-L5`).

    Raises:
        BadNode: a name that says nothing here, or no name.
    """
    if shared:
        kinds = "AM" if model.has_mlp else "A"
        known = tuple(Unit.parse(f"L{layer}{kind}") for layer in range(model.n_layers) for kind in kinds)
    else:
        known = tuple(of_node(node) for node in model.nodes)
    names = [wanted] if isinstance(wanted, str) else list(map(str, wanted))
    items = [item.strip() for name in names for item in name.split(",")]
    if not items:
        raise BadNode(f"no nodes to inject into; expected {EXPECTED}; name some")
    chosen = {unit for item in items for unit in _matching(known, item, model, shared)}
    return tuple(unit for unit in known if unit in chosen)


@gated
def units_given(model: Model, vectors: Sequence[SteeringVector | Given]) -> tuple[Unit, ...]:
    """The units that dictionaries from nodes to vectors are about.

    Raises:
        BadArgument: different ones in each, or none.
        BadNode: a name that is none.
    """
    names = [sorted(map(str, v)) for v in vectors if isinstance(v, Mapping)]
    if not names or not names[0] or any(n != names[0] for n in names):
        raise BadArgument(
            "mode given got dictionaries with different nodes, or none; expected the same nodes in each; fill "
            "in zeros where nothing is added"
        )
    known = {str(node): of_node(node) for node in model.nodes}
    wrong = [name for name in names[0] if name not in known]
    if wrong:
        raise BadNode(
            f"{shown(wrong[0])} is no node of {model.name}; expected heads such as L0H1 or MLPs such as L0M; mend "
            "the dictionary"
        )
    return tuple(known[name] for name in known if name in set(names[0]))


def _matching(known: Sequence[Unit], item: str, model: Model, shared: bool) -> list[Unit]:
    span = re.fullmatch(r"L([0-9]{1,6})(?:-L?([0-9]{1,6}))?", item)
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
        hint = "; in mode shared the heads of layer 3 together are L3A" if shared else "; mend the name"
        raise BadNode(
            f"{shown(item)} names nothing that a sweep of {model.name} can inject into; expected {EXPECTED}{hint}"
        )
    return found
