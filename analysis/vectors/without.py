"""A vector without its parts along others: nuisance directions (a language, a register, a letter) projected out.

`v - Q Q^T v`, row by row, `Q` an orthonormal basis of the other vectors (of all their rows).

Source: Ravfogel et al., "Null It Out", arXiv 2004.07667 (projection on a null space); Arditi et al., arXiv 2406.11717.
What it cannot see: directions of the nuisance that are not among the others.
"""

from collections.abc import Sequence

import torch

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model

from .svd import vector_of
from .vector import SteeringVector

EXAMPLE = {"vector": "vector.safetensors", "others": ["other.safetensors"]}
ROUNDING = 1e-6  # of the largest singular value, or of the vector's norm


@gated(error=BadVector)
def without(model: Model, vector: SteeringVector | str, others: Sequence[SteeringVector | str]) -> SteeringVector:
    """A vector without its parts along the rows of others.

    Args:
        vector: the vector, or the file that it is saved in.
        others: the directions to take out, or their files.

    Raises:
        BadVector: no others, other sites or widths, or nothing that is left.
    """
    own = vector_of(vector)
    model.check(own.site)
    taken = [vector_of(other) for other in others]
    odd = [one for one in taken if (one.site, one.values.shape[1]) != (own.site, own.values.shape[1])]
    if not taken or odd:
        what = f"others at {odd[0].site} of width {odd[0].values.shape[1]}" if odd else "no others"
        raise BadVector(
            f"{what}; expected at least one, each at {own.site} of width {own.values.shape[1]}; record them there"
        )
    rows = torch.cat([one.values for one in taken]).double()
    _, s, basis = torch.linalg.svd(rows, full_matrices=False)
    basis = basis[s > ROUNDING * s[0]]
    values = own.values.double()
    left = values - values @ basis.T @ basis
    if float(left.norm()) <= ROUNDING * float(values.norm()):
        raise BadVector(
            f"nothing is left of ({own.label}) without the others; expected a vector beyond their span; take fewer out"
        )
    label = f"({own.label}) without {', '.join(one.label for one in taken)}"
    kept = float(left.norm() / values.norm())
    source = {"recipe": "without", "vector": own.label, "others": [one.label for one in taken], "kept": kept}
    return SteeringVector(left, own.site, {**source, "model": model.name, "label": label})
