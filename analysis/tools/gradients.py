"""What every node carries, estimated from gradients of the steered contrast.

The contrast is the same prompt with the injection and without it (`rows` below). With g the gradient of
the metric with respect to a node's output z, summed over positions and dimensions:

- `gradient` (attribution patching): necessity ~ g(steered) . (z_steered - z_clean), sufficiency ~
  g(clean) . (z_steered - z_clean). One forward and one backward pass for all nodes.
- `relp`: the same with the rules of `relevance.py` in the way back, which make it a relevance.
- `atp*`: the same with two repairs. Every softmax on the way back hands back its secant between the two runs
  (`relevance.secants`), so that what a node does through a later head's queries or keys is seen although that head's
  pattern is saturated in both. And GradDrop: one more backward pass a layer, in which nothing flows back through that
  layer's nodes, so that a node whose paths cancel is seen; at a position the larger counts of the size of all paths
  and the mean size over the drops (in two layers a drop leaves no composition).
- `ig`: one measure, `conductance`: the integral of g . dz along the coefficient from 0 to its value. It knows no
  other run to start from, so it is neither necessity nor sufficiency, and lies between the two. At the injection
  conductances add up to the whole effect (operations other than addition are held, see `Experiment.held`): until the
  gap is below 1% of it, or `FINEST` is reached, the number of steps is doubled.

Sources: Nanda 2023 and Syed et al. 2023 (arXiv 2310.10348) for attribution patching; Kramar et al. 2024
(arXiv 2403.00745) for AtP*; Dhamdhere et al. 2018 (arXiv 1805.12233) for conductance, Sundararajan et al. 2017 (arXiv
1703.01365) for the path; Jafari et al. 2025 for RelP.
What it cannot see: anything a straight line does not: saturation (`gradient`), backup, interactions; `BLIND` says what
each misses of planted relays. So every result says how far it is from exact patching on a sample of nodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.backward import Rules, backward, recomputes
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.errors import BadArgument, BadMetric
from steerscope.analysis.gate import MOST, Within
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.scores import Score

from .patching import MEASURES
from .relevance import relevance, secants, secants_without

Values = NDArray[np.float64]
BACKWARD = 3  # forward-equivalents of a row: forward, and twice that for the way back
CONDUCTANCE = ("conductance",)
COMPLETE = 0.01  # of the effect: the gap that integration is content with
FINEST = 64  # steps that it goes to
RANKED = 8  # steps that nodes are ranked by
Steps = Annotated[int, Within(1, 256)]  # each is a run of every prompt and its way back
Several = Annotated[int, Within(2, MOST)]
BLOCK = 8  # steps whose rows share a chunk
BLIND = {
    "gradient": "what goes through a later head's queries or keys where its pattern is saturated",
    "relp": "whatever goes through a later head's queries or keys",
    "atp*": "norms that bend between the two runs, and queries and keys that only matter when both change; its sizes "
    "do not cancel, so they may be too large",
    "ig": "which of the two runs a part belongs to: it is neither necessity nor sufficiency",
}


@dataclass(frozen=True, eq=False)
class Estimates:
    """What gradients say, of one vector.

    Attributes:
        nodes: those that the injection can reach.
        measures: of the rows of `at`: necessity and sufficiency, or conductance alone.
        at: by prompt, estimates at every position.
        passes: what it cost, in forward passes of one prompt.
        path: for `ig`, what gradients at the injection add up to, by prompt, and what they should.
        steps: for `ig`, how many the last integration took.
    """

    nodes: tuple[Node, ...]
    measures: tuple[str, ...]
    at: list[Float[Values, "measure node pos"]]
    passes: float
    path: Float[Values, "2 prompt"] | None = None
    steps: int | None = None

    @property
    def values(self) -> Float[Values, "measure node prompt"]:
        """Sums over positions."""
        return np.stack([x.sum(axis=-1) for x in self.at], axis=-1)

    @property
    def gap(self) -> float | None:
        """Of `ig`: how far the path's parts are from adding up to the effect, over the effect."""
        return None if self.path is None else gap(*self.path.mean(axis=-1).tolist())


def gap(found: float, whole: float) -> float:
    """The difference over the whole; none where both are nothing."""
    if found == whole:
        return 0.0
    return abs(found - whole) / abs(whole) if whole else float("inf")


def finer(steps: int, finest: int = FINEST) -> list[int]:
    """Numbers of steps to try, one after the other: doubled up to the finest."""
    found = [steps]
    while found[-1] < finest:
        found.append(min(2 * found[-1], finest))
    return found


def estimate(
    experiment: Experiment, method: str, vector: int = 0, steps: int = 8, score: Score | None = None
) -> Estimates:
    """Estimates of necessity and sufficiency (`ig`: of conductance) by a method of `METHODS`.

    Args:
        vector: 0 is the real one, 1 the first reference.
        steps: along the coefficient, that `ig` begins with.
        score: whose gradients; the metric by default.

    Raises:
        BadArgument: an unknown method, or no steps.
        BadMetric: a metric whose gradient says nothing here.
    """
    if method not in METHODS:
        raise BadArgument(f"unknown method {method!r}; expected one of {', '.join(METHODS)}; choose one")
    if steps < 1:
        raise BadArgument(f"steps={steps}; expected at least 1 step along the coefficient; 8 is usual")
    if experiment.metric.flat_at_clean and score is None and method != "ig":
        raise BadMetric(
            "the gradient of KL to the clean run is zero in the clean run, so sufficiency would be zero everywhere; "
            'expected a metric that moves there, such as logit_direction; or use the integrated form, method="ig"'
        )
    return METHODS[method](experiment, vector, steps, score or experiment.along)


def rank(experiment: Experiment, method: str = "gradient") -> tuple[Float[Values, "measure node"], float]:
    """Estimates of the real vector, means over prompts, and what they cost in forward passes.

    A row for necessity and one for sufficiency; of a method with one measure both rows are that one. An order needs no
    parts that add up: `ig` takes `RANKED` steps and no more.
    """
    if method == "ig":
        found = _conductance(experiment.held, 0, RANKED, experiment.along)
    else:
        found = estimate(experiment, method)
    means = found.values.mean(axis=-1)
    return np.broadcast_to(means, (len(MEASURES), means.shape[1])).copy(), found.passes


def _gradient(experiment: Experiment, vector: int, steps: int, score: Score, rules: Rules | None = None) -> Estimates:
    at, passes = _ends(experiment, vector, score, rules)
    return Estimates(experiment.reachable, MEASURES, at, passes)


def _relp(experiment: Experiment, vector: int, steps: int, score: Score) -> Estimates:
    return _gradient(experiment, vector, steps, score, relevance)


def _repaired(experiment: Experiment, vector: int, steps: int, score: Score) -> Estimates:
    """Secants through every softmax; and GradDrop: a backward pass a layer, in which that layer hands nothing back."""
    model = experiment.model
    plain = _gradient(experiment, vector, steps, score, secants)
    first = min(node.layer for node in experiment.reachable)
    layers = range(first, model.n_layers)
    if len(layers) < 2:
        return plain
    total = [np.zeros_like(x) for x in plain.at]
    for layer in layers:
        own = [i for i, node in enumerate(experiment.reachable) if node.layer == layer]
        dropped = _gradient(experiment, vector, steps, score, partial(secants_without, layer))
        for x, y in zip(total, dropped.at, strict=True):
            y[:, own] = 0  # nothing reaches the dropped layer's own nodes
            x += np.abs(y)
    scale = 1 / (len(layers) - 1)  # every node is in one of the layers
    at = [np.copysign(np.maximum(np.abs(p), x * scale), p) for p, x in zip(plain.at, total, strict=True)]
    return Estimates(plain.nodes, plain.measures, at, plain.passes * (1 + len(layers)))


def _integrated(experiment: Experiment, vector: int, steps: int, score: Score) -> Estimates:
    passes, experiment = 0.0, experiment.held
    for number in finer(steps + steps % 2):
        found = _conductance(experiment, vector, number, score)
        passes += found.passes
        if found.gap is not None and found.gap < COMPLETE:
            break
    return replace(found, passes=passes)


def _ends(experiment: Experiment, vector: int, score: Score, rules: Rules | None) -> tuple[list[Values], float]:
    """Gradients times the change of every node, at every position: in the steered run, and in the clean one."""
    found = [np.zeros((len(MEASURES), len(experiment.reachable), len(ids))) for ids in experiment.prompts.full]

    def put(p: int, block: int, site: tuple[str, int], products: Tensor) -> None:
        for measure, product in enumerate(products):
            _put(experiment, found[p][measure], site, product)

    _, passes = _backward(experiment, vector, [(0.0, 1.0)], score, change_of_ends, put, (), rules)
    return found, passes


def change_of_ends(
    site: tuple[str, int], rows: Float[Tensor, "2 pos ..."], back: Float[Tensor, "2 pos ..."]
) -> Float[Tensor, "measure pos ..."]:
    """Gradient times change, summed over dimensions: with the gradient of the steered run, and of the clean one."""
    change = rows[1] - rows[0]
    return torch.stack([(gradient * change).sum(dim=-1) for gradient in (back[1], back[0])])


def _conductance(experiment: Experiment, vector: int, steps: int, score: Score) -> Estimates:
    """The integral of gradient times change along an even number of steps: Simpson's rule, with the change of z (or of
    what is injected) in the place of the variable's. Steps are short at both ends, where a model bends most.
    """
    prompts, injected = experiment.prompts.full, {(i.site.name, i.site.layer) for i in experiment.injections}
    found = [np.zeros((1, len(experiment.reachable), len(ids))) for ids in prompts]
    whole = np.zeros(len(prompts))
    shares = ((1 - np.cos(np.pi * np.arange(steps + 1) / steps)) / 2).tolist()
    blocks = [shares[k : k + BLOCK + 1] for k in range(0, steps, BLOCK)]

    def put(p: int, block: int, site: tuple[str, int], made: tuple[Tensor, Tensor | None]) -> None:
        product, back = made
        _put(experiment, found[p][0], site, product)
        if back is not None:
            along = torch.tensor(blocks[block]).to(back).reshape(-1, *[1] * (back.ndim - 1))
            whole[p] += _along(experiment, vector, p, site, _integral(back, along))

    reduced = Conducted(frozenset(injected))
    values, passes = _backward(experiment, vector, blocks, score, reduced, put, sorted(injected), None)
    ends = values.reshape(len(prompts), -1)
    path = np.stack([whole, ends[:, -1] - ends[:, 0]])
    return Estimates(experiment.reachable, CONDUCTANCE, found, passes, path, steps)


@dataclass(frozen=True)
class Conducted:
    """The integral of a site's gradient over its activation, summed over dimensions; of injected sites the gradients
    themselves, too.
    """

    injected: frozenset[tuple[str, int]]

    def __call__(
        self, site: tuple[str, int], rows: Float[Tensor, "share pos ..."], back: Float[Tensor, "share pos ..."]
    ) -> tuple[Tensor, Tensor | None]:
        return _integral(back, rows).sum(dim=-1), back.clone() if site in self.injected else None


def _integral(g: Float[Tensor, "share ..."], x: Float[Tensor, "share ..."]) -> Float[Tensor, "..."]:
    """Of g over x, from the first share to the last: twice as fine a sum mends the coarse one."""
    fine = (g[1:] + g[:-1]) * (x[1:] - x[:-1])
    coarse = (g[2::2] + g[:-2:2]) * (x[2::2] - x[:-2:2])
    found: Tensor = (4 * fine.sum(dim=0) - coarse.sum(dim=0)) / 6
    return found


def _put(experiment: Experiment, into: Float[Values, "node pos"], site: tuple[str, int], product: Tensor) -> None:
    """Adds products `[pos]` or `[pos, head]` to the rows of a site's nodes."""
    values = product.double().cpu().numpy()
    for i, node in enumerate(experiment.reachable):
        if (node.site.name, node.layer) == site:
            into[i] += values if node.head is None else values[:, node.head]


Reduce = Callable[[tuple[str, int], Tensor, Tensor], Any]  # of a site, its activations and gradients, by share


def _backward(
    experiment: Experiment,
    vector: int,
    blocks: Sequence[Sequence[float]],
    score: Score,
    reduced: Reduce,
    put: Callable[[int, int, tuple[str, int], Any], None],
    more: Sequence[tuple[str, int]],
    rules: Rules | None,
) -> tuple[Float[Values, " row"], float]:
    """Runs every prompt at shares of the coefficient, those of a block side by side; scores, and what it cost.

    Args:
        reduced: what is made of each prompt's and block's activations and gradients, where they are.
        put: called as put(prompt, block, site, made) with that.
        more: sites to see beside those of the nodes.
    """
    prompts = experiment.prompts.full
    edits = {share: experiment.edits(vector, share) for share in dict.fromkeys(s for b in blocks for s in b) if share}
    groups = [
        [Variant(p, edits[share][p]) if share else Variant(p) for share in block]
        for p in range(len(prompts))
        for block in blocks
    ]
    of_row = [(g // len(blocks), g % len(blocks), len(group)) for g, group in enumerate(groups) for _ in group]
    sites = sorted({(node.site.name, node.layer) for node in experiment.reachable} | set(more))

    def put_each(made: list[tuple[int, int, tuple[str, int], Any]]) -> None:
        for one in made:
            put(*one)

    values = backward(
        experiment.model,
        prompts,
        groups,
        experiment.scored_positions.positions,
        score,
        sites,
        Blocks(of_row, [len(ids) for ids in prompts], reduced),
        put_each,
        reads=experiment.reads,
        budget=experiment.budget,
        rules=rules,
        name=experiment.metric.name,
    )
    again = recomputes(experiment.model, prompts, groups)  # forward once more
    return values.double().cpu().numpy(), float((BACKWARD + again) * len(of_row))


@dataclass(frozen=True)
class Blocks:
    """Cuts the rows of a chunk into prompts and blocks, and reduces each: what `backward` collects.

    Attributes:
        of_row: by row of all chunks, its prompt, its block, and how many rows that has.
        lengths: of the prompts.
    """

    of_row: Sequence[tuple[int, int, int]]
    lengths: Sequence[int]
    reduced: Reduce

    def __call__(
        self, indices: list[int], site: str, layer: int, x: Tensor, g: Tensor
    ) -> list[tuple[int, int, tuple[str, int], Any]]:
        found, first = [], 0
        while first < len(indices):
            p, block, size = self.of_row[indices[first]]
            rows = slice(first, first + size), slice(self.lengths[p])
            found.append((p, block, (site, layer), self.reduced((site, layer), x[rows], g[rows])))
            first += size
        return found


def _along(experiment: Experiment, vector: int, p: int, site: tuple[str, int], gradient: Tensor) -> float:
    """What is injected at a site times the gradient there."""
    total = 0.0
    for edit in experiment.edits(vector)[p]:
        if (edit.site.name, edit.site.layer) == site:
            assert isinstance(edit.value, Tensor) and edit.positions is not None
            at = gradient if edit.site.head is None else gradient[:, edit.site.head]
            total += (at[list(edit.positions)] * edit.value.to(at)).sum().item()
    return total


METHODS: dict[str, Callable[[Experiment, int, int, Score], Estimates]] = {
    "gradient": _gradient,
    "relp": _relp,
    "atp*": _repaired,
    "ig": _integrated,
}
