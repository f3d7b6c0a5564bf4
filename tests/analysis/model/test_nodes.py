import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerscope.analysis.errors import BadNode
from steerscope.analysis.model.nodes import PER_HEAD, SITES, Node, Site, parse_node, parse_site

layers = st.integers(0, 200)
heads = st.integers(0, 200)


@given(layers, st.none() | heads)
def test_a_node_parses_as_it_prints(layer: int, head: int | None) -> None:
    assert parse_node(str(Node(layer, head))) == Node(layer, head)


@given(layers, heads, st.sampled_from(SITES))
def test_a_site_parses_as_it_prints(layer: int, head: int, name: str) -> None:
    site = Site(name, layer, head if name in PER_HEAD else None)
    assert parse_site(str(site)) == site


@pytest.mark.parametrize("text", ["", "L5", "H3", "L5H", "L-1H0", "L5H3.z", "5.3", "L5N", "L5M3"])
def test_what_is_no_node_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadNode, match="L5H3"):
        parse_node(text)


@pytest.mark.parametrize("text", ["L5.z", "L5H3.resid_pre", "L5.nothing", "resid_pre", "L5H3"])
def test_what_is_no_site_is_refused(text: str) -> None:
    with pytest.raises(BadNode, match="expected|write for example"):
        parse_site(text)


def test_a_node_is_set_where_it_writes() -> None:
    assert str(Node(5, 3).site) == "L5H3.z"
    assert str(Node(5).site) == "L5.mlp_out"
