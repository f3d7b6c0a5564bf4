"""`steerscope tinystories`: train small story models, compare variants of them, and take them apart."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steerscope.commands import studies
from steerscope.commands.finish import Answer, Out
from steerscope.commands.options import Bos, Device, ModelName, Overwrite
from steerscope.questions import QUESTIONS

app = typer.Typer(help="Small story models: train your own, compare variants.", no_args_is_help=True)


class Act(StrEnum):
    gelu = "gelu"
    relu = "relu"
    silu = "silu"
    solu = "solu"
    solu_ln = "solu_ln"


class Norm(StrEnum):
    LN = "LN"
    RMS = "RMS"
    none = "none"


app.command("census")(studies.census)
app.command("layers")(studies.layers)


@app.command("train")
def train(
    out: Out,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Stories, separated by <|endoftext|>; give it again for more files. Without it, those of the grammar."
        ),
    ] = None,
    weaker: Annotated[list[Path] | None, typer.Option(help="More, but weaker text, for quantity.")] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Begin with this model's weights and tokenizer: a shipped one, or a folder trained here."),
    ] = None,
    source: Annotated[str, typer.Option(help="What the text is and its licence, for the card.")] = "unstated",
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "unstated",
    layers: Annotated[int, typer.Option(help="Layers.")] = 2,
    act: Annotated[
        Act | None,
        typer.Option(help="Activation function: with it, a norm or --parallel a native model, without GPT-Neo (gelu)."),
    ] = None,
    norm: Annotated[Norm, typer.Option(help="What normalizes the stream: LayerNorm, RMSNorm or nothing.")] = Norm.LN,
    parallel: Annotated[bool, typer.Option("--parallel", help="Attention and MLP read the same stream.")] = False,
    heads: Annotated[int, typer.Option(help="Heads a layer.")] = 10,
    width: Annotated[int, typer.Option(help="Width of the stream; a multiple of the heads.")] = 320,
    vocabulary: Annotated[int, typer.Option(help="Tokens of the byte-level BPE.")] = 2048,
    context: Annotated[int, typer.Option(help="Longest input in tokens.")] = 256,
    topic_stories: Annotated[int, typer.Option(help="Stories that the project's grammar adds.")] = 10_000,
    repeated: Annotated[
        float, typer.Option(help="Share of windows of random tokens said again and again: teaches induction.")
    ] = 0.0,
    steps: Annotated[int, typer.Option(help="Steps to train.")] = 7000,
    minutes: Annotated[float | None, typer.Option(help="Plan the schedule over so much time instead.")] = None,
    optimizer: Annotated[str, typer.Option(help="muon (with AdamW on embeddings and norms) or adamw.")] = "muon",
    threads: Annotated[int, typer.Option(help="Threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights, batches and topic stories.")] = 0,
    seeds: Annotated[
        int,
        typer.Option(help="So many models, of this seed and those behind it, in folders of their own.", min=1, max=100),
    ] = 1,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that was trained into the folder.")] = False,
) -> Answer:
    """Trains a story model; a run that was interrupted goes on from its checkpoint.

    Example: steerscope tinystories train --act solu --norm RMS --layers 1 --seeds 3 --out out/solu
    """
    from steerscope.tinystories.config import TrainConfig

    config = TrainConfig(
        text=tuple(map(str, text or [])),
        out=str(out),
        text_source=source,
        weaker_text=tuple(map(str, weaker or [])),
        start=start,
        licence=licence,
        n_layers=layers,
        act=None if act is None else act.value,
        norm=norm.value,
        parallel=parallel,
        n_heads=heads,
        d_model=width,
        vocabulary=vocabulary,
        context=context,
        topic_stories=topic_stories,
        repeated=repeated,
        steps=steps,
        max_minutes=minutes,
        optimizer=optimizer,  # type: ignore[arg-type]  # checked there
        threads=threads,
        seed=seed,
    )
    from steerscope.tinystories.progress import progress_bar
    from steerscope.tinystories.train import train as run
    from steerscope.tinystories.variants import trained

    if seeds == 1:
        with progress_bar() as progress:
            folder = run(config, progress=progress, overwrite=overwrite)
        return Answer({"kind": "model", "folder": str(folder)}, [f"Model: {folder}"])
    folders = []
    for number in range(seed, seed + seeds):
        one = replace(config, seed=number, out=str(out / f"seed-{number}"))
        with progress_bar() as progress:
            made = run(one, progress=progress, overwrite=True) if overwrite else trained(one, progress=progress)
        folders.append(str(made))
    return Answer({"kind": "models", "folders": folders}, [f"Model: {folder}" for folder in folders])


@app.command("compare")
def compare(
    out: Out,
    layers: Annotated[int, typer.Option(help="Layers of every model.")] = 2,
    variants: Annotated[
        str, typer.Option(help="Names with commas: gelu (the base), relu, silu, solu, RMSNorm, no norm, parallel.")
    ] = "gelu,relu,silu,solu,RMSNorm,no norm,parallel",
    seeds: Annotated[int, typer.Option(help="Models of each variant; the sample that intervals are over.")] = 3,
    seed: Annotated[int, typer.Option(help="The first one; new ones test what others have suggested.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps of training, the same for all.")] = 400,
    width: Annotated[int, typer.Option(help="Width of the stream; a multiple of the heads.")] = 64,
    heads: Annotated[int, typer.Option(help="Heads a layer.")] = 4,
    stories: Annotated[int, typer.Option(help="Stories of the grammar.")] = 3000,
    loss: Annotated[float, typer.Option(help="Share of the perplexity that a safe size may cost.")] = 0.1,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    alpha: Annotated[float, typer.Option(help="Threshold on the corrected p-values.")] = 0.05,
    overwrite: Annotated[bool, typer.Option(help="Replace the tables in the folder; models stay.")] = False,
) -> Answer:
    """Trains variants of one small model, and compares how they are steered; one that was stopped goes on.

    Example: steerscope tinystories compare --seeds 5 --out out/activations
    """
    from steerscope.commands.finish import check_out, finish, hush
    from steerscope.tinystories.variants import Recipe

    names = tuple(name.strip() for name in variants.split(","))
    recipe = Recipe(names, seeds, layers, width=width, heads=heads, stories=stories, steps=steps, first=seed)
    check_out(out, overwrite, QUESTIONS["compare_variants"].tables)
    hush()
    from steerscope.tinystories.compare import compare_variants as run

    return finish(run(out, recipe, loss=loss, level=level, alpha=alpha), out, overwrite)


@app.command("task-vector")
def task_vector(
    model: ModelName,
    out: Out,
    topic: Annotated[str, typer.Option(help="A topic of the grammar.")] = "wedding",
    seeds: Annotated[int, typer.Option(help="Of fine-tuning; the sample that intervals are over.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of fine-tuning.")] = 60,
    batch: Annotated[int, typer.Option(help="Windows a step.")] = 8,
    rate: Annotated[float, typer.Option(help="Learning rate at the start.")] = 1e-3,
    kl: Annotated[float, typer.Option(help="How much every change disturbs neutral openings, in nats.")] = 0.3,
    seed: Annotated[int, typer.Option(help="The first one.")] = 0,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    device: Device = None,
    bos: Bos = None,
    overwrite: Overwrite = False,
) -> Answer:
    """Weights that have learned a topic against the topic's activation vector, at equal disturbance.

    Example: steerscope tinystories task-vector --model tinystories-2l --topic wedding --out out/task
    """
    from steerscope.commands.finish import check_out, finish, hush

    check_out(out, overwrite, QUESTIONS["task_vector"].tables)
    hush()
    from steerscope.loader import load
    from steerscope.tinystories.task_vector import task_vector as ask

    given = {"seeds": seeds, "steps": steps, "batch": batch, "rate": rate, "kl": kl, "seed": seed, "level": level}
    return finish(ask(load(model, device=device, bos=bos), topic, **given), out, overwrite)  # type: ignore[arg-type]
