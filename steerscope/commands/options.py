"""Options that several commands share, each written once."""

from typing import Annotated

import typer

ModelName = Annotated[str, typer.Option("--model", help="Shipped name, Hugging Face folder or hub name.")]
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
    str | None, typer.Option(help='Tokens for log_prob, separated by commas; spaces count: " wedding, bride".')
]
Against = Annotated[str | None, typer.Option(help="Tokens that log_prob compares the targets with, of like rarity.")]
