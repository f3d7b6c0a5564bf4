"""The report of causal scrubbing: how much each hypothesis recovers, its tree claim by claim, and its controls."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.dots import bands, dots, named, names, none_and_all
from steerscope.reports.figures.tree import Box, tree
from steerscope.reports.page import Choice, Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, framed, legend, missing, model_name
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import NEUTRAL, POSITIVE, REFERENCE, bold, figure

WHOLE, ROWS, CLAIMS = "logits", 40, 3  # name of a whole tree; leaves of a picture; claims in a sentence
PAPER, FULL = (245, 244, 241), (241, 168, 122)  # of a box, from a share of 0 to one of 1
IDLE = "rgb(228,230,234)"  # of a claim that cannot fail
STEERED = {"none": "", "stands": " · every run steered", "feature": " · every prompt with and without steering"}
READING = (
    "A share is (score − resampled) / (model − resampled): 1 where the model's score is kept though all that a "
    "hypothesis calls irrelevant is exchanged for that of other prompts, 0 where it is that of any prompt. Scores hide "
    "what cancels, and saturate: “outputs” compares the logits of all answers themselves.",
    "A claim alone is tried with everything else as it is in the model; with its branch, the claims of what it reads "
    "are tried with it. The control has the values of all features shuffled over the prompts: as fine a claim, about "
    "nothing. A feature that tells all prompts apart exchanges nothing: such a claim alone cannot fail, and its tree "
    "fails only by what it leaves out. What is finer than the truth stands as well as the truth.",
)


@drawing
def headline(result: Result) -> list[str]:
    """A sentence or two for each hypothesis."""
    return [sentence for name, rows in _by_name(result).items() for sentence in _sentences(result, name, rows)]


def _by_name(result: Result) -> dict[str, pd.DataFrame]:
    table = result.frames["recovered"]
    return {str(name): rows for name, rows in table.groupby("hypothesis", sort=False)}


def _whole(rows: pd.DataFrame) -> Any:
    return next(records(rows[rows["node"] == WHOLE]), None)


def _sentences(result: Result, name: str, rows: pd.DataFrame) -> list[str]:
    whole = _whole(rows)
    if whole is None or not words.finite(whole.share):
        return [f"Nothing can be said of “{name}”: {missing(result, 'share', 'it has no share')}."]
    share = words.ranged(whole, "share", words.percent)
    if words.finite(whole.low) and not whole.low > 0:
        return [f"“{name}” is not shown to recover anything of what answers owe to their own prompt: {share}."]
    note = " (no interval over prompts)" if not words.finite(whole.low) else ""
    note = " (more than the model's own score)" if whole.low > 1 else note
    outputs = f", and {words.percent(whole.squared)} of the outputs" if words.finite(whole.squared) else ""
    found = f"“{name}” recovers {share} of what answers owe to their own prompt{note}{outputs}"
    return [f"{found}; {_beside(whole)}.", *_alone(rows)]


def _beside(row: Any) -> str:
    """What the control of a whole tree says."""
    if not words.finite(row.control):
        return "its features exchange nothing, so that it could fail only by what it leaves out"
    control = words.ranged(row, "control", words.percent)
    if row.beyond:
        return f"with its features shuffled over the prompts it recovers less, {control}"
    return (
        f"with its features shuffled over the prompts it recovers {control}, from which it is not told "
        f"({words.p_value(row.p_holm)}, Holm): what it says of features is not shown"
    )


def _alone(rows: pd.DataFrame) -> list[str]:
    """The claims that recover least, of those that can fail."""
    claims = rows[(rows["node"] != WHOLE) & rows["control"].notna()]
    if claims.empty:
        return []
    weak = claims[claims["high"] < 1].sort_values("share", kind="stable")
    count = (
        f"Of {len(claims)} claims that can fail alone" if len(claims) > 1 else "Of the one claim that can fail alone"
    )
    shown = [f"{r.node} ({words.ranged(r, 'share', words.percent)})" for r in records(weak)]
    lost = f"{len(weak)} {'lose' if len(weak) > 1 else 'loses'} something: {words.listing(words.some(shown, CLAIMS))}"
    beyond = int(claims["beyond"].sum())
    told = f"{beyond or 'none'} {'recover' if beyond > 1 else 'recovers'} more than with features shuffled"
    return [f"{count}, {'none is shown to lose anything' if weak.empty else lost}; {told}."]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    manifest, by_name = result.manifest, _by_name(result)
    table = result.frames["recovered"]
    count = manifest.get("prompts", {}).get("count", "?")
    source = manifest.get("prompts", {}).get("source", "prompts")
    return framed(
        result,
        f"How much of its answers do hypotheses about {model_name(result)} explain?",
        f"{source} · {count} prompts · {manifest.get('draws', '?')} draws of each"
        f"{STEERED.get(str(manifest.get('steering')), '')}",
        headline(result),
        [
            _compared(by_name),
            _trees(by_name),
            _about(result),
            everything(table, list(table.columns), "All numbers", result),
            legend(result, [*READING, *_exchanged(result)]),
        ],
        _glance(result, by_name),
    )


def _glance(result: Result, by_name: Mapping[str, pd.DataFrame]) -> list[tuple[str, str, str]]:
    scores = [result.manifest.get(name) for name in ("model_score", "resampled_score")]
    found = [("log-odds of the answer", words.number(scores[0]), f"of any prompt's {words.number(scores[1])}")]
    wholes = [row for row in map(_whole, by_name.values()) if row is not None and words.finite(row.share)]
    best = max(wholes, key=lambda row: row.share, default=None)
    if best is not None:
        note = f"{best.hypothesis}, the most of {len(wholes)}" if len(wholes) > 1 else str(best.hypothesis)
        found.append(("recovered", words.percent(best.share), note))
    return found


def _exchanged(result: Result) -> list[str]:
    about = result.manifest.get("alignments")
    if not isinstance(about, dict) or not {"count", "smallest", "alone"} <= set(about) or about["count"] == 1:
        return []
    alone = f" {about['alone']} of the prompts have nobody to be exchanged with." if about["alone"] else ""
    return [
        "A prompt is exchanged for those of the same length in which the claimed places are where they are in it: "
        f"{about['count']} kinds of prompt, the smallest of {about['smallest']}.{alone}"
    ]


def _compared(by_name: Mapping[str, pd.DataFrame]) -> Section:
    """Every whole tree beside its control."""
    title = "What is recovered"
    wholes = [row for row in map(_whole, by_name.values()) if row is not None and words.finite(row.share)]
    if not wholes:
        return Section(title, [], [Panel("Recovered", None, "no hypothesis has a share")])
    rows = pd.DataFrame([vars(row) for row in wholes])
    at = list(range(len(rows)))
    chart = figure(height=110 + 46 * len(rows), margin={"l": 60, "r": 20, "t": 34, "b": 46})
    bands(chart, at, rows["control_low"], rows["control_high"], 0.3)
    labels = [_hover(row) for row in wholes]
    dots(chart, rows, [y - 0.08 for y in at], "share", labels, colour=POSITIVE, ends=("low", "high"), showlegend=False)
    below, ends = [y + 0.14 for y in at], ("squared_low", "squared_high")
    dots(chart, rows, below, "squared", labels, colour=NEUTRAL, ends=ends, symbol="diamond-open", showlegend=False)
    named(chart, "of the score", POSITIVE, "circle")
    named(chart, "of the outputs", NEUTRAL, "diamond-open")
    named(chart, "features shuffled, of the score", REFERENCE, opacity=0.5)
    names(chart, [str(name) for name in rows["hypothesis"]])
    none_and_all(chart, "share recovered")
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    text = "Each hypothesis as a whole, with its interval over prompts, over the band of its control."
    return Section(title, [text], [Panel("Share recovered", chart)])


def _trees(by_name: Mapping[str, pd.DataFrame]) -> Section:
    title = "Claim by claim"
    text = [
        "From the logits on the left to what is read. Each box says what is recovered when this claim alone is tried, "
        "the rest of the model as it is, and behind “branch” what is left with the claims on its right. Grey boxes "
        "tell all prompts apart: alone, they cannot fail. Marked rows of the table are above their control."
    ]
    drawn = {name: (_picture(rows), _claims(rows)) for name, rows in by_name.items()}
    if len(drawn) == 1:
        [(panel, table)] = drawn.values()
        return Section(title, text, [panel], table)
    choices = [Choice(name, [Section("", [], [panel], table)]) for name, (panel, table) in drawn.items()]
    return Section(title, text, asks="Hypothesis", choices=choices)


def _picture(rows: pd.DataFrame) -> Panel:
    """A hypothesis as a tree, as deep as there is room."""
    boxes: list[Box] = []
    depths: list[int] = []
    parents: list[int] = []
    by_number = {-1: 0}
    for row in records(rows):
        root = row.node == WHOLE
        within = -1 if root else by_number.get(int(row.within), 0)
        by_number.setdefault(int(row.claim), len(boxes))
        depths.append(0 if root or not boxes else depths[within] + 1)
        parents.append(within)
        boxes.append(Box(_lines(row), within, _fill(row), _hover(row), open=_idle(row)))
    if not boxes:
        return Panel("Tree", None, "it has no rows")
    deep = max(depths)
    while deep > 1 and _leaves(depths, parents, deep) > ROWS:
        deep -= 1
    kept = [number for number, depth in enumerate(depths) if depth <= deep]
    place = {number: at for at, number in enumerate(kept)}
    shown = [Box(b.lines, place.get(b.within, -1), b.fill, b.about, b.open) for b in (boxes[n] for n in kept)]
    cut = (
        f", {len(shown) - 1} of {len(boxes) - 1} claims: those nearest to the logits" if len(kept) < len(boxes) else ""
    )
    return Panel(f"{rows['hypothesis'].iloc[0]}{cut}", tree(shown))


def _leaves(depths: Sequence[int], parents: Sequence[int], deep: int) -> int:
    inner = {within for depth, within in zip(depths, parents, strict=True) if depth <= deep}
    return sum(depth <= deep and number not in inner for number, depth in enumerate(depths))


def _idle(row: Any) -> bool:
    return row.node != WHOLE and not words.finite(row.control)


def _fill(row: Any) -> str:
    share = row.branch if words.finite(row.branch) else row.share
    if not words.finite(share) or _idle(row) and not words.finite(row.branch):
        return IDLE
    strength = min(max(float(share), 0.0), 1.0)
    return "rgb({},{},{})".format(*(round(a + (b - a) * strength) for a, b in zip(PAPER, FULL, strict=True)))


def _lines(row: Any) -> list[str]:
    if row.node == WHOLE:
        control = f"shuffled {words.percent(row.control)}" if words.finite(row.control) else "nothing to shuffle"
        return [bold("the whole tree"), words.ranged(row, "share", words.percent), control]
    name = str(row.node).rpartition(" < ")[2]
    own = "cannot fail" if _idle(row) else words.ranged(row, "share", words.percent)
    branch = f"; branch {words.percent(row.branch)}" if words.finite(row.branch) else ""
    return [bold(_short(name, 30)), _short(str(row.feature), 34), own + branch]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _hover(row: Any) -> str:
    lines = [bold(row.hypothesis if row.node == WHOLE else row.node)]
    lines += [f"computes: {row.feature}"] if row.feature else []
    lines.append(f"recovered {words.ranged(row, 'share', words.percent)}")
    if words.finite(row.control):
        control = words.ranged(row, "control", words.percent)
        lines.append(f"features shuffled {control}, {words.p_value(row.p_holm)} (Holm)")
    if words.finite(row.branch):
        lines.append(f"with its branch {words.ranged(row, 'branch', words.percent)}")
    lines.append(f"of the outputs {words.ranged(row, 'squared', words.percent)}")
    if row.node != WHOLE:
        lines.append(f"{words.number(row.alike)} of {words.number(row.exchanged)} prompts have its feature")
    return "\n".join(lines)


def _claims(own: pd.DataFrame) -> Table:
    rows: list[list[str]] = []
    marked: set[int] = set()
    for r in records(own):
        if r.beyond:
            marked.add(len(rows))
        whole = r.node == WHOLE
        rows.append(
            ["the whole tree" if whole else str(r.node), str(r.feature), words.ranged(r, "share", words.percent)]
            + [words.ranged(r, "control", words.percent), words.p_value(r.p_holm) if words.finite(r.p_holm) else "–"]
            + [words.ranged(r, "branch", words.percent), words.percent(r.squared)]
            + ["–" if whole else f"{words.number(r.alike)} of {words.number(r.exchanged)}"]
        )
    titles = ["claim", "computes", "recovered", "shuffled", "p (Holm)", "with its branch", "outputs", "prompts alike"]
    return Table(titles, rows, frozenset(titles[2:]), frozenset(marked))


def _about(result: Result) -> Section:
    """Where hypotheses come from, and what one must know of them."""
    told = [one for one in result.manifest.get("hypotheses", []) if isinstance(one, dict)]
    rows = []
    for one in told:
        reported = [f"{what}: {words.number(value)}" for what, value in dict(one.get("reported", {})).items()]
        parts = [one.get("sources", []), reported, one.get("rivals", []), one.get("caveats", [])]
        texts = ["; ".join(map(str, part)) for part in parts]
        rows.append([str(one.get("name", "")), str(one.get("title", "")), str(one.get("model", "")), *texts])
    titles = ["hypothesis", "what it says", "model", "source", "figures there", "rivals", "caveats"]
    return Section("The hypotheses", [], table=Table(titles, rows))
