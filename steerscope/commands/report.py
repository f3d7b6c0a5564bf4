"""`steerscope report`: write the page of a saved result again. No model is needed."""

from pathlib import Path
from typing import Annotated

import typer


def report(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Writes report.html from a saved result alone."""
    from steerscope.reports.report import report as write

    typer.echo(f"Report: {write(folder)}")
