"""`steerscope circuits scrub`: how much of a model's answers hypotheses explain."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerscope.commands.asked import INJECT
from steerscope.commands.finish import Answer, Out
from steerscope.commands.options import (
    AgainstColumn,
    Bos,
    Column,
    Device,
    ModelName,
    Overwrite,
    RandomSeed,
    TargetsColumn,
)
from steerscope.questions import QUESTIONS

if TYPE_CHECKING:
    from steerscope.analysis.model.models import Model
    from steerscope.analysis.question.prompt_files import Table
    from steerscope.analysis.question.prompts import Prompts


class Steering(StrEnum):
    stands = "stands"
    feature = "feature"


def scrub(
    model: ModelName,
    out: Out,
    hypothesis: Annotated[
        list[str], typer.Option(help="A shipped hypothesis, or a YAML or JSON file; give it again for rivals.")
    ],
    task: Annotated[str | None, typer.Option(help="The task whose prompts are asked (see `circuits tasks`).")] = None,
    n: Annotated[int, typer.Option("--n", help="Prompts of the task.")] = 64,
    ask: Annotated[bool, typer.Option("--ask", help="Ask a task that the model does not solve, too.")] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="File of prompts with their answers in a column, instead of a task.")
    ] = None,
    column: Column = None,
    targets_column: TargetsColumn = None,
    against_column: AgainstColumn = None,
    inject: Annotated[list[str] | None, typer.Option(help=INJECT)] = None,
    steering: Annotated[
        Steering | None,
        typer.Option(help="With --inject: all runs carry it (stands, the default), or half, as a feature may tell."),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone/--whole", help="Try each claim alone, too.")] = True,
    draws: Annotated[int, typer.Option(help="Draws of every prompt.")] = 8,
    seed: RandomSeed = 0,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    alpha: Annotated[float, typer.Option(help="Threshold on the corrected p-values.")] = 0.05,
    device: Device = None,
    bos: Bos = None,
    overwrite: Overwrite = False,
) -> Answer:
    """How much of a model's answers hypotheses about its circuit explain: causal scrubbing.

    Example: steerscope circuits scrub --model toy-ioi-query-2 --task ioi-minimal --hypothesis ioi-minimal --out out/s
    """
    from steerscope.analysis.errors import BadArgument
    from steerscope.analysis.question.prompt_files import read_table
    from steerscope.circuits.hypotheses import hypothesis as named
    from steerscope.commands.finish import check_out, finish, hush
    from steerscope.commands.inject import injections_of, wanted

    asked = [named(name) for name in hypothesis]
    specs = wanted(inject or (), seed)
    if steering is not None and not specs:
        raise BadArgument(
            f"--steering {steering.value} without --inject; expected an injection; give one, or leave it out"
        )
    if (task is None) == (prompts is None):
        got = "both" if task is not None else "neither"
        raise BadArgument(f"--task and --prompts: got {got}; expected one of them; give the one that is meant")
    if (prompts is None) != (targets_column is None):
        raise BadArgument("--prompts and --targets-column; expected both or neither; name the column with the answers")
    columns = [name for name in (targets_column, against_column) if name]
    table = None if prompts is None else read_table(prompts, column, columns)
    check_out(out, overwrite, QUESTIONS["scrub"].tables)
    hush()
    from steerscope.circuits.scrub import scrub as run
    from steerscope.circuits.tasks import task as task_named
    from steerscope.loader import load

    chosen = None if task is None else task_named(task)
    loaded = load(model, device=device, bos=bos)
    dataset = chosen(loaded, n, seed, ask=ask) if chosen is not None else _answered(loaded, table, prompts, columns)
    steered: dict[str, Any] = {}
    if specs:
        steered = {"steering": (steering or Steering.stands).value, "injections": injections_of(specs, loaded)}
    found = run(loaded, asked, dataset, **steered, alone=alone, draws=draws, seed=seed, level=level, alpha=alpha)
    return finish(found, out, overwrite)


def _answered(model: "Model", table: "Table | None", file: Path | None, columns: list[str]) -> "Prompts":
    """Prompts of a file with their answers."""
    from steerscope.analysis.question.answers import PerPrompt, answered
    from steerscope.analysis.question.prompts import make_prompts

    assert table is not None
    made = make_prompts(model, table.prompts, source=str(file), groups=table.groups or "auto")
    targets, *against = (PerPrompt(table.columns[name]) for name in columns)
    return answered(model, made, targets, against[0] if against else ())
