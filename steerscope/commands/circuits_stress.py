"""`steerscope circuits stress`: does a circuit survive steering?"""

from enum import StrEnum
from typing import Annotated

import typer

from steerscope.commands.asked import INJECT
from steerscope.commands.finish import Answer, Out
from steerscope.commands.options import Ablation, Bos, Device, ModelName, Overwrite, RandomSeed
from steerscope.knobs import KINDS
from steerscope.questions import QUESTIONS


class Find(StrEnum):
    needed = "needed"
    always = "always"
    never = "never"


def stress(
    model: ModelName,
    out: Out,
    task: Annotated[str, typer.Option(help="A task (see `circuits tasks`).")],
    inject: Annotated[list[str], typer.Option(help=INJECT)],
    circuit: Annotated[
        list[str] | None,
        typer.Option(
            help="A shipped circuit or a file; give it again for rivals. Without it one is found on half the prompts."
        ),
    ] = None,
    coefficients: Annotated[
        str, typer.Option(help="What every injection's own coefficient is multiplied by, separated by commas.")
    ] = "0.25,0.5,1,2,4",
    n: Annotated[int, typer.Option("--n", help="Pairs of prompts.")] = 64,
    randoms: Annotated[int, typer.Option(help="Random vectors of equal norms beside each.")] = 4,
    find: Annotated[
        Find, typer.Option(help="Where the circuit under steering is looked for: where the verdict depends on it.")
    ] = Find.needed,
    ablation: Annotated[
        Ablation, typer.Option(help="What stands in the place of what is left out of a circuit.")
    ] = Ablation.resample,
    ask: Annotated[bool, typer.Option("--ask", help="Ask a task that the model does not solve, too.")] = False,
    seed: RandomSeed = 0,
    device: Device = None,
    bos: Bos = None,
    overwrite: Overwrite = False,
) -> Answer:
    """Is a circuit unaffected, weaker, rerouted or overwritten under steering? A verdict by vector and coefficient.

    Example: steerscope circuits stress --model smollm2 --task ioi --inject 'recipe=prompt_pair,plus=" wedding",
    minus=" ",layer=8,coef=4' --out out/stress
    """
    from steerscope.commands.finish import check_out, finish, hush

    check_out(out, overwrite, QUESTIONS["stress"].tables)
    from steerscope.analysis.brief import brief
    from steerscope.analysis.errors import BadArgument
    from steerscope.circuits.library import circuit as named
    from steerscope.circuits.tasks import task as task_of
    from steerscope.commands.inject import injections_of, wanted

    claims = [named(name) for name in circuit or ()]
    try:
        strengths = KINDS["Sequence[float]"].parse(coefficients)
    except ValueError as error:
        raise BadArgument(
            f"--coefficients {brief(coefficients)!r}; expected numbers separated by commas, such as 0.5,1,2; mend it"
        ) from error
    task_of(task)  # or it is refused before a model is loaded
    steering = [(spec, wanted([spec], seed)) for spec in inject]
    hush()
    from steerscope.circuits.stress import stress as question
    from steerscope.loader import load

    loaded = load(model, device=device, bos=bos)
    injections = {brief(spec, 80): injections_of(own, loaded) for spec, own in steering}
    result = question(
        claims or None,
        task,
        injections,
        model=loaded,
        n=n,
        ask=ask,
        coefficients=strengths,
        randoms=randoms,
        find=find.value,
        ablation=ablation.value,
        seed=seed,
    )
    return finish(result, out, overwrite)
