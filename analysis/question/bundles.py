"""Injections at several layers: one direction a layer, and one direction at everything that writes into the stream."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steerscope.analysis.errors import BadInjection
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.model.positions import Positions
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.vector import SteeringVector

from .injection import During, Injection, Operation

WRITES = ("resid_pre", "attn_out", "mlp_out")

if TYPE_CHECKING:
    Vectors = Mapping[int, SteeringVector]
else:
    Vectors = VectorBundle | Mapping[Whole, SteeringVector]


@gated(error=BadInjection)
def bundle(
    vectors: Vectors,
    coefficient: float = 1.0,
    positions: Positions | str | int | Sequence[int] = "all",
    operation: Operation = "add",
    during: During = "prompt",
) -> tuple[Injection, ...]:
    """One injection a layer: what control vectors do, and CAA at several layers.

    Args:
        vectors: by layer, each injected there.
        coefficient, positions, operation, during: of every injection, as `Injection` has them.

    Raises:
        BadVector: no vectors, or vectors that do not go together.
        BadInjection: as `Injection`.
    """
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
