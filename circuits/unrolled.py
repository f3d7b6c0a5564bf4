"""`Unrolled`: the model as a tree in which every node, as its parent reads it, may be of another prompt.

1. A leaf is what a node writes in a plain run of the prompt that was drawn for it.
2. A node with children is run anew: the stream of a base run with the children's writes exchanged, through its norm,
   gives its query, key, value or the MLP's input; what it then writes goes on to its parent.
3. What the top claims write is exchanged in the final stream of a base run, which gives the answers' logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout, measure, run
from steerscope.analysis.model.nodes import Node, Site, parse_node
from steerscope.analysis.question.answers import padded, together
from steerscope.analysis.question.prompts import Prompts

from .hypothesis import EMBEDDING, Claim
from .scrub_data import Data, Rows, Shuffled

INPUTS = ("q", "k", "v")
Read = Float[NDArray[np.float64], "row kept"]


@dataclass(frozen=True)
class Step:
    """A claim as it is run.

    Attributes:
        drawn: whether its prompt is drawn anew, or stays that of its parent.
        own: what is not claimed of its inputs is that of its own prompt, and not of any.
    """

    claim: Claim
    children: tuple["Step", ...] = ()
    drawn: bool = True
    own: bool = False


class Answers:
    """Scores of answers. Of a run are kept: the logits of all answers, and the log of the sum over the vocabulary."""

    def __init__(self, prompts: Prompts, of: Sequence[tuple[int, Any]]) -> None:
        self.sides = [padded(side) for side in (prompts.targets, prompts.against) if side]
        self.ids = torch.unique(torch.cat([side[side >= 0] for side in self.sides]))
        rows = [tuple(map(tuple, (side[p].tolist() for side in self.sides))) for p, _ in of]
        self._kinds = list(dict.fromkeys(rows))  # prompts that are asked for the same
        number = {kind: n for n, kind in enumerate(self._kinds)}
        self._kind = np.array([number[row] for row in rows])

    def kept(self, readout: Readout) -> Tensor:
        assert readout.logits is not None
        logits = readout.logits.double()
        return torch.cat([logits[:, self.ids.to(logits.device)], logits.logsumexp(-1, keepdim=True)], dim=-1)

    def matrix(self, read: Read) -> Float[NDArray[np.float64], "row datum"]:
        """Log-odds of the answer of every datum in every run; its log-probability where it has no distractor."""
        logits, rows = torch.from_numpy(read), len(read)
        columns = []
        for kind in self._kinds:
            sides = [torch.searchsorted(self.ids, torch.tensor([i for i in side if i >= 0])) for side in kind]
            wanted, *others = (together(logits, side.expand(rows, -1)) for side in sides)
            columns.append(wanted - (others[0] if others else logits[:, -1]))
        return torch.stack(columns, dim=1).numpy()[:, self._kind]

    def compared(self, read: Read) -> Float[NDArray[np.float64], "row answer"]:
        """The logits of all answers, less their mean."""
        own = read[:, :-1]
        return np.asarray(own - own.mean(-1, keepdims=True))


class Unrolled:
    """Runs steps on rows of data.

    Attributes:
        plain: what comes out of the plain runs.
    """

    def __init__(self, data: Data, answers: Answers) -> None:
        self.data, self.answers, self.model = data, answers, data.dataset.model
        self.prompts, self.budget = data.dataset.prompts.full, data.dataset.budget
        self._masks: dict[Any, Tensor] = {}
        self._run_plain()

    def _run_plain(self) -> None:
        """Every datum once: what comes out, and what claimed nodes write."""
        count, length = len(self.data), self.data.length
        nodes = {name: None if name == EMBEDDING else parse_node(name) for name in self.data.nodes}
        sites = {name: ("resid_pre", 0) if n is None else (n.site.name, n.layer) for name, n in nodes.items()}
        variants = [self._variant(d) for d in range(count)]
        found = dict[str, Tensor]()
        self.plain: Read = np.empty((count, len(self.answers.ids) + 1))
        every = sorted(set(sites.values()))
        for chunk, readout in run(self.model, self.prompts, variants, sites=every, budget=self.budget):
            self.plain[chunk] = self.answers.kept(readout).cpu().numpy()
            for name, node in nodes.items():
                seen = readout.activations[sites[name]][: len(chunk)]
                own = seen if node is None or node.head is None else self._head(seen, node)
                if name not in found:
                    found[name] = own.new_zeros(count, length, own.shape[-1])
                found[name][chunk, : own.shape[1]] = own
        self._writes: dict[str, Float[Tensor, "datum pos d_model"]] = found

    def read(
        self,
        steps: Sequence[Step],
        references: Rows,
        own: bool,
        dice: np.random.Generator,
        shuffled: Shuffled | None = None,
    ) -> Read:
        """What comes out, for each reference."""
        base = references if own else self.data.any(references, dice)
        change = self._change(steps, references, base, dice, shuffled)
        site = Site("mlp_out" if self.model.has_mlp else "attn_out", self.model.n_layers - 1)
        return self._read([self._with(b, site, "add", value) for b, value in zip(base, change, strict=True)])

    def _change(
        self, steps: Sequence[Step], references: Rows, base: Rows, dice: np.random.Generator, shuffled: Shuffled | None
    ) -> Float[Tensor, "row pos d_model"]:
        """What is put into the stream of the base runs, so that it holds what the claims say."""
        model = self.model
        total = torch.zeros(len(base), self.data.length, model.d_model, dtype=model.dtype, device=model.device)
        for step in steps:
            drawn = self.data.alike(step.claim, references, dice, shuffled) if step.drawn else references
            new = self._written(step, drawn, dice, shuffled) - self._writes[step.claim.node][base]
            total += new * self._mask(step.claim)[base]
        return total

    def _written(
        self, step: Step, data: Rows, dice: np.random.Generator, shuffled: Shuffled | None
    ) -> Float[Tensor, "row pos d_model"]:
        """What a claimed node writes, for each datum."""
        if not step.children:
            return self._writes[step.claim.node][data]
        node = parse_node(step.claim.node)
        base = data if step.own else self.data.any(data, dice)
        given: list[list[Edit]] = [[] for _ in base]
        for by in INPUTS if node.head is not None else (None,):
            children = [child for child in step.children if child.claim.by == by]
            if children:
                change = self._change(children, data, base, dice, shuffled)
                for edits, edit in zip(given, self._read_as(node, by, change, base), strict=True):
                    edits.append(edit)
        if node.head is None:
            return self._padded([edits[0].value for edits in given])  # read as it is written
        z = self._seen([self._variant(b, *edits) for b, edits in zip(base, given, strict=True)], ("z", node.layer))
        return self._head(z, node)

    def _head(self, z: Float[Tensor, "row pos head d_head"], node: Node) -> Float[Tensor, "row pos d_model"]:
        out = self.model.bridge.blocks[node.layer].attn.W_O[node.head]
        return torch.einsum("rpd,dm->rpm", z[:, :, node.head], out.to(z))

    def _read_as(self, node: Node, by: str | None, change: Float[Tensor, "row pos d_model"], base: Rows) -> list[Edit]:
        """By row, the edit that sets an input of the node (or the output of an MLP) to what a changed stream gives."""
        model, layer = self.model, node.layer
        between = node.head is None and not model.parallel  # after attention, before the MLP
        site = Site("attn_out" if between else "resid_pre", layer)
        variants = [self._with(b, site, "add", value) for b, value in zip(base, change, strict=True)]
        if node.head is None:
            return [self._edit(b, node.site, "set", own) for b, own in self._of(base, variants, ("mlp_out", layer))]
        assert by is not None
        head = node.head * model.heads(by) // model.n_heads
        found = self._of(base, variants, (by, layer))
        return [self._edit(b, Site(by, layer, head), "set", own[:, head]) for b, own in found]

    def _of(self, base: Rows, variants: Sequence[Variant], site: tuple[str, int]) -> Any:
        return zip(base, self._seen(variants, site), strict=True)

    def _mask(self, claim: Claim) -> Float[Tensor, "datum pos 1"]:
        if claim.at not in self._masks:
            mask = torch.from_numpy(self.data.mask(claim))[:, :, None]
            self._masks[claim.at] = mask.to(dtype=self.model.dtype, device=self.model.device)
        return self._masks[claim.at]

    # What is run.

    def _variant(self, d: int, *edits: Edit) -> Variant:
        prompt, kind = self.data.of[d]
        return Variant(prompt, (*self.data.dataset.edits[kind][prompt], *edits))

    def _edit(self, d: int, site: Site, operation: Any, value: Tensor) -> Edit:
        return Edit(site, operation, value[: len(self.prompts[self.data.of[d][0]])])

    def _with(self, d: int, site: Site, operation: Any, value: Tensor) -> Variant:
        return self._variant(d, self._edit(d, site, operation, value))

    def _padded(self, rows: Sequence[Any]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.nn.functional.pad(row, (0, 0, 0, self.data.length - len(row))) for row in rows], batch_first=True
        )

    def _seen(self, variants: Sequence[Variant], site: tuple[str, int]) -> Float[Tensor, "row pos *width"]:
        found: Tensor | None = None
        for chunk, readout in run(self.model, self.prompts, variants, reads="none", sites=[site], budget=self.budget):
            seen = readout.activations[site]
            if found is None:
                found = seen.new_zeros(len(variants), self.data.length, *seen.shape[2:])
            found[chunk, : seen.shape[1]] = seen[: len(chunk)]
        assert found is not None
        return found

    def _read(self, variants: Sequence[Variant]) -> Read:
        read = measure(self.model, self.prompts, variants, None, self.answers.kept, budget=self.budget)
        return np.asarray(read.cpu().numpy(), dtype=float)


def pruned(claims: Sequence[Claim], path: Sequence[int], branch: bool) -> tuple[Step, ...]:
    """One claim alone, all that stands between it and the logits as it is: the steps to it.

    Args:
        branch: with the claims of what it reads.
    """
    claim = claims[path[0]]
    if len(path) > 1:
        return (Step(claim, pruned(claim.children, path[1:], branch), drawn=False, own=True),)
    return (Step(claim, whole(claim.children) if branch else ()),)


def whole(claims: Sequence[Claim]) -> tuple[Step, ...]:
    """All claims, as the hypothesis says."""
    return tuple(Step(claim, whole(claim.children)) for claim in claims)


def untouched(claims: Sequence[Claim]) -> tuple[Step, ...]:
    """All claims with nothing exchanged: it must be the model."""
    return tuple(Step(claim, untouched(claim.children), drawn=False, own=True) for claim in claims)
