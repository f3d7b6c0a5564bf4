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
What it cannot see: what the writers read; vectors that were not recorded from a pair of prompts.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.results.effects import Statistics, estimates, nonzero
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import interval, ratio_interval
from steerscope.analysis.tools.patching import against_plain
from steerscope.analysis.tools.record import check, record, tolerance
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.vector import SteeringVector

from .parts import Part, Parts, parts

MEASURES = ("alone", "without")
Values = NDArray[np.float64]
Checks = list[dict[str, object]]


@dataclass(frozen=True, eq=False)
class Written:
    """Raw effects of all parts of all injections, one after another.

    Attributes:
        split: by injection.
        owner: by part, the number of its injection.
        effects: by vector (0 for the real parts, then random ones of equal norm).
        total: steered minus clean.
    """

    split: tuple[Parts, ...]
    owner: tuple[int, ...]
    effects: Float[Values, "vector measure part prompt"]
    total: Float[Values, " prompt"]

    @property
    def parts(self) -> list[Part]:
        return [part for split in self.split for part in split.parts]


def writers(experiment: Experiment, *, level: float = 0.95, alpha: float = 0.05) -> Result:
    """Who wrote the injected vectors, and what each writer's part does.

    Returns:
        a `Result` of kind "writers"; frames and columns as in `columns.COLUMNS["writers"]`.

    Raises:
        BadVector: a vector that was not recorded from a prompt pair, or that the model does not reproduce.
    """
    start = time.perf_counter()
    frames, checks = written(experiment, Statistics(level, alpha))
    return record("writers", experiment, frames, start, checks=checks, method="exact", level=level, alpha=alpha)


def written(
    experiment: Experiment, options: Statistics, controls: int | None = None
) -> tuple[dict[str, pd.DataFrame], Checks]:
    """All frames of `writers`, and its checks.

    Args:
        controls: random parts in place of each; as many as the experiment's controls by default.

    Raises:
        BadVector: as above.
    """
    raw = effects(experiment, experiment.controls if controls is None else controls)
    frames = {
        "writers": _table(experiment, raw, options),
        "rows": _rows(experiment, raw),
        "totals": _totals(experiment, raw, options),
        "per_prompt": _per_prompt(raw),
    }
    return frames, _checks(experiment, raw)


def effects(experiment: Experiment, controls: int) -> Written:
    """Steps 1, 3 and 4."""
    split = tuple(parts(experiment.model, i.vector) for i in experiment.injections)
    owner = tuple(number for number, found in enumerate(split) for _ in found.parts)
    every = [part for found in split for part in found.parts]
    prompts, model = range(len(experiment.prompts)), experiment.model
    score = experiment.metric.prepare(experiment.scored_positions, experiment.clean, experiment.steered)
    whole = [Variant(p) for p in prompts] + [Variant(p, experiment.edits(0)[p]) for p in prompts]
    clean, steered = experiment.scores(whole, [score], experiment.reads).reshape(2, -1)
    found = []
    for vector in track(range(1 + controls), "writers"):
        tried = [
            part.values if vector == 0 else _random(experiment, vector, number, part)
            for number, part in enumerate(every)
        ]
        variants = [
            Variant(p, edits)
            for number, values in zip(owner, tried, strict=True)
            for measure in MEASURES
            for p in prompts
            for edits in [_tried(experiment, measure, p, number, values.to(model.device))]
        ]
        values = experiment.scores(variants, [score], experiment.reads)
        alone, rest = values.reshape(len(every), 2, len(prompts)).swapaxes(0, 1)
        found.append([alone - clean, steered - rest])
    return Written(split, owner, np.array(found), steered - clean)


def _random(experiment: Experiment, vector: int, number: int, part: Part) -> Tensor:
    """A random part of equal norm, row by row."""
    seed = np.random.SeedSequence([experiment.seed, vector, number]).generate_state(1)[0]
    like = SteeringVector(part.values, Site("resid_pre", 0), {})
    return random_like(like, int(seed)).values.double()


def _tried(experiment: Experiment, measure: str, prompt: int, number: int, values: Tensor) -> tuple[Edit, ...]:
    """The edits of a prompt that inject a part alone, or everything without it."""
    injection, edits = experiment.injections[number], experiment.edits(0)[prompt]
    if measure == "alone":
        return (_put(edits[number], injection, values),)
    rest = injection.vector.values.to(values) - values
    return tuple(_put(edit, injection, rest) if i == number else edit for i, edit in enumerate(edits))


def _put(edit: Edit, injection: Injection, values: Float[Tensor, "row width"]) -> Edit:
    """The edit of an injection with other values: of all rows, or without those that the injection leaves out."""
    assert isinstance(edit.value, Tensor)
    return replace(edit, value=injection.coefficient * values[-len(edit.value) :])


def _names(raw: Written) -> dict[str, list[Any]]:
    return {"injection": list(raw.owner), "writer": [part.writer for part in raw.parts]}


def _table(experiment: Experiment, raw: Written, options: Statistics) -> pd.DataFrame:
    total = nonzero(raw.total.mean())
    measured: dict[str, object] = {}
    for index, measure in enumerate(MEASURES):
        columns = estimates(raw.effects[:, index], options, experiment.seed)
        effect = columns.pop("effect")
        measured |= {measure: effect, f"{measure}_share": effect / total}
        measured |= {f"{measure}_{name}": values for name, values in columns.items()}
    geometry = [
        _geometry(part.values, experiment.injections[number].vector.values)
        for number, part in zip(raw.owner, raw.parts, strict=True)
    ]
    frame = pd.DataFrame(
        _names(raw)
        | {
            "layer": pd.array([part.layer for part in raw.parts], dtype="Int64"),
            "head": pd.array([part.head for part in raw.parts], dtype="Int64"),
            "kind": [part.kind for part in raw.parts],
        }
        | {name: [g[name] for g in geometry] for name in ("norm", "share", "cosine")}
        | measured
    )
    return frame[list(COLUMNS["writers"]["writers"])]


def _geometry(part: Tensor, vector: Tensor) -> Mapping[str, float]:
    """Norm, share along the vector, and cosine, of some rows of a part."""
    vector = vector.double()
    along, size, norm = float((part * vector).sum()), float(vector.norm()), float(part.norm())
    return {
        "norm": norm,
        "share": along / nonzero(size) / nonzero(size),
        "cosine": along / nonzero(norm) / nonzero(size),
    }


def _rows(experiment: Experiment, raw: Written) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "injection": number,
                "writer": part.writer,
                "row": row,
                "plus": plus,
                "minus": minus,
                **_geometry(part.values[row], experiment.injections[number].vector.values[row]),
            }
            for number, split in enumerate(raw.split)
            for part in split.parts
            for row, (plus, minus) in enumerate(split.tokens)
        ]
    )


def _totals(experiment: Experiment, raw: Written, options: Statistics) -> pd.DataFrame:
    alone, without = raw.effects[0].sum(axis=1)
    unit = experiment.metric.unit
    rows = []
    for name, values, of in (
        ("total", raw.total, unit),
        ("kl", experiment.disturbance(experiment.steered), "nats"),
        ("sum_alone", alone, unit),
        ("sum_without", without, unit),
    ):
        low, high = interval(values, options.level, experiment.seed)
        row = {
            "quantity": name,
            "value": values.mean(),
            "low": float(low),
            "high": float(high),
            "unit": of,
            "share": np.nan,
            "share_low": np.nan,
            "share_high": np.nan,
        }
        if name.startswith("sum"):
            row["share"] = values.mean() / nonzero(raw.total.mean())
            row["share_low"], row["share_high"] = ratio_interval(values, raw.total, options.level, experiment.seed)
        rows.append(row)
    return pd.DataFrame(rows)


def _per_prompt(raw: Written) -> pd.DataFrame:
    count = len(raw.total)
    names = {name: np.repeat(values, count) for name, values in _names(raw).items()}
    prompt = {"prompt": np.tile(np.arange(count), len(raw.parts))}
    measured = {m: raw.effects[0, i].ravel() for i, m in enumerate(MEASURES)}
    return pd.DataFrame(prompt | names | measured)


def _checks(experiment: Experiment, raw: Written, samples: int = 4) -> Checks:
    limit = tolerance(experiment.model)
    found = [
        check("the writers' parts add up to the vector (relative)", max(s.error for s in raw.split), limit),
        check(
            "the runs that the vector was recorded from give it again (relative)",
            max(s.recorded for s in raw.split),
            limit,
        ),
    ]
    generator = np.random.default_rng(experiment.seed)
    questions = []
    for _ in range(samples):
        n, p = int(generator.integers(len(raw.owner))), int(generator.integers(len(experiment.prompts)))
        values = raw.parts[n].values.to(experiment.model.device)
        edits = _tried(experiment, MEASURES[generator.integers(2)], p, raw.owner[n], values)
        questions.append(Variant(p, edits))
    gap = against_plain(experiment, questions)
    found.append(check("sampled parts equal one plain pass each", gap, limit))
    sums = [torch.stack([part.values for part in s.parts]).sum(0).to(experiment.model.device) for s in raw.split]
    together = tuple(tuple(map(_put, edits, experiment.injections, sums)) for edits in experiment.edits(0))
    outputs = experiment.outputs(together).logits.log_softmax(-1)
    gap = float((outputs - experiment.steered.logits.log_softmax(-1)).abs().max())
    return [*found, check("all parts together give the steered run", gap, limit)]
