"""`freeze_attention`: does steering act through what heads move (OV), or through where they look (QK)?

1. Run every prompt clean; keep the queries, keys and values of every head that the injection can reach.
2. Steered runs with some of it set back to the clean run's: patterns frozen (queries and keys, from which the
   model computes them again; what survives goes through OV and MLPs), values frozen (patterns live), both
   frozen (MLPs and the direct path are left). In all layers at once, in one layer, of one head. What is lost?
3. Of two outcomes of the same vector: the effect (the experiment's metric), and the damage: the loss of the
   true next tokens of ordinary text.
4. The same for each control: along the same metric, and of each vector's own change of logits or own damage.

Patterns and values do not add up to both: what a head moves from where it newly looks belongs to the two.
With both frozen nothing leaves an injected position, so where none is scored nothing survives.

Source: the question is that of arXiv 2604.08524 (scores frozen, effect measured) and of arXiv 2605.06342 (loss of
utility by rerouted attention), which measured different outcomes.
What it cannot see: whether what survives goes through values or through MLPs (compare patterns with both).
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadArgument, SteerscopeError, UnsupportedModel
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.ordinary import Text, ordinary
from steerscope.analysis.tools.patching import against_plain
from steerscope.analysis.tools.record import check, record, tolerance

from .freezing import FROZEN, Freezing, Kept, clean_edits, freeze, lost, reached, shared
from .freezing_tables import tables

SCOPES = ("all", "layer", "head")
SAMPLES = 2  # runs of each outcome that are checked against plain passes
OF_HEADS = "attention patterns of single heads"


def freeze_attention(
    experiment: Experiment,
    *,
    text: Text | None = None,
    by: Sequence[str] = SCOPES,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """How much of an injection's effect and damage survives frozen attention patterns, and frozen values.

    Args:
        text: ordinary text for the damage (see `ordinary`); windows of the text that comes with steerscope by default.
        by: some of all (layers at once), layer (each), head (each).

    Returns:
        a `Result` of kind "attention"; frames and columns as in `columns.COLUMNS["attention"]`.
    """
    start = time.perf_counter()
    frames, checks, missing, about = frozen(experiment, Statistics(level, alpha), text, by)
    return record(
        "attention",
        experiment,
        frames,
        start,
        checks=checks,
        missing=missing,
        method="exact",
        level=level,
        alpha=alpha,
        by=list(by),
        text=about,
    )


def frozen(
    experiment: Experiment,
    options: Statistics,
    text: Text | None = None,
    by: Sequence[str] = SCOPES,
    controls: int | None = None,
) -> tuple[dict[str, pd.DataFrame], list[dict[str, object]], dict[str, str], dict[str, Any]]:
    """All frames of `freeze_attention`, its checks, what is missing and why, and what the ordinary text is.

    Args:
        controls: how many of the experiment's ride along; all by default.
    """
    if not by or set(by) - set(SCOPES):
        raise BadArgument(f"by={list(by)}; expected some of {', '.join(SCOPES)}; choose among them")
    freezings, missing = _freezings(experiment, by)
    asked = {"effect": experiment}
    try:
        asked["damage"] = ordinary(experiment, text)
    except SteerscopeError as error:
        if text is not None:
            raise
        missing["damage"] = f"no ordinary text for this model and injection ({error})"
    steering = experiment.steering[: None if controls is None else 1 + controls]
    patterns = shared(experiment.model) and "head" in by and OF_HEADS not in missing
    raw, checks = {}, []
    for outcome, question in asked.items():
        kept = clean_edits(question, patterns)
        raw[outcome] = lost(question, freezings, kept, steering, own=outcome == "effect")
        checks += _checks(question, outcome, kept)
    frames, unclear = tables(asked, raw, options)
    about = asked["damage"].describe()["prompts"] if "damage" in asked else {}
    return frames, checks, missing | unclear, about


def _freezings(experiment: Experiment, by: Sequence[str]) -> tuple[tuple[Freezing, ...], dict[str, str]]:
    """Everything that is frozen in turn, and what cannot be."""
    layers, missing = reached(experiment), {}
    found = [Freezing(name) for name in FROZEN] if "all" in by else []
    if "layer" in by:
        found += [Freezing(name, layer) for name in FROZEN for layer in layers]
    if "head" in by:
        refused = _refused(experiment)
        if refused:
            missing[OF_HEADS] = refused
        for name, site in (("patterns", "q"), ("values", "v"))[bool(refused) :]:
            heads = range(experiment.model.heads(site))
            found += [Freezing(name, layer, head) for layer in layers for head in heads]
    return tuple(found), missing


def _refused(experiment: Experiment) -> str:
    """Why the patterns of single heads cannot be frozen; empty where they can."""
    if not shared(experiment.model):
        return ""
    edit = Edit(Site("pattern", reached(experiment)[0], 0), "scale", 1.0)
    try:
        list(run(experiment.model, experiment.prompts.full, [Variant(0, (edit,))], reads="none"))
    except UnsupportedModel as error:
        return f"{error}; and its heads share keys, so that queries and keys cannot stand in for the pattern of one"
    return ""


def _checks(experiment: Experiment, outcome: str, kept: Sequence[Kept]) -> list[dict[str, object]]:
    """What must hold exactly, on this very run."""
    model, prompts, steering = experiment.model, range(len(experiment.prompts)), experiment.edits(0)
    clean = experiment.clean.logits.log_softmax(-1)
    free = [
        at not in injected
        for scored, injected in zip(experiment.scored_positions.positions, experiment.injected, strict=True)
        for at in scored
    ]

    def gap(edits: Callable[[int], tuple[Edit, ...]], where: Sequence[bool]) -> float:
        logits = experiment.outputs(tuple(edits(p) for p in prompts)).logits
        apart = (logits.log_softmax(-1) - clean).abs().amax(-1).tolist()
        return max((x for x, wanted in zip(apart, where, strict=True) if wanted), default=0.0)

    def whole(name: str, p: int) -> tuple[Edit, ...]:
        return freeze(model, Freezing(name), kept[p])

    generator = np.random.default_rng(experiment.seed)
    drawn = [int(p) for p in generator.integers(len(kept), size=SAMPLES)]
    names = [FROZEN[i] for i in generator.integers(len(FROZEN), size=SAMPLES)]
    questions = [Variant(p, (*whole(name, p), *steering[p])) for p, name in zip(drawn, names, strict=True)]
    patterns = [Variant(p, (*whole("patterns", p), *steering[p])) for p in drawn]
    limit = tolerance(model)
    found = {
        "patterns, values and MLPs frozen give the clean run, where nothing is injected": gap(
            lambda p: (*kept[p].values(), *steering[p]), free
        ),
        "freezing the clean run changes nothing": gap(lambda p: whole("both", p), [True] * len(free)),
        "frozen patterns are the clean ones": _patterns_apart(experiment, patterns),
        "sampled freezings equal one plain pass each": against_plain(experiment, questions),
    }
    return [check(f"{outcome}: {name}", value, limit) for name, value in found.items()]


def _patterns_apart(experiment: Experiment, variants: Sequence[Variant]) -> float:
    """Largest difference between the patterns of some runs and those of the clean runs of the same prompts."""
    prompts = experiment.prompts.full
    sites = [("pattern", layer) for layer in reached(experiment)]
    seen: dict[tuple[int, int], Tensor] = {}
    both = [*variants, *(Variant(v.prompt) for v in variants)]
    for chunk, readout in run(experiment.model, prompts, both, reads="none", sites=sites):
        for row, index in enumerate(chunk):
            length = len(prompts[both[index].prompt])
            for site in sites:
                seen[index, site[1]] = readout.activations[site][row, :, :length, :length].clone()
    count = len(variants)
    return max(float((x - seen[i % count + count, layer]).abs().max()) for (i, layer), x in seen.items() if i < count)
