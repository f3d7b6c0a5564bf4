"""Results that were changed, damaged or made to harm: every page stays text, and draws or refuses in one sentence."""

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
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
from steerscope.reports.theme import bold, said

KINDS = sorted({*QUESTIONS, "unknown"} - {"localize"})
HARM = '<a href="javascript:alert(1)">x</a><b>fat</b><img src=x onerror=alert(1)>\x1b]8;;http://x\x07y\x1b[31m\n%{x}'
DATA = re.compile(r"<\s*(a|img|b>fat)", re.I)


def refused(result: Result) -> str:
    """Why no view of it is drawn; empty where one is. Other errors than ours come through."""
    reasons = []
    for view in (lambda: result.summary(), lambda: render(page_of(result.kind).page(result)), lambda: notebook(result)):
        try:
            view()
        except SteerscopeError as error:
            assert "\n" not in str(error) and str(error).count(";") >= 2 and len(str(error)) < 900
            reasons.append(str(error))
    return reasons[0] if reasons else ""


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
    known = (
        "outcome",
        "quantity",
        "measure",
        "frozen",
        "scope",
        "part",
        "set",
        "by",
        "order",
        "design",
        "lens",
        "kind",
    )
    return role in ("measure", "verdict", "node") or column in known or column in ("node", "where", "family", "cause")


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


@pytest.mark.parametrize("keep", [named_only, lambda column, role: False], ids=["all drawn", "everywhere"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_becomes_a_tag_in_a_page_or_a_figure(kinds: dict[str, Result], kind: str, keep: Any) -> None:
    result = planted(kinds[kind], HARM, keep)
    why = refused(result)
    if why:
        assert keep is not named_only, why
        return
    page, view = render(page_of(kind).page(result)), notebook(result)
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # plotly's own
    assert "fat" in body and not DATA.search(body) and not DATA.search(view)
    for text in texts(figures(page)):
        assert not DATA.search(text) and not re.search(r"<(?!/?b>|br>|extra></extra>)", text), text
    shown = [text for text in texts(figures(page)) if "fat" in text]
    assert all("&lt;b&gt;fat" in text for text in shown)
    for sentence in result.summary():
        assert sentence.isprintable()


@pytest.mark.parametrize("kind", KINDS)
def test_planted_texts_are_drawn_in_figures_at_all(kinds: dict[str, Result], kind: str) -> None:
    """Otherwise the test above says nothing: by all results together every kind of label is reached."""
    page = render(page_of(kind).page(planted(kinds[kind], HARM, named_only)))
    reached = {
        key
        for figure in figures(page)
        for key in ("title", "name", "text", "customdata", "ticktext")
        if key in str(figure)
    }
    assert reached or not figures(page)


@pytest.mark.parametrize("kind", ["exact", "edges", "sweep", "unknown", "breakdown"])
def test_in_a_browser_there_is_no_link(
    kinds: dict[str, Result], kind: str, browse: Callable[[Path], str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(render(page_of(kind).page(planted(kinds[kind], HARM, named_only))), encoding="utf-8")
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


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_manifest_is_drawn_or_named(kinds: dict[str, Result], kind: str) -> None:
    refused(replace(kinds[kind], manifest={}))
    for name in kinds[kind].manifest:
        refused(replace(kinds[kind], manifest={k: v for k, v in kinds[kind].manifest.items() if k != name}))


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


@pytest.mark.parametrize("kind", KINDS)
def test_odd_entries_of_a_manifest_are_drawn_or_named(kinds: dict[str, Result], kind: str) -> None:
    """Every entry, and every entry of an entry, in turn."""
    manifest = dict(kinds[kind].manifest)
    for key, value in manifest.items():
        for i, odd in enumerate(ODD):
            if (hash(key) + i) % 3 == 0 or value in (None, "") or isinstance(value, list):
                refused(replace(kinds[kind], manifest=manifest | {key: odd}))
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping):
            for i, name in enumerate(inner):
                odd = ODD[(i + len(key)) % len(ODD)]
                for changed in ({**inner, name: odd}, {k: v for k, v in inner.items() if k != name}):
                    entry = [changed, *value[1:]] if isinstance(value, list) else changed
                    refused(replace(kinds[kind], manifest=manifest | {key: entry}))


@pytest.mark.parametrize("kind", KINDS)
def test_tables_that_are_gone_or_empty_are_drawn_or_named(kinds: dict[str, Result], kind: str) -> None:
    result = kinds[kind]
    for name, frame in result.frames.items():
        left = {k: v for k, v in result.frames.items() if k != name}
        why = refused(Result(kind, left, {k: v for k, v in result.columns.items() if k != name}, result.manifest))
        assert not why or name in why, why
        refused(replace(result, frames={**result.frames, name: frame.iloc[:0]}))
        refused(replace(result, frames={**result.frames, name: frame.iloc[:1]}))
        refused(replace(result, frames={**result.frames, name: pd.concat([frame, frame])}))
        refused(replace(result, frames={**result.frames, name: frame.set_index(np.zeros(len(frame), int))}))
    refused(replace(result, frames={k: v.iloc[:0] for k, v in result.frames.items()}))
    assert refused(Result(kind, {}, {}, {})) or kind == "unknown"


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_are_gone_are_named(kinds: dict[str, Result], kind: str) -> None:
    result = kinds[kind]
    for name, columns in result.columns.items():
        for column in columns:
            left = {c: about for c, about in columns.items() if c != column}
            frames = {**result.frames, name: result.frames[name][[*left]]}
            why = refused(Result(kind, frames, {**result.columns, name: left}, result.manifest))
            assert not why or column in why, why


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


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_odd_values_are_drawn_or_named(kinds: dict[str, Result], kind: str, fill: str) -> None:
    """One column after the other, and all numbers at once; where it is drawn, nothing is told of what is no number."""
    result = kinds[kind]
    value = FILLS[fill]
    whole = {}
    for name, columns in result.columns.items():
        frame = result.frames[name]
        whole[name] = frame.copy()
        for i, column in enumerate(columns):
            if pd.api.types.is_numeric_dtype(frame[column]) and fill in ("nan", "inf", "-inf", "zero", "large"):
                whole[name][column] = float(value)
            if (i + len(fill)) % 2 == 0 or not len(frame):
                changed = frame.copy()
                changed[column] = pd.Series(
                    [value] * len(frame), index=frame.index, dtype=None if fill == "nan" else object
                )
                refused(replace(result, frames={**result.frames, name: changed}))
    result = replace(result, frames=whole)
    if not refused(result):
        for sentence in result.summary():
            assert not re.search(r"\b(nan|inf|NaN)\b", sentence), sentence


@given(data=st.data())
@settings(max_examples=60, deadline=None)
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
    refused(replace(result, frames=frames))


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
