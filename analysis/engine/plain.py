"""One plain hooked pass: edits of a single prompt as TransformerLens hooks, nothing shared.

The slow truth that fast results are compared with, and what generation reads its prompt with.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.model.models import Model

from .edits import Edit
from .finite import check_logits
from .operations import changed

Hook = tuple[str, Callable[[Tensor, Any], Tensor]]


def plain_hooks(model: Model, edits: Sequence[Edit], length: int) -> list[Hook]:
    """A hook for each edit (not at `pattern`) of a prompt of `length` tokens."""
    return [(model.hook(edit.site.name, edit.site.layer), _hook(edit, length)) for edit in edits]


def _hook(edit: Edit, length: int, see: Callable[[Tensor], None] | None = None) -> Callable[[Tensor, Any], Tensor]:
    positions = list(range(length)) if edit.positions is None else list(edit.positions)

    def hook(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        part = x[:, positions] if edit.site.head is None else x[:, positions, edit.site.head]
        after = edited(edit, part)
        if see is not None:
            see(after[0] - part[0])
        if edit.site.head is None:
            x[:, positions] = after
        else:
            x[:, positions, edit.site.head] = after
        return x

    return hook


def edited(edit: Edit, x: Float[Tensor, "row pos width"]) -> Float[Tensor, "row pos width"]:
    """Activations at the positions of an edit, after it."""
    if edit.reads:
        assert isinstance(edit.value, Tensor)
        return changed(edit.operation, x, edit.value, edit.amount, edit.share)
    value = edit.value.to(x) if isinstance(edit.value, Tensor) else edit.value
    if edit.operation == "add":
        return x + value
    return x * value if edit.operation == "scale" else torch.zeros_like(x) + value


@torch.no_grad()
def plain_additions(model: Model, prompt: Sequence[int], edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Edits that add what others change in their own run, one for each: the same run, by additions alone."""
    seen: list[Tensor] = [torch.empty(0)] * len(edits)

    def keep(number: int) -> Callable[[Tensor], None]:
        return lambda change: seen.__setitem__(number, change)

    hooks = [
        (model.hook(edit.site.name, edit.site.layer), _hook(edit, len(prompt), keep(n))) for n, edit in enumerate(edits)
    ]
    logits: Tensor = model.bridge.run_with_hooks(torch.tensor([list(prompt)], device=model.device), fwd_hooks=hooks)[0]
    check_logits(model, logits, "a plain pass")
    return tuple(
        edit if edit.operation == "add" else Edit(edit.site, "add", change, edit.positions or tuple(range(len(prompt))))
        for edit, change in zip(edits, seen, strict=True)
    )


@torch.no_grad()
def plain_logits(model: Model, prompt: Sequence[int], edits: Sequence[Edit]) -> Float[Tensor, "pos vocab"]:
    """Logits of one prompt under edits, from one plain hooked pass."""
    tokens = torch.tensor([list(prompt)], device=model.device)
    logits: Tensor = model.bridge.run_with_hooks(tokens, fwd_hooks=plain_hooks(model, edits, len(prompt)))[0]
    check_logits(model, logits, "a plain pass")
    return logits
