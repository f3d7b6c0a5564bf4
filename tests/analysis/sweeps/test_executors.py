"""Executors: every block once, the same rows everywhere, and workers that die."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.executors.executors import Processes, Ray, executor, local
from steerscope.analysis.loading.loading import load
from steerscope.analysis.sweeps.plan import plan
from steerscope.analysis.sweeps.runner import begin, run
from steerscope.analysis.sweeps.store import Store
from steerscope.analysis.vectors.prompt_pair import prompt_pair

TEXTS = ["One day Tom saw a red ball", "Lily went to the park with a ball"] * 4
EXACT = ["trial", "visit", "prompt", "nodes", "k", "design", "control", "coefficient", "vector"]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A real Ray with two workers."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def sweep_on(folder: Path, model: Path, how: Any, trials: int = 800) -> pd.DataFrame:
    loaded = load(model, name="tiny")
    made = plan(
        loaded, prompt_pair(loaded, " wedding", " ship", 1), TEXTS, trials=trials, visit=8, controls=2, block=40
    )
    store = Store(folder)
    begin(made, store)
    run(made, store, how)
    table: pd.DataFrame = pd.concat([t.to_pandas() for t in store.read()], ignore_index=True)
    return table


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> pd.DataFrame:
    return sweep_on(tmp_path_factory.mktemp("local") / "run", tiny_folder, local)


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same trials, and numbers that differ by no more than another number of threads makes them."""
    pd.testing.assert_frame_equal(found[EXACT], expected[EXACT], check_exact=True)
    for name in ("effect", "kl", "perplexity", "entropy", "norm"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=2e-5)


def killing(after: int, victim: Callable[[], psutil.Process]) -> Callable[[Any], Any]:
    """An executor around another that kills a worker after some answers."""

    def wrap(inner: Any) -> Any:
        def executor(work: Any, tasks: Any) -> Any:
            for number, answer in enumerate(inner(work, tasks)):
                if number == after:
                    victim().send_signal(signal.SIGKILL)
                yield answer

        return executor

    return wrap


def spawned() -> psutil.Process:
    found = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    return found[0]


def ray_worker() -> psutil.Process:
    """A worker process of Ray that is at work."""
    found = [p for p in psutil.process_iter(["cmdline"]) if "ray::_on_ray" in " ".join(p.info["cmdline"] or [])]
    return found[0]


def test_processes_give_the_rows_of_one_process_even_if_one_is_killed(
    tmp_path: Path, tiny_folder: Path, expected: pd.DataFrame
) -> None:
    how = killing(4, spawned)(Processes(2))
    assert_same(sweep_on(tmp_path / "run", tiny_folder, how), expected)


@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_rows_of_one_process(ray: Any, tmp_path: Path, tiny_folder: Path, expected: pd.DataFrame) -> None:
    assert_same(sweep_on(tmp_path / "run", tiny_folder, Ray(workers=2)), expected)


@pytest.mark.filterwarnings("ignore")
def test_the_blocks_of_a_ray_worker_that_is_killed_run_again(
    ray: Any, tmp_path: Path, tiny_folder: Path, expected: pd.DataFrame
) -> None:
    killed: list[int] = []

    def victim() -> psutil.Process:
        process = ray_worker()
        killed.append(process.pid)
        return process

    how = killing(3, victim)(Ray(workers=2))
    assert_same(sweep_on(tmp_path / "run", tiny_folder, how), expected)
    assert len(killed) == 1 and not psutil.pid_exists(killed[0])


@pytest.mark.filterwarnings("ignore")
def test_few_tasks_are_under_way_at_a_time_on_ray(ray: Any) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(30):
            taken.append(number)
            yield number

    def work(task: int) -> int:
        time.sleep(0.01)
        return task

    for done, _ in enumerate(Ray(workers=2)(work, tasks())):
        assert len(taken) <= done + 1 + 4
    assert len(taken) == 30


@pytest.mark.filterwarnings("ignore")
def test_an_error_in_a_ray_worker_is_the_error_of_the_run(ray: Any) -> None:
    def fail(task: int) -> int:
        raise BadArgument("three parts; of a; message")

    with pytest.raises(BadArgument, match="three parts"):
        list(Ray(workers=2)(fail, range(3)))


@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(BadArgument, match="no Ray cluster at 'auto'.*ray start"):
        list(Ray("auto")(abs, [1]))


def test_the_local_executor_keeps_the_order() -> None:
    assert list(local(abs, [-3, 2, -1])) == [3, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("slurm",), "unknown executor"),
        (("ray", 0), "from 1 to"),
        (("processes", 10**6), "from 1 to"),
        (("local", 2), "takes no workers"),
        (("processes", 2, "auto"), "takes no address"),
    ],
)
def test_an_executor_that_cannot_be_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        executor(*arguments)
