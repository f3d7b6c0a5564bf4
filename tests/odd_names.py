"""Names of test cases that are odd values: short, printable, and the same in every process."""

import re


def named(value: object) -> str:
    """A value as the name of a case, without its address."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))[:40]
