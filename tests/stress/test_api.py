"""Odd values at every public function, method and class: only our errors come back, soon, and nothing else happens.

Every public name must have a valid call here (a test says so); one argument at a time is then replaced.
"""

import itertools
import signal
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as any_
from public_calls import Call, public_calls

import steerscope as st

SECONDS = 40
LONG = ("steps", "trials")
ELSEWHERE: tuple[str, ...] = ("edge_graph", "found_circuit", "SteeringVector.__mul__", "SteeringVector.__rmul__")
ELSEWHERE += ("Experiment.at_kl", "Experiment.change")


class Hostile:
    """An object that fails wherever it is looked at."""

    def __repr__(self) -> str:
        raise ValueError("no repr")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no iteration")

    def __len__(self) -> int:
        raise RuntimeError("no length")


def _same(value: Any) -> Any:
    return value


VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 63, 10**6, 10**9, 2**31, 2**63, 2**70, -(2**63), 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-320, 1e19, 1e38, 1e308, -1e308, float("nan"), float("inf")),
    *("", " ", "\n", "\0", "\ud800", "é", "\u2028", "L0H0", "L0H99", "L0M", "all", "last", "front", "3,4"),
    *("a" * 10**5, "x" * 300, "../x", "/proc/x", "/dev/null", "/dev/zero", ".", "kl", "none", "{}", "<b>", "%s"),
    *([], (), {}, set(), [[]], [None], [""], ["a"], ["L0H0"], ["L0H0", "L0H0"], ["\ud800"], [0], [-1], [10**9]),
    *([1.5], [float("nan")], [[0]], [[1, 2], [3]], [True], [[[1]]], {"a": 1}, {1: [2]}, {"L0H0": 3}, [0, "a"]),
    *(b"", b"x", bytearray(b"x"), complex(1), Decimal("1.5"), Fraction(1, 3), range(3), range(10**12), object),
    *(np.int64(3), np.float32(0.5), np.bool_(True), np.str_("a"), np.array([1, 2]), np.array(["a"]), np.nan),
    *(Path("x"), Path("/"), Path(), lambda: 0, len, int, ..., NotImplemented, ValueError("x"), slice(3)),
    *(pd.DataFrame(), pd.DataFrame({"a": [1]}), pd.Series([1]), np.zeros((0, 3)), np.datetime64("2020")),
]
ODD: list[Callable[[], Any]] = [
    *(partial(_same, value) for value in VALUES),
    lambda: torch.tensor(1.0),
    lambda: torch.tensor([1, 2]),
    lambda: torch.full((2, 16), float("nan")),
    lambda: torch.ones(2, 16),
    lambda: torch.ones(0),
    lambda: torch.ones(3, 3, 3, dtype=torch.float16),
    lambda: torch.ones(2, device="meta"),
    lambda: (x for x in ("a", "b")),
    lambda: iter([]),
    lambda: itertools.count(),
    lambda: object(),
    lambda: Hostile(),
]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Call]:
    made: dict[str, Call] = public_calls(tmp_path_factory.mktemp("model"))
    return made


@pytest.fixture(autouse=True)
def _aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # odd names of files are written there


def test_every_public_name_is_tried_and_gated(calls: dict[str, Call]) -> None:
    public = set(st.__all__) - {"SteerscopeError"}
    assert public <= set(calls)
    ungated = [name for name, (function, _) in calls.items() if not getattr(function, "__gated__", False)]
    assert not [name for name in ungated if "." not in name and name not in ("kl", "logit_direction", "own_direction")]
    with_arguments = [n for n in ungated if "." in n and "__" not in n and calls[n][1]]
    assert not with_arguments


def test_every_valid_call_is_valid(calls: dict[str, Call]) -> None:
    faults = []
    for name, (function, options) in calls.items():
        try:
            function(**options)
        except st.SteerscopeError as error:
            faults += [] if name in ELSEWHERE else [f"{name}: {error}"]
    assert not faults


def _sensible(name: str, argument: str, value: Any) -> bool:
    """A function of the user's own may raise what it likes; a million steps may take their time."""
    return not (argument == "executor" and callable(value)) and not (argument in LONG and isinstance(value, int))


def _try(name: str, call: Call, argument: str, value: Any) -> None:
    function, options = call
    if not _sensible(name, argument, value) and value not in (0, -1):
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"{name}({argument}=...) took over {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        function(**{**options, argument: value})
    except st.SteerscopeError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000 and "expected" in str(error), f"{name}: {error}"
    except TypeError as error:
        if not ("__" in name and "unsupported operand" in str(error)):
            raise AssertionError(f"{name}({argument}={type(value).__name__}): {error!r}") from error
    except Exception as error:
        raise AssertionError(f"{name}({argument}={type(value).__name__}): {error!r}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _fuzz(calls: dict[str, Call], data: any_.DataObject) -> None:
    name = data.draw(any_.sampled_from(sorted(name for name, (_, options) in calls.items() if options)))
    argument = data.draw(any_.sampled_from(sorted(calls[name][1])))
    value = data.draw(
        any_.one_of(
            any_.sampled_from(range(len(ODD))).map(lambda i: ODD[i]()),
            any_.integers(),
            any_.floats(),
            any_.text(max_size=20),
            any_.lists(any_.one_of(any_.integers(), any_.text(max_size=5), any_.none()), max_size=4),
        )
    )
    _try(name, calls[name], argument, value)


FUZZ = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=200, **FUZZ)  # type: ignore[arg-type]
@given(data=any_.data())
def test_odd_values_end_in_our_errors(calls: dict[str, Call], data: any_.DataObject) -> None:
    _fuzz(calls, data)


@pytest.mark.slow
@settings(max_examples=2000, **FUZZ)  # type: ignore[arg-type]
@given(data=any_.data())
def test_many_odd_values_end_in_our_errors(calls: dict[str, Call], data: any_.DataObject) -> None:
    _fuzz(calls, data)


@pytest.mark.slow
def test_each_odd_value_at_each_argument_of_each_door(calls: dict[str, Call]) -> None:
    faults = []
    for name, call in sorted(calls.items()):
        for argument, make in itertools.product(call[1], ODD):
            try:
                _try(name, call, argument, make())
            except AssertionError as error:
                faults.append(str(error)[:200])
    assert not faults, f"{len(faults)}: " + "\n".join(faults[:50])
