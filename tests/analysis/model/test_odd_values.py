"""Odd values at the doors of models, nodes, sites and positions: our errors, or a value that is right."""

import itertools
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerscope.analysis.errors import BadInjection, BadMetric, BadNode, BadPrompt, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site, parse_node, parse_site
from steerscope.analysis.model.positions import Layout, Positions, parse_positions
from steerscope.tinystories.zoo import shipped

ODD: list[Any] = [
    None, True, -1, 2**63, 10**400, 0.5, math.nan, math.inf, "", " ", "x" * 10_000, "\ud800", "\0", "٣", "L٣H0",
    "L3H²",
    "L99999999999H0", "L-1H0", "L" + "9" * 5000 + "M", "1," * 5000, "1,1", "-", ",", "0,--1", b"L0H0", [], (), {},
    [None],
    [[]], ["L0H0"], set(), object(), Node, lambda: 0, range(10**9), itertools.count(), iter("ab"), (i for i in (1, 1)),
    np.int64(-1), np.float32("nan"), np.array([]), np.array([0.5]), torch.tensor(math.nan), torch.ones(2, 2),
    torch.empty(2, device="meta"), 1 + 2j, Site("q", 0, 0), Positions("last"),
]  # fmt: skip
DOORS: dict[str, Callable[[Any], Any]] = {
    "Node": Node,
    "Node's head": lambda value: Node(0, value),
    "Site": lambda value: Site(value, 0),
    "Site's layer": lambda value: Site("q", value, 0),
    "Site's head": lambda value: Site("q", 0, value),
    "parse_node": parse_node,
    "parse_site": parse_site,
    "Positions": Positions,
    "Positions' indices": lambda value: Positions(None, value),
    "parse_positions": parse_positions,
    "Layout": Layout,
    "Layout's BOS": lambda value: Layout(5, value),
    "resolve": lambda value: Positions("all").resolve(value),
    "resolve's rows": lambda value: Positions("front").resolve(Layout(5, True), value),
}
METHODS = (
    *("has_bos", "layout", "hook", "width", "heads", "check", "encode", "encode_inner", "tokens", "text"),
    *("token_text", "single_token"),
)


@pytest.fixture(scope="module")
def model() -> Model:
    from steerscope.loader import load

    return load(shipped()["tinystories-1l"], selfcheck=False)


def _ours(call: Callable[[], Any]) -> Any:
    """What a call gives; a refusal of ours, told in one line within a second."""
    start = time.perf_counter()
    try:
        return call()
    except SteerscopeError as error:
        assert "\n" not in str(error) and len(str(error)) < 600 and "expected" in str(error)
        return error
    finally:
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize("door", DOORS)
def test_doors_of_places_refuse_odd_values(door: str) -> None:
    for value in ODD:
        _ours(partial(DOORS[door], value))


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_a_model_refuse_odd_values(model: Model, method: str) -> None:
    for value in ODD:
        arguments = (value, 0) if method == "hook" else (value,)
        _ours(partial(getattr(model, method), *arguments))
    if method == "hook":
        for value in ODD:
            _ours(partial(model.hook, "resid_pre", value))
    assert isinstance(_ours(lambda: getattr(model, method)(nothing=1)), SteerscopeError)
    assert isinstance(_ours(lambda: getattr(model, method)()), SteerscopeError)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
near = st.from_regex(r"L?\d{0,12}[HM.]?-?\d{0,12}[.,]?\w{0,8}", fullmatch=True)


@given(value=anything | near)
@settings(max_examples=100, deadline=None)
def test_whatever_comes_is_refused_or_prints_as_it_parses(value: Any) -> None:
    for parse, kind in ((parse_node, Node), (parse_site, Site), (parse_positions, Positions)):
        found = _ours(partial(parse, value))
        assert isinstance(found, SteerscopeError) or parse(str(found)) == found and isinstance(found, kind)


def test_a_node_is_not_made_of_its_name() -> None:
    with pytest.raises(BadNode, match="Node got layer='L99999999999H0'; expected an integer from 0 to 1,000,000"):
        Node("L99999999999H0")  # type: ignore[arg-type]
    with pytest.raises(BadNode, match="expected an integer"):
        parse_node("L999999999H0")
    assert Node(np.int64(3), torch.tensor(2)) == Node(3, 2)  # type: ignore[arg-type]
    assert parse_positions(np.array([0, -1])) == Positions(None, (0, -1))  # type: ignore[arg-type]


def test_indices_beside_a_place_are_not_passed_over() -> None:
    with pytest.raises(BadInjection, match="give place=None with indices"):
        Positions(indices=(3,))
    with pytest.raises(BadInjection, match="name one place twice"):
        Positions(None, (1, 1))
    with pytest.raises(BadInjection, match="name one place twice"):
        Positions(None, (0, -3)).resolve(Layout(3, True))


def test_tokens_that_the_model_does_not_know_are_refused(model: Model) -> None:
    for ids in ([model.d_vocab], [-1], [0, 10**6]):
        with pytest.raises(BadPrompt, match="outside of the vocabulary"):
            model.text(ids)
    with pytest.raises(BadMetric, match="outside of the vocabulary"):
        model.single_token(model.d_vocab)
    with pytest.raises(BadPrompt, match="lone surrogates"):
        model.tokens("half \ud800")
    with pytest.raises(BadNode, match="unknown site 'nothing'"):
        model.hook("nothing", 0)
    assert model.text(np.array(model.encode(" Lily"))) == model.text(torch.tensor(model.encode(" Lily")))  # type: ignore[arg-type]
