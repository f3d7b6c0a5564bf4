"""`steerscope models`: the shipped models and what their cards say."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from steerscope.tinystories.zoo import cards, shipped


def models() -> None:
    """Lists the shipped models; a Hugging Face folder or hub name works wherever a model is asked for."""
    folders = shipped()
    table = Table(box=SIMPLE_HEAD)
    for column in ("name", "layers", "heads", "width", "parameters", "size", "bits/char"):
        table.add_column(column, no_wrap=True, justify="left" if column == "name" else "right")
    for card in cards().values():
        size = sum(file.stat().st_size for file in folders[card.name].glob("*.safetensors"))
        numbers = (card.layers, card.heads, card.d_model, f"{card.parameters:,}")
        table.add_row(card.name, *map(str, numbers), f"{size / 1e6:.1f} MB", f"{card.bits_per_character:.3f}")
    Console().print(table)
