"""`writers`: which nodes wrote the steering vector, and which of what they wrote steers.

1. Split the vector into what the embedding and every head and MLP below its site wrote in the plus run minus
   in the minus run (see `parts`): exactly, which every run checks.
2. Of each part: its norm, its signed share along the vector (shares add up to 1), its cosine.
3. Inject each part alone, with the injection's coefficient, layer and positions; and the vector without it.
   Alone is the effect that appears, without is the total effect minus that of the rest.
4. The same for a random part of equal norm, position by position, in its place.

Alone and without would be one number if the model were linear; where they differ, parts back each other up or
act only together. With several injections a part is taken alone without the others, and left out among them.

Source: Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits) for the decomposition; Vig et al.
2020 (arXiv 2004.12265) for asking in both directions.
What it cannot see: what the writers read; vectors that were not recorded from a pair of prompts; operations other than
addition.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.gate import Level, Share, gated
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.inquiries import check_adds
from steerscope.analysis.question.outputs import apart
from steerscope.analysis.results.effects import NUMBERS, TOTAL, Statistics, estimates, nonzero
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import interval, ratio_interval
from steerscope.analysis.results.verdicts import TOLD, Basis
from steerscope.analysis.tools.patching import against_plain
from steerscope.analysis.tools.record import check, record, tolerance
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.vector import SteeringVector

from .parts import Part, Parts, parts

MEASURES = ("alone", "without")
_EFFECT = ("effect", "low", "high", "share", "reference", "reference_low", "reference_high")
TRIED = (*_EFFECT, "p", "p_noise", "p_adjusted", "p_holm", "told", "wrong_way")
_WRITER: Frame = {
    "injection": Column("number of the injection whose vector it is, from 0", role="label"),
    "writer": Column(
        "embedding (token and position), head (L0H3) or MLP (L0M) that wrote a part of the vector in the runs that "
        "it was recorded from; a layer's bias where a norm keeps it from cancelling",
        role="node",
    ),
}


def _tried_columns(measure: str, meaning: str) -> Frame:
    """Of one way to try a writer's part: `NUMBERS`, each name after that of the measure."""
    own: Frame = {name: NUMBERS[name] for name in ("effect", "low", "high", "share", "p", "wrong_way")} | {
        "effect": Column(f"effect of {meaning}; mean over prompts", "{metric}", "estimate"),
        "reference": Column(
            "the same with random parts of equal norm, position by position; mean", "{metric}", "reference"
        ),
        "reference_low": Column("2.5th percentile over the random parts", "{metric}", "reference_low"),
        "reference_high": Column("97.5th percentile over the random parts", "{metric}", "reference_high"),
        "p_noise": Column("prediction t over random parts: the effect differs from theirs"),
        "p_adjusted": Column("differs from zero and goes beyond random parts, after Benjamini-Hochberg over writers"),
        "p_holm": Column("the same after Holm over writers"),
        "told": Column("p_holm below the manifest's alpha, and a share above the smallest of interest", role="verdict"),
        "share": Column("the same over the total effect; these shares need not add up", role="share"),
    }
    return {_name(measure, name): own[name] for name in TRIED}


def _name(measure: str, column: str) -> str:
    return measure if column == "effect" else f"{measure}_{column}"


COLUMNS: Frames = {
    "writers": {
        **_WRITER,
        "layer": Column("layer of the writer; missing for the embedding", role="layer"),
        "head": Column("head within the layer", role="head"),
        "kind": Column("embedding, head, mlp or bias"),
        "norm": Column("norm of the writer's part, over all rows together", "stream units"),
        "share": Column(
            "projection of its part on the vector over the vector's square, all rows together; shares add up to 1, "
            "negative ones write against the vector"
        ),
        "cosine": Column("cosine of its part with the vector; missing where the part is zero"),
        **_tried_columns("alone", "injecting its part alone (coefficient, layer and positions of the injection)"),
        **_tried_columns("without", "leaving its part out of the vector: the effect that is lost"),
    },
    "rows": {
        **_WRITER,
        "row": Column("row of the vector, from 0", role="label"),
        "plus": Column("token of the plus prompt at this row (all of them for a mean)"),
        "minus": Column("token of the minus prompt at this row"),
        "norm": Column("norm of the writer's part in this row", "stream units"),
        "share": Column("share of this row alone; missing where the row is zero", role="estimate"),
        "cosine": Column("cosine of its part with the vector in this row"),
    },
    "totals": {
        "quantity": Column(
            "total: steered minus clean; kl: disturbance of the steered run; sum_alone: alone, summed over all "
            "writers; sum_without: without, summed over all writers",
            role="label",
        ),
        **TOTAL,
    },
    "per_prompt": {
        "prompt": Column("index of the prompt", role="label"),
        **_WRITER,
        "alone": Column("effect of its part alone on this prompt", "{metric}", "estimate"),
        "without": Column("effect lost on this prompt when its part is left out", "{metric}", "estimate"),
    },
}

Values = NDArray[np.float64]
Checks = list[dict[str, object]]


@dataclass(frozen=True, eq=False)
class Written:
    """Raw effects of all parts of all injections, one after another.

    Attributes:
        split: by injection.
        owner: by part, the number of its injection.
        effects: by vector (0 for the real parts, then random ones of equal norm).
    """

    split: tuple[Parts, ...]
    owner: tuple[int, ...]
    effects: Float[Values, "vector measure part prompt"]

    @property
    def parts(self) -> list[Part]:
        return [part for split in self.split for part in split.parts]

    @property
    def names(self) -> dict[str, list[Any]]:
        return {"injection": list(self.owner), "writer": [part.writer for part in self.parts]}


@gated
def writers(experiment: Experiment, *, level: Level = 0.95, alpha: Level = 0.05, smallest: Share = 0.02) -> Result:
    """Who wrote the injected vectors, and what each writer's part does.

    Returns:
        a `Result` of kind "writers"; frames and columns as in `COLUMNS`.

    Raises:
        BadVector: a vector that was not recorded from a prompt pair, or that the model does not reproduce.
        BadInjection: an operation other than add.
    """
    start = time.perf_counter()
    frames, checks = written(experiment, Statistics(level, alpha, smallest))
    about = {"level": level, "alpha": alpha, "smallest": smallest}
    return record("writers", experiment, frames, COLUMNS, start, checks=checks, missing={}, method="exact", **about)


def written(
    experiment: Experiment, options: Statistics, references: int | None = None
) -> tuple[dict[str, pd.DataFrame], Checks]:
    """All frames of `writers`, and its checks.

    Args:
        references: random parts in place of each; as many as the experiment's references by default.

    Raises:
        BadVector: as above.
    """
    raw = effects(experiment, len(experiment.beside) if references is None else references)
    frames = {
        "writers": _table(experiment, raw, options),
        "rows": _rows(experiment, raw),
        "totals": _totals(experiment, raw, options),
        "per_prompt": _per_prompt(raw),
    }
    return frames, _checks(experiment, raw)


def effects(experiment: Experiment, references: int) -> Written:
    """Steps 1, 3 and 4."""
    check_adds(experiment.injections, "writers", "parts of a vector act by themselves where they are added")
    split = tuple(parts(experiment.model, i.vector) for i in experiment.injections)
    owner = tuple(number for number, found in enumerate(split) for _ in found.parts)
    every = [part for found in split for part in found.parts]
    prompts, found = range(len(experiment.prompts)), []
    for vector in track(range(1 + references), "writers"):
        tried = [_random(experiment, vector, n, part) if vector else part.values for n, part in enumerate(every)]
        variants = [
            Variant(p, _tried(experiment, measure, p, number, values.to(experiment.model.device)))
            for number, values in zip(owner, tried, strict=True)
            for measure in MEASURES
            for p in prompts
        ]
        alone, rest = experiment.score(variants).reshape(len(every), 2, len(prompts)).swapaxes(0, 1)
        found.append([experiment.change(alone, None), -experiment.change(rest, 0)])
    return Written(split, owner, np.array(found))


def _random(experiment: Experiment, vector: int, number: int, part: Part) -> Tensor:
    """A random part of equal norm, row by row."""
    seed = np.random.SeedSequence([experiment.seed, vector, number]).generate_state(1)[0]
    like = SteeringVector(part.values, Site("resid_pre", 0), {})
    return random_like(like, int(seed)).values.double()


def _tried(experiment: Experiment, measure: str, prompt: int, number: int, values: Tensor) -> tuple[Edit, ...]:
    """The edits of a prompt that inject a part alone, or everything without it."""
    injection, edits = experiment.injections[number], experiment.edits(0)[prompt]
    vector = injection.vector.values.to(values.device)
    values = values.to(vector)  # rounded as the vector is, so that what is all of it leaves nothing
    if measure == "alone":
        return (_put(edits[number], injection, values),)
    return tuple(_put(edit, injection, vector - values) if i == number else edit for i, edit in enumerate(edits))


def _put(edit: Edit, injection: Injection, values: Float[Tensor, "row width"]) -> Edit:
    """The edit of an injection with other values: of all rows, or without those that the injection leaves out."""
    assert isinstance(edit.value, Tensor)
    return replace(edit, value=injection.coefficient * values[-len(edit.value) :])


def _table(experiment: Experiment, raw: Written, options: Statistics) -> pd.DataFrame:
    measured: dict[str, object] = {}
    # A random part is asked what it does along the same metric: of the whole effect of the real vector.
    total, count = experiment.effect(), len(raw.effects)
    families = ("", *("isotropic",) * (count - 1))
    basis = Basis(experiment.prompts.by_group, total, np.tile(total, (count, 1)), families)
    for index, measure in enumerate(MEASURES):
        columns = estimates(basis, raw.effects[0, index], raw.effects[:, index], options)
        columns["told"] = np.isin(columns["verdict"].astype(str), TOLD)
        measured |= {_name(measure, name): columns[name] for name in TRIED}
    vectors = [experiment.injections[number].vector.values for number in raw.owner]
    geometry = [_geometry(part.values, vector) for part, vector in zip(raw.parts, vectors, strict=True)]
    nodes = {
        "layer": pd.array([part.layer for part in raw.parts], dtype="Int64"),
        "head": pd.array([part.head for part in raw.parts], dtype="Int64"),
        "kind": [part.kind for part in raw.parts],
    }
    return pd.concat([pd.DataFrame(raw.names | nodes), pd.DataFrame(geometry), pd.DataFrame(measured)], axis=1)


def _geometry(part: Tensor, vector: Tensor) -> dict[str, float]:
    """Norm, share along the vector, and cosine, of some rows of a part."""
    vector = vector.double()
    along, size, norm = float((part * vector).sum()), nonzero(float(vector.norm())), float(part.norm())
    return {"norm": norm, "share": along / size / size, "cosine": along / nonzero(norm) / size}


def _rows(experiment: Experiment, raw: Written) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"injection": number, "writer": part.writer, "row": row, "plus": plus, "minus": minus}
            | _geometry(part.values[row], experiment.injections[number].vector.values[row])
            for number, split in enumerate(raw.split)
            for part in split.parts
            for row, (plus, minus) in enumerate(split.tokens)
        ]
    )


def _totals(experiment: Experiment, raw: Written, options: Statistics) -> pd.DataFrame:
    total, unit, asked = experiment.effect(), experiment.metric.unit, (options.level, experiment.prompts.by_group)
    alone, without = raw.effects[0].sum(axis=1)
    rows = []
    for name, values, of in (
        ("total", total, unit),
        ("kl", experiment.disturbed(), "nats"),
        ("sum_alone", alone, unit),
        ("sum_without", without, unit),
    ):
        summed = name.startswith("sum")
        share = values.mean() / nonzero(total.mean()) if summed else np.nan
        bounds = map(float, ratio_interval(values, total, *asked)) if summed else (np.nan, np.nan)
        rows.append((name, values.mean(), *map(float, interval(values, *asked)), of, share, *bounds))
    return pd.DataFrame(rows, columns=list(COLUMNS["totals"]))


def _per_prompt(raw: Written) -> pd.DataFrame:
    count = raw.effects.shape[-1]
    names = {name: np.repeat(values, count) for name, values in raw.names.items()}
    measured = {m: raw.effects[0, i].ravel() for i, m in enumerate(MEASURES)}
    return pd.DataFrame({"prompt": np.tile(np.arange(count), len(raw.parts))} | names | measured)


def _checks(experiment: Experiment, raw: Written, samples: int = 4) -> Checks:
    device, generator = experiment.model.device, np.random.default_rng(experiment.seed)
    questions = []
    for _ in range(samples):
        n, p = int(generator.integers(len(raw.owner))), int(generator.integers(len(experiment.prompts)))
        measure, values = MEASURES[generator.integers(2)], raw.parts[n].values.to(device)
        questions.append(Variant(p, _tried(experiment, measure, p, raw.owner[n], values)))
    sums = [torch.stack([part.values for part in s.parts]).sum(0).to(device) for s in raw.split]
    together = tuple(tuple(map(_put, edits, experiment.injections, sums)) for edits in experiment.edits(0))
    off = float(apart(experiment.outputs(together), experiment.steered).max())
    error, recorded = max(s.error for s in raw.split), max(s.recorded for s in raw.split)
    limit = tolerance(experiment.model)
    return [
        check("the writers' parts add up to the vector (relative)", error, limit),
        check("the runs that the vector was recorded from give it again (relative)", recorded, limit),
        check("sampled parts equal one plain pass each", against_plain(experiment, questions), limit),
        check("all parts together give the steered run", off, limit),
    ]
