"""Graphs of edges: what is no table of edges is refused, whoever made it."""

from typing import Any

import pandas as pd
import pytest

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column
from steerscope.circuits.edge_graph import edge_graph

ROWS = [("injection", "L0H1.k", 3.0, 0, 0), ("L0H1", "L1M", -1.0, 0, 1), ("L1M", "logits", 2.0, 1, 2)]
COLUMNS = ["sender", "receiver", "effect", "sender_layer", "receiver_layer"]


def result(table: pd.DataFrame, **manifest: Any) -> Result:
    return Result("edges", {"edges": table}, {"edges": {c: Column("of it") for c in map(str, table)}}, manifest)


def table(**changed: Any) -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=COLUMNS).assign(**changed)


def test_the_strongest_edges_make_a_way_or_none() -> None:
    assert set(edge_graph(result(table()))) == {"injection", "L0H1", "L1M", "logits"}
    assert not edge_graph(result(table()), strongest=1)
    assert not edge_graph(result(table().iloc[:0]))


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("odd", [None, "", "x", "LxM", "L0H1.z", b"L0M", "L1M\n"])
def test_a_table_that_edges_did_not_make_is_refused(column: str, odd: object) -> None:
    with pytest.raises(BadArgument, match=rf"something else in .*{column}"):
        edge_graph(result(table(**{column: odd})))


def test_a_layer_must_be_a_number_that_is_there() -> None:
    for odd in (float("nan"), float("inf")):
        with pytest.raises(BadArgument, match="something else in sender_layer"):
            edge_graph(result(table(sender_layer=odd)))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_table_without_a_column_is_refused(column: str) -> None:
    with pytest.raises(BadArgument, match=rf"something else in .*{column}"):
        edge_graph(result(table().drop(columns=column)))


@pytest.mark.parametrize("shared", [0, -1, 2**70, "2", None, [], 1.5])
def test_a_number_of_heads_that_no_model_has_is_refused(shared: object) -> None:
    with pytest.raises(BadArgument, match="something else in shared"):
        edge_graph(result(table(), shared=shared))


def test_a_result_without_the_table_is_refused() -> None:
    with pytest.raises(BadArgument, match="of a result of kind 'edges'"):
        edge_graph(Result("edges", {}, {}))
    for strongest in (0, -1, 1.5, float("nan"), "all"):
        with pytest.raises(BadArgument, match="edge_graph got strongest=.*; expected an integer from 1"):
            edge_graph(result(table()), strongest)  # type: ignore[arg-type]
