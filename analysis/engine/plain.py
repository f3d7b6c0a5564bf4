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

Hook = tuple[str, Callable[[Tensor, Any], Tensor]]


def plain_hooks(model: Model, edits: Sequence[Edit], length: int) -> list[Hook]:
    """A hook for each edit (add, set or scale; not at `pattern`) of a prompt of `length` tokens."""
    return [(model.hook(edit.site.name, edit.site.layer), _hook(edit, length)) for edit in edits]


def _hook(edit: Edit, length: int) -> Callable[[Tensor, Any], Tensor]:
    positions = list(range(length)) if edit.positions is None else list(edit.positions)

    def hook(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        part = x[:, positions] if edit.site.head is None else x[:, positions, edit.site.head]
        value = edit.value.to(x) if isinstance(edit.value, Tensor) else edit.value
        if edit.operation == "add":
            part = part + value
        elif edit.operation == "scale":
            part = part * value
        else:
            part = torch.zeros_like(part) + value
        if edit.site.head is None:
            x[:, positions] = part
        else:
            x[:, positions, edit.site.head] = part
        return x

    return hook


@torch.no_grad()
def plain_logits(model: Model, prompt: Sequence[int], edits: Sequence[Edit]) -> Float[Tensor, "pos vocab"]:
    """Logits of one prompt under edits, from one plain hooked pass."""
    tokens = torch.tensor([list(prompt)], device=model.device)
    logits: Tensor = model.bridge.run_with_hooks(tokens, fwd_hooks=plain_hooks(model, edits, len(prompt)))[0]
    check_logits(model, logits, "a plain pass")
    return logits
