"""The report of `map_effect`: which circuits an effect goes through, beside other sets of nodes of their make."""

from typing import Any

import pandas as pd

from steerscope.analysis.brief import counted
from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.circuit_map import circuit_map
from steerscope.reports.figures.dots import bands, dots, named, names, none_and_all
from steerscope.reports.figures.heatmap import hover
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.carried import compared
from steerscope.reports.pages.common import everything, layout, map_panel, metric_unit, missing, no_intervals, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records, way
from steerscope.reports.theme import REFERENCE, figure, key, side

DONE = {
    "necessity": "of the effect is lost when its nodes are set back to clean together",
    "sufficiency": "of it appears when they alone are set to their steered values",
}
AMONG = {
    "more": "carries more than other sets of its make",
    "less": "carries less than other sets of its make",
    "alike": "is not told from other sets of its make",
    "cannot tell": "cannot be told from other sets of its make: there are too few of them",
}
BESIDE = {
    "specific": "more than reference vectors, and more than other concepts",
    "concept": "more than random vectors",
    "shared": "as reference vectors do, too: a bottleneck",
    "less": "less than reference vectors",
    "against": "against the effect",
}
MILLION = 10**6
ROLES = 5  # that are named above
SPOKEN = 4  # circuits that have sentences of their own above
LAYER_KIND = "layer and kind"
READING = [
    "A set of a circuit's make has as many heads of every layer as the circuit has. An MLP has no other of its layer "
    "and kind, and neither has a layer of which all heads are in the circuit: they count in the circuit's share and "
    "are left out of what it is compared by. p says how many such sets have as much; intervals are over groups of "
    "prompts.",
    "Whether a circuit carries more than other sets rests on two numbers: the share that its compared nodes carry "
    "patched at once, and the sum of their single shares (which is no share: nodes in a row count twice). The smaller "
    "p counts, times two, after Holm over circuits, for each measure by itself.",
    "That an effect goes through a circuit's nodes does not say that it uses what the circuit computes: heads do other "
    "things too. What reference vectors of equal norm carry there stands beside it.",
]


@drawing
def headline(result: Result) -> list[str]:
    """What each circuit carries, beside other sets and other vectors; roles; what it costs to go through it alone."""
    table = result.frames["circuits"]
    if missing(result, "shares", ""):
        what = words.injection(result.manifest)
        why = missing(result, "intervals", missing(result, "shares"))
        return [f"Of no circuit can it be said that {what} goes through it: {why}.", *_unreached(table)]
    found = []
    for circuit in list(dict.fromkeys(table["circuit"]))[:SPOKEN]:
        found += _circuit(result, circuit)
    more = table["circuit"].nunique() - SPOKEN
    return [*found, *([f"{counted(more, 'more circuit')} below."] if more > 0 else [])]


def _unreached(table: pd.DataFrame) -> list[str]:
    names = list(dict.fromkeys(table["circuit"][table["inside"] == 0]))
    return [f"The injection reaches no node of {words.listing(names)}."] if names else []


def _circuit(result: Result, circuit: str) -> list[str]:
    rows = list(records(of(result, "circuits", circuit=circuit)))
    first = rows[0]
    if first.inside == 0:
        return [
            f"The injection reaches none of the {counted(first.nodes, 'node')} of “{circuit}”: there nothing is "
            "defined, which is not nothing."
        ]
    reached = "" if first.inside == first.nodes else f" ({first.inside} of its {first.nodes} nodes are reached)"
    joint = [
        f"{words.percent(r.share)}{words.between(r.share_low, r.share_high, words.percent)} "
        f"{DONE.get(r.measure, f'of the effect by {r.measure}')}{_vectors(result, r)}"
        for r in rows
        if words.finite(r.share)
    ]
    found = [f"“{circuit}”{reached}: {'; '.join(joint)}."] if joint else []
    found += [_among(result, r, "" if joint else reached) for r in rows]
    return [*found, *_roles(result, circuit), *_through(result, circuit)]


def _vectors(result: Result, row: Any) -> str:
    """What other vectors carry there."""
    beside = words.beside(row).removeprefix("; ")
    said = BESIDE.get(str(row.verdict), "")
    if not beside:
        return ""
    told = f", {said}" if said else ", not told from them" if str(row.verdict) == "untested" else ""
    return f" ({beside}{told})"


def _among(result: Result, row: Any, reached: str) -> str:
    """What a circuit is among other sets.

    Args:
        reached: how many of its nodes are, where no sentence before says it.
    """
    tests = {
        t.test: t for t in records(of(result, "tests", circuit=row.circuit, measure=row.measure, matched=LAYER_KIND))
    }
    numbers = [
        f"{what} {words.percent(tests[name].value)} beside {words.percent(tests[name].expected)} on average"
        for name, what in (("joint", "jointly"), ("sum", "one by one, summed,"))
        if name in tests and words.finite(tests[name].value)
    ]
    tested = next((t.tested for t in tests.values()), 0)
    subject = f"By {row.measure} “{row.circuit}”{reached}"
    said = f"{subject} {AMONG.get(row.among, AMONG['alike'])}"
    if not numbers:
        return f"{said}."
    heads = f"{counted(tested, 'head')} of {row.inside} nodes compared"
    if row.among == "cannot tell":
        return (
            f"{said}: the smallest p that could come out is {words.number(row.least)} ({heads}; {'; '.join(numbers)})."
        )
    p = row.p_fewer if row.among == "less" else row.p_more
    return f"{said} ({heads}; {'; '.join(numbers)}; {words.p_value(p)}, Holm)."


def _roles(result: Result, circuit: str) -> list[str]:
    alpha = result.manifest.get("alpha", 0.05)
    rows = of(result, "roles", circuit=circuit, said="tested")
    named_ = [
        f"{r.role} by {r.measure} ({counted(r.inside, 'node')}, {words.p_value(r.p_holm)}, Holm over roles)"
        for r in records(rows[rows["p_holm"] < alpha])
    ]
    shown = words.listing(words.some(named_, ROLES))
    return [f"Of its roles more than other sets of their make: {shown}."] if named_ else []


def _through(result: Result, circuit: str) -> list[str]:
    rows = {(r.at, r.scale): r for r in records(of(result, "targeted", circuit=circuit))}
    inside, outside, scaled = (
        rows.get(key) for key in (("circuit", "as it is"), ("outside", "as it is"), ("circuit", "equal KL"))
    )
    whole = rows.get(("whole", "as it is"))
    if inside is None or whole is None:
        return []
    there = f"Let through at “{circuit}” alone, the vector has {words.percent(inside.share)} of its effect"
    costs = f"{there}, and disturbs by {words.number(inside.kl)} nats of {words.number(whole.kl)}"
    rest = f"; everywhere else {words.percent(outside.share)}, by {words.number(outside.kl)}" if outside else ""
    equal = ""
    if scaled is not None and words.finite(scaled.share):
        other = scaled.reference / scaled.effect * scaled.share if scaled.effect else float("nan")
        others = f", other sets of its make {words.percent(other)}" if words.finite(other) else ""
        factor = words.number(scaled.factor)
        equal = f". At the disturbance of the whole ({factor} times) it has {words.percent(scaled.share)}{others}"
    elif scaled is not None:
        equal = ". No factor up to 100 makes it disturb as much as the whole"
    return [f"{costs}{rest}{equal}.", *_task(rows)]


def _task(rows: dict[tuple[str, str], Any]) -> list[str]:
    said = {"nothing": "without the vector", "whole": "with it", "circuit": "with it at the circuit alone"}
    said |= {"outside": "with it everywhere else"}
    parts = []
    for at, where in said.items():
        row = rows.get((at, "as it is"))
        if row is not None and words.finite(row.task):
            other = f" (at other sets of its make {words.signed(row.task_reference)})"
            beside = other if words.finite(row.task_reference) else ""
            parts.append(f"{words.ranged(row, 'task', words.signed)} {where}{beside}")
    if not parts:
        return []
    return [f"In the circuit's own task the log odds of the right answer are {words.listing(parts)}, in nats."]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    exact = (
        "nodes patched exactly, alone and together"
        if not result.manifest.get("of")
        else (f"from a saved result of {result.manifest['of']}; nothing was run")
    )
    return layout(
        result,
        "Which circuits of {model} does {vector} go through?",
        exact,
        [*headline(result), *no_intervals(result)],
        [
            _picture(result),
            _sets(result),
            _role_table(result),
            _injected(result),
            _overlap(result),
            _ranks(result),
            _maps(result),
        ]
        + [everything(result.frames["circuits"], list(result.frames["circuits"].columns), "All tables", result)],
        _glance(result),
        [*READING, *_sources(result)],
    )


def _glance(result: Result) -> list[tuple[str, str, str]]:
    return [
        (f"lost without “{r.circuit}”", words.percent(r.share), AMONG.get(r.among, "a share of nothing is no share"))
        for r in records(of(result, "circuits", measure="necessity").head(3))
        if words.finite(r.share)
    ]


def _sources(result: Result) -> list[str]:
    found = []
    for one in result.manifest.get("circuits", []):
        rivals = f"; disagrees with {words.listing(list(one['rivals']))}" if one["rivals"] else ""
        source = "; ".join(one["sources"]) or "no source given"
        found.append(f"{one['name']}: {one['title']} ({one['model']}, {one['confidence']}): {source}{rivals}.")
    return found


def _picture(result: Result) -> Section:
    largest = words.percent(result.frames["nodes"]["share"].abs().max())
    text = (
        f"A node is as large as its own share of the effect (the largest has {largest}), and has the colour of its "
        "role; its rim is orange where it works along the effect, blue against. Crosses stand before the injection. "
        "Lines are edges that the circuit claims: as wide as the effect of this path alone where it was patched, thin "
        "and grey where it was not, with a point to hover over. The menu chooses circuit and measure."
    )
    nodes, edges = result.frames["nodes"], result.frames["edges"]
    if nodes.empty:
        return Section("The circuits", [], [Panel("By layer", None, "no circuit has nodes")])
    grouped = [f"“{one['name']}”" for one in result.manifest.get("circuits", []) if one["level"] == "group"]
    note = (
        f"{words.listing(grouped)}: only that one role reads another is claimed; all pairs of their nodes are drawn, "
        "and no single one is claimed."
    )
    chart = circuit_map(nodes, edges, metric_unit(result), way(result))
    return Section("The circuits", [text, *([note] if grouped else [])], [Panel("By layer", chart)])


def _sets(result: Result) -> Section:
    tests = of(result, "tests", matched=LAYER_KIND, test="joint")
    tests = tests[tests["value"].notna()] if len(tests) else tests
    why = missing(result, "joint", missing(result, "shares", "no circuit has nodes that can be compared"))
    panel = Panel("Joint shares", None, why)
    if len(tests):
        panel = Panel("Joint shares of the compared nodes, beside other sets", _dots(tests))
    rows: list[list[str]] = []
    marked: set[int] = set()
    alpha = result.manifest.get("alpha", 0.05)
    for t in records(result.frames["tests"]):
        shown = words.number if t.test == "carriers" else words.percent
        if min(t.p_holm, t.p_below_holm) < alpha:
            marked.add(len(rows))
        value = f"{t.value:.0f}" if t.test == "carriers" and t.sets else shown(t.value)
        numbers = [value, shown(t.expected) + words.between(t.others_low, t.others_high, shown)]
        ps = [words.p_value(p) if t.sets else "untested" for p in (t.p, t.p_holm, t.p_below_holm)]
        rows.append(
            [
                t.circuit,
                t.measure,
                t.test,
                t.matched,
                str(t.tested),
                *numbers,
                *ps,
                words.number(t.least),
                f"{t.sets:,}",
            ]
        )
    titles = ["circuit", "measure", "test", "of equal", "nodes", "has", "others have"]
    titles += ["p", "Holm", "Holm, less", "least p", "sets"]
    text = [
        "Grey: 95% of other sets of the circuit's make. Nodes that have no others of their kind are left out here. p: "
        "as much or more; less: as much or less; least: the smallest p that could have come out."
    ]
    for name, what in (("carriers", "Carriers were not counted"), ("size", "Sets that write as much were not made")):
        if missing(result, name, ""):
            text.append(f"{what}: {missing(result, name)}.")
    return Section(
        "Beside other sets of their make",
        text,
        [panel],
        table=Table(titles, rows, frozenset(titles[4:]), frozenset(marked)),
    )


def _dots(tests: pd.DataFrame) -> Any:
    chart = figure(height=120 + 34 * len(tests), margin={"l": 60, "r": 20, "t": 40, "b": 50}, showlegend=True)
    at = list(range(len(tests)))
    bands(chart, at, tests["others_low"], tests["others_high"], 0.3)
    labels = [
        f"{t.circuit}: {words.percent(t.value)} of the effect; others {words.percent(t.expected)}\n"
        f"{words.p_value(t.p_holm)} (Holm)"
        for t in records(tests)
    ]
    rows = tests.assign(value_low=float("nan"), value_high=float("nan"))
    dots(chart, rows, at, "value", labels, colour=[side(v) for v in tests["value"]], whisker=REFERENCE)
    means = tests.assign(expected_low=float("nan"), expected_high=float("nan"))
    dots(chart, means, at, "expected", labels, colour=REFERENCE, symbol="line-ns-open")
    named(chart, "other sets: mean and 95%", REFERENCE, opacity=0.5)
    chart.data[0].showlegend = chart.data[1].showlegend = False
    names(chart, [f"{t.circuit}, {t.measure}" for t in records(tests)])
    none_and_all(chart, "share of the effect")
    chart.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return chart


def _role_table(result: Result) -> Section:
    unit = metric_unit(result)
    rows = [
        [r.circuit, r.role, r.measure, f"{r.inside} of {r.nodes}", words.ranged(r, "effect", words.signed)]
        + [words.percent(r.share) + words.between(r.share_low, r.share_high, words.percent)]
        + ([words.p_value(r.p), words.p_value(r.p_holm), words.number(r.least)] if r.said == "tested" else ["–"] * 3)
        for r in records(result.frames["roles"])
    ]
    titles = ["circuit", "role", "measure", "nodes reached", f"joint effect ({unit})", "share", "p", "Holm", "least p"]
    text = (
        "Nodes of a role patched at once; p of the sum of their single shares beside other sets of their make, where "
    )
    text += "three nodes or more are reached. Fewer are described only."
    table = Table(titles, rows, frozenset(titles[4:]))
    return Section("Roles", [text], table=table if rows else None)


def _injected(result: Result) -> Section:
    title, unit = "Let through here alone", metric_unit(result)
    table = result.frames["targeted"]
    if table.empty:
        return Section(title, [f"Not shown: {missing(result, 'targeted')}."])
    rows = [
        [r.circuit, r.at, r.scale, words.number(r.factor), str(r.nodes), words.ranged(r, "effect", words.signed)]
        + [
            words.percent(r.share),
            words.signed(r.reference) + words.between(r.reference_low, r.reference_high, words.signed),
        ]
        + [words.ranged(r, "kl"), words.ranged(r, "task", words.signed), words.signed(r.task_reference)]
        for r in records(table)
    ]
    titles = [
        "circuit",
        "where",
        "scale",
        "factor",
        "nodes",
        f"effect ({unit})",
        "share",
        "other sets",
        "KL (nats)",
        "task (nats)",
        "task, other sets",
    ]
    text = [
        "Nothing is injected: in the clean run these nodes are set to what they write in the steered one, all at once, "
        "so the vector itself does not go past them. At equal KL the change of each node is multiplied by one factor, "
        "so that the run disturbs as much as the whole vector does; a large factor is far from anything that the model "
        "does. Task: log odds of the right answer with the same nodes and factor."
    ]
    for name, why in result.manifest.get("missing", {}).items():
        if name.startswith("task of "):
            text.append(f"No {name}: {str(why).rstrip('.')}.")
    for name, about in result.manifest.get("tasks", {}).items():
        text.append(
            f"Task of {name}: {about['task']}, {counted(about['prompts'], 'prompt')}, {words.percent(about['share'])}"
            f"{words.between(about['low'], about['high'], words.percent)} right without the vector."
        )
    return Section(title, text, table=Table(titles, rows, frozenset(titles[3:])))


def _overlap(result: Result) -> Section:
    table, title = result.frames["overlap"], "Claimed edges among the effect's own"
    if table.empty:
        return Section(title, [f"Not shown: {missing(result, 'overlap')}."], folded=True)
    rows = []
    for r in records(table):
        beside = f"{r.shared_tested} of {r.tested}", words.number(r.expected), words.p_value(r.p), words.number(r.least)
        rows.append([r.circuit, str(r.claimed), f"{r.shared} ({words.percent(r.shared / r.claimed)})", *beside])
    titles = ["circuit", "edges", "among the strongest", "of the tested", "expected", "p", "least p"]
    text = (
        "How many of the edges that a circuit claims are among as many strongest edges of the effect (conductance), "
        "beside circuits with as many edges between any two layers and kinds of nodes."
    )
    return Section(title, [text], table=Table(titles, rows, frozenset(titles[1:])))


def _ranks(result: Result) -> Section:
    table = result.frames["ranks"]
    if table.empty:
        return Section("The circuit's own scores", ["None of these circuits gives its edges scores."], folded=True)
    rows = [
        [r.circuit, r.measure, str(r.nodes), words.number(r.kendall), words.p_value(r.p), words.number(r.least)]
        for r in records(table)
    ]
    titles = ["circuit", "measure", "nodes", "Kendall", "p", "least p"]
    text = "Do nodes that the circuit scores higher carry more of the effect, of either sign? Permuted within layers."
    return Section("The circuit's own scores", [text], table=Table(titles, rows, frozenset(titles[2:])))


def _maps(result: Result) -> Section:
    table, unit = result.frames["effects"], metric_unit(result)
    if table.empty:
        return Section("All nodes", ["No node was patched by itself."], folded=True)
    panels = [
        map_panel(str(measure).capitalize(), own, unit, hover, way(result))
        for measure, own in table.groupby("measure", sort=False)
    ]
    beside = [name for name in (compared(result, True), compared(result, False)) if name]
    text = [f"Each by itself. {key(table['verdict'])}"]
    text += [f"Beside {words.listing(beside)}."] if beside else []
    return Section("All nodes", text, panels, folded=True)
