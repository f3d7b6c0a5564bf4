"""The verdict of a breakdown in words: what is safe, what happens at infinity, what breaks the model."""

from math import inf, isnan, log1p
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


def given_of(result: Result) -> float:
    """The injection's coefficient."""
    injections = result.manifest.get("injections") or [{"coefficient": 1}]
    return float(injections[0]["coefficient"])


def sign_of(result: Result) -> int:
    """The sign of the injection's coefficient."""
    return 1 if given_of(result) > 0 else -1


def regime(result: Result, name: str, sign: int) -> Any | None:
    """A row of the regimes; None where it is not there."""
    return next(records(of(result, "regimes", regime=name, sign=sign)), None)


def text_of(result: Result) -> str:
    """The text that damage is measured on."""
    beside = result.manifest.get("ends", {}).get("text")
    return str((result.manifest.get("text") or beside or {}).get("name", "ordinary text"))


def crossed(row: Any) -> str:
    """Where a crossing is, with its interval, an open end among them."""
    if row.where == "below":
        return f"at or below the smallest tried ({words.number(row.smallest)})"
    if row.where == "beyond":
        return f"not up to {words.number(row.largest)}"
    return words.number(row.coefficient) + ends(row)


def ends(row: Any) -> str:
    """The interval of a crossing; an end that lies outside of what was tried as such."""
    if not (isinstance(row.low_where, str) and isinstance(row.high_where, str)):
        return ""  # one group
    low, high = (
        {"below": f"≤{words.number(row.smallest)}", "beyond": f">{words.number(row.largest)}"}.get(
            where, words.number(end)
        )
        for end, where in ((row.low, row.low_where), (row.high, row.high_where))
    )
    return f" [{low}, {high}]"


def share(value: float, low: float, high: float, of_what: str) -> str:
    """A share of something that can be more than all of it, or less than none."""
    between = words.between(low, high, words.percent)
    if value > 1.005:
        return f"all of the {of_what} and more ({words.percent(value)}{between})"
    if value < -0.005:
        return f"none of the {of_what} (it grows by {words.percent(-value)}{words.between(-high, -low, words.percent)})"
    return f"{words.percent(value)}{between} of the {of_what}"


def sentences(result: Result) -> list[str]:
    """Safe range and limit; the main cause; shape of the response; the best remedy."""
    found = [_safe(result), _cause(result), _shape(result), _remedy(result)]
    return [line for line in found if line]


def _safe(result: Result) -> str:
    """What of the loss of the text is lost: where, at the given coefficient, and at infinity."""
    loss = float(result.manifest.get("loss", 0.1))
    row = regime(result, "safe", sign_of(result))
    if row is None:
        return f"Damage was not measured: {missing(result, 'damage', 'no coefficient of this sign was tried')}."
    minus = "−" if sign_of(result) < 0 else ""
    what = f"{100 * loss:.3g}% of perplexity on {text_of(result)}"
    if row.where == "within":
        first = f"Safe up to {minus}{words.number(row.coefficient)}{ends(row)}, which costs {what}"
    elif row.where == "below":
        first = f"Not even the smallest coefficient that was tried ({minus}{words.number(row.smallest)}) is safe: it"
        first += f" costs {what} or more"
        first += f" (interval{ends(row)})" if row.high_where in ("within", "beyond") else ""
    else:
        first = f"No coefficient up to {minus}{words.number(row.largest)}, the largest that was tried, costs {what}"
        if words.finite(row.reached) and row.reached > 0.025:
            first += f" (in {words.percent(row.reached)} of resamples of the text one does)"
    at = next(records(of(result, "response", outcome="damage", coefficient=given_of(result))), None)
    here = "" if at is None else f"; the damage there is {words.ranged(at, show=words.signed, unit='nats')}"
    return f"{first}. {_given(result, row)}{here}. {_limit(result, loss)}"


def _given(result: Result, row: Any) -> str:
    """How the given coefficient stands to the safe one."""
    given = abs(given_of(result))
    name = f"The given coefficient {words.number(given_of(result))}"
    above = row.low_where == "below" or (row.low_where == "within" and given >= row.low)
    below = row.high_where == "beyond" or (row.high_where == "within" and given <= row.high)
    measured = {"within": row.coefficient, "below": row.smallest, "beyond": row.largest}.get(row.where)
    if not (words.finite(given) and words.finite(measured)):
        return f"{name}: whether it is safe cannot be told"
    if above and below:
        return f"{name} lies within the interval of the safe one: whether it is safe cannot be told"
    if row.where == "beyond":
        return f"{name} is safe" if given <= row.largest else f"{name} is beyond all that were tried"
    if row.where == "below" and given <= row.smallest:
        return f"{name} is that one"
    if row.where == "below":
        return f"{name} is {_times(given / row.smallest)} that one"
    factor = given / row.coefficient
    if factor > 1:
        return f"{name} is {_times(factor)} the safe one, {words.number(row.coefficient)}"
    return f"{name} is safe: {_times(factor)} the largest safe one"


def _times(factor: float) -> str:
    return f"{words.number(factor, 2)} times"


def _limit(result: Result, loss: float) -> str:
    """What the exact limit does to the loss."""
    sign = sign_of(result)
    end, kl = (
        next(records(of(result, "response", outcome=outcome, coefficient=sign * inf)), None)
        for outcome in ("damage", "kl")
    )
    if end is None or kl is None:
        return f"There is no limit at infinity: {missing(result, 'limit', 'it was not computed')}."
    verdict = "unsafe" if end.value > log1p(loss) else "safe"
    if isnan(end.value) or (words.finite(end.low) and end.low <= log1p(loss) <= end.high):
        verdict = "whether that is safe cannot be told"
    change = f"changes by {words.ranged(end, show=words.signed, unit='nats')}"
    random = words.ranged(end, "reference", words.signed, "nats")
    beside = f"; of reference vectors of equal norm by {random}" if words.finite(end.reference) else ""
    return f"At infinity the loss {change} (KL {words.number(kl.value)}): {verdict}{beside}."


def _cause(result: Result) -> str:
    alone = of(result, "causes", kind="mechanism").dropna(subset=["gone", "shapley"])
    if alone.empty:
        return ""
    why = missing(result, "shares of the damage", "")
    at = words.number(result.manifest.get("broken_at"))
    if why:
        return f"What breaks the model at {at} cannot be said: {why}."
    best, gone = (next(records(alone.sort_values(column, ascending=False))) for column in ("shapley", "gone"))
    undone = UNDONE.get(gone.cause, gone.cause)
    if gone.gone <= 0.005:
        return f"At {at}, no mechanism that is undone alone takes any of the damage away."
    goes = share(gone.gone, gone.gone_low, gone.gone_high, "damage")
    if gone.gone > 1.005:
        below = f"the loss ends {words.number(-gone.left)} nats below that of the clean run"
        first = f"At {at}, when {undone}, {goes} goes: {below}; {_stays(gone)}"
    else:
        first = f"At {at}, {goes} goes when {undone}, and {_stays(gone)}"
    named = words.percent(best.shapley) + words.between(best.shapley_low, best.shapley_high, words.percent)
    named += ", more than all" if best.shapley > 1.005 else ""
    second = f"; it has the largest Shapley value, too ({named} of the damage)"
    if best.cause != gone.cause:
        second = f"; the largest Shapley value is {named} of the damage, when {UNDONE.get(best.cause, best.cause)}"
    whole = next(records(of(result, "causes", kind="together")), None)
    third = ""
    if whole is not None and 1 - whole.gone > 0.05:
        left = 1 - whole.gone
        third = f" ({words.percent(left)} is explained by none of them)"
        if left > 0.995:
            third = "; undone all together they take nothing away"
    return first + second + third + "."


def _stays(row: Any) -> str:
    """What of the steering is left, which may be more than there was, or its opposite."""
    if not words.finite(row.effect):
        return "there was no steering to stay"
    if row.effect < -0.005:
        return f"the steering turns round ({words.percent(row.effect)} of it)"
    if row.effect > 1.005:
        return f"the steering grows to {words.percent(row.effect)}"
    return f"{words.percent(row.effect)} of the steering stays"


def _shape(result: Result) -> str:
    sign = sign_of(result)
    linear, half = regime(result, "linear", sign), regime(result, "half", sign)
    parts = []
    if linear is not None:
        parts.append(_shaped(linear, "leave", "the gradient's prediction by a tenth"))
    if half is not None:
        table = result.frames["predictions"]
        guess = ""
        if len(table) and half.where == "within":
            guess = f" (norms alone predict {words.number(table['predicted'].iloc[0])} where the vector enters)"
        parts.append(_shaped(half, "reach", "half of its limit") + guess)
    return f"The effect {' and '.join(parts)}." if parts else ""


def _shaped(row: Any, verb: str, what: str) -> str:
    if row.where == "beyond":
        return f"does not {verb} {what} up to {words.number(row.largest)}"
    return f"{verb}{'es' if verb.endswith('ch') else 's'} {what} {'at ' if row.where == 'within' else ''}{crossed(row)}"


def _remedy(result: Result) -> str:
    """The best remedy where it can be told from addition; else that it cannot."""
    table = result.frames["equal_effect"]
    plain = next(records(table[table["remedy"] == "addition"]), None)
    if plain is None:
        return ""
    if words.finite(plain.target_low) and plain.target_low * plain.target_high <= 0:
        return (
            f"The given effect, {words.ranged(plain, 'target', words.signed)}, is not told from zero: remedies are not "
            "compared at it."
        )
    best = next(records(table[(table["remedy"] != "addition") & table["damage"].notna()].sort_values("damage")), None)
    if best is None or not words.finite(plain.damage):
        return ""
    where = f"{words.ranged(best, 'damage', unit='nats')} against {words.ranged(plain, 'damage')}"
    apart = f"{words.signed(best.gain)} nats"
    error = exact_to(best, plain)
    if best.gain > error and words.finite(best.gain_low) and best.gain_low > error:
        return (
            f"At the given effect, {best.remedy} does less damage than addition: {where}, by "
            f"{words.number(best.gain)} nats{words.between(best.gain_low, best.gain_high)}."
        )
    why = "one group gives no interval"
    if words.finite(best.gain_low) or words.finite(best.gain_high):
        why = f"gain {apart}{open_ends(best.gain_low, best.gain_high)}"
    if abs(best.gain) <= error:
        why += f"; the interpolation itself is good to {words.number(error)}"
    return (
        "At the given effect no remedy can be told from addition in the damage it does; the least is that of "
        f"{best.remedy}: {where} ({why})."
    )


def exact_to(*rows: Any) -> float:
    """The error of a difference of interpolated numbers: that of each, added up; unknown ones as zero."""
    return float(sum(row.error for row in rows if words.finite(row.error)))


def open_ends(low: float, high: float) -> str:
    """An interval of which an end may be open."""
    shown = [words.number(end) if words.finite(end) else sign + "∞" for end, sign in ((low, "−"), (high, ""))]
    return f" [{shown[0]}, {shown[1]}]"
