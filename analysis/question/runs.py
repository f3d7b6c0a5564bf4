"""`Runs`: what an experiment keeps of its runs, and when a difference of two runs is one."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

ROUNDING = 8 * float(np.finfo(np.float32).eps)


class Runs:
    """What is kept of the clean run (None), the steered run (0), and the last reference that was asked for."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int | None], Any] = {}
        self._facts: dict[tuple[str, int], NDArray[np.float64]] = {}

    def get(self, what: str, vector: int | None, make: Callable[[], Any]) -> Any:
        if (what, vector) not in self._kept:
            found = make()
            old = [key for key in self._kept if key[0] == what and key[1] and key[1] != vector]
            for key in old if vector else ():
                del self._kept[key]
            self._kept[what, vector] = found
        return self._kept[what, vector]

    def has(self, what: str, vector: int | None) -> bool:
        return (what, vector) in self._kept

    def fact(self, what: str, vector: int, make: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """A number a prompt: kept for every vector."""
        if (what, vector) not in self._facts:
            self._facts[what, vector] = make()
        return self._facts[what, vector]


def beyond_rounding(
    change: Float[NDArray[np.float64], "..."], *of: Float[NDArray[np.float64], "..."]
) -> Float[NDArray[np.float64], "..."]:
    """A difference; zero where it is less than 8 units in the last place of the largest of what it came from."""
    size = np.max(np.broadcast_arrays(*map(np.abs, of)), axis=0)
    return np.where(np.abs(change) <= ROUNDING * size, 0.0, change)
