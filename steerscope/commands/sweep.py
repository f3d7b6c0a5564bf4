"""`steerscope sweep`: run, resume, status, report."""

import re
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table as Grid

from steerscope.analysis.errors import BadArgument
from steerscope.commands.finish import Answer, Out
from steerscope.commands.options import Address, Against, Bos, Device, Dtype, ModelName, Runs, Targets, Where, Workers
from steerscope.commands.vectors import Chosen, offers

if TYPE_CHECKING:
    from steerscope.analysis.model.models import Model
    from steerscope.analysis.sweeps.plan import Plan
    from steerscope.analysis.sweeps.store import Store

app = typer.Typer(no_args_is_help=True, help="Inject into random nodes, trial by trial.")


class Mode(StrEnum):
    own = "own"
    through = "through"
    shared = "shared"


Folder = Annotated[Path, typer.Argument(help="Folder of a sweep.")]
Level = Annotated[float, typer.Option(help="Level of the intervals.")]
Alpha = Annotated[float, typer.Option(help="Threshold on corrected p-values.")]
Smallest = Annotated[float, typer.Option(help="Smallest effect of interest, as a share of the whole.")]


@app.command("run")
@offers
def run(
    wanted_vectors: list[Chosen],
    model: ModelName,
    out: Out,
    layer: Annotated[int | None, typer.Option(help="Layer of the whole injection, which trials are parts of.")] = None,
    coef: Annotated[str, typer.Option(help="Coefficients, separated by commas: a grid, such as 1,2,4.")] = "1",
    trials: Annotated[int, typer.Option(help="How many, controls included.")] = 2000,
    k: Annotated[str, typer.Option(help="Nodes a trial: a number, or a range such as 1-4.")] = "1-4",
    design: Annotated[
        str, typer.Option(help="uniform, stratified, horizontal, vertical, or several with commas.")
    ] = "uniform",
    mode: Annotated[
        Mode,
        typer.Option(
            help="What a node gets: its own activation difference, the vector pushed through it, or the vector itself."
        ),
    ] = Mode.own,
    nodes: Annotated[str, typer.Option(help="all, heads, mlps, or a list such as L0H1,L2M,L3-L5.")] = "all",
    positions: Annotated[str, typer.Option(help="all, front, middle, back, last, or indices such as 3,4,-2.")] = "all",
    prompts: Annotated[
        str,
        typer.Option(
            help="A file (text, .jsonl, .csv, .parquet), - for standard input, a data set (streamed), or shipped."
        ),
    ] = "shipped",
    count: Annotated[int, typer.Option(help="Prompts drawn from the text.")] = 200,
    tokens: Annotated[
        int, typer.Option(help="Tokens a prompt, BOS included; 0: every line is a prompt of its own.")
    ] = 33,
    read: Annotated[int | None, typer.Option(help="Texts to read at most (10,000 of a data set).")] = None,
    metric: Annotated[
        str, typer.Option(help="own_direction (of each prompt), log_prob, kl or perplexity.")
    ] = "own_direction",
    targets: Targets = None,
    against: Against = None,
    scored: Annotated[str | None, typer.Option(help="Positions to score: all, last, or indices.")] = None,
    controls: Annotated[int, typer.Option(help="Random vectors of equal norm; 0 for none.")] = 20,
    control_every: Annotated[int, typer.Option(help="One in so many draws is a control.")] = 2,
    spacing: Annotated[str, typer.Option(help="Of vertical layers: any, consecutive, or a step.")] = "any",
    antithetic: Annotated[bool, typer.Option(help="Follow every set of nodes by its complement.")] = False,
    mixed: Annotated[bool, typer.Option(help="Every node draws its own vector.")] = False,
    seed: Annotated[int, typer.Option(help="Of prompts, sets and controls.")] = 0,
    executor: Runs = Where.local,
    workers: Workers = None,
    address: Address = None,
    level: Level = 0.95,
    alpha: Alpha = 0.05,
    smallest: Smallest = 0.02,
    device: Device = None,
    dtype: Dtype = None,
    bos: Bos = None,
) -> Answer:
    """Injects parts of a steering vector into random nodes, and estimates what each node does. The same command goes on
    with a run that was stopped.

    Example: steerscope sweep run --model tinystories-2l --plus " wedding" --minus " " --layer 0
    --trials 20000 --out out/sweep
    """
    from steerscope.analysis.executors.executors import executor as executor_of
    from steerscope.analysis.question.corpora import windows
    from steerscope.analysis.question.prompt_files import read_prompts
    from steerscope.analysis.question.prompts import make_prompts
    from steerscope.analysis.results.effects import Statistics
    from steerscope.commands.finish import command_line, hush
    from steerscope.commands.metrics import metric_of

    Statistics(level, alpha, smallest)  # refuses what makes no sense
    where = executor_of(executor.value, workers, address)
    coefficients, numbers = _numbers("--coef", coef, float), _range(k)
    wanted = metric_of(metric, targets, against, None)
    texts = read_prompts(prompts) if tokens == 0 else None
    hush()
    from steerscope.analysis.sweeps.plan import plan
    from steerscope.analysis.sweeps.runner import begin
    from steerscope.analysis.sweeps.store import Store
    from steerscope.loader import load

    loaded = load(model, device=device, dtype=dtype, bos=bos)
    vectors = [one.make(loaded) for one in wanted_vectors]
    if texts is None:
        base = windows(loaded, prompts, count=count, tokens=tokens, seed=seed, read=read)
    else:
        base = make_prompts(loaded, texts, source=prompts)
    files = {f"vector {i}": one.file for i, one in enumerate(wanted_vectors) if one.file is not None}
    made = plan(
        loaded,
        vectors,
        base,
        trials=trials,
        k=numbers,
        design=[d.strip() for d in design.split(",")],
        mode=mode.value,
        nodes=nodes,
        positions=positions,
        coefficients=coefficients,
        metric=wanted,
        scored=_scored(scored),
        controls=controls,
        control_every=control_every,
        spacing=spacing,
        antithetic=antithetic,
        mixed=mixed,
        seed=seed,
        loader=_loader(model, loaded),
        sources=files | ({"prompts": Path(prompts)} if Path(prompts).is_file() else {}),
        command=command_line(),
    )
    store = Store(out)
    begin(made, store)
    return _go_on(made, store, where, level, alpha, smallest)


@app.command("resume")
def resume(
    folder: Folder,
    executor: Runs = Where.local,
    workers: Workers = None,
    address: Address = None,
    level: Level = 0.95,
    alpha: Alpha = 0.05,
    smallest: Smallest = 0.02,
    device: Device = None,
) -> Answer:
    """Goes on with a run that was stopped or killed, to exactly the rows of one that was not."""
    from steerscope.analysis.executors.executors import executor as executor_of
    from steerscope.analysis.results.effects import Statistics
    from steerscope.commands.finish import hush

    Statistics(level, alpha, smallest)
    where = executor_of(executor.value, workers, address)
    hush()
    from steerscope.analysis.sweeps.plan import reopen
    from steerscope.analysis.sweeps.store import Store
    from steerscope.loader import load
    from steerscope.packaged import PACKAGED
    from steerscope.tinystories.zoo import shipped

    store = Store(folder)
    about = store.manifest()["model"]
    name = about["name"] if about["name"] in (*shipped(), *PACKAGED) else about["source"]
    if name is None:
        raise BadArgument(
            f"the run in {str(folder)!r} has a model that was only in memory; expected one that can be loaded; "
            "resume it from Python"
        )
    bos = None if about["bos"] is not None else False
    loaded = load(name, device=device or about["device"].split(":")[0], dtype=about["dtype"], bos=bos)
    return _go_on(reopen(store, loaded, _loader(name, loaded)), store, where, level, alpha, smallest)


@app.command("status")
def status(folder: Folder) -> Answer:
    """How far a run is; writes nothing and waits for nobody."""
    from steerscope.analysis.sweeps.store import Store

    store = Store(folder)
    about = store.manifest()
    trials, size = about["design"]["trials"], about["block"]
    blocks, parts, damaged = -(-trials // size), store.done(), store.damaged()
    done = sum(min(size, trials - block * size) for block in parts)
    busy, past = store.busy(), store.sessions()
    writing = "a process is writing to it" if busy else "no process is writing to it"
    rows = [
        ("model", str(about["model"]["name"])),
        ("trials", f"{done:,} of {trials:,} ({done / trials:.0%}); {writing}"),
        ("parts", f"{len(parts):,} of {blocks:,} whole, {len(damaged)} damaged"),
        ("prompts", f"{about['prompts']['count']} from {about['prompts']['source']}"),
        *(
            (f"session {i}", f"{s['trials']:,} trials in {s['seconds']:.0f} s on {s['executor']}, until {s['ended']}")
            for i, s in enumerate(past, 1)
        ),
    ]
    if done < trials:
        rows.append(("go on", f"steerscope sweep resume {folder}"))
    grid = Grid.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(*row)
    found = {
        "kind": about["kind"],
        "folder": str(folder),
        "model": about["model"]["name"],
        "trials": trials,
        "done": done,
        "parts": len(parts),
        "blocks": blocks,
        "damaged": [path.name for path in damaged],
        "writing": busy,
        "sessions": past,
    }
    return Answer(found, grid)


@app.command("report")
def report(folder: Folder, level: Level = 0.95, alpha: Alpha = 0.05, smallest: Smallest = 0.02) -> Answer:
    """Estimates from the trials that are there, and writes report.html; no model is needed."""
    from steerscope.analysis.sweeps.store import Store

    return summary(Store(folder), level, alpha, smallest)


def _go_on(made: "Plan", store: "Store", where: Any, level: float, alpha: float, smallest: float) -> Answer:
    from steerscope.analysis.sweeps.runner import run as run_blocks

    for path in store.damaged():
        typer.echo(f"{path.name} is damaged: it is moved to {store.folder / 'damaged'} and computed again", err=True)
    try:
        run_blocks(made, store, where)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; everything written stays good; go on with: steerscope sweep resume {store.folder}"
        ) from None
    return summary(store, level, alpha, smallest)


def summary(store: "Store", level: float = 0.95, alpha: float = 0.05, smallest: float = 0.02) -> Answer:
    """Estimates from the trials that are there, saves the tables, writes the report; what was found.

    The old page goes before the old tables do, so that none stands beside tables of others.
    """
    from steerscope.analysis.files import storing
    from steerscope.analysis.results.result import PAGE
    from steerscope.analysis.sweeps.store import SUMMARY
    from steerscope.analysis.sweeps.summary import summarize
    from steerscope.commands.finish import show

    result = summarize(store, level=level, alpha=alpha, smallest=smallest)
    store.refuse_links()
    page = store.folder / PAGE
    with storing(page):
        page.unlink(missing_ok=True)
    result.save(store.folder / SUMMARY, overwrite=True)
    return show(result, store.folder / SUMMARY, store.folder)


def _loader(name: str, loaded: "Model") -> Any:
    from steerscope.loader import load

    kind = str(loaded.dtype).removeprefix("torch.")
    return partial(load, name, device=loaded.device.type, dtype=kind, selfcheck=False)


def _numbers(option: str, text: str, kind: Any) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise BadArgument(f"{option} {text!r}; expected numbers separated by commas, such as 1,2,4; mend it") from error


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r" *([0-9]{1,6}) *(?:- *([0-9]{1,6}) *)?", text)
    if not found:
        raise BadArgument(f"--k {text!r}; expected a number of nodes, or a range such as 1-4; give one")
    return int(found[1]), int(found[2] or found[1])


def _scored(text: str | None) -> str | tuple[int, ...] | None:
    if text is None or text in ("all", "last"):
        return text
    return _numbers("--scored", text, int)
