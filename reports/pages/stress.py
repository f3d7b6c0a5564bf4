"""The report of `stress`: whether a circuit survives steering, with the evidence behind every verdict."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.grid import grid
from steerscope.reports.figures.over import over
from steerscope.reports.figures.verdict_map import verdict_map
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, framed, legend, missing, model_name, no_intervals, of
from steerscope.reports.pages.stress_words import RULE, real, sentences
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import bold

MEASURES = {
    "right": ("Right answers (P)", "", True),
    "decided": ("What the input decides (D)", "nats", False),
    "pushed": ("Push common to prompt and counterfactual (B)", "nats", False),
    "neither": ("Rise of answers that are neither", "", True),
}
SHARES = {
    "Fc": "the circuit, steered: F_c(C_0)",
    "F0": "the circuit, unsteered: F_0(C_0)",
    "Fcc": "the one found under steering, steered: F_c(C_c)",
    "F0c": "the one found under steering, unsteered: F_0(C_c)",
}
MOST = 6  # vectors with figures of their own
SEEN = 0.2  # mean attention of looks that are shown


@drawing
def headline(result: Result) -> list[str]:
    """What the circuit does without steering; a sentence for each vector; what random vectors and rivals do."""
    return sentences(result)


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    task, claims = result.manifest["task"], result.manifest["circuits"]
    names = words.listing([str(one["name"]) for one in claims])
    return framed(
        result,
        f"Does the circuit {claims[0]['name']} survive steering in {model_name(result)}?",
        f"{task['pairs']} pairs of {task['name']} · {names} · {result.manifest['ablation']} ablation · "
        f"{words.percent(result.manifest['level'])} bounds over groups of prompts",
        headline(result),
        [
            *_verdicts(result),
            _answers(result),
            _explained(result),
            _evidence(result),
            *_inside(result),
            _templates(result),
            *_reported(result),
            everything(result.frames["verdicts"], list(result.columns["verdicts"]), "All verdicts", result),
            legend(result, RULE),
        ],
        _glance(result),
        no_intervals(result),
    )


def _reported(result: Result) -> list[Section]:
    """What the sources of the claimed circuits report: what should come out on their model."""
    rows = [
        [one["name"], str(what), words.number(value), "; ".join(map(str, one.get("sources", [])))]
        for one in result.manifest["circuits"]
        for what, value in dict(one.get("reported", {})).items()
    ]
    if not rows:
        return []
    text = (
        "Figures of the source, on its own prompts and by its own ablation: on its model they should come out. Far "
        "from them, look at tokens and prompts first."
    )
    titles = ["circuit", "figure", "reported", "source"]
    return [Section("What the source reports", [text], table=Table(titles, rows, frozenset(["reported"])), folded=True)]


def _glance(result: Result) -> list[tuple[str, str, str]]:
    own = real(result)
    counts = own["verdict"].value_counts()
    return [(str(name), f"{count} of {len(own)}", "vectors × coefficients") for name, count in counts.items()]


def _columns(result: Result) -> dict[float, str]:
    return {c: f"{c:g}".replace("-", "−") for c in sorted(set(result.frames["verdicts"]["coefficient"]))}


def _verdicts(result: Result) -> list[Section]:
    """A map for each circuit, random vectors under those that they stand beside."""
    table, sections = result.frames["verdicts"], []
    names = list(dict.fromkeys(table["vector"]))
    for number, (circuit, rows) in enumerate(table.groupby("circuit", sort=False)):
        title = f"Verdicts on {circuit}" + (", a rival" if number else "")
        text = [
            "By bounds; a grey cell is one that the prompts do not settle. Point at a cell for what is behind it. "
            "Random "
            "vectors have the norms of the vector that they stand under."
        ]
        chart = verdict_map(rows, names, _columns(result), _hover, "coefficient")
        sections.append(Section(title, text if number == 0 else [], [Panel("Verdicts", chart)]))
    return sections


def _hover(row: Any) -> str:
    detail = f", {row.detail}" if row.detail else ""
    lines = [f"{bold(row.vector)} at {words.number(row.coefficient)}: {row.verdict}{detail}"]
    lines += [f"by values alone: {row.point}"] if row.point != row.verdict else []
    lines += [f"{'open' if row.verdict == 'undetermined' else 'failed'}: {row.why}"] if row.why else []
    lines += [
        f"D {words.ranged(row, 'D')} of {words.number(row.D_0)} nats (rho {words.ranged(row, 'rho')})",
        f"push {words.ranged(row, 'dB', words.signed)} nats, right {words.percent(row.P)}",
        f"circuit explains {words.ranged(row, 'Fc', words.percent)}, unsteered {words.percent(row.F0)}",
    ]
    if words.finite(row.Fcc):
        lines.append(f"found under steering {words.percent(row.Fcc)}, unsteered {words.percent(row.F0c)}")
    return "\n".join(lines)


def _answers(result: Result) -> Section:
    """Curves of P, D and B over coefficients, random vectors as a band."""
    table = result.frames["answers"]
    varied = bool(result.manifest["task"]["varied"])
    panels = []
    for measure, (title, unit, percent) in MEASURES.items():
        if measure == ("pushed" if varied else "neither"):
            continue
        rows = table[table["measure"] == measure]
        base = rows[rows["coefficient"] == 0]
        series = {
            str(name): pd.concat([base, own])
            for name, own in rows[(rows["beside"] == "") & (rows["coefficient"] != 0)].groupby("vector", sort=False)
        }
        shown = dict(list(series.items())[:MOST])
        if not shown:
            panels.append(Panel(title, None, "not in this result"))
            continue
        chart = over(shown, unit or "share", randoms=_randoms(rows, base), percent=percent)
        panels.append(Panel(title, chart))
    text = ["Bands are intervals over groups of prompts; grey are the random vectors, their median and all of them."]
    if len(series) > MOST:
        text.append(f"The first {MOST} of {len(series)} vectors.")
    return Section("How the task is answered", text, panels)


def _randoms(rows: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame | None:
    own = rows[rows["beside"] != ""]
    if own.empty:
        return None
    found = pd.concat([base, own]).groupby("coefficient")["value"]
    return found.agg(low="min", high="max", value="median").reset_index()


def _explained(result: Result) -> Section:
    """What circuits explain, a panel for each vector."""
    own, panels = real(result), []
    for name, rows in list(own.groupby("vector", sort=False))[:MOST]:
        series = {}
        for column, label in SHARES.items():
            made = pd.DataFrame(
                {
                    "coefficient": rows["coefficient"],
                    "value": rows[column],
                    "low": rows[f"{column}_low"],
                    "high": rows[f"{column}_high"],
                }
            ).dropna(subset=["value"])
            if len(made):
                series[label] = made
        chart = over(series, "share explained", percent=True) if series else None
        panels.append(Panel(str(name), chart, "what the input decides does not clear 0"))
    text = [
        "Share of what the input decides that a circuit explains. The circuit that works under steering is looked "
        "for on "
        "half of the prompts, measured on the other half, and only where the verdict depends on it.",
        f"What is left out of a circuit carries the counterfactual's values ({result.manifest['ablation']} ablation).",
    ]
    if missing(result, "transfer", ""):
        text.append(f"{missing(result, 'transfer')}.".capitalize())
    return Section("What the circuit explains", text, panels)


def _evidence(result: Result) -> Section:
    rows: list[list[str]] = []
    marked: set[int] = set()
    for row in records(real(result, every=True)):
        if row.verdict == "rerouted":
            marked.add(len(rows))
        said = f"{row.verdict}, {row.detail}" if row.detail else row.verdict
        shares = [words.ranged(row, name, words.percent) for name in SHARES]
        overlaps = [words.number(row.jaccard), words.number(row.jaccard_found)]
        rows.append(
            [row.vector, words.number(row.coefficient), row.circuit, said, words.ranged(row, "rho")]
            + [words.ranged(row, "dB", words.signed), words.percent(row.P), *shares, *overlaps, row.why]
        )
    titles = ["vector", "coefficient", "circuit", "verdict", "rho", "push (nats)", "right", *SHARES]
    titles += ["overlap with C_c", "overlap of found ones", "open or failed"]
    text = [
        "Overlap is the Jaccard index of nodes. It is no part of the rule: circuits of different nodes that explain "
        "both "
        "conditions are one mechanism."
    ]
    return Section("Evidence", text, table=Table(titles, rows, frozenset(titles[4:13]), frozenset(marked)))


def _inside(result: Result) -> list[Section]:
    """Roles, edges and looks of every circuit, by coefficient."""
    lost = "is lost when {} alone carry the counterfactual's values. What stands behind each other loses it twice"
    empty = "Empty where what the input decides does not clear 0."
    found = []
    for circuit in dict.fromkeys(result.frames["roles"]["circuit"]):
        roles, edges, looks = (of(result, name, circuit=circuit) for name in ("roles", "edges", "looks"))
        if len(set(roles["role"])) < 2 and edges.empty and looks.empty:
            continue
        text = f"Share of what the input decides that {lost.format('nodes of a role')}: they need not add up. {empty}"
        found.append(Section(f"Roles of {circuit}", [text], _grids(result, roles, "role", "completeness")))
        if not edges.empty:
            named = edges.assign(edge=edges["sender"] + " → " + edges["receiver"])
            text = f"The same of single claimed edges, the strongest by the circuit's own scores. {empty}"
            found.append(Section(f"Edges of {circuit}", [text], _grids(result, named, "edge", "lost")))
        if not looks.empty:
            most = looks.groupby(["node", "place"])["attention"].transform("max")
            named = looks.assign(look=looks["node"] + " → " + looks["place"])[most >= SEEN]
            text = f"Mean attention of its heads from the last position, where it is {SEEN:.0%} or more in some run."
            panels, title = _grids(result, named, "look", "attention"), f"Where heads of {circuit} look"
            found.append(Section(title, [text], panels, folded=True))
    return found


def _grids(result: Result, rows: pd.DataFrame, name: str, value: str) -> list[Panel]:
    """A grid for each vector: names against coefficients."""
    panels = []
    for vector in list(dict.fromkeys(real(result)["vector"]))[:MOST]:
        own = rows[rows["vector"].isin(["", vector])]
        columns = {c: "none" if c == 0 else f"{c:g}".replace("-", "−") for c in sorted(set(own["coefficient"]))}
        names = {one: str(one) for one in dict.fromkeys(own[name])}
        chart = grid(
            own,
            (name, "coefficient"),
            names,
            columns,
            partial(_cell, name, value),
            value=value,
            limit=1.0,
            cell=lambda row: words.percent(getattr(row, value)),
            title="coefficient",
        )
        chart.update_layout(margin={"l": min(40 + 7 * max(map(len, names.values()), default=0), 320)})
        panels.append(Panel(str(vector), chart))
    return panels


def _cell(name: str, value: str, row: Any) -> str:
    nodes = f" ({row.nodes or 'all of its edges'})" if name == "role" else ""
    share = f"\n{words.percent(row.share)} of what the whole circuit loses" if name == "role" else ""
    return f"{bold(getattr(row, name))}{nodes}\n{words.ranged(row, value, words.percent)}{share}"


def _templates(result: Result) -> Section:
    table, title = result.frames["templates"], "By template"
    if table.empty:
        return Section(title, [f"Not asked: {missing(result, 'templates')}."], folded=True)
    rows: list[Sequence[str]] = []
    for row in records(table):
        said = f"{row.verdict}, {row.detail}" if row.detail else row.verdict
        numbers = [words.ranged(row, "rho"), words.ranged(row, "Fc", words.percent), words.percent(row.F0)]
        whose = [row.vector, words.number(row.coefficient), row.circuit, row.template, words.number(row.prompts)]
        rows.append([*whose, said, row.point, *numbers])
    titles = ["vector", "coefficient", "circuit", "template", "prompts", "verdict", "by values", "rho", "Fc", "F0"]
    text = ["The same rule on the prompts of each template alone; with few prompts little is settled by bounds."]
    return Section(title, text, table=Table(titles, rows, frozenset([*titles[7:], "prompts"])), folded=True)
