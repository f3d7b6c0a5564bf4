"""`steerscope circuits find`: the edges that do a task, or that carry an injection."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from steerscope.commands import options
from steerscope.commands.asked import experiment_of
from steerscope.commands.finish import Answer, Out
from steerscope.questions import QUESTIONS


class By(StrEnum):
    score = "score"
    divergence = "divergence"


TASK = "A task (see `circuits tasks`): clean prompts against corrupted ones."
INJECT = "Instead of a task: prompts with this injection against themselves without; as `localize --inject`."
METRIC = "Of injections: logit_direction (default), own_direction, or log_prob with --targets."


def find(
    model: options.ModelName,
    out: Out,
    task: Annotated[str | None, typer.Option(help=TASK)] = None,
    n: Annotated[int, typer.Option("--n", help="Pairs of prompts of the task.")] = 64,
    inject: Annotated[list[str] | None, typer.Option(help=INJECT)] = None,
    prompts: Annotated[str | None, typer.Option(help="Of injections: a prompt set, or a file.")] = None,
    metric: Annotated[str, typer.Option(help=METRIC)] = "logit_direction",
    targets: options.Targets = None,
    against: options.Against = None,
    ablation: Annotated[
        options.Ablation, typer.Option(help="What stands in the place of what is left out.")
    ] = options.Ablation.resample,
    by: Annotated[By, typer.Option(help="What a circuit must keep: the score, or all that the model says.")] = By.score,
    lost: Annotated[float, typer.Option(help="Share of it that may be lost.")] = 0.2,
    points: Annotated[int, typer.Option(help="Gradients that are taken at most, a prompt on average.")] = 16,
    trials: Annotated[int, typer.Option(help="Circuits that are run at most to take edges out.")] = 400,
    seed: options.RandomSeed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    bos: options.Bos = None,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Finds the circuit of a task, or of an injection: edges scored, pruned, and tried on other prompts.

    Example: steerscope circuits find --model smollm2 --no-bos --task ioi --out out/ioi
    """
    from steerscope.analysis.errors import BadArgument
    from steerscope.commands.finish import check_out, finish, hush
    from steerscope.commands.inject import wanted

    check_out(out, overwrite, QUESTIONS["find_circuit"].tables)
    if (
        (task is None) == (not inject)
        or (task is None and prompts is None)
        or (task is not None and prompts is not None)
    ):
        raise BadArgument(
            f"got {'--task' if task else 'no --task'}, {'--inject' if inject else 'no --inject'} and "
            f"{'--prompts' if prompts else 'no --prompts'}; expected a task, or an injection with prompts; give --task "
            "NAME, or --inject SPEC --prompts FILE"
        )
    from steerscope.circuits.tasks import task as named

    known = None if task is None else named(task)
    steering = [] if known else wanted(inject or (), seed)
    hush()
    from steerscope.circuits.find_circuit import find_circuit
    from steerscope.circuits.found import found_circuit
    from steerscope.loader import load

    asked: Any
    if known is not None:
        loaded = load(model, device=device, dtype=dtype, bos=bos)
        asked = known(loaded, n, seed)
    else:
        measured: dict[str, Any] = {"metric": metric, "targets": targets, "against": against, "references": "0"}
        asked = experiment_of(steering, model, prompts, **measured, seed=seed, device=device, dtype=dtype, bos=bos)
        loaded = asked.model
    knobs: dict[str, Any] = {"ablation": ablation.value, "by": by.value, "lost": lost, "trials": trials}
    result = find_circuit(loaded, asked, **knobs, points=points, seed=seed)
    return finish(result, out, overwrite, beside={"circuit.yaml": found_circuit(result).yaml})
