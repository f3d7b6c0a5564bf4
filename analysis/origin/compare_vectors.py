"""How alike vectors are: in direction, and in what they do.

1. Cosine: of two vectors of one site's name and width (their last rows), at whatever layers they were recorded.
2. Functional similarity: inject each vector alone, with one coefficient, at its own layer; take the change of logits
   at every prompt's last position, minus its mean over the vocabulary (which softmax does not see). The similarity of
   two vectors is the correlation of their changes over all prompts and tokens: `<a, b> / |a| |b|`.
3. Its interval is over prompts: whole groups are drawn again.
4. Whatever disturbs a model does some things alike (it grows less sure). So beside each similarity stands that of the
   one vector with random vectors of the other's norm and place, and the other way round: `reference`, and its band.

Two vectors may point in different directions and do the same, or be alike and act at different layers differently.

Source: defined here; what a vector does, rather than where it points, is what Turner et al., arXiv 2308.10248, measure.
What it cannot see: strength, which a correlation leaves out (it stands beside, as the norm of the change).
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Level, Seed, Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.question.references import drawn
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import draws, percentiles
from steerscope.analysis.tools.record import PACKAGES
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.vector import SteeringVector

RESAMPLES, MOST = 1999, 500
COLUMNS: Frames = {
    "pairs": {
        "pair": Column("the two vectors, by number in the table of vectors", role="label"),
        "similarity": Column(
            "functional similarity: correlation of the changes of logits, over prompts and tokens", role="estimate"
        ),
        "low": Column("lower end of its interval over prompts", role="low"),
        "high": Column("upper end of its interval over prompts", role="high"),
        "reference": Column(
            "the same of each of the two with random vectors of the other's norm and layer; mean", role="reference"
        ),
        "reference_low": Column("2.5th percentile over the random vectors", role="reference_low"),
        "reference_high": Column("97.5th percentile over the random vectors", role="reference_high"),
        "cosine": Column("cosine of their last rows; missing where they are of different sites or widths"),
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
    },
}
Gram = Float[NDArray[np.float64], "prompt vector vector"]


@gated(error=BadVector)
def compare_vectors(
    model: Model,
    vectors: Sequence[SteeringVector | VectorBundle],
    prompts: Prompts | Sequence[str] | Sequence[Sequence[int]],
    *,
    coefficient: float = 1.0,
    positions: str = "last",
    references: Whole = 4,
    level: Level = 0.95,
    seed: Seed = 0,
) -> Result:
    """Cosines and functional similarities of vectors, two by two.

    Args:
        vectors: two or more; of a bundle each layer's by itself.
        prompts: what they are injected into.
        coefficient: times each vector.
        positions: last, all, front, middle, back or indices; last and all take a vector's last row.
        references: random vectors in place of each, of its norm.
        level: of the intervals over prompts.
        seed: of the resamples, and of the random vectors.

    Raises:
        BadVector: fewer than two vectors, or more than 500 with their random ones.
        BadInjection, BadNode: a vector that does not fit the model.
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
    injections = [Injection(v.row(-1) if rows else v, coefficient, None, positions) for v in (*listed, *noise)]
    for injection in injections:
        injection.check(model)
    gram = _gram(model, injections, given)
    missing: dict[str, str] = {}
    if not references:
        missing["references"] = "no random vectors were compared; ask for some"
    if int(given.by_group.max()) < 1:
        missing["intervals"] = "one group of prompts gives no interval over prompts; give others"
    frames = {"pairs": _pairs(listed, gram, given, level, seed), "vectors": _vectors(listed, gram)}
    about = {
        "model": model.describe(),
        "vectors": [v.describe() for v in listed],
        "prompts": {"count": len(given), "hash": given.hash, "source": given.source},
        "coefficient": coefficient,
        "random_vectors": references,
        "positions": positions,
        "level": level,
        "seed": seed,
        "checks": [],
        "missing": missing,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 2),
        "versions": {package: version(package) for package in PACKAGES},
    }
    return Result("compare_vectors", frames, COLUMNS, about)


@torch.no_grad()
def _gram(model: Model, injections: Sequence[Injection], prompts: Prompts) -> Gram:
    """By prompt, the products of all vectors' changes of the logits with each other."""
    found = []
    for ids, layout in track(list(zip(prompts.full, prompts.layouts(model), strict=True)), "comparing"):
        variants = [Variant(0), *(Variant(0, (injection.edit(layout),)) for injection in injections)]
        logits = torch.empty(len(variants), model.d_vocab, dtype=torch.float64)
        for chunk, readout in run(model, [ids], variants):
            assert readout.logits is not None
            logits[chunk] = readout.logits.double().cpu()
        change = logits[1:] - logits[:1]
        change -= change.mean(dim=-1, keepdim=True)
        found.append((change @ change.T).numpy())
    return np.array(found)


def _correlation(gram: Float[NDArray[np.float64], "... vector vector"]) -> NDArray[np.float64]:
    size = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip(gram / (size[..., :, None] * size[..., None, :]), -1, 1))


def _pairs(vectors: Sequence[SteeringVector], gram: Gram, prompts: Prompts, level: float, seed: int) -> pd.DataFrame:
    first, second = np.triu_indices(len(vectors), 1)
    every = _correlation(gram.mean(axis=0))
    found, count = every[first, second], len(vectors)
    random = np.arange(count, len(every)).reshape(count, -1)  # by vector, its random ones
    weights = draws(prompts.by_group, seed, RESAMPLES)
    groups = int(prompts.by_group.max()) + 1
    low, high = np.full(len(first), np.nan), np.full(len(first), np.nan)
    own = np.einsum("pii->pi", gram)
    for n, (i, j) in enumerate(zip(first, second, strict=True)) if groups > 1 else ():
        with np.errstate(invalid="ignore", divide="ignore"):
            again = (weights @ gram[:, i, j]) / np.sqrt((weights @ own[:, i]) * (weights @ own[:, j]))
        low[n], high[n] = percentiles(again, level, groups)
    table = [
        {
            "pair": f"{i} and {j}",
            "similarity": found[n],
            "low": low[n],
            "high": high[n],
            **_noise(np.concatenate([every[i, random[j]], every[j, random[i]]])),
            "cosine": _cosine(vectors[i], vectors[j]),
            "first": vectors[i].label,
            "second": vectors[j].label,
            "layers": f"{vectors[i].site.layer} and {vectors[j].site.layer}",
        }
        for n, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True))
    ]
    return pd.DataFrame(table)


def _noise(found: NDArray[np.float64]) -> dict[str, float]:
    ends = np.percentile(found, [2.5, 97.5]) if len(found) else (np.nan, np.nan)
    mean = float(found.mean()) if len(found) else np.nan
    return {"reference": mean, "reference_low": float(ends[0]), "reference_high": float(ends[1])}


def _cosine(one: SteeringVector, other: SteeringVector) -> float:
    a, b = one.values[-1].double(), other.values[-1].double()
    if one.site.name != other.site.name or a.shape != b.shape or not a.any() or not b.any():
        return float("nan")
    return float(a @ b / a.norm() / b.norm())


def _vectors(vectors: Sequence[SteeringVector], gram: Gram) -> pd.DataFrame:
    change = np.sqrt(np.einsum("pii->pi", gram).mean(axis=0))[: len(vectors)]
    return pd.DataFrame(
        {
            "number": [str(n) for n in range(len(vectors))],
            "vector": [v.label for v in vectors],
            "site": [str(v.site) for v in vectors],
            "norm": [float(v.norms[-1]) for v in vectors],
            "change": change,
        }
    )
