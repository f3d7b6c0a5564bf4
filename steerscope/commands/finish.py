"""What every command does around an analysis: check the folder and silence the libraries before it, then save, report
and say what was found."""

import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.results.result import Result, check_folder


def check_out(out: Path, overwrite: bool, tables: Iterable[str] = ()) -> None:
    """Refuses a folder that a result could not be saved to, before any work is done.

    Args:
        tables: names of those that will be written.

    Raises:
        OutputExists: it holds a result and `overwrite` is false, or it is a file.
        BadArgument: it cannot be made or written to.
    """
    check_folder(out, overwrite, tables)
    above = out
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise BadArgument(
            f"{str(out)!r} cannot be written: {str(above)!r} is {'read-only' if above.is_dir() else 'a file'}; "
            "expected a folder that can be made; choose another --out"
        )


def hush() -> None:
    """Silences the loading bars and the advice of transformers; what steerscope says stays."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def command_line() -> str:
    """The command that is running, as one could type it again."""
    return shlex.join(["steerscope", *sys.argv[1:]])


def finish(result: Result, out: Path, overwrite: bool, page: bool = True) -> None:
    """Saves the result with the command that made it, writes its report unless `page` is false, and prints the
    findings.
    """
    result = replace(result, manifest={**result.manifest, "command": command_line()})
    result.save(out, overwrite=overwrite)
    show(result, out, out if page else None)


def show(result: Result, folder: Path, to: Path | None) -> None:
    """Prints what was found in a saved result, and which checks failed, after writing its page into the folder `to`."""
    from steerscope.reports.pages.common import failed_checks
    from steerscope.reports.report import report

    written = f"Tables: {folder}" if to is None else f"Report: {report(folder, to)}"
    console = Console(soft_wrap=True)
    for warning in failed_checks(result.manifest):
        console.print(Text(warning, style="bold red"))
    for sentence in result.summary():
        console.print(Text(sentence))
    console.print(Text(written))
