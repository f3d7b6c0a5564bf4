"""Every sentence of a breakdown, rebuilt from its tables: over results of a small model and over adversarial tables."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import save_gpt2
from questions import one

from steerscope.analysis.breakdown import breakdown as module
from steerscope.analysis.breakdown.breakdown import breakdown
from steerscope.analysis.frozen.freeze_attention import freeze_attention
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.reports.page import render
from steerscope.reports.pages import freeze_attention as frozen
from steerscope.reports.pages.breakdown import page
from steerscope.reports.pages.breakdown_words import UNDONE, open_ends, share

PROMPTS = [
    "One day Lily saw a dragon near the ship",
    "Tom had a red ball and a cake",
    "There was a wedding near the park",
    "Once upon a time the bride had a ring",
]
TEXT = [
    "The dog ran to the park and saw a big red ball",
    "Lily had a cake and the bride had a ring in the park",
    "A ship came near and Tom saw a dragon there",
    "Once there was a wedding and all had a big cake",
    "Anna went to the ship with Ben and the red ball",
    "Then the dragon ran near the big ship and Lily saw",
]
LOSS = 0.002
SIGNS = {"a negative coefficient": -1}
COEFFICIENTS = [-30, -3, -0.3, 0, 0.1, 0.3, 1, 3, 10, 30, 100]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("sentences")
    save_gpt2(folder)
    return load(folder, name="tiny")


def asked(model: Model, coefficient: float = 3.0, vector: SteeringVector | None = None, count: int = 4) -> Experiment:
    injection = Injection(vector or prompt_pair(model, " wedding", " ship", 0), coefficient)
    prompts = make_prompts(model, PROMPTS[:count], groups="each")
    return Experiment(model, (injection,), prompts, log_prob([" ring"]), references=2)


def random(model: Model) -> SteeringVector:
    values = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(5))
    return SteeringVector(values, Site("resid_pre", 0), {"recipe": "given"})


CASES: dict[str, Callable[[Model], Experiment]] = {
    "a vector": asked,
    "a negative coefficient": lambda m: asked(m, -3.0),
    "a random vector": lambda m: asked(m, vector=random(m)),
    "one prompt": lambda m: asked(m, count=1),
    "a tiny coefficient": lambda m: asked(m, 0.001),
    "a huge one": lambda m: asked(m, 1000.0),
}


class Results(dict[str, Result]):
    """By case, made when one is asked for. The weights are random, so that little is lost: 0.2% of perplexity counts
    as broken.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def __missing__(self, name: str) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            for bound, fewer in (("TOKENS", 4), ("LONG", 17), ("WRITTEN", 2), ("COARSE", module.COARSE[::3])):
                patch.setattr(module, bound, fewer)
            asked_so, broken = CASES[name](self.model), 30.0 * SIGNS.get(name, 1)
            self[name] = breakdown(asked_so, coefficients=COEFFICIENTS, text=TEXT, loss=LOSS, broken_at=broken)
        return self[name]


@pytest.fixture(scope="module")
def results(model: Model) -> dict[str, Result]:
    return Results(model)


def some(names: Iterable[str]) -> list[Any]:
    """The first and the random one by default, all in the slow tests."""
    quick = ("a vector", "a random vector")
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").replace("+", "").removesuffix("%"))


def same(text: str, value: float) -> bool:
    """Whether what is printed is the value, to the digits that are printed."""
    shown = number(text)
    return math.isclose(shown, value, rel_tol=6e-3, abs_tol=6e-3 if "%" not in text else 0.6)


N = r"[−+]?\d[\d,]*(?:\.\d+)?(?:e[−+]?\d+)?"
PERCENT = r"−?\d+%"


def truth(result: Result) -> None:
    """Each sentence of the headline against the tables; what a sentence claims must hold there."""
    found = result.summary()
    judges = (_safe, _cause, _shape, _remedy)
    said = [next((j for j in judges if j(result, sentence)), None) for sentence in found]
    assert None not in said, found[said.index(None)]
    assert len(set(said)) == len(said)
    for sentence in found:
        assert not re.search(r"\bnan\b|\binf\b|None|  ", sentence), sentence


def given(result: Result) -> float:
    return float(result.manifest["injections"][0]["coefficient"])


def sign(result: Result) -> int:
    return 1 if given(result) > 0 else -1


def row(result: Result, name: str) -> dict[str, Any]:
    found: dict[str, Any] = one(result.frames["regimes"], "regime", "sign")(name, sign(result))
    return found


def _safe(result: Result, sentence: str) -> bool:
    if "perplexity" not in sentence:
        return False
    own, loss = row(result, "safe"), math.log1p(result.manifest["loss"])
    rows = result.frames["response"].query("outcome == 'damage'")
    curve: dict[float, float] = dict(zip(rows["coefficient"], rows["value"], strict=True))
    tried = {abs(c): v for c, v in curve.items() if c * sign(result) > 0 and math.isfinite(c)}
    if own["where"] == "within":
        first = re.match(rf"Safe up to −?({N})", sentence)
        assert first and same(first[1], own["coefficient"])
        assert all(v <= loss for c, v in tried.items() if c < own["coefficient"])
        assert tried[min(c for c in tried if c >= own["coefficient"])] > loss
    elif own["where"] == "below":
        first = re.match(rf"Not even the smallest coefficient that was tried \(−?({N})\) is safe", sentence)
        assert first and same(first[1], min(tried)) and tried[min(tried)] > loss
        assert "Safe up to" not in sentence
    else:
        first = re.match(rf"No coefficient up to −?({N}), the largest that was tried", sentence)
        assert first and same(first[1], max(tried)) and max(tried.values()) <= loss
    assert f"{100 * result.manifest['loss']:g}% of perplexity" in sentence
    here = re.search(rf"the damage there is ({N}) nats", sentence)
    assert here and same(here[1], curve[given(result)])
    _given(result, sentence, own, abs(given(result)))
    end = re.search(rf"the loss changes by ({N}) nats", sentence)
    assert end and same(end[1], curve[sign(result) * math.inf])
    return True


def _given(result: Result, sentence: str, own: dict[str, Any], size: float) -> None:
    """How the given coefficient stands to the safe one."""
    times = re.search(rf"The given coefficient ({N}) is ({N}) times (?:the safe one, ({N})|that one)", sentence)
    if times:
        reference = own["coefficient"] if own["where"] == "within" else own["smallest"]
        assert same(times[1], given(result)) and size > reference
        assert math.isclose(number(times[2]), size / reference, rel_tol=0.06)
        assert times[3] is None or same(times[3], reference)
    elif "cannot be told" in sentence.split("At infinity")[0]:
        assert not (own["low_where"] == "within" and size < own["low"])
        assert not (own["high_where"] == "within" and size > own["high"])
    elif "is that one" in sentence:
        assert own["where"] == "below" and size == own["smallest"]
    elif "beyond all that were tried" in sentence:
        assert own["where"] == "beyond" and size > own["largest"]
    else:
        assert re.search(r"The given coefficient [^.]*[\d.]+ is safe", sentence), sentence
        assert own["where"] == "beyond" or size <= own["coefficient"]


def _cause(result: Result, sentence: str) -> bool:
    if not sentence.startswith(("At ", "What breaks")) or "remed" in sentence or "given effect" in sentence:
        return False
    table = result.frames["causes"]
    alone = table[table["kind"] == "mechanism"]
    if sentence.startswith("What breaks"):
        assert "shares of the damage" in result.manifest["missing"]
        return True
    best: Any = alone.sort_values("gone").iloc[-1]
    if "no mechanism that is undone alone" in sentence:
        assert best["gone"] <= 0.005
        return True
    assert f"when {UNDONE[best['cause']]}" in sentence
    figures = re.findall(PERCENT, sentence.split(";")[0])
    assert any(same(f, 100 * best["gone"]) for f in figures)
    # more than all of the damage is never said as a share that goes
    assert not re.search(r"[1-9]\d{2,}%[^;(]*of the damage goes", sentence) or best["gone"] <= 1.005
    if best["gone"] > 1.005:
        below = re.search(rf"the loss ends ({N}) nats below", sentence)
        assert below and same(below[1], -best["left"]) and best["left"] < 0
    value = re.search(rf"largest Shapley value(?:, too \(| is )({PERCENT})", sentence)
    assert value and same(value[1], 100 * alone["shapley"].max())
    return True


def _shape(result: Result, sentence: str) -> bool:
    if not sentence.startswith("The effect "):
        return False
    for name, words in (("linear", "the gradient's prediction by a tenth"), ("half", "half of its limit")):
        if name not in set(result.frames["regimes"]["regime"]):
            continue
        own = row(result, name)
        place = re.search(rf"{words} (at or below the smallest tried \(({N})\)|at ({N})|up to ({N}))", sentence)
        assert place, sentence
        column = {"below": "smallest", "within": "coefficient", "beyond": "largest"}[own["where"]]
        figure = {"below": place[2], "within": place[3], "beyond": place[4]}[own["where"]]
        assert figure is not None and same(figure, own[column]), sentence
    return True


def _remedy(result: Result, sentence: str) -> bool:
    if "given effect" not in sentence.lower():
        return False
    table = result.frames["equal_effect"]
    plain = one(table, "remedy")("addition")
    if "is not told from zero" in sentence:
        assert plain["target_low"] * plain["target_high"] <= 0
        return True
    others = table[(table["remedy"] != "addition") & table["damage"].notna()]
    best: Any = others.sort_values("damage").iloc[0]
    assert f"{best['remedy']}" in sentence
    found = re.search(rf": ({N}) nats[^a]* against ({N})", sentence)
    assert found and same(found[1], best["damage"]) and same(found[2], plain["damage"])
    errors = sum(e for e in (best["error"], plain["error"]) if math.isfinite(e))
    better = math.isfinite(best["gain_low"]) and best["gain_low"] > errors and best["gain"] > errors
    assert ("does less damage than addition" in sentence) == better
    assert ("no remedy can be told from addition" in sentence) == (not better)
    return True


@pytest.mark.parametrize("case", some(CASES))
def test_every_sentence_is_true_of_the_tables(results: dict[str, Result], case: str) -> None:
    truth(results[case])


@pytest.mark.parametrize("case", some(CASES))
def test_a_number_that_stands_twice_on_a_page_is_equal(results: dict[str, Result], case: str) -> None:
    result = results[case]
    drawn = page(result)
    html = re.sub(r"<script.*?</script>", "", render(drawn), flags=re.DOTALL)
    assert not re.search(r"\bnan\b", html.replace("NaN", ""))
    regimes_table = next(s for s in drawn.sections if s.title == "Regimes").table
    assert regimes_table is not None
    plus = "plus" if sign(result) > 0 else "minus"
    shown = {r[0]: r[2] for r in regimes_table.rows if r[1] == plus}
    headline = " ".join(drawn.headline).replace("−", "")
    own = row(result, "safe")
    if own["where"] == "within":
        assert f"Safe up to {shown['largest safe coefficient']},".replace("−", "") in headline
    for name, words in (("leaves the gradient by a tenth", "by a tenth"), ("half of the limit", "half of its limit")):
        if row(result, "linear" if "tenth" in words else "half")["where"] == "within":
            assert f"{words} at {shown[name]}".replace("−", "") in headline
    assert str(result.manifest["text"]["name"]) in html


def changed(result: Result, frame: str, chosen: str, **values: Any) -> Result:
    """The result with some cells of a frame set."""
    table = result.frames[frame].copy()
    rows = table.query(chosen).index
    for column, value in values.items():
        table.loc[rows, column] = value
    return replace(result, frames={**result.frames, frame: table})


def outside(result: Result, where: str) -> Result:
    """Damage that is crossed at the smallest coefficient already, or never: table and curve agree."""
    height = 5.0 if where == "below" else 1e-4
    result = changed(result, "response", "outcome == 'damage' and coefficient != 0", value=height)
    sides = {"where": where, "low_where": where, "high_where": where}
    missing = {"coefficient": np.nan, "low": np.nan, "high": np.nan}
    reached = 1.0 if where == "below" else 0.0
    return changed(result, "regimes", "regime == 'safe'", **sides, **missing, reached=reached)


@pytest.mark.parametrize("where", ["below", "beyond"])
@pytest.mark.parametrize("case", some(["a vector", "a negative coefficient", "a huge one", "a tiny coefficient"]))
def test_what_lies_outside_of_what_was_tried_is_never_said_as_measured(
    results: dict[str, Result], case: str, where: str
) -> None:
    result = outside(results[case], where)
    truth(result)
    sentence = result.summary()[0]
    assert "Safe up to" not in sentence
    cells = next(s for s in page(result).sections if s.title == "Regimes").table
    assert cells is not None
    own = [r[2] for r in cells.rows if r[0] == "largest safe coefficient"]
    assert all(c.startswith("at or below the smallest tried" if where == "below" else "not up to") for c in own)


@pytest.mark.parametrize("where", ["below", "beyond"])
def test_regimes_of_the_effect_outside_are_said_so(results: dict[str, Result], where: str) -> None:
    sides = {"where": where, "low_where": where, "high_where": where, "coefficient": np.nan}
    result = changed(results["a vector"], "regimes", "regime in ['half', 'linear']", **sides)
    truth(result)
    [sentence] = [s for s in result.summary() if s.startswith("The effect")]
    assert ("does not reach half" in sentence) == (where == "beyond")
    assert ("at or below the smallest tried" in sentence) == (where == "below")


def test_an_end_that_is_open_is_drawn_open(results: dict[str, Result]) -> None:
    open_end = {"where": "within", "coefficient": 0.5, "low": 0.2, "low_where": "within", "high": np.nan}
    result = changed(results["a vector"], "regimes", "regime == 'safe'", **open_end, high_where="beyond", reached=0.8)
    assert "Safe up to 0.500 [0.200, >100]" in result.summary()[0]
    assert "whether it is safe cannot be told" in result.summary()[0]


@pytest.mark.parametrize("gone", [2.77, 1.2, 0.4, 0.0, -0.5])
def test_more_than_all_of_the_damage_is_said_truly(results: dict[str, Result], gone: float) -> None:
    result = results["a random vector"]
    mechanism = "kind == 'mechanism'"
    result = changed(result, "causes", mechanism, gone=-0.9, gone_low=-1.0, gone_high=-0.8, left=1.9)
    ends = {"gone_low": gone - 0.1, "gone_high": gone + 0.1, "left": 1 - gone}
    result = changed(result, "causes", "cause == 'values'", gone=gone, **ends)
    truth(result)
    [sentence] = [s for s in result.summary() if s.startswith("At ") and "given effect" not in s]
    assert f"{gone:.0%} of the damage goes" not in sentence or gone <= 1
    if gone > 1:
        assert "all of the damage and more" in sentence and f"{gone - 1:.2f}"[:3] in sentence


def test_shares_of_a_damage_that_is_none_are_not_spoken_of(results: dict[str, Result]) -> None:
    why = "the damage is 0.001 [-0.1, 0.1] nats, not told from zero: intervals of shares of it would mean nothing"
    result = results["a random vector"]
    missing = {**result.manifest["missing"], "shares of the damage": why}
    result = replace(result, manifest={**result.manifest, "missing": missing})
    truth(result)
    assert any(s.startswith("What breaks the model at") and why in s for s in result.summary())


@pytest.mark.parametrize(
    ("gain", "low", "error", "better"),
    [(0.5, 0.3, 0.001, True), (0.5, 0.3, 0.4, False), (0.5, -0.1, 0.0, False), (0.5, np.nan, 0.0, False)],
)
def test_remedies_are_told_apart_beyond_chance_and_beyond_the_chord(
    results: dict[str, Result], gain: float, low: float, error: float, better: bool
) -> None:
    target = {"target": 1.0, "target_low": 0.5, "target_high": 1.5, "error": error, "damage": 1.0}
    result = changed(results["a vector"], "equal_effect", "remedy == remedy", **target)
    best = {"damage": 1 - gain, "gain": gain, "gain_low": low, "gain_high": 0.7}
    result = changed(result, "equal_effect", "remedy == 'clamping'", **best)
    truth(result)
    said = " ".join(result.summary())
    assert ("clamping does less damage than addition" in said) == better
    if error > 0.1:
        assert "the interpolation itself" not in said or "0.800" in said


def test_nothing_is_compared_at_an_effect_that_is_none(results: dict[str, Result]) -> None:
    none = {"target": 0.01, "target_low": -0.2, "target_high": 0.22}
    result = changed(results["a vector"], "equal_effect", "remedy == remedy", **none)
    truth(result)
    assert any("is not told from zero: remedies are not compared" in s for s in result.summary())


def test_shares_and_open_ends_in_words() -> None:
    assert share(0.4, 0.3, 0.5, "damage") == "40% [30%, 50%] of the damage"
    assert share(2.77, 2, 3, "damage") == "all of the damage and more (277% [200%, 300%])"
    assert share(-0.3, -0.4, -0.2, "damage") == "none of the damage (it grows by 30% [20%, 40%])"
    assert share(0.0, math.nan, math.nan, "effect") == "0% of the effect"
    assert open_ends(-0.1, math.nan) == " [−0.100, ∞]" and open_ends(math.nan, 2.0) == " [−∞, 2.00]"


@pytest.mark.parametrize("survives", [-1.77, 0.0, 0.4, 1.3])
def test_what_frozen_attention_costs_is_said_truly(model: Model, survives: float) -> None:
    result = freeze_attention(asked(model), text=TEXT, by=("all",))
    ends = {"survives_low": survives - 0.1, "survives_high": survives + 0.1}
    result = changed(result, "attention", "outcome == 'damage'", survives=survives, **ends)
    [sentence] = frozen.headline(result)
    words = {
        -1.77: "all of the damage and more (277% [267%, 287%])",
        0.0: "100% [90%, 110%] of the damage",
        0.4: "60% [50%, 70%] of the damage",
        1.3: "none of the damage (it grows by 30% [20%, 40%])",
    }
    assert words[survives] in sentence and f"on {result.manifest['text']['name']}." in sentence
    total = result.frames["attention"].query("outcome == 'damage'").iloc[0]["total"]
    damage = re.search(rf"The damage is ({N}) nats per token", sentence)
    assert damage and same(damage[1], total)


def test_a_failed_check_stands_in_its_section_and_nowhere_else(results: dict[str, Result]) -> None:
    result = results["a vector"]
    bad = [{**c, "passed": False, "value": 1.0} for c in result.manifest["checks"]]
    drawn = page(replace(result, manifest={**result.manifest, "checks": bad}))
    assert not drawn.warnings
    warned = {s.title: list(s.warnings) for s in drawn.sections if s.warnings}
    assert set(warned) == {c["section"] for c in bad}
    assert all("of this section" in w for own in warned.values() for w in own)
    general = page(replace(result, manifest={**result.manifest, "checks": [{**bad[0], "section": "elsewhere"}]}))
    assert len(general.warnings) == 1 and "elsewhere" in general.warnings[0]
