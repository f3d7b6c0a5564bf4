"""Several injections that are one: a direction a layer, a direction at everything that writes into the stream, and a
rotation in the plane of two directions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from steerscope.analysis.errors import BadInjection
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.model.positions import Positions
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.vector import SteeringVector

from .injection import During, Injection, Operation

WRITES = ("resid_pre", "attn_out", "mlp_out")

PARALLEL = 1e-4  # of a direction, of norm 1, across another: less spans no plane

if TYPE_CHECKING:
    Vectors = Mapping[int, SteeringVector] | Sequence[SteeringVector]
else:
    Vectors = VectorBundle | Mapping[Whole, SteeringVector] | Sequence[SteeringVector]


@gated(error=BadInjection)
def bundle(
    vectors: Vectors,
    coefficient: float = 1.0,
    positions: Positions | str | int | Sequence[int] = "all",
    operation: Operation = "add",
    during: During = "prompt",
) -> tuple[Injection, ...]:
    """One injection a layer: what control vectors do, and CAA at several layers; or one a vector (see `iti`).

    Args:
        vectors: by layer, each injected there; or a list, each injected where it was recorded.
        coefficient, positions, operation, during: of every injection, as `Injection` has them.

    Raises:
        BadVector: no vectors, or vectors that do not go together.
        BadInjection: as `Injection`.
    """
    if not isinstance(vectors, Mapping):
        if not vectors:
            raise BadInjection("a bundle of no vectors; expected at least one; give some")
        return tuple(Injection(v, coefficient, None, positions, operation, during) for v in vectors)
    found = vectors if isinstance(vectors, VectorBundle) else VectorBundle(vectors)
    return tuple(Injection(v, coefficient, layer, positions, operation, during) for layer, v in found.items())


@gated(error=BadInjection)
def everywhere(
    model: Model,
    vector: SteeringVector,
    coefficient: float = 1.0,
    positions: Positions | str | int | Sequence[int] = "all",
    operation: Operation = "ablate",
    during: During = "both",
) -> tuple[Injection, ...]:
    """One direction at every place where the stream is read or written: resid_pre, attn_out and mlp_out of all layers.

    With `ablate` the stream never has a component along the direction: how refusal is ablated (Arditi et al. 2024,
    arXiv 2406.11717). After the last layer's writes nothing else follows, so the logits do not see it either.

    Args:
        vector: one row of the stream's width, wherever it was recorded.
        coefficient, positions, operation, during: of every injection, as `Injection` has them.

    Raises:
        BadInjection: as `Injection`, or a vector of a head.
    """
    if vector.site.head is not None:
        raise BadInjection(
            f"a vector at {vector.site}, which is a head's; expected a direction of the stream; record it at resid_pre"
        )
    sites = [Site(name, layer) for layer in range(model.n_layers) for name in WRITES[: 3 if model.has_mlp else 2]]
    vector = replace(vector, source={**vector.source, "recorded": str(vector.site)})
    return tuple(Injection(replace(vector, site=s), coefficient, None, positions, operation, during) for s in sites)


@gated(error=BadInjection)
def rotation(
    vector: SteeringVector,
    towards: SteeringVector,
    degrees: float,
    *,
    layer: Whole | None = None,
    positions: Positions | str | int | Sequence[int] = "all",
    during: During = "prompt",
) -> tuple[Injection, Injection]:
    """A rotation in the plane of two fixed directions, from `vector` on towards the other; what lies across it stays.

    Two reflections are one rotation by twice the angle between their mirrors (Cartan-Dieudonne). A reflection is the
    operation `scale` with the coefficient -1: along `vector`, then along the direction half as many degrees from it.

    Source: arXiv 2601.19375, equation of the norm-preserving rotation; arXiv 2510.26243 sets the angle in such a plane
    instead of adding to it.

    Args:
        vector, towards: of one row each, at one site; their norms do not matter.
        degrees: how far the part of the stream in their plane is turned.
        layer, positions, during: of both injections, as `Injection` has them.

    Raises:
        BadInjection: several rows, different sites, or directions that span no plane.
    """
    if vector.site != towards.site or (vector.rows, towards.rows) != (1, 1):
        raise BadInjection(
            f"a rotation from {vector!r} towards {towards!r}; expected one row each, at one site; take row(-1) of both"
        )
    first, other = (v.values[0].double() for v in (vector, towards))
    lengths = first.norm(), other.norm()
    along = first @ other / (lengths[0] * lengths[1]).clamp_min(1e-300)
    across = (1 - along**2).clamp_min(0).sqrt()
    if not lengths[0] or not lengths[1] or across < PARALLEL:
        raise BadInjection(
            f"a rotation from ({vector.label}) towards ({towards.label}); expected two directions that are not "
            "parallel; choose others"
        )
    half = torch.deg2rad(torch.tensor(degrees / 2, dtype=torch.float64))
    share = half.sin() / across  # of `towards` in the second mirror's direction; the rest is along `vector`
    mirror = float((half.cos() - share * along) / lengths[0]) * vector + float(share / lengths[1]) * towards
    about: Any = (-1.0, layer, positions, "scale", during)
    return Injection(vector, *about), Injection(mirror, *about)
