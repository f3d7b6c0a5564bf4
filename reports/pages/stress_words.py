"""What the page of `stress` says."""

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.records import records

MEANS = {
    "unaffected": "unaffected",
    "weaker": "the same, but weaker",
    "rerouted": "rerouted",
    "overwritten": "overwritten",
    "mixed": "mixed",
    "undetermined": "undetermined",
}
RULE = [
    "Log odds m are those of the first answer against the second; x are the prompts, x' their counterfactuals, all "
    "under "
    "the same steering. D = m(x) − m(x'), signed by x's label: what the input decides. B: the mean of m(x) and "
    "m(x'), the "
    "push common to both. rho: D under steering over D without. Where answers vary by prompt, the rise of the share "
    "whose "
    "top token is neither answer stands in the place of the push.",
    "Overwritten: the push is at least half of D and more than a quarter of D without steering (outvoted: D is still "
    "there; "
    "silenced: it is not). Rerouted: D survives, the circuit explains at most half of what it explained, another one "
    "explains 80% of D under steering and at most half of that without. Weaker: D is at most 80% of what it was, and "
    "the "
    "circuit explains as much of it (broken: D is gone). Unaffected: D, push and what the circuit explains are as "
    "without. "
    "Mixed: none of these (stronger; reversed; narrowed, where a backup took over). The thresholds are ours, and "
    "stand in "
    "the manifest.",
    "A condition holds, or does not, only with the unfavourable end of its interval; where one is open that the "
    "verdict "
    "depends on, nothing is said: undetermined. “By values” is the same rule without intervals.",
]


def real(result: Result, every: bool = False) -> pd.DataFrame:
    """Verdicts of real vectors on the claimed circuit, or on all."""
    table = result.frames["verdicts"]
    own = table[table["beside"] == ""]
    return own if every else own[own["circuit"] == result.manifest["circuits"][0]["name"]]


def sentences(result: Result) -> list[str]:
    """What the circuit does without steering; a sentence for each vector; what random vectors and rivals do."""
    own = real(result)
    found = _unsteered(own, result)
    found += [_vector(str(name), rows, result) for name, rows in own.groupby("vector", sort=False)]
    found += [_break(rows) for _, rows in own[own["verdict"] == "rerouted"].groupby("vector", sort=False)]
    return [*found, *_randoms(result), *_rivals(result, own), *_templates(result, own)]


def _unsteered(own: pd.DataFrame, result: Result) -> list[str]:
    row = next(records(own.head(1)), None)
    if row is None:
        return ["No vector was tried."]
    name = result.manifest["circuits"][0]["name"]
    decides = (
        f"Without steering {words.percent(row.P_0)} of the answers are right, and the input decides "
        f"{words.ranged(row, 'D_0')} nats"
    )
    if not words.finite(row.F0):
        return [f"{decides}: not told from nothing, so no circuit can be said to explain it."]
    return [f"{decides}, of which the circuit {name} explains {words.ranged(row, 'F0', words.percent)}."]


def _vector(name: str, rows: pd.DataFrame, result: Result) -> str:
    circuit = result.manifest["circuits"][0]["name"]
    parts = []
    for verdict, own in rows.sort_values("coefficient").groupby("verdict", sort=False):
        details = [d for d in dict.fromkeys(own["detail"]) if d]
        finer = f" ({words.listing(details)})" if details else ""
        at = words.listing([words.number(c) for c in own["coefficient"]])
        parts.append(f"{MEANS.get(str(verdict), str(verdict))}{finer} at {at}")
    return f"Under {name} the circuit {circuit} is {'; '.join(parts)}."


def _break(rows: pd.DataFrame) -> str:
    row, *others = records(rows.sort_values("coefficient", key=abs, kind="stable"))
    also = f" (and at {words.listing([words.number(other.coefficient) for other in others])})" if others else ""
    return (
        f"At {words.number(row.coefficient)} × {row.vector}{also} the claim breaks: the task survives (rho "
        f"{words.ranged(row, 'rho')}), the circuit explains {words.ranged(row, 'Fc', words.percent)} of it instead of "
        f"{words.percent(row.F0)}, and another one that explains {words.percent(row.Fcc)} there explains "
        f"{words.percent(row.F0c)} without steering."
    )


def _randoms(result: Result) -> list[str]:
    table, name = result.frames["verdicts"], result.manifest["circuits"][0]["name"]
    own = table[(table["beside"] != "") & (table["circuit"] == name)]
    if own.empty:
        return ["No random vectors stand beside these verdicts: they may be those of any vector of such a size."]
    counts = own["verdict"].value_counts()
    said = words.listing([f"{MEANS.get(str(verdict), str(verdict))} {count}" for verdict, count in counts.items()])
    found = [f"Of {len(own)} verdicts under random vectors of the same norms and coefficients: {said}."]
    mine = real(result)
    for verdict in ("rerouted", "overwritten", "weaker"):
        at = sorted(set(mine[mine["verdict"] == verdict]["coefficient"]))
        there = own[own["coefficient"].isin(at)]
        same = int((there["verdict"] == verdict).sum())
        if same:
            found.append(
                f"Where a vector's verdict is {verdict}, {same} of {len(there)} random vectors have the same one: to "
                "that "
                "extent it is said of the size, not of the direction."
            )
    return found


def _rivals(result: Result, own: pd.DataFrame) -> list[str]:
    found = []
    for rival in result.manifest["circuits"][1:]:
        table = real(result, every=True)
        rows = table[table["circuit"] == rival["name"]]
        both = rows.merge(own, on=["vector", "coefficient"], suffixes=("", "_claim"))
        same = int((both["verdict"] == both["verdict_claim"]).sum())
        share = next((row.F0 for row in records(rows.head(1))), float("nan"))
        found.append(
            f"The rival {rival['name']} explains {words.percent(share)} without steering, and has the same verdict as "
            f"the claim at {same} of {len(both)} vectors and coefficients."
        )
    return found


def _templates(result: Result, own: pd.DataFrame) -> list[str]:
    """Whether prompts of one template say what all of them say."""
    if result.frames["templates"].empty:
        return []
    both = result.frames["templates"].merge(own, on=["vector", "coefficient", "circuit"], suffixes=("", "_all"))
    other = both[both["point"] != both["point_all"]]
    count = both["template"].nunique()
    if other.empty:
        return [f"By values, each of {count} templates has the verdicts of all prompts together."]
    named = [f"{row.vector} at {words.number(row.coefficient)} ({row.point})" for row in records(other)]
    return [
        f"By values, {len(other)} of {len(both)} verdicts of single templates (of {count}) are others than that of all "
        f"prompts together: {words.listing(words.some(named))}."
    ]
