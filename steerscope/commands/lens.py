"""`steerscope lens train`: a tuned lens for a model, from text."""

from dataclasses import replace
from typing import Annotated

import typer

from steerscope.commands.finish import Answer, Out
from steerscope.commands.options import Bos, Device, ModelName, Overwrite
from steerscope.questions import QUESTIONS

app = typer.Typer(no_args_is_help=True, help="Tuned lenses: train one for your model.")


@app.callback()
def _group() -> None:
    """Keeps `train` a subcommand although it is the only one."""


@app.command("train")
def train(
    model: ModelName,
    out: Out,
    text: Annotated[
        str,
        typer.Option(
            help="Text, JSONL, CSV, parquet, or a Hugging Face data set's name; some text of ours by default."
        ),
    ] = "shipped",
    windows: Annotated[int, typer.Option(help="Windows of text to learn from.")] = 10_000,
    tokens: Annotated[int, typer.Option(help="Tokens of a window.")] = 128,
    steps: Annotated[int, typer.Option(help="Steps to train.")] = 250,
    batch: Annotated[int, typer.Option(help="Windows a step.")] = 64,
    rate: Annotated[float, typer.Option(help="Learning rate at the start.")] = 1.0,
    held_out: Annotated[int, typer.Option(help="Windows that nothing is learned from.")] = 64,
    seed: Annotated[int, typer.Option(help="Of windows and batches.")] = 0,
    device: Device = None,
    bos: Bos = None,
    overwrite: Overwrite = False,
) -> Answer:
    """Trains a tuned lens (all layers at once); a run that was interrupted goes on from its checkpoint.

    Example: steerscope lens train --model tinystories-2l --text stories.jsonl --out out/lens
    """
    from steerscope.analysis.lens.lens import FILES
    from steerscope.analysis.lens.train import Recipe, check_kind, forget, trained
    from steerscope.commands.finish import check_out, finish, hush

    recipe = Recipe(steps, batch, rate, held_out, seed)  # refuses what makes no sense, before a model is loaded
    check_kind(out)
    check_out(out, overwrite, QUESTIONS["train_lens"].tables, FILES)
    hush()
    from steerscope.analysis.question.corpora import windows as cut
    from steerscope.loader import load

    loaded = load(model, device=device, bos=bos)
    chosen = cut(loaded, text, count=windows, tokens=min(tokens, loaded.n_ctx), seed=seed)
    lens, result = trained(loaded, chosen, out, recipe)
    answer = finish(result, out, True, beside=lens.files())
    forget(out)
    return replace(answer, found={**answer.found, "lens": str(out)}, said=[*answer.said, f"Lens: {out}"])
