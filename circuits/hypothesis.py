"""`Claim` and `Hypothesis`: a tree of claims about what nodes compute, which `scrub` tests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from steerscope.analysis.brief import brief, counted
from steerscope.analysis.errors import BadCircuit, BadNode
from steerscope.analysis.gate import Whole, gated, shown
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, parse_node

from .features import feature_of, where

EMBEDDING, LOGITS = "embedding", "logits"


@gated
@dataclass(frozen=True)
class Claim:
    """A node, as its parent reads it, computes a feature of the prompt.

    Attributes:
        node: a head (L1H0), an MLP (L0M), `embedding`, or a role of the hypothesis, which stands for all of its nodes.
        feature: in words (`token at S2`), or a function of a `Datum`; None for the prompt itself, so that nothing of
            it may be exchanged.
        by: through which input of its parent: q, k or v of a head; None of an MLP or the logits.
        at: places or positions of its write that are claimed; all by default.
        children: claims of what the node reads; none: its activation in a plain run.

    Raises:
        BadCircuit: a feature in words that is none.
    """

    node: str
    feature: Callable[..., Any] | str | None = None
    by: Literal["q", "k", "v"] | None = None
    at: tuple[Whole | str, ...] | None = None
    children: tuple["Claim", ...] = ()

    def __post_init__(self) -> None:
        feature_of(self.feature)

    def __len__(self) -> int:
        return 1 + sum(map(len, self.children))

    @property
    def name(self) -> str:
        """Its step of a path: `q:L0H0@END`."""
        at = where(self.at)
        return (f"{self.by}:" if self.by else "") + self.node + (f"@{at}" if at else "")


@gated(error=BadCircuit)
@dataclass(frozen=True, eq=False, repr=False)
class Hypothesis:
    """A tree of claims, of what the logits read at its top.

    Attributes:
        name: short.
        claims: at the top of the tree.
        title: what it says, in words.
        model, task: that it is about, by name; empty where it is of none in particular.
        roles: nodes by role; a claim of a role is one of each of its nodes.
        rivals: names of hypotheses that disagree.
        sources, reported, caveats: where it was read, its figures there, and what one must know.
    """

    name: str
    claims: tuple[Claim, ...]
    title: str = ""
    model: str = ""
    task: str = ""
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rivals: Sequence[str] = ()
    sources: Sequence[str] = ()
    reported: Mapping[str, float] = field(default_factory=dict)
    caveats: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"<Hypothesis {brief(self.name, 40)}: {counted(len(self), 'claim')}>"

    def __len__(self) -> int:
        return sum(map(len, self.tree))

    @property
    def tree(self) -> tuple[Claim, ...]:
        """Its claims, roles replaced by their nodes."""
        return self._of_nodes(self.claims)

    def _of_nodes(self, claims: Sequence[Claim]) -> tuple[Claim, ...]:
        return tuple(
            replace(claim, node=node, children=self._of_nodes(claim.children))
            for claim in claims
            for node in self.roles.get(claim.node, (claim.node,))
        )

    @gated(error=BadCircuit)
    def with_roles(self, roles: Mapping[str, Sequence[Node | str]]) -> "Hypothesis":
        """The same of other nodes, such as the roles of a measured circuit.

        Raises:
            BadCircuit: a role that it has not.
        """
        unknown = sorted(set(roles) - set(self.roles))
        if unknown:
            raise BadCircuit(
                f"hypothesis {self.name} has no role {shown(unknown[0])}; expected "
                f"{', '.join(self.roles) or 'none, it names nodes'}; leave it out"
            )
        return replace(self, roles={**self.roles, **{role: tuple(map(str, own)) for role, own in roles.items()}})


@dataclass(frozen=True)
class Place:
    """A claim at its place in the tree.

    Attributes:
        path: numbers of children, from the top.
        name: the path in words, `logits < L1H0 < q:L0H0@END`.
        within: number of the claim that reads it in the list of all; -1 for the logits.
    """

    claim: Claim
    path: tuple[int, ...]
    name: str
    within: int


def places(claims: Sequence[Claim]) -> list[Place]:
    """All claims of a tree, each before what it reads; names that are the same are numbered."""
    found: list[Place] = []
    _walk(claims, (), LOGITS, -1, found)
    seen: dict[str, int] = {}
    for number, place in enumerate(found):
        seen[place.name] = seen.get(place.name, 0) + 1
        if seen[place.name] > 1:
            found[number] = replace(place, name=f"{place.name} #{seen[place.name]}")
    return found


def _walk(claims: Sequence[Claim], path: tuple[int, ...], name: str, within: int, found: list[Place]) -> None:
    for number, claim in enumerate(claims):
        own = Place(claim, (*path, number), f"{name} < {claim.name}", within)
        found.append(own)
        _walk(claim.children, own.path, own.name, len(found) - 1, found)


def every(claims: Sequence[Claim]) -> Iterator[Claim]:
    """All claims of a tree."""
    for claim in claims:
        yield claim
        yield from every(claim.children)


def check_claim(model: Model, claim: Claim, parent: Node | None) -> None:
    """Refuses a claim that its parent cannot read.

    Raises:
        BadNode: what is claimed is not there, or not read.
    """
    node = None if claim.node == EMBEDDING else parse_node(claim.node)
    if node is not None:
        model.check(node.site)
    of = "the logits" if parent is None else str(parent)
    if (claim.by is not None) != (parent is not None and parent.head is not None):
        expected = "by='q', 'k' or 'v'" if parent is not None and parent.head is not None else "no by"
        raise BadNode(f"{claim.node}, read by {of} with by={claim.by!r}; expected {expected}; give that")
    if node is None and claim.children:
        raise BadNode(f"{EMBEDDING} with claims of what it reads; expected none: it reads tokens; leave them out")
    if node is not None and parent is not None and not _before(model, node, parent):
        raise BadNode(f"{node}, read by {of}, stands after it; expected a node before it; turn them round")
    for child in claim.children:
        check_claim(model, child, node)


def _before(model: Model, sender: Node, receiver: Node) -> bool:
    if sender.layer != receiver.layer:
        return sender.layer < receiver.layer
    return sender.head is not None and receiver.head is None and not model.parallel
