"""`report(folder)`: reads a saved result, picks its page by kind, writes `report.html`. No model is needed."""

from pathlib import Path

from steerscope.analysis.errors import DamagedRun
from steerscope.analysis.results.result import Result
from steerscope.reports.page import render
from steerscope.reports.pages import PAGES

NAME = "report.html"


def report(folder: str | Path, to: str | Path | None = None) -> Path:
    """Writes the page of the result that was saved in `folder`, there or in the folder `to`; its path.

    Raises:
        DamagedRun: the folder holds no whole result, or one of a kind that this version cannot draw.
    """
    result = Result.load(folder)
    if result.kind not in PAGES:
        raise DamagedRun(
            f"{str(folder)!r} holds a result of kind {result.kind!r}; expected one of {', '.join(PAGES)}; "
            "update steerscope"
        )
    path = Path(to or folder) / NAME
    temporary = path.with_name(NAME + ".part")
    temporary.write_text(render(PAGES[result.kind](result)), encoding="utf-8")
    temporary.replace(path)
    return path
