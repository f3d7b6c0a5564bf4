"""The command line: assembles the commands. Nothing heavy is imported before a command runs.

One sentence and exit code 2 for our own errors; others keep their traceback.
"""

import sys
from typing import Annotated

import typer

from steerscope import __version__
from steerscope.analysis.errors import SteerscopeError
from steerscope.commands import asked, demo, lens, models, report, sweep, tinystories
from steerscope.questions import QUESTIONS

app = typer.Typer(
    name="steerscope",
    help="Finds out how a steering vector works inside a transformer: which heads and MLPs carry it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("models")(models.models)
for question in QUESTIONS.values():
    if question.experiment and not question.door:
        app.command(question.command, short_help=question.asks)(asked.command(question))
app.command("report")(report.report)
app.add_typer(sweep.app, name="sweep")
app.add_typer(lens.app, name="lens")
app.add_typer(tinystories.app, name="tinystories")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steerscope {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the `steerscope` command."""
    try:
        app()
    except SteerscopeError as error:
        typer.echo(f"steerscope: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:  # typer turns Ctrl-C into a silent exit with 130
        if isinstance(stop, KeyboardInterrupt) or stop.code == 130:
            typer.echo("steerscope: stopped", err=True)
            sys.exit(130)
        raise


if __name__ == "__main__":
    main()
