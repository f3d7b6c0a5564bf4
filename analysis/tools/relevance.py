"""Rules for the way back that turn a gradient into a relevance (RelP): what bends is taken as constant.

- A norm's scale is a constant.
- An attention pattern is a constant: queries and keys hand nothing back.
- An activation function hands back its output over its input, not its slope.
- A gated MLP's product hands half back to each factor.

The forward pass stays as it is.

Source: Jafari et al. 2025, "RelP: Faithful and Efficient Circuit Discovery via Relevance Patching"; the rules
are those of layer-wise relevance propagation for transformers (Ali et al. 2022, arXiv 2202.07304).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steerscope.analysis.engine.wavefront import Hook
from steerscope.analysis.errors import BrokenInvariant
from steerscope.analysis.model.models import Model

SMALL = 1e-9


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
