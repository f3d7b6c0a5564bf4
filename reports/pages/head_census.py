"""The report of a head census: which roles are claimed of which heads, beside thresholds, controls and chance."""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.page import Page, Section, Table
from steerscope.reports.pages.common import everything, framed, legend, map_panel, missing, model_name, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import bold

SAYING = {  # of one head that has the role, and of several
    "previous token": ("is a previous-token head", "are previous-token heads"),
    "duplicate token": ("is a duplicate-token head", "are duplicate-token heads"),
    "induction": ("looks as an induction head does", "look as induction heads do"),
    "induction, causal": ("acts as an induction head does", "act as induction heads do"),
    "first position": ("looks at the first position", "look at the first position"),
    "copying": ("copies what it looks at", "copy what they look at"),
    "copy suppression": ("suppresses what it looks at", "suppress what they look at"),
    "topic copying": ("copies topics", "copy topics"),
}
SECTIONS = {
    "Where heads look": (
        "Mean attention over pairs of query and target, in sequences of random tokens. Pale cells are not claimed.",
        ("previous token", "duplicate token", "induction", "first position"),
    ),
    "What heads do in a repetition": (
        "Drop of the log-probability of the token that is repeated next, when the head's output at the second copy is "
        "that of a run without the first copy. Heads were tried that look most as induction heads do.",
        ("induction, causal",),
    ),
    "What heads move": (
        "What each head's output matrix does to the logits when the head looks at one token alone. Copying and "
        "suppression are shares of tokens; topics are in standard deviations over the vocabulary.",
        ("copying", "copy suppression", "topic copying"),
    ),
}
TOP, SHOWN = 5, 6  # rows of a role; names in a sentence
READING = (
    "A role is claimed of a head where the lower end of its interval lies above the threshold, its score above the "
    "largest of its controls (paired t over the same sequences, Holm over all heads), and above the 99th "
    "percentile of the same score with permuted targets. Thresholds are conventions: a head under one may do the same "
    "more weakly, and the column “beyond” says where there is more than in the controls, whatever its size."
)


@drawing
def headline(result: Result) -> list[str]:
    """A sentence a role, and whether the model repeats at all."""
    return [*_repetition(result), *_sentences(result)]


def _repetition(result: Result) -> list[str]:
    about = result.manifest.get("repetition")
    if not about:
        return []
    gain = f"{words.signed(about['gain'])}{words.between(about['low'], about['high'])} nats"
    if not about["low"] > 0:
        return [f"Random tokens are not shown to be more likely when they were said before: the difference is {gain}."]
    return [
        f"Random tokens are more likely when they were said before in the same order: {gain} a token, from "
        f"{words.number(about['new'])} to {words.number(about['said_before'])}."
    ]


def _sentences(result: Result) -> list[str]:
    return [_sentence(str(role), rows) for role, rows in result.frames["scores"].groupby("role", sort=False)]


def _sentence(role: str, rows: pd.DataFrame) -> str:
    one, several = SAYING.get(role, (f"has the role {role}", f"have the role {role}"))
    unit = str(rows["unit"].iloc[0])
    claimed = rows[rows["holds"]].sort_values("score", ascending=False)
    if len(claimed):
        shown = [f"{r.node} ({words.ranged(r, 'score', unit=unit)})" for r in records(claimed)]
        said = f"1 head {one}" if len(claimed) == 1 else f"{len(claimed)} heads {several}"
        return f"{said}: {words.listing(words.some(shown, SHOWN))}."
    best = next(records(rows.loc[[rows["score"].idxmax()]]))
    why = [f"a claim needs more than {words.number(best.threshold)}"] if not best.low > best.threshold else []
    if best.score > max(best.control, best.chance) and not best.beyond:
        told = words.p_value(best.p_holm)
        why.append(f"it is not told from its control “{best.of}”, {words.number(best.control)} ({told}, Holm)")
    elif not best.beyond:
        why.append(f"its control “{best.of}” is {words.number(best.control)}, chance {words.number(best.chance)}")
    else:
        why.append(f"{int(rows['beyond'].sum())} of {len(rows)} heads are above their controls")
    return (
        f"No head {one}: the largest score of {len(rows)} is {words.ranged(best, 'score', unit=unit)}, of "
        f"{best.node} ({'; '.join(why)})."
    )


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    scores, manifest = result.frames["scores"], result.manifest
    sections = [_maps(result, title, text, roles) for title, (text, roles) in SECTIONS.items()]
    return framed(
        result,
        f"What do the attention heads of {model_name(result)} do?",
        f"{manifest.get('sequences', '?')} sequences of {manifest.get('length', '?')} random tokens said twice, and as "
        "many in which nothing is said twice",
        headline(result),
        [
            *sections,
            _largest(scores),
            _raised(result),
            everything(scores, list(scores.columns), "All scores", result),
            legend(result, [READING]),
        ],
        _glance(scores),
    )


def _glance(scores: pd.DataFrame) -> list[tuple[str, str, str]]:
    nodes = scores.drop_duplicates("node")
    known = scores[scores["holds"]]["node"].nunique()
    layers = scores[scores["holds"]]["layer"]
    where = f"layers {layers.min()} to {layers.max()}" if known else "of none a role is claimed"
    return [("heads with a role", f"{known} of {len(nodes)}", where)]


def _maps(result: Result, title: str, text: str, roles: tuple[str, ...]) -> Section:
    panels, absent = [], []
    for role in roles:
        rows = of(result, "scores", role=role)
        if rows.empty:
            absent.append(f"{role.capitalize()} was not measured: {missing(result, role)}.")
            continue
        cells = rows.assign(effect=rows["score"], verdict=rows["holds"], kind="head")
        panels.append(map_panel(role.capitalize(), cells, str(rows["unit"].iloc[0]), _hover))
    return Section(title, [text, *absent], panels)


def _hover(row: Any, unit: str) -> str:
    lines = [
        f"{bold(row.node)} {row.role}",
        f"{words.ranged(row, 'score', unit=unit)}, {'claimed' if row.holds else 'not claimed'}",
        f"threshold {words.number(row.threshold)}, chance {words.number(row.chance)}",
        f"{row.of}: {words.number(row.control)}, {words.p_value(row.p_holm)} (Holm)",
    ]
    return "\n".join([*lines, f"on natural text {words.number(row.natural)}"] if words.finite(row.natural) else lines)


def _largest(scores: pd.DataFrame) -> Section:
    """The heads with the largest scores of every role, beside all that they must pass."""
    rows: list[list[str]] = []
    marked: set[int] = set()
    for _, own in scores.groupby("role", sort=False):
        for r in records(own.sort_values("score", ascending=False, kind="stable").head(TOP)):
            if r.holds:
                marked.add(len(rows))
            numbers = [words.number(x) for x in (r.threshold, r.control)]
            rows.append(
                [r.role, r.node, words.ranged(r, "score"), *numbers, r.of, words.number(r.chance)]
                + [words.p_value(r.p_holm), words.number(r.natural)]
                + ["yes" if said else "no" for said in (r.beyond, r.holds)]
            )
    titles = ["role", "head", "score", "threshold", "control", "which", "chance", "p (Holm)", "natural text"]
    titles += ["above controls", "claimed"]
    text = f"The {TOP} largest scores of every role, and what each must pass."
    return Section(
        "Scores and their controls", [text], table=Table(titles, rows, frozenset(titles[2:5]), frozenset(marked))
    )


def _raised(result: Result) -> Section:
    table = result.frames["raised"]
    title = "What heads raise"
    if table.empty:
        return Section(title, [f"Not shown: {missing(result, 'raised')}."], folded=True)
    rows = [[r.node, r.topic, r.read, r.raised] for r in records(table)]
    text = (
        "The tokens that a head's output matrix raises most when it looks at the first word of a topic: of heads that "
        "copy, and of those with the largest scores for copying."
    )
    return Section(title, [text], table=Table(["head", "topic", "looks at", "raises"], rows), folded=True)
