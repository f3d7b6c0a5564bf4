"""`steerscope demo`: the carriers of " wedding" in an embedded story model, or in a real language model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from steerscope.commands.asked import REFERENCES
from steerscope.commands.finish import Answer, place
from steerscope.questions import QUESTIONS


@dataclass(frozen=True)
class Demo:
    """A question that is asked of a model.

    Attributes:
        prompts: a shipped set, and how many of it at most.
        knobs: of `localize`.
        load: options of `load`.
    """

    layer: int
    coefficient: float
    prompts: tuple[str, int]
    knobs: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)


STORY = Demo(0, 3.0, ("off_topic", 40))
# With BOS in front the words stand on position 1: position 0 is an attention sink, where an injection does little.
SMOLLM2 = Demo(6, 10.0, ("general", 12), {"method": "screen"}, {"bos": True})


def demo(
    out: Annotated[
        Path, typer.Option(parser=place, metavar="PATH", help="Folder to write to; an older demo in it is replaced.")
    ] = Path("out/demo"),
    model: Annotated[
        str, typer.Option(help="A shipped story model, or smollm2, a real language model, where it is installed.")
    ] = "tinystories-2l",
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
    from steerscope.prompt_sets import prompts

    asked = SMOLLM2 if model == "smollm2" else STORY
    name, most = asked.prompts
    loaded = load(model, **asked.load)
    texts = make_prompts(loaded, prompts(name)[:most], source=f"the shipped prompts {name}")
    injection = Injection(prompt_pair(loaded, " wedding", " ", asked.layer), asked.coefficient)
    experiment = Experiment(loaded, (injection,), texts, references=references, seed=seed)
    with keeping(out):
        result = localize(experiment, **asked.knobs)
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
