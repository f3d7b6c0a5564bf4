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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadNode
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site, parse_node
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.results.effects import Statistics, estimates, nonzero
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.patches import activations
from steerscope.analysis.tools.patching import MEASURES, against_plain, effect
from steerscope.analysis.tools.record import check, record, tolerance
from steerscope.analysis.tools.writes import Run, injected_stream, moves

INJECTION, LOGITS = "injection", "logits"
SAMPLES = 4
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


def path_effect(
    experiment: Experiment,
    senders: str | Sequence[str],
    receivers: str | Sequence[str],
    *,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """Exact effects of direct paths, from every sender to every receiver.

    Args:
        senders: nodes such as `L0H3`, or `injection`.
        receivers: inputs such as `L1H5.q`, `L1H5` (all three), `L1M`, or `logits`.

    Returns:
        a `Result` of kind "paths"; frames and columns as in `columns.COLUMNS["paths"]`.

    Raises:
        BadNode: a node that is not there, that the injection cannot reach, or a path that runs backwards.
    """
    options = Statistics(level, alpha)
    start = time.perf_counter()
    pairs = [
        (_sender(experiment, s), parse_receiver(r))
        for s in ([senders] if isinstance(senders, str) else senders)
        for r in ([receivers] if isinstance(receivers, str) else receivers)
    ]
    for sender, receiver in pairs:
        check_path(experiment, sender, receiver)
    values = np.stack(
        [exact_paths(experiment, pairs, vector) for vector in track(range(1 + experiment.controls), "paths")]
    )
    total = effect(experiment)
    frames = []
    for index, measure in enumerate(MEASURES):
        columns = estimates(values[:, index], options, experiment.seed)
        frames.append(
            pd.DataFrame(
                {
                    "sender": [INJECTION if s is None else str(s) for s, _ in pairs],
                    "receiver": [str(r) for _, r in pairs],
                    "measure": measure,
                    **columns,
                    "share": columns["effect"] / nonzero(total.mean()),
                }
            )
        )
    return record(
        "paths",
        experiment,
        {"paths": pd.concat(frames, ignore_index=True)},
        start,
        checks=_checks(experiment, pairs),
        total=float(total.mean()),
        level=level,
        alpha=alpha,
    )


def _sender(experiment: Experiment, text: str) -> Sender:
    return None if text.strip() == INJECTION else parse_node(text)


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
                    "node from layer "
                    f"{first} on; choose another"
                )
    if sender is not None and receiver.node is not None and not _before(model, sender, receiver.node):
        raise BadNode(
            f"the path {sender} -> {receiver} runs backwards: {receiver.node} reads the stream before {sender} "
            "writes into it; "
            "expected a receiver after the sender; turn it round"
        )
    if sender is None and receiver.node is not None:
        late = {"attn_out": 1, "mlp_out": 2, "z": 1}
        if all(
            (i.site.layer, late.get(i.site.name, 0)) > (receiver.node.layer, 0 if receiver.node.head is not None else 1)
            for i in experiment.injections
        ):
            raise BadNode(
                f"the injection stands after what {receiver} reads; expected a node that it reaches; choose a later one"
            )


def _before(model: Model, sender: Node, receiver: Node) -> bool:
    """Whether the stream that the receiver reads holds what the sender wrote."""
    if sender.layer != receiver.layer:
        return sender.layer < receiver.layer
    return sender.head is not None and receiver.head is None and not model.parallel


def exact_paths(
    experiment: Experiment, pairs: Sequence[tuple[Sender, Receiver]], vector: int = 0
) -> Float[Values, "measure path prompt"]:
    """Effects of direct paths, of one vector."""
    found = []
    for question in _questions(experiment, pairs, vector):
        own = question.metric([[Variant(p, edits) for p, edits in enumerate(question.edits)]])[0]
        values = question.metric(question.outputs(pairs))
        found.append(question.sign * (values - own))
    return np.stack(found)


def _questions(experiment: Experiment, pairs: Sequence[tuple[Sender, Receiver]], vector: int) -> "list[_Question]":
    """The two directions: necessity starts from the steered run, sufficiency from the clean one."""
    model = experiment.model
    nodes = list(dict.fromkeys(s for s, _ in pairs if s is not None))
    names = {"z", "attn_out", "mlp_out"} if model.has_mlp else {"z", "attn_out"}
    sites = [(name, layer) for layer in range(model.n_layers) for name in sorted(names)]
    steering = experiment.edits(vector)
    both = (experiment.nothing, steering)
    runs = [activations(experiment, edits, sites) for edits in both]
    found = []
    for base, sign in ((1, -1.0), (0, 1.0)):
        moved = [
            moves(model, nodes, before, after) if nodes else torch.empty(0)
            for before, after in zip(runs[base], runs[1 - base], strict=True)
        ]
        found.append(_Question(experiment, both[base], runs[base], steering, sign, nodes, moved))
    return found


def _checks(experiment: Experiment, pairs: Sequence[tuple[Sender, Receiver]]) -> list[dict[str, object]]:
    """Sampled paths, as they are put into the model, equal plain passes."""
    generator = np.random.default_rng(experiment.seed)
    some = [pairs[i] for i in generator.permutation(len(pairs))[:SAMPLES]]
    made = [row for question in _questions(experiment, some, 0) for row in question.outputs(some)]
    sampled = [row[int(generator.integers(len(row)))] for row in made]
    gap = against_plain(experiment, sampled)
    return [check("sampled paths equal one plain pass each", gap, tolerance(experiment.model))]


@dataclass(frozen=True, eq=False)
class _Question:
    """Paths of one base run."""

    experiment: Experiment
    edits: Edits
    base: Sequence[Run]
    steering: Edits
    sign: float
    nodes: Sequence[Node]
    moved: Sequence[Float[Tensor, "node pos d_model"]]

    def change(self, sender: Sender, p: int) -> Float[Tensor, "pos d_model"]:
        """What the sender writes differently in the other run."""
        if sender is not None:
            return self.moved[p][self.nodes.index(sender)]
        model = self.experiment.model
        length = len(self.experiment.prompts.full[p])
        return self.sign * injected_stream(model, self.steering[p], length)

    def outputs(self, pairs: Sequence[tuple[Sender, Receiver]]) -> list[list[Variant]]:
        """Steps 1 and 2: for each path, the variants (by prompt) whose metric is wanted."""
        prompts = range(len(self.base))
        model = self.experiment.model
        last = Site("mlp_out" if model.has_mlp else "attn_out", model.n_layers - 1)
        keys = [(s, (r.node.layer, r.node.head is None)) for s, r in pairs if r.node is not None]
        inputs = self._inputs(list(dict.fromkeys(keys)))
        made: list[list[Variant]] = []
        asked: list[tuple[int, int, Variant, Node]] = []
        for number, (sender, receiver) in enumerate(pairs):
            made.append([])
            for p in prompts:
                if receiver.node is None:
                    added = Edit(last, "add", self.change(sender, p))
                    made[-1].append(Variant(p, (*self.edits[p], added)))
                    continue
                node = receiver.node
                read = inputs[sender, (node.layer, node.head is None)][p]
                if node.head is None:
                    held = Edit(node.site, "set", read["mlp_out", node.layer])
                    made[-1].append(Variant(p, (*self.edits[p], held)))
                    continue
                put = tuple(self._put(node, name, read) for name in receiver.inputs)
                variant = Variant(p, (*self.edits[p], *put))
                made[-1].append(variant)
                alone = all(model.heads(name) == model.n_heads for name in receiver.inputs)
                if not (alone or receiver.shared):
                    asked.append((number, p, variant, node))
        for (number, p, _, node), z in zip(asked, self._z(asked), strict=True):
            made[number][p] = Variant(p, (*self.edits[p], Edit(node.site, "set", z)))
        return made

    def _put(self, node: Node, name: str, read: Run) -> Edit:
        model = self.experiment.model
        head = (node.head or 0) * model.heads(name) // model.n_heads
        return Edit(Site(name, node.layer, head), "set", read[name, node.layer][:, head])

    def _inputs(
        self, keys: Sequence[tuple[Sender, tuple[int, bool]]]
    ) -> dict[tuple[Sender, tuple[int, bool]], list[Run]]:
        """Step 1: what receivers of a layer read when the sender's path to them is patched."""
        model, prompts = self.experiment.model, range(len(self.base))
        found: dict[tuple[Sender, tuple[int, bool]], list[Run]] = {}
        for layer, mlp in sorted({key[1] for key in keys}):
            own = [key for key in keys if key[1] == (layer, mlp)]
            variants = []
            for sender, _ in own:
                for p in prompts:
                    change = self.change(sender, p)
                    edit = Edit(Site("resid_pre", layer), "add", change)
                    if mlp and not model.parallel:
                        held = self.base[p]["attn_out", layer]
                        edit = Edit(Site("attn_out", layer), "set", held + change)
                    variants.append(Variant(p, (*self.edits[p], edit)))
            sites = [("mlp_out", layer)] if mlp else [(name, layer) for name in ("q", "k", "v")]
            runs = self._read(variants, sites, lambda x, index: x)
            for place, key in enumerate(own):
                found[key] = runs[place * len(prompts) : (place + 1) * len(prompts)]
        return found

    def _z(self, asked: Sequence[tuple[int, int, Variant, Node]]) -> list[Tensor]:
        """Step 2: the receivers' own z."""
        found: list[Tensor] = [torch.empty(0)] * len(asked)
        for layer in sorted({node.layer for *_, node in asked}):
            own = [i for i, (*_, node) in enumerate(asked) if node.layer == layer]

            def head(x: Tensor, index: int, own: list[int] = own) -> Tensor:
                return x[:, asked[own[index]][3].head]

            runs = self._read([asked[i][2] for i in own], [("z", layer)], head)
            for i, kept in zip(own, runs, strict=True):
                found[i] = kept["z", layer]
        return found

    def _read(
        self, variants: Sequence[Variant], sites: Sequence[tuple[str, int]], keep: Callable[[Tensor, int], Tensor]
    ) -> list[Run]:
        prompts = self.experiment.prompts.full
        found: list[Run] = [{} for _ in variants]
        for chunk, readout in run(
            self.experiment.model, prompts, variants, reads="none", sites=sites, budget=self.experiment.budget
        ):
            for row, index in enumerate(chunk):
                length = len(prompts[variants[index].prompt])
                found[index] = {site: keep(readout.activations[site][row, :length], index).clone() for site in sites}
        return found

    def metric(self, variants: Sequence[Sequence[Variant]]) -> Float[Values, "path prompt"]:
        """Step 3."""
        asked = self.experiment
        score = asked.metric.prepare(asked.scored_positions, asked.clean, asked.steered)
        flat = [variant for row in variants for variant in row]
        return asked.scores(flat, [score], asked.reads)[:, 0].reshape(len(variants), -1)
