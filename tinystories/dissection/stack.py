"""`Stack`: the secants of all layers for a batch of prompts, and who has written into the stream at each stage.

Stages of the stream: 2l is what attention of layer l reads, 2l + 1 the stream after it, 2L what the final norm reads.
The change of the stream at a stage is the sum of what was injected up to there (`direct`) and of what every head and
MLP before it writes differently.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .form import Form
from .heads import HeadSecants
from .mlps import MLPSecants
from .runs import Runs
from .secants import NormSecant

Stream = Float[Tensor, "prompt pos d_model"]


@dataclass(frozen=True, eq=False)
class Writers:
    """What rows see of each writer into a stream: heads and MLPs by layer."""

    direct: Float[Tensor, " row"]
    heads: list[Float[Tensor, "row head"]]
    mlps: list[Float[Tensor, " row"]]


@dataclass(frozen=True, eq=False)
class Stack:
    """Of a batch of prompts of equal length.

    Attributes:
        change: by stage, how the stream changes.
        direct: by stage, what was injected up to there.
    """

    form: Form
    runs: Runs
    heads: tuple[HeadSecants, ...]
    mlps: tuple[MLPSecants, ...]
    final: NormSecant
    change: tuple[Stream, ...]
    direct: tuple[Stream, ...]

    @property
    def layers(self) -> int:
        return len(self.heads)

    def mlp_stage(self, layer: int) -> int:
        """The stage that the MLP of a layer reads."""
        return 2 * layer + (0 if self.form.model.parallel else 1)

    def writers(self, r: Float[Tensor, "row d_model"], b: Int[Tensor, " row"], at: Tensor, stage: int) -> Writers:
        """What reads of the stream at positions of prompts see of each writer below a stage."""
        heads, mlps = [], []
        for layer in range(self.layers):
            if 2 * layer + 1 <= stage:
                read = torch.einsum("rd,hed->rhe", r, self.form.attention[layer].W_O)
                heads.append((read * self.heads[layer].Dz[b, at]).sum(dim=-1))
            if 2 * layer + 2 <= stage and self.mlps:
                inner = self.mlps[layer]
                mlps.append(((r @ inner.own.W_out.T) * inner.Dg[b, at]).sum(dim=-1))
        return Writers((r * self.direct[stage][b, at]).sum(dim=-1), heads, mlps)


def stack(form: Form, runs: Runs) -> Stack:
    """The secants of a model between two runs."""
    layers = len(form.attention)
    heads, mlps, change = [], [], []
    injected = torch.zeros_like(runs.kept["resid_pre", 0][0])
    direct = []
    before = injected  # the stream's change, as it comes from below
    for layer in range(layers):
        pre = runs.kept["resid_pre", layer]
        if ("resid_pre", layer) in runs.edited:
            injected = injected + (pre[1] - pre[0]) - before
        change.append(pre[1] - pre[0])
        direct.append(injected)
        own = HeadSecants.of(form.attention[layer], runs, layer, pre)
        heads.append(own)
        attn_out = runs.change("attn_out", layer)
        if {("attn_out", layer), ("z", layer)} & runs.edited:
            injected = injected + attn_out - torch.einsum("bihe,hed->bid", own.Dz, form.attention[layer].W_O)
        before = change[-1] + attn_out
        change.append(before)
        direct.append(injected)
        if form.mlps:
            middle = pre if form.model.parallel else pre + runs.kept["attn_out", layer]
            inner = MLPSecants.of(form.mlps[layer], middle)
            mlps.append(inner)
            mlp_out = runs.change("mlp_out", layer)
            if ("mlp_out", layer) in runs.edited:
                injected = injected + mlp_out - inner.change
            before = before + mlp_out
    post = runs.kept["resid_post", layers - 1]
    change.append(post[1] - post[0])
    direct.append(injected)
    final = NormSecant.of(form.final, post[0], post[1])
    return Stack(form, runs, tuple(heads), tuple(mlps), final, tuple(change), tuple(direct))
