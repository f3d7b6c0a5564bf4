"""The control: random directions with the norms of a given vector, position by position."""

import torch

from .vector import SteeringVector


def random_like(vector: SteeringVector, seed: int) -> SteeringVector:
    """A vector of Gaussian directions; each row has the norm of `vector`'s row, rows of zero stay zero.

    Args:
        seed: the same seed gives the same vector on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(vector.values.shape, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=-1, keepdim=True)
    values = direction * vector.values.double().norm(dim=-1, keepdim=True)
    return SteeringVector(values.float(), vector.site, {"recipe": "random", "seed": seed, "like": vector.label})
