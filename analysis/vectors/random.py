"""The reference: random directions with the norms of a given vector, position by position."""

import torch

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Seed, gated
from steerscope.analysis.model.models import Model

from .vector import SteeringVector

EXAMPLE = {"like": "vector.safetensors", "seed": 1}


@gated(error=BadVector)
def random(model: Model, like: SteeringVector | str, seed: Seed = 0) -> SteeringVector:
    """Random directions with the norms of another vector, position by position.

    Args:
        like: the other vector, or the file that it is saved in.
        seed: the same seed gives the same vector on every machine.
    """
    real = like if isinstance(like, SteeringVector) else SteeringVector.load(like)
    model.check(real.site)
    return random_like(real, seed)


@gated(error=BadVector)
def random_like(vector: SteeringVector, seed: Seed) -> SteeringVector:
    """A vector of Gaussian directions; each row has the norm of `vector`'s row, rows of zero stay zero.

    Args:
        seed: the same seed gives the same vector on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(vector.values.shape, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=-1, keepdim=True)
    values = direction * vector.values.double().norm(dim=-1, keepdim=True)
    return SteeringVector(values.float(), vector.site, {"recipe": "random", "seed": seed, "like": vector.label})
