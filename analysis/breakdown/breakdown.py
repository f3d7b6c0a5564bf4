"""`breakdown`: why large coefficients break a model, or why they do not.

1. Response curves over the coefficient, both signs, with the exact limit at infinity (`response`, `limit`).
2. Regimes: where the response stops being linear, saturates, costs fluency; what norms alone predict (`regimes`).
3. Causes: at a coefficient that breaks the model, every subset of the mechanisms undone (`causes`).
4. Layers and places; turn and stretch; remedies at equal effect (`phase`, `shapes`, `remedies`).
5. Completions, and what the cache of injected positions does to them (`completions`).
6. What happens inside: attention, scales, commitment (`probes`), and prediction trajectories through a lens.

Effect and disturbance are measured on the prompts; damage on one named text, as everywhere (`frozen.damage`). Beyond
the fluent regime a run is off the model's manifold: what is found there explains the breakage, not the behaviour.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pandas as pd

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.frozen.damage import about, of_text
from steerscope.analysis.gate import Level, Whole, Within, gated
from steerscope.analysis.lens.lens import Lens, load_lens
from steerscope.analysis.lens.trajectory import TRAJECTORIES, trajectories
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.inquiries import check_adds
from steerscope.analysis.question.prompt_files import read_prompts
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Frames
from steerscope.analysis.tools.ordinary import Text, not_many
from steerscope.analysis.tools.record import check, record

from .causes import CAUSES, causes
from .completions import COMPLETIONS, cache, completions
from .outcomes import Asked
from .phase import PHASE, phase
from .probes import PROBES, probes
from .regimes import REGIMES, broken, predictions, regimes
from .remedies import EQUAL, remedies_tables
from .response import RESPONSE, Response, default_coefficients, limits_table, response, response_table
from .shapes import SHAPES, Shapes, angles_table
from .strength import at, reference, site

COLUMNS: Frames = RESPONSE | REGIMES | CAUSES | PHASE | SHAPES | EQUAL | COMPLETIONS | PROBES | TRAJECTORIES
COARSE = tuple(np.round(np.geomspace(0.1, 1e4, 16), 4).tolist())  # coefficients of the dearer parts
FEWER = 16  # prompts of the dearer parts
Loss = Annotated[float, Within(0, 10, open=True)]
WRITTEN, TOKENS, LONG = 8, 32, 64  # completions: prompts, tokens, tokens for the cache


@gated
def breakdown(
    experiment: Experiment,
    *,
    coefficients: Sequence[float] | None = None,
    text: Text | None = None,
    on_topic: Text | None = None,
    lens: Lens | str | None = None,
    broken_at: float | None = None,
    loss: Loss = 0.1,
    references_at_most: Whole = 4,
    level: Level = 0.95,
) -> Result:
    """What a large coefficient does, from minus to plus infinity: safe range, limits, causes, remedies.

    The injections' own coefficient gives the direction of the effect; all of them stand at one site.

    Args:
        coefficients: of the response curves; 81 from -10,000 to 10,000 by default, evenly on a log scale, and always
            the given one.
        text: the text whose loss damage is measured on (see `ordinary`); windows of the text that comes with
            steerscope by default.
        on_topic: texts on the vector's topic (a file, or texts), whose loss is measured beside.
        lens: for trajectories: a folder, a published name, or logit; by default the model's own.
        broken_at: the coefficient whose causes are sought; by default the smallest of the effect's sign that does at
            least half of the most damage.
        loss: share of the perplexity that a safe coefficient may cost.
        references_at_most: reference vectors of the response curves, at most as many as the experiment has.

    Returns:
        a `Result` of kind "breakdown"; frames and columns as in `COLUMNS`.

    Raises:
        BadInjection: injections at several sites, inside of attention, with coefficient 0, or that do not add.
        BadArgument: a share or a coefficient out of its range.
        BadLens: no such lens, or one of another model.
    """
    if broken_at == 0:
        raise BadArgument("broken_at=0; expected a coefficient other than 0, which breaks nothing; leave it out")
    check_adds(experiment.injections, "breakdown", "it needs a coefficient that goes to infinity")
    start = time.perf_counter()
    given, model = reference(experiment), experiment.model
    site(experiment)
    sign = 1 if given > 0 else -1
    experiment = experiment.fewer(references_at_most)
    lens, topic = load_lens(model, lens), _texts(model, on_topic)
    asked, missing = _asked(experiment, text)
    found = response(asked, default_coefficients() if coefficients is None else coefficients)
    frames = {
        "response": _with_topic(asked, found, topic, level),
        "limits": limits_table(asked, found, level),
        "predictions": predictions(experiment, level),
    }
    frames["regimes"], more = regimes(asked, found, loss, level)
    missing |= more
    few, grid = asked.with_prompts(_few(experiment, FEWER)), _coarse(found, sign)
    worst = broken_at if broken_at is not None else broken(found, loss, sign)
    frames["causes"], gap, more = _causes(few, worst, loss, level)
    missing |= more
    inf = [sign * np.inf] if found.limit("effect", sign) is not None else []
    shapes, one = Shapes(few), few.prompts
    frames["phase"] = phase(_few(experiment, WRITTEN), grid[::2])
    frames["angles"] = angles_table(shapes, grid, level)
    frames["remedies"], frames["equal_effect"] = remedies_tables(shapes, grid, given, level)
    some = [0.0, *_around(given, worst, grid), *inf]
    frames["completions"], frames["texts"] = completions(one, some, WRITTEN, TOKENS, level)
    frames["cache"] = cache(one, given, WRITTEN, LONG, level)
    frames["probes"] = probes(one, lens, [0.0, *grid, *inf], level)
    limit = {"at infinity": at(one, inf[0])} if inf else {}
    frames["lens"], frames["tokens"] = trajectories(one, lens, limit, level=level)
    return record(
        "breakdown",
        experiment,
        frames,
        COLUMNS,
        start,
        checks=_checks(found, gap, sign),
        missing=found.missing | missing,
        broken_at=worst,
        loss=loss,
        lens=lens.describe(),
        total=float(found.at("effect", given).mean()),
        text=None if asked.text is None else _about(asked.text),
        level=level,
    )


def _asked(experiment: Experiment, text: Text | None) -> tuple[Asked, dict[str, str]]:
    """The experiment beside the text that damage is measured on; why there is none, if there is none."""
    ordinary, reason = of_text(experiment, text)
    return Asked(experiment, ordinary), {"damage": reason} if reason else {}


def _about(text: Experiment) -> dict[str, Any]:
    """The text, and its loss in the clean run."""
    return about(text.prompts) | {"clean_loss": float(text.value(None).mean())}


def _causes(asked: Asked, worst: float | None, loss: float, level: float) -> tuple[pd.DataFrame, float, dict[str, str]]:
    """The table of causes; without one, why."""
    if asked.text is not None and worst is not None:
        return causes(asked, worst, level)
    reason = "there is no text to measure damage on"
    if asked.text is not None:
        reason = f"no coefficient of this sign costs {loss:.0%} of the perplexity, so nothing is broken"
    return pd.DataFrame(columns=list(COLUMNS["causes"])), 0.0, {"causes": reason}


def _texts(model: Model, text: Text | None) -> Prompts | None:
    """Texts as prompts; one text is the name of a file of them."""
    if isinstance(text, str):
        return not_many(make_prompts(model, read_prompts(text), source=text))
    return None if text is None else not_many(make_prompts(model, text))


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


def _with_topic(asked: Asked, found: Response, topic: Prompts | None, level: float) -> pd.DataFrame:
    """The curves, with those of the loss on on-topic texts."""
    table = response_table(asked, found, level)
    if topic is None:
        return table
    finite = [c for c in found.coefficients if np.isfinite(c)]
    text, _ = of_text(replace(asked.prompts, references=0), topic)
    assert text is not None  # it was given
    other = Asked(_few(text, 1), text)
    own = response_table(other, response(other, finite), level)
    own = own[own["outcome"] == "damage"].assign(outcome="damage_on_topic")
    return pd.concat([table, own], ignore_index=True)


def _checks(found: Response, gap: float, sign: int) -> list[dict[str, object]]:
    """Shapley values add up; the finite curve comes to the exact limit."""
    checks = [check("Shapley values of the causes add up (relative)", gap, 1e-6, section="What breaks it")]
    end = found.limit("effect", sign)
    own = [c for c in found.coefficients if 1e4 <= sign * c < np.inf]
    if own and end is not None:
        largest = found.at("effect", max(own, key=abs))
        apart = np.abs(largest - end).max() / max(1.0, np.abs(end).max())
        if np.isfinite(apart):
            name = "the largest coefficient's effect comes to the limit (relative)"
            checks.append(check(name, apart, 5e-2, section="At infinity"))
    return checks
