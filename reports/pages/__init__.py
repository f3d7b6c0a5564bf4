"""Pages by kind of result: one line for each."""

from collections.abc import Callable

from steerscope.analysis.results import Result
from steerscope.reports.page import Page
from steerscope.reports.pages.localize import localize_page
from steerscope.reports.pages.sweep import sweep_page

PAGES: dict[str, Callable[[Result], Page]] = {
    "localize": localize_page,
    "sweep": sweep_page,
}
