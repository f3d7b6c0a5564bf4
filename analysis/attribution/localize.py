"""`localize`: the main question. Which heads and MLPs carry this injection's effect?

Exact necessity and sufficiency of every node, each with its interval over prompts, its control and
its p-value corrected over nodes; what the significant ones explain together; how stable the list is.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from steerscope.analysis.edits import Variant
from steerscope.analysis.engine import measure as engine_measure
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.experiment import Experiment
from steerscope.analysis.generation import generate
from steerscope.analysis.injection import Injection
from steerscope.analysis.metrics import Metric, logit_direction
from steerscope.analysis.models import Model
from steerscope.analysis.prompts import Prompts
from steerscope.analysis.results import Result
from steerscope.analysis.stats import benjamini_hochberg, carrier_p, holm, interval, ratio_interval, sign_flip_p, stability

from .exact import MEASURES, Effects, checks, effects, together

Values = NDArray[np.float64]
TOKENS = 12  # next tokens listed on each side
BAND = (2.5, 97.5)


@dataclass(frozen=True)
class _Options:
    level: float
    alpha: float
    completions: int


def localize(
    model: Model,
    injections: Injection | Sequence[Injection],
    prompts: Prompts | Sequence[str] | Sequence[Sequence[int]],
    metric: Metric | None = None,
    *,
    controls: int = 20,
    matched: Literal["norm", "kl"] = "norm",
    scored: str | tuple[int, ...] | None = None,
    seed: int = 0,
    level: float = 0.95,
    alpha: float = 0.05,
    completions: int = 4,
    budget: int | None = None,
) -> Result:
    """Necessity and sufficiency of every head and MLP for the effect of an injection.

    Args:
        metric: `logit_direction()` by default.
        controls: random vectors of equal norm (or, matched="kl", of equal disturbance).
        scored: positions that the metric reads; by default those after the injection.
        level: of the intervals. alpha: threshold on adjusted p-values.
        completions: prompts to complete with and without the injection.
        budget: bytes that the engine may take; worked out by default.

    Returns:
        a `Result` of kind "localize"; frames and columns as in `results.COLUMNS["localize"]`.
    """
    given = (injections,) if isinstance(injections, Injection) else tuple(injections)
    experiment = Experiment(model, given, prompts, metric or logit_direction(), controls, matched, scored, seed, budget)  # type: ignore[arg-type]
    return localize_experiment(experiment, level=level, alpha=alpha, completions=completions)


def localize_experiment(experiment: Experiment, *, level: float = 0.95, alpha: float = 0.05, completions: int = 4) -> Result:
    """The same, of an `Experiment` that is already there."""
    if not (0 < level < 1 and 0 < alpha < 1):
        raise BadArgument(f"level={level}, alpha={alpha}; expected both between 0 and 1; 0.95 and 0.05 are usual")
    options = _Options(level, alpha, completions)
    start = time.perf_counter()
    raw = effects(experiment)
    table, found, steadiness = _effects_table(experiment, raw, options)
    groups = [(m, [n for n in raw.nodes if str(n) in found[m]]) for m in MEASURES] + [(m, list(raw.nodes)) for m in MEASURES]
    joint = together(experiment, groups)
    texts, missing = _completions(experiment, completions)
    frames = {
        "effects": table,
        "per_prompt": _per_prompt(raw),
        "totals": _totals(experiment, raw, joint, options),
        "vectors": _vectors(experiment, raw, options),
        "prompts": _prompts(experiment, raw),
        "tokens": _tokens(experiment),
        "completions": texts,
    }
    manifest = experiment.describe() | {
        "method": "exact",
        "level": level,
        "alpha": alpha,
        "stability": steadiness,
        "checks": checks(experiment),
        "missing": missing | _reasons(experiment),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 2),
        "versions": {p: version(p) for p in ("steerscope", "torch", "transformers", "transformer-lens", "scipy", "numpy")},
    }
    return Result("localize", frames, manifest)


def _reasons(experiment: Experiment) -> dict[str, str]:
    reasons = {}
    if len(experiment.prompts) < 2:
        reasons["intervals"] = "one prompt gives no interval over prompts; give more"
    if experiment.controls == 0:
        reasons["controls"] = "run with controls=0: effects stand without random vectors beside them"
    return reasons


def _effects_table(experiment: Experiment, raw: Effects, options: _Options) -> tuple[pd.DataFrame, dict[str, set[str]], dict[str, Any]]:
    """One row per node and measure; the significant nodes of each measure; how stable they are."""
    nodes, model = raw.nodes, experiment.model
    frames, found, overlaps = [], {}, []
    for index, name in enumerate(MEASURES):
        real, controls = raw.along[0, index], raw.along[1:, index]
        own_real, own_controls = _shares(raw, index)
        low, high = interval(real, options.level, experiment.seed)
        p = carrier_p(real, _mean(controls), seed=experiment.seed)
        p_own = sign_flip_p(own_real - _mean(own_controls), seed=experiment.seed)
        adjusted, own_adjusted = benjamini_hochberg(p), benjamini_hochberg(p_own)
        overlap, share = _stability(real, _mean(controls), experiment.seed, options.alpha)
        overlaps.append(overlap)
        significant = adjusted < options.alpha
        found[name] = {str(n) for n, s in zip(nodes, significant, strict=True) if s}
        specific = (own_adjusted < options.alpha) & (np.abs(own_real.mean(-1)) > np.abs(_mean(own_controls).mean(-1)))
        control_low, control_high = _band(controls.mean(-1))
        own_low, own_high = _band(own_controls.mean(-1))
        mean = real.mean(axis=-1)
        frames.append(
            pd.DataFrame({
                "node": [str(n) for n in nodes],
                "layer": [n.layer for n in nodes],
                "head": pd.array([n.head for n in nodes], dtype="Int64"),
                "kind": [n.kind for n in nodes],
                "measure": name,
                "effect": mean, "low": low, "high": high,
                "share": mean / _nonzero(raw.total[0].mean()),
                "control": _mean(controls).mean(-1), "control_low": control_low, "control_high": control_high,
                "p": p, "p_adjusted": adjusted, "p_holm": holm(p),
                "own_share": own_real.mean(-1), "own_control": _mean(own_controls).mean(-1),
                "own_control_low": own_low, "own_control_high": own_high,
                "p_own": p_own, "p_own_adjusted": own_adjusted,
                "significant": significant,
                "reach": np.where(~significant, "none", np.where(specific, "specific", "general")),
                "wrong_way": _wrong_way(real),
                "stability": share,
            })
        )  # fmt: skip
    table = pd.concat([*frames, *[_unreached(model, raw, name) for name in MEASURES]], ignore_index=True)
    order = {name: i for i, name in enumerate(MEASURES)}
    table = table.sort_values(["measure", "layer", "head"], key=lambda c: c.map(order) if c.name == "measure" else c, na_position="last")
    return table.reset_index(drop=True), found, _steadiness(overlaps)


def _stability(real: Values, control: Values, seed: int, alpha: float) -> tuple[Values, Values]:
    def find(weights: Values) -> NDArray[np.bool_]:
        return benjamini_hochberg(carrier_p(real, control, weights, seed, resamples=4_999)) < alpha

    return stability(find, real.shape[-1], seed)


def _unreached(model: Model, raw: Effects, measure: str) -> pd.DataFrame:
    """Nodes before the injection: it cannot reach them, so their effects are zero and nothing is tested."""
    nodes = [node for node in model.nodes if node not in set(raw.nodes)]
    columns = ["effect", "low", "high", "share", "control", "control_low", "control_high"]
    columns += ["own_share", "own_control", "own_control_low", "own_control_high", "wrong_way", "stability"]
    return pd.DataFrame({
        "node": [str(n) for n in nodes], "layer": [n.layer for n in nodes],
        "head": pd.array([n.head for n in nodes], dtype="Int64"), "kind": [n.kind for n in nodes], "measure": measure,
        **dict.fromkeys(columns, 0.0),
        **dict.fromkeys(["p", "p_adjusted", "p_holm", "p_own", "p_own_adjusted"], 1.0),
        "significant": False, "reach": "none",
    })  # fmt: skip


def _shares(raw: Effects, measure: int) -> tuple[Values, Values]:
    """Effects along each vector's own direction over the mean of its own total: [node, prompt], [control, node, prompt]."""
    totals = np.array([_nonzero(total.mean()) for total in raw.own_total])
    shares = raw.own[:, measure] / totals[:, None, None]
    return shares[0], shares[1:]


def _mean(controls: Values) -> Values:
    """Mean over control vectors; zero where there are none."""
    return controls.mean(axis=0) if len(controls) else np.zeros(controls.shape[1:])


def _band(controls: Values) -> tuple[Values, Values]:
    if len(controls) == 0:
        nothing = np.full(controls.shape[1:], np.nan)
        return nothing, nothing
    low, high = np.percentile(controls, BAND, axis=0)
    return low, high


def _nonzero(value: float) -> float:
    return float(value) if value != 0 else float("nan")


def _wrong_way(values: Values) -> Values:
    mean = values.mean(axis=-1, keepdims=True)
    return np.asarray((np.sign(values) * np.sign(mean) < 0).mean(axis=-1))


def _steadiness(overlaps: list[Values]) -> dict[str, Any]:
    """Jaccard overlap of the significant carriers over resamples of the prompts, for the manifest."""
    values = np.concatenate(overlaps)
    values = values[~np.isnan(values)]
    note = "overlap of the significant carriers on resampled prompts with those on all prompts; 0.8 is the field's bar"
    if len(values) == 0:
        return {"jaccard": None, "low": None, "high": None, "resamples": len(overlaps[0]), "note": "no node was ever significant"}
    low, high = np.percentile(values, BAND)
    mean = float(values.mean())
    return {"jaccard": mean, "low": float(low), "high": float(high), "resamples": len(overlaps[0]), "note": note}


def _per_prompt(raw: Effects) -> pd.DataFrame:
    prompts = raw.along.shape[-1]
    return pd.concat([
        pd.DataFrame({
            "prompt": np.tile(np.arange(prompts), len(raw.nodes)),
            "node": np.repeat([str(n) for n in raw.nodes], prompts),
            "measure": name,
            "effect": raw.along[0, i].ravel(),
            "control": _mean(raw.along[1:, i]).ravel(),
        })
        for i, name in enumerate(MEASURES)
    ], ignore_index=True)  # fmt: skip


def _totals(experiment: Experiment, raw: Effects, joint: Values, options: _Options) -> pd.DataFrame:
    unit = experiment.metric.unit
    names = ["carriers_necessity", "carriers_sufficiency", "all_necessity", "all_sufficiency"]
    rows = [_total(experiment, "total", raw.total, unit, options), _total(experiment, "kl", raw.kl, "nats", options)]
    for index, name in enumerate(names):
        values = joint[:, index]
        row = _total(experiment, name, values, unit, options)
        low, high = ratio_interval(values[0], raw.total[0], options.level, experiment.seed)
        rows.append(row | {"share": row["value"] / _nonzero(raw.total[0].mean()), "share_low": low, "share_high": high})
    return pd.DataFrame(rows)


def _total(experiment: Experiment, name: str, values: Values, unit: str, options: _Options) -> dict[str, Any]:
    low, high = interval(values[0], options.level, experiment.seed)
    control_low, control_high = _band(values[1:].mean(-1))
    return {
        "quantity": name, "value": values[0].mean(), "low": float(low), "high": float(high), "unit": unit,
        "share": np.nan, "share_low": np.nan, "share_high": np.nan,
        "control": values[1:].mean() if len(values) > 1 else np.nan,
        "control_low": float(control_low), "control_high": float(control_high),
        "p": float(sign_flip_p(values[0] - _mean(values[1:]), seed=experiment.seed)),
        "wrong_way": float(_wrong_way(values[0])),
    }  # fmt: skip


def _vectors(experiment: Experiment, raw: Effects, options: _Options) -> pd.DataFrame:
    low, high = interval(raw.total, options.level, experiment.seed)
    kl_low, kl_high = interval(raw.kl, options.level, experiment.seed)
    return pd.DataFrame({
        "vector": ["steering"] + [f"control {c}" for c in range(experiment.controls)],
        "norm": [float(np.sqrt(sum((i.coefficient * i.vector.norms).square().sum().item() for i in group))) for group in experiment.steering],
        "coefficient": [group[0].coefficient for group in experiment.steering],
        "effect": raw.total.mean(-1), "low": low, "high": high,
        "own_effect": raw.own_total.mean(-1),
        "kl": raw.kl.mean(-1), "kl_low": kl_low, "kl_high": kl_high,
    })  # fmt: skip


def _prompts(experiment: Experiment, raw: Effects) -> pd.DataFrame:
    prompts = experiment.prompts
    return pd.DataFrame({
        "prompt": range(len(prompts)),
        "text": prompts.texts,
        "tokens": [len(ids) for ids in prompts.full],
        "injected": [",".join(map(str, p)) for p in experiment.injected],
        "scored": [",".join(map(str, p)) for p in experiment.scored_positions.positions],
        "clean": raw.clean, "steered": raw.steered, "effect": raw.total[0], "kl": raw.kl[0],
    })  # fmt: skip


def _tokens(experiment: Experiment) -> pd.DataFrame:
    """What the injection does to the next token after the prompts."""
    prompts, model = experiment.prompts, experiment.model
    count = len(prompts)
    variants = [Variant(p) for p in range(count)] + [Variant(p, experiment.edits(0)[p]) for p in range(count)]
    last = [(len(ids) - 1,) for ids in prompts.ids]
    logits = engine_measure(model, prompts.full, variants, last, lambda r: r.logits, budget=experiment.budget)  # type: ignore[arg-type, return-value]
    clean, steered = logits.double().log_softmax(-1).split(count)
    gain = (steered.exp() - clean.exp()).mean(0)
    contribution = (steered.exp() * (steered - clean)).mean(0)
    kept = min(TOKENS, model.d_vocab // 2)
    ids = torch.cat([gain.topk(kept).indices, gain.topk(kept, largest=False).indices])
    frame = pd.DataFrame({
        "token": [model.token_text(int(i)) for i in ids],
        "id": ids.cpu().numpy(),
        "clean": clean.exp().mean(0)[ids].cpu().numpy(),
        "steered": steered.exp().mean(0)[ids].cpu().numpy(),
        "change": (steered - clean).mean(0)[ids].cpu().numpy(),
        "kl": contribution[ids].cpu().numpy(),
        "side": ["gain"] * kept + ["loss"] * kept,
    })  # fmt: skip
    moved = frame["steered"] != frame["clean"]
    return frame[moved].reset_index(drop=True)


def _completions(experiment: Experiment, count: int) -> tuple[pd.DataFrame, dict[str, str]]:
    columns = ["prompt", "text", "clean", "steered"]
    model, prompts = experiment.model, experiment.prompts
    if model.tokenizer is None:
        return pd.DataFrame(columns=columns), {"completions": f"{model.name} has no tokenizer"}
    rows = []
    for p in range(min(count, len(prompts))):
        texts = [
            model.text(generate(model, list(prompts.ids[p]), injections, tokens=40, seed=experiment.seed + p))
            for injections in ((), experiment.injections)
        ]
        rows.append([p, prompts.texts[p], *texts])
    return pd.DataFrame(rows, columns=columns), {}
