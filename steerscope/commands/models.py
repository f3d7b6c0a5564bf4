"""`steerscope models`: the shipped models and what their cards say, and those of packages."""

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from steerscope.commands.finish import Answer
from steerscope.packaged import PACKAGED
from steerscope.tinystories.zoo import cards, shipped

NAMES = ("name", "layers", "heads", "width", "parameters", "bytes", "bits_per_character", "available")


def models() -> Answer:
    """Lists the shipped models, and those of packages.

    A Hugging Face folder, a GGUF file or a hub name works wherever a model is asked for.
    """
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
    return Answer({"models": found}, Group(table, *missing))


def _sizes(layers: int, heads: int, width: int, parameters: int) -> tuple[str, ...]:
    return (str(layers), str(heads), str(width), f"{parameters:,}")
