"""What a dissection is held against: exact patching, Shapley values, its own sums, and scores of the weights."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.page import Panel, Section, Table
from steerscope.reports.pages.common import missing
from steerscope.reports.pages.dissect_views import NOTHING, View
from steerscope.reports.pages.dissect_words import carriers, gap, unit
from steerscope.reports.records import records
from steerscope.reports.theme import NEUTRAL, POSITIVE, axis, bold, figure, said, visible

DOWNLOADED = 1000  # rows of a table that a page carries along
LISTED = 8  # pairs of each kind in a table
CHANNELS = {"q": "by the query", "k": "by the key", "v": "by the value"}


def glance(result: Result, found: Sequence[View]) -> list[tuple[str, str, str]]:
    """The few numbers that matter most."""
    in_ = unit(result)
    targets = [target for view in found for target in view.targets]
    numbers = []
    if targets:
        largest = max(targets, key=lambda target: abs(target.change))
        numbers.append(("largest change", f"{words.signed(largest.change)} {in_}", f"of “{visible(largest.token)}”"))
    shares = carriers(found)
    for path, share in list(shares.items())[:1]:
        numbers.append(("largest writer", words.percent(share), f"of the mass is {path}"))
    if "final norm" in shares:
        note = "of the mass is the final norm's scale: not steering"
        numbers.append(("temperature", words.percent(shares["final norm"]), note))
    if patched := _patching(result):
        note = f"flow with exact patching, {patched[1]} nodes"
        numbers.append(("audit", words.number(patched[0], 4), f"correlation of {note}"))
    worst = _distances(result)
    if len(worst):
        numbers.append(
            ("Shapley distance", words.number(worst["distance"].max()), "the largest of the nodes that were audited")
        )
    numbers.append(("conservation", words.number(gap(result)), "largest gap of the parts, over their mass"))
    return numbers


def audits(result: Result) -> list[Section]:
    """Flow beside exact patching, and single nodes beside Shapley values."""
    return [_flow(result), _shapley(result)]


def _flow(result: Result) -> Section:
    title, rows = "Flow beside exact patching", _of(result, "patching")
    if rows.empty:
        return Section(title, [], [Panel(title, None, missing(result, "audit", "no audit was asked for"))])
    found = _patching(result)
    corr = f"Their correlation is {words.number(found[0], 4)}. " if found else ""
    text = (
        "The flow through a node is the sum of all paths through it. It is no patching effect, and should come close "
        "to the mean of necessity (lost when the node is clean in the steered run) and sufficiency (there when it "
        f"alone is steered). {corr}Bars end at these two. Far from the line, the tree tells "
        "something else than patching does."
    )
    heads = rows[rows["node"].astype(str).str.contains("H", regex=False)]
    panels = [Panel("Every node", _against(rows))]
    panels += [Panel("Heads alone", _against(heads))] if 0 < len(heads) < len(rows) else []
    return Section(title, [text], panels)


def _against(rows: pd.DataFrame) -> go.Figure:
    """Flow against the mean of necessity and sufficiency, a point a node, with the line on which both are the same."""
    chart = figure(height=380)
    ends = [*rows["ours"].dropna(), *rows["reference"].dropna(), 0.0]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    limits = [min(ends) - margin, max(ends) + margin]
    line = {"dash": "dot", "color": NEUTRAL}
    chart.add_scatter(x=limits, y=limits, mode="lines", line=line, hoverinfo="skip")
    low, high = rows[["necessity", "sufficiency"]].min(axis=1), rows[["necessity", "sufficiency"]].max(axis=1)
    largest = set(rows["ours"].abs().sort_values(ascending=False).index[:6])
    chart.add_scatter(
        x=rows["reference"],
        y=rows["ours"],
        mode="markers+text",
        text=[str(node) if at in largest else "" for at, node in rows["node"].items()],
        textposition="top center",
        marker={"size": 9, "color": POSITIVE},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": (high - rows["reference"]).fillna(0.0),
            "arrayminus": (rows["reference"] - low).fillna(0.0),
            "thickness": 0.8,
            "width": 0,
            "color": NEUTRAL,
        },
        **said([_hover(r) for r in records(rows)]),
    )
    chart.update_xaxes(axis("mean of necessity and sufficiency (logits)"), range=limits)
    chart.update_yaxes(axis("flow (logits)"), range=limits)
    return chart


def _hover(r: Any) -> str:
    return (
        f"{bold(r.node)}\nflow {words.signed(r.ours)}\nnecessity {words.signed(r.necessity)}, sufficiency "
        f"{words.signed(r.sufficiency)}, mean {words.signed(r.reference)}"
    )


def _shapley(result: Result) -> Section:
    title, rows = "Single nodes beside Shapley values", _distances(result)
    if rows.empty:
        return Section(title, [], [Panel(title, None, missing(result, "audit", "no audit was asked for"))])
    text = (
        "A node's change is split among those who changed what it reads. Where their inputs cancel inside it, credit "
        "can be given differently; the distance is the sum of the differences over that of the Shapley values. Rows "
        "above 0.25 are coloured: of these, the shares of single inputs are not to be relied on."
    )
    columns = ["what is split", "node", "prompt", "token", "distance", "Shapley values"]
    flagged = frozenset(n for n, r in enumerate(records(rows)) if r.flagged)
    cells = [
        [_split(r.what), r.node, str(int(r.prompt) + 1), r.token, words.number(r.distance), r.method]
        for r in records(rows)
    ]
    table = Table(columns, cells, frozenset({"prompt", "distance"}), flagged)
    return Section(title, [text], table=table)


def _split(what: str) -> str:
    return {"mlp": "an MLP by its inputs", "q": "a head by its query", "k": "a head by its keys"}.get(what, what)


def _of(result: Result, what: str) -> pd.DataFrame:
    table = result.frames["audit"]
    return table[(table["what"] == what) & table["reference"].notna()]


def _distances(result: Result) -> pd.DataFrame:
    """Nodes that were audited, each once, the largest distance first."""
    table = result.frames["audit"]
    own = table[(table["what"] != "patching") & table["distance"].notna()]
    once = own.drop_duplicates(["what", "node", "prompt", "position", "token"])
    return once.sort_values("distance", ascending=False, kind="stable")


def _patching(result: Result) -> tuple[float, int] | None:
    """Correlation of flow with patching, and over how many nodes."""
    rows = _of(result, "patching")
    if len(rows) < 3 or rows["ours"].std() == 0 or rows["reference"].std() == 0:
        return None
    return float(rows["ours"].corr(rows["reference"])), len(rows)


def composition(result: Result) -> list[Section]:
    """Scores of the weights beside causal paths; nothing in a model of one layer."""
    rows, title = result.frames["composition"], "Composition: scores of the weights beside paths"
    if rows.empty:
        return []
    if not rows["effect"].abs().max() > NOTHING:
        return [Section(title, ["No path of this injection goes from a head of layer 0 to one of layer 1."])]
    in_ = unit(result)
    text = [
        "A composition score says how much of what a head of layer 0 can write a head of layer 1 could read, from the "
        "weights alone, whatever is written. The effect is what the paths of this injection carry there. Ranks are "
        f"among all pairs of a channel; the table lists the strongest of both kinds. {_disagreements(rows)}"
    ]
    panels = [
        Panel(_ranked(what, own), _scores(own, in_))
        for channel, what in CHANNELS.items()
        if len(own := rows[rows["channel"] == channel])
    ]
    strongest = rows.sort_values("effect", ascending=False, kind="stable")
    apart = strongest["disagree"].astype(bool)
    shown = pd.concat([strongest[apart].head(LISTED), strongest[~apart].head(LISTED)])
    shown = shown.sort_values("effect", ascending=False, kind="stable")
    columns = ["pair", "channel", "score", "rank by score", f"effect ({in_})", "rank by effect", "disagree"]
    cells = [
        [
            f"{r.sender} → {r.receiver}",
            r.channel,
            *(words.number(r.score), str(int(r.score_rank)), words.number(r.effect), str(int(r.effect_rank))),
            "yes" if r.disagree else "no",
        ]
        for r in records(shown)
    ]
    marked = frozenset(n for n, r in enumerate(records(shown)) if r.disagree)
    return [Section(title, text, panels, Table(columns, cells, frozenset(columns[2:6]), marked))]


def _ranked(what: str, rows: pd.DataFrame) -> str:
    """The title of a channel, with how far both ranks go together."""
    title = f"{what[0].upper()}{what[1:]}"
    if rows["score"].nunique() < 3 or rows["effect"].nunique() < 3:
        return title
    return f"{title}: rank correlation {words.number(rows['score_rank'].corr(rows['effect_rank']))}"


def _disagreements(rows: pd.DataFrame) -> str:
    """Where both rank a pair quite differently."""
    apart = rows[rows["disagree"].astype(bool)]
    if apart.empty:
        return "No pair is among the first tenth by one and in the lower half by the other."
    r = next(records(apart.sort_values("effect", ascending=False)))
    return (
        f"They disagree for {len(apart)} of {len(rows)}: the pair is among the first tenth by one and in the lower "
        f"half by the other. For example {r.sender} → {r.receiver} {CHANNELS.get(r.channel, r.channel)} is number "
        f"{int(r.score_rank)} by score and {int(r.effect_rank)} by effect."
    )


def _scores(rows: pd.DataFrame, in_: str) -> go.Figure:
    chart = figure(height=320)
    apart = rows["disagree"].astype(bool)
    hover = [
        f"{bold(f'{r.sender} → {r.receiver}')}\nscore {words.number(r.score)} (number {int(r.score_rank)})\neffect "
        f"{words.number(r.effect)} {in_} (number {int(r.effect_rank)})"
        for r in records(rows)
    ]
    chart.add_scatter(
        x=rows["score"],
        y=rows["effect"],
        mode="markers",
        marker={
            "size": 8,
            "color": [POSITIVE if away else NEUTRAL for away in apart],
            "symbol": ["diamond" if away else "circle" for away in apart],
        },
        **said(hover),
    )
    chart.update_xaxes(axis("composition score"))
    chart.update_yaxes(axis(f"effect of the paths ({in_})"), rangemode="tozero")
    return chart


def downloads(result: Result) -> Section:
    """The tables, as far as a page should carry them."""
    notes = [
        f"{name}.csv holds the first {DOWNLOADED:,} of {len(table):,} rows; all are in {name}.parquet of the run's "
        "folder."
        for name, table in result.frames.items()
        if len(table) > DOWNLOADED
    ]
    tables = {f"{name}.csv": table.head(DOWNLOADED) for name, table in result.frames.items()}
    text = ["The buttons save the tables as CSV.", *notes]
    return Section("All tables", text, folded=True, download=tables)
