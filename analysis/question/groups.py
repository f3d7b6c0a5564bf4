"""Groups of prompts that are not independent: copies of one prompt, and prompts of one template.

Two prompts share a template where most of their tokens stand in the same order in both: twice the length of their
longest common subsequence over the sum of their lengths is at least `ALIKE`, BOS left out. Groups are what such pairs
connect. A user who knows better names the groups (a column `group` of the file).

Pairs grow with the square: of very many prompts, or very long ones, only copies are found.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

ALIKE = 0.7
MANY = 4096  # prompts beyond which only copies are looked for
LONG = 1 << 21  # tokens of all prompts beyond which the same holds
SHARED = 1 << 30  # tokens in common, over all pairs, beyond which it does: some five seconds
COMPARED = 1 << 23  # tokens of pairs that are compared in their order, beyond which it does: about as long
ROWS = 256  # whose pairs are looked for at once

Groups = NDArray[np.int64]


def groups_of(ids: Sequence[Sequence[int]], bos: int | None = None) -> Groups:
    """By prompt, the number of its group, in the order of first appearance."""
    kept = [tuple(row[1:] if bos is not None and row[:1] == (bos,) else row) for row in map(tuple, ids)]
    copies = numbers(kept)
    if not any(kept) or len(set(kept)) > MANY or sum(map(len, kept)) > LONG:
        return copies
    different = list(dict.fromkeys(kept))
    group = np.arange(len(different))
    compared = 0
    for a, others in _candidates(different):
        for b in others[group[others] != group[a]].tolist():
            if group[a] == group[b]:
                continue
            compared += len(different[b])
            if compared > COMPARED:
                return copies
            if _alike(different[a], different[b]):
                group[group == group[b]] = group[a]
    return numbers(group[copies].tolist())


def numbers(names: Sequence[object]) -> Groups:
    """Names as 0, 1, ... in the order of first appearance."""
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64)


def _candidates(rows: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Later rows with enough tokens in common, in whatever order: a bound on the subsequence that costs one product."""
    places: dict[tuple[int, int], int] = {}  # the k-th copy of a token is one of its own
    at: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        seen: dict[int, int] = {}
        for token in row:
            seen[token] = seen.get(token, 0) + 1
            at.append((number, places.setdefault((token, seen[token]), len(places))))
    r, c = np.array(at).T
    if (np.bincount(c) ** 2).sum() > SHARED:
        return
    holds = csr_matrix((np.ones(len(r), dtype=np.int32), (r, c)), shape=(len(rows), len(places)))
    sizes = np.array([len(row) for row in rows])
    for start in range(0, len(rows), ROWS):
        common = (holds[start : start + ROWS] @ holds.T).tocsr()
        for a in range(start, min(start + ROWS, len(rows))):
            span = slice(*common.indptr[a - start : a - start + 2])
            others = common.indices[span]
            enough = (others > a) & (2 * common.data[span] >= ALIKE * (sizes[a] + sizes[others]))
            yield a, np.sort(others[enough])


def _alike(first: Sequence[int], second: Sequence[int]) -> bool:
    return 2 * longest_common(first, second) >= ALIKE * (len(first) + len(second))


def longest_common(first: Sequence[int], second: Sequence[int]) -> int:
    """The longest common subsequence; the bits of one number are a row of the table (Crochemore et al. 2001)."""
    places: dict[int, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    every = row = (1 << len(first)) - 1
    for token in second:
        matches = row & places.get(token, 0)
        row = (row + matches | row - matches) & every
    return len(first) - row.bit_count()
