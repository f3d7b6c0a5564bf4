"""The command line: assembles the commands. Nothing heavy is imported before a command runs.

Exit status: 0; 2 with one sentence on standard error for what a user, a file or the system can cause; 3 where a check
of the run did not hold; 130 where it was stopped. Bugs keep their traceback. With `--json` standard output holds one
JSON object, of an error `{"error": ...}`.
"""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from steerscope import __version__
from steerscope.analysis.errors import BadArgument, SteerscopeError
from steerscope.commands import asked, circuits, demo, gallery, lens, models, report, sweep, tinystories, vector_tools
from steerscope.commands.finish import answers, as_text
from steerscope.questions import QUESTIONS

GROUPS = {"sweep": sweep.app, "vectors": vector_tools.app, "lens": lens.app, "tinystories": tinystories.app}
GROUPS["circuits"] = circuits.app
COMPLETION = ("install_completion", "show_completion")


class _Commands(TyperGroup):
    """All commands; what installs shell completion works and does not crowd the help."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)
        for option in found:
            if option.name in COMPLETION:
                option.hidden = True
        return found


app = typer.Typer(
    cls=_Commands,
    name="steerscope",
    help="Finds out how a steering vector works inside a transformer: which heads and MLPs carry it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("models")(models.models)
for question in QUESTIONS.values():
    if question.experiment and not question.door:
        group = GROUPS.get(question.group, app)
        group.command(question.command.split()[-1], short_help=question.asks)(asked.command(question))
app.command("report")(report.report)
tinystories.app.command("gallery")(gallery.gallery)
for name, members in GROUPS.items():
    app.add_typer(members, name=name)


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
    """The options of `steerscope` itself."""


for group in (app, *GROUPS.values()):
    for listed in group.registered_commands:
        assert listed.callback is not None
        listed.callback = answers(listed.callback)


def main() -> None:
    """Entry point of the `steerscope` command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    status = _run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:  # a pipe that nobody reads any more, a full disk: said once, not again on the way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            status = _stopped(_refused(error), told=False)
    sys.exit(status)


def _run() -> int:
    """Runs the command; its exit status."""
    try:
        for argument in sys.argv[1:]:
            _check_text(argument)
        app(prog_name="steerscope")
    except SteerscopeError as error:
        return _stopped(str(error))
    except BrokenPipeError:
        return 0
    except OSError as error:
        return _stopped(_refused(error))
    except KeyboardInterrupt as stop:
        return _stopped(str(stop) or "stopped", 130)
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        return _stopped(
            "the memory is not enough; expected room for the model and a batch of runs; give fewer or shorter prompts, "
            "a smaller model, or --dtype bfloat16"
        )
    except SystemExit as stop:
        return _left(stop)
    return 0


def _left(stop: SystemExit) -> int:
    """The status of a command that typer ended: it has its own words for options that it does not know."""
    cause: BaseException | None = stop
    while cause and not isinstance(cause, KeyboardInterrupt | BrokenPipeError) and not hasattr(cause, "format_message"):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, BrokenPipeError):
        return 0
    if isinstance(cause, KeyboardInterrupt):
        return _stopped(str(cause) or "stopped", 130)
    if cause is not None:
        return _stopped(cause.format_message(), said=True)  # type: ignore[attr-defined]
    return 2 if stop.code == 1 else int(stop.code or 0)


def _stopped(why: str, status: int = 2, said: bool = False, told: bool = True) -> int:
    """Says why there is no answer.

    Args:
        said: whether standard error has it already.
        told: whether standard output can have it.
    """
    if not said:
        typer.echo(f"steerscope: {why}", err=True)
    if told and "--json" in sys.argv:
        try:
            typer.echo(as_text({"error": why}))
        except OSError:  # standard error has it
            pass
    return status


def _check_text(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        raise BadArgument(
            f"the argument {argument!r} is not UTF-8; expected text, and names of files in UTF-8; write it so, or "
            "rename the file"
        ) from error


def _refused(error: OSError) -> str:
    what = f" {str(error.filename)!r}" if error.filename else ""
    why = " ".join((error.strerror or str(error)).split())[:300]
    return (
        f"the system refuses{what} ({why}); expected a file, a folder or an output that can be used; check its place, "
        "its permissions and the room there"
    )


def _is_memory(error: BaseException) -> bool:
    """Whether there was no memory, in Python's words or torch's."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "can't allocate memory" in str(error)


if __name__ == "__main__":
    main()
