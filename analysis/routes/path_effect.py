"""Path patching: what flows from one node (or from the injection) straight into another node's input, or to the logits.

A path sender -> receiver is direct: everything between is held as it is. The stream is linear in what is
written, so the receiver's input with the path patched is the base run's stream plus the change d of what the
sender writes in the other run. For necessity the base is the steered run and the other the clean one (the
effect that is lost when this path alone is set back), for sufficiency the reverse. For every path and prompt:

1. Base run with d added to the stream that the receiver reads: its queries, keys, values, or MLP output.
2. Base run with these put into the receiver: its z. (A key-value head serves several query heads; only the
   receiver's own z is kept.)
3. Base run with that z (or MLP output): the metric. Everything after the receiver reacts.

Paths to the logits: d is added to the final stream. Nothing is approximated; norms are computed anew.

Source: Wang et al. 2022 (arXiv 2211.00593) and Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
What it cannot see: what two paths do only together.
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.brief import counted
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadArgument, BadNode
from steerscope.analysis.gate import Level, Share, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site, parse_node
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.scores import Score
from steerscope.analysis.results.effects import NUMBERS, Statistics, estimates
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.verdicts import leave_one_out
from steerscope.analysis.tools.keeping import Arrays, each
from steerscope.analysis.tools.patching import MEASURES, against_plain
from steerscope.analysis.tools.record import check, record, tolerance
from steerscope.analysis.tools.writes import Run, injected_stream, moves, stage

COLUMNS: Frames = {
    "paths": {
        "sender": Column("node whose write is changed, or injection", role="label"),
        "receiver": Column(
            "input that sees the change, and it alone: L1H5.q, .k, .v, L1H5 for all three, L1M, or logits", role="label"
        ),
        "measure": Column(
            "necessity: effect lost when this path alone is set back to clean in the steered run; sufficiency: effect "
            "that appears when it alone carries the steered value in the clean run",
            role="measure",
        ),
        **NUMBERS,
    }
}

INJECTION, LOGITS = "injection", "logits"
SAMPLES, MOST = 4, 10_000
Values = NDArray[np.float64]
Sender = Node | None  # None: the injection itself


@dataclass(frozen=True)
class Receiver:
    """A node's input: `L1H5.q`, `L1H5.k`, `L1H5.v`, `L1H5` for all three, `L1M` for an MLP's; or `logits`.

    Attributes:
        shared: a key-value head's input as all its query heads see it; `node.head` is then one of these.
    """

    node: Node | None
    inputs: tuple[str, ...] = ()
    shared: bool = False

    def __str__(self) -> str:
        if self.node is None:
            return LOGITS
        return f"{self.node}.{self.inputs[0]}" if len(self.inputs) == 1 else str(self.node)


Path = tuple[Sender, Receiver]
Place = tuple[Sender, int, bool]  # what the receivers of a layer's attention, or of its MLP, see of a sender


@gated(error=BadNode)
def parse_receiver(text: str) -> Receiver:
    """A receiver from its name.

    Raises:
        BadNode: no node, or an input that it does not have.
    """
    if text.strip() == LOGITS:
        return Receiver(None)
    match = re.fullmatch(r"(.*?)(?:\.([qkv]))?", text.strip())
    node = parse_node(match[1] if match else text)
    given = match[2] if match else None
    if node.head is None:
        if given:
            raise BadNode(f"{text!r}: an MLP has one input; expected {node}; leave out .{given}")
        return Receiver(node)
    return Receiver(node, (given,) if given else ("q", "k", "v"))


@gated
def path_effect(
    experiment: Experiment,
    senders: str | Sequence[str],
    receivers: str | Sequence[str],
    *,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Exact effects of direct paths, from every sender to every receiver.

    Args:
        senders: nodes such as `L0H3`, or `injection`.
        receivers: inputs such as `L1H5.q`, `L1H5` (all three), `L1M`, or `logits`.

    Returns:
        a `Result` of kind "path_effect"; frames and columns as in `COLUMNS`.

    Raises:
        BadNode: a node that is not there, that the injection cannot reach, or a path that runs backwards.
        BadArgument: no senders, no receivers, or too many paths between them.
    """
    options = Statistics(level, alpha, smallest)
    start = time.perf_counter()
    pairs = _pairs(*([ends] if isinstance(ends, str) else ends for ends in (senders, receivers)))
    experiment = experiment.held
    for sender, receiver in pairs:
        check_path(experiment, sender, receiver)
    basis = experiment.basis()
    named = [f"{sender or INJECTION} -> {receiver}" for sender, receiver in pairs]

    def read(vector: int) -> Arrays:
        return (_read(experiment, pairs, vector, experiment.readings(vector)),)

    found = [values for (values,) in each(experiment, "paths", read, *named)]
    along, own = found[0][0], np.stack([values[-1] for values in found])
    frames = []
    for index, measure in enumerate(MEASURES):
        ends = {"sender": [str(s or INJECTION) for s, _ in pairs], "receiver": [str(r) for _, r in pairs]}
        columns = estimates(basis, along[index], own[:, index], options)
        frames.append(pd.DataFrame({**ends, "measure": measure, **columns}))
    table = {"paths": pd.concat(frames, ignore_index=True)}
    checks = _checks(experiment, pairs)
    return record(
        "path_effect",
        experiment,
        table,
        COLUMNS,
        start,
        checks=checks,
        total=float(basis.total.mean()),
        level=level,
        alpha=alpha,
        smallest=smallest,
        leave_one_out={m: leave_one_out(basis.shares(own[:, i]), basis, alpha) for i, m in enumerate(MEASURES)},
    )


def _pairs(senders: Sequence[str], receivers: Sequence[str]) -> list[Path]:
    """From each to each, every path once."""
    writers = dict.fromkeys(None if s.strip() == INJECTION else parse_node(s) for s in senders)
    readers = dict.fromkeys(map(parse_receiver, receivers))
    if not 0 < len(writers) * len(readers) <= MOST:
        raise BadArgument(
            f"{counted(len(writers), 'sender')} and {counted(len(readers), 'receiver')}; expected one or more of each, "
            f"and at most {MOST:,} paths between them: each is a run of its own; edges ranks all paths from gradients"
        )
    return list(product(writers, readers))


def check_path(experiment: Experiment, sender: Sender, receiver: Receiver) -> None:
    """Refuses a path that is not there."""
    model = experiment.model
    for node in (sender, receiver.node):
        if node is not None:
            model.check(node.site)
            if node not in set(experiment.reachable):
                first = experiment.reachable[0].layer
                raise BadNode(
                    f"{node} lies before the injection at layer {first}, which cannot reach it; expected a "
                    f"node from layer {first} on; choose another"
                )
    if sender is not None and receiver.node is not None and not _before(model, sender, receiver.node):
        raise BadNode(
            f"the path {sender} -> {receiver} runs backwards: {receiver.node} reads the stream before {sender} "
            "writes into it; expected a receiver after the sender; turn it round"
        )
    if sender is None and receiver.node is not None:
        read = (receiver.node.layer, 0 if receiver.node.head is not None else 1)
        if all(stage(i.site) > read for i in experiment.injections):
            raise BadNode(
                f"the injection stands after what {receiver} reads; expected a node that it reaches; choose a later one"
            )


def _before(model: Model, sender: Node, receiver: Node) -> bool:
    """Whether the stream that the receiver reads holds what the sender wrote."""
    if sender.layer != receiver.layer:
        return sender.layer < receiver.layer
    return sender.head is not None and receiver.head is None and not model.parallel


def exact_paths(experiment: Experiment, paths: Sequence[Path], vector: int = 0) -> Float[Values, "measure path prompt"]:
    """Effects of direct paths, of one vector, along the metric."""
    found: Values = _read(experiment, paths, vector, [experiment.along])[0]
    return found


def _read(
    experiment: Experiment, paths: Sequence[Path], vector: int, scores: Sequence[Score]
) -> Float[Values, "score measure path prompt"]:
    """The same, read along several scores at once."""
    found, experiment = [], experiment.held
    for question in _questions(experiment, paths, vector):
        values = experiment.scores([variant for row in question.outputs() for variant in row], scores)
        by_score = values.T.reshape(len(scores), len(paths), -1)
        changes = [
            question.sign * experiment.change(own, question.base, vector, score)
            for own, score in zip(by_score, scores, strict=True)
        ]
        found.append(changes)
    return np.asarray(np.array(found).swapaxes(0, 1), dtype=float)


def _questions(experiment: Experiment, paths: Sequence[Path], vector: int) -> "tuple[_Question, _Question]":
    """The two directions: necessity starts from the steered run, sufficiency from the clean one."""
    return _Question(experiment, paths, vector, vector, None), _Question(experiment, paths, vector, None, vector)


def _checks(experiment: Experiment, paths: Sequence[Path]) -> list[dict[str, object]]:
    """Sampled paths, as they are put into the model, equal plain passes."""
    experiment = experiment.held
    generator = np.random.default_rng(experiment.seed)
    some = [paths[i] for i in generator.permutation(len(paths))[:SAMPLES]]
    made = [row for question in _questions(experiment, some, 0) for row in question.outputs()]
    sampled = [row[int(generator.integers(len(row)))] for row in made]
    gap = against_plain(experiment, sampled)
    return [check("sampled paths equal one plain pass each", gap, tolerance(experiment.model))]


@dataclass(frozen=True, eq=False)
class _Question:
    """Paths in a base run, from the other one: each a vector's, or clean (None)."""

    experiment: Experiment
    paths: Sequence[Path]
    vector: int
    base: int | None
    other: int | None

    @property
    def sign(self) -> float:
        return 1.0 if self.base is None else -1.0

    @cached_property
    def edits(self) -> Edits:
        return self.experiment.edits_of(self.base)

    @cached_property
    def runs(self) -> tuple[Sequence[Run], Sequence[Run]]:
        """What nodes write in the base run and in the other, by prompt."""
        model = self.experiment.model
        names = ("attn_out", "mlp_out", "z") if model.has_mlp else ("attn_out", "z")
        sites = [(name, layer) for layer in range(model.n_layers) for name in names]
        return self.experiment.activations(self.base, sites), self.experiment.activations(self.other, sites)

    @cached_property
    def changes(self) -> list[dict[Node, Float[Tensor, "pos d_model"]]]:
        """By prompt, what each node that sends writes differently in the other run."""
        model = self.experiment.model
        nodes = list(dict.fromkeys(sender for sender, _ in self.paths if sender is not None))
        found: list[dict[Node, Tensor]] = []
        for before, after in zip(*self.runs, strict=True):
            moved: Iterable[Tensor] = moves(model, nodes, before, after) if nodes else ()
            found.append(dict(zip(nodes, moved, strict=True)))
        return found

    def change(self, p: int, sender: Sender, reader: tuple[int, int] | None = None) -> Float[Tensor, "pos d_model"]:
        """Of one prompt, what a sender writes differently; of the injection what stands before a reader (see
        `injected_stream`).
        """
        if sender is not None:
            return self.changes[p][sender]
        asked = self.experiment
        edits = asked.edits(self.vector)[p]
        return self.sign * injected_stream(asked.model, edits, len(asked.prompts.full[p]), reader)

    def outputs(self) -> list[list[Variant]]:
        """Steps 1 and 2: for each path, the variants (by prompt) whose metric is wanted."""
        model, prompts = self.experiment.model, range(len(self.edits))
        inputs = self._inputs()
        made = [[Variant(p, (*self.edits[p], *self._put(path, p, inputs))) for p in prompts] for path in self.paths]
        split = [
            (number, p, receiver.node)
            for number, (_, receiver) in enumerate(self.paths)
            if receiver.node is not None and not receiver.shared
            if any(model.heads(name) < model.n_heads for name in receiver.inputs)
            for p in prompts
        ]
        for layer in sorted({node.layer for *_, node in split}):
            own = [one for one in split if one[2].layer == layer]
            seen = self._read([made[n][p] for n, p, _ in own], [("z", layer)], [node.head for *_, node in own])
            for (n, p, node), read in zip(own, seen, strict=True):
                made[n][p] = Variant(p, (*self.edits[p], Edit(node.site, "set", read["z", layer])))
        return made

    def _put(self, path: Path, p: int, inputs: "dict[Place, list[Run]]") -> tuple[Edit, ...]:
        """What makes a receiver alone see the change: its inputs as they were read, or the final stream's change."""
        (sender, receiver), model = path, self.experiment.model
        node = receiver.node
        if node is None:
            last = Site("mlp_out" if model.has_mlp else "attn_out", model.n_layers - 1)
            return (Edit(last, "add", self.change(p, sender)),)
        read = inputs[sender, node.layer, node.head is None][p]
        if node.head is None:
            return (Edit(node.site, "set", read["mlp_out", node.layer]),)
        heads = {name: node.head * model.heads(name) // model.n_heads for name in receiver.inputs}
        return tuple(
            Edit(Site(name, node.layer, head), "set", read[name, node.layer][:, head]) for name, head in heads.items()
        )

    def _inputs(self) -> "dict[Place, list[Run]]":
        """Step 1: what receivers of a layer read when the sender's path to them is patched."""
        model, prompts = self.experiment.model, range(len(self.edits))
        places = [(s, r.node.layer, r.node.head is None) for s, r in self.paths if r.node is not None]
        found: dict[Place, list[Run]] = {}
        for layer, mlp in sorted({place[1:] for place in places}):
            senders = list(dict.fromkeys(s for s, *at in places if at == [layer, mlp]))
            variants = []
            for sender, p in product(senders, prompts):
                apart = mlp and not model.parallel
                change = self.change(p, sender, (layer, int(apart)))
                edit = Edit(Site("resid_pre", layer), "add", change)
                if apart:
                    edit = Edit(Site("attn_out", layer), "set", self.runs[0][p]["attn_out", layer] + change)
                variants.append(Variant(p, (*self.edits[p], edit)))
            runs = self._read(variants, [("mlp_out", layer)] if mlp else [(name, layer) for name in "qkv"])
            for row, sender in enumerate(senders):
                found[sender, layer, mlp] = runs[row * len(prompts) : (row + 1) * len(prompts)]
        return found

    def _read(
        self, variants: Sequence[Variant], sites: Sequence[tuple[str, int]], heads: Sequence[int | None] | None = None
    ) -> list[Run]:
        """Activations of each variant; of one head each, where heads are given."""
        model, prompts, budget = self.experiment.model, self.experiment.prompts.full, self.experiment.budget
        found: list[Run] = [{} for _ in variants]
        for chunk, readout in run(model, prompts, variants, reads="none", sites=sites, budget=budget):
            for row, index in enumerate(chunk):
                seen = {site: readout.activations[site][row, : len(prompts[variants[index].prompt])] for site in sites}
                kept = seen if heads is None else {site: x[:, heads[index]] for site, x in seen.items()}
                found[index] = {site: x.clone() for site, x in kept.items()}
        return found
