"""`trace`: the injected part on its way through every norm of the model, and what it does to each node's output.

1. Run every prompt clean and steered; keep the stream that each norm reads.
2. The steered stream is exactly the clean stream (rest) + coefficient x vector (vector) + what the nodes
   wrote differently because of it (response).
3. Given its scale a norm is linear, so the normalized stream is split the same way. The share of a part
   is its projection on the normalized stream (bias left out) over that stream's square: shares add up to 1.
4. Angle and stretch: by how much an injection turns each stream, and by what factor it lengthens it.
5. The same for reference vectors of equal norm.
6. What each layer of the clean and the steered run would predict, through a lens (`lens.trajectory`).

Source: Turner et al. 2023 (arXiv 2308.10248) for norms relative to the stream; arXiv 2606.06735 for angle and stretch.
What it cannot see: what any of this does to the output.
"""

import time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, added, touched
from steerscope.analysis.lens.lens import Lens, load_lens
from steerscope.analysis.lens.trajectory import TRAJECTORIES, trajectories
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.model.norms import Reader, angle, readers, sites, stream
from steerscope.analysis.model.positions import later
from steerscope.analysis.question.experiment import Activations, Edits, Experiment
from steerscope.analysis.results.effects import Statistics, Values
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import interval
from steerscope.analysis.results.verdicts import band
from steerscope.analysis.tools.record import check, record

from .errors import BadInjection, UnsupportedModel
from .gate import Level, gated

Item = tuple[int, str, str, str]  # layer, norm or node, where, quantity
Numbers = dict[Item, list[float]]  # by prompt

_WHERE = Column(
    "injected: positions that the vector is added to (rows of zeros left out); later: those after the first of them "
    "that are not injected",
    role="label",
)
_NUMBERS: Frame = {
    "value": Column("mean over prompts and positions", "said by the quantity", "estimate"),
    "low": Column("lower end of the interval over prompts", "as value", "low"),
    "high": Column("upper end of the interval over prompts", "as value", "high"),
    "reference": Column("mean of the same quantity for reference vectors of equal norm", "as value", "reference"),
    "reference_low": Column("2.5th percentile over the reference vectors", "as value", "reference_low"),
    "reference_high": Column("97.5th percentile over the reference vectors", "as value", "reference_high"),
}
_QUANTITIES: Frame = {
    "clean_norm": Column("length of the clean stream"),
    "steered_norm": Column("length of the steered stream"),
    "relative_norm": Column("length of what was injected there over the clean stream's"),
    "rest": Column("share of the normalized steered stream that is the clean stream"),
    "vector": Column("share that is the vector"),
    "response": Column("share that nodes wrote because of it"),
    "scale_ratio": Column("what the norm divides by, steered over clean"),
    "cosine": Column("between the steered stream and the vector (0 where none is)"),
    "angle": Column("by how much the injection turns the stream", "degrees"),
    "stretch": Column("by what factor it lengthens it"),
}
COLUMNS: Frames = {
    "stream": {
        "layer": Column("layer of the norm; the number of layers for the final one", role="axis"),
        "norm": Column("what reads the normalized stream: attention, mlp, or final for the unembedding", role="label"),
        "where": _WHERE,
        "quantity": Column(
            "clean_norm, steered_norm: length of the stream; relative_norm: length of what was injected over the clean "
            "stream's; rest, vector, response: share of the normalized steered stream that is the clean stream, the "
            "vector, and what nodes wrote differently because of it (they add up to 1); scale_ratio: what the norm "
            "divides by, steered over clean; cosine: between the steered stream and the vector; angle, stretch: by how "
            "many degrees the injection turns the stream, and by what factor it lengthens it",
            role="measure",
        ),
        **_NUMBERS,
    },
    "positions": {
        "prompt": Column("number of the prompt, from 0", role="label"),
        "position": Column("in the prompt, from 0", role="axis"),
        "token": Column("the token that stands there"),
        "where": _WHERE,
        "layer": Column("layer of the norm; the number of layers for the final one", role="label"),
        "norm": Column("what reads the normalized stream", role="label"),
        **_QUANTITIES,
    },
    "nodes": {
        "layer": Column("layer of the node", role="layer"),
        "node": Column("head (L5H3, its z) or MLP (L5M)", role="node"),
        "where": _WHERE,
        "quantity": Column(
            "clean_norm, steered_norm: length of the node's output; ratio: steered over clean; angle: by how many "
            "degrees it turns",
            role="measure",
        ),
        **_NUMBERS,
    },
    **TRAJECTORIES,
}


@gated
def trace(
    experiment: Experiment, *, lens: Lens | str | None = None, level: Level = 0.95, alpha: Level = 0.05
) -> Result:
    """The injected part on its way through every norm, and what each layer would predict.

    Norms, shares and angles at every norm and node, at injected positions and at later ones.

    Args:
        lens: for what each layer would predict: a folder of a tuned lens, a published name, or logit; by default the
            model's own.

    Returns:
        a `Result` of kind "trace"; frames and columns as in `COLUMNS`.

    Raises:
        BadInjection: a vector that does not go straight into the stream (a head's z).
        UnsupportedModel: the model has no norms.
        BadLens: no such lens, or one of another model.
    """
    options = Statistics(level, alpha)
    start = time.perf_counter()
    experiment, model = experiment.held, experiment.model
    found = readers(model)
    if not found:
        raise UnsupportedModel(f"{model.name} has no norms; expected LayerNorm or RMSNorm; there is nothing to trace")
    inside = [i for i in experiment.injections if i.site.name not in ("resid_pre", "attn_out", "mlp_out")]
    if inside:
        raise BadInjection(
            f"a vector at {inside[0].site} reaches the stream through a head's output matrix; expected one at "
            "resid_pre, attn_out or mlp_out; record it there"
        )
    lens = load_lens(model, lens)
    kept = [*sites(model), *sorted({(node.site.name, node.layer) for node in experiment.reachable})]
    clean = experiment.activations(None, kept)
    streams, outputs, worst = [], [], 0.0
    each: list[tuple[object, ...]] = []
    for vector in experiment.vectors:
        steered = experiment.activations(vector, kept)
        values, error = _streams(experiment, found, clean, steered, experiment.edits(vector), None if vector else each)
        worst = max(worst, error)
        streams.append(values)
        outputs.append(_nodes(experiment, clean, steered))
    seen, tokens = trajectories(experiment, lens, level=level)
    return record(
        "trace",
        experiment,
        {
            "stream": _frame(experiment, streams, options, "norm"),
            "positions": pd.DataFrame(each, columns=list(COLUMNS["positions"])),
            "nodes": _frame(experiment, outputs, options, "node"),
            "lens": seen,
            "tokens": tokens,
        },
        COLUMNS,
        start,
        checks=[check("parts of the normalized stream add up to it (relative)", worst, 1e-5)],
        lens=lens.describe(),
        weights="folded" if _folded(found) else "raw",
        level=level,
        alpha=alpha,
    )


def _folded(found: list[Reader]) -> bool:
    """Whether the norms have no weights of their own: these have been folded into what reads them."""
    return all(bool((r.norm.weight - 1).abs().max() < 1e-6) and not r.norm.bias.any() for r in found)


def _streams(
    experiment: Experiment,
    found: list[Reader],
    clean: Activations,
    steered: Activations,
    edits: Edits,
    each: list[tuple[object, ...]] | None,
) -> tuple[Numbers, float]:
    """Every quantity at every norm, by prompt; and the largest relative error of the split.

    Args:
        each: every position by itself is put here.
    """
    model, worst = experiment.model, 0.0
    values: Numbers = {}
    for p, tokens in enumerate(experiment.prompts.full):
        places = _places(experiment, p)
        for reader in found:
            before, after = (stream(model, reader, kept[p]).double() for kept in (clean, steered))
            added = _added(edits[p], reader, before)
            scales = reader.norm.scale(before), reader.norm.scale(after)
            parts = {"rest": before, "vector": added, "response": after - before - added}
            normed = {k: reader.norm.part(x, scales[1]) for k, x in parts.items()}
            whole = sum(normed.values())
            assert isinstance(whole, Tensor)
            really = reader.norm(after.to(model.dtype)).double() - reader.norm.bias.double()
            worst = max(worst, ((whole - really).norm() / really.norm()).item())
            square = whole.square().sum(-1).clamp_min(1e-30)
            lengths = before.norm(dim=-1), after.norm(dim=-1)
            row = {
                "clean_norm": lengths[0],
                "steered_norm": lengths[1],
                "relative_norm": added.norm(dim=-1) / lengths[0],
                **{k: (x * whole).sum(-1) / square for k, x in normed.items()},
                "scale_ratio": scales[1] / scales[0],
                "cosine": torch.cosine_similarity(after, added, dim=-1),
                "angle": angle(before, after),
                "stretch": lengths[1] / lengths[0],
            }
            if each is not None:
                for i, where in sorted((i, where) for where, positions in places.items() for i in positions):
                    about = (p, i, model.token_text(tokens[i]), where, reader.layer, reader.name)
                    each.append((*about, *(float(row[q][i]) for q in _QUANTITIES)))
            _note(values, reader.layer, reader.name, places, row)
    return values, worst


def _nodes(experiment: Experiment, clean: Activations, steered: Activations) -> Numbers:
    """How each node's output changes, in norm and direction (a head's in its own space, before its output matrix)."""
    values: Numbers = {}
    for p in range(len(experiment.prompts)):
        places = _places(experiment, p)
        for node in experiment.reachable:
            before, after = (_of(node, kept[p]) for kept in (clean, steered))
            lengths = before.norm(dim=-1), after.norm(dim=-1)
            row = {
                "clean_norm": lengths[0],
                "steered_norm": lengths[1],
                "ratio": lengths[1] / lengths[0].clamp_min(1e-30),
                "angle": angle(before, after),
            }
            _note(values, node.layer, str(node), places, row)
    return values


def _note(values: Numbers, layer: int, name: str, places: dict[str, list[int]], row: dict[str, Tensor]) -> None:
    """Means over the positions of each place; NaN where there are none."""
    for where, positions in places.items():
        for quantity, x in row.items():
            if where == "injected" or quantity not in ("relative_norm", "vector", "cosine"):  # no vector stands later
                values.setdefault((layer, name, where, quantity), []).append(x[positions].mean().item())


def _of(node: Node, kept: dict[tuple[str, int], Tensor]) -> Tensor:
    x = kept[node.site.name, node.layer].double()
    return x if node.head is None else x[:, node.head]


def _added(edits: tuple[Edit, ...], reader: Reader, like: Tensor) -> Tensor:
    """What was injected before this norm, by position."""
    # A layer's attention reads its resid_pre, its MLP also what attention wrote.
    order = {"resid_pre": 0, "attn_out": 1, "mlp_out": 2}
    at = {"attention": 0, "mlp": 1}.get(reader.name, 2)
    before = [e for e in edits if (e.site.layer, order[e.site.name]) <= (reader.layer, at)]
    return added(before, *like.shape).to(like)


def _places(experiment: Experiment, p: int) -> dict[str, list[int]]:
    """Injected positions (rows of zeros left out), and all that follow the first of them without being injected."""
    injected = touched(experiment.edits(0)[p])
    return {"injected": list(injected), "later": later(injected, len(experiment.prompts.ids[p]))}


def _frame(experiment: Experiment, found: list[Numbers], options: Statistics, name: str) -> pd.DataFrame:
    items = list(found[0])
    values: Values = np.array([[one[item] for item in items] for one in found])
    kept = [bool(np.isfinite(values[0, i]).all()) for i in range(len(items))]
    items = [item for item, keep in zip(items, kept, strict=True) if keep]
    values = values[:, kept]
    low, high = interval(values[0], options.level, experiment.prompts.by_group)
    others = values[1:].mean(axis=-1)
    reference_low, reference_high = band(others)
    frame = pd.DataFrame(items, columns=["layer", name, "where", "quantity"])
    return frame.assign(
        value=values[0].mean(axis=-1),
        low=low,
        high=high,
        reference=others.mean(axis=0) if len(others) else np.nan,
        reference_low=reference_low,
        reference_high=reference_high,
    )
