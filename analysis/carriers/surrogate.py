"""Shapley values and interactions of a set function that was seen at some coalitions only: kernel regression on pairs.

Write a coalition S as x with x_i = 1 for members and -1 for others, and the game as a sum of products,
v = sum over T of c_T prod_{i in T} x_i. Then

1. a pair (S, complement of S) separates odd from even: (v(S) - v(S'))/2 has the c_T of odd T alone,
   (v(S) + v(S'))/2 those of even T;
2. the Shapley value of i is 2 sum of c_T / |T| over odd T with i; the Shapley interaction of i and j is
   4 sum of c_T / (|T| - 1) over even T with both;
3. so each half is fitted on its own, by regression with the kernel prod_i (1 + t_i x_i y_i) (its odd or even
   part), under which c_T counts prod_{i in T} t_i: low orders first, but every order can be fitted, so with
   more coalitions the estimate goes to the truth. Values and interactions of the fit are exact integrals over
   u from 0 to 1 of the same products, polynomials that a quadrature sums exactly;
4. the weights t_i are chosen by leave-one-out errors, players that do more weighing more, and the error of the
   estimate is that of a Gaussian process with this kernel.

Sources: Covert and Lee 2021 (arXiv 2012.01536) for regression on pairs; Grabisch and Roubens 1999 for the
interaction index; Chau et al. 2022 (arXiv 2110.09167) for Shapley values of kernel regressions.
What it cannot see: how far its own error estimate is right when the game is not smooth in this sense; the
benchmark compares it with what repetitions scatter.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import linalg

Values = NDArray[np.float64]
WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
POWERS = (0.0, 0.25, 0.5, 0.75)  # of a player's size in its weight
JITTER = 1e-9


@dataclass(frozen=True, eq=False)
class Fit:
    """Values and interactions of the fitted game.

    Attributes:
        values: Shapley values, by player and prompt.
        error: standard error of the mean value over prompts, from the sampling of coalitions alone.
        pairs: Shapley interactions, by pair (in the order of `numpy.triu_indices`) and prompt.
        pairs_error: the same of interactions.
    """

    values: Float[Values, "player prompt"]
    error: Float[Values, " player"]
    pairs: Float[Values, "pair prompt"]
    pairs_error: Float[Values, " pair"]


def fit(
    members: NDArray[np.bool_],
    inside: Float[Values, "pair_of_coalitions prompt"],
    outside: Float[Values, "pair_of_coalitions prompt"],
    interactions: bool = True,
) -> Fit:
    """From values of coalitions and of their complements to Shapley values.

    Args:
        members: `[pair, player]`; the first row must hold all players, so that the ends of the game are known.
        inside: v(S). outside: v of the complement.
    """
    x = np.where(members, 1.0, -1.0)
    players = x.shape[1]
    odd, even = (inside - outside) / 2, (inside + outside) / 2
    mean = odd.mean(axis=1)
    # First all players alike; then those that do more may also interact more.
    alike = _weights(x, mean, 1, np.ones(players))
    first, _ = _regress(x, mean[:, None], 1, alike, _singles(players))
    size = np.abs(first[:, 0]) / max(np.abs(first).max(), 1e-30)
    size = np.maximum(size, 1e-2)
    values, error = _regress(x, odd, 1, _weights(x, mean, 1, size), _singles(players))
    # The ends of the game are known exactly: what is left of the difference is shared equally.
    values = values + ((inside[0] - outside[0]) - values.sum(axis=0)) / players
    if not interactions:
        return Fit(values, error, np.zeros((0, inside.shape[1])), np.zeros(0))
    centred = even - even.mean(axis=0)
    best = _weights(x, centred.mean(axis=1), 0, size)
    return Fit(values, error, *_regress(x, centred, 0, best, _doubles(players)))


def _singles(players: int) -> list[tuple[int, ...]]:
    return [(i,) for i in range(players)]


def _doubles(players: int) -> list[tuple[int, ...]]:
    return list(zip(*(a.tolist() for a in np.triu_indices(players, 1)), strict=True))


def _weights(x: Values, y: Values, parity: int, size: Values) -> Float[Values, " player"]:
    """The weights of players that leave-one-out errors like best."""
    tried = [t * size**power for t in WEIGHTS for power in POWERS]
    return min(tried, key=lambda t: _left_out(x, y, parity, t))


def _left_out(x: Values, y: Values, parity: int, t: Values) -> float:
    inverse = np.linalg.inv(_gram(x, parity, t))
    return float(np.mean((inverse @ y / np.diag(inverse)) ** 2))


def _gram(x: Values, parity: int, t: Values) -> Values:
    """The odd or even part of prod_i (1 + t_i x_i y_i), for all pairs; the even one without its constant."""
    up, down = np.log1p(t), np.log1p(-t)
    scale = np.exp((up + down).sum() / 2)
    angle = (x * (up - down) / 2) @ x.T
    gram = scale * np.sinh(angle) if parity else scale * np.cosh(angle) - 1.0
    return np.asarray(gram + JITTER * np.trace(gram) / len(gram) * np.eye(len(gram)))


def _regress(x: Values, y: Values, parity: int, t: Values, subsets: list[tuple[int, ...]]) -> tuple[Values, Values]:
    """Functionals of the fitted half of the game, and the standard errors of their means over prompts."""
    mean = y.mean(axis=1)
    factor = linalg.cho_factor(_gram(x, parity, t))
    reads = _functionals(x, t, subsets)  # [subset, pair]
    scale = float(mean @ linalg.cho_solve(factor, mean)) / len(mean)
    known = (reads * linalg.cho_solve(factor, reads.T).T).sum(axis=1)
    variance = np.maximum(_prior(parity, t, subsets) - known, 0.0)
    return np.asarray(reads @ linalg.cho_solve(factor, y)), np.sqrt(variance * scale)


def _functionals(x: Values, t: Values, subsets: list[tuple[int, ...]]) -> Float[Values, "subset pair"]:
    """What each kernel function contributes to the value of each subset."""
    points, weights = np.polynomial.legendre.leggauss(x.shape[1] // 2 + 2)
    members = np.array(subsets)
    total = np.zeros((len(subsets), len(x)))
    for u, w in zip((points + 1) / 2, weights / 2, strict=True):
        for sign in (1.0, -1.0):
            factors = 1 + sign * u * t * x
            own = np.prod(factors[:, members], axis=2)  # divided out of the product over all players
            total += w / 2 * (np.prod(factors, axis=1)[:, None] / own).T
    size = members.shape[1]
    total *= 2.0**size * np.prod(t[members], axis=1)[:, None]
    return np.asarray(total * np.prod(x[:, members], axis=2).T)


def _prior(parity: int, t: Values, subsets: list[tuple[int, ...]]) -> Float[Values, " subset"]:
    """Variance of each subset's value before anything is seen: over its supersets, weight times share squared."""
    whole = np.ones(1)
    for weight in t:
        whole = np.convolve(whole, [1.0, weight])  # sums over sets by size of products of weights
    found = []
    for subset in subsets:
        rest = whole
        for i in subset:  # divided by (1 + t_i z)
            rest = np.array(_divided(rest, float(t[i])))
        orders = np.arange(len(rest)) + len(subset)
        share = 2.0 ** len(subset) / (orders if len(subset) == 1 else orders - 1)
        right = orders % 2 == parity
        found.append(np.prod(t[list(subset)]) * (rest * share**2)[right].sum())
    return np.array(found)


def _divided(polynomial: Values, weight: float) -> list[float]:
    quotient: list[float] = []
    for coefficient in polynomial[:-1].tolist():
        quotient.append(coefficient - weight * (quotient[-1] if quotient else 0.0))
    return quotient
