"""`steerscope tinystories`: train a small story model, and take story models apart."""

from pathlib import Path
from typing import Annotated

import typer

from steerscope.commands import studies
from steerscope.commands.finish import Answer, Out

app = typer.Typer(help="Small story models: train your own.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `train` a subcommand although it is the only one."""


app.command("census")(studies.census)
app.command("layers")(studies.layers)


@app.command("train")
def train(
    text: Annotated[
        list[Path], typer.Option(help="Stories, separated by <|endoftext|>; give it again for more files.")
    ],
    out: Out,
    weaker: Annotated[list[Path] | None, typer.Option(help="More, but weaker text, for quantity.")] = None,
    source: Annotated[str, typer.Option(help="What the text is and its licence, for the card.")] = "unstated",
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "unstated",
    layers: Annotated[int, typer.Option(help="Layers.")] = 2,
    heads: Annotated[int, typer.Option(help="Heads a layer.")] = 10,
    width: Annotated[int, typer.Option(help="Width of the stream; a multiple of the heads.")] = 320,
    vocabulary: Annotated[int, typer.Option(help="Tokens of the byte-level BPE.")] = 2048,
    context: Annotated[int, typer.Option(help="Longest input in tokens.")] = 256,
    topic_stories: Annotated[int, typer.Option(help="Stories that the project's grammar adds.")] = 10_000,
    steps: Annotated[int, typer.Option(help="Steps to train.")] = 7000,
    minutes: Annotated[float | None, typer.Option(help="Plan the schedule over so much time instead.")] = None,
    optimizer: Annotated[str, typer.Option(help="muon (with AdamW on embeddings and norms) or adamw.")] = "muon",
    threads: Annotated[int, typer.Option(help="Threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights, batches and topic stories.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that was trained into the folder.")] = False,
) -> Answer:
    """Trains a GPT-Neo on stories; a run that was interrupted goes on from its checkpoint."""
    from steerscope.tinystories.config import TrainConfig

    config = TrainConfig(
        text=tuple(map(str, text)),
        out=str(out),
        text_source=source,
        weaker_text=tuple(map(str, weaker or [])),
        licence=licence,
        n_layers=layers,
        n_heads=heads,
        d_model=width,
        vocabulary=vocabulary,
        context=context,
        topic_stories=topic_stories,
        steps=steps,
        max_minutes=minutes,
        optimizer=optimizer,  # type: ignore[arg-type]  # checked there
        threads=threads,
        seed=seed,
    )
    from steerscope.tinystories.progress import progress_bar
    from steerscope.tinystories.train import train as run

    with progress_bar() as progress:
        folder = run(config, progress=progress, overwrite=overwrite)
    return Answer({"kind": "model", "folder": str(folder)}, [f"Model: {folder}"])
