"""`Section`, `Page`, `render`: one self-contained file that opens offline.

Everything that comes from a model, a prompt or a file goes through jinja's autoescape. Texts of figures are plain
text until here: plotly reads a subset of HTML, so every `<` in them is escaped, and then in JSON once more; only the
house's own marks (`bold`, new lines) become tags. plotly's script stands in the page once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from steerscope.reports.theme import BOLD, NAMELESS, PLAIN

TAGS = {"\n": "<br>", BOLD: "<b>", PLAIN: "</b>", NAMELESS: "<extra></extra>"}


@dataclass(frozen=True)
class Table:
    """A table as text, already formatted.

    Attributes:
        numeric: names of the columns that are aligned to the right.
        marked: indices of rows that are pointed out.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Panel:
    """A figure with its title, or the reason why there is none."""

    title: str
    figure: go.Figure | None = None
    missing: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, in this order: text, panels side by side, table, code.

    Attributes:
        folded: shown closed; for what one looks up.
        download: a frame that can be saved as CSV, by file name.
        warnings: what a reader of this section must know first, such as a check that failed.
    """

    title: str
    text: Sequence[str] = ()
    panels: Sequence[Panel] = ()
    table: Table | None = None
    code: str = ""
    folded: bool = False
    download: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        headline: what was found, in plain sentences.
        warnings: what a reader must know first, such as a check that failed.
        glance: (name, value, note) of the few numbers that matter most.
    """

    title: str
    subtitle: str
    headline: Sequence[str]
    warnings: Sequence[str]
    glance: Sequence[tuple[str, str, str]]
    sections: Sequence[Section]
    footer: str


def render(page: Page) -> str:
    """The page as HTML, with plotly's script inside."""
    environment = Environment(
        loader=PackageLoader("steerscope.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["chart"] = _chart
    environment.filters["csv"] = _csv
    html = environment.get_template("page.html").render(page=page, plotly=Markup(get_plotlyjs()))
    return html.encode(errors="replace").decode()  # half characters


def _chart(figure: go.Figure, name: str) -> Markup:
    """The figure's JSON; the page's own script draws it. `<` is escaped, so no text can end the script."""
    return Markup(_json(_written({"name": name, **json.loads(figure.to_json())})))


def _written(value: Any) -> Any:
    """A figure as plotly reads it: plain text becomes its subset of HTML, and data can write no tag of their own."""
    if isinstance(value, str):
        text = escape(value, quote=False)
        for mark, tag in TAGS.items():
            text = text.replace(mark, tag)
        return text
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    return value


def _csv(frame: pd.DataFrame) -> Markup:
    return Markup(_json(frame.to_csv(index=False)))


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return (
        text.replace("&", "\\u0026")
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )
