"""Shapley values of a small game: of all coalitions, or of antithetic permutations where there are too many.

Sampled values add up exactly, too: every permutation telescopes from nobody to everybody.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

EXACT = 15  # players: 32,768 coalitions
PAIRS = 64  # of permutations, one the other backwards

Game = Callable[[Bool[Tensor, "coalition player"]], Float[Tensor, "coalition number"]]


def shapley(game: Game, players: int, seed: int = 0) -> tuple[Float[Tensor, "player number"], str]:
    """The value of every player in several games at once, and how it was found."""
    if players <= EXACT:
        return _exact(game, players), "exact"
    return _sampled(game, players, seed), f"{2 * PAIRS} permutations"


def _exact(game: Game, players: int) -> Float[Tensor, "player number"]:
    coalition = torch.arange(2**players)
    members = (coalition[:, None] >> torch.arange(players)) & 1 > 0
    values = game(members)
    size = members.sum(dim=1).double()
    # 1 / (n C(n-1, s)): the weight of a coalition of s others.
    n = torch.tensor(float(players), dtype=torch.float64)
    weight = torch.exp(torch.lgamma(size + 1) + torch.lgamma(n - size) - torch.lgamma(n + 1)).to(values)
    found = []
    for player in range(players):
        without = (~members[:, player]).nonzero(as_tuple=True)[0]
        gain = values[without + 2**player] - values[without]
        found.append((weight[without][:, None] * gain).sum(dim=0))
    return torch.stack(found)


def _sampled(game: Game, players: int, seed: int) -> Float[Tensor, "player number"]:
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(players, generator=generator) for _ in range(PAIRS)])
    orders = torch.cat([orders, orders.flip(1)])
    rank = orders.argsort(dim=1)  # of each player in each order
    members = rank[:, None, :] < torch.arange(players + 1)[None, :, None]
    values = game(members.reshape(-1, players)).reshape(len(orders), players + 1, -1)
    steps = values.diff(dim=1)
    return steps.gather(1, rank[:, :, None].expand(-1, -1, steps.shape[2]).to(steps.device)).mean(dim=0)


def distance(
    ours: Float[Tensor, "player number"], reference: Float[Tensor, "player number"]
) -> Float[Tensor, " number"]:
    """Sum of absolute differences over the sum of the absolute reference values."""
    total = reference.abs().sum(dim=0)
    off = (ours - reference).abs().sum(dim=0)
    return torch.where(total > 0, off / torch.where(total > 0, total, 1.0), 0.0)
