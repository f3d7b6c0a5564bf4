"""`steerscope circuits detect` and `tinystories layers`: what heads do, and what each layer does under steering."""

from typing import Annotated

import typer

from steerscope.commands.finish import Answer, Out
from steerscope.commands.options import Bos, Device, ModelName, Overwrite, RandomSeed
from steerscope.questions import QUESTIONS


def census(
    model: ModelName,
    out: Out,
    sequences: Annotated[int, typer.Option(help="Sequences of random tokens.")] = 128,
    length: Annotated[int, typer.Option(help="Tokens of the part that is said twice.")] = 50,
    causal: Annotated[int, typer.Option(help="Heads that are taken out of a repetition.")] = 24,
    seed: RandomSeed = 0,
    device: Device = None,
    bos: Bos = None,
    overwrite: Overwrite = False,
) -> Answer:
    """Which heads look at the token before, at copies, behind them, at the first position; which copy.

    Example: steerscope circuits detect --model tinystories-2l --out out/heads
    """
    from steerscope.commands.finish import check_out, finish, hush

    check_out(out, overwrite, QUESTIONS["head_census"].tables)
    hush()
    from steerscope.circuits.detect import head_census
    from steerscope.loader import load
    from steerscope.tinystories.topics import TOPICS

    topics = {topic.name: topic.words for topic in TOPICS}
    loaded = load(model, device=device, bos=bos)
    return finish(
        head_census(loaded, sequences=sequences, length=length, causal=causal, topics=topics, seed=seed), out, overwrite
    )


def layers(
    model: ModelName,
    out: Out,
    at: Annotated[
        str | None, typer.Option(help="Injection sites, separated by commas, such as L0.resid_pre; all by default.")
    ] = None,
    vectors: Annotated[
        str | None, typer.Option(help="Which of the twelve vectors, separated by commas; all by default.")
    ] = None,
    seed: RandomSeed = 0,
    device: Device = None,
    bos: Bos = None,
    overwrite: Overwrite = False,
) -> Answer:
    """What each layer of a story model does, and which of it steering uses: twelve vectors at every injection site.

    Example: steerscope tinystories layers --model tinystories-2l --out out/layers
    """
    from steerscope.commands.finish import check_out, finish, hush

    check_out(out, overwrite, QUESTIONS["layer_study"].tables)
    hush()
    from steerscope.analysis.errors import BadArgument
    from steerscope.loader import load
    from steerscope.tinystories.layers import layer_study
    from steerscope.tinystories.twelve import twelve

    chosen = None
    if vectors is not None:
        known = {one.name: one for one in twelve()}
        names = [name.strip() for name in vectors.split(",")]
        wrong = [name for name in names if name not in known]
        if wrong:
            raise BadArgument(
                f"--vectors {wrong[0]!r}; expected some of {', '.join(known)}; choose among these, or leave it out"
            )
        chosen = [known[name] for name in dict.fromkeys(names)]
    where = None if at is None else [part.strip() for part in at.split(",")]
    loaded = load(model, device=device, bos=bos)
    return finish(layer_study(loaded, vectors=chosen, at=where, seed=seed), out, overwrite)
