"""The slow truth: one plain forward pass for one prompt and one variant, edited by plain hooks.

Written without looking at the engine: hook points by their literal names, one loop over edits, one
over positions. An edited pattern is multiplied out by hand, query by query, and put into `z`.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.model.models import Model

HOOK = {
    "resid_pre": "hook_in",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "pattern": "attn.hook_pattern",
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "mlp_in": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_out",
}


def plain_logits(model: Model, prompt: Sequence[int], edits: Sequence[Edit] = ()) -> Tensor:
    """Logits of one edited pass, `[pos, vocab]`."""
    return plain_pass(model, prompt, edits)["logits"]


def plain_pass(model: Model, prompt: Sequence[int], edits: Sequence[Edit] = ()) -> dict[Any, Tensor]:
    """Logits, the final normalized stream (`hidden`), and by (site, layer) every activation after its edits."""
    seen: dict[Any, Tensor] = {}
    hooks: list[tuple[str, Callable[..., Any]]] = [("unembed.hook_in", _keep(seen, "hidden"))]
    for layer in range(model.n_layers):
        for site in HOOK:
            if not site.startswith("mlp") or model.has_mlp:
                own = [e for e in edits if (e.site.name, e.site.layer) == (site, layer)]
                hooks.append((f"blocks.{layer}.{HOOK[site]}", _edit(model, seen, site, layer, own)))
        for norm in ("ln1", "ln2"):
            own = [e for e in edits if (e.site.name, e.site.layer) == (f"{norm}_scale", layer)]
            if own:
                hooks.append((f"blocks.{layer}.{norm}.hook_scale", _rescale(own)))
    own = [e for e in edits if e.site.name == "final_scale"]
    if own:
        hooks.append(("ln_final.hook_scale", _rescale(own)))
    tokens = torch.tensor([list(prompt)], device=model.device)
    with warnings.catch_warnings():  # an edit of a norm's scale costs rounding, which some say
        warnings.filterwarnings("ignore", "A forward hook edited hook_scale")
        seen["logits"] = model.bridge.run_with_hooks(tokens, fwd_hooks=hooks)[0]
    return seen


def _keep(seen: dict[Any, Tensor], key: Any) -> Callable[..., None]:
    def hook(x: Tensor, hook: Any) -> None:
        seen[key] = x[0]

    return hook


def _edit(model: Model, seen: dict[Any, Tensor], site: str, layer: int, edits: list[Edit]) -> Callable[..., Any]:
    def hook(x: Tensor, hook: Any) -> Tensor | None:
        if site == "z":
            z = _mix(model, seen, layer, x[0])
            seen[site, layer] = edited(z, edits)
            return seen[site, layer][None]
        if site == "pattern":  # [head, query, key] -> one row per query
            turned = edited(x[0].transpose(0, 1), edits)
            seen[site, layer] = turned.transpose(0, 1)
            seen["changed", layer] = torch.tensor(sorted({e.site.head for e in edits if e.site.head is not None}))
            return None
        seen[site, layer] = edited(x[0], edits)
        return seen[site, layer][None] if edits else None

    return hook


def _rescale(edits: list[Edit]) -> Callable[..., Any]:
    def hook(x: Tensor, hook: Any) -> Tensor:
        return edited(x[0], edits)[None]

    return hook


def _mix(model: Model, seen: dict[Any, Tensor], layer: int, z: Tensor) -> Tensor:
    """`z` with the heads whose pattern was edited mixed again, query by query."""
    pattern, v = seen["pattern", layer], seen["v", layer]
    heads = list(z.unbind(1))
    for head in seen["changed", layer].tolist():
        shared = head * v.shape[1] // model.n_heads
        rows = [[pattern[head, q, k] * v[k, shared] for k in range(len(v))] for q in range(len(z))]
        heads[head] = torch.stack([torch.stack(row).sum(0) for row in rows])
    return torch.stack(heads, dim=1)


READS = ("norm_add", "project", "clamp", "stretch", "rotate")


def _directed(edit: Edit, old: Tensor, value: Tensor) -> Tensor:
    """One row under an operation that reads it, in double precision, by matrices and angles."""
    x, v = old.double(), value.double()
    if not v.any():
        return old
    r = v / v.norm()
    along = torch.outer(r, r)
    if edit.operation == "norm_add":
        new = torch.nn.functional.normalize(x + v, dim=0) * x.norm()
    elif edit.operation == "stretch":
        new = (torch.eye(len(x), dtype=x.dtype) - along) @ x + edit.amount * along @ x
    elif edit.operation == "rotate":
        basis = torch.linalg.qr(torch.stack([x, r], dim=1))[0]
        basis = basis * torch.stack([basis[:, 0] @ x, basis[:, 1] @ r]).sign()
        start = torch.tensor([1.0, 0.0], dtype=x.dtype) * x.norm()
        angle = math.radians(edit.amount)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=x.dtype)
        new = basis @ (turn @ start)
    else:
        new = x - along @ x + edit.amount * v
        if edit.operation == "clamp" and x @ r <= edit.amount * v.norm():
            new = x
    found: Tensor = ((1 - edit.share) * x + edit.share * new).to(old)
    return found


def edited(x: Tensor, edits: Sequence[Edit]) -> Tensor:
    """`[pos, (head), width]` after all edits, in order, position by position."""
    for edit in edits:
        positions = range(len(x)) if edit.positions is None else edit.positions
        for turn, position in enumerate(positions):
            at = (position,) if edit.site.head is None else (position, edit.site.head)
            old = x[at]
            if isinstance(edit.value, Tensor):
                value = edit.value if edit.value.ndim == 1 else edit.value[turn % len(edit.value)]
                width = min(len(value), len(old))
                value = torch.cat([value[:width], value.new_zeros(len(old) - width)])
                if edit.operation in READS:
                    new = _directed(edit, old, value)
                elif edit.operation == "hide":
                    left = [
                        0.0 if hidden else float(weight) for hidden, weight in zip(value, old.detach(), strict=True)
                    ]
                    new = torch.tensor(left).to(old) / max(sum(left), 1e-37)
                else:
                    new = value if edit.operation == "set" else old + value
            else:
                new = old * edit.value
            index = torch.zeros(x.shape[: len(at)], dtype=torch.bool)
            index[at] = True
            x = torch.where(index[(...,) + (None,) * (x.ndim - len(at))], new, x)
    return x
