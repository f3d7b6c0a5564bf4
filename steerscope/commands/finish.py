"""What every command does around its work: check the folder and silence the libraries before it, then save the tables
with their page, and say what was found, to people or (`--json`) to programs.

A command returns an `Answer`; `answers` gives it the option and says the answer. With `--json` standard output holds
one JSON object and nothing else; what else is said goes to standard error, as failed checks always do.
"""

import inspect
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.files import renewed, storing

FAILED = 3  # exit status where a check of the run did not hold


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        found: for programs: JSON types, `command` comes with it.
        said: for people: sentences, or one thing that rich can print.
        failed: a warning for each check that did not hold; with one the exit status is `FAILED`.
    """

    found: Mapping[str, Any]
    said: Sequence[str] | Any = ()
    failed: Sequence[str] = ()

    @property
    def text(self) -> str:
        """What is said to people."""
        if isinstance(self.said, Sequence):
            return "\n".join(self.said)
        from rich.console import Console

        # As wide as what is said: rich cuts the names in a table to fit, and a cut name is a wrong one.
        console = Console(soft_wrap=True, markup=False, highlight=False, emoji=False, width=1000)
        console.width = console.measure(self.said).maximum
        with console.capture() as captured:
            console.print(self.said)
        return captured.get().rstrip("\n")


def answers(command: Callable[..., Answer | None]) -> Callable[..., None]:
    """A command with the option `--json`, that says what it found."""
    own = inspect.signature(command).parameters.values()

    @wraps(command)
    def told(as_json: bool, **given: Any) -> None:
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            answer = command(**given)
        if answer is not None:
            say(answer, as_json)

    option = inspect.Parameter(
        "as_json",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object.")],
    )
    both = [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), option]
    told.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
    told.__annotations__ = {one.name: one.annotation for one in both}
    return told


def say(answer: Answer, as_json: bool) -> None:
    """Prints an answer, and its failed checks on standard error.

    Raises:
        typer.Exit: with `FAILED`, where a check failed.
    """
    for warning in answer.failed:
        typer.secho(warning, err=True, fg="red", bold=True)
    said = as_text({"command": command_line(), **answer.found}) if as_json else answer.text
    with suppress(BrokenPipeError):  # who reads has read enough
        typer.echo(said)
    if answer.failed:
        raise typer.Exit(FAILED)


def as_text(found: Mapping[str, Any]) -> str:
    """One JSON object in one line of ASCII; numbers that are none are null."""
    return json.dumps(_plain(found), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # of numpy
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


# Before the work.


def place(text: str) -> Path:
    """A folder as it was typed, for `--out`.

    Raises:
        BadArgument: nothing was typed.
    """
    if not text:
        raise BadArgument("--out ''; expected a folder to write to; name one (. is the current folder)")
    return Path(text)


Out = Annotated[Path, typer.Option(parser=place, metavar="PATH", help="Folder to write to.")]


def check_out(out: Path, overwrite: bool, tables: Iterable[str] = (), beside: Iterable[str] = ()) -> None:
    """Refuses a folder that a result could not be saved to, before any work is done: it is tried.

    Args:
        tables: names of those that will be written.
        beside: names of further files that will be.

    Raises:
        OutputExists: it holds a result and `overwrite` is false, or somebody else's file of such a name, or is a file.
        CannotWrite, DiskFull: it cannot be made or written to.
    """
    from steerscope.analysis.results.result import check_folder

    with storing(out):
        check_folder(out, overwrite, tables, beside)
        absent = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        with renewed(out):
            raise _Tried  # before anything changes
    except _Tried:
        pass
    finally:
        for folder in absent:
            with suppress(OSError):  # it was not made, or somebody has put something there
                folder.rmdir()


class _Tried(Exception):
    """A fresh folder can be made."""


def hush() -> None:
    """Silences the loading bars and the advice of transformers, and all bars where no terminal shows them; what
    steerscope says stays.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not (sys.stderr and sys.stderr.isatty()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def command_line() -> str:
    """The command that is running, as one could type it again."""
    return shlex.join(["steerscope", *sys.argv[1:]])


# After it.


def finish(
    result: Any, out: Path, overwrite: bool, page: bool = True, beside: Mapping[str, bytes | str] | None = None
) -> Answer:
    """Saves a result with the command that made it and, unless `page` is false, its page: what to say of it.

    A page that cannot be drawn costs no table: they are saved without it before its error goes on.

    Args:
        beside: further files by name, which come with the tables.
    """
    from steerscope.analysis.results.result import PAGE
    from steerscope.reports.report import html

    result = replace(result, manifest={**result.manifest, "command": command_line()})
    more = dict(beside or {})
    try:
        more |= {PAGE: html(result)} if page else {}
    except Exception:
        result.save(out, overwrite, more)
        typer.echo(f"steerscope: the tables are saved in {out}, their page could not be drawn", err=True)
        raise
    result.save(out, overwrite, more)
    return describe(result, out, out / PAGE if page else None)


def show(result: Any, folder: Path, to: Path | None) -> Answer:
    """Writes the page of a saved result into the folder `to`: what to say of it."""
    from steerscope.reports.report import report

    return describe(result, folder, None if to is None else report(folder, to))


def describe(result: Any, folder: Path, page: Path | None) -> Answer:
    """What is said of a saved result.

    For programs: its kind, folder and page, the sentences of its summary, warnings, the checks that failed, what is
    missing and why, and its first table, row by row.
    """
    from steerscope.reports.pages.common import failed_checks

    summary = result.summary()
    failed = [check for check in result.manifest.get("checks", []) if not check["passed"]]
    table = next(iter(result.frames), None)
    found = {
        "kind": result.kind,
        "folder": str(folder),
        "report": None if page is None else str(page),
        "summary": summary,
        "warnings": result.manifest.get("warnings", []),
        "checks": failed,
        "missing": result.manifest.get("missing", {}),
        "table": table,
        "rows": [] if table is None else result.frames[table].to_dict("records"),
    }
    written = f"Tables: {folder}" if page is None else f"Report: {page}"
    return Answer(found, [*summary, *found["warnings"], written], failed_checks(result.manifest))
