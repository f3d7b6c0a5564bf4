"""Numbers, intervals and manifests in words."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from steerscope.analysis.results.operations import injected
from steerscope.analysis.results.verdicts import VERDICTS

LONG = 1e12  # from which on a number is written with an exponent; a share as large is none


def printable(text: str) -> str:
    """A text in one line, with nothing in it that a terminal would obey or a document cannot hold."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "·" for c in text)


def number(value: Any, digits: int = 3) -> str:
    """A number as a reader wants it: three significant digits, a true minus sign, missing as a dash."""
    value = math.nan if pd.isna(value) else float(value) + 0.0  # no negative zero
    if not math.isfinite(value):
        return "–"
    if value != 0 and not 10 ** (-digits - 1) <= abs(value) < LONG:
        text = f"{value:.1e}"
    else:
        text = f"{value:,.{max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))}f}"
    return text.replace("-", "−")


def short(value: Any) -> str:
    """A number that fits a cell; a dot for what rounds to nothing."""
    if not finite(value):
        return "–"
    if abs(value) < 0.005:
        return "·"
    return f"{value:.{0 if abs(value) >= 10 else 1 if abs(value) >= 1 else 2}f}".replace("-", "−")


def signed(value: Any) -> str:
    """The same, with a plus sign."""
    return ("+" if finite(value) and value > 0 else "") + number(value)


def percent(value: Any) -> str:
    """A share as whole percent."""
    if not finite(value) or abs(value) >= LONG:
        return "–"
    return f"{100 * value:.0f}%".replace("-0%", "0%").replace("-", "−")


def between(low: Any, high: Any, show: Any = number) -> str:
    """An interval in brackets; nothing where there is none."""
    return f" [{show(low)}, {show(high)}]" if finite(low) and finite(high) else ""


def ranged(row: Any, name: str = "value", show: Any = number, unit: str = "") -> str:
    """A number of a row, perhaps with its unit, and its interval: `name_low` and `name_high`, or `low` and `high`."""
    ends = [getattr(row, f"{name}_{end}", getattr(row, end, math.nan)) for end in ("low", "high")]
    value = f"{show(getattr(row, name))} {unit}" if unit else str(show(getattr(row, name)))
    return value + between(ends[0], ends[1], percent if show is percent else number)


def estimate(row: Any, unit: str) -> tuple[str, str, str]:
    """Lines of a hover label: a row's effect with its share; where reference vectors stand; its p-values."""
    return f"{ranged(row, 'effect', signed, unit)}, {percent(row.share)} of the effect", clouds(row), told(row)


def clouds(row: Any) -> str:
    """Where reference vectors stand, each kind with its band; that none were run, where that is so."""
    found = [
        f"{name} {ranged(row, column, signed)}"
        for name, column in (("random vectors", "reference"), ("other concepts", "concepts"))
        if finite(getattr(row, column, math.nan))
    ]
    return ", ".join(found) or "no reference vectors to compare with"


def beside(row: Any) -> str:
    """The shares of reference vectors, to stand after a row's own: `; other concepts 16%, random vectors 5%`."""
    others = [
        f"{name} {percent(share)}"
        for name, share in (("other concepts", row.concepts_share), ("random vectors", row.noise_share))
        if finite(share)
    ]
    return f"; {', '.join(others)}" if others else ""


def told(row: Any) -> str:
    """p over prompts and over vectors, the latter corrected; only those that are known."""
    of = {
        "over prompts": "p",
        "from random vectors": "p_noise",
        "from other concepts": "p_concepts",
        "told, Holm": "p_holm",
        "specific, Holm": "p_specific",
    }
    known = [f"{p_value(p)} ({name})" for name, column in of.items() if finite(p := getattr(row, column, math.nan))]
    return "\n".join(", ".join(part) for part in (known[:1], known[1:3], known[3:]) if part)


def verdict(value: Any) -> str:
    """A verdict with its meaning; a truth value or another word as it is."""
    name = str(value)
    return f"{name}: {VERDICTS[name]}" if name in VERDICTS else name


def some(items: Sequence[Any], most: int = 4) -> list[str]:
    """Names; of many, the first, and how many more."""
    names = [str(item) for item in items]
    return names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]


def finite(value: Any) -> bool:
    """Whether there is a number, and no infinity."""
    return not pd.isna(value) and math.isfinite(value)


def p_value(p: Any) -> str:
    """A p-value, tiny ones as a bound."""
    if not finite(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if not items:
        return "none"
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def injection(manifest: Any) -> str:
    """`3 × (" wedding" - " ") at L0.resid_pre, front`."""
    return " and ".join(injected(manifest.get("injections", []))) or "the injection"


def agreement(row: Any) -> str:
    """How far estimates are from exact effects, in words; `row` has the columns of `AGREEMENT`."""
    if not finite(row.pearson):
        return "too few, or too much alike, for a correlation"
    return f"Pearson {row.pearson:.3f}, Kendall {row.kendall:.2f}"
