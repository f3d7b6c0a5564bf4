"""`steerscope report`: write the page of a saved result again. No model is needed."""

from pathlib import Path
from typing import Annotated

import typer


def report(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Writes report.html from a saved result alone, or from the trials of a sweep."""
    from steerscope.analysis.sweeps.store import Store
    from steerscope.commands.sweep import summary
    from steerscope.reports.report import report as write

    if (store := Store(folder)).exists:
        summary(store)
        return
    typer.echo(f"Report: {write(folder)}")
