"""`sweep` and `resume`: what the plan wants minus what the store has, block by block."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from steerscope.analysis.errors import BadArgument, SteerscopeError
from steerscope.analysis.executors.executors import Executor, local, named
from steerscope.analysis.executors.executors import executor as executor_of
from steerscope.analysis.gate import Level, Share, gated, shown
from steerscope.analysis.model.models import Model
from steerscope.analysis.results.result import Result

from .bench import answer, bench
from .plan import Loader, Plan, plan, reopen
from .store import Store
from .summary import COLUMNS as COLUMNS  # the question's own, beside its function
from .summary import summarize
from .work import Answer, Block


@gated
@dataclass
class Session:
    """What one session of a run did, for the log: trials, seconds, and where they went."""

    executor: str
    trials: int = 0
    seconds: float = 0.0
    forward: float = 0.0
    metrics: float = 0.0
    writing: float = 0.0
    damaged: tuple[str, ...] = ()
    check: Mapping[str, Any] | None = None

    def add(self, answer: Answer) -> None:
        self.trials += answer.table.num_rows
        self.forward += answer.seconds["forward"]
        self.metrics += answer.seconds["metrics"]


@gated
def sweep(
    model: Model,
    vectors: Any,
    prompts: Any,
    out: str | Path,
    *,
    executor: str | Executor[Block, Answer] = "local",
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
    **options: Any,
) -> Result:
    """Injects parts of a steering vector into random nodes, trial by trial, and estimates what each node does.

    The rows go to `out/trials` as they are made; the same call goes on with a run that was stopped.

    Args:
        vectors: one or several steering vectors at `resid_pre`, or (mode given) dictionaries from nodes to vectors.
        prompts: texts, lists of token ids, or `Prompts`; the last token of each is only predicted.
        out: folder of the run.
        executor: local, processes or ray; or `Processes(n)`, `Ray(address)` of
            `steerscope.analysis.executors.executors`.
        level: of the intervals.
        alpha: threshold on corrected p-values.
        smallest: effect of interest, as a share of the whole.
        options: trials, k (a number or a range), design (uniform, stratified, horizontal, vertical, or several),
            mode (own, through, shared, given), nodes, positions, coefficients, metric, scored, controls,
            control_every, spacing, antithetic, mixed, visit, block (trials of a part), seed, loader, sources, budget:
            see `steerscope.analysis.sweeps.plan.plan` and `Design`.

    Returns:
        a `Result` of kind "sweep"; frames and columns as in `COLUMNS`.

    Raises:
        OutputExists: the folder holds another sweep; the message names every difference.
        DiskFull, CannotWrite: what was written stays good.
    """
    store, executor = Store(out), executor_of(executor)
    made = plan(model, vectors, prompts, **options)
    begin(made, store)
    run(made, store, executor)
    return summarize(store, level=level, alpha=alpha, smallest=smallest)


@gated
def begin(made: Plan, store: Store) -> None:
    """Makes the run's folder, or finds that the same run is there.

    Raises:
        OutputExists: another run, or other results, are there.
    """
    if not store.taken:
        made.create(store)
    made.check_same(store)


@gated
def resume(
    folder: str | Path,
    model: Model,
    *,
    executor: str | Executor[Block, Answer] = "local",
    loader: Loader | None = None,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Goes on with a run that was stopped or killed; the rows are those of a run that was not."""
    store, executor = Store(folder), executor_of(executor)
    run(reopen(store, model, loader), store, executor)
    return summarize(store, level=level, alpha=alpha, smallest=smallest)


@gated
def run(made: Plan, store: Store, executor: str | Executor[Block, Answer] = "local") -> Session:
    """Runs the blocks that are not there yet. Stop it at any moment; call it again to go on."""
    executor = executor_of(executor)
    if executor is not local and made.work.loader is None:
        raise BadArgument(
            f"{made.model.name} is only in memory, and workers must load it; expected a folder or a hub name; "
            "save the model and load it from there, or use the executor local"
        )
    with store.lock():
        session = Session(named(executor), damaged=tuple(path.name for path in store.set_aside()))
        done = store.done()
        if len(done) == made.blocks:
            return session
        place = bench(made.work, made.model)
        session.check = place.check(made.block(next(i for i in range(made.blocks) if i not in done)))
        trials, size = made.work.design.trials, made.block_trials
        there = sum(min(size, trials - block * size) for block in done)
        start = time.perf_counter()
        try:
            shown: dict[str, Any] = {"desc": "trials", "unit": "trial", "delay": 2, "dynamic_ncols": True}
            with tqdm(total=trials, initial=there, disable=None, **shown) as bar:
                for found in executor(partial(answer, made.work), made.tasks(done)):
                    _check_answer(found)
                    began = time.perf_counter()
                    store.append(found.block, found.table)
                    session.writing += time.perf_counter() - began
                    session.add(found)
                    bar.update(found.table.num_rows)
        except BaseException:
            with contextlib.suppress(SteerscopeError):  # what stopped the run is said, not that there is no room for it
                _note(session, store, start)
            raise
        _note(session, store, start)
    return session


def _note(session: Session, store: Store, start: float) -> None:
    session.seconds = time.perf_counter() - start
    store.log({"ended": datetime.now(UTC).isoformat(timespec="seconds"), **vars(session)})


def _check_answer(found: object) -> None:
    if not isinstance(found, Answer):
        raise BadArgument(
            f"the executor gave {shown(found)}; expected what the function it was given returns, for every task; mend "
            "the executor"
        )
