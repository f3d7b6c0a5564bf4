"""How alike vectors are: in direction, in what they do, and in which nodes carry it.

1. Direction: the cosine of two vectors of one site's name and width (their last rows), at whatever layers.
2. Effects: inject each vector alone, with one coefficient, at its own layer; take the change of logits at every
   prompt's last position, minus its mean over the vocabulary (which softmax does not see). The similarity of two
   vectors is the correlation of their changes over all prompts and tokens: `<a, b> / |a| |b|`.
3. Carriers: the same of their profiles, what every node does to the vector's own change of logits on every prompt
   (`profiles.py`), over prompts, nodes and both measures.
4. Intervals are over prompts: whole groups are drawn again.
5. Whatever disturbs a model does some things alike (it grows less sure). So beside each similarity stands that of the
   one vector with random vectors of the other's norm and place, and the other way round: `reference`, and its band.
6. What a vector does depends on the prompt, so no two vectors need be more alike on other prompts than each is to
   itself: the groups of prompts are parted into two halves, `ceiling` is what the two vectors' means over one half have
   in common with their own means over the other, and `across` what each has in common with the other's.

Two vectors may point in different directions and do the same, or be alike and act at different layers differently.

Source: defined here; what a vector does, rather than where it points, is what Turner et al., arXiv 2308.10248, measure.
What it cannot see: strength, which a correlation leaves out (it stands beside, as the norm of the change); and, where
profiles are estimates, what `gradients.BLIND` says.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Level, Seed, Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.question.references import drawn
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import draws, percentiles
from steerscope.analysis.tools.record import made_now
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.vector import SteeringVector

from .profiles import Alike, carriers_of, effects_of

Values = NDArray[np.float64]

RESAMPLES, MOST = 1999, 500
WAYS = ("direction", "effects", "carriers")
COLUMNS: Frames = {
    "pairs": {
        "pair": Column("the two vectors, by number in the table of vectors", role="label"),
        "by": Column(
            "direction: cosine of their last rows; effects: correlation of the changes of logits, over prompts and "
            "tokens; carriers: of what every node does to them, over prompts, nodes and both measures",
            role="measure",
        ),
        "similarity": Column("how alike they are: 1 alike, 0 unrelated, -1 opposed", role="estimate"),
        "low": Column("lower end of its interval over prompts (of a direction there is none)", role="low"),
        "high": Column("upper end of its interval over prompts", role="high"),
        "reference": Column(
            "the same of each of the two with random vectors of the other's norm and layer; mean", role="reference"
        ),
        "reference_low": Column("2.5th percentile over the random vectors", role="reference_low"),
        "reference_high": Column("97.5th percentile over the random vectors", role="reference_high"),
        "beyond": Column(
            "whether it is larger in size than each of the two's with every one of the random vectors", role="verdict"
        ),
        "across": Column("the same of means over prompts: one vector's over one half, the other's over the other half"),
        "ceiling": Column("geometric mean of what each vector has in common with itself, from one half to the other"),
        "first": Column("the first vector, in words"),
        "second": Column("the second vector, in words"),
        "layers": Column("the layers that the two act at"),
    },
    "vectors": {
        "number": Column("number of the vector", role="label"),
        "vector": Column("the vector, in words"),
        "site": Column("where it is injected"),
        "norm": Column("norm of its last row", "stream units"),
        "change": Column(
            "root mean square, over prompts, of the norm of its change of the logits", "logits", role="estimate"
        ),
        "effects_itself": Column("correlation of its mean effects on one half of the prompts with those on the other"),
        "carriers_itself": Column("the same of its mean profile over nodes"),
    },
}


@gated(error=BadVector)
def compare_vectors(
    model: Model,
    vectors: Sequence[SteeringVector | VectorBundle],
    prompts: Prompts | Sequence[str] | Sequence[Sequence[int]],
    *,
    coefficient: float = 1.0,
    positions: str = "last",
    carriers: Literal["gradient", "ig", "exact", "none"] = "gradient",
    references: Whole = 4,
    level: Level = 0.95,
    seed: Seed = 0,
) -> Result:
    """Cosines of vectors, and how alike their effects and their carriers are, two by two.

    Args:
        vectors: two or more; of a bundle each layer's by itself.
        prompts: what they are injected into.
        coefficient: times each vector.
        positions: last, all, front, middle, back or indices; last and all take a vector's last row.
        carriers: how what every node does is found: by gradients, integrated ones, exact patching (a pass a node,
            measure and prompt, of every vector and random one), or not at all.
        references: random vectors in place of each, of its norm.
        level: of the intervals over prompts.
        seed: of the resamples, and of the random vectors.

    Raises:
        BadVector: fewer than two vectors, or more than 500 with their random ones.
        BadInjection, BadNode: a vector that does not fit the model, or whose injection changes nothing.
    """
    start = time.perf_counter()
    listed = [v for one in vectors for v in (one.values() if isinstance(one, VectorBundle) else [one])]
    if len(listed) < 2 or len(listed) * (1 + references) > MOST:
        raise BadVector(
            f"{len(listed)} vectors, each with {references} random ones; expected at least 2, and at most {MOST} with "
            "the random ones; give others, or ask for fewer references"
        )
    given = prompts if isinstance(prompts, Prompts) else make_prompts(model, prompts)
    rows = positions in ("last", "all")
    noise = [random_like(v, drawn(seed, n, r)) for n, v in enumerate(listed) for r in range(references)]
    every = [v.row(-1) if rows else v for v in (*listed, *noise)]
    injections = [Injection(v, coefficient, None, positions) for v in every]
    for injection in injections:
        injection.check(model)
    did = {"effects": effects_of(model, injections, given)}
    if carriers != "none":
        did["carriers"] = carriers_of(model, injections, given, carriers, seed)
    missing: dict[str, str] = {}
    if not references:
        missing["references"] = "no random vectors were compared; ask for some"
    if int(given.by_group.max()) < 1:
        missing["intervals"] = "one group of prompts gives no interval over prompts, and no halves; give others"
    if carriers == "none":
        missing["carriers"] = "carriers were not asked for"
    frames = {"pairs": _pairs(listed, every, did, given, level, seed), "vectors": _vectors(listed, did)}
    about = {
        "model": model.describe(),
        "vectors": [v.describe() for v in listed],
        "prompts": {"count": len(given), "hash": given.hash, "source": given.source},
        "coefficient": coefficient,
        "random_vectors": references,
        "carriers": carriers,
        "positions": positions,
        "level": level,
        "seed": seed,
        "checks": [],
        "missing": missing,
        **made_now(start),
    }
    return Result("compare_vectors", frames, COLUMNS, about)


def _pairs(
    listed: Sequence[SteeringVector],
    every: Sequence[SteeringVector],
    did: Mapping[str, Alike],
    prompts: Prompts,
    level: float,
    seed: int,
) -> pd.DataFrame:
    """The rows of all pairs, one way after the other."""
    first, second = np.triu_indices(len(listed), 1)
    cosines = np.array([[_cosine(a, b) for b in every] for a in listed])
    frames = [_rows("direction", listed, cosines)]
    weights = draws(prompts.by_group, seed, RESAMPLES)
    groups = int(prompts.by_group.max()) + 1
    for way, alike in did.items():
        low, high = np.full(len(first), np.nan), np.full(len(first), np.nan)
        own = np.einsum("pii->pi", alike.gram)
        for n, (i, j) in enumerate(zip(first, second, strict=True)) if groups > 1 else ():
            with np.errstate(invalid="ignore", divide="ignore"):
                again = (weights @ alike.gram[:, i, j]) / np.sqrt((weights @ own[:, i]) * (weights @ own[:, j]))
            low[n], high[n] = percentiles(again, level, groups)
        with np.errstate(invalid="ignore"):  # a negative one: what a vector does on one half says nothing of the other
            ceiling = np.sqrt(alike.itself[first] * alike.itself[second])
        ceiling[(alike.itself[first] < 0) | (alike.itself[second] < 0)] = np.nan
        more = {"low": low, "high": high, "across": alike.across[first, second], "ceiling": ceiling}
        frames.append(_rows(way, listed, alike.similarity).assign(**more))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS["pairs"])]


def _rows(way: str, vectors: Sequence[SteeringVector], every: Values) -> pd.DataFrame:
    """Of all pairs, how alike they are, and each with the random ones of the other.

    Args:
        every: by vector and by vector, the random ones behind the real ones.
    """
    first, second = np.triu_indices(len(vectors), 1)
    random = np.arange(len(vectors), every.shape[1]).reshape(len(vectors), -1)  # by vector, its random ones
    table = [
        {
            "pair": f"{i} and {j}",
            "by": way,
            "similarity": every[i, j],
            "low": np.nan,
            "high": np.nan,
            **_noise(float(every[i, j]), np.concatenate([every[i, random[j]], every[j, random[i]]])),
            "across": np.nan,
            "ceiling": np.nan,
            "first": vectors[i].label,
            "second": vectors[j].label,
            "layers": f"{vectors[i].site.layer} and {vectors[j].site.layer}",
        }
        for i, j in zip(first.tolist(), second.tolist(), strict=True)
    ]
    return pd.DataFrame(table)


def _noise(own: float, found: Values) -> dict[str, float | bool]:
    known = found[~np.isnan(found)]
    ends = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    mean = float(known.mean()) if len(known) else np.nan
    beyond = bool(len(known) and abs(own) > np.abs(known).max())
    return {"reference": mean, "reference_low": float(ends[0]), "reference_high": float(ends[1]), "beyond": beyond}


def _cosine(one: SteeringVector, other: SteeringVector) -> float:
    a, b = one.values[-1].double(), other.values[-1].double()
    if one.site.name != other.site.name or a.shape != b.shape or not a.any() or not b.any():
        return float("nan")
    return float(a @ b / a.norm() / b.norm())


def _vectors(vectors: Sequence[SteeringVector], did: Mapping[str, Alike]) -> pd.DataFrame:
    count = len(vectors)
    nothing = np.full(count, np.nan)
    return pd.DataFrame(
        {
            "number": [str(n) for n in range(count)],
            "vector": [v.label for v in vectors],
            "site": [str(v.site) for v in vectors],
            "norm": [float(v.norms[-1]) for v in vectors],
            "change": np.sqrt(np.einsum("pii->pi", did["effects"].gram).mean(axis=0))[:count],
            **{f"{way}_itself": did[way].itself[:count] if way in did else nothing for way in WAYS[1:]},
        }
    )
