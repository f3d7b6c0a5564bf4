"""Completions at several strengths at once: how fluent they are, and what the cache of injected positions does.

Every row is a prompt under some edits; the model is run on all rows anew for each token, so an edit of the prompt's
positions stays what it is, as with a cache. Without the injected positions in the cache means: tokens that are
generated do not see them (their keys are hidden).

    surprise   loss of the completion under the clean model, given the same prompt
    distinct   different pairs of tokens over all pairs
    repeated   share of tokens that end a run of four which has been there before

Source: arXiv 2605.10664 for the claim that injected positions in the cache make coherence drift.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.generation import draw, surprises
from steerscope.analysis.results.stats import mean_interval

from .mechanisms import hide
from .strength import at, rows

Values = NDArray[np.float64]
TEMPERATURE, TOP_P = 1.0, 0.95
WINDOW = 16  # tokens, for how a completion changes on its way
RUN = 4  # tokens that count as a repetition
QUANTITIES = ("surprise", "distinct", "repeated")


@dataclass(frozen=True)
class Row:
    """What is completed: a prompt, its edits (which name their positions), and positions that generated tokens do not
    see.
    """

    prompt: tuple[int, ...]
    edits: tuple[Edit, ...]
    hidden: tuple[int, ...] = ()
    seed: int = 0


@torch.no_grad()
def complete(model: Model, asked: Sequence[Row], tokens: int, what: str) -> list[list[int]]:
    """Sampled tokens of every row; the same seed draws the same random numbers."""
    ids = [list(row.prompt) for row in asked]
    generators = [torch.Generator().manual_seed(row.seed) for row in asked]
    end = getattr(model.tokenizer, "eos_token_id", None)
    done = [False] * len(asked)
    for _ in track(range(tokens), what):
        live = [i for i in range(len(asked)) if not done[i] and len(ids[i]) < model.n_ctx]
        if not live:
            break
        variants = [Variant(n, _edits(model, asked[i], len(ids[i]))) for n, i in enumerate(live)]
        for chunk, readout in run(model, [ids[i] for i in live], variants):
            assert readout.logits is not None
            for row, n in enumerate(chunk):
                i = live[n]
                token = draw(readout.logits[row], TEMPERATURE, TOP_P, generators[i])
                if token == end:
                    done[i] = True
                else:
                    ids[i].append(token)
    return [own[len(row.prompt) :] for own, row in zip(ids, asked, strict=True)]


def _edits(model: Model, row: Row, length: int) -> tuple[Edit, ...]:
    made = range(len(row.prompt), length)
    return row.edits + (hide(model, range(model.n_layers), row.hidden, made) if row.hidden else ())


def fluency(made: Sequence[int], surprise: Values) -> dict[str, float]:
    """Quantities of one completion; NaN where it is too short to say."""
    pairs = list(zip(made, made[1:], strict=False))
    runs = [tuple(made[i : i + RUN]) for i in range(len(made) - RUN + 1)]
    return {
        "surprise": float(surprise.mean()) if len(surprise) else float("nan"),
        "distinct": len(set(pairs)) / len(pairs) if pairs else float("nan"),
        "repeated": 1 - len(set(runs)) / len(runs) if runs else float("nan"),
    }


def completions(
    experiment: Experiment, coefficients: Sequence[float], prompts: int, tokens: int, level: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fluency by coefficient, and the texts."""
    model = experiment.model
    chosen = range(min(prompts, len(experiment.prompts)))
    runs: list[Edits] = [at(experiment, c) if c else experiment.nothing for c in coefficients]
    asked = [Row(experiment.prompts.ids[p], edits[p], seed=experiment.seed + p) for edits in runs for p in chosen]
    made = complete(model, asked, tokens, "completions")
    values = [
        fluency(own, s) for own, s in zip(made, surprises(model, [row.prompt for row in asked], made), strict=True)
    ]
    table, texts = [], []
    for i, c in enumerate(coefficients):
        own = slice(i * len(chosen), (i + 1) * len(chosen))
        table += _rows({"coefficient": c}, values[own], level, experiment.seed)
        texts += [
            {"coefficient": c, "prompt": experiment.prompts.texts[p], "completion": model.text(text)}
            for p, text in zip(chosen, made[own], strict=True)
        ]
    return (
        pd.DataFrame(table)[list(COLUMNS["breakdown"]["completions"])],
        pd.DataFrame(texts)[list(COLUMNS["breakdown"]["texts"])],
    )


def cache(experiment: Experiment, coefficient: float, prompts: int, tokens: int, level: float) -> pd.DataFrame:
    """Clean and steered completions, with the injected positions left in the cache and without, by windows of tokens"""
    model = experiment.model
    chosen = range(min(prompts, len(experiment.prompts)))
    where = [positions for positions, _ in rows(experiment, coefficient)]
    conditions = {
        (run, kept): (experiment.nothing if run == "clean" else at(experiment, coefficient), kept)
        for run in ("clean", "steered")
        for kept in (True, False)
    }
    asked = [
        Row(experiment.prompts.ids[p], edits[p], () if kept else where[p], experiment.seed + p)
        for edits, kept in conditions.values()
        for p in chosen
    ]
    made = complete(model, asked, tokens, "with and without the cache")
    losses = surprises(model, [row.prompt for row in asked], made)
    table = []
    for i, (run_, kept) in enumerate(conditions):
        own = range(i * len(chosen), (i + 1) * len(chosen))
        for start in range(0, tokens, WINDOW):
            values = [fluency(made[j][start : start + WINDOW], losses[j][start : start + WINDOW]) for j in own]
            table += _rows(
                {"run": run_, "cache": "kept" if kept else "hidden", "token": start}, values, level, experiment.seed
            )
    return pd.DataFrame(table)[list(COLUMNS["breakdown"]["cache"])]


def _rows(
    about: dict[str, object], values: Sequence[dict[str, float]], level: float, seed: int
) -> list[dict[str, object]]:
    """A row for each quantity; completions too short to say are left out."""
    found = []
    for quantity in QUANTITIES:
        own = np.array([v[quantity] for v in values])
        value, low, high = mean_interval(own[np.isfinite(own)], level, seed)
        found.append(about | {"quantity": quantity, "value": value, "low": low, "high": high})
    return found
