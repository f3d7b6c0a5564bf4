"""Chunks that run elsewhere: the same numbers bit for bit, in the same order, and the same errors."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from architectures import AT_ONCE, native
from posted import Deadly, failing, first_alone, killed, posted
from questions import PROMPTS
from small_runs import RUNS
from torch import Tensor

from steerscope.analysis.breakdown.breakdown import breakdown
from steerscope.analysis.carriers.attribute import attribute
from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.engine import elsewhere
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.elsewhere import executor
from steerscope.analysis.engine.run import Readout, measure, run
from steerscope.analysis.errors import BadArgument, BadMetric, BrokenInvariant, Overflow
from steerscope.analysis.executors.executors import Processes, Ray
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import METRICS, Metric, log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.trace import trace
from steerscope.analysis.vectors.prompt_pair import prompt_pair

TEXTS = ["One day Lily saw a dragon", "Tom had a red ball", "The dog ran to the park"]
ALL: dict[str, Callable[[Experiment], Result]] = RUNS | {
    "trace": lambda asked: trace(asked),
    "breakdown": lambda asked: breakdown(asked, coefficients=[1.0, 3.0], text=TEXTS),
}
SHORT = ("path_effect", "by_position", "self_repair", "trace", "sparsify", "writers")  # take few passes
LONG = ("exact", "breakdown", "freeze_attention")
UNLIKE = ("executor", "seconds", "created")  # of manifests


@pytest.fixture(autouse=True)
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small questions have several, and not too many."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    tokens = {"trace": 12}.get(name, 48) if name in SHORT else 256 if "tiny" in request.fixturenames else 24
    monkeypatch.setattr("steerscope.analysis.engine.run.CPU_TOKENS", tokens)


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    """Two worker processes, which all tests here share; an executor that is open already."""
    with Processes(2).opened() as pool:
        yield pool


@contextmanager
def spread(how: Any) -> Iterator[Any]:
    """All that runs in this block goes to an executor that is open already; the tasks that it was given."""
    given: list[Any] = []

    class Counting:
        workers = 1

        def __call__(self, work: Any, tasks: Any) -> Any:
            def counted() -> Iterator[Any]:
                for task in tasks:
                    given.append(task)
                    yield task

            return how(work, counted())

        def sharing(self, name: str, data: bytes) -> Any:
            return how.sharing(name, data)

    token = elsewhere._OPEN.set(elsewhere._Elsewhere(Counting(), "two"))
    try:
        yield given
    finally:
        elsewhere._OPEN.reset(token)


def asked(model: Model, name: str, **options: Any) -> Experiment:
    injection = Injection(prompt_pair(model, " wedding", " ship", int(name == "writers")), 3.0)
    return Experiment(model, (injection,), make_prompts(model, TEXTS), references=2, **options)


def assert_same(found: Result, expected: Result) -> None:
    assert found.frames.keys() == expected.frames.keys()
    for name, frame in found.frames.items():
        pd.testing.assert_frame_equal(frame, expected.frames[name], check_exact=True)
    left, right = ({k: v for k, v in r.manifest.items() if k not in UNLIKE} for r in (found, expected))
    assert left == right


def slow_but(names: Iterable[str], *fast: str) -> list[Any]:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", slow_but(ALL, *(name for name in ALL if name not in LONG)))
def test_every_question_has_the_rows_of_a_local_run(name: str, tiny: Model) -> None:
    with executor("local"):
        expected = ALL[name](asked(tiny, name))
    with executor(posted):
        found = ALL[name](asked(tiny, name))
    assert_same(found, expected)
    assert (expected.manifest["executor"], found.manifest["executor"]) == ("local", "posted")


@pytest.mark.parametrize("name", slow_but(ALL, "edges", "shapley"))
def test_every_question_has_the_rows_of_a_local_run_in_two_processes(name: str, tiny: Model, two: Any) -> None:
    with spread(two) as given:
        found = ALL[name](asked(tiny, name))
    assert len(given) > 1
    assert_same(found, ALL[name](asked(tiny, name)))


@pytest.mark.parametrize("name", slow_but(METRICS, "log_prob", "kl"))
def test_every_metric_travels(name: str, tiny: Model) -> None:
    metric = log_prob([" wedding", " ship"], " dragon") if name == "log_prob" else METRICS[name]()
    found = []
    for how in (posted, "local"):
        with executor(how):
            question = asked(tiny, "exact", metric=metric, precision="delta")
            found.append(exact(question, completions=0, growing=False, attention=False, writers=False))
    assert_same(*found)


def reading(model: Model, rows: int = 12) -> dict[str, Any]:
    """A run with two edits that many rows share, of both prompts."""
    edits = [Edit(Site("z", layer, 1), "add", torch.linspace(-1, 1, model.d_head), (1, 2)) for layer in (0, 1)]
    variants = [Variant(n % 2, (edits[n % 3],) if n % 3 < 2 else ()) for n in range(rows)]
    return {"model": model, "prompts": PROMPTS, "variants": variants}


@pytest.mark.parametrize("every_architecture", AT_ONCE, indirect=True)
def test_models_of_every_architecture_travel(every_architecture: Model) -> None:
    sites = [("z", 1), ("attn_out", 0)]
    given = reading(every_architecture) | {"reads": "logits", "sites": sites}
    here = list(run(**given))
    with executor(posted):
        there = list(run(**given))
    assert len(here) > 2 and [chunk for chunk, _ in there] == [chunk for chunk, _ in here]
    for (_, one), (_, other) in zip(here, there, strict=True):
        assert one.variants == other.variants  # the very same
        for a, b in (
            (one.logits, other.logits),
            (one.hidden, other.hidden),
            *((one.activations[site], other.activations[site]) for site in sites),
        ):
            assert a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)


def logits(model: Model) -> Tensor:
    return torch.cat([readout.logits for _, readout in run(**reading(model)) if readout.logits is not None])


def test_a_model_that_is_only_in_memory_travels(two: Any) -> None:
    model = load(native("native_with_mlp"))
    assert model.source is None
    here = logits(model)
    with spread(two) as given:
        there = logits(model)
    assert len(given) > 1 and torch.equal(here, there)


def test_a_model_that_transformers_left_its_hooks_on_travels(small_model: Model) -> None:
    inner = small_model.bridge.original_model
    with torch.no_grad():
        inner(torch.tensor([[1, 2, 3]]), output_hidden_states=True)
    with executor(posted):
        found = logits(small_model)
    assert torch.equal(found, logits(small_model))


def test_a_model_that_was_changed_goes_anew(small_model: Model) -> None:
    weight = next(x for name, x in small_model.bridge.named_parameters() if "mlp" in name and x.ndim == 2)
    before, kept = logits(small_model), weight.detach().clone()
    try:
        with executor(posted):
            assert torch.equal(logits(small_model), before)
            with torch.no_grad():
                weight.mul_(2.0)
            changed = logits(small_model)
        here = logits(small_model)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert torch.equal(changed, here) and not torch.allclose(changed, before)


def test_a_score_of_a_users_own_travels_even_if_it_is_a_closure(small_model: Model) -> None:
    def twice(readout: Readout) -> Tensor:
        found: Tensor = 2 * first_alone(readout)
        return found

    given = reading(small_model) | {"positions": None}
    here = measure(**given, score=first_alone)
    with executor(posted):
        assert torch.equal(measure(**given, score=first_alone), here)
        assert torch.equal(measure(**given, score=twice), 2 * here)


def test_what_cannot_travel_is_refused_in_a_sentence(small_model: Model, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file, executor(posted):
        with pytest.raises(BadArgument, match="cannot go to another process.*use the executor local"):
            measure(**reading(small_model), positions=None, score=lambda readout: (file, first_alone(readout))[1])


def test_what_needs_gradients_runs_here(small_model: Model) -> None:
    def never(work: Any, tasks: Any) -> Any:
        raise AssertionError

    with executor(never):
        values = measure(**reading(small_model), positions=None, score=first_alone, grad=True)
        with pytest.raises(AssertionError):
            measure(**reading(small_model), positions=None, score=first_alone)
    assert len(values) == 12


# Errors.


def too_large(model: Model) -> dict[str, Any]:
    """Of the chunks some are not finite; the first of these is not the first of all."""
    given = reading(model)
    for n, scale in ((7, 1e38), (11, 1e38)):
        edit = Edit(Site("resid_pre", 0), "scale", scale, (1,))
        given["variants"][n] = Variant(n % 2, (edit, edit))
    return given


def test_an_error_is_that_of_the_first_chunk_that_fails(small_model: Model, two: Any) -> None:
    def said(error: type[Exception] = Overflow) -> str:
        with pytest.raises(error) as found:
            list(run(**too_large(small_model)))
        return str(found.value)

    here = said()
    with executor(posted):
        assert said() == here
    with spread(two):
        assert said() == here


def test_an_error_that_is_none_of_ours_keeps_its_kind_and_says_where_it_was(small_model: Model, two: Any) -> None:
    with spread(two), pytest.raises(KeyError, match="a bug") as found:
        measure(**reading(small_model), positions=None, score=failing)
    assert any("in failing" in note for note in found.value.__notes__)
    with spread(two):  # the workers go on
        measure(**reading(small_model), positions=None, score=first_alone)


def test_a_metric_without_a_gradient_is_refused_with_the_same_sentence(tiny: Model) -> None:
    def flat(readout: Readout) -> Tensor:
        assert readout.logits is not None
        return readout.logits.argmax(-1).double()

    metric = Metric("none", "", lambda scored, clean, steered: flat)
    said = []
    for how in ("local", posted):
        with executor(how), pytest.raises(BadMetric) as found:
            attribute(asked(tiny, "attribute", metric=metric))
        said.append(str(found.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("slurm", "unknown executor"),
        (3, "expected a text or a function"),
        (lambda: None, "takes no function and tasks"),
        (lambda work, tasks: iter([3]), "the executor gave 3"),
        (lambda work, tasks: iter([]), "gave answers to 0 of"),
    ],
)
def test_an_executor_that_is_none_is_refused(how: Any, words: str, small_model: Model) -> None:
    with pytest.raises((BadArgument, BrokenInvariant), match=words):
        with executor(how):
            list(run(**reading(small_model)))


# Workers that die, and Ctrl-C.


@pytest.mark.slow
def test_the_chunk_of_a_killed_worker_runs_again(small_model: Model, tmp_path: Path, two: Any) -> None:
    given = reading(small_model) | {"positions": None}
    with spread(two):
        found = measure(**given, score=Deadly(tmp_path / "mark"))
    assert (tmp_path / "mark").exists() and torch.equal(found, measure(**given, score=first_alone))


@pytest.mark.slow
def test_workers_that_all_die_end_the_run(small_model: Model) -> None:
    def dying(work: Any, tasks: Any) -> Any:
        return Processes(1)(killed, tasks)

    with executor(dying), pytest.raises(BrokenInvariant, match="workers died 5 times"):
        list(run(**reading(small_model)))


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run behind a shell
from steerscope.analysis.engine import run
from steerscope.analysis.tools import keeping
from steerscope import cli
if __name__ == "__main__":
    keeping.SECONDS, run.CPU_TOKENS = -1.0, 24
    cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_a_stopped_command_ends_its_workers_and_goes_on(how: signal.Signals, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\\n".join(TEXTS))
    (tmp_path / "slow.py").write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[3])!r})\n{SLOW}")
    command = [sys.executable, str(tmp_path / "slow.py"), "localize", "--model", str(tiny_folder)]
    command += ["--plus", " wedding", "--layer", "0", "--coef", "3", "--prompts", str(tmp_path / "prompts.txt")]
    command += ["--no-writers", "--no-attention", "--no-growing", "--completions", "0", "--no-selfcheck"]
    command += ["--references", "30"]
    here, command = command, [*command, "--executor", "processes", "--workers", "2"]
    out = tmp_path / "out"
    given: dict[str, Any] = {"cwd": Path(__file__).parents[3], "stderr": subprocess.PIPE}
    stopped = subprocess.Popen([*command, "--out", str(out)], **given)
    until = time.monotonic() + 120
    while len(list((out / ".unfinished").glob("*.safetensors"))) < 2 and stopped.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    workers = [p for p in psutil.Process(stopped.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    stopped.send_signal(how)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == (130 if how == signal.SIGINT else -how), said
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert how == signal.SIGKILL or b"vectors, which are kept" in said
    subprocess.run([*command, "--out", str(out)], check=True, **given)
    subprocess.run([*here, "--out", str(tmp_path / "whole")], check=True, **given)
    assert_same(Result.load(out), replace(Result.load(tmp_path / "whole"), manifest=Result.load(out).manifest))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_rows_of_one_process(tiny: Model) -> None:
    ray = pytest.importorskip("ray")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with executor(Ray(workers=2)):
            found = exact(asked(tiny, "exact"), completions=1)
    finally:
        ray.shutdown()
    expected = exact(asked(tiny, "exact"), completions=1)
    assert_same(found, expected)
    assert found.manifest["executor"] == "ray, 2 workers"
