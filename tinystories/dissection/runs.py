"""`Runs`: what is kept of a clean and a steered run, of prompts of equal length, in double precision.

All that is kept is measured in plain hooked passes, edits included. What an injection puts in at a site is the measured
change there, minus what comes from below: so an addition, an ablation or a rotation is just another stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.errors import BadInjection, Overflow, UnsupportedModel
from steerscope.analysis.model.models import Model

from .double import Hook, edit_hooks
from .form import CLOSE, INSTEAD, Attention, Form, Rotary, tables

SITES = ("resid_pre", "q", "k", "v", "z", "attn_out", "mlp_out")
Kept = Mapping[tuple[str, int], Float[Tensor, "run prompt ..."]]
LEAST = 1e-280  # of a pattern: what is smaller says nothing of scores


@dataclass(frozen=True, eq=False)
class Runs:
    """Both runs of a batch of prompts of equal length.

    Attributes:
        kept: by (site, layer) the activations, the clean run's first; `resid_post` of the last layer with them.
        logits: of both.
        bias: by layer what the model adds to scores: minus infinity where a key is not seen.
        edited: (site, layer) of what is injected.
    """

    ids: Tensor
    kept: Kept
    logits: Float[Tensor, "run prompt pos vocab"]
    bias: tuple[Float[Tensor, "#prompt #head pos pos"], ...]
    edited: frozenset[tuple[str, int]]

    def change(self, site: str, layer: int) -> Tensor:
        kept = self.kept[site, layer]
        return kept[1] - kept[0]


def check_sites(model: Model, edits: Sequence[Sequence[Edit]]) -> None:
    """Refuses injections that are no stream of their own.

    Raises:
        BadInjection: at a pattern, or at the scale of a norm.
    """
    for edit in (edit for own in edits for edit in own):
        if edit.site.name not in SITES:
            raise BadInjection(
                f"an injection at {edit.site}; dissect follows what is put into {', '.join(SITES)}; inject there, or "
                "use localize"
            )


def runs(form: Form, ids: Sequence[Sequence[int]], edits: Sequence[Sequence[Edit]]) -> Runs:
    """Two plain passes of prompts of equal length.

    Raises:
        Overflow: a run is not finite.
    """
    batch = torch.tensor([list(own) for own in ids], device=form.model.device)
    passes = [_pass(form, batch, hooks) for hooks in ([], edit_hooks(form.model, edits))]
    (clean, clean_logits), (steered, steered_logits) = passes
    kept = {site: torch.stack([clean[site], steered[site]]) for site in clean}
    logits = torch.stack([clean_logits, steered_logits])
    if not torch.isfinite(logits).all() or not all(torch.isfinite(x).all() for x in kept.values()):
        raise Overflow(
            "a run of the prompts in double precision is not finite; expected finite numbers; use a smaller coefficient"
        )
    sites = frozenset((edit.site.name, edit.site.layer) for own in edits for edit in own)
    return Runs(batch, kept, logits, _biases(form, batch[:1]), sites)


def _pass(form: Form, ids: Tensor, edits: Sequence[Hook]) -> tuple[dict[tuple[str, int], Tensor], Tensor]:
    model, seen = form.model, {}

    def keep(site: tuple[str, int]) -> Hook:
        def hook(x: Tensor, hook: Any) -> None:
            seen[site] = x.detach()

        return model.hook(*site), hook

    sites = [(name, layer) for layer in range(model.n_layers) for name in (*SITES, "pattern")]
    sites = [site for site in sites if model.has_mlp or site[0] != "mlp_out"] + [("resid_post", model.n_layers - 1)]
    logits = form.double.run(ids, [*edits, *map(keep, sites)])
    return seen, logits


def _biases(form: Form, ids: Tensor) -> tuple[Tensor, ...]:
    """What is added to scores, up to a constant of each row: the logarithm of patterns with queries of zeros."""
    model, seen = form.model, {}

    def nothing(x: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(x)

    def keep(layer: int) -> Hook:
        def hook(x: Tensor, hook: Any) -> None:
            seen[layer] = x.detach().log()

        return model.hook("pattern", layer), hook

    layers = range(model.n_layers)
    form.double.run(ids, [*((model.hook("q", layer), nothing) for layer in layers), *map(keep, layers)])
    return tuple(seen[layer] for layer in layers)


def fitted(form: Form, found: Runs) -> Form:
    """The same model with rotation and scale of its scores, found in its own patterns.

    Raises:
        UnsupportedModel: no bilinear form of queries and keys gives them.
    """
    length = found.ids.shape[1]
    rotating: list[Rotary | None] = [None]
    for cos, sin, adjacent in tables(form.model, form.model.n_ctx if length <= form.model.n_ctx else length):
        rotating += [Rotary(cos, sin, lie) for lie in ((False, True) if adjacent is None else (adjacent,))]
    attention = []
    for layer, own in enumerate(form.attention):
        tried = [_fit(replace(own, rotary=rotary), found, layer) for rotary in rotating]
        best, error = min(tried, key=lambda one: one[1])
        if error > CLOSE:
            raise UnsupportedModel(
                f"the patterns of layer {layer} of {form.model.name} ({form.model.architecture}) are not a softmax of "
                f"scale x query . key, rotated or not (off by {error:.2g} nats); expected that (no soft cap of scores, "
                f"no sinks); {INSTEAD}"
            )
        attention.append(best)
    return replace(form, attention=tuple(attention))


def _fit(own: Attention, found: Runs, layer: int) -> tuple[Attention, float]:
    """The scale that fits patterns best, and by how many nats they are off, of their largest score."""
    q, k = own.turned(found.kept["q", layer], own.q_norm), keys(own, found.kept["k", layer])
    raw = torch.einsum("rbihe,rbjhe->rbhij", q, k)
    pattern, bias = found.kept["pattern", layer], found.bias[layer]
    seen = (pattern > LEAST) & torch.isfinite(bias)
    target = torch.where(seen, pattern.clamp_min(LEAST).log() - torch.where(torch.isfinite(bias), bias, 0.0), 0.0)
    count = seen.sum(dim=-1, keepdim=True).clamp_min(1)

    def centred(x: Tensor) -> Tensor:
        return torch.where(seen, x - torch.where(seen, x, 0.0).sum(dim=-1, keepdim=True) / count, 0.0)

    raw, target = centred(raw), centred(target)
    square = float((raw * raw).sum())
    scale = float((raw * target).sum()) / square if square > 0 else 1.0
    off = float((target - scale * raw).abs().max()) / max(1.0, float(target.abs().max()))
    return replace(own, scale=scale), off


def keys(own: Attention, k: Float[Tensor, "*rows pos kv_head d_head"]) -> Float[Tensor, "*rows pos head d_head"]:
    """Keys as they meet queries: normalized, turned, and repeated for the heads that share them."""
    return repeated(own, own.turned(k, own.k_norm))


def repeated(own: Attention, x: Float[Tensor, "*rows pos kv_head d_head"]) -> Float[Tensor, "*rows pos head d_head"]:
    shared = len(own.W_Q) // x.shape[-2]
    return x if shared == 1 else x.repeat_interleave(shared, dim=-2)
