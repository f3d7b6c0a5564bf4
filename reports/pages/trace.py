"""The report of `trace`: norms, angles and shares of the injected part, layer by layer, and what each layer would
predict.
"""

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.norms import along, order, short, split
from steerscope.reports.figures.strip import strip
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.breakdown import lens_sections
from steerscope.reports.pages.common import everything, page
from steerscope.reports.records import records


def trace_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    weights = result.manifest.get("weights", "raw")
    text = [
        f"The model's weights are {weights}: "
        + (
            "the norms' own weights are folded into what reads them, so shares of the normalized stream leave them out."
            if weights == "folded"
            else "nothing is folded, so shares of the normalized stream have the norms' own weights in them."
        ),
        "A norm is linear once its scale is given, so the normalized stream is exactly the sum of the clean "
        "stream, the vector, and what nodes wrote "
        "differently because of it, each normalized with the steered scale. A part's share is its projection "
        "on the whole; shares add up to 1.",
    ]
    sections = [
        _norms(result),
        _split(result),
        _turn(result),
        _positions(result),
        _nodes(result),
        *_lens(result),
        _table(result),
    ]
    return page(
        result,
        "How does {vector} travel through {model}?",
        "exact split at every norm",
        trace_sentences(result),
        sections,
        text=text,
    )


def _of(result: Result, quantity: str, where: str) -> pd.DataFrame:
    table = result.frames["stream"]
    return table[(table["quantity"] == quantity) & (table["where"] == where)]


def trace_sentences(result: Result) -> list[str]:
    """Relative norm at both ends, what the last norm sees, commitment."""
    found = []
    relative = _of(result, "relative_norm", "injected")
    norms = order(relative) if len(relative) else []
    if norms:
        by = {(r.layer, r.norm): r for r in records(relative)}
        first, last = by[norms[0]], by[norms[-1]]
        found.append(
            "Where it enters, the injected part is "
            f"{words.number(first.value)}{words.between(first.low, first.high)} times as long as the clean "
            "stream; at the last "
            f"norm {words.number(last.value)}{words.between(last.low, last.high)} times."
        )
    parts = {p: _of(result, p, "injected") for p in ("rest", "vector", "response")}
    if norms and all(len(t) for t in parts.values()):
        shares = {p: next(r for r in records(t) if (r.layer, r.norm) == norms[-1]) for p, t in parts.items()}
        found.append(
            f"Of what the unembedding reads at injected positions, {words.percent(shares['rest'].value)} is "
            f"the clean stream, {words.percent(shares['vector'].value)} the vector, "
            f"and {words.percent(shares['response'].value)} what nodes wrote because of it."
        )
    later = _of(result, "response", "later")
    if len(later) and order(later):
        end = next(r for r in records(later) if (r.layer, r.norm) == order(later)[-1])
        found.append(
            "At later positions, where the vector itself is not, "
            f"{words.percent(end.value)}{words.between(end.low, end.high, words.percent)} of what the "
            "unembedding reads was "
            f"written because of it (random vectors: {words.percent(end.control)})."
        )
    lens = result.frames["lens"]
    rows = lens[(lens["quantity"] == "committed") & (lens["where"] == "later")].set_index("run")["value"]
    if {"clean", "steered"} <= set(rows.index):
        found.append(
            f"Seen through the {result.manifest.get('lens', {}).get('name', 'lens')}, later positions commit "
            f"before layer {words.number(rows['clean'])} on average in the clean run, "
            f"{words.number(rows['steered'])} in the steered one."
        )
    return found


def _norms(result: Result) -> Section:
    table = result.frames["stream"]
    panels = [
        Panel(
            "Length of the stream, injected positions",
            along(
                table,
                {"clean": ("clean_norm", "injected"), "steered": ("steered_norm", "injected")},
                "length",
                log=True,
            ),
        ),
        Panel(
            "Length of the stream, later positions",
            along(table, {"clean": ("clean_norm", "later"), "steered": ("steered_norm", "later")}, "length", log=True),
        ),
        Panel(
            "Relative norm: what was injected over the clean stream",
            along(table, {"relative norm": ("relative_norm", "injected")}, "times", control=True),
        ),
        Panel(
            "What norms divide by, steered over clean",
            along(
                table, {"injected": ("scale_ratio", "injected"), "later": ("scale_ratio", "later")}, "ratio", log=True
            ),
        ),
    ]
    return Section("Norms", ["Each norm in order, as it reads the stream. Bands are intervals over prompts."], panels)


def _split(result: Result) -> Section:
    table = result.frames["stream"]
    panels = [Panel(f"{where.capitalize()} positions", split(table, where)) for where in ("injected", "later")]
    return Section("What the normalized stream is made of", ["A share below 0 points against the whole."], panels)


def _turn(result: Result) -> Section:
    table = result.frames["stream"]
    panels = [
        Panel(
            "Angle between clean and steered stream (degrees)",
            along(table, {"injected": ("angle", "injected"), "later": ("angle", "later")}, "degrees", control=True),
        ),
        Panel(
            "Cosine between the steered stream and the vector",
            along(table, {"cosine": ("cosine", "injected")}, "cosine", control=True),
        ),
        Panel(
            "Stretch: steered length over clean length",
            along(table, {"injected": ("stretch", "injected"), "later": ("stretch", "later")}, "factor", log=True),
        ),
    ]
    return Section("Turn and stretch", ["Dotted: random vectors of equal norm."], panels)


def _positions(result: Result) -> Section:
    """Every position of the first prompt: what of the normalized stream is there because of the injection."""
    table = result.frames["positions"]
    title = "One prompt, position by position"
    if table.empty:
        return Section(title, [], [Panel("Positions", None, "no position is reached")])
    own = table[table["prompt"] == table["prompt"].min()]
    norms = order(own)
    names = [short(norm) for norm in norms]
    rows = own.assign(node=[short(item) for item in zip(own["layer"], own["norm"], strict=True)])
    rows = rows.sort_values(
        ["node", "position"], key=lambda c: c.map({n: i for i, n in enumerate(names)}) if c.name == "node" else c
    )
    injected = set(own[own["where"] == "injected"]["position"])
    panels = [
        Panel(
            "Share that is there because of the injection",
            strip(rows.assign(effect=rows["vector"] + rows["response"]), "", 1.0, injected),
        ),
        Panel(
            "Angle between clean and steered stream (degrees)",
            strip(rows.assign(effect=rows["angle"]), "degrees", 90.0, injected),
        ),
    ]
    return Section(title, ["A row is a norm, a column a token; ● marks what the vector is added to."], panels)


def _nodes(result: Result) -> Section:
    table = result.frames["nodes"]
    wide = table.assign(column=table["where"] + " " + table["quantity"]).pivot_table(
        index=["layer", "node"], columns="column", values="value", sort=False
    )
    frame = wide.reset_index().rename_axis(None, axis=1)
    frame = frame.sort_values("later ratio" if "later ratio" in frame else frame.columns[-1], ascending=False)
    columns = ["node", *[c for c in frame.columns if c not in ("layer", "node")]]
    return everything(frame, columns, "How much each node's output changes", result)


def _lens(result: Result) -> list[Section]:
    name = result.manifest.get("lens", {}).get("name", "lens")
    text = f"Seen through the {name}: what the stream before each layer would predict."
    return lens_sections(result.frames["lens"], result.frames["tokens"], text)


def _table(result: Result) -> Section:
    columns = ["layer", "norm", "where", "quantity", "value", "low", "high", "control", "control_low", "control_high"]
    return everything(result.frames["stream"], columns, "All numbers", result)
