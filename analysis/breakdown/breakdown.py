"""`breakdown`: why large coefficients break a model, or why they do not.

1. Response curves over the coefficient, both signs, with the exact limit at infinity (`response`, `limit`).
2. Regimes: where the response stops being linear, saturates, costs fluency; what norms alone predict (`regimes`).
3. Causes: at a coefficient that breaks the model, every subset of the mechanisms undone (`causes`).
4. Layers and places; turn and stretch; remedies at equal effect (`phase`, `shapes`).
5. Completions, and what the cache of injected positions does to them (`completions`).
6. What happens inside: attention, scales, commitment (`probes`), and prediction trajectories through a lens.

Loss on ordinary text is that of the prompts' own tokens after the injection. Beyond the fluent regime a run is off the
model's manifold: what is found there explains the breakage, not the behaviour.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.lens.lens import Lens, load_lens
from steerscope.analysis.lens.trajectory import trajectories
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import Metric, logit_direction
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import mean_interval
from steerscope.analysis.tools.record import check, record

from .causes import causes
from .completions import cache, completions
from .mechanisms import Undo
from .outcomes import CURVES, EFFECT, of_runs
from .phase import phase
from .probes import probes
from .regimes import broken, predictions, regimes
from .response import Response, default_coefficients, response, response_table
from .shapes import Shapes, angles_table, remedies_tables
from .strength import at, reference, site

COARSE = tuple(np.round(np.geomspace(0.1, 1e4, 16), 4).tolist())  # coefficients of the dearer parts
FEWER = 16  # prompts of the dearer parts
WRITTEN, TOKENS, LONG = 8, 32, 64  # completions: prompts, tokens, tokens for the cache


def breakdown(
    model: Model,
    injections: Injection | Sequence[Injection],
    prompts: Prompts | Sequence[str] | Sequence[Sequence[int]],
    metric: Metric | None = None,
    *,
    controls: int = 4,
    scored: str | tuple[int, ...] | None = None,
    seed: int = 0,
    budget: int | None = None,
    **options: Any,
) -> Result:
    """What happens to a model as an injection's coefficient grows; see `breakdown_of` for `options`.

    Args:
        injections: their coefficient gives the direction of the effect; all of them stand at one site.
        metric: `logit_direction()` by default.
        controls: random vectors of equal norm.

    Returns:
        a `Result` of kind "breakdown".
    """
    given = (injections,) if isinstance(injections, Injection) else tuple(injections)
    experiment = Experiment(
        model, given, make_prompts(model, prompts), metric or logit_direction(), controls, "norm", scored, seed, budget
    )
    return breakdown_of(experiment, **options)


def breakdown_of(
    experiment: Experiment,
    *,
    coefficients: Sequence[float] | None = None,
    on_topic: Prompts | Sequence[str] | None = None,
    lens: Lens | None = None,
    broken_at: float | None = None,
    loss: float = 0.1,
    controls: int = 4,
    level: float = 0.95,
) -> Result:
    """The same, of an `Experiment` that is already there.

    Args:
        coefficients: of the response curves; default 81 from -10,000 to 10,000, evenly on a log scale.
        on_topic: texts on the vector's topic, whose loss is measured beside that of the prompts.
        lens: for trajectories; by default the model's own (see `load_lens`).
        broken_at: the coefficient whose causes are sought; by default the smallest of the effect's sign that does
            at least half of the
            most damage.
        loss: share of the perplexity that a safe coefficient may cost.
        controls: random vectors, at most as many as the experiment has.

    Returns:
        a `Result` of kind "breakdown"; frames and columns as in `columns.COLUMNS["breakdown"]`.

    Raises:
        BadInjection: injections at several sites, inside of attention, or with coefficient 0.
        BadArgument: a share or a coefficient out of its range.
    """
    if not 0 < loss < 10:
        raise BadArgument(f"loss={loss}; expected a share of the perplexity above 0 and below 10; 0.1 is usual")
    start = time.perf_counter()
    site(experiment)
    sign = 1 if reference(experiment) > 0 else -1
    experiment = experiment.fewer(controls)
    found = response(experiment, coefficients or default_coefficients())
    lens = lens or load_lens(experiment.model)
    missing = dict(found.missing)
    table, reasons = regimes(experiment, found, loss, level)
    missing |= reasons
    clean = of_runs(experiment, [experiment.nothing])[CURVES.index("loss")]
    few = _few(experiment, FEWER)
    grid = _coarse(found, sign)
    frames: dict[str, pd.DataFrame] = {
        "response": _with_topic(experiment, found, on_topic, level),
        "regimes": table,
        "predictions": predictions(experiment, level),
    }
    if not missing.get("limit"):
        frames["limits"] = _limits(experiment, found, level)
    worst = broken_at if broken_at is not None else broken(found, loss, sign)
    gap = 0.0
    if worst is None:
        missing["causes"] = f"no coefficient of this sign costs {loss:.0%} of the perplexity, so nothing is broken"
    else:
        if worst == 0 or not np.isfinite(worst):
            raise BadArgument(f"broken_at={worst}; expected a finite coefficient other than 0; leave it out")
        frames["causes"], gap = causes(few, worst, level)
    inf = [sign * np.inf] if found.limit("effect", sign) is not None else []
    shapes = Shapes(few)
    frames["phase"] = phase(_few(experiment, WRITTEN), grid[::2])
    frames["angles"] = angles_table(shapes, grid, level)
    target = of_runs(few, [few.edits(0)])[EFFECT, 0]
    frames["remedies"], frames["equal_effect"] = remedies_tables(shapes, grid, target, level)
    some = [0.0, *_around(reference(experiment), worst, grid), *inf]
    frames["completions"], frames["texts"] = completions(few, some, WRITTEN, TOKENS, level)
    frames["cache"] = cache(few, reference(experiment), WRITTEN, LONG, level)
    frames["probes"] = probes(few, lens, [0.0, *grid, *inf], level)
    runs = {"steered": few.edits(0)} | ({"at infinity": at(few, inf[0])} if inf else {})
    frames["lens"], frames["tokens"] = trajectories(few, lens, runs, level=level)
    frames |= {
        name: pd.DataFrame(columns=list(columns))
        for name, columns in COLUMNS["breakdown"].items()
        if name not in frames
    }
    return record(
        "breakdown",
        experiment,
        frames,
        start,
        checks=_checks(found, gap, sign),
        missing=missing,
        broken_at=worst,
        loss=loss,
        lens={"name": lens.name, "source": lens.source},
        total=float(found.of("effect")[_nearest(found, reference(experiment))].mean()),
        clean_loss=_number(clean.mean()),
        level=level,
    )


def _limits(experiment: Experiment, found: Response, level: float) -> pd.DataFrame:
    """Both exact limits, with later positions attending to the injected ones and without."""
    hidden, table = Undo(experiment, reference(experiment)).hidden, []
    for sign in (1, -1):
        edits = at(experiment, sign * np.inf)
        unseen = tuple((*own, *hide) for own, hide in zip(edits, hidden, strict=True))
        apart = of_runs(experiment, [unseen])[:, 0]
        for o, outcome in enumerate(CURVES):
            for seen, values in ((True, found.limit(outcome, sign)), (False, apart[o])):
                assert values is not None
                value, low, high = mean_interval(values, level, experiment.seed)
                table.append({"sign": sign, "seen": seen, "outcome": outcome, "value": value, "low": low, "high": high})
    frame = pd.DataFrame(table).sort_values(["sign", "seen"], ascending=False, kind="stable")
    return frame[list(COLUMNS["breakdown"]["limits"])].dropna(subset=["value"])


def _few(experiment: Experiment, count: int) -> Experiment:
    """The same question of the first prompts."""
    prompts = experiment.prompts
    if len(prompts) <= count:
        return experiment
    return replace(experiment, prompts=prompts.first(count))


def _coarse(found: Response, sign: int) -> list[float]:
    """Coefficients of the dearer parts: at most 16 of the effect's sign, none that overflows."""
    finite = np.asarray(np.isfinite(found.of("kl")).all(axis=1))
    largest = max(
        (abs(c) for c, ok in zip(found.coefficients, finite, strict=True) if ok and np.isfinite(c)), default=0.0
    )
    return [sign * c for c in COARSE if c <= largest]


def _around(given: float, worst: float | None, grid: Sequence[float]) -> list[float]:
    """A few coefficients for completions: below, at and above the given one, and where the model is broken."""
    wanted = [given / 2, given, 3 * given, 10 * given, *([worst] if worst is not None else []), *grid[-1:]]
    return sorted(set(wanted), key=abs)


def _nearest(found: Response, coefficient: float) -> int:
    return int(np.argmin([abs(c - coefficient) for c in found.coefficients]))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _with_topic(
    experiment: Experiment, found: Response, on_topic: Prompts | Sequence[str] | None, level: float
) -> pd.DataFrame:
    """The curves, with those of the loss on on-topic texts."""
    table = response_table(found, level, experiment.seed)
    if on_topic is None:
        return table
    texts = make_prompts(experiment.model, on_topic)
    finite = [c for c in found.coefficients if np.isfinite(c)]
    other = response(replace(experiment, prompts=texts, controls=0), finite)
    own = response_table(other, level, experiment.seed)
    own = own[own["outcome"] == "damage"].assign(outcome="damage_on_topic")
    return pd.concat([table, own], ignore_index=True)


def _checks(found: Response, gap: float, sign: int) -> list[dict[str, object]]:
    """Shapley values add up; the finite curve comes to the exact limit."""
    checks = [check("Shapley values of the causes add up (relative)", gap, 1e-6)]
    end = found.limit("effect", sign)
    own = [c for c in found.coefficients if 1e4 <= sign * c < np.inf]
    if own and end is not None:
        largest = found.of("effect")[found.coefficients.index(max(own, key=abs))]
        gap = np.abs(largest - end).max() / max(1.0, np.abs(end).max())
        if np.isfinite(gap):
            name = "the largest coefficient's effect comes to the limit (relative)"
            checks.append(check(name, gap, 5e-2))
    return checks
