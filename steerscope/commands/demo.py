"""`steerscope demo`: the carriers of " wedding" in an embedded story model."""

from pathlib import Path
from typing import Annotated

import typer

from steerscope.commands.asked import REFERENCES
from steerscope.commands.finish import Answer, place
from steerscope.questions import QUESTIONS

LAYER = 0
COEFFICIENT = 3.0


def demo(
    out: Annotated[
        Path, typer.Option(parser=place, metavar="PATH", help="Folder to write to; an older demo in it is replaced.")
    ] = Path("out/demo"),
    model: Annotated[str, typer.Option(help="A shipped story model.")] = "tinystories-2l",
    references: Annotated[str | None, typer.Option(help=REFERENCES)] = None,
    seed: Annotated[int, typer.Option(help="Of references, resamples and completions.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace any result in the folder, not only an older demo.")] = False,
) -> Answer:
    """Localizes " wedding" on an embedded model and writes a report: the whole way, without a network."""
    from steerscope.commands.finish import check_out, finish, hush

    overwrite = overwrite or _is_demo(out)
    check_out(out, overwrite)
    hush()
    from steerscope.analysis.results.result import PAGE

    check_out(out, overwrite, QUESTIONS["exact"].tables, [PAGE])
    from steerscope.analysis.carriers.localize import localize
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.question.injection import Injection
    from steerscope.analysis.question.prompts import make_prompts
    from steerscope.analysis.tools.keeping import forget, keeping
    from steerscope.analysis.vectors.prompt_pair import prompt_pair
    from steerscope.loader import load
    from steerscope.tinystories.zoo import prompts

    loaded = load(model)
    texts = make_prompts(loaded, prompts("off_topic"), source="the demo's neutral story beginnings")
    injection = Injection(prompt_pair(loaded, " wedding", " ", LAYER), COEFFICIENT)
    experiment = Experiment(loaded, (injection,), texts, references=references, seed=seed)
    with keeping(out):
        result = localize(experiment)
    answer = finish(result, out, overwrite)
    forget(out)
    return answer


def _is_demo(out: Path) -> bool:
    """Whether the result in `out` was made by this command: what nobody worked for may be replaced."""
    from steerscope.analysis.errors import DamagedRun
    from steerscope.analysis.seals import read_json

    try:
        manifest = read_json(out / "manifest.json", DamagedRun, "manifest", needed=lambda found: False)
    except DamagedRun:
        return False
    return str(manifest.get("command")).startswith("steerscope demo")
