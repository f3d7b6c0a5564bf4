"""What a `repr` says of texts and counts: short, and nothing in it that a terminal would obey."""


def brief(text: str, width: int = 60) -> str:
    """At most `width` characters of a text, its middle left out; what cannot be printed is escaped."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    half = width // 2
    return shown if len(shown) <= width else f"{shown[:half]}...{shown[half + 3 - width :]}"


def counted(count: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count} {what}" + "s" * (count != 1)


def quoted(path: object) -> str:
    """A path in a message, in quotes."""
    return repr(brief(str(path), 200))
