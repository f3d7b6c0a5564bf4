"""`freeze_attention`: does steering act through what heads move (OV), or through where they look (QK)?

1. Run every prompt clean; keep the queries, keys and values of every head that the injection can reach.
2. Steered runs with some of it set back to the clean run's: patterns frozen (queries and keys, from which the
   model computes them again; what survives goes through OV and MLPs), values frozen (patterns live), both
   frozen (MLPs and the direct path are left). In all layers at once, in one layer, of one head. What is lost?
3. Of two outcomes of the same vector: the effect (the experiment's metric), and the damage: the loss of the
   true next tokens of one named text, the same as everywhere (see `damage`).
4. The same for each reference vector, of its own change of logits or of its own damage; shares are compared.

Patterns and values do not add up to both: what a head moves from where it newly looks belongs to the two.
With both frozen nothing leaves an injected position, so where none is scored nothing survives.

Source: the question is that of arXiv 2604.08524 (scores frozen, effect measured) and of arXiv 2605.06342 (loss of
utility by rerouted attention), which measured different outcomes.
What it cannot see: whether what survives goes through values or through MLPs (compare patterns with both).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadArgument, UnsupportedModel
from steerscope.analysis.gate import Level, Share, gated
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.outputs import apart, pieced
from steerscope.analysis.results.effects import NUMBERS, Statistics, estimates
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import (
    benjamini_hochberg,
    holm,
    interval,
    nonzero_p,
    ratio_interval,
    standard_error,
)
from steerscope.analysis.results.verdicts import NOISE, Basis, band
from steerscope.analysis.tools.ordinary import Text
from steerscope.analysis.tools.patching import against_plain
from steerscope.analysis.tools.record import check, record, tolerance

from .damage import about, of_text
from .freezing import FROZEN, Freezing, Kept, Lost, clean_edits, freeze, lost, reached, shared

_OUTCOME: Frame = {
    "outcome": Column(
        "effect: the metric on the prompts; damage: loss of the true next tokens of the text that the manifest names; "
        "both steered minus clean",
        role="label",
    )
}
_FROZEN: Frame = {
    "frozen": Column(
        "what is set to its clean value in the steered run: patterns (where heads look; what survives goes through "
        "values and MLPs), values (what heads move; patterns steered), or both (MLPs and the direct path are left)",
        role="measure",
    )
}
_PROMPT: Frame = {"prompt": Column("index of the prompt, or of the piece of the text", role="label")}
COLUMNS: Frames = {
    "attention": {
        **_OUTCOME,
        "unit": Column("unit of the outcome"),
        **_FROZEN,
        "scope": Column("all: in all layers at once; layer: in one layer; head: of one head", role="label"),
        "node": Column("all, a layer (L2), a head (L2H3), or the values that several heads share (L2KV1)", role="node"),
        "layer": Column("layer that is frozen; missing for all", role="layer"),
        "head": Column("head that is frozen (of values: key-value head); missing for whole layers", role="head"),
        "total": Column("the outcome with nothing frozen; mean over prompts", "{unit}"),
        "total_low": Column("lower end of its interval over prompts", "{unit}"),
        "total_high": Column("upper end of its interval over prompts", "{unit}"),
        "lost": Column("outcome that is lost when this is frozen; mean over prompts", "{unit}", "estimate"),
        "survives": Column(
            "1 minus lost over total; above 1 where the outcome grows, below 0 where it turns round; missing where the "
            "total cannot be told from zero (or a damage is none)"
        ),
        "survives_low": Column("lower end of its interval over groups"),
        "survives_high": Column("upper end of its interval over groups"),
        **{n: replace(c, unit=c.unit and "{unit}") for n, c in NUMBERS.items() if n not in ("effect", "share")},
        "p_adjusted": Column(
            "effect: as in all tables of effects, over the rows of the outcome; damage, which any vector does: that "
            "lost differs from zero, after Benjamini-Hochberg over the rows of the outcome"
        ),
        "p_holm": Column("the same after Holm, for claims in words"),
        "own_survives": Column(
            "share of the vector's own change of the logits that survives (damage: of its own damage)"
        ),
        "reference_survives": Column(
            "the same for random vectors, each of its own; mean of those whose total is told from zero, missing where "
            "these are less than half"
        ),
        "reference_survives_low": Column("2.5th percentile over these random vectors"),
        "reference_survives_high": Column("97.5th percentile over these random vectors"),
        "concepts_survives": Column("the same for other concepts; mean"),
    },
    "per_prompt": {
        **_OUTCOME,
        **_PROMPT,
        **_FROZEN,
        "node": Column("as in attention", role="node"),
        "total": Column("steered minus clean with nothing frozen", "{unit}"),
        "lost": Column("what of it is lost", "{unit}", "estimate"),
    },
    "texts": {
        **_OUTCOME,
        **_PROMPT,
        "text": Column("its text (token ids where there is no tokenizer)"),
        "tokens": Column("number of tokens, BOS included"),
        "injected": Column("positions that the injection edits"),
        "scored": Column("positions that are scored"),
        "clean": Column("outcome of the clean run: the metric, or the loss", "{unit}"),
        "steered": Column("the same of the steered run", "{unit}", "estimate"),
    },
}

Scope = Literal["all", "layer", "head"]
SCOPES: Final = ("all", "layer", "head")
SAMPLES = 2  # runs of each outcome that are checked against plain passes
CLEAR = 3  # standard errors over groups that a total must be from zero, so that a share of it has an interval
SECTION = "Attention: what heads move, or where they look"  # of the page: where a check that failed is said
OF_HEADS = "attention patterns of single heads"
Values = NDArray[np.float64]


@gated
def freeze_attention(
    experiment: Experiment,
    *,
    text: Text | None = None,
    by: Sequence[Scope] = SCOPES,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """How much of an injection's effect and damage survives frozen attention patterns, and frozen values.

    Args:
        text: for the damage (see `ordinary`); windows of the text that comes with steerscope by default.
        by: some of all (layers at once), layer (each), head (each).

    Returns:
        a `Result` of kind "freeze_attention"; frames and columns as in `COLUMNS`.
    """
    start = time.perf_counter()
    frames, checks, missing, windows = frozen(experiment, Statistics(level, alpha, smallest), text, by)
    knobs: dict[str, Any] = {"level": level, "alpha": alpha, "smallest": smallest, "by": list(by), "text": windows}
    knobs |= {"checks": checks, "missing": missing, "method": "exact"}
    return record("freeze_attention", experiment, frames, COLUMNS, start, **knobs)


def frozen(
    experiment: Experiment,
    options: Statistics,
    text: Text | None = None,
    by: Sequence[str] = SCOPES,
    references: int | None = None,
) -> tuple[dict[str, pd.DataFrame], list[dict[str, object]], dict[str, str], dict[str, Any]]:
    """All frames of `freeze_attention`, its checks, what is missing and why, and what the ordinary text is.

    Args:
        references: how many of the experiment's ride along; all by default.
    """
    if not by:
        raise BadArgument(f"by is empty; expected some of {', '.join(SCOPES)}; leave it out for all of them")
    freezings, missing = _freezings(experiment, by)
    asked = {"effect": experiment}
    ordinary, reason = of_text(experiment, text)
    if ordinary is None:
        missing["damage"] = reason
    else:
        asked["damage"] = ordinary
    vectors = len(experiment.vectors) if references is None else min(1 + references, len(experiment.vectors))
    patterns = shared(experiment.model) and "head" in by and OF_HEADS not in missing
    raw, checks = {}, []
    for outcome, question in asked.items():
        kept = clean_edits(question, patterns)
        raw[outcome] = lost(question, freezings, kept, vectors, own=outcome == "effect")
        checks += _checks(question, outcome, kept)
    frames, unclear = tables(asked, raw, options)
    return frames, checks, missing | unclear, {} if ordinary is None else about(ordinary.prompts)


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
    free = [
        at not in injected
        for scored, injected in zip(experiment.scored_positions.positions, experiment.injected, strict=True)
        for at in scored
    ]

    def gap(edits: Callable[[int], tuple[Edit, ...]], where: Sequence[bool]) -> float:
        off = apart(experiment.outputs(tuple(edits(p) for p in prompts)), experiment.clean).tolist()
        return max((x for x, wanted in zip(off, where, strict=True) if wanted), default=0.0)

    def whole(name: str, p: int) -> tuple[Edit, ...]:
        return freeze(model, Freezing(name), kept[p])

    generator = np.random.default_rng(experiment.seed)
    drawn = [int(p) for p in generator.integers(len(kept), size=SAMPLES)]
    names = [FROZEN[i] for i in generator.integers(len(FROZEN), size=SAMPLES)]
    questions = [Variant(p, (*whole(name, p), *steering[p])) for p, name in zip(drawn, names, strict=True)]
    patterns = [Variant(p, (*whole("patterns", p), *steering[p])) for p in drawn]
    limit = tolerance(model, float(pieced(lambda x: x.log_softmax(-1).abs().amax(-1), experiment.clean).max()))
    found = {
        "patterns, values and MLPs frozen give the clean run, where nothing is injected": gap(
            lambda p: (*kept[p].values(), *steering[p]), free
        ),
        "freezing the clean run changes nothing": gap(lambda p: whole("both", p), [True] * len(free)),
        "frozen patterns are the clean ones": _patterns_apart(experiment, patterns),
        "sampled freezings equal one plain pass each": against_plain(experiment, questions),
    }
    return [check(f"{outcome}: {name}", value, limit, section=SECTION) for name, value in found.items()]


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


def tables(
    asked: Mapping[str, Experiment], raw: Mapping[str, Lost], options: Statistics
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """All frames by name, and why some shares are missing."""
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    missing = {}
    for outcome, experiment in asked.items():
        table, reason = _outcome(experiment, outcome, raw[outcome], options)
        found = (table, _per_prompt(experiment, raw[outcome]), _texts(experiment))
        for own, frame in zip(rows.values(), found, strict=True):
            own.append(frame.assign(outcome=outcome))
        if reason:
            missing[f"shares of the {outcome}"] = reason
        basis = _basis(experiment, raw[outcome], options)
        named = [n for n, family in enumerate(basis.families) if family in NOISE]
        if named and not _enough(basis):
            missing[f"random vectors' shares of the {outcome}"] = (
                f"of {len(named)} random vectors {len(basis.members(True))} have one that is told from zero, fewer "
                "than half"
            )
    frames = {name: pd.concat(own, ignore_index=True)[list(COLUMNS[name])] for name, own in rows.items()}
    return frames, missing


def _names(experiment: Experiment, raw: Lost) -> dict[str, list[str]]:
    return {"frozen": [f.frozen for f in raw.freezings], "node": [f.node(experiment.model) for f in raw.freezings]}


def _basis(experiment: Experiment, raw: Lost, options: Statistics) -> Basis:
    """What inference knows of one outcome."""
    families = ("", *experiment.beside.families)[: len(raw.own_total)]
    return Basis(experiment.prompts.by_group, raw.total[0], raw.own_total, families, options.smallest)


def _outcome(experiment: Experiment, outcome: str, raw: Lost, options: Statistics) -> tuple[pd.DataFrame, str]:
    """One row for every freezing, and why its shares are missing, if they are."""
    level, unit, total, groups = options.level, experiment.metric.unit, raw.total[0], experiment.prompts.by_group
    low, high = (float(bound) for bound in interval(total, level, groups))
    basis, lost_ = _basis(experiment, raw, options), raw.along[0]
    columns: dict[str, Any] = dict(estimates(basis, lost_, raw.own, options))
    if outcome == "damage":  # any vector does damage: references are no null for it
        p = nonzero_p(lost_, groups)
        columns |= {"p_adjusted": benjamini_hochberg(p), "p_holm": holm(p)}
    columns["lost"] = columns.pop("effect")
    del columns["share"]
    columns |= dict.fromkeys(("survives", "survives_low", "survives_high"), np.nan)
    reason = ""
    if clear(total, groups, outcome):
        columns["survives"] = 1 - columns["lost"] / total.mean()
        columns["survives_low"], columns["survives_high"] = ratio_interval(total - lost_, total, level, groups)
    else:
        bounds = f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else ""
        wanted = "above" if outcome == "damage" else "away from"
        reason = (
            f"the {outcome} is {total.mean():.3g}{bounds} {unit}, not {CLEAR} standard errors {wanted} zero: shares of "
            "it would mean nothing"
        )
    named = {
        **_names(experiment, raw),
        "scope": [f.scope for f in raw.freezings],
        "layer": pd.array([f.layer for f in raw.freezings], dtype="Int64"),
        "head": pd.array([f.head for f in raw.freezings], dtype="Int64"),
    }
    whole = {"unit": unit, "total": total.mean(), "total_low": low, "total_high": high}
    return pd.DataFrame({**named, **whole, **columns, **_own(basis, raw.own)}), reason


def clear(total: Float[Values, " prompt"], groups: NDArray[np.int64], outcome: str) -> bool:
    """Whether one can speak of shares of a total: it is 3 standard errors over groups from zero (a damage: above zero)
    and told from it by a t test. Of a single group it is whatever it is there, without an interval.
    """
    mean = float(total.mean())
    error, freedom = standard_error(total, groups)
    size = mean if outcome == "damage" else abs(mean)
    if not size > 0 or not freedom:
        return size > 0
    return bool(size >= CLEAR * error and nonzero_p(total, groups) < 0.05)


def _enough(basis: Basis) -> bool:
    """Whether the random vectors that have shares can speak for all: a few, picked for a large total, cannot."""
    members = len(basis.members(True))
    return members > 0 and 2 * members >= sum(family in NOISE for family in basis.families)


def _own(basis: Basis, own: Float[Values, "vector freezing prompt"]) -> dict[str, Values]:
    """Shares of each vector's own change that survive: of the real one, of random ones where most have a total to speak
    of, and of other concepts.
    """
    left = 1 - basis.shares(own)
    random = left[basis.members(True)] if _enough(basis) else left[:0]
    others = left[basis.members(False)]
    low, high = band(random)
    nothing = np.full(left.shape[1], np.nan)
    return {
        "own_survives": left[0],
        "reference_survives": random.mean(axis=0) if len(random) else nothing,
        "reference_survives_low": low,
        "reference_survives_high": high,
        "concepts_survives": others.mean(axis=0) if len(others) else nothing,
    }


def _per_prompt(experiment: Experiment, raw: Lost) -> pd.DataFrame:
    count, freezings = raw.total.shape[-1], len(raw.freezings)
    names = {name: np.repeat(values, count) for name, values in _names(experiment, raw).items()}
    return pd.DataFrame(names).assign(
        prompt=np.tile(np.arange(count), freezings), total=np.tile(raw.total[0], freezings), lost=raw.along[0].ravel()
    )


def _texts(experiment: Experiment) -> pd.DataFrame:
    prompts, scored = experiment.prompts, experiment.scored_positions.positions
    return pd.DataFrame(
        {
            "prompt": range(len(prompts)),
            "text": prompts.texts,
            "tokens": [len(ids) for ids in prompts.full],
            "injected": [",".join(map(str, p)) for p in experiment.injected],
            "scored": [",".join(map(str, p)) for p in scored],
            "clean": experiment.value(None),
            "steered": experiment.value(0),
        }
    )
