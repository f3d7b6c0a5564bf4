"""The tables of `dissect`, from batches."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.tools.places import added

from .audit import audits
from .batches import Batch
from .columns import COLUMNS
from .composition import Effects, effects, table
from .flow import Flow, flow
from .form import Form
from .parts import by_writer, parts
from .patched import Patched
from .tree import grow

FAR = 0.25  # distance from Shapley values: flagged
STRONGEST = 10  # neurons of each MLP and row
TINY = 1e-30
ROUNDING = 1e-10  # of a number in both runs: a mass below is none
TOTAL = "total"


@dataclass(eq=False)
class Found:
    """Tables by name, in pieces, and the largest gap of each sum that must come out."""

    pieces: dict[str, list[pd.DataFrame]] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    composition: Effects | None = None
    form: Form | None = None

    def add(self, name: str, frame: pd.DataFrame) -> None:
        self.pieces.setdefault(name, []).append(frame)

    def gap(self, name: str, off: NDArray[np.float64], mass: NDArray[np.float64]) -> None:
        """Notes how far sums are off, over the absolute mass."""
        size = np.abs(off) / np.maximum(mass, TINY)
        size = np.where(off == 0, 0.0, size)
        self.gaps[name] = max(self.gaps.get(name, 0.0), float(size.max(initial=0.0)))

    def frame(self, name: str) -> pd.DataFrame:
        pieces = [piece for piece in self.pieces.get(name, []) if len(piece)]
        columns = list(COLUMNS[name])
        return pd.concat(pieces, ignore_index=True)[columns] if pieces else pd.DataFrame(columns=columns)


def gathered(experiment: Experiment, batches: Iterable[Batch], share: float, audit: bool) -> Found:
    """Tables of all batches.

    Args:
        audit: hold nodes of the first prompt against Shapley values.
    """
    found = Found()
    for batch in track(batches, "dissecting"):
        _batch(experiment, batch, share, found)
        found.form = batch.stack.form
        if batch.stack.layers == 2:
            own = effects(batch.stack, batch.rows)
            found.composition = own if found.composition is None else found.composition + own
        if audit and 0 in batch.prompts:
            _audit(experiment, batch, found)
    return found


def _audit(experiment: Experiment, batch: Batch, found: Found) -> None:
    """Nodes at the last position that is read of the first prompt."""
    b = batch.prompts.index(0)
    i = int(batch.rows.i[batch.rows.b == b].max())
    base = _base(experiment, batch)
    for own in audits(batch.stack, batch.rows, b, i, experiment.seed):
        players, numbers = own.ours.shape
        frame = base.iloc[np.tile(_numpy(own.rows), players)].reset_index(drop=True).drop(columns="token_id")
        frame["ours"], frame["reference"] = _numpy(own.ours).reshape(-1), _numpy(own.reference).reshape(-1)
        frame["distance"] = np.tile(_numpy(own.distance), players)
        frame = frame.assign(what=own.what, node=own.node, player=np.repeat(own.players, numbers), method=own.method)
        found.add("audit", frame.assign(necessity=np.nan, sufficiency=np.nan, flagged=frame["distance"] > FAR))


def with_patching(found: Found, patched: Patched | None) -> None:
    """Adds the audit of flow."""
    if patched is None:
        return
    table = patched.table
    off = (table["ours"] - table["reference"]).abs().sum() / max(table["reference"].abs().sum(), TINY)
    own = table.assign(what="patching", prompt=-1, position=-1, token="", player="", method="exact")
    found.add("audit", own.assign(distance=off, flagged=False))


def _batch(experiment: Experiment, batch: Batch, share: float, found: Found) -> None:
    stack, rows = batch.stack, batch.rows
    mass = _mass(batch)
    least = _numpy(ROUNDING * (rows.clean.abs() + rows.steered.abs()))
    split = parts(stack, rows, share * mass)
    change = _numpy(rows.change)
    base = _base(experiment, batch)
    size = split["change"].to_numpy(dtype=float)
    gap, parts_mass = (np.bincount(split["row"], weights, len(base)) for weights in (size, np.abs(size)))
    gap = gap - change
    found.gap("parts", gap, np.maximum(parts_mass, least))
    at = [experiment.model.token_text(int(t)) for t in stack.runs.ids[rows.b, rows.i].tolist()]
    numbers = {"change": change, "clean": _numpy(rows.clean), "steered": _numpy(rows.steered), "mass": _numpy(mass)}
    totals = pd.DataFrame(numbers | {"parts_mass": parts_mass, "gap": gap})
    found.add("totals", pd.concat([base, totals.assign(chosen=list(batch.chosen), at=at)], axis=1))
    half = split["interaction"].fillna(0.0) / 2
    split["clean_first"] = np.where(split["interaction"].isna(), np.nan, split["change"] - half)
    split["source_token"] = _sources(experiment, batch, split)
    found.add("parts", _with(base, split))
    _paths(batch, base, share, mass, least, found)
    through = flow(stack, rows, neurons=True)
    found.add("flow", _flows(base, through, change))
    if not any(heads.injected for heads in stack.heads):
        found.gap("flow", _numpy(through.total) - change, np.maximum(parts_mass, least))
    found.add("neurons", _neurons(batch, base, through))


def _mass(batch: Batch) -> Tensor:
    """Sum of the absolute last writers, row by row."""
    stack, rows = batch.stack, batch.rows
    final = stack.final.at(rows.b, rows.i)
    scale = (final.scale(rows.reads) * stack.change[-1][rows.b, rows.i]).sum(dim=-1)
    seen = stack.writers(final.frozen(rows.reads), rows.b, rows.i, 2 * stack.layers)
    return scale.abs() + torch.stack([change.abs() for _, change in by_writer(seen)]).sum(dim=0)


def _base(experiment: Experiment, batch: Batch) -> pd.DataFrame:
    """What says which row it is."""
    token = batch.rows.token.tolist()
    names = {t: experiment.model.token_text(t) for t in set(token)}
    return pd.DataFrame(
        {
            "prompt": np.array(batch.prompts)[_numpy(batch.rows.b)],
            "position": _numpy(batch.rows.i),
            "token": [names[t] for t in token],
            "token_id": token,
        }
    )


def _with(base: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """A table whose column `row` counts the rows of `base`, with what these are."""
    table = table.sort_values("row", kind="stable")
    which = table.pop("row").to_numpy()
    return pd.concat([base.iloc[which].reset_index(drop=True), table.reset_index(drop=True)], axis=1)


def _sources(experiment: Experiment, batch: Batch, split: pd.DataFrame) -> list[str]:
    """The token that stands at the source of each part."""
    ids, b = batch.stack.runs.ids.tolist(), _numpy(batch.rows.b)
    names: dict[int, str] = {}

    def text(row: int, source: int) -> str:
        if source < 0:
            return ""
        token = ids[b[row]][source]
        if token not in names:
            names[token] = experiment.model.token_text(token)
        return names[token]

    return [text(row, source) for row, source in zip(split["row"].tolist(), split["source"].tolist(), strict=True)]


def _paths(
    batch: Batch, base: pd.DataFrame, share: float, mass: Tensor, least: NDArray[np.float64], found: Found
) -> None:
    row, parent, change, name = grow(batch.stack, batch.rows, share * mass).names()
    below, has = np.zeros(len(change)), np.zeros(len(change), dtype=bool)
    inner = parent >= 0
    np.add.at(below, parent[inner], change[inner])
    has[parent[inner]] = True
    whole = _numpy(mass)[row]
    found.gap("paths", np.where(has, below - change, 0.0), np.maximum(whole, least[row]))
    name[~inner] = TOTAL
    depth = np.zeros(len(change), dtype=int)
    for node in np.flatnonzero(inner):
        depth[node] = depth[parent[node]] + 1
    above = np.where(inner, name[np.maximum(parent, 0)], "")
    own = {"row": row, "path": name, "parent": above, "depth": depth, "change": change}
    found.add("paths", _with(base, pd.DataFrame({**own, "share": _over(change, whole)})))


def _flows(base: pd.DataFrame, through: Flow, change: NDArray[np.float64]) -> pd.DataFrame:
    columns = [("direct", -1, _numpy(through.direct))]
    for layer, heads in enumerate(through.heads):
        columns += [(f"L{layer}H{head}", layer, own) for head, own in enumerate(_numpy(heads).T)]
        columns += [(f"L{layer}M", layer, _numpy(mlp)) for mlp in through.mlps[layer : layer + 1]]
    names, layers, values = zip(*columns, strict=True)
    every = np.stack(values, axis=1)  # of each row all nodes
    found = base.iloc[np.repeat(np.arange(len(base)), len(names))].reset_index(drop=True)
    size = np.repeat(change, len(names))
    nodes = {"node": np.tile(names, len(base)), "layer": np.tile(layers, len(base)), "flow": every.reshape(-1)}
    return pd.concat([found, pd.DataFrame(nodes | {"share": _over(every.reshape(-1), size)})], axis=1)


def _neurons(batch: Batch, base: pd.DataFrame, through: Flow) -> pd.DataFrame:
    """The strongest neurons of each MLP, and the rest of them."""
    stack, rows = batch.stack, batch.rows
    reads = stack.final.at(rows.b, rows.i).frozen(rows.reads)
    pieces = []
    for layer, own in enumerate(stack.mlps):
        change = (reads @ own.own.W_out.T) * own.Dg[rows.b, rows.i]
        every = through.neurons[layer]
        strongest = every.abs().topk(min(STRONGEST, every.shape[1]), dim=1).indices
        row = torch.arange(len(every), device=every.device)[:, None].expand_as(strongest)
        at = rows.b[row], rows.i[row], strongest
        listed = {
            "row": row,
            "neuron": strongest,
            "change": change.gather(1, strongest),
            "flow": every.gather(1, strongest),
            "clean": own.g[0][at],
            "steered": own.g[1][at],
        }
        table = pd.DataFrame({name: _numpy(value).reshape(-1) for name, value in listed.items()})
        rest = {"row": np.arange(len(every)), "neuron": -1, "clean": np.nan, "steered": np.nan}
        rest |= {
            name: _numpy(whole.sum(dim=1) - listed[name].sum(dim=1))
            for name, whole in (("change", change), ("flow", every))
        }
        both = pd.concat([table, pd.DataFrame(rest)]).sort_values("row", kind="stable")
        pieces.append(_with(base, both.assign(node=f"L{layer}M")))
    return pd.concat(pieces) if pieces else pd.DataFrame()


def frames(experiment: Experiment, found: Found) -> dict[str, pd.DataFrame]:
    """All tables."""
    if found.composition is not None and found.form is not None:
        found.add("composition", table(found.form, found.composition))
    made = {name: found.frame(name) for name in COLUMNS if name != "texts"}
    for name in ("totals", "parts", "paths", "flow", "neurons"):
        made[name] = made[name].sort_values(["prompt", "position"], kind="stable", ignore_index=True)
    for name in ("parts", "flow"):
        layer = made[name]["layer"].astype("Int64")
        made[name]["layer"] = layer.mask(layer < 0)
    made["texts"] = _texts(experiment)
    return made


def distances(audit: pd.DataFrame) -> dict[str, Any]:
    """Of each kind of node that was held against Shapley values: how many, the largest distance, how many flagged."""
    found = {}
    for what, own in audit[audit["what"] != "patching"].groupby("what"):
        nodes = own.drop_duplicates(["node", "token"])
        far = {"largest": float(nodes["distance"].max()), "median": float(nodes["distance"].median())}
        found[str(what)] = {"splits": len(nodes), **far, "flagged": int(nodes["flagged"].sum())}
    return found


def _texts(experiment: Experiment) -> pd.DataFrame:
    """Every prompt, token by token."""
    pieces = []
    for prompt, ids in enumerate(experiment.prompts.ids):
        own, text = set(added(experiment, prompt)), experiment.model.token_text
        rows = {"prompt": prompt, "position": range(len(ids)), "token": [text(int(i)) for i in ids]}
        pieces.append(pd.DataFrame({**rows, "injected": [position in own for position in range(len(ids))]}))
    return pd.concat(pieces, ignore_index=True)


def _over(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.divide(a, b, out=np.full(len(a), np.nan), where=np.abs(b) > TINY)
    return found


def _numpy(x: Tensor) -> NDArray[Any]:
    return x.detach().cpu().numpy()
