"""The gate: what is let through and as what, what is refused and in which words, at functions, methods and classes."""

import enum
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, field, replace
from fractions import Fraction
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from odd_names import named
from torch import Tensor

from steerscope.analysis.errors import BadArgument, BadPrompt
from steerscope.analysis.gate import Bytes, Count, Level, Positive, Refused, Seed, Share, Whole, Within, check_of, gated


class Old(str, enum.Enum):  # noqa: UP042  (a user's, from before 3.11)
    own = "own"


class New(enum.StrEnum):
    own = "own"


def generator(*items: Any) -> Iterator[Any]:
    yield from items


def failing() -> Iterator[Any]:
    yield 1
    raise ValueError("the user's own")


Prompts = Sequence[str] | Sequence[Sequence[int]]

LET_THROUGH: list[tuple[Any, Any, Any]] = [
    (int, np.int64(3), 3),
    (int, torch.tensor(3), 3),
    (int, np.array(3, dtype=np.uint8), 3),
    (int, -(2**63) + 1, -(2**63) + 1),
    (float, 3, 3),
    (float, np.float32(0.5), 0.5),
    (float, torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    (float, Fraction(1, 4), 0.25),
    (float, 1e308, 1e308),
    (bool, np.bool_(True), True),
    (str, "Zoë \U0001f600 \0", "Zoë \U0001f600 \0"),
    (str, np.str_("a"), "a"),
    (str, Old.own, "own"),
    (str, New.own, "own"),
    (Path, "a", Path("a")),
    (Path, PurePosixPath("a"), Path("a")),
    (str | Path, "a", "a"),
    (str | Path, Path("a"), Path("a")),
    (int | None, None, None),
    (None, None, None),
    (Literal["own", "through"], "own", "own"),
    (Literal["own", "through"], New.own, "own"),
    (Sequence[int], np.array([1, 2]), (1, 2)),
    (Sequence[int], torch.tensor([1, 2]), (1, 2)),
    (Sequence[int], generator(1, np.int64(2)), (1, 2)),
    (Sequence[int], range(2), (0, 1)),
    (Sequence[int], [1, np.int8(2)], [1, 2]),
    (Sequence[str], {"a": 1}.keys(), ("a",)),
    (list[int], (1, 2), [1, 2]),
    (tuple[int, float], [np.int64(1), 2.5], (1, 2.5)),
    (tuple[int, ...], generator(1, 2, 3), (1, 2, 3)),
    (tuple[int, ...], (), ()),
    (Sequence[Sequence[int]], [generator(1), np.array([2, 3])], [(1,), (2, 3)]),
    (Prompts, generator([1], [2]), ([1], [2])),
    (Prompts, generator("a", "b"), ("a", "b")),
    (Sequence[int] | int, 3, 3),
    (Sequence[int] | Sequence[float], generator(1, 2.5), (1, 2.5)),
    (int | Sequence[int], generator(4, 5), (4, 5)),
    (Mapping[str, Sequence[int]], {"a": range(2)}, {"a": (0, 1)}),
    (dict[str, Any], {}, {}),
    (Count, 1, 1),
    (Count, 1_000_000, 1_000_000),
    (Whole, 0, 0),
    (Seed, 2**63 - 1, 2**63 - 1),
    (Bytes, 1, 1),
    (Share, 1, 1),
    (Level, 0.5, 0.5),
    (Positive, 5e-324, 5e-324),
    (Annotated[int, Within(2, 10)] | None, None, None),
    (Sequence[Share], generator(0, 1), (0, 1)),
    (Any, failing, failing),
    (Callable[[int], int], len, len),
]


@pytest.mark.parametrize(("kind", "value", "expected"), LET_THROUGH, ids=named)
def test_a_value_of_the_kind_comes_through_as_plain_python(kind: Any, value: Any, expected: Any) -> None:
    found = check_of(kind)(value)
    assert found == expected and type(found) is type(expected)
    if isinstance(expected, tuple | list):
        assert [type(item) for item in found] == [type(item) for item in expected]


REFUSED: list[tuple[Any, Any, str]] = [
    (int, True, "an integer"),
    (int, 3.0, "an integer"),
    (int, "3", "an integer"),
    (int, None, "an integer"),
    (int, 2**63, "an integer"),
    (int, np.array([3]), "an integer"),
    (int, torch.tensor(3, device="meta"), "an integer"),
    (float, True, "a finite number"),
    (float, np.bool_(True), "a finite number"),
    (float, math.nan, "a finite number"),
    (float, torch.tensor(math.inf), "a finite number"),
    (float, 10**400, "a finite number"),
    (float, Fraction(10**400), "a finite number"),
    (float, 1j, "a finite number"),
    (bool, 1, "True or False"),
    (bool, "yes", "True or False"),
    (str, "\ud83d", "a text without lone surrogates .half a character."),
    (str, b"a", "a text"),
    (Path, "", "a path"),
    (Path, "a\0b", "a path"),
    (Path, "\ud83d", "a path"),
    (Path, b"a", "a path"),
    (Literal["own", "through"], "none", "one of own, through"),
    (Literal["own", "through"], ["own"], "one of own, through"),
    (int | None, "a", "an integer or None"),
    (Sequence[int], "12", "a sequence"),
    (Sequence[str], "ab", "a sequence"),
    (Sequence[str], b"ab", "a sequence"),
    (Sequence[int], {1: 2}, "a sequence"),
    (Sequence[int], 3, "a sequence"),
    (Sequence[int], np.array(3), "a sequence"),
    (Sequence[int], [1, None], "a sequence, each an integer"),
    (Sequence[int], failing(), "a sequence that can be read .*the user's own"),
    (Sequence[int], count(), "a sequence of at most 1,000,000"),
    (Sequence[Sequence[int]], (count() for _ in count()), "(a sequence, each )?a sequence of at most"),
    (tuple[int, int], (1,), "2 values"),
    (tuple[int, int], (1, 2, 3), "2 values"),
    (tuple[int, int], (1, "2"), "an integer"),
    (Mapping[str, int], [("a", 1)], "a dictionary"),
    (Mapping[str, int], {"a": "b"}, "a dictionary, each entry an integer"),
    (Mapping[str, int], {1: 1}, "a dictionary, each entry a text"),
    (Callable[[int], int], 3, "a function"),
    (Float[Tensor, "pos width"], [1.0], "a Tensor"),
    (Count, 0, "an integer from 1 to 1,000,000"),
    (Count, 10**9, "an integer from 1 to 1,000,000"),
    (Count, "1", "an integer from 1 to 1,000,000"),
    (Whole, -1, "an integer from 0"),
    (Seed, -1, "an integer from 0"),
    (Share, 1.01, "a number from 0 to 1"),
    (Share, math.nan, "a finite number from 0 to 1"),
    (Level, 1, "a number between 0 and 1"),
    (Level, 0.0, "a number between 0 and 1"),
    (Positive, 0, "a number above 0"),
    (Annotated[float, Within(2)], 1, "a number of at least 2"),
    (Sequence[Share], [2], "a sequence, each a number from 0 to 1"),
]


@pytest.mark.parametrize(("kind", "value", "expected"), REFUSED, ids=named)
def test_a_value_of_another_kind_is_refused_with_what_was_expected(kind: Any, value: Any, expected: str) -> None:
    with pytest.raises(Refused, match=f"^{expected}"):
        check_of(kind)(value)


@gated(error=BadPrompt)
def _door(prompts: Prompts, *, k: Count = 2, share: Share | None = None) -> Any:
    return prompts, k, share


door: Any = _door  # given what its annotations do not say


@gated
def _open_door(first: int, *rest: str, flag: bool = False, **knobs: Any) -> Any:
    """The second of two lines
    is not the first."""
    return first, rest, flag, knobs


open_door: Any = _open_door


def test_a_function_gets_plain_python_and_keeps_its_defaults() -> None:
    assert door(generator("a"), k=np.int64(3)) == (("a",), 3, None)
    assert door([[1]]) == ([[1]], 2, None)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (
            lambda: door(["a"], k=0),
            "_door got k=0; expected an integer from 1 to 1,000,000; give that, or leave it out",
        ),
        (lambda: door("Once"), "_door got prompts='Once'; expected a sequence"),
        (lambda: door(["a"], ["b"]), "_door: .*positional.*; expected prompts, k, share; see help._door."),
        (lambda: door(["a"], kk=3), "_door: .*'kk'; expected prompts, k, share"),
        (lambda: door(), "_door: .*missing.*'prompts'; expected prompts, k, share"),
        (lambda: door(["a"], prompts=["b"]), "_door: .*multiple values.*'prompts'"),
        (lambda: door(["x" * 10_000]), None),
        (lambda: door(["\ud800" * 10_000]), "_door got prompts=.{1,120}; expected"),
    ],
)
def test_a_refusal_names_the_door_the_argument_the_value_and_what_was_expected(
    act: Callable[[], Any], words: str | None
) -> None:
    if words is None:
        act()
        return
    with pytest.raises(BadPrompt, match=words) as found:
        act()
    assert len(str(found.value)) < 400 and "\n" not in str(found.value)
    str(found.value).encode()


def test_arguments_that_are_gathered_go_through_and_named_ones_are_held_against_their_own_kinds() -> None:
    assert open_door(np.int64(1), "a", "b", "c", flag=True, more=3) == (1, ("a", "b", "c"), True, {"more": 3})
    with pytest.raises(BadArgument, match="_open_door got flag='yes'; expected True or False"):
        open_door(1, "a", flag="yes")


def test_a_value_whose_repr_fails_can_be_refused() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    with pytest.raises(BadArgument, match="_open_door got first=<Odd>; expected an integer"):
        open_door(Odd())


def test_a_type_error_of_the_body_is_a_bug_and_stays_one() -> None:
    @gated
    def broken(a: int) -> Any:
        return a + "1"  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        broken(1)


def test_the_door_keeps_its_name_its_help_and_its_signature() -> None:
    import inspect

    assert open_door.__name__ == "_open_door" and "second of two" in (open_door.__doc__ or "")
    assert list(inspect.signature(open_door).parameters) == ["first", "rest", "flag", "knobs"]
    assert inspect.signature(door).parameters["k"].default == 2


@gated
@dataclass(frozen=True)
class Recipe:
    """What is cooked."""

    steps: Count
    names: Sequence[str] = ()
    rate: Positive = 1.0
    more: Mapping[str, Any] = field(default_factory=dict)
    made: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.steps > 100:
            raise BadArgument("too many; expected fewer; give fewer")

    @gated
    def at(self, step: Whole, *, of: "Recipe | None" = None) -> int:
        return step

    @classmethod
    @gated
    def of(cls, steps: Count) -> "Recipe":
        return cls(steps)


def test_a_class_is_a_door_too_and_so_are_its_methods() -> None:
    made = Recipe(np.int64(3), generator("a"))  # type: ignore[arg-type]
    assert (made.steps, type(made.steps), made.names) == (3, int, ("a",))
    assert made.at(torch.tensor(2), of=made) == 2 and Recipe.of(np.uint8(4)).steps == 4  # type: ignore[arg-type]
    for act, words in (
        (lambda: Recipe(0), "Recipe got steps=0; expected an integer from 1"),
        (lambda: Recipe(1, rate=math.nan), "Recipe got rate=nan; expected a finite number above 0"),
        (lambda: Recipe(), "Recipe: .*missing.*'steps'; expected steps, names, rate, more"),  # type: ignore[call-arg]
        (lambda: Recipe(1, made=3), "Recipe: .*'made'"),  # type: ignore[call-arg]
        (lambda: Recipe(101), "too many"),
        (lambda: made.at(-1), "at got step=-1; expected an integer from 0"),
        (lambda: made.at(1, of=3), "at got of=3; expected a Recipe or None"),  # type: ignore[arg-type]
        (lambda: made.at(), "at: .*missing.*'step'; expected step, of"),  # type: ignore[call-arg]
        (lambda: Recipe.of(-1), "of got steps=-1"),
    ):
        with pytest.raises(BadArgument, match=words):
            act()


def test_a_changed_copy_goes_through_the_gate_again() -> None:
    made = Recipe(3)
    assert replace(made, steps=np.int64(4)).steps == 4  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="Recipe got rate=-1"):
        replace(made, rate=-1)
    with pytest.raises(FrozenInstanceError):
        made.steps = 5  # type: ignore[misc]
    assert made == Recipe(3) and repr(made).startswith("Recipe(steps=3")


def test_a_kind_that_is_imported_later_may_be_named() -> None:
    """Annotations are read at the first call."""

    @gated
    def early(thing: "Later") -> Any:
        return thing

    class Later:
        pass

    globals()["Later"] = Later
    try:
        thing = Later()
        assert early(thing) is thing
        with pytest.raises(BadArgument, match="early got thing=3; expected a Later"):
            early(3)  # type: ignore[arg-type]
    finally:
        del globals()["Later"]


@pytest.mark.parametrize("error", [BadArgument, BadPrompt])
def test_a_door_raises_the_error_that_it_names(error: type[Exception]) -> None:
    @gated(error=error)  # type: ignore[arg-type]
    def other(a: int) -> int:
        return a

    with pytest.raises(error, match="other got a=None; expected an integer"):
        other(None)  # type: ignore[arg-type]
