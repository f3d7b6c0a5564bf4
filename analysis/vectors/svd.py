"""What a set of vectors has in common: a singular direction of their stack.

`V = U S W^T`, the vectors as rows, each scaled to norm 1 unless told otherwise, their mean not removed. Direction k is
row k of `W^T` times `s_k / sqrt(n)`, the root mean square of the vectors' parts along it; its sign is that of most of
them.

Source: Turner et al., "Steering GPT-2-XL by adding an activation vector", footnote 36 (proposed there).
What it cannot see: which vectors mean the same; a few alike ones count as often as they are there.
"""

from collections.abc import Sequence

import torch

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.model.models import Model

from .bundle import VectorBundle
from .vector import SteeringVector
from .vector_files import read_vector

EXAMPLE = {"vectors": ["vector.safetensors", "other.safetensors"]}
ROUNDING = 1e-6  # of the largest singular value: a direction of less is none


@gated(error=BadVector)
def svd(
    model: Model, vectors: Sequence[SteeringVector | str], *, component: Whole = 0, scaled: bool = True
) -> SteeringVector:
    """A singular direction of a stack of vectors, `[1, width]`.

    Args:
        vectors: vectors of one site and width, or the files that they are saved in; of several rows the last counts.
        component: which direction, from 0, the one that most of them share.
        scaled: scale every vector to norm 1 first.

    Raises:
        BadVector: fewer than two vectors, of several sites, or of too few directions.
    """
    made = [vector_of(one) for one in vectors]
    sites = {(str(vector.site), int(vector.values.shape[1])) for vector in made}
    if len(made) < 2 or len(sites) > 1 or any(not vector.values[-1].any() for vector in made):
        where = "; ".join(sorted(site for site, _ in sites))
        raise BadVector(
            f"a stack of {len(made)} vectors at {where or 'no site'}; expected two or more of one site and width, "
            "none of them zero; choose among them"
        )
    model.check(made[0].site)
    rows = torch.stack([vector.values[-1].double() for vector in made])
    rows = rows / rows.norm(dim=-1, keepdim=True) if scaled else rows
    _, s, directions = torch.linalg.svd(rows, full_matrices=False)
    if component >= len(s) or s[component] <= ROUNDING * s[0]:
        rank = int((s > ROUNDING * s[0]).sum())
        raise BadVector(f"component={component} of vectors of {rank} directions; expected 0 to {rank - 1}; choose one")
    direction = directions[component]
    direction = direction * (-1.0 if (rows @ direction).sum() < 0 else 1.0)
    label = f"singular direction {component + 1} of {len(made)} vectors ({made[0].label}, ...)"
    explained = float(s[component] ** 2 / (s**2).sum())
    source = {
        "recipe": "svd",
        "vectors": [vector.label for vector in made],
        "component": component,
        "explained": explained,
    }
    values = direction * s[component] / len(made) ** 0.5
    return SteeringVector(values, made[0].site, {**source, "scaled": scaled, "model": model.name, "label": label})


def vector_of(given: SteeringVector | str) -> SteeringVector:
    """A vector, or what a file holds.

    Raises:
        BadVector: the file holds several layers, or none can be read.
    """
    found = read_vector(given) if isinstance(given, str) else given
    if isinstance(found, VectorBundle):
        raise BadVector(
            f"{given!r} holds vectors of {len(found)} layers; expected one; take one with read_vector(path, layer=...) "
            "and save it"
        )
    return found
