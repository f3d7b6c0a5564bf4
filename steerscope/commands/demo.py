"""`steerscope demo`: the carriers of " wedding" in an embedded story model."""

from pathlib import Path
from typing import Annotated

import typer

LAYER = 0
COEFFICIENT = 3.0
TARGETS = (" wedding", " bride", " married", " ring", " dress", " church", " groom")


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder to write to; a result in it is replaced.")
    ] = Path("out/demo"),
    model: Annotated[str, typer.Option(help="A shipped story model.")] = "tinystories-2l",
    controls: Annotated[int, typer.Option(help="Random vectors that ride along.")] = 20,
    seed: Annotated[int, typer.Option(help="Of controls, resamples and completions.")] = 0,
) -> None:
    """Localizes " wedding" on an embedded model and writes a report: the whole way, without a network."""
    from steerscope.commands.finish import finish, hush

    hush()
    from steerscope.analysis.attribution.localize import localize
    from steerscope.analysis.injection import Injection
    from steerscope.analysis.metrics import log_prob
    from steerscope.analysis.prompts import make_prompts
    from steerscope.analysis.vectors.prompt_pair import prompt_pair
    from steerscope.loader import load
    from steerscope.tinystories.zoo import prompts

    loaded = load(model)
    texts = make_prompts(loaded, prompts("off_topic"), source="the demo's neutral story beginnings")
    injection = Injection(prompt_pair(loaded, " wedding", " ", LAYER), COEFFICIENT)
    finish(
        localize(loaded, injection, texts, log_prob(TARGETS), controls=controls, seed=seed),
        out,
        overwrite=True,
    )
