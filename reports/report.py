"""`report(folder)`: reads a saved result, picks its page by kind, writes `report.html`. No model is needed."""

from pathlib import Path

from steerscope.analysis.files import write
from steerscope.analysis.gate import gated
from steerscope.analysis.results.result import PAGE, Result
from steerscope.questions import page_of
from steerscope.reports.page import render
from steerscope.reports.reading import drawing


@gated
def report(folder: str | Path, to: str | Path | None = None) -> Path:
    """Writes the page of the result that was saved in `folder`, there or in the folder `to`; its path.

    Raises:
        DamagedRun: the folder holds no whole result.
        DiskFull, CannotWrite: the system refuses; an older page stays.
    """
    return write(Path(to or folder) / PAGE, html(Result.load(folder)))


@drawing
def html(result: Result) -> str:
    """The page of a result."""
    return render(page_of(result.kind).page(result))
