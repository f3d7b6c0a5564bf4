"""A model of any precision, run in double precision, without a second copy of its modules.

Weights and buffers are put in as doubles for the time of a call, and what the model's code casts to single precision
(softmaxes, variances, angles) stays double: two runs are then subtracted without rounding that counts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.engine.plain import edited
from steerscope.analysis.model.models import Model

COARSE = (torch.float32, torch.float16, torch.bfloat16)
Hook = tuple[str, Callable[[Tensor, Any], Tensor | None]]


class _Wide(TorchFunctionMode):
    """Casts to single or half precision give doubles."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            return args[0].double()
        args = tuple(torch.float64 if isinstance(a, torch.dtype) and a in COARSE else a for a in args)
        options = dict(kwargs or {})
        if options.get("dtype") in COARSE:
            options["dtype"] = torch.float64
        return func(*args, **options)


class _Holder(torch.nn.Module):
    def __init__(self, bridge: Any) -> None:
        super().__init__()
        self.bridge = bridge

    def forward(self, call: Callable[[Any], Any]) -> Any:
        return call(self.bridge)


class Double:
    """A model whose calls compute in double precision."""

    def __init__(self, model: Model) -> None:
        self.model, self._holder = model, _Holder(model.bridge)
        doubles: dict[int, Tensor] = {}  # a tensor that several modules share stays one
        self._state = {}
        for path, module in self._holder.named_modules():  # a module that has several names comes once
            for name, x in (*module._parameters.items(), *module._buffers.items()):
                if x is not None and x.is_floating_point():
                    self._state[f"{path}.{name}"] = doubles.setdefault(id(x), x.detach().double())

    @torch.no_grad()
    def call(self, function: Callable[[Any], Any]) -> Any:
        """What a function of the bridge gives when all its weights are doubles."""
        with _Wide():
            return torch.func.functional_call(self._holder, self._state, (function,), tie_weights=False)

    def run(self, ids: Tensor, hooks: Sequence[Hook]) -> Float[Tensor, "row pos vocab"]:
        """Logits of one plain hooked pass."""
        found: Tensor = self.call(lambda bridge: bridge.run_with_hooks(ids, fwd_hooks=list(hooks)))
        return found


def edit_hooks(model: Model, edits: Sequence[Sequence[Edit]]) -> list[Hook]:
    """Hooks that put each prompt's edits into its own row of a batch."""

    def hook(row: int, edit: Edit) -> Hook:
        def through(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            own = x[row : row + 1] if edit.site.head is None else x[row : row + 1, :, edit.site.head]
            at = list(range(own.shape[1])) if edit.positions is None else list(edit.positions)
            own[:, at] = edited(edit, own[:, at])
            return x

        return model.hook(edit.site.name, edit.site.layer), through

    return [hook(row, edit) for row, own in enumerate(edits) for edit in own]
