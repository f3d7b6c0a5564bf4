"""The section of the growing set: its sentences say no more than its table, in adversarial cases; and it is drawn."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import ATTACK, MANIFEST

from steerscope.analysis.carriers.minimal import MINIMAL
from steerscope.analysis.results.result import Result
from steerscope.reports.figures.growing import NODES, VECTORS, growing
from steerscope.reports.page import Page, _chart, render
from steerscope.reports.pages.minimal import TITLE, headline, section

SIZES = [1, 2, 3, 4, 5, 6]


def curve(name: str, shares: Any, width: float = 0.02, measure: str = "necessity", **more: Any) -> pd.DataFrame:
    shares = np.asarray(shares, dtype=float)
    sizes = more.pop("sizes", SIZES[: len(shares)])
    frame = {"size": sizes, "node": "", "measure": measure, "set": name, "share": shares}
    return pd.DataFrame(frame | {"low": shares - width, "high": shares + width} | more)


def made(best: Any, others: Any = None, about: Any = None, node: str = "L{}H0", **sets: Any) -> Result:
    """Both measures alike."""
    best = np.asarray(best, dtype=float)
    others = 1 - best if others is None else others
    width = sets.pop("width", 0.02)
    sizes = sets.pop("sizes", SIZES[: len(best)])
    names = [node.replace("{}", str(k)) for k in sizes]
    frames = []
    for measure in ("necessity", "sufficiency"):
        frames += [curve(name, x, width, measure, sizes=sizes) for name, x in (("best", best), ("rest", others))]
        frames.append(curve("chosen", best, width, measure, sizes=sizes, node=names))
        frames += [curve(name, x, width, measure, sizes=sizes[: len(x)]) for name, x in sets.items()]
    manifest = MANIFEST | {"minimal": {"halved": True} | (about or {}), "alpha": 0.05}
    return Result("exact", {"minimal": pd.concat(frames)[list(MINIMAL)]}, {"minimal": MINIMAL}, manifest)


def test_one_dominant_node_with_others_that_do_nothing() -> None:
    first, second = headline(made([0.95, 0.97, 0.98, 0.99, 1.0, 1.0]))
    assert first == (
        "1 of 6 nodes (L1H0) takes away 95% [93%, 97%] of the effect when set back, on prompts that did not choose it; "
        "all others jointly 5% [3%, 7%]."
    )
    assert second.startswith("1 of 6 nodes (L1H0) brings 95% [93%, 97%] of the effect when set to steered, on prompts")


def test_where_all_others_still_carry_it_that_is_said() -> None:
    said = headline(made([0.5, 0.85, 0.9, 0.95, 1.0, 1.0], others=[1.0, 0.95, 0.9, 0.8, 0.5, 0.0]))[0]
    assert "2 of 6 nodes (L1H0 and L2H0) take away 85%" in said
    assert "all others jointly 95% [93%, 97%], so the effect does not hang on these alone" in said


def test_where_nothing_is_concentrated_all_nodes_are_needed_and_no_others_are_left() -> None:
    said = headline(made(np.arange(1, 7) / 7))[0]
    assert (
        said.startswith("6 of 6 nodes (L1H0, L2H0, L3H0, L4H0, L5H0 and L6H0) take away 86%") and "others" not in said
    )


def test_where_no_set_has_enough_the_best_is_said() -> None:
    said = headline(made([0.1, 0.3, 0.2]))[0]
    assert said == (
        "No set of nodes that was tried takes away 80% of the effect: set back jointly, the best (2 of 3 nodes) takes "
        "away 30% [28%, 32%], on prompts that did not choose them."
    )


def test_sizes_between_those_tried_are_not_claimed() -> None:
    said = headline(made([0.2, 0.5, 0.9, 1.0], sizes=[15, 16, 24, 240]))[0]
    assert said.startswith("At most 24 of 240 nodes (more than 16) take away 90% [88%, 92%]") and "L24H0" not in said


def test_one_group_has_no_interval_and_says_where_the_nodes_were_chosen() -> None:
    result = made([0.9, 1.0], width=np.nan, about={"halved": False})
    assert headline(result)[0] == (
        "1 of 2 nodes (L1H0) takes away 90% of the effect when set back, on the prompts that chose it; all others "
        "jointly 10%."
    )
    assert any("flatters" in text for text in section(result).text)


def test_random_sets_that_do_as_much_are_said_to() -> None:
    best = [0.7, 0.9, 0.95, 1.0]
    worse = headline(made(best, random=[0.1, 0.3, 0.5, 0.6]))[0]
    assert worse.endswith("random sets with the same MLPs and as many heads of each layer 30% [28%, 32%].")
    assert headline(made(best, random=[0.1, 0.89, 0.9, 1.0]))[0].endswith("89% [87%, 91%], no less than the best.")
    later = headline(made(best, random=[np.nan, np.nan, np.nan, 0.9]))[0]
    assert "random sets of 4 nodes with" in later and "90% [88%, 92%]" in later
    assert headline(made(best, random=[np.nan, np.nan, np.nan, 1.0]))[0].endswith("102%], no less than the best 4.")
    assert "random" not in headline(made(best, random=[np.nan] * 4))[0]


CLOUDS: dict[str, Any] = {"own": [0.6, 0.9], "own_noise": [0.5, 0.7], "own_meaning": [0.6, 0.8]}


def compared(**said: float) -> Result:
    about = {"vectors": {"noise": 4, "meaning": 5}}
    return made([0.7, 0.9], about=about | {"concentration": {m: said for m in ("necessity", "sufficiency")}}, **CLOUDS)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (
            {"own": 0.8, "noise": 0.5, "noise_p": 0.01, "meaning": 0.7, "meaning_p": 0.4},
            "more concentrated than 4 random vectors and not told from 5 other concepts in how concentrated it is",
        ),
        ({"own": 0.8, "noise": 0.5, "noise_p": 0.2}, "not told from 4 random vectors in how concentrated it is"),
        ({"own": 0.3, "noise": 0.5, "noise_p": 0.01}, "less concentrated than 4 random vectors"),
        (
            {"own": 0.6, "noise": 0.5, "noise_p": 0.01, "meaning": 0.7, "meaning_p": 0.01},
            "more concentrated than 4 random vectors and less concentrated than 5 other concepts",
        ),
    ],
)
def test_concentration_is_claimed_by_the_test_over_vectors_alone(said: dict[str, float], verdict: str) -> None:
    found = headline(compared(**said))
    assert found[2:] == [f"This vector is {verdict}."]
    text = next(text for text in section(compared(**said)).text if text.startswith("By necessity"))
    assert text == (
        "By necessity, each vector with the 2 best nodes of its own: this one has 90% [88%, 92%] of its change, random "
        f"vectors 70% [68%, 72%], other concepts 80% [78%, 82%]; it is {verdict}."
    )


def test_measures_that_differ_are_told_apart_and_where_nothing_was_asked_nothing_is_said() -> None:
    result = compared()
    said: Any = result.manifest["minimal"]["concentration"]
    said["necessity"] = {"own": 0.8, "noise": 0.5, "noise_p": 0.01}
    said["sufficiency"] = {"own": 0.8, "noise": 0.5, "noise_p": 0.9}
    assert headline(result)[2:] == [
        "By necessity this vector is more concentrated than 4 random vectors.",
        "By sufficiency this vector is not told from 4 random vectors in how concentrated it is.",
    ]
    said["sufficiency"] = {"own": 0.8}
    assert len(headline(result)) == 3
    said["necessity"] = {"own": 0.8}
    assert len(headline(result)) == 2


def test_without_a_curve_the_reason_stands_in_the_headline_and_in_the_section() -> None:
    empty = pd.DataFrame(columns=list(MINIMAL))
    manifest = MANIFEST | {"missing": {"minimal": "the whole effect is zero."}}
    result = Result("exact", {"minimal": empty}, {"minimal": MINIMAL}, manifest)
    assert headline(result) == ["How concentrated it is cannot be said: the whole effect is zero."]
    assert section(result).panels[0].missing == "the whole effect is zero"
    assert headline(Result("exact", {}, {})) == [] and section(Result("exact", {}, {})).panels[0].figure is None


def test_every_number_of_the_headline_stands_in_the_table() -> None:
    result = made([0.31, 0.62, 0.84, 1.07], others=[0.9, 0.77, 0.66, 0.0], random=[0.11, 0.21, 0.41, 0.51])
    table = result.frames["minimal"]
    known = {f"{100 * x:.0f}%" for x in table[["share", "low", "high"]].to_numpy().ravel()}
    for sentence in headline(result):
        assert set(re.findall(r"\d+%", sentence)) <= known


def test_figures_draw_the_sets_that_are_there_and_long_axes_are_logarithmic() -> None:
    table = made([0.6, 0.9], random=[np.nan, np.nan], **CLOUDS).frames["minimal"]
    table = table[table["measure"] == "necessity"]
    short = growing(table, NODES, {1: "L1H0", 2: ATTACK})
    drawn = [trace.name for trace in short.data if trace.name]
    assert drawn == [NODES["rest"].name, NODES["best"].name] and short.layout.xaxis.type is None
    hover = " ".join(short.data[-1].customdata)
    assert "L1H0 joins" in hover and "<img" not in _chart(short, "growing")
    assert [t.name for t in growing(table, VECTORS).data if t.name] == [look.name for look in VECTORS.values()]
    assert growing(table.assign(size=table["size"] * 50), NODES).layout.xaxis.type == "log"
    assert growing(table.iloc[:0], NODES).data == ()


def test_the_section_is_rendered_and_escapes_names() -> None:
    result = made([0.6, 0.9], node=ATTACK + "{}", about={"vectors": {"noise": 1}}, **CLOUDS)
    html = render(Page("title", "", headline(result), [], [], [section(result)], ""))
    assert TITLE in html and "<img src=x" not in html and len(section(result).panels) == 4
