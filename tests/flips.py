"""One changed bit after another in a file."""

import random
from collections.abc import Iterator
from pathlib import Path


def flips(path: Path, at_most: int | None = None) -> Iterator[str]:
    """Changes a bit, says which, and goes on to the next; the file is as it was at the end.

    Args:
        at_most: bits, drawn by the file's name, the first and the last among them; None: one of each byte.
    """
    content = path.read_bytes()
    total = 8 * len(content)
    if at_most is None:
        bits = [8 * place + place % 8 for place in range(len(content))]
    elif total <= at_most:
        bits = list(range(total))
    else:
        bits = sorted({0, total - 1, *random.Random(path.name).sample(range(total), at_most)})
    for bit in bits:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield f"bit {bit} of {path.name}"
    path.write_bytes(content)
