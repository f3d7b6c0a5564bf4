"""What comes through the doors of a sweep: odd values are refused in a sentence, before any work, and soon."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerscope.analysis.engine import run as engine
from steerscope.analysis.errors import BadArgument, BadInjection, Overflow, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.sweeps import bench
from steerscope.analysis.sweeps.plan import plan
from steerscope.analysis.sweeps.runner import sweep
from steerscope.analysis.sweeps.store import Store
from steerscope.analysis.sweeps.units import Unit
from steerscope.analysis.vectors.prompt_pair import prompt_pair

PROMPTS = [[7, 3, 30, 12, 9, 41, 5, 8, 2], [9, 9, 31, 4, 17, 6], [40, 2, 2, 13, 25, 11, 20], [1, 5, 6, 7, 8]]
SMALL: dict[str, Any] = {"trials": 16, "visit": 4, "controls": 2, "k": (1, 2), "block": 8}


def planned(model: Model, **more: Any) -> Any:
    options: dict[str, Any] = {"vectors": prompt_pair(model, [5, 9], [7, 11], 1), "prompts": PROMPTS} | SMALL | more
    return plan(model, **options)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"block": -5}, "block=-5; expected an integer from 0"),
        ({"block": 10**6}, "block=1000000; expected an integer from 0"),
        ({"nodes": []}, "no nodes to inject into"),
        ({"nodes": "L9"}, "names nothing"),
        ({"nodes": 5}, "nodes=5"),
        ({"trials": 2**63}, "trials=9223372036854775808"),
        ({"trials": 1.5}, "trials=1.5"),
        ({"k": (1, 2, 3)}, "k="),
        ({"k": 0}, "k=0"),
        ({"k": -1}, "k=-1"),
        ({"coefficients": []}, "at least one"),
        ({"coefficients": float("nan")}, "coefficients=nan"),
        ({"coefficients": [1.0, float("inf")]}, "coefficients="),
        ({"coefficients": "1"}, "coefficients='1'"),
        ({"scored": ()}, r"scored=\(\)"),
        ({"scored": "some"}, "scored='some'"),
        ({"seed": -1}, "seed=-1"),
        ({"budget": 0}, "budget=0"),
        ({"mixed": "yes"}, "mixed='yes'"),
        ({"mode": "x" * 10**5}, "unknown mode"),
        ({"mode": "given", "vectors": [{}]}, "different nodes, or none"),
        ({"mode": "given", "vectors": [{"L0H1": torch.ones(3)}]}, "L0H1 was given a vector of width 3"),
        ({"mode": "given", "vectors": [{"L0H1": torch.full((8,), torch.nan)}]}, "finite"),
        ({"mode": "given", "vectors": [{"L9H1": torch.ones(8)}]}, "is no node"),
        ({"prompts": itertools.count()}, "prompts="),
        ({"positions": [0, 1, 2]}, "rows for 3 positions"),
        ({"sources": {"prompts": "/nowhere"}}, "/nowhere"),
        ({"unknown": 3}, "unexpected keyword argument 'unknown'"),
    ],
)
def test_odd_values_are_refused_in_a_sentence(tiny: Model, more: dict[str, Any], words: str) -> None:
    with pytest.raises(SteerscopeError, match=words) as refused:
        planned(tiny, **more)
    assert "expected" in str(refused.value) and len(str(refused.value)) < 1000


def test_numbers_of_numpy_generators_and_nodes_are_taken(tiny: Model) -> None:
    plain = planned(tiny, nodes="L0H1,L1M", coefficients=[1.0, 2.0])
    given = planned(
        tiny,
        nodes=(node for node in (Node(0, 1), "L1M")),
        coefficients=np.array([1, 2]),
        prompts=(row for row in PROMPTS),
        **{name: np.int64(SMALL[name]) for name in ("trials", "visit", "controls", "block")},
        k=(np.int64(1), np.int64(2)),
    )
    assert given.work.key == plain.work.key
    one = planned(tiny, coefficients=np.float32(2), seed=np.uint8(3), k=np.int64(2))
    assert one.work.design.seed == 3 and one.work.design.k == (2, 2)


def test_a_plan_of_a_thousand_million_trials_is_made_at_once(tiny: Model) -> None:
    made = planned(tiny, trials=10**9, block=0)
    last = made.block(made.blocks - 1)
    assert last.stop == 10**9 and next(iter(made.tasks({0: None}))).index == 1
    with pytest.raises(BadArgument, match="expected 0 to"):
        made.block(made.blocks)


def test_more_than_the_numbers_hold_is_refused_before_any_work(tiny: Model, tmp_path: Path) -> None:
    vector = prompt_pair(tiny, [5, 9], [7, 11], 1)
    for grid in ([1.0, 1e38], [-1e19], [1e300], [1.0, 1e-44]):
        with pytest.raises(BadInjection, match="expected a coefficient of at"):
            sweep(tiny, vector, PROMPTS, tmp_path / "run", **SMALL, coefficients=grid)
    large = {name: torch.full((8,), 1e15) for name in ("L0H0", "L0H1", "L0H2")}
    planned(tiny, mode="given", vectors=[large], coefficients=1.0)
    with pytest.raises(BadInjection):
        planned(tiny, mode="given", vectors=[large], coefficients=20.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [torch.nan, torch.inf, 1e300])
def test_a_number_that_is_none_is_named_and_not_written(
    tiny: Model, tmp_path: Path, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = engine.measure

    def overflowing(*args: Any, **options: Any) -> torch.Tensor:
        values = measure(*args, **options)
        values[1, 0] = number
        return values

    monkeypatch.setattr(bench, "measure", overflowing)
    with pytest.raises(Overflow, match=r"trial \d+ \(L.* at coefficient 1\) gives effect = (nan|inf) in float32; expe"):
        sweep(tiny, prompt_pair(tiny, [5, 9], [7, 11], 1), PROMPTS, tmp_path / "run", **SMALL)
    assert not Store(tmp_path / "run").done()


@pytest.mark.parametrize("executor", [len, object, int, lambda: 0, lambda work, tasks: [1], 5, "slurm"])
def test_what_is_no_executor_is_said(tiny: Model, tmp_path: Path, executor: Any) -> None:
    with pytest.raises(BadArgument, match="expected"):
        sweep(tiny, prompt_pair(tiny, [5, 9], [7, 11], 1), PROMPTS, tmp_path / "run", **SMALL, executor=executor)


@pytest.mark.parametrize("name", ["", "LA", "LxA", "L" + "9" * 5000 + "A", "L0H", "\ud800"])
def test_a_name_of_no_unit_is_said(name: str) -> None:
    with pytest.raises(SteerscopeError, match="expected"):
        Unit.parse(name)
