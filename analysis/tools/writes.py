"""What nodes write into the stream, and how it differs between two runs: the linear part of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, added
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site
from steerscope.analysis.model.norms import Norm, norm_of

Run = Mapping[tuple[str, int], Tensor]  # activations of one prompt by (site, layer)


def head_writes(model: Model, layer: int, z: Float[Tensor, "pos head d_head"]) -> Float[Tensor, "head pos d_model"]:
    """What each head of a layer writes; with the bias they add up to `attn_out`.

    Where a norm stands between attention and stream, a write goes through it with the scale of its run.
    """
    writes, bias, norm = raw_writes(model, layer, z)
    return writes if norm is None else norm.part(writes, norm.scale(writes.sum(0) + bias))


def raw_writes(
    model: Model, layer: int, z: Float[Tensor, "*run pos head d_head"]
) -> tuple[Float[Tensor, "head *run pos d_model"], Float[Tensor, " d_model"], Norm | None]:
    """Writes before the norm that may stand between attention and stream, the bias, and that norm."""
    attention = model.bridge.blocks[layer].attn
    writes = torch.einsum("...phd,hdm->h...pm", z, attention.W_O.to(z))
    given = getattr(attention, "b_O", None)
    bias = writes.new_zeros(model.d_model) if given is None else given.to(z)
    norm = norm_of(model, model.bridge.blocks[layer].ln1_post) if model.post_norm else None
    if norm is not None:
        norm = replace(norm, weight=norm.weight.to(z), bias=norm.bias.to(z))
    return writes, bias, norm


def moves(model: Model, nodes: Sequence[Node], before: Run, after: Run) -> Float[Tensor, "node pos d_model"]:
    """What would be written differently if one node alone changed: as `changes`, but that a norm after attention sees
    the other heads as they were."""
    found = changes(model, nodes, before, after)
    for row, node in enumerate(nodes):
        if model.post_norm and node.head is not None:
            writes, bias, norm = raw_writes(model, node.layer, before["z", node.layer])
            others, _, _ = raw_writes(model, node.layer, after["z", node.layer])
            whole = writes.sum(0) + bias
            assert norm is not None
            found[row] = norm(whole + others[node.head] - writes[node.head]) - norm(whole)
    return found


def changes(model: Model, nodes: Sequence[Node], before: Run, after: Run) -> Float[Tensor, "node pos d_model"]:
    """What every node writes differently in the second run, at every position."""
    rows: dict[Node, Tensor] = {}
    for layer in sorted({node.layer for node in nodes if node.head is not None}):
        found = [head_writes(model, layer, run["z", layer]) for run in (before, after)]
        for head, change in enumerate(found[1] - found[0]):
            rows[Node(layer, head)] = change
    for node in nodes:
        if node.head is None:
            rows[node] = after["mlp_out", node.layer] - before["mlp_out", node.layer]
    return torch.stack([rows[node] for node in nodes])


STAGES = {"resid_pre": 0, "mlp_out": 2}  # of a layer: before attention, before the MLP (all others), after it


def stage(site: Site) -> tuple[int, int]:
    """Where something that is injected at a site comes into the stream: its layer, and the stage there."""
    return site.layer, STAGES.get(site.name, 1)


def injected_stream(
    model: Model, edits: Sequence[Edit], length: int, reader: tuple[int, int] | None = None
) -> Float[Tensor, "pos d_model"]:
    """What edits that add put into the stream, at every position.

    Args:
        reader: layer and stage of what reads the stream: edits that come later do not count; all of them by default.
    """
    whole = []
    for edit in edits:
        if reader is not None and stage(edit.site) > reader:
            continue
        assert isinstance(edit.value, Tensor)
        value = edit.value.to(model.device, model.dtype)
        if edit.site.head is not None:
            value = value @ model.bridge.blocks[edit.site.layer].attn.W_O[edit.site.head].to(value)
        whole.append(Edit(Site("resid_pre", edit.site.layer), "add", value, edit.positions))
    total = added(whole, length, model.d_model).to(model.device, model.dtype)
    return total
