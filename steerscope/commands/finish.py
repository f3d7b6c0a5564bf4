"""What every command does around an analysis: silence the libraries, then save, report and say what was found."""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from steerscope.analysis.results import Result


def hush() -> None:
    """Silences the loading bars and the advice of transformers; what steerscope says stays."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def finish(result: Result, out: Path, overwrite: bool) -> None:
    """Saves the result with the command that made it, writes its report, and prints the findings."""
    from steerscope.reports.report import report
    from steerscope.reports.words import headline

    command = shlex.join(["steerscope", *sys.argv[1:]])
    result = replace(result, manifest={**result.manifest, "command": command})
    result.save(out, overwrite=overwrite)
    page = report(out)
    console = Console(soft_wrap=True)
    for sentence in headline(result):
        console.print(Text(sentence))
    console.print(Text(f"Report: {page}"))
