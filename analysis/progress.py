"""Progress bars with time left, on what takes longer than two seconds; none where no terminal shows them."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` under a bar named `what`, which appears only after two seconds, and only on a terminal."""
    yield from tqdm(items, desc=what, total=total, delay=2, leave=False, dynamic_ncols=True, disable=None)
