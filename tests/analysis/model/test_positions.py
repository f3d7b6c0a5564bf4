import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerscope.analysis.errors import BadInjection
from steerscope.analysis.model.positions import PLACES, Layout, Positions, parse_positions


@given(st.sampled_from(PLACES) | st.lists(st.integers(-50, 50), min_size=1, unique=True))
def test_positions_parse_as_they_print(value: str | list[int]) -> None:
    positions = parse_positions(value)
    assert parse_positions(str(positions)) == positions


@given(st.sampled_from(("front", "middle", "back")), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_pieces_stay_whole_and_inside_the_prompt(place: str, rows: int, more: int, bos: bool) -> None:
    length = rows + more - 1
    found = Positions(place).resolve(Layout(length, bos), rows)
    assert list(found) == list(range(found[0], found[0] + rows))
    assert found[0] >= 0 and found[-1] < length


@pytest.mark.parametrize(
    ("place", "expected"),
    [("front", (0, 1, 2)), ("middle", (3, 4, 5)), ("back", (7, 8, 9)), ("last", (9,)), ("all", tuple(range(1, 10)))],
)
def test_places_mean_what_they_say(place: str, expected: tuple[int, ...]) -> None:
    assert Positions(place).resolve(Layout(10, True), 3) == expected


def test_all_begins_at_zero_where_there_is_no_bos() -> None:
    assert Positions("all").resolve(Layout(3)) == (0, 1, 2)


def test_negative_indices_count_from_the_end() -> None:
    assert parse_positions("0,-1").resolve(Layout(5, True)) == (0, 4)


@pytest.mark.parametrize(
    ("value", "words"), [("nowhere", "front, middle"), ("1,1", "twice"), ("", "unknown position"), ((), "no positions")]
)
def test_bad_positions_are_refused(value: str | tuple[int, ...], words: str) -> None:
    with pytest.raises(BadInjection, match=words):
        parse_positions(value)


def test_a_vector_longer_than_the_prompt_is_refused() -> None:
    with pytest.raises(BadInjection, match="4 positions and the prompt only 3 tokens"):
        Positions("front").resolve(Layout(3, True), 4)


def test_an_index_outside_of_the_prompt_is_refused() -> None:
    with pytest.raises(BadInjection, match="position 5 is outside of a prompt of 5 tokens"):
        parse_positions("5").resolve(Layout(5, True))
