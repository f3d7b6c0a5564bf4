"""`remedies`: what each way to inject costs at the effect that plain addition of the given injection has.

1. Along the knob of each way (see `shapes`): effect and disturbance on the prompts, damage on the text.
2. Where the effect first reaches the target, straight between two knobs. A chord says little between knobs that lie
   far apart: the knobs halfway between are run, until the answer moves by less than `CLOSE` or `ROUNDS` are over. By
   how much it moved last stands beside it (error).
3. Groups of prompts and of the text are resampled, each by itself, the same draws for all ways: `gain` compares each
   way with addition draw by draw. A draw in which a way never reaches the target counts as beyond all others.

What it cannot see: ways that reach the target at several knobs; the first one counts.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.progress import track
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import mean_interval

from .outcomes import DAMAGED, DISTURBED, between, bounded, open_interval
from .shapes import SEVERAL, Shapes

Values = NDArray[np.float64]
REMEDIES = ("addition", "same norm", "rotation", "clamping", SEVERAL)
SHARES = tuple(np.round(np.linspace(0.1, 1, 10), 3).tolist())  # of the angle, for rotation
CLOSE = 0.005  # nats
ROUNDS = 5
BRACKETS = 4  # pairs of knobs in which a round looks closer
_REFINED = "with knobs added where the target is reached; straight between them"
EQUAL: Frames = {
    "remedies": {
        "remedy": Column(
            "addition; same norm (scaled back to the clean length); rotation; clamping (the component is set); "
            "several layers",
            role="label",
        ),
        "knob": Column("coefficient; for rotation the share of the angle to the vector", role="axis"),
        "effect": Column("change of the metric, mean over prompts", "{metric}", "estimate"),
        "damage": Column(DAMAGED, "nats"),
        "kl": DISTURBED,
    },
    "equal_effect": {
        "remedy": Column("as in remedies", role="label"),
        **between("target", "the effect at which all are compared: that of the injection as given", "{metric}"),
        "knob": Column("where the effect first reaches the target; missing where it never does"),
        **between("damage", f"damage there, {_REFINED}", "nats", drawn=True, over="text and prompts, open if missing"),
        **between("kl", "disturbance there", "nats", over="prompts, open if missing"),
        "error": Column("by how much the damage moved when knobs were last added", "nats"),
        **between(
            "gain",
            "damage of addition minus that of this",
            "nats",
            over="text and prompts, its level corrected over the remedies (Bonferroni)",
        ),
        "reached": Column("share of resamples in which the target is reached"),
    },
}


def remedies_tables(
    shapes: Shapes, coefficients: Sequence[float], given: float, level: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every way's effect and damage along its knob; and damage where it first reaches the effect of the given
    injection.
    """
    asked, curves = shapes.asked, []
    found: dict[str, dict[str, Values]] = {}
    errors: dict[str, float] = {}
    target = shapes.outcomes("addition", [given])["effect"][0]
    wanted = asked.resampled("effect", target)
    ways = [way for way in REMEDIES if way != SEVERAL or shapes.layers > 1]
    sign = 1.0 if given > 0 else -1.0
    for way in track(ways, "remedies"):
        start = [sign * s for s in SHARES] if way == "rotation" else sorted({*coefficients, given}, key=abs)
        knobs, found[way], errors[way] = _refined(shapes, way, start, wanted)
        outcomes = shapes.outcomes(way, knobs)
        means = [outcomes[curve].mean(axis=-1) for curve in ("effect", "damage", "kl")]
        curves += [(way, k, *own) for k, *own in zip(knobs, *means, strict=True)]
    fewest = min(asked.count("effect"), asked.count("damage")) if asked.text is not None else 0
    strict = 1 - (1 - level) / max(1, len(ways) - 1)
    bounds = bounded("target", mean_interval(target, level, asked.groups("effect")))
    equal = []
    for way in ways:
        own, plain = found[way], found["addition"]["damage"]
        row: dict[str, object] = {"remedy": way, **bounds, "knob": _known(own["knob"][0]), "error": errors[way]}
        row |= bounded("damage", _bounds(own["damage"], level, fewest))
        row |= bounded("kl", _bounds(own["kl"], level, asked.count("effect")))
        with np.errstate(invalid="ignore"):
            gain = plain - own["damage"]
        both = np.isinf(plain) & np.isinf(own["damage"])
        row |= bounded("gain", _bounds(np.where(both, 0.0, gain), strict, fewest if way != "addition" else 0))
        drawn = own["knob"][1:]
        row["reached"] = float(np.isfinite(drawn).mean()) if asked.count("effect") > 1 else np.nan
        equal.append(row)
    return (
        pd.DataFrame(curves, columns=list(EQUAL["remedies"])),
        pd.DataFrame(equal, columns=list(EQUAL["equal_effect"])),
    )


def _known(value: float) -> float:
    return float(value) if np.isfinite(value) else float("nan")


def _bounds(values: Float[Values, " resample"], level: float, groups: int) -> tuple[float, float, float]:
    low, high = open_interval(values, level, groups)
    return _known(values[0]), _known(low), _known(high)


def _refined(
    shapes: Shapes, way: str, knobs: list[float], wanted: Float[Values, " resample"]
) -> tuple[list[float], dict[str, Values], float]:
    """The knobs that were run in the end, what stands where the target is reached, and by how much that moved last."""
    asked, before, error = shapes.asked, np.inf, float("nan")
    for turn in range(ROUNDS + 1):
        outcomes = shapes.outcomes(way, knobs)
        along = asked.resampled("effect", outcomes["effect"])
        place, share = reach(along, wanted)
        found = {"knob": there(np.array(knobs)[None], place, share)}
        for curve in ("damage", "kl"):
            found[curve] = there(asked.resampled(curve, outcomes[curve]), place, share)
        judged = float(found["damage" if asked.text is not None else "kl"][0])
        if turn and np.isfinite([before, judged]).all():
            error = abs(judged - before)
        before = judged
        if not np.isfinite(judged) or (turn and error <= CLOSE) or turn == ROUNDS:
            break
        knobs = sorted({*knobs, *_between(knobs, place)}, key=abs)
    return knobs, found, error if asked.text is not None else float("nan")


def _between(knobs: Sequence[float], place: NDArray[np.int64]) -> list[float]:
    """Knobs halfway through the pairs in which most draws reach the target, the mean of all first."""
    drawn, counts = np.unique(place[1:][place[1:] >= 0], return_counts=True)
    often = [int(place[0]), *drawn[np.argsort(-counts, kind="stable")].tolist()]
    pairs = list(dict.fromkeys(often))[:BRACKETS]
    ends = [0.0, *knobs]
    return [(ends[i] + ends[i + 1]) / 2 for i in pairs]


def reach(
    effect: Float[Values, "resample knob"], wanted: Float[Values, " resample"]
) -> tuple[NDArray[np.int64], Float[Values, " resample"]]:
    """The first knob at which the effect reaches what is wanted (-1 where never), and how far on the way from the one
    before it (from 0, where nothing is done) that is, straight between the two.
    """
    sign, goal = np.sign(wanted)[:, None], np.abs(wanted)
    effect = np.hstack([np.zeros((len(effect), 1)), effect * sign])
    above = effect[:, 1:] >= goal[:, None] * (1 - 1e-9)
    first, index = above.argmax(axis=1), np.arange(len(effect))
    a, b = effect[index, first], effect[index, first + 1]
    share = np.clip((goal - a) / np.where(b == a, 1.0, b - a), 0.0, 1.0)
    return np.where(above.any(axis=1), first, -1), share


def there(
    values: Float[Values, "#resample knob"], place: NDArray[np.int64], share: Float[Values, " resample"]
) -> Float[Values, " resample"]:
    """What stands at the places that `reach` found; infinity where there is none."""
    values = np.broadcast_to(values, (len(place), values.shape[1]))
    values = np.hstack([np.zeros((len(values), 1)), values])
    index, first = np.arange(len(values)), np.maximum(place, 0)
    found = values[index, first] + share * (values[index, first + 1] - values[index, first])
    return np.asarray(np.where(place >= 0, found, np.inf))
