"""`steerscope models`: the shipped models and what their cards say."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from steerscope.commands.finish import Answer
from steerscope.tinystories.zoo import cards, shipped

NAMES = ("name", "layers", "heads", "width", "parameters", "bytes", "bits_per_character")


def models() -> Answer:
    """Lists the shipped models; a Hugging Face folder or hub name works wherever a model is asked for."""
    folders, found = shipped(), []
    table = Table(box=SIMPLE_HEAD)
    for column in (*NAMES[:5], "size", "bits/char"):
        table.add_column(column, no_wrap=True, justify="left" if column == "name" else "right")
    for card in cards().values():
        size = sum(file.stat().st_size for file in folders[card.name].glob("*.safetensors"))
        numbers = (card.layers, card.heads, card.d_model, card.parameters, size, card.bits_per_character)
        found.append(dict(zip(NAMES, (card.name, *numbers), strict=True)))
        shown = (*map(str, numbers[:3]), f"{card.parameters:,}", f"{size / 1e6:.1f} MB")
        table.add_row(card.name, *shown, f"{card.bits_per_character:.3f}")
    return Answer({"models": found}, table)
