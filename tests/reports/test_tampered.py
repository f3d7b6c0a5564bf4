"""Results that were changed, damaged or made to harm: every page stays text, and draws or refuses in one sentence."""

import html
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerscope.analysis.errors import BadArgument, DamagedRun, SteerscopeError
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column
from steerscope.questions import QUESTIONS, page_of
from steerscope.reports import page as pages
from steerscope.reports import words
from steerscope.reports.notebook import html as notebook
from steerscope.reports.page import render
from steerscope.reports.pages.common import failed_checks
from steerscope.reports.theme import bold, said

Some = Callable[[Iterable[Any], int], list[Any]]
KINDS = sorted({*QUESTIONS, "unknown"} - {"localize"})
HARM = '<a href="javascript:alert(1)">x</a><b>fat</b><img src=x onerror=alert(1)>\x1b]8;;http://x\x07y\x1b[31m\n%{x}'
DATA = re.compile(r"<\s*(a|img|b>fat)", re.I)


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])
def some(request: pytest.FixtureRequest) -> Some:
    """Of many cases every so manieth; eight times as many in the slow tests."""
    count = itertools.count()
    return lambda cases, every: [c for c in cases if next(count) % max(1, every // (8 if request.param else 1)) == 0]


def refused(result: Result, whole: bool = False) -> str:
    """Why no view of it is drawn; empty where one is. Other errors than ours come through.

    Args:
        whole: as HTML and as a notebook shows it, too.
    """
    reasons = []
    for view in (Result.summary, page_of(result.kind).page, *([rendered, notebook] if whole else [])):
        try:
            view(result)
        except SteerscopeError as error:
            assert "\n" not in str(error) and str(error).count(";") >= 2 and len(str(error)) < 900
            reasons.append(str(error))
    return reasons[0] if reasons else ""


def rendered(result: Result) -> str:
    return render(page_of(result.kind).page(result))


def everywhere(value: Any, text: str) -> Any:
    """A document with a text behind each of its texts."""
    if isinstance(value, str):
        return value + text
    if isinstance(value, Mapping):
        return {key: everywhere(item, text) for key, item in value.items()}
    return [everywhere(item, text) for item in value] if isinstance(value, list | tuple) else value


def planted(result: Result, text: str, keep: Callable[[str, str], bool] = lambda column, role: False) -> Result:
    """The same result with a text behind (or in place of) every text in it, its verdicts, columns and manifest."""
    frames = {}
    for name, frame in result.frames.items():
        frames[name] = frame.copy()
        for column, about in result.columns[name].items():
            if frame[column].map(lambda cell: isinstance(cell, str)).any() and not keep(column, about.role):
                frames[name][column] = [c + text if isinstance(c, str) else c for c in frame[column]]
    columns = {
        name: {column: Column(about.meaning + text, about.unit + text, about.role) for column, about in frame.items()}
        for name, frame in result.columns.items()
    }
    return Result(result.kind, frames, columns, everywhere(dict(result.manifest), text))


def named_only(column: str, role: str) -> bool:
    """Columns by whose words a page chooses: left as they are, so that everything is drawn."""
    known = {"outcome", "quantity", "frozen", "scope", "part", "set", "by", "order", "design", "lens", "kind", "node"}
    known |= {"where", "family", "cause", "what", "verified", "sender", "receiver", "injected", "path", "parent"}
    return role in ("measure", "verdict", "node") or column in known


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def figures(page: str) -> list[Any]:
    """The figures of a page, as plotly gets them."""
    return [json.loads(found) for found in re.findall(r'class="data">(.*?)</script>', page, re.S)]


@pytest.mark.parametrize(
    "keep",
    [named_only, pytest.param(lambda column, role: False, marks=pytest.mark.slow)],
    ids=["all drawn", "everywhere"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_becomes_a_tag_in_a_page_or_a_figure(kinds: dict[str, Result], kind: str, keep: Any) -> None:
    result = planted(kinds[kind], HARM, keep)
    why = refused(result)
    if why:  # by the words that were changed
        assert keep is not named_only, why
        return
    page, view = rendered(result), notebook(result)
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # plotly's own
    assert "fat" in body and not DATA.search(body) and not DATA.search(view)
    for text in texts(figures(page)):
        assert not DATA.search(text) and not re.search(r"<(?!/?b>|br>|/?extra>)", text), text
    shown = [text for text in texts(figures(page)) if "fat" in text]
    assert all("&lt;b&gt;fat" in text for text in shown)
    for sentence in result.summary():
        assert sentence.isprintable()
    bad = [{"name": HARM, "value": 2.0, "limit": 1.0, "passed": False}]
    assert all(line.isprintable() for line in failed_checks({"checks": bad}))


@pytest.mark.parametrize("kind", ["exact", "edges", "unknown"])
def test_in_a_browser_there_is_no_link(
    kinds: dict[str, Result], kind: str, browse: Callable[[Path], str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(rendered(planted(kinds[kind], HARM, named_only)), encoding="utf-8")
    dom = re.sub(r"<script.*?</script>", "", browse(page), flags=re.S)
    assert "main-svg" in dom and "javascript:" in html.unescape(dom)
    for tag in re.findall(r"<a\b[^>]*>", dom):
        assert "javascript" not in tag and "alert" not in tag
    assert not re.search(r"<img\b[^>]*onerror", dom) and not re.search(r"<tspan[^>]*bold[^>]*>fat", dom)


def test_only_the_marks_of_the_house_become_tags() -> None:
    figure = go.Figure()
    figure.add_scatter(x=["<i>a</i>"], y=[1], name="<b>n</b>&amp;", **said([f"{bold('<a>')}\nnext"]))
    figure.update_layout(title="<a href='x'>t</a>", xaxis={"title": {"text": "<sub>"}})
    [written] = figures(f'class="data">{pages._chart(figure, "<a>")}</script>')
    [trace] = written["data"]
    assert trace["customdata"] == ["<b>&lt;a&gt;</b><br>next"] and trace["hovertemplate"].endswith("<extra></extra>")
    assert trace["name"] == "&lt;b&gt;n&lt;/b&gt;&amp;amp;" and trace["x"] == ["&lt;i&gt;a&lt;/i&gt;"]
    assert written["layout"]["title"]["text"] == "&lt;a href='x'&gt;t&lt;/a&gt;"


# What is missing or of another kind.


def test_every_page_looks_before_it_draws() -> None:
    for kind in QUESTIONS:
        for name in ("headline", "page"):
            assert getattr(page_of(kind), name).__drawing__, f"{kind}: {name} lacks @drawing"


ODD: list[Any] = [
    None,
    "two",
    "<a>",
    -1,
    10**400,
    1e308,
    float("nan"),
    float("-inf"),
    True,
    [],
    {},
    [1],
    ["a"],
    {"a": 1},
]


def changes(value: Any) -> Iterator[Any]:
    """A document with each of its entries, and of theirs, replaced or gone."""
    if isinstance(value, Mapping):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            for changed in (*ODD, *changes(value[key])):
                yield {**value, key: changed}
    elif isinstance(value, list) and value:
        for changed in (*ODD, *changes(value[0])):
            yield [changed, *value[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_manifest_is_drawn_or_refused(kinds: dict[str, Result], kind: str, some: Some) -> None:
    refused(replace(kinds[kind], manifest={}), whole=True)
    for manifest in some(changes(dict(kinds[kind].manifest)), 800):
        refused(replace(kinds[kind], manifest=manifest))


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_is_gone_is_named(kinds: dict[str, Result], kind: str, some: Some) -> None:
    result = kinds[kind]
    for name, frame in some(result.frames.items(), 4):
        left = {k: v for k, v in result.frames.items() if k != name}
        why = refused(Result(kind, left, {k: v for k, v in result.columns.items() if k != name}, result.manifest))
        assert not why or name in why, why
        others = [frame.iloc[:0], frame.iloc[:1], pd.concat([frame, frame]), frame.set_index(np.zeros(len(frame), int))]
        for changed in some(others, 8):
            refused(replace(result, frames={**result.frames, name: changed}))
    refused(replace(result, frames={k: v.iloc[:0] for k, v in result.frames.items()}), whole=True)
    assert refused(Result(kind, {}, {}, {})) or kind in ("unknown", "sweep")  # which may have no trials yet


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_gone_is_named(kinds: dict[str, Result], kind: str, some: Some) -> None:
    result = kinds[kind]
    for name, column in some(((name, column) for name, columns in result.columns.items() for column in columns), 41):
        left = {c: about for c, about in result.columns[name].items() if c != column}
        frames = {**result.frames, name: result.frames[name][[*left]]}
        why = refused(Result(kind, frames, {**result.columns, name: left}, result.manifest))
        assert not why or "it has no '" in why or column in why, why


FILLS: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "zero": 0.0,
    "large": 1e308,
    "huge": 10**400,
    "negative": -1,
    "text": "<a>",
    "none": None,
    "false": False,
    "list": [1, 2],
    "bytes": b"\xff",
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_odd_values_is_drawn_or_refused(kinds: dict[str, Result], kind: str, some: Some) -> None:
    result = kinds[kind]
    columns = [(name, column) for name, found in result.columns.items() for column in found]
    for (name, column), fill in some(itertools.product(columns, FILLS), 800):
        frame = result.frames[name].copy()
        frame[column] = pd.Series([FILLS[fill]] * len(frame), index=frame.index, dtype=object)
        refused(replace(result, frames={**result.frames, name: frame}))


@pytest.mark.parametrize("fill", ["nan", "inf", "zero", "large"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_said_of_what_is_no_number(kinds: dict[str, Result], kind: str, fill: str) -> None:
    """All measured numbers at once; what tells rows apart stays."""
    result = kinds[kind]
    frames = {}
    for name, columns in result.columns.items():
        frames[name] = result.frames[name].copy()
        for column, about in columns.items():
            if frames[name][column].dtype == float and about.role != "axis":
                frames[name][column] = FILLS[fill]
    result = replace(result, frames=frames)
    if not refused(result):
        for sentence in result.summary():
            assert not re.search(r"\b(nan|inf|NaN|None)\b|p < 0.001", sentence) or fill == "zero", sentence
            assert len(sentence) < 2000


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_whatever_is_changed_is_drawn_or_named(kinds: dict[str, Result], data: Any) -> None:
    result = kinds[data.draw(st.sampled_from(KINDS))]
    frames = dict(result.frames)
    value = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.binary()
        | st.lists(st.text(), max_size=2)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(frames)))
        frame = frames[name].astype(object)
        for _ in range(data.draw(st.integers(1, 3))):
            if len(frame):
                row = data.draw(st.integers(0, len(frame) - 1))
                frame.iat[row, data.draw(st.integers(0, frame.shape[1] - 1))] = data.draw(value)
        frames[name] = frame if data.draw(st.booleans()) else frame.infer_objects()
    refused(replace(result, frames=frames), whole=True)


@pytest.mark.parametrize("odd", [None, 3, "x", {}, []])
def test_what_is_no_result_is_refused(odd: Any) -> None:
    for view in (page_of("exact").page, page_of("exact").headline, notebook):
        with pytest.raises(BadArgument, match="expected a Result"):
            view(odd)


def test_what_is_wrong_stands_in_the_sentence(kinds: dict[str, Result]) -> None:
    result = kinds["exact"]
    for manifest, words_of in (
        ({"checks": [{"name": "x", "value": 1.0, "limit": 1.0}]}, "no passed"),
        ({"checks": [{"name": "x", "value": "1", "limit": 1.0, "passed": True}]}, "no value"),
        ({"prompts": "three"}, "prompts in its manifest is 'three', expected an object"),
        ({"injections": {"a": 1}}, "injections in its manifest is .*, expected a list"),
        ({"alpha": "0.05"}, "alpha in its manifest is '0.05', expected a number"),
        ({"injections": [{"coefficient": 1}]}, "it has no 'vector'"),
    ):
        with pytest.raises(DamagedRun, match=words_of):
            replace(result, manifest={**result.manifest, **manifest}).summary()
    strings = result.frames["effects"].assign(effect="large")
    with pytest.raises(DamagedRun, match="effects.effect holds other than numbers"):
        replace(result, frames={**result.frames, "effects": strings}).summary()
    far = result.frames["effects"].assign(layer=10**5, head=10**5)
    with pytest.raises(DamagedRun, match="layers and heads up to 100,000 and 100,000"):
        replace(result, frames={**result.frames, "effects": far}).summary()


# What is no number.


def test_no_number_is_no_small_p() -> None:
    assert words.p_value(float("nan")) == "p unknown" and words.p_value(None) == "p unknown"
    assert words.p_value(pd.NA) == "p unknown" and words.p_value(0.0) == "p < 0.001"
    for show in (words.number, words.signed, words.percent, words.short):
        for nothing in (float("nan"), None, pd.NA, float("inf")):
            assert show(nothing) == "–"
