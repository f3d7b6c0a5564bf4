"""Rules for the way back: what a gradient misses, since it is taken at one point.

`relevance` (RelP) turns a gradient into a relevance: what bends is taken as constant.

- A norm's scale is a constant.
- An attention pattern is a constant: queries and keys hand nothing back.
- An activation function hands back its output over its input, not its slope.
- A gated MLP's product hands half back to each factor.

`secants` lets every softmax hand back what it did between the clean and the steered run, and not its slope in one of
them: a pattern that is one-hot in both has no slope, however far it moved. With p(a) the softmax at a share a of the
way from the scores of the one run to those of the other, its Jacobian averaged over a takes the whole change of the
scores to the whole change of the pattern, exactly.

The forward pass stays as it is.

Sources: Jafari et al. 2025, "RelP: Faithful and Efficient Circuit Discovery via Relevance Patching"; the rules
are those of layer-wise relevance propagation for transformers (Ali et al. 2022, arXiv 2202.07304). The secant is the
path of Sundararajan et al. 2017 (arXiv 1703.01365) within one softmax, in the place of the softmax that AtP* (Kramar et
al. 2024, arXiv 2403.00745) computes again for a head's own queries and keys.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.wavefront import Hook
from steerscope.analysis.errors import BrokenInvariant, UnsupportedModel
from steerscope.analysis.model.models import Model

SMALL = 1e-9
LEAST = 1e-37  # attention that a float32 still holds: two scores are at most some 85 nats apart, as far as can be seen
NATS = 1.0  # of scores between two points of a secant: a softmax turns over within some four
POINTS = (8, 96)


def relevance(model: Model) -> tuple[list[tuple[str, Hook]], Callable[[], None]]:
    """The rules as hooks, and a function that raises an error where one of them never acted."""
    known = model.bridge.hook_dict
    rules: list[tuple[str, Hook]] = []
    fired: set[str] = set()

    def add(name: str, rule: Hook) -> None:
        def hook(x: Tensor, hook: Any) -> Tensor | None:
            fired.add(name)
            return rule(x, hook)

        rules.append((name, hook))

    scales = ["ln1", "ln2", "ln1_post", "ln2_post"]
    for layer in range(model.n_layers):
        for norm in scales:
            name = f"blocks.{layer}.{norm}.hook_scale"
            if name in known:
                add(name, _constant)
        for site in ("q", "k"):
            add(model.hook(site, layer), _constant)
        if model.has_mlp:
            mlp = _Activation(f"blocks.{layer}.mlp", known)
            for name, rule in mlp.hooks():
                add(name, rule)
    if "ln_final.hook_scale" in known:
        add("ln_final.hook_scale", _constant)

    def check() -> None:
        silent = {name for name, _ in rules} - fired
        if silent:
            raise BrokenInvariant(
                f"rules that never acted on {model.name}: {', '.join(sorted(silent))}; their estimates would be plain "
                'gradients; use method="gradient" or "ig"'
            )

    return rules, check


def secants(model: Model) -> tuple[list[tuple[str, Hook]], Callable[[], None]]:
    """The softmaxes' rule as hooks, for chunks whose rows are clean and steered in turn; and a function that does
    nothing.

    Raises:
        UnsupportedModel: as soon as a pattern comes from no softmax.
    """
    return [(model.hook("pattern", layer), _turning) for layer in range(model.n_layers)], _nothing


def secants_without(layer: int, model: Model) -> tuple[list[tuple[str, Hook]], Callable[[], None]]:
    """The same, and a layer's nodes hand nothing back."""
    names = ("attn_out", "mlp_out") if model.has_mlp else ("attn_out",)
    turned, checked = secants(model)
    return [*turned, *((model.hook(name, layer), _constant) for name in names)], checked


def _nothing() -> None:
    """No rule to look after."""


def _turning(pattern: Tensor, hook: Any) -> None:
    """Changes the way back of the softmax that a pattern comes from; the pattern itself stays."""
    if pattern.grad_fn is None:
        return
    softmax = _softmax(pattern.grad_fn)
    if softmax is None:
        raise UnsupportedModel(
            f"{getattr(hook, 'name', 'a pattern')} does not come from a softmax, so what it does between two runs is "
            'not known; expected eager attention; use method="ig"'
        )
    p = pattern.detach()
    softmax.register_hook(lambda found, given: (secant(p, given[0]), *found[1:]))


def _softmax(node: Any, deep: int = 8) -> Any:
    """The softmax that a pattern was made by, behind casts, masks and dropout."""
    if node is None or type(node).__name__.startswith("SoftmaxBackward"):
        return node
    found = (_softmax(before, deep - 1) for before, _ in node.next_functions if deep)
    return next((one for one in found if one is not None), None)


def secant(
    pattern: Float[Tensor, "row head query key"], gradient: Float[Tensor, "row head query key"]
) -> Float[Tensor, "row head query key"]:
    """The gradient of the scores from that of the pattern, by the mean Jacobian between each pair of rows."""
    scores = pattern.clamp_min(LEAST).log()  # up to what all keys have in common, which a softmax does not see
    start, moved = scores[0::2], scores[1::2] - scores[0::2]
    points = min(max(int(moved.abs().max() / NATS), POINTS[0]), POINTS[1])
    found = torch.zeros_like(gradient)
    for i in range(points):
        p = (start + (i + 0.5) / points * moved).softmax(dim=-1)
        for row in (0, 1):
            own = gradient[row::2]
            found[row::2] += p * (own - (p * own).sum(dim=-1, keepdim=True)) / points
    return found


def _constant(x: Tensor, hook: Any) -> Tensor:
    return x.detach()


class _Activation:
    """An MLP's activation function: remembers what went in, and gives what comes out another way back."""

    def __init__(self, mlp: str, known: Any) -> None:
        self.gate, self.linear, self.out = (f"{mlp}.{x}" for x in ("hook_pre", "hook_pre_linear", "hook_post"))
        self.gated = self.linear in known
        self.inputs: dict[str, Tensor] = {}

    def hooks(self) -> list[tuple[str, Hook]]:
        inputs = [self.gate, self.linear] if self.gated else [self.gate]
        return [*((name, self._remember(name)) for name in inputs), (self.out, self._replace)]

    def _remember(self, name: str) -> Hook:
        def hook(x: Tensor, hook: Any) -> Tensor:
            self.inputs[name] = x = x.clone()
            return x

        return hook

    def _replace(self, out: Tensor, hook: Any) -> Tensor:
        found = [self.inputs.pop(name) for name in list(self.inputs)]
        flows = sum(_proportional(x, out) / len(found) for x in found)
        assert isinstance(flows, Tensor)
        return flows + (out - flows).detach()


def _proportional(x: Tensor, out: Tensor) -> Tensor:
    """As `out`, as a constant times x."""
    ratio = torch.where(x.abs() > SMALL, out / x, torch.zeros_like(x))
    return x * ratio.detach()
