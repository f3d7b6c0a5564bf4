"""What every node carries, estimated from gradients of the steered contrast.

The contrast is the same prompt with the injection and without it (`rows` below). With g the gradient of
the metric with respect to a node's output z, summed over positions and dimensions:

- `gradient` (attribution patching): necessity ~ g(steered) . (z_steered - z_clean), sufficiency ~
  g(clean) . (z_steered - z_clean). One forward and one backward pass for all nodes.
- `relp`: the same with the rules of `relevance.py` in the way back, which make it a relevance.
- `atp*`: the same with GradDrop: one backward pass a layer, in which nothing flows back through that
  layer's nodes; the mean size of what is left, so that a node whose paths cancel is still seen.
- `ig` (integrated gradients): g averaged along the coefficient from 0 to its value. At the injection
  itself this adds up to the whole effect: the gap is printed.

Sources: Nanda 2023 and Syed et al. 2023 (arXiv 2310.10348) for attribution patching; Kramar et al. 2024
(arXiv 2403.00745) for AtP*; Sundararajan et al. 2017 (arXiv 1703.01365) and Hanna et al. 2024 (arXiv
2403.17806) for the integrated form; Jafari et al. 2025 for RelP.
What it cannot see: anything a straight line does not: saturation (`gradient`), backup, interactions. So
every result says how far it is from exact patching on a sample of nodes.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.backward import backward, recomputes
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.wavefront import Hook
from steerscope.analysis.errors import BadArgument, BadMetric
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment

from .patching import MEASURES
from .relevance import relevance

Values = NDArray[np.float64]
Rules = Sequence[tuple[str, Hook]]
BACKWARD = 3  # forward-equivalents of a row: forward, and twice that for the way back


@dataclass(frozen=True, eq=False)
class Estimates:
    """What gradients say, of one vector.

    Attributes:
        nodes: those that the injection can reach.
        at: by prompt, estimates at every position.
        passes: what it cost, in forward passes of one prompt.
        path: for `ig`, what gradients at the injection add up to, by prompt, and what they should.
    """

    nodes: tuple[Node, ...]
    at: list[Float[Values, "measure node pos"]]
    passes: float
    path: Float[Values, "2 prompt"] | None = None

    @property
    def values(self) -> Float[Values, "measure node prompt"]:
        """Sums over positions."""
        return np.stack([x.sum(axis=-1) for x in self.at], axis=-1)


def estimate(experiment: Experiment, method: str, vector: int = 0, steps: int = 8) -> Estimates:
    """Estimates of necessity and sufficiency by a method of `METHODS`.

    Args:
        vector: 0 is the real one, 1 the first reference.
        steps: points along the coefficient, for `ig`.

    Raises:
        BadArgument: an unknown method, or no steps.
        BadMetric: a metric whose gradient says nothing here.
    """
    if method not in METHODS:
        raise BadArgument(f"unknown method {method!r}; expected one of {', '.join(METHODS)}; choose one")
    if steps < 1:
        raise BadArgument(f"steps={steps}; expected at least 1 point along the coefficient; 8 is usual")
    if experiment.metric.flat_at_clean and method != "ig":
        raise BadMetric(
            "the gradient of KL to the clean run is zero in the clean run, so sufficiency would be zero everywhere; "
            'expected a metric that moves there, such as logit_direction; or use the integrated form, method="ig"'
        )
    return METHODS[method](experiment, vector, steps)


def rank(experiment: Experiment, method: str = "gradient") -> tuple[Float[Values, "measure node"], float]:
    """Estimates of the real vector, means over prompts, and what they cost in forward passes."""
    found = estimate(experiment, method)
    return found.values.mean(axis=-1), found.passes


def _gradient(experiment: Experiment, vector: int, steps: int, rules: Rules = ()) -> Estimates:
    at, _, passes = _contract(experiment, vector, (), rules)
    return Estimates(experiment.reachable, at, passes)


def _relp(experiment: Experiment, vector: int, steps: int) -> Estimates:
    rules, fired = relevance(experiment.model)
    with warnings.catch_warnings():  # what is edited in a norm stays as it was, but for its way back
        warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
        found = _gradient(experiment, vector, steps, rules)
    fired()
    return found


def _dropped(experiment: Experiment, vector: int, steps: int) -> Estimates:
    """GradDrop: a backward pass for each layer, in which that layer hands nothing back."""
    plain = _gradient(experiment, vector, steps)
    model = experiment.model
    first = min(node.layer for node in experiment.reachable)
    layers = range(first, model.n_layers)
    total = [np.zeros_like(x) for x in plain.at]
    for layer in layers:
        names = ("attn_out", "mlp_out") if model.has_mlp else ("attn_out",)
        rules = [(model.hook(name, layer), _stop) for name in names]
        own = [i for i, node in enumerate(experiment.reachable) if node.layer == layer]
        for x, y in zip(total, _gradient(experiment, vector, steps, rules).at, strict=True):
            y[:, own] = 0  # nothing reaches the dropped layer's own nodes
            x += np.abs(y)
    scale = 1 / max(1, len(layers) - 1)
    # At a position: the mean size, with the sign that all paths together have.
    at = [np.sign(p) * x * scale for p, x in zip(plain.at, total, strict=True)]
    at = at if len(layers) > 1 else plain.at
    return Estimates(plain.nodes, at, plain.passes * (1 + len(layers)))


def _stop(x: Tensor, hook: object) -> Tensor:
    return x.detach()


def _integrated(experiment: Experiment, vector: int, steps: int) -> Estimates:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    points = [(float((x + 1) / 2), float(w / 2)) for x, w in zip(nodes, weights, strict=True)]
    at, path, passes = _contract(experiment, vector, points, ())
    return Estimates(experiment.reachable, at, passes, path)


def _contract(
    experiment: Experiment, vector: int, points: Sequence[tuple[float, float]], rules: Rules
) -> tuple[list[Values], Values | None, float]:
    """Gradients times the change of every node, at every position; rows are clean, steered, and the points between."""
    prompts, nodes = experiment.prompts.full, experiment.reachable
    steered = [experiment.edits(vector, share) for share in (1.0, *(x for x, _ in points))]
    groups = [[Variant(p), *(Variant(p, edits[p]) for edits in steered)] for p in range(len(prompts))]
    size = len(groups[0])
    found = [np.zeros((len(MEASURES), len(nodes), len(ids))) for ids in prompts]
    whole = np.zeros(len(prompts))
    place = {node: i for i, node in enumerate(nodes)}
    injected = {(i.site.name, i.site.layer) for i in experiment.injections} if points else set()
    sites = sorted({(node.site.name, node.layer) for node in nodes} | injected)

    def collect(indices: list[int], site: str, layer: int, x: Tensor, g: Tensor) -> None:
        for first in range(0, len(indices), size):
            p = indices[first] // size
            length = len(prompts[p])
            rows, back = x[first : first + size, :length], g[first : first + size, :length]
            change = rows[1] - rows[0]
            if points:
                mean = sum(w * back[2 + k] for k, (_, w) in enumerate(points))
                assert isinstance(mean, Tensor)
                gradients = [mean, mean]
            else:
                gradients = [back[1], back[0]]
            if (site, layer) in injected:
                whole[p] += _along(experiment, vector, p, (site, layer), gradients[0])
            for measure, gradient in enumerate(gradients):
                product = (gradient * change).sum(dim=-1).double().cpu().numpy()  # [pos] or [pos, head]
                for head in range(product.shape[1]) if product.ndim == 2 else (None,):
                    node = Node(layer, head)
                    if node in place and node.site.name == site:
                        own = product if head is None else product[:, head]
                        found[p][measure, place[node]] = own

    values = backward(
        experiment.model,
        prompts,
        groups,
        experiment.scored_positions.positions,
        experiment.along,
        sites,
        collect,
        reads=experiment.reads,
        budget=experiment.budget,
        rules=rules,
        name=experiment.metric.name,
    )
    ends = values.double().cpu().numpy().reshape(len(prompts), size)
    path = np.stack([whole, ends[:, 1] - ends[:, 0]]) if points else None
    again = recomputes(experiment.model, prompts, groups)  # forward once more
    return found, path, float((BACKWARD + again) * size * len(prompts))


def _along(experiment: Experiment, vector: int, p: int, site: tuple[str, int], gradient: Tensor) -> float:
    """What is injected at a site times the gradient there."""
    total = 0.0
    for edit in experiment.edits(vector)[p]:
        if (edit.site.name, edit.site.layer) == site:
            assert isinstance(edit.value, Tensor) and edit.positions is not None
            at = gradient if edit.site.head is None else gradient[:, edit.site.head]
            total += (at[list(edit.positions)] * edit.value.to(at)).sum().item()
    return total


METHODS: dict[str, Callable[[Experiment, int, int], Estimates]] = {
    "gradient": _gradient,
    "relp": _relp,
    "atp*": _dropped,
    "ig": _integrated,
}
