"""`trajectories`: what every layer of clean and steered runs would predict, seen through a lens.

For each run, layer and position: entropy; KL to the run's own final prediction; KL to the clean run at the same place;
whether the most probable token is the final one already; how far neighbouring positions are from one another
(Jensen-Shannon). A position commits at the first layer from which on its most probable token stays the final one.

Source: Belrose et al. 2023 (arXiv 2303.08112) for prediction trajectories.
What it cannot see: what a later layer does with what a lens reads there; a lens is trained on ordinary text, so on
streams far from it (a very large injection) it says less.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.gate import Level, Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import later
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.scores import divergence
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import mean_interval

from .lens import Lens

Values = NDArray[np.float64]
Groups = NDArray[np.int64]
QUANTITIES = ("entropy", "kl_final", "kl_clean", "agreement", "neighbours")

RANGE: Frame = {
    "low": Column("lower end of its interval over prompts", "as value", "low"),
    "high": Column("upper end of its interval over prompts", "as value", "high"),
}
TRAJECTORIES: Frames = {
    "lens": {
        "run": Column("clean, steered (at the given coefficient), or at infinity", role="label"),
        "layer": Column("the stream before this layer; the number of layers for the final one", role="axis"),
        "where": Column(
            "injected positions, or those after the first of them that are not injected (later)", role="label"
        ),
        "quantity": Column(
            "entropy of what the lens predicts; kl_final: KL of the run's final prediction from it; kl_clean: its KL "
            "from the clean run's at the same layer; agreement: share of positions whose most probable token is the "
            "final one; neighbours: Jensen-Shannon divergence between neighbouring positions; committed: mean layer "
            "from which on the most probable token stays",
            role="measure",
        ),
        "value": Column("mean over prompts", "nats, a share or a layer", "estimate"),
        **RANGE,
    },
    "tokens": {
        "prompt": Column("number of the prompt, from 0", role="label"),
        "run": Column("as in lens", role="label"),
        "layer": Column("as in lens", role="label"),
        "position": Column("in the prompt, from 0", role="axis"),
        "token": Column("the token that stands there"),
        "top": Column("the most probable next token, through the lens"),
        "entropy": Column("of the prediction there", "nats"),
        "kl_final": Column("KL of the run's final prediction from it", "nats"),
        "kl_clean": Column("its KL from the clean run's at the same layer", "nats"),
    },
}


@gated
@torch.no_grad()
def trajectories(
    experiment: Experiment, lens: Lens, more: Mapping[str, Edits] | None = None, shown: Whole = 0, level: Level = 0.95
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means over prompts by run, layer and place, and every position of one prompt; of the clean and the steered run.

    Args:
        more: further runs, by name.
        shown: the prompt whose positions are listed.
    """
    model = experiment.model
    sites = streams(model)
    kept = {"clean": experiment.activations(None, sites), "steered": experiment.activations(0, sites)}
    kept |= {name: experiment.read(edits, sites) for name, edits in (more or {}).items()}
    values: dict[tuple[object, ...], list[float]] = {}
    tokens = []
    for p, ids in enumerate(experiment.prompts.full):
        clean: list[Tensor] = []
        for name, run in kept.items():
            seen = [lens.logits(run[p][site], layer).float().log_softmax(-1) for layer, site in enumerate(sites)]
            clean = seen if name == "clean" else clean
            found = _quantities(seen, clean)
            for where, positions in _places(experiment, p):
                for quantity, each in found.items():
                    for layer in range(len(sites)):
                        mean = float(each[layer, positions].mean())  # NaN where there are no such positions
                        values.setdefault((name, layer, where, quantity), []).append(mean)
                committed = float(_committed(found["agreement"])[positions].mean())
                values.setdefault((name, len(sites) - 1, where, "committed"), []).append(committed)
            if p == shown:
                tokens += [
                    {
                        "prompt": p,
                        "run": name,
                        "layer": layer,
                        "position": i,
                        "token": model.token_text(ids[i]),
                        "top": model.token_text(int(seen[layer][i].argmax())),
                        **{q: float(found[q][layer, i]) for q in ("entropy", "kl_final", "kl_clean")},
                    }
                    for layer in range(len(sites))
                    for i in range(len(ids))
                ]
    table = averaged(values, TRAJECTORIES["lens"], level, experiment.prompts.by_group)
    table = table.dropna(subset="value", ignore_index=True)
    return table, pd.DataFrame(tokens, columns=list(TRAJECTORIES["tokens"]))


def averaged(
    values: Mapping[tuple[object, ...], Sequence[float]], columns: Frame, level: float, groups: Int[Groups, " prompt"]
) -> pd.DataFrame:
    """A row for each key: the key, then the mean and its interval, by group, over the prompts that have a number.

    Args:
        values: by key, a number for each prompt.
    """
    rows = []
    for key, found in values.items():
        own = np.array(found)
        there = np.isfinite(own)
        rows.append((*key, *mean_interval(own[there], level, groups[there])))
    return pd.DataFrame(rows, columns=list(columns))


def _quantities(seen: list[Tensor], clean: list[Tensor]) -> dict[str, Float[Tensor, "layer pos"]]:
    final = seen[-1]
    found: dict[str, list[Tensor]] = {name: [] for name in QUANTITIES}
    for layer, own in enumerate(seen):
        found["entropy"].append(-(own.exp() * own).sum(-1))
        found["kl_final"].append(divergence(final, own))
        found["kl_clean"].append(divergence(own, clean[layer]))
        found["agreement"].append((own.argmax(-1) == final.argmax(-1)).float())
        mixed = ((own[1:].exp() + own[:-1].exp()) / 2).log()
        apart = (divergence(own[1:], mixed) + divergence(own[:-1], mixed)) / 2
        found["neighbours"].append(
            torch.nn.functional.pad(apart, (1, 0), value=float("nan"))
            if len(own) > 1
            else torch.full((1,), float("nan"))
        )
    return {name: torch.stack([x.cpu() for x in rows]).double() for name, rows in found.items()}


def commitment(lens: Lens, kept: Mapping[tuple[str, int], Float[Tensor, "pos d_model"]]) -> Float[Tensor, " pos"]:
    """Where each position of a run commits.

    Args:
        kept: `resid_pre` of every layer and the last `resid_post`.
    """
    tops = [lens.logits(kept[site], layer).argmax(-1) for layer, site in enumerate(streams(lens.model))]
    return _committed(torch.stack([top == tops[-1] for top in tops]).cpu().double())


def streams(model: Model) -> list[tuple[str, int]]:
    """The streams that a lens reads: before every layer, and the final one."""
    return [*(("resid_pre", n) for n in range(model.n_layers)), ("resid_post", model.n_layers - 1)]


def _committed(agreement: Float[Tensor, "layer pos"]) -> Float[Tensor, " pos"]:
    """The first layer from which on a position's most probable token stays the final one."""
    stays = agreement.flip(0).cumprod(0).sum(0)
    return len(agreement) - stays


def _places(experiment: Experiment, p: int) -> list[tuple[str, list[int]]]:
    injected = [i for i in experiment.injected[p] if i or not experiment.layouts[p].has_bos]
    return [("injected", injected), ("later", later(injected, len(experiment.prompts.full[p])))]
