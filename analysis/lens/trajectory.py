"""`trajectories`: what every layer of clean and steered runs would predict, seen through a lens.

For each run, layer and position: entropy; KL to the run's own final prediction; KL to the clean run at the same place;
whether the most probable token is the final one already; how far neighbouring positions are from one another
(Jensen-Shannon). A position commits at the first layer from which on its most probable token stays the final one.

Source: Belrose et al. 2023 (arXiv 2303.08112) for prediction trajectories.
What it cannot see: what a later layer does with what a lens reads there; a lens is trained on ordinary text, so on
streams far from it (a very large injection) it says less.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import later
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.metrics import divergence
from steerscope.analysis.results.stats import mean_interval
from steerscope.analysis.tools.patches import activations

from .lens import Lens

Values = NDArray[np.float64]
QUANTITIES = ("entropy", "kl_final", "kl_clean", "agreement", "neighbours")
TABLE, TOKENS = (list(COLUMNS["trace"][name]) for name in ("lens", "tokens"))


@torch.no_grad()
def trajectories(
    experiment: Experiment, lens: Lens, runs: Mapping[str, Edits], shown: int = 0, level: float = 0.95
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means over prompts by run, layer and place, and every position of one prompt.

    Args:
        runs: by name; the clean run is added.
        shown: the prompt whose positions are listed.
    """
    model, everything = experiment.model, {"clean": experiment.nothing, **runs}
    sites = streams(model)
    kept = {name: activations(experiment, edits, sites) for name, edits in everything.items()}
    values: dict[tuple[str, int, str, str], list[float]] = {}
    tokens = []
    for p, ids in enumerate(experiment.prompts.full):
        clean: list[Tensor] = []
        for name in everything:
            seen = [lens.logits(kept[name][p][site], layer).float().log_softmax(-1) for layer, site in enumerate(sites)]
            clean = seen if name == "clean" else clean
            found = _quantities(seen, clean)
            for where, positions in _places(experiment, p):
                for quantity, each in found.items():
                    for layer in range(len(sites)):
                        mean = float(each[layer, positions].mean()) if positions else float("nan")
                        values.setdefault((name, layer, where, quantity), []).append(mean)
                committed = _committed(found["agreement"])[positions]
                values.setdefault((name, len(sites) - 1, where, "committed"), []).append(
                    float(committed.mean()) if positions else float("nan")
                )
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
    rows = []
    for (name, layer, where, quantity), own in values.items():
        finite = np.array([v for v in own if np.isfinite(v)])
        if len(finite):
            rows.append((name, layer, where, quantity, *mean_interval(finite, level, experiment.seed)))
    return pd.DataFrame(rows, columns=TABLE), pd.DataFrame(tokens, columns=TOKENS)


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
    injected = [i for i in experiment.injected[p] if i or experiment.model.bos is None]
    return [("injected", injected), ("later", later(injected, len(experiment.prompts.full[p])))]
