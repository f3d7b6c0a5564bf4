"""`Node`, a component that writes into the residual stream, and `Site`, where an activation is read or edited.

Both are parsed once, at the door, and print as they parse: `parse_node(str(node)) == node`.
"""

import re
from dataclasses import dataclass

from steerscope.analysis.errors import BadNode
from steerscope.analysis.gate import Whole, gated, shown

SCALES = ("ln1_scale", "ln2_scale", "final_scale")  # what a norm divides by
SITES = ("resid_pre", "q", "k", "v", "z", "attn_out", "mlp_out", "pattern", *SCALES)
PER_HEAD = ("q", "k", "v", "z", "pattern")
_NUMBER = "[0-9]{1,9}"


@gated(error=BadNode)
@dataclass(frozen=True, order=True)
class Node:
    """An attention head (`L5H3`) or an MLP (`L5M`, `head` is None)."""

    layer: Whole
    head: Whole | None = None

    @property
    def kind(self) -> str:
        return "mlp" if self.head is None else "head"

    @property
    def site(self) -> "Site":
        """Where the node's output is set: a head's `z`, an MLP's `mlp_out`."""
        return Site("mlp_out", self.layer) if self.head is None else Site("z", self.layer, self.head)

    def __str__(self) -> str:
        return f"L{self.layer}M" if self.head is None else f"L{self.layer}H{self.head}"


@gated(error=BadNode)
@dataclass(frozen=True)
class Site:
    """A place in the model: `L5.resid_pre`, `L5H3.q`, `L5H3.z`, `L5.attn_out`, `L5.mlp_out`, `L5H3.pattern`.

    Shapes of one row: resid_pre, attn_out, mlp_out `[pos, d_model]`; q, k, v, z `[pos, d_head]`;
    pattern `[query, key]`. Where query heads share keys and values (GQA), `head` of k and v counts
    key-value heads. q and k are what the projections give, before any rotation or norm of theirs.
    ln1_scale, ln2_scale `[pos, 1]`: what the norms before attention and MLP divide by; final_scale, of the
    last layer, the norm before the unembedding.
    """

    name: str
    layer: Whole
    head: Whole | None = None

    def __post_init__(self) -> None:
        if self.name not in SITES:
            raise BadNode(f"unknown site {shown(self.name)}; expected one of {', '.join(SITES)}; choose one of them")
        if (self.head is not None) != (self.name in PER_HEAD):
            need = "needs a head" if self.name in PER_HEAD else "has no heads"
            raise BadNode(
                f"site {self.name} {need}, got head={self.head}; expected for example "
                f"{_EXAMPLE[self.name]}; write it like this"
            )

    def __str__(self) -> str:
        head = "" if self.head is None else f"H{self.head}"
        return f"L{self.layer}{head}.{self.name}"


_EXAMPLE = {
    "resid_pre": "L5.resid_pre",
    "q": "L5H3.q",
    "k": "L5H3.k",
    "v": "L5H3.v",
    "z": "L5H3.z",
    "attn_out": "L5.attn_out",
    "mlp_out": "L5.mlp_out",
    "pattern": "L5H3.pattern",
    **{name: f"L5.{name}" for name in SCALES},
}


@gated(error=BadNode)
def parse_node(text: str) -> Node:
    """`L5H3` or `L5M` as a `Node`.

    Raises:
        BadNode: anything else.
    """
    match = re.fullmatch(rf"L({_NUMBER})(?:H({_NUMBER})|M)", text.strip())
    if not match:
        raise BadNode(
            f"{shown(text)} is no node; expected a head such as L5H3 or an MLP such as L5M; write one of these"
        )
    return Node(int(match[1]), None if match[2] is None else int(match[2]))


@gated(error=BadNode)
def parse_site(text: str) -> Site:
    """`L5.resid_pre`, `L5H3.z` and so on as a `Site`.

    Raises:
        BadNode: anything else.
    """
    match = re.fullmatch(rf"L({_NUMBER})(?:H({_NUMBER}))?\.(\w+)", text.strip())
    if not match:
        raise BadNode(f"{shown(text)} is no site; expected for example L5.resid_pre or L5H3.z; write one of these")
    return Site(match[3], int(match[1]), None if match[2] is None else int(match[2]))
