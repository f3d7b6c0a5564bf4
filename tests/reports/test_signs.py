"""Signs are relative to the whole effect: with everything negated, pages say the same in the same colours."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from made_up import effects, fitting, made_references
from made_up import result as made_result
from small_runs import RUNS

from steerscope.analysis.question.answers import PerPrompt
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.results.result import Result
from steerscope.questions import QUESTIONS, page_of
from steerscope.reports import notebook
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Page
from steerscope.reports.pages import default
from steerscope.reports.pages.common import metric_name
from steerscope.reports.pages.edges import _widest
from steerscope.reports.records import sides, total, way
from steerscope.reports.theme import BOLD, DIVERGING, NEGATIVE, NEUTRAL, PLAIN, POSITIVE, bold, diverging, side

Maker = Callable[..., Result]
KINDS = [*RUNS, "sweep"]
# A door; norms; a curve over the coefficient; a lens; of several models; single tokens that rise and fall.
NO_EFFECTS = {"localize", "trace", "breakdown", "train_lens", "compare_variants", "task_vector"}
NO_EFFECTS |= {"find_circuit", "scrub", "stress", "head_census", "layer_study", "compare_vectors", "dissect"}
SIZES = {"sampling_error", "worst_error", "bound", "width"}  # have the metric's unit, and no sign
MIXED = {"effects", "writers", "edges", "verified", "paths", "positions", "carriers", "later", "nodes", "interactions"}


@pytest.fixture(scope="module")
def results(small: dict[str, Result], sweep_maker: Maker) -> dict[str, Result]:
    return {kind: clear(one) for kind, one in (small | {"sweep": sweep_maker()}).items()}


def clear(result: Result) -> Result:
    """The same with something said of two of three rows, since of three prompts nothing is; one of four is opposed."""
    frames = {}
    for name, frame in result.frames.items():
        table, chosen = frame.copy(), np.arange(len(frame)) % 3 != 2
        if name in MIXED:
            opposed = _negated(table, result.columns[name])
            for share in (c for c in map(str, table) if c == "share" and name != "writers" or c.endswith("_share")):
                opposed[share] = -table[share]
            rest = np.arange(len(table)) % 4 == 1
            table = pd.concat([table[~rest], opposed[rest]]).sort_index(kind="stable")
        for column in map(str, table):
            if column in ("significant", "told") or column.endswith(("_significant", "_told")):
                table[column] = chosen
            if column in ("p_adjusted", "p_holm") or column.endswith("_p_holm"):
                table[column] = np.where(chosen, 1e-4, 0.6)
        if "verdict" in table:
            of = table["share"] if "share" in table else pd.Series(1.0, index=table.index)
            table["verdict"] = np.where(chosen, fitting(of, 1.0), "untested")
        frames[name] = table
    return replace(result, frames=frames, manifest={**result.manifest, "references": made_references(2)})


def negated(result: Result) -> Result:
    """All effects, totals, intervals and references with the other sign; shares of the total stay."""
    frames = {name: _negated(frame, result.columns[name]) for name, frame in result.frames.items()}
    manifest: dict[str, Any] = dict(result.manifest)
    if "total" in manifest:
        manifest["total"] = -manifest["total"]
    if "whole" in manifest:
        of = manifest["whole"]["effect"]
        effect = {"mean": -of["mean"], "low": -of["high"], "high": -of["low"]}
        manifest["whole"] = {**manifest["whole"], "effect": effect}
    return replace(result, frames=frames, manifest=manifest)


def _negated(frame: pd.DataFrame, columns: Any) -> pd.DataFrame:
    table = frame.copy()
    rows = ~_costs(frame)
    for column, about in columns.items():
        metric, of_row = "{metric}" in about.unit, about.unit == "{unit}"
        if (metric or of_row) and column not in SIZES:
            source = re.sub("low|high", lambda end: {"low": "high", "high": "low"}[end[0]], column)
            table[column] = (-frame[source]).where(rows, frame[column]) if of_row else -frame[source]
    return table


def _costs(frame: pd.DataFrame) -> pd.Series:
    """Rows whose outcome is no effect, and keeps its sign."""
    found = pd.Series(False, index=frame.index)
    for name in ("outcome", "quantity"):
        found |= frame[name].isin(["kl", "loss", "damage"]) if name in frame else False
    return found


def unsigned(text: str) -> str:
    """Text without signs of numbers and sides of lines, the ends of intervals in a fixed order."""
    text = re.sub(r"\b(lies?) (?:above|below)", r"\1 beyond", text)
    text = re.sub(r"[+−](?=[\d.∞])", "", text)
    return re.sub(r"\[([^\[\],]+), ([^\[\],]+)\]", lambda m: str(sorted(m.groups())), text)


def texts(page: Page) -> Iterator[str]:
    yield from [page.title, page.subtitle, *page.headline, *page.warnings, *(str(one) for one in page.glance)]
    for section in page.sections:
        yield from [section.title, *section.text, *(f"{panel.title}: {panel.missing}" for panel in section.panels)]
        yield from (" ".join(sorted(map(unsigned, row))) for row in (section.table.rows if section.table else ()))


def colours(page: Page) -> list[set[tuple[str, Any]]]:
    """Of each figure, what its marks say with the sign left out, and their colours."""
    return [set(_marks(panel.figure)) for section in page.sections for panel in section.panels if panel.figure]


def _marks(figure: go.Figure) -> Iterator[tuple[str, Any]]:
    for trace in figure.data:
        if trace.type == "heatmap":
            low, high = trace.zmin, trace.zmax
            labels = np.full(np.shape(trace.z), "") if trace.customdata is None else np.array(trace.customdata)
            for z, label in zip(np.ravel(np.array(trace.z, float)), labels.reshape(-1), strict=True):
                if not np.isnan(z) and low is not None:
                    yield unsigned(str(label)), _at(trace.colorscale, float(np.clip((z - low) / (high - low), 0, 1)))
            continue
        said = trace.customdata if trace.customdata is not None else trace.text
        names = [""] if said is None else [said] if isinstance(said, str) else list(said)
        colour = getattr(trace.marker, "color", None)
        colour = trace.line.color if colour is None and trace.type == "scatter" else colour
        many: list[Any] = list(colour) if isinstance(colour, tuple | list | np.ndarray) else [colour] * len(names)
        yield from ((unsigned(str(label)), str(one)) for label, one in zip(names, many, strict=False))


def _at(scale: Any, place: float) -> tuple[float, ...]:
    parts = [[int(colour[i : i + 2], 16) for _, colour in scale] for i in (1, 3, 5)]
    return tuple(round(float(np.interp(place, [at for at, _ in scale], part)), 3) for part in parts)


def test_every_question_about_effects_is_asked_here() -> None:
    assert set(KINDS) == set(QUESTIONS) - NO_EFFECTS


@pytest.mark.parametrize("own", [True, False], ids=["its page", "the default page"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_every_sign_turned_sentences_and_colours_are_the_same(
    results: dict[str, Result], kind: str, own: bool
) -> None:
    result = results[kind]
    draw = page_of(kind).page if own else default.page
    if not own:  # where a frame has no groups, the default page ranks disturbance and damage beside effects
        frames = {name: table[~_costs(table)] for name, table in result.frames.items()}
        result = replace(result, frames=frames)
    one, other = draw(result), draw(negated(result))
    assert way(negated(result)) == -way(result)
    said = [(unsigned(a), unsigned(b)) for a, b in zip(texts(one), texts(other), strict=True)]
    assert [a for a, b in said if a != b] == [b for a, b in said if a != b]
    for a, b in zip(colours(one), colours(other), strict=True):
        assert a == b


def headline(result: Result) -> str:
    return " ".join(page_of(result.kind).page(result).headline)


def with_effects(result: Result, rows: list[tuple[float, float, str]], towards: int = -1, **more: Any) -> Result:
    """Effects, shares and verdicts of the first nodes; the others are zero; and the sign of the total."""
    frame = result.frames["effects"].assign(effect=0.0, share=0.0, verdict="small", p_holm=1.0, own_share=0.0)
    for measure in frame["measure"].unique():
        places = frame.index[frame["measure"] == measure][: len(rows)]
        frame.loc[places, ["effect", "share", "verdict"]] = rows
    frame = frame[list(result.frames["effects"])].astype({"effect": float, "share": float})
    frames = {**result.frames, "effects": frame, **more}
    if "totals" in frames:
        table = frames["totals"]
        frames["totals"] = table.assign(value=table["value"].abs() * towards)
    return replace(result, frames=frames, manifest={**result.manifest, "total": 2.0 * towards})


def test_a_relay_needs_its_partner_whatever_the_sign_of_the_effect(results: dict[str, Result]) -> None:
    given = results["shapley"]
    for towards in (1, -1):
        pairs = given.frames["interactions"].head(2).assign(effect=[0.5 * towards, -0.25 * towards], significant=True)
        result = with_effects(given, [(2.0 * towards, 1.0, "specific")], towards, interactions=pairs)
        assert way(result) == towards
        relay, both = (f"{r.node_a} and {r.node_b}" for r in pairs.itertuples())
        said = unsigned(headline(result))
        assert (
            f"Pairs that need each other: {relay} (0.500); pairs that stand in for each other: {both} (0.250)" in said
        )
        [drawn] = [panel for section in page_of("shapley").page(result).sections for panel in section.panels][2:]
        assert drawn.figure is not None
        red = {label.split("\n")[0]: colour[0] - colour[2] for label, colour in _marks(drawn.figure) if BOLD in label}
        assert red[bold(relay)] > 0 > red[bold(both)]


@pytest.mark.parametrize("kind", ["exact", "screen", "shapley"])
def test_opponents_and_zeros_are_no_carriers(results: dict[str, Result], kind: str) -> None:
    given = results[kind]
    if kind == "shapley":  # pairs are named, too
        given = replace(given, frames={**given.frames, "interactions": given.frames["interactions"].head(0)})
    result = with_effects(given, [(-2.0, 1.0, "specific"), (4 / 3, -0.67, "against")])
    carrier, opponent, zero = result.frames["effects"]["node"].head(3)
    said = headline(result)
    assert f"{carrier} (100%" in said and f"Working against the effect: {opponent} (−67%)." in said
    assert not re.search(rf"\b{zero} \(", said) and said.index(carrier) < said.index("Working against")
    none = headline(with_effects(given, [(4 / 3, -0.67, "against")]))
    assert f"Working against the effect: {carrier} (−67%)." in none
    assert "Nothing is specific" in none or "can it be said" in none
    assert none.count(f"{carrier} (") == 1


def test_a_carrier_of_all_of_a_negative_effect_has_the_colour_of_working_along(results: dict[str, Result]) -> None:
    result = with_effects(results["exact"], [(-2.0, 1.0, "specific"), (4 / 3, -0.67, "against")])
    carrier, opponent = result.frames["effects"]["node"].head(2)
    page = page_of("exact").page(result)
    ranked = [p.figure for s in page.sections if s.title == "Ranked carriers" for p in s.panels]
    maps = [p.figure for s in page.sections if s.title == "Heads by layers" for p in s.panels]
    for figure in ranked:
        found = {label.split(PLAIN)[0][1:]: colour for label, colour in _marks(figure) if BOLD in label}
        assert found == {carrier: POSITIVE, opponent: NEGATIVE}
    for figure in maps:
        warm = {label.split(PLAIN)[0][1:]: c[0] - c[2] for label, c in _marks(figure) if isinstance(c, tuple)}
        assert warm[carrier] > 0 > warm[opponent]
    assert POSITIVE in notebook.html(result) and list(ranked[0].data[0].x) == [-2.0, 4 / 3]


def test_places_work_against_the_whole_effect_not_against_their_own_sum(results: dict[str, Result]) -> None:
    given = results["by_position"]
    frame = given.frames["positions"].copy()
    frame[["effect", "share", "verdict"]] = 0.0, 0.0, "small"
    places = frame.index[(frame["measure"] == "necessity") & ~frame["where"].isin(["between", "all", "injected +"])]
    frame.loc[places[:2], "effect"], frame.loc[places[:2], "share"] = [0.882, -5.0], [0.043, -0.25]
    frame.loc[places[:2], "verdict"] = ["concept", "against"]
    result = replace(given, frames={**given.frames, "positions": frame}, manifest={**given.manifest, "total": 20.4})
    one, other = (f"{frame['node'][i]} at “{frame['where'][i]}”" for i in places[:2])
    said = " ".join(page_of("by_position").page(result).headline)
    assert said.index(f"{one} (+0.882") < said.index("Working against the effect") < said.index(f"{other} (−5.00")


def test_removed_nodes_that_work_against_the_effect_are_no_carriers(results: dict[str, Result]) -> None:
    given = results["self_repair"]
    frame = given.frames["carriers"].copy()
    net = frame["part"] == "net"
    frame.loc[net, "effect"], frame.loc[net, "share"] = [-2.0, -1.0, 1.0], [1.0, 0.5, -0.5]
    frame.loc[net, "verdict"] = ["specific", "shared", "against"]
    result = replace(given, frames={**given.frames, "carriers": frame}, manifest={**given.manifest, "total": -2.0})
    *_, last = page_of("self_repair").page(result).headline
    opponent = frame[net]["node"].iloc[2]
    assert last == f"Of the removed nodes, these work against the effect: {opponent} (−50%)."


def test_the_widest_way_keeps_to_edges_that_carry_the_effect() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for sender, receiver, weight in (("injection", "a", 9.0), ("a", "logits", 9.0), ("injection", "b", -1.0)):
        graph.add_edge(sender, receiver, weight=weight, inputs={"mlp": weight})
    graph.add_edge("b", "logits", weight=-1.0, inputs={"mlp": -1.0})
    assert _widest(graph, -1) == ["injection", "b", "logits"] and _widest(graph, 1) == ["injection", "a", "logits"]


def test_the_metric_is_named_with_what_its_targets_are_compared_with() -> None:
    metric = log_prob([31], [7])
    named = metric_name({"metric": {"name": metric.name, **metric.options}})
    assert named == "log prob of 31 against 7"
    assert metric_name({"metric": {"name": "log_prob", "targets": [" A"]}}) == "log prob of ' A'"
    own = log_prob(PerPrompt([31, 7]), against=PerPrompt([7, 31]))
    named = metric_name({"metric": {"name": own.name, **own.options}})
    assert named == "log prob of each prompt's own against each prompt's own"


def test_zero_is_neither_and_without_a_total_numbers_are_judged_by_themselves() -> None:
    frame = effects([3.0, 0.0, -2.0])
    assert [len(rows) for rows in sides(frame, -1)] == [1, 1] and [len(rows) for rows in sides(frame, 0)] == [0, 0]
    assert side(0.0) == side(2.0, 0) == NEUTRAL and side(-2.0, -1) == POSITIVE and side(2.0, -1) == NEGATIVE
    unknown = made_result(frame)
    assert np.isnan(total(unknown)) and way(unknown) == 1 and way(made_result(frame, total=0.0)) == 0
    assert diverging(-1)[0] == (0.0, DIVERGING[-1][1]) and len({colour for _, colour in diverging(0)}) == 2
    drawn = frame.assign(kind="mlp", measure="m")
    drawn = drawn.drop(columns="verdict").assign(significant=True)  # a table of truth values
    assert list(ranking(drawn, "", describe=lambda *_: "", towards=-1).data[0].marker.color) == [NEGATIVE, POSITIVE]
