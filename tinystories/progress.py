"""A progress bar for training, with the time that is left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from .train import Progress


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Gives what `train(..., progress=...)` wants; the bar ends with the block. No bar where there is no terminal.

    Example:
        with progress_bar() as progress:
            train(config, progress=progress)
    """
    columns = (
        TextColumn("step {task.fields[step]}"),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f}%  loss {task.fields[loss]}{task.fields[held_out]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    place = console or Console(stderr=True)
    with Bar(*columns, console=place, disable=not place.is_terminal) as bar:
        task = bar.add_task("training", total=1.0, step=0, loss="-", held_out="")

        def show(now: Progress) -> None:
            bar.update(task, completed=now.fraction, step=now.step, loss=f"{now.loss:.3f}")
            if now.held_out is not None:
                bar.update(task, held_out=f", held out {now.held_out:.3f} bits/char")

        yield show
