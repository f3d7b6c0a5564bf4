"""Options that several commands share, each written once."""

from enum import StrEnum
from typing import Annotated

import typer


class Where(StrEnum):
    local = "local"
    processes = "processes"
    ray = "ray"


class Ablation(StrEnum):
    resample = "resample"
    mean = "mean"
    zero = "zero"


Runs = Annotated[Where, typer.Option(help="Where passes run: here, in worker processes, or on Ray.")]
Workers = Annotated[int | None, typer.Option(help="Workers of processes or ray; one a core (or a GPU) by default.")]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster, such as auto; by default Ray starts here.")]
ModelName = Annotated[str, typer.Option("--model", help="Shipped name, Hugging Face folder or hub name.")]
Overwrite = Annotated[bool, typer.Option(help="Replace a result in the folder.")]
RandomSeed = Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; the GPU by default, where there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32 (default), float64, bfloat16 or float16.")]
Bos = Annotated[
    bool | None,
    typer.Option(
        "--bos/--no-bos",
        help="Begin every prompt with the tokenizer's BOS, or not. Default: where it has one, whether it adds it by "
        "itself or not.",
    ),
]
Targets = Annotated[
    str | None,
    typer.Option(help='Tokens for log_prob, separated by commas; spaces count: " wedding, bride"; or a JSON list.'),
]
Column = Annotated[str | None, typer.Option(help="Column with the prompts; prompt, text or messages by default.")]
Chat = Annotated[bool, typer.Option("--chat", help="Make every text a user's turn, by the tokenizer's chat template.")]
TargetsColumn = Annotated[
    str | None,
    typer.Option(
        help="Column with each prompt's own target, instead of --targets: a text, or token ids where its name ends in "
        "_idx or _id."
    ),
]
AgainstColumn = Annotated[str | None, typer.Option(help="Column with what each prompt's target is compared with.")]
Scored = Annotated[
    str | None,
    typer.Option(
        help="Positions that the metric reads: all, last, or indices. Default: those after the injected ones."
    ),
]
ScoredColumn = Annotated[str | None, typer.Option(help="Column with each prompt's own positions, such as 3 or 3,4.")]
Against = Annotated[str | None, typer.Option(help="Tokens that log_prob compares the targets with, of like rarity.")]
