"""`steerscope report`: write the page of a saved result again. No model is needed."""

from pathlib import Path
from typing import Annotated

import typer

from steerscope.commands.finish import Answer


def report(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> Answer:
    """Writes report.html from a saved result alone, or from the trials of a sweep."""
    from steerscope.analysis.results.result import Result
    from steerscope.analysis.sweeps.store import Store
    from steerscope.commands.finish import show
    from steerscope.commands.sweep import summary

    if (store := Store(folder)).exists:
        return summary(store)
    return show(Result.load(folder), folder, folder)
