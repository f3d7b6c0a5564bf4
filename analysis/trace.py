"""`trace`: the injected part on its way through every norm of the model, and what it does to each node's output.

1. Run every prompt clean and steered; keep the stream that each norm reads.
2. The steered stream is exactly the clean stream (rest) + coefficient x vector (vector) + what the nodes
   wrote differently because of it (response).
3. Given its scale a norm is linear, so the normalized stream is split the same way. The share of a part
   is its projection on the normalized stream (bias left out) over that stream's square: shares add up to 1.
4. Angle and stretch: by how much an injection turns each stream, and by what factor it lengthens it.
5. The same for random vectors of equal norm.
6. What each layer of the clean and the steered run would predict, through a lens (`lens.trajectory`).

Source: Turner et al. 2023 (arXiv 2308.10248) for norms relative to the stream; arXiv 2606.06735 for angle and stretch.
What it cannot see: what any of this does to the output.
"""

import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, added, touched
from steerscope.analysis.lens.lens import Lens, load_lens
from steerscope.analysis.lens.trajectory import trajectories
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.model.norms import Reader, angle, readers, sites, stream
from steerscope.analysis.model.positions import later
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.results.effects import Statistics, Values, estimates
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.patches import activations
from steerscope.analysis.tools.record import check, record

from .columns import COLUMNS
from .errors import BadInjection, UnsupportedModel

QUANTITIES = (
    "clean_norm",
    "steered_norm",
    "relative_norm",
    "rest",
    "vector",
    "response",
    "scale_ratio",
    "cosine",
    "angle",
    "stretch",
)
OUTPUTS = ("clean_norm", "steered_norm", "ratio", "angle")
WHERE = ("injected", "later")
Kept = list[dict[tuple[str, int], Tensor]]
Item = tuple[int, str, str, str]  # layer, norm or node, where, quantity


def trace(experiment: Experiment, *, lens: Lens | None = None, level: float = 0.95, alpha: float = 0.05) -> Result:
    """Norms, shares and angles at every norm and node, at injected positions and at later ones; predictions of every
    layer.

    Args:
        lens: for what each layer would predict; by default the model's own (see `load_lens`).

    Returns:
        a `Result` of kind "trace"; frames and columns as in `columns.COLUMNS["trace"]`.

    Raises:
        BadInjection: a vector that does not go straight into the stream (a head's z).
        UnsupportedModel: the model has no norms.
    """
    options = Statistics(level, alpha)
    start = time.perf_counter()
    model = experiment.model
    found = readers(model)
    if not found:
        raise UnsupportedModel(f"{model.name} has no norms; expected LayerNorm or RMSNorm; there is nothing to trace")
    inside = [i for i in experiment.injections if i.site.name not in ("resid_pre", "attn_out", "mlp_out")]
    if inside:
        raise BadInjection(
            f"a vector at {inside[0].site} reaches the stream through a head's output matrix; expected one at "
            "resid_pre, "
            "attn_out or mlp_out; record it there"
        )
    kept = [*sites(model), *_outputs(experiment)]
    clean = activations(experiment, experiment.nothing, kept)
    streams, outputs, worst = [], [], 0.0
    each: list[dict[str, object]] = []
    for vector in range(1 + experiment.controls):
        edits = experiment.edits(vector)
        steered = activations(experiment, edits, kept)
        values, error = _streams(experiment, found, clean, steered, edits, each if vector == 0 else None)
        worst = max(worst, error)
        streams.append(values)
        outputs.append(_nodes(experiment, clean, steered))
    lens = lens or load_lens(model)
    seen, tokens = trajectories(experiment, lens, {"steered": experiment.edits(0)}, level=level)
    return record(
        "trace",
        experiment,
        {
            "stream": _frame(streams, options, experiment.seed, "norm"),
            "positions": pd.DataFrame(each)[list(COLUMNS["trace"]["positions"])],
            "nodes": _frame(outputs, options, experiment.seed, "node"),
            "lens": seen,
            "tokens": tokens,
        },
        start,
        checks=[check("parts of the normalized stream add up to it (relative)", worst, 1e-5)],
        lens={"name": lens.name, "source": lens.source},
        weights="folded" if _folded(found) else "raw",
        level=level,
        alpha=alpha,
    )


def _folded(found: list[Reader]) -> bool:
    """Whether the norms have no weights of their own: these have been folded into what reads them."""
    return all(bool((r.norm.weight - 1).abs().max() < 1e-6) and not r.norm.bias.any() for r in found)


def _outputs(experiment: Experiment) -> list[tuple[str, int]]:
    return sorted({(node.site.name, node.layer) for node in experiment.reachable})


def _streams(
    experiment: Experiment,
    found: list[Reader],
    clean: Kept,
    steered: Kept,
    edits: Edits,
    each: list[dict[str, object]] | None,
) -> tuple[dict[Item, list[float]], float]:
    """Every quantity at every norm, by prompt; and the largest relative error of the split.

    Args:
        each: every position by itself is put here.
    """
    model, worst = experiment.model, 0.0
    values: dict[Item, list[float]] = {}
    for p in range(len(experiment.prompts)):
        places = dict(_places(experiment, p))
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
                named = {i: where for where, positions in places.items() for i in positions}
                tokens = experiment.prompts.full[p]
                each += [
                    {
                        "prompt": p,
                        "position": i,
                        "token": model.token_text(tokens[i]),
                        "where": named[i],
                        "layer": reader.layer,
                        "norm": reader.name,
                        **{q: float(row[q][i]) for q in QUANTITIES},
                    }
                    for i in sorted(named)
                ]
            for where, positions in places.items():
                for quantity in QUANTITIES:
                    if where == "later" and quantity in ("relative_norm", "vector", "cosine"):
                        continue  # the vector itself is not there
                    mean = row[quantity][positions].mean().item() if positions else float("nan")
                    values.setdefault((reader.layer, reader.name, where, quantity), []).append(mean)
    return values, worst


def _nodes(experiment: Experiment, clean: Kept, steered: Kept) -> dict[Item, list[float]]:
    """How each node's output changes, in norm and direction (a head's in its own space, before its output matrix)."""
    values: dict[Item, list[float]] = {}
    for p in range(len(experiment.prompts)):
        places = dict(_places(experiment, p))
        for node in experiment.reachable:
            before, after = (_of(node, kept[p]) for kept in (clean, steered))
            lengths = before.norm(dim=-1), after.norm(dim=-1)
            row = {
                "clean_norm": lengths[0],
                "steered_norm": lengths[1],
                "ratio": lengths[1] / lengths[0].clamp_min(1e-30),
                "angle": angle(before, after),
            }
            for where, positions in places.items():
                for quantity in OUTPUTS:
                    mean = row[quantity][positions].mean().item() if positions else float("nan")
                    values.setdefault((node.layer, str(node), where, quantity), []).append(mean)
    return values


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


def _places(experiment: Experiment, p: int) -> Iterator[tuple[str, list[int]]]:
    """Injected positions (rows of zeros left out), and all that follow the first of them without being injected."""
    injected = touched(experiment.edits(0)[p])
    yield "injected", list(injected)
    yield "later", later(injected, len(experiment.prompts.ids[p]))


def _frame(found: list[dict[Item, list[float]]], options: Statistics, seed: int, name: str) -> pd.DataFrame:
    items = list(found[0])
    values: Values = np.array([[one[item] for item in items] for one in found])
    kept = [bool(np.isfinite(values[0, i]).all()) for i in range(len(items))]
    items = [item for item, keep in zip(items, kept, strict=True) if keep]
    columns = estimates(values[:, kept], options, seed)
    wanted = ("effect", "low", "high", "control", "control_low", "control_high")
    frame = pd.DataFrame(items, columns=["layer", name, "where", "quantity"])
    return frame.assign(**{c: columns[c] for c in wanted}).rename(columns={"effect": "value"})
