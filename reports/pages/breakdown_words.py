"""The verdict of a breakdown in words: what is safe, what happens at infinity, what breaks the model."""

from math import inf, isinf, log1p
from typing import Any

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.pages.common import missing, of
from steerscope.reports.records import records

UNDONE = {
    "patterns": "attention patterns are frozen",
    "seen": "the injected positions are hidden from later ones",
    "values": "the values of the injected positions are frozen",
    "scales": "what norms divide by is frozen",
    "norm": "the injected stream is scaled back to its length",
    "mean": "the vector loses its part along the mean stream",
    "rogue": "the vector loses its largest dimensions",
    "sink": "the vector loses its part along the first position's stream",
}


def sign_of(result: Result) -> int:
    """The sign of the injection's coefficient."""
    injections = result.manifest.get("injections") or [{"coefficient": 1}]
    return 1 if injections[0]["coefficient"] > 0 else -1


def regime(result: Result, name: str, sign: int) -> Any | None:
    """A row of the regimes; None where it is not there."""
    return next(records(of(result, "regimes", regime=name, sign=sign)), None)


def sentences(result: Result) -> list[str]:
    """Safe range and limit; the main cause; shape of the response; the best remedy."""
    found = [_safe(result), _cause(result), _shape(result), _remedy(result)]
    return [line for line in found if line]


def _safe(result: Result) -> str:
    sign, loss = sign_of(result), float(result.manifest.get("loss", 0.1))
    row = regime(result, "safe", sign)
    if row is None:
        return "No coefficient of this sign was tried."
    first = f"No coefficient that was tried costs {words.percent(loss)} of the perplexity of ordinary text"
    if row.coefficient == row.coefficient:
        low, high = (row.low, row.high) if row.reached > 0.975 else (row.low, inf)
        between = words.between(low, high) if not isinf(high) else f" [{words.number(low)}, ∞]"
        first = (
            f"Safe up to {'−' if sign < 0 else ''}{words.number(row.coefficient)}{between} (a loss of "
            f"{words.percent(loss)} of perplexity on ordinary text)"
        )
    end, kl = (
        next(records(of(result, "response", outcome=outcome, coefficient=sign * inf)), None)
        for outcome in ("damage", "kl")
    )
    if end is None or kl is None:
        return f"{first}; there is no limit: {missing(result, 'limit', 'it was not computed')}."
    return (
        f"{first}; at infinity the loss rises by {words.ranged(end, unit='nats')}, KL {words.number(kl.value)}: "
        f"{'unsafe' if end.value > log1p(loss) else 'safe'}. Random vectors of equal norm: "
        f"{words.ranged(end, 'reference', words.signed, 'nats')}."
    )


def _cause(result: Result) -> str:
    alone = of(result, "causes", kind="mechanism")
    if alone.empty:
        return ""
    best, gone = (next(records(alone.sort_values(column, ascending=False))) for column in ("shapley", "gone"))
    first = (
        f"At {words.number(result.manifest.get('broken_at'))}, {words.ranged(gone, 'gone', words.percent)} of the "
        f"damage goes when {UNDONE.get(gone.cause, gone.cause)}, and {words.percent(gone.effect)} of the steering stays"
    )
    second = f"; it is the largest share of all ({words.percent(gone.shapley)} by Shapley values)"
    if best.cause != gone.cause:
        share = words.ranged(best, "shapley", words.percent)
        second = f"; the largest share by Shapley values is {share}, when {UNDONE.get(best.cause, best.cause)}"
    whole = of(result, "causes", kind="together")
    left = 1 - float(whole["gone"].iloc[0]) if len(whole) else 0.0
    third = f" ({words.percent(left)} is explained by none of them)" if left > 0.05 else ""
    return first + second + third + "."


def _shape(result: Result) -> str:
    sign = sign_of(result)
    linear, half = regime(result, "linear", sign), regime(result, "half", sign)
    parts = []
    if linear is not None and linear.coefficient == linear.coefficient:
        at = words.ranged(linear, "coefficient")
        parts.append(f"leaves the gradient's prediction by a tenth at {at}")
    if half is not None and half.coefficient == half.coefficient:
        table = result.frames["predictions"]
        guess = ""
        if len(table):
            guess = f" (norms alone predict {words.number(table['predicted'].iloc[0])} where the vector enters)"
        parts.append(f"reaches half of its limit at {words.ranged(half, 'coefficient')}{guess}")
    return f"The effect {' and '.join(parts)}." if parts else ""


def _remedy(result: Result) -> str:
    table = result.frames["equal_effect"]
    table = table[table["damage"].notna()]
    plain = next(records(table[table["remedy"] == "addition"]), None)
    best = next(records(table[table["remedy"] != "addition"].sort_values("damage")), None)
    if plain is None or best is None:
        return ""
    where = f"{words.ranged(best, 'damage', unit='nats')} against {words.ranged(plain, 'damage')}"
    if best.damage_high < plain.damage_low:
        return f"At the given effect, {best.remedy} does less damage than addition: {where}."
    return f"At the given effect no remedy does clearly less damage than addition; the best is {best.remedy}: {where}."
