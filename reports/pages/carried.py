"""What pages of carriers say: which nodes are told from reference vectors, in contrasts, and how sure that is.

A sentence says no more than the column `verdict`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from steerscope.analysis.brief import counted
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.verdicts import NOISE
from steerscope.reports import words
from steerscope.reports.page import Section, Table
from steerscope.reports.pages.common import model_name, shares
from steerscope.reports.records import largest, records

MOST = 5  # nodes named in a list
FEW = 3  # of those that no verdict speaks of
OTHERS = {"isotropic": "random vector", "covariance": "covariance-matched random vector"}
OTHERS |= {"shuffled": "label-exchanged vector", "concepts": "other word", "given": "given vector"}
MOSTLY = 0.5  # of the variance between groups of prompts


def carried(result: Result, table: pd.DataFrame, done: str) -> list[str]:
    """The answer in sentences, from the rows of one measure.

    Args:
        done: what a share is, in words: "is lost when the node is set back to its clean value".
    """
    manifest = result.manifest
    what, where = words.injection(manifest), model_name(result)
    by = {name: table[table["verdict"] == name] for name in table["verdict"].unique()}
    why = nothing_tested(result, table)
    if why:
        named = shares(table[(table["verdict"] != "against") & (table["effect"] != 0)], 3)
        shown = f" Largest effects, as they are: {words.listing(named)}." if named else ""
        return [f"Of no head or MLP of {where} can it be said that it carries {what}: {why}.{shown}", *_against(by)]
    meant = compared(result, noise=False)
    found = []
    if "specific" in by:
        found.append(
            f"Specific to {what}, beyond {words.listing([n for n in (compared(result, True), meant) if n])}: "
            f"{_contrasts(by['specific'])}: the share of the effect that {done}."
        )
    if "concept" in by:
        tail = f", but not told from {meant}" if meant else ""
        unit = "" if "specific" in by else f": the share of the effect that {done}"
        found.append(f"Beyond {compared(result, noise=True)}{tail}: {_contrasts(by['concept'])}{unit}.")
    if "specific" not in by:
        nothing = f"Nothing is specific to {what}"
        if not meant and "concept" in by:
            found.append(f"{nothing}, as far as was asked: no other concepts were run beside it.")
        else:
            than = words.listing([n for n in (compared(result, True), meant) if n]).replace(" and ", " or of ")
            told = "" if "concept" in by else f": no head or MLP of {where} is told to carry more of it than of {than}"
            found.append(f"{nothing}{told}.")
    if "shared" in by:
        found.append(
            f"Shared with reference vectors, bottlenecks for whatever is put there: {_contrasts(by['shared'])}."
        )
    if "less" in by:
        found.append(f"Less than of reference vectors: {_contrasts(by['less'])}.")
    return [*found, *_against(by), *_unsaid(result, by)]


def _unsaid(result: Result, by: Mapping[str, pd.DataFrame]) -> list[str]:
    """The largest nodes of which no verdict speaks, so that a reader does not take them for small."""
    smallest = result.manifest.get("smallest", 0.02)
    rows = by["untested"] if "untested" in by else pd.DataFrame({"share": []})
    rows = rows[rows["share"].abs() >= smallest]
    named = [contrast(r) for r in records(largest(rows, FEW))] if len(rows) else []
    if not named:
        return []
    about = "Largest of those that nothing can be said of, neither told from reference vectors nor like them"
    return [f"{about}: {words.listing(_cut(named, rows))}."]


def _against(by: Mapping[str, pd.DataFrame]) -> list[str]:
    if "against" not in by:
        return []
    named = _cut(shares(by["against"], MOST), by["against"])
    return [f"Working against the effect: {words.listing(named)}."]


def nothing_tested(result: Result, table: pd.DataFrame) -> str:
    """Why no node can be told from references at all; empty where one can."""
    if not table["verdict"].isin(["untested", "small", "against"]).all():
        return ""
    missing = result.manifest.get("missing", {})
    if "intervals" in missing:
        return str(missing["intervals"])
    if "references" in missing:
        return "no reference vectors were run beside it"
    if not table["own_share"].notna().any():
        return "the whole effect is not told from zero over these prompts"
    tests = result.manifest.get("reference_tests", [])
    if "measure" in table:
        tests = [t for t in tests if t["measure"] in set(table["measure"])]
    if tests and not any(t["trusted"] for t in tests):
        t = tests[0]
        if t["told"] is None:
            some = f"{t['used']} of {t['vectors']}; {t['least']} are needed"
            return f"too few reference vectors have an effect of their own ({some})"
        return (
            f"{words.percent(t['told'])} of its reference vectors, each playing the vector, would have been told from "
            "the others, more than twice the stated level"
        )
    return ""


def _contrasts(rows: pd.DataFrame) -> str:
    named = [contrast(r) for r in records(largest(rows, MOST))]
    return words.listing(_cut(named, rows))


def _cut(named: Sequence[str], rows: pd.DataFrame) -> list[str]:
    return [*named, f"{len(rows) - len(named)} more"] if len(rows) > len(named) else list(named)


def contrast(row: Any) -> str:
    """`L0H3 (33%; other concepts 16%, random vectors 5%)`."""
    return f"{row.node} ({words.percent(row.share)}{words.beside(row)})"


def compared(result: Result, noise: bool) -> str:
    """Which reference vectors of a kind were run, in words: `12 other words`; empty where none were."""
    families = result.manifest.get("references", {}).get("families", {})
    parts = [counted(n, OTHERS.get(name, name)) for name, n in families.items() if (name in NOISE) == noise and n]
    return words.listing(parts) if parts else ""


def fine(result: Result, table: pd.DataFrame) -> str:
    """How far apart a share must have been to be told: the power of the test, from the spread of the references."""
    noise = compared(result, True) or compared(result, False)
    first = "noise_share" if compared(result, True) else "concepts_share"
    gap = (table["needed"] - table[first]).replace([float("inf")], float("nan")).dropna()
    if gap.empty or not noise:
        return ""
    return (
        f"To be told from {noise}, a share had to exceed their mean by {words.percent(gap.median())} of the effect in "
        f"the median node (from {words.percent(gap.min())} to {words.percent(gap.max())}): smaller differences go "
        "unseen."
    )


def together(result: Result) -> list[str]:
    """A sentence where prompts of a group say the same."""
    about = result.manifest.get("prompts", {})
    count, groups, between = about.get("count", 0), about.get("groups", 0), about.get("between")
    if between is None or groups < 2 or groups == count or between < MOSTLY:
        return []
    return [
        f"{words.percent(between)} of the variance of the effect lies between the {groups} groups of prompts: these "
        f"{count} prompts are as good as {words.number(about['effective'], 2)} independent ones."
    ]


def how_sure(result: Result, tables: Sequence[pd.DataFrame]) -> Section:
    """The test's own check, its power, groups of prompts, stability."""
    manifest = result.manifest
    alpha, smallest = manifest.get("alpha", 0.05), manifest.get("smallest", 0.02)
    text = [
        "Verdicts come from a test over vectors: a node's share of this vector's own change of the output against its "
        "shares of the reference vectors' changes (prediction t), and from a t test over groups of prompts; both must "
        f"hold, and Holm's correction over all nodes bounds the chance of any false one by {words.percent(alpha)} a "
        f"measure. Effects below {words.percent(smallest)} of the whole are called small, whatever their p.",
        *[line for line in [fine(result, t) for t in tables] if line][:1],
        *together(result),
    ]
    rows = [
        [
            t["measure"],
            "random vectors" if t["kind"] == "noise" else "other concepts",
            f"{t['used']} of {t['vectors']}",
            words.percent(t["told"]) if t["told"] is not None else "–",
            "yes" if t["trusted"] else "no",
        ]
        for t in manifest.get("reference_tests", [])
    ]
    columns = ["measure", "references", "with an effect", "told from the others", "trusted"]
    if rows:
        text.append(
            "Leave-one-out: how often a reference vector, playing the real one among the others, differs from them at "
            f"{words.percent(alpha)} before any correction. Beyond {words.percent(2 * alpha)} nothing is said."
        )
    stability = manifest.get("stability", {})
    if stability.get("jaccard") is not None:
        ends = f"[{stability['low']:.2f}, {stability['high']:.2f}]"
        text.append(
            f"On resampled groups of prompts the set told from noise overlaps with this one by "
            f"{stability['jaccard']:.2f} {ends} (Jaccard)."
        )
    return Section("How sure is this?", text, table=Table(columns, rows, frozenset()) if rows else None)
