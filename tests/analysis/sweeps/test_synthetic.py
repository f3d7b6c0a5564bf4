"""What a sweep says of known responses: of random vectors, idle nodes, copies, a negative total, one prompt."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.page import render
from steerscope.reports.pages import sweep
from steerscope.reports.records import records
from steerscope.reports.theme import BOLD, MARKS, PLAIN

Maker = Callable[..., Result]
NODES, IDLE, STRONG = 12, 4, 1


def vectors(seed: int, controls: int = 12, strong: float | None = None) -> NDArray[np.float64]:
    """Slopes by vector and node, all vectors of one kind: eight nodes pass any vector, more or less, the last are idle.

    Args:
        strong: the slope that the real vector has at one node instead.
    """
    rng = np.random.default_rng(seed + 1000)
    slopes = np.tile(np.where(np.arange(NODES) < NODES - IDLE, 0.25, 0.0), (controls + 1, 1))
    slopes = slopes * (1 + 0.3 * rng.normal(size=slopes.shape))
    if strong is not None:
        slopes[0, STRONG] = strong
    return slopes


def effects(result: Result) -> pd.DataFrame:
    return result.frames["nodes"].query("outcome == 'effect'").reset_index(drop=True)


@pytest.mark.parametrize("towards", [1.0, pytest.param(-1.0, marks=pytest.mark.slow)])
def test_a_random_vector_is_told_from_random_vectors_at_the_stated_rate(
    towards: float, synthetic: Maker, tmp_path: Path
) -> None:
    told, p_noise, p_idle = [], [], []
    for seed in range(14):
        result = synthetic(tmp_path / str(seed), vectors(seed), towards=towards, seed=seed, trials=1600)
        table = effects(result)
        told.append((table["verdict"] == "concept").any())
        p_noise.append(table["p_noise"][: NODES - IDLE] < 0.05)
        p_idle.append(table["p"][NODES - IDLE :] < 0.05)
        assert not result.frames["frontier"]["useful"].any() or told[-1]
    assert np.mean(told) <= 1.5 * 0.05 and np.mean(p_noise) <= 1.5 * 0.05 and np.mean(p_idle) <= 1.5 * 0.05


@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_a_node_that_carries_more_of_this_vector_is_told_whatever_the_sign_of_the_whole(
    towards: float, synthetic: Maker, tmp_path: Path
) -> None:
    result = synthetic(tmp_path / "run", vectors(0, strong=1.2), towards=towards, response=lambda load: load)
    table, frontier = effects(result), result.frames["frontier"]
    assert table["verdict"][STRONG] == "concept" and (table["share"][: NODES - IDLE] > 0).all()
    assert np.sign(table["contribution"][STRONG]) == towards
    assert frontier["useful"][STRONG] and frontier["frontier"][STRONG]
    assert (table["verdict"][NODES - IDLE :] == "small").all()


CASES: dict[str, dict[str, Any]] = {
    "a random vector": {},
    "a vector that one node passes": {"strong": 1.2},
    "a negative total": {"strong": 1.2, "towards": -1.0},
    "copies of one prompt": {"strong": 1.2, "groups": [0] * 40},
    "six groups": {"strong": 1.2, "groups": [i % 6 for i in range(40)]},
    "one prompt": {"strong": 1.2, "prompts": 1},
    "one number of nodes": {"strong": 1.2, "k": (3, 3)},
    "one number of nodes and a negative total": {"strong": 1.2, "k": (3, 3), "towards": -1.0},
    "nothing at all": {"response": lambda load: 0.0 * load},
    "no random vectors": {"controls": 0},
    "three random vectors": {"strong": 1.2, "controls": 3},
    "several designs": {"strong": 1.2, "kinds": ("uniform", "horizontal", "vertical"), "k": (1, 2)},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, synthetic: Maker) -> dict[str, Result]:
    folder, found = tmp_path_factory.mktemp("cases"), {}
    for number, (name, case) in enumerate(CASES.items()):
        options = dict(case)
        slopes = vectors(0, options.pop("controls", 12), options.pop("strong", None))
        found[name] = synthetic(folder / str(number), slopes, trials=1600, **options)
    return found


def shares(result: Result, row: Any) -> str:
    """A node's shares, rebuilt from the tables."""
    whole = result.manifest["whole"]["effect"]["mean"]
    own = f"{words.percent(row.contribution / whole)} of the effect, {words.percent(row.own_share)} of its own change"
    if not np.isfinite(row.reference):
        return f"{own}; no random vectors to compare with)"
    ends = sorted([row.reference_low / whole, row.reference_high / whole])
    return f"{own}; of random vectors {words.percent(row.reference / whole)} " + (
        f"[{words.percent(ends[0])}, {words.percent(ends[1])}])"
    )


@pytest.mark.parametrize("name", CASES)
def test_every_sentence_is_that_of_the_tables(name: str, results: dict[str, Result]) -> None:
    result = results[name]
    table, said = effects(result), sweep.headline(result)
    told = table[table["verdict"] == "concept"]
    assert not set(table["verdict"]) & {"specific"} and "specific" not in " ".join(said)
    if len(told):
        assert said[0].startswith(
            f"{len(told)} of {NODES} nodes of synthetic respond to (synthetic) beyond random vectors"
        )
    else:
        assert said[0].startswith(f"None of {NODES} nodes of synthetic is told from random vectors for (synthetic)")
    assert ("beyond the mean of the nodes that it is exchanged for" in said[0]) != result.manifest["adds"]
    sentences = {
        "concept": said[0],
        "shared": "Random vectors pass there as well",
        "less": "Less than of random vectors",
        "against": "Working against the whole effect",
    }
    for verdict, start in sentences.items():
        rows = table[table["verdict"] == verdict].sort_values("contribution", key=abs, ascending=False)
        found = [sentence for sentence in said if sentence.startswith(start)]
        assert len(found) == (len(rows) > 0) or verdict == "concept"
        for row in records(rows.head(3)):
            assert f"{row.node} (" in found[0] and shares(result, row) in found[0]
    # Holm over nodes, and the sign of the whole.
    towards = np.sign(result.manifest["whole"]["effect"]["mean"])
    assert ((told["p_holm"] < 0.05) & (told["contribution"] * towards > 0) & (told["share"] >= 0.02)).all()
    against = table[table["verdict"] == "against"]
    assert (against["contribution"] * towards < 0).all()
    pairs = result.frames["pairs"].query("outcome == 'effect'")
    interaction = [sentence for sentence in said if "interaction" in sentence]
    assert len(interaction) == (len(pairs) > 0)
    if len(pairs) and pairs["significant"].any():
        top = next(records(pairs[pairs["significant"]].sort_values("interaction", key=abs, ascending=False)))
        assert f"between {top.first} and {top.second}" in interaction[0]
        assert f"{words.signed(top.interaction)} logits" in interaction[0]
        pair = table.set_index("node")["contribution"][[top.first, top.second]]
        if "stand in for" in interaction[0]:
            assert (pair * top.interaction < 0).all()


def test_what_cannot_be_known_is_not_said_and_the_reason_is(results: dict[str, Result]) -> None:
    for name in ("copies of one prompt", "one prompt"):
        said = sweep.headline(results[name])
        assert (results[name].frames["nodes"]["verdict"] == "untested").all()
        assert "There are no intervals: fewer than 4 groups of prompts were visited (1)" in said[0]
    assert "no effect that is told from zero over prompts" in sweep.headline(results["nothing at all"])[0]
    assert "Nothing to compare with" in sweep.headline(results["no random vectors"])[0]
    assert not set(effects(results["three random vectors"])["verdict"]) & {"concept", "shared", "less"}
    fixed = results["one number of nodes"]
    assert not fixed.manifest["adds"] and fixed.frames["pairs"].empty and fixed.frames["frontier"].empty
    assert set(effects(fixed)["verdict"]) <= {"concept", "shared", "untested"}
    assert any("Every trial injects into the same number of nodes" in note for note in fixed.manifest["notes"])
    assert any("Only 6 groups of prompts" in note for note in results["six groups"].manifest["notes"])


@pytest.mark.parametrize("towards", [1.0, pytest.param(-1.0, marks=pytest.mark.slow)])
def test_idle_nodes_are_not_claimed_with_one_number_of_nodes(towards: float, synthetic: Maker, tmp_path: Path) -> None:
    idle = []
    for seed in range(8):
        slopes = vectors(seed, strong=1.2)
        slopes[:, 3:] = 0.0
        table = effects(synthetic(tmp_path / str(seed), slopes, towards=towards, k=(3, 3), seed=seed, trials=1600))
        idle.append(table["verdict"][3:] != "untested")
    assert np.mean(idle) <= 1.5 * 0.05


@pytest.mark.parametrize("name", CASES)
def test_pictures_go_by_the_rule_of_the_words(name: str, results: dict[str, Result]) -> None:
    result = results[name]
    page = sweep.page(result)
    text = render(page)
    assert "wrong way" not in text and "specific to" not in text and "nan" not in " ".join(page.headline)
    (ranked,) = [section for section in page.sections if section.title == "Ranked contributions"]
    for panel, outcome in zip(ranked.panels, ("effect", "kl"), strict=True):
        assert panel.figure is not None
        rows = result.frames["nodes"]
        verdict = rows[rows["outcome"] == outcome].set_index("node")["verdict"]
        (drawn,) = [trace for trace in panel.figure.data if trace.customdata is not None]
        for label, colour in zip(drawn.customdata, drawn.marker.color, strict=True):
            node = re.match(rf"{BOLD}(\w+){PLAIN}", label)
            assert node and colour == MARKS[verdict[node[1]]].colour
