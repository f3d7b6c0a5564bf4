"""`Section`, `Page`, `render`: one self-contained file that opens offline.

Everything that comes from a model, a prompt or a file goes through jinja's autoescape. Texts of figures are plain
text until here: plotly reads a subset of HTML, so every `<` in them is escaped, and then in JSON once more; only the
house's own marks (`bold`, new lines) become tags. plotly's script stands in the page once.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from steerscope.reports.theme import BOLD, NAMELESS, NEGATIVE, PLAIN, POSITIVE, side

TAGS = {"\n": "<br>", BOLD: "<b>", PLAIN: "</b>", NAMELESS: "<extra></extra>"}
DEEPEST = 0.75  # opacity of the strongest colour behind text: ink stays readable on it, in light and dark


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
class Piece:
    """A token of a text that is coloured by numbers; the number stands under it, so colour says nothing alone.

    Attributes:
        heat: -1 (blue) to 1 (orange), 0 for paper.
        about: what is known of it, for those who point at it.
    """

    text: str
    value: str = ""
    heat: float = 0.0
    about: str = ""

    @property
    def shade(self) -> str:
        """The background, as CSS."""
        return _shade(self.heat)


@dataclass(frozen=True)
class Branch:
    """A row of a tree, opened by a click where it has parts.

    Attributes:
        value: the number in words; note: what stands beside it, such as a share.
        size: -1 to 1, the length and the side of its bar.
        about: what is known of it, for those who point at it.
    """

    name: str
    value: str = ""
    note: str = ""
    size: float = 0.0
    about: str = ""
    parts: Sequence["Branch"] = ()

    @property
    def bar(self) -> str:
        """Place, length and colour of the bar, as CSS."""
        size = self.size if math.isfinite(self.size) else 0.0
        width = 50 * min(abs(size), 1.0)
        return f"left:{50 - width * (size < 0):.1f}%;width:{width:.1f}%;background:{side(size)}"


@dataclass(frozen=True)
class Choice:
    """One of several things to look at; the page shows the one that is chosen."""

    name: str
    sections: Sequence["Section"]


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, in this order: text, coloured tokens, panels side by side, tree, table,
    code, then what one chooses from.

    Attributes:
        folded: shown closed; for what one looks up.
        asks: what the reader chooses, where there are choices.
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
    pieces: Sequence[Piece] = ()
    branches: Sequence[Branch] = ()
    asks: str = ""
    choices: Sequence[Choice] = ()


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
    html = templates().get_template("page.html").render(page=page, plotly=Markup(get_plotlyjs()))
    return html.encode(errors="replace").decode()  # half characters


def templates() -> Environment:
    """The house's templates: every text in them is escaped."""
    found = Environment(
        loader=PackageLoader("steerscope.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["chart"] = _chart
    found.filters["csv"] = _csv
    return found


def _shade(heat: float) -> str:
    """A colour of that strength over the page's own paper."""
    red, green, blue = (int((POSITIVE if heat > 0 else NEGATIVE)[i : i + 2], 16) for i in (1, 3, 5))
    strength = min(abs(heat), 1.0) if math.isfinite(heat) else 0.0
    return f"rgba({red},{green},{blue},{DEEPEST * strength:.2f})"


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
