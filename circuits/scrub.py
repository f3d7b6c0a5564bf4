"""`scrub`: causal scrubbing: how much of a behaviour a hypothesis explains, by resampling all that it calls irrelevant.

A hypothesis is a tree of claims: a node, as its parent reads it, computes a feature of the prompt and nothing else.

1. From the logits down, a claim made for a prompt x gives every child a prompt that is drawn uniformly from those with
   the same feature as x (x too): the model is unrolled, and no two paths share a draw.
2. All inputs of a node that nothing is claimed of come from one prompt drawn from all, afresh for every node.
3. Leaves are activations of a plain run. A node with children is run anew: its inputs are the drawn stream with the
   children's writes exchanged, through its norm.
4. Scored by the answer of x: score s. Recovered: (s - r) / (m - r), m the score of the model, r that of the model on
   any prompt with x's answer.
5. Scores hide cancellation and saturate, so the outputs themselves are compared, too: 1 - E(f_scrubbed - f)^2 /
   E(f(y) - f(x))^2 over the logits of all answers, less their mean.

Under steering every run carries the injection ("stands"), or prompts are counted steered and unsteered, and a feature
may tell the two apart ("feature").

Source: Chan, Garriga-Alonso et al. 2022 (causal scrubbing); Scheurer et al. 2023 on cancellation.
What it cannot see: a claim that is finer than the truth stands as well as the true one.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.brief import brief, counted
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadArgument, BadNode, BadPrompt, UnsupportedModel
from steerscope.analysis.gate import Count, Level, Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site, parse_node
from steerscope.analysis.question.answers import padded, together
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import interval
from steerscope.analysis.tools.record import record
from steerscope.analysis.tools.writes import head_writes

COLUMNS: Frames = {
    "scrubbed": {
        "hypothesis": Column("its name", role="label"),
        "recovered": Column("(score - resampled) / (model - resampled): 1 if it explains the score", role="estimate"),
        "low": Column("lower end, over prompts", role="low"),
        "high": Column("upper end, over prompts", role="high"),
        "squared": Column("1 - mean squared change of the answers' logits over that of another prompt's"),
        "score": Column("mean log-odds of the right answer, scrubbed", "nats"),
        "model": Column("the same of the model as it is", "nats"),
        "resampled": Column("the same of the model on another prompt", "nats"),
        "claims": Column("how many claims the hypothesis makes"),
    }
}
EMBEDDING = "embedding"
STEERING = Literal["none", "stands", "feature"]
STEERED: dict[str, list[int | None]] = {"none": [None], "stands": [0], "feature": [None, 0]}
INPUTS, MOST = ("q", "k", "v"), 50_000


@dataclass(frozen=True)
class Datum:
    """What a feature may depend on: a prompt by its number and token ids, and whether it is steered."""

    prompt: int
    ids: tuple[int, ...]
    steered: bool


Feature = Callable[[Datum], Hashable]


@gated
@dataclass(frozen=True)
class Claim:
    """A node, as its parent reads it, computes a feature of the prompt.

    Attributes:
        node: a head (L1H0), an MLP (L0M), or embedding.
        feature: of a `Datum`; None for the prompt itself, so that nothing of it may be exchanged.
        by: through which input of its parent: q, k or v of a head; None of an MLP or the logits.
        at: positions of its write that are claimed; all by default.
        children: claims of what the node reads; none: its activation in a plain run.
    """

    node: str
    feature: Callable[..., Any] | None = None
    by: Literal["q", "k", "v"] | None = None
    at: tuple[Whole, ...] | None = None
    children: tuple["Claim", ...] = ()

    def __len__(self) -> int:
        return 1 + sum(map(len, self.children))


@gated
def scrub(
    experiment: Experiment,
    hypotheses: Mapping[str, Sequence[Claim]],
    *,
    steering: STEERING = "none",
    draws: Count = 8,
    level: Level = 0.95,
) -> Result:
    """How much of the right answers each hypothesis explains.

    Args:
        experiment: its prompts, all of one length, each with an answer of its own (`log_prob(PerPrompt(...))`), scored
            at their last position.
        hypotheses: by name, claims of what the logits read.
        steering: none; in all runs (stands); or in half of them, as a part of what features see (feature).
        draws: of every prompt.

    Returns:
        a `Result` of kind "scrub"; frames and columns as in `COLUMNS`.

    Raises:
        BadPrompt: prompts of several lengths, or without answers.
        BadNode: a claim of a node that is not there, or that its parent does not read.
        BadArgument: more draws than rows that are run at once, or a feature that fails.
        UnsupportedModel: a norm stands between nodes and the stream.
    """
    start = time.perf_counter()
    _check(experiment)
    rows = len(experiment.prompts) * (2 if steering == "feature" else 1) * draws
    if rows > MOST:
        raise BadArgument(
            f"draws={draws:,} of {counted(len(experiment.prompts), 'prompt')}; expected at most {MOST:,} rows in all; "
            "draw fewer"
        )
    for claims in hypotheses.values():
        for claim in claims:
            _check_claim(experiment, claim, None)
    scrubber = _Scrubber(experiment, steering)
    table, gain = [], scrubber.model - scrubber.resampled
    for name, claims in hypotheses.items():
        found = scrubber.scored(claims, draws)
        recovered = (found.scores - scrubber.resampled) / (gain if gain > 0 else np.nan)
        low, high = interval(recovered, level, scrubber.groups)
        told = {"hypothesis": name, "recovered": recovered.mean(), "low": float(low), "high": float(high)}
        told |= {"squared": 1 - found.squared / (scrubber.spread or np.nan), "score": found.scores.mean()}
        table.append(told | {"model": scrubber.model, "resampled": scrubber.resampled, "claims": sum(map(len, claims))})
    frames = {"scrubbed": pd.DataFrame(table, columns=list(COLUMNS["scrubbed"]))}
    missing = {} if gain > 0 else {"recovered": "the model answers a prompt no better than another one would: no gain"}
    about: dict[str, Any] = {"steering": steering, "draws": draws, "level": level}
    return record("scrub", experiment, frames, COLUMNS, start, checks=[], missing=missing, **about)


def _check(experiment: Experiment) -> None:
    lengths = {len(ids) for ids in experiment.prompts.full}
    if len(lengths) > 1 or not experiment.prompts.targets:
        raise BadPrompt(
            f"{counted(len(experiment.prompts), 'prompt')} of {counted(len(lengths), 'length')}, "
            f"{'with' if experiment.prompts.targets else 'without'} answers of their own; expected one length, since "
            "activations of one prompt are put into another, and answers: metric=log_prob(PerPrompt([...]))"
        )
    if any(len(at) != 1 for at in experiment.scored_positions.positions):
        raise BadPrompt("prompts scored at several positions; expected the last one alone; leave scored out")
    if experiment.model.post_norm:
        raise UnsupportedModel(
            f"{experiment.model.name} has norms between nodes and the stream; scrub assumes writes that add up; use "
            "path_effect"
        )


def _check_claim(experiment: Experiment, claim: Claim, parent: Node | None) -> None:
    """Refuses a claim that its parent cannot read."""
    model, length = experiment.model, len(experiment.prompts.full[0])
    if any(place >= length for place in claim.at or ()):
        raise BadNode(f"{claim.node} claimed at {claim.at}; expected positions 0 to {length - 1}; choose some of these")
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
        _check_claim(experiment, child, node)


def _before(model: Model, sender: Node, receiver: Node) -> bool:
    if sender.layer != receiver.layer:
        return sender.layer < receiver.layer
    return sender.head is not None and receiver.head is None and not model.parallel


@dataclass(frozen=True, eq=False)
class _Scored:
    """Of one hypothesis: scores of prompts, mean over draws, and the mean squared change of the answers' logits."""

    scores: Float[NDArray[np.float64], " datum"]
    squared: float


class _Scrubber:
    """Runs hypotheses on the data of an experiment."""

    def __init__(self, experiment: Experiment, steering: str) -> None:
        self.experiment, self.subject = experiment, experiment.model
        count = len(experiment.prompts)
        vectors = STEERED[steering]
        self.data = [(p, vector) for vector in vectors for p in range(count)]
        self.told = [Datum(p, tuple(experiment.prompts.full[p]), vector is not None) for p, vector in self.data]
        self.steering = {vector: experiment.edits_of(vector) for vector in vectors}
        self.groups = np.tile(experiment.prompts.by_group, len(vectors))
        self.dice = np.random.default_rng(experiment.seed)
        self.sides = [padded(side) for side in (experiment.prompts.targets, experiment.prompts.against) if side]
        self.answers = torch.unique(torch.cat([side[side >= 0] for side in self.sides]))
        self._plain: dict[str, Float[Tensor, "datum pos d_model"]] = {}
        self._groups: dict[Any, list[NDArray[np.int64]]] = {}
        self.logits = self._outputs([self._variant(d) for d in range(len(self.data))])
        every = np.arange(len(self.data))
        self.own = self._compared(self.logits)
        pairs = [self._score(self.logits, np.full_like(every, d)) for d in every]  # all runs with the answer of d
        self.model = float(self._score(self.logits, every).mean())
        self.resampled = float(np.mean(pairs))
        off = self.own[:, None] - self.own[None]
        self.spread = float((off**2).sum(-1).mean())

    def scored(self, claims: Sequence[Claim], draws: int) -> _Scored:
        references = np.tile(np.arange(len(self.data)), draws)
        base = self._any(len(references))
        change = self._change(claims, references, base)
        model = self.subject
        site = Site("mlp_out" if model.has_mlp else "attn_out", model.n_layers - 1)
        logits = self._outputs([self._variant(b, Edit(site, "add", own)) for b, own in zip(base, change, strict=True)])
        scores = self._score(logits, references).reshape(draws, -1).mean(0)
        squared = ((self._compared(logits) - self.own[references]) ** 2).sum(-1).mean()
        return _Scored(scores, float(squared))

    # What is drawn.

    def _any(self, count: int) -> Int[NDArray[np.int64], " row"]:
        return self.dice.integers(len(self.data), size=count)

    def _alike(self, feature: Feature | None, references: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each, one with the same feature."""
        if feature is None:
            return references
        if feature not in self._groups:
            values = [self._value(feature, datum) for datum in self.told]
            members: dict[Hashable, list[int]] = {}
            for d, value in enumerate(values):
                members.setdefault(value, []).append(d)
            self._groups[feature] = [np.array(members[value]) for value in values]
        return np.array([self.dice.choice(self._groups[feature][d]) for d in references])

    def _value(self, feature: Feature, datum: Datum) -> Hashable:
        try:
            value = feature(datum)
            hash(value)
        except Exception as error:  # of any type, it is the user's
            raise BadArgument(
                f"a feature failed on prompt {datum.prompt} ({type(error).__name__}: {brief(str(error), 100)}); "
                "expected a function of a Datum that gives a number, a text, or a tuple of them; mend it"
            ) from error
        return value

    # What is run.

    def _variant(self, d: int, *edits: Edit) -> Variant:
        prompt, vector = self.data[d]
        return Variant(prompt, (*self.steering[vector][prompt], *edits))

    def _change(
        self, claims: Sequence[Claim], references: NDArray[np.int64], base: NDArray[np.int64]
    ) -> Float[Tensor, "row pos d_model"]:
        """What is put into the stream of the base runs, so that it holds what the claims say."""
        length = len(self.experiment.prompts.full[0])
        total = torch.zeros(
            len(base), length, self.subject.d_model, dtype=self.subject.dtype, device=self.subject.device
        )
        for claim in claims:
            at = list(range(length) if claim.at is None else claim.at)
            new = self._written(claim, self._alike(claim.feature, references))
            total[:, at] += (new - self._activation(claim.node)[base])[:, at]
        return total

    def _written(self, claim: Claim, data: NDArray[np.int64]) -> Float[Tensor, "row pos d_model"]:
        """What a claimed node writes, for each datum."""
        if not claim.children:
            return self._activation(claim.node)[data]
        node, base = parse_node(claim.node), self._any(len(data))
        given: list[list[Edit]] = [[] for _ in base]
        for by in INPUTS if node.head is not None else (None,):
            children = [child for child in claim.children if child.by == by]
            if children:
                edits = self._read_as(node, by, self._change(children, data, base), base)
                for own, edit in zip(given, edits, strict=True):
                    own.append(edit)
        if node.head is None:
            return torch.stack([own[0].value for own in given])  # type: ignore[misc]  # it was read as it is written
        z = self._seen([self._variant(b, *own) for b, own in zip(base, given, strict=True)], ("z", node.layer))
        out = self.subject.bridge.blocks[node.layer].attn.W_O[node.head]
        return torch.einsum("rpd,dm->rpm", z[:, :, node.head], out.to(z))

    def _read_as(
        self, node: Node, by: str | None, change: Float[Tensor, "row pos d_model"], base: NDArray[np.int64]
    ) -> list[Edit]:
        """By row, the edit that sets an input of the node (or the output of an MLP) to what a changed stream gives."""
        model, layer = self.subject, node.layer
        between = node.head is None and not model.parallel  # after attention, before the MLP
        site = Site("attn_out" if between else "resid_pre", layer)
        variants = [self._variant(b, Edit(site, "add", own)) for b, own in zip(base, change, strict=True)]
        if node.head is None:
            return [Edit(node.site, "set", own) for own in self._seen(variants, ("mlp_out", layer))]
        assert by is not None
        head = node.head * model.heads(by) // model.n_heads
        return [Edit(Site(by, layer, head), "set", own[:, head]) for own in self._seen(variants, (by, layer))]

    def _activation(self, name: str) -> Float[Tensor, "datum pos d_model"]:
        """What a node writes in plain runs."""
        if name not in self._plain:
            variants = [self._variant(d) for d in range(len(self.data))]
            node = None if name == EMBEDDING else parse_node(name)
            site = ("resid_pre", 0) if node is None else (node.site.name, node.layer)
            seen = self._seen(variants, site)
            if node is not None and node.head is not None:
                seen = torch.stack([head_writes(self.subject, node.layer, z)[node.head] for z in seen])
            self._plain[name] = seen
        return self._plain[name]

    def _seen(self, variants: Sequence[Variant], site: tuple[str, int]) -> Float[Tensor, "row pos *width"]:
        found: list[Tensor] = [torch.empty(0)] * len(variants)
        budget, length = self.experiment.budget, len(self.experiment.prompts.full[0])
        for chunk, readout in run(
            self.subject, self.experiment.prompts.full, variants, reads="none", sites=[site], budget=budget
        ):
            for row, index in enumerate(chunk):
                found[index] = readout.activations[site][row, :length].clone()
        return torch.stack(found)

    def _outputs(self, variants: Sequence[Variant]) -> Float[Tensor, "row vocab"]:
        """Logits at the scored position."""
        found: list[Tensor] = [torch.empty(0)] * len(variants)
        scored = self.experiment.scored_positions.positions
        for chunk, readout in run(
            self.subject, self.experiment.prompts.full, variants, scored, budget=self.experiment.budget
        ):
            assert readout.logits is not None
            for row, index in enumerate(chunk):
                found[index] = readout.logits[readout.row == row][0].double().cpu()
        return torch.stack(found)

    # Scores.

    def _score(self, logits: Float[Tensor, "row vocab"], references: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log-odds of each reference's answer; its log-probability, where it has no distractor."""
        prompts = [self.data[d][0] for d in references]
        wanted, *others = (together(logits, side[prompts]) for side in self.sides)
        return np.asarray((wanted - (others[0] if others else logits.logsumexp(-1))).numpy(), dtype=float)

    def _compared(self, logits: Float[Tensor, "row vocab"]) -> NDArray[np.float64]:
        """The logits of all answers, less their mean."""
        own = logits[:, self.answers]
        return np.asarray((own - own.mean(-1, keepdim=True)).numpy(), dtype=float)
