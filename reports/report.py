"""`report(folder)`: reads a saved result, picks its page by kind, writes `report.html`. No model is needed."""

from pathlib import Path

from steerscope.analysis.results.result import Result
from steerscope.questions import page_of
from steerscope.reports.page import render

NAME = "report.html"


def report(folder: str | Path, to: str | Path | None = None) -> Path:
    """Writes the page of the result that was saved in `folder`, there or in the folder `to`; its path.

    Raises:
        DamagedRun: the folder holds no whole result.
    """
    result = Result.load(folder)
    path = Path(to or folder) / NAME
    temporary = path.with_name(NAME + ".part")
    temporary.write_text(render(page_of(result.kind).page(result)), encoding="utf-8")
    temporary.replace(path)
    return path
