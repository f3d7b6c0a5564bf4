"""Groups of prompts that are not independent: copies of one prompt, and prompts of one template.

Two prompts share a template where most of their tokens stand in the same order in both: twice the length of their
longest common subsequence over the sum of their lengths is at least `ALIKE`, BOS left out. Groups are what such pairs
connect. A user who knows better names the groups (a column `group` of the file).
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

ALIKE = 0.7
MANY = 4096  # prompts beyond which only copies are looked for: pairs grow with the square

Groups = NDArray[np.int64]


def groups_of(ids: Sequence[Sequence[int]], bos: int | None = None) -> Groups:
    """By prompt, the number of its group, in the order of first appearance."""
    kept = [tuple(row[1:] if bos is not None and row[:1] == (bos,) else row) for row in map(tuple, ids)]
    copies = numbers(kept)
    if not len(kept) or len(set(kept)) > MANY:
        return copies
    different = list(dict.fromkeys(kept))
    pairs = [(a, b) for a, b in _candidates(different) if _alike(different[a], different[b])]
    if not pairs:
        return copies
    a, b = np.array(pairs).T
    links = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(different),) * 2)
    return numbers(connected_components(links, directed=False)[1][copies].tolist())


def numbers(names: Sequence[object]) -> Groups:
    """Names as 0, 1, ... in the order of first appearance."""
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64)


def _candidates(rows: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Pairs with enough tokens in common, in whatever order: a bound on the subsequence that costs one product."""
    places: dict[tuple[int, int], int] = {}  # the k-th copy of a token is one of its own
    at: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        seen: dict[int, int] = {}
        for token in row:
            seen[token] = seen.get(token, 0) + 1
            at.append((number, places.setdefault((token, seen[token]), len(places))))
    r, c = np.array(at).T
    holds = csr_matrix((np.ones(len(r)), (r, c)), shape=(len(rows), len(places)))
    common = (holds @ holds.T).tocoo()
    sizes = np.array([len(row) for row in rows])
    enough = (common.row < common.col) & (2 * common.data >= ALIKE * (sizes[common.row] + sizes[common.col]))
    return list(zip(common.row[enough].tolist(), common.col[enough].tolist(), strict=True))


def _alike(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return SequenceMatcher(None, first, second, autojunk=False).ratio() >= ALIKE
