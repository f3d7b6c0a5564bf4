"""The verdict of a breakdown in words: what is safe, what happens at infinity, what breaks the model."""

from math import inf, isinf, log1p
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
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
    table = result.frames["regimes"]
    rows = table[(table["regime"] == name) & (table["sign"] == sign)]
    return next(records(rows), None)


def at(result: Result, outcome: str, coefficient: float) -> Any | None:
    """A row of the response."""
    table = result.frames["response"]
    rows = table[(table["outcome"] == outcome) & (table["coefficient"] == coefficient)]
    return next(records(rows), None)


def breakdown_sentences(result: Result) -> list[str]:
    """Safe range and limit; the main cause; shape of the response; the best remedy."""
    found = [_safe(result), _cause(result), _shape(result), _remedy(result)]
    return [line for line in found if line]


def _safe(result: Result) -> str:
    sign, loss = sign_of(result), float(result.manifest.get("loss", 0.1))
    row = regime(result, "safe", sign)
    if row is None:
        return "No coefficient of this sign was tried."
    minus = "−" if sign < 0 else ""
    if row.coefficient != row.coefficient:
        first = f"No coefficient that was tried costs {words.percent(loss)} of the perplexity of ordinary text"
    else:
        low, high = (row.low, row.high) if row.reached > 0.975 else (row.low, inf)
        between = words.between(low, high) if not isinf(high) else f" [{words.number(low)}, ∞]"
        first = (
            f"Safe up to {minus}{words.number(row.coefficient)}{between} (a loss of {words.percent(loss)} of "
            "perplexity on ordinary text)"
        )
    end, kl = at(result, "damage", sign * inf), at(result, "kl", sign * inf)
    if end is None or kl is None:
        return (
            f"{first}; there is no limit: "
            f"{result.manifest.get('missing', {}).get('limit', 'it was not computed').rstrip('.')}."
        )
    unsafe = end.value > log1p(loss)
    return (
        f"{first}; at infinity the loss rises by {words.number(end.value)} "
        f"nats{words.between(end.low, end.high)}, KL {words.number(kl.value)}: "
        f"{'unsafe' if unsafe else 'safe'}. Random vectors of equal norm: {words.signed(end.control)} "
        f"nats{words.between(end.control_low, end.control_high)}."
    )


def _cause(result: Result) -> str:
    table = result.frames["causes"]
    alone = table[table["kind"] == "mechanism"]
    if alone.empty:
        return ""
    c = result.manifest.get("broken_at")
    best = next(records(alone.sort_values("shapley", ascending=False)))
    gone = next(records(alone.sort_values("gone", ascending=False)))
    first = (
        f"At {words.number(c)}, "
        f"{words.percent(gone.gone)}{words.between(gone.gone_low, gone.gone_high, words.percent)} of the "
        "damage goes when "
        f"{UNDONE.get(gone.cause, gone.cause)}, and {words.percent(gone.effect)} of the steering stays"
    )
    second = (
        f"; it is the largest share of all ({words.percent(gone.shapley)} by Shapley values)"
        if best.cause == gone.cause
        else (
            "; the largest share by Shapley values is "
            f"{words.percent(best.shapley)}{words.between(best.shapley_low, best.shapley_high, words.percent)}, "
            f"when {UNDONE.get(best.cause, best.cause)}"
        )
    )
    whole = table[table["kind"] == "together"]
    left = 1 - float(whole["gone"].iloc[0]) if len(whole) else 0.0
    third = f" ({words.percent(left)} is explained by none of them)" if left > 0.05 else ""
    return first + second + third + "."


def _shape(result: Result) -> str:
    sign = sign_of(result)
    linear, half = regime(result, "linear", sign), regime(result, "half", sign)
    parts = []
    if linear is not None and linear.coefficient == linear.coefficient:
        parts.append(
            "The effect leaves the gradient's prediction by a tenth at "
            f"{words.number(linear.coefficient)}{words.between(linear.low, linear.high)}"
        )
    if half is not None and half.coefficient == half.coefficient:
        table: pd.DataFrame = result.frames["predictions"]
        guess = (
            f" (norms alone predict {words.number(table['predicted'].iloc[0])} where the vector enters)"
            if len(table)
            else ""
        )
        parts.append(
            f"{'r' if parts else 'R'}eaches half of its limit at "
            f"{words.number(half.coefficient)}{words.between(half.low, half.high)}{guess}"
        )
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].startswith("R"):
        return f"The effect {parts[0][0].lower()}{parts[0][1:]}."
    return " and ".join(parts) + "."


def _remedy(result: Result) -> str:
    table = result.frames["equal_effect"]
    table = table[table["damage"].notna()]
    plain = next(records(table[table["remedy"] == "addition"]), None)
    others = table[table["remedy"] != "addition"].sort_values("damage")
    if plain is None or others.empty:
        return ""
    best = next(records(others))
    where = (
        f"{words.number(best.damage)} nats{words.between(best.damage_low, best.damage_high)} against "
        f"{words.number(plain.damage)}{words.between(plain.damage_low, plain.damage_high)}"
    )
    if best.damage_high < plain.damage_low:
        return f"At the given effect, {best.remedy} does less damage than addition: {where}."
    return f"At the given effect no remedy does clearly less damage than addition; the best is {best.remedy}: {where}."
