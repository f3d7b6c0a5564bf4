"""Completions at several strengths at once: how fluent they are, and what the cache of injected positions does.

Every row is a prompt under some edits of its own positions. Without the injected positions in the cache means: tokens
that are generated do not see them (their keys are hidden); such rows are run on their whole text anew for each token.

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

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.lens.trajectory import RANGE, averaged
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question import generation
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.generation import draw, surprises
from steerscope.analysis.results.schema import Column, Frame, Frames

from .mechanisms import hide
from .outcomes import COEFFICIENT
from .strength import at, rows

Values = NDArray[np.float64]
TEMPERATURE, TOP_P = 1.0, 0.95
WINDOW = 16  # tokens, for how a completion changes on its way
RUN = 4  # tokens that count as a repetition
_FLUENCY: Frame = {
    "quantity": Column(
        "surprise: loss of the completion under the clean model; distinct: different pairs of tokens over all pairs; "
        "repeated: share of runs of four tokens that were there before",
        role="measure",
    ),
    "value": Column("mean over prompts", "nats per token for surprise", "estimate"),
    **RANGE,
}
COMPLETIONS: Frames = {
    "completions": COEFFICIENT | _FLUENCY,
    "texts": {**COEFFICIENT, "prompt": Column("the prompt"), "completion": Column("what was sampled after it")},
    "cache": {
        "run": Column("clean or steered", role="label"),
        "cache": Column("kept: generated tokens see the injected positions; hidden: they do not", role="label"),
        "token": Column("first token of the window of 16", role="axis"),
        **_FLUENCY,
    },
}


@dataclass(frozen=True)
class Row:
    """What is completed: a prompt, its edits (which name their positions), and what generated tokens do not see."""

    prompt: tuple[int, ...]
    edits: tuple[Edit, ...]
    hidden: tuple[int, ...] = ()
    seed: int = 0


@torch.no_grad()
def complete(model: Model, asked: Sequence[Row], tokens: int, what: str) -> list[list[int]]:
    """Sampled tokens of every row; the same seed draws the same random numbers."""
    seen = [i for i, row in enumerate(asked) if not row.hidden]
    rows = [generation.Row(asked[i].prompt, asked[i].edits, (), asked[i].seed) for i in seen]
    made = generation.complete(model, rows, tokens=tokens, what=what)
    found = dict(zip(seen, made, strict=True))
    rest = [i for i in range(len(asked)) if i not in found]
    found |= zip(rest, _hidden(model, [asked[i] for i in rest], tokens, what), strict=True)
    return [found[i] for i in range(len(asked))]


def _hidden(model: Model, asked: Sequence[Row], tokens: int, what: str) -> list[list[int]]:
    """The same where generated tokens do not see all positions: every row is read anew for each token."""
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
    losses = surprises(model, [row.prompt for row in asked], made)
    about = [(c, experiment.prompts.texts[p]) for c in coefficients for p in chosen]
    values: dict[tuple[object, ...], list[float]] = {}
    for (c, _), own, surprise in zip(about, made, losses, strict=True):
        for quantity, value in fluency(own, surprise).items():
            values.setdefault((c, quantity), []).append(value)
    texts = [(*key, model.text_after(row.prompt, own)) for key, row, own in zip(about, asked, made, strict=True)]
    groups = experiment.prompts.by_group[: len(chosen)]
    table = averaged(values, COMPLETIONS["completions"], level, groups)
    return table, pd.DataFrame(texts, columns=list(COMPLETIONS["texts"]))


def cache(experiment: Experiment, coefficient: float, prompts: int, tokens: int, level: float) -> pd.DataFrame:
    """Clean and steered completions, with the injected positions left in the cache and without, by windows of tokens"""
    model = experiment.model
    chosen = range(min(prompts, len(experiment.prompts)))
    where = [positions for positions, _ in rows(experiment, coefficient)]
    runs = {"clean": experiment.nothing, "steered": at(experiment, coefficient)}
    about = [(name, kept, p) for name in runs for kept in ("kept", "hidden") for p in chosen]
    asked = [
        Row(experiment.prompts.ids[p], runs[name][p], () if kept == "kept" else where[p], experiment.seed + p)
        for name, kept, p in about
    ]
    made = complete(model, asked, tokens, "with and without the cache")
    losses = surprises(model, [row.prompt for row in asked], made)
    values: dict[tuple[object, ...], list[float]] = {}
    for (name, kept, _), own, surprise in zip(about, made, losses, strict=True):
        for start in range(0, tokens, WINDOW):
            window = slice(start, start + WINDOW)
            for quantity, value in fluency(own[window], surprise[window]).items():
                values.setdefault((name, kept, start, quantity), []).append(value)
    return averaged(values, COMPLETIONS["cache"], level, experiment.prompts.by_group[: len(chosen)])
