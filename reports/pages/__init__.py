"""Pages by kind of result: one line for each."""

from collections.abc import Callable

from steerscope.analysis.results.result import Result
from steerscope.reports.page import Page
from steerscope.reports.pages.attention import attention_page
from steerscope.reports.pages.attribute import attribute_page
from steerscope.reports.pages.breakdown import breakdown_page
from steerscope.reports.pages.lens import lens_page
from steerscope.reports.pages.localize import localize_page
from steerscope.reports.pages.paths import edges_page, paths_page
from steerscope.reports.pages.positions import positions_page
from steerscope.reports.pages.screen import screen_page
from steerscope.reports.pages.self_repair import self_repair_page
from steerscope.reports.pages.shapley import shapley_page
from steerscope.reports.pages.sparsify import sparsify_page
from steerscope.reports.pages.sweep import sweep_page
from steerscope.reports.pages.trace import trace_page
from steerscope.reports.pages.writers import writers_page

PAGES: dict[str, Callable[[Result], Page]] = {
    "attention": attention_page,
    "attribute": attribute_page,
    "breakdown": breakdown_page,
    "edges": edges_page,
    "lens": lens_page,
    "localize": localize_page,
    "paths": paths_page,
    "positions": positions_page,
    "screen": screen_page,
    "self_repair": self_repair_page,
    "shapley": shapley_page,
    "sparsify": sparsify_page,
    "sweep": sweep_page,
    "trace": trace_page,
    "writers": writers_page,
}
