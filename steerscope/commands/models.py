"""`steerscope models`: the shipped models and what their cards say, those of packages, and toys."""

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from steerscope.circuits.toys.zoo import toy, toys
from steerscope.commands.finish import Answer
from steerscope.packaged import PACKAGED
from steerscope.tinystories.zoo import cards, shipped

NAMES = ("name", "layers", "heads", "width", "parameters", "bytes", "bits_per_character", "available")


def models(
    small: Annotated[
        bool, typer.Option("--toys", help="List the toys with a known circuit, for trying methods.")
    ] = False,
) -> Answer:
    """Lists the shipped models, and those of packages.

    A Hugging Face folder, a GGUF file or a hub name works wherever a model is asked for.
    """
    return _toys() if small else _models()


def _models() -> Answer:
    folders, found, missing = shipped(), [], []
    table = Table(box=SIMPLE_HEAD)
    for column in (*NAMES[:5], "size", "bits/char"):
        table.add_column(column, no_wrap=True, justify="left" if column == "name" else "right")
    for card in cards().values():
        size = sum(file.stat().st_size for file in folders[card.name].glob("*.safetensors"))
        numbers = (card.layers, card.heads, card.d_model, card.parameters, size, card.bits_per_character)
        found.append(dict(zip(NAMES, (card.name, *numbers, True), strict=True)))
        table.add_row(card.name, *_sizes(*numbers[:4]), f"{size / 1e6:.1f} MB", f"{card.bits_per_character:.3f}")
    for name, model in PACKAGED.items():
        path = model.path
        bytes_ = None if path is None else path.stat().st_size
        sizes = (model.layers, model.heads, model.width, model.parameters)
        found.append(dict(zip(NAMES, (name, *sizes, bytes_, None, path is not None), strict=True)))
        table.add_row(name, *_sizes(*sizes), "not installed" if bytes_ is None else f"{bytes_ / 1e6:.1f} MB", "")
        if path is None:
            missing.append(f"{name}: {model.install}")
    return Answer({"models": found}, Group(table, *missing, "Toys with a known circuit: steerscope models --toys"))


def _toys() -> Answer:
    found = []
    table = Table(box=SIMPLE_HEAD)
    table.add_column("name", no_wrap=True)
    table.add_column("layers x heads", justify="right", no_wrap=True)
    table.add_column("right", justify="right", no_wrap=True)
    table.add_column("what carries the answer", no_wrap=True)
    for name in toys():
        card = toy(name)
        recipe, (*_, right) = card.recipe, card.accuracy.values()  # the last test is the fairest
        table.add_row(name, f"{recipe.layers} x {recipe.heads}", f"{right:.1%}", card.circuit)
        about = {"task": recipe.task, "layers": recipe.layers, "heads": recipe.heads, "accuracy": card.accuracy}
        found.append({"name": name, **about, "circuit": card.circuit, "solved": card.solved})
    return Answer({"toys": found}, table)


def _sizes(layers: int, heads: int, width: int, parameters: int) -> tuple[str, ...]:
    return (str(layers), str(heads), str(width), f"{parameters:,}")
