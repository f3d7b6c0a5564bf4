"""What is noise is told nowhere: random vectors as the injection, copies of one prompt, prompts of few templates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import steerscope.analysis.question as room
from steerscope import localize
from steerscope.analysis.carriers.effect_table import effect_table, told
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.verdicts import TOLD, Basis
from steerscope.analysis.tools.patching import MEASURES, Effects, effects
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.loader import load

GENERAL = Path(room.__path__[0]) / "data" / "prompts_general.txt"
QUICK = {"completions": 0, "writers": False, "attention": False, "growing": False}
NAMES = ("Tom", "Lily", "Ben", "Anna")
TEMPLATES = (
    "One day {} went to the park and played with the ball",
    "The bride had a cake for {} near the ship",
    "Once upon a time there was a dragon and {} saw it",
    "They gave {} a big red ring in the wedding",
)


@pytest.fixture(scope="module")
def trained() -> Model:
    return load("tinystories-2l", selfcheck=False)


@pytest.fixture(scope="module")
def prompts(trained: Model) -> Prompts:
    lines = GENERAL.read_text(encoding="utf-8").splitlines()
    found = make_prompts(trained, sorted(lines, key=lambda line: len(trained.tokens(line)))[:6])
    assert len(set(found.groups)) == 6
    return found


@pytest.fixture(scope="module")
def asked(trained: Model, prompts: Prompts) -> Experiment:
    injection = Injection(prompt_pair(trained, " wedding", " ", 0), 3.0)
    return Experiment(trained, (injection,), prompts, references=16)


@pytest.fixture(scope="module")
def raw(asked: Experiment) -> Effects:
    return effects(asked)


def playing(raw: Effects, vector: int) -> list[set[str]]:
    """By measure, what is told where a reference plays the real vector, along its own change."""
    order = [vector, *(v for v in range(1, len(raw.own)) if v != vector)]
    basis = Basis(
        raw.basis.groups, raw.basis.own[vector], raw.basis.own[order], ("", *("isotropic",) * (len(order) - 1))
    )
    table = effect_table(raw.nodes, MEASURES, raw.own[vector], raw.own[order], basis, Statistics())
    return [told(table, measure) for measure in MEASURES]


def test_of_all_random_vectors_at_most_one_is_told_from_the_others(raw: Effects) -> None:
    found = [playing(raw, vector) for vector in range(1, len(raw.own))]
    for measure in range(len(MEASURES)):
        assert sum(bool(one[measure]) for one in found) <= 1


def test_a_word_is_told_from_them(raw: Effects) -> None:
    table = effect_table(raw.nodes, MEASURES, raw.along, raw.own, raw.basis, Statistics())
    assert told(table, "necessity")
    assert "shared" in set(table["verdict"])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_vector_as_the_injection_is_told_nowhere(seed: int, trained: Model, prompts: Prompts) -> None:
    vector = random_like(prompt_pair(trained, " wedding", " ", 1), 1000 + seed)
    found = localize(trained, Injection(vector, 3.0), prompts, references=12, **QUICK)
    table = found.frames["effects"]
    assert not table["verdict"].isin(TOLD).any() and (table["p_holm"] > 0.05).all()
    assert found.frames["totals"].set_index("quantity")["value"]["total"] > 0
    assert found.frames["totals"].set_index("quantity").loc["told_necessity", "value"] == 0
    rates = found.manifest["leave_one_out"]
    assert set(rates) == set(MEASURES) and all(0 <= rate <= 0.1 for rate in rates.values())
    rows = found.manifest["reference_tests"]
    assert [(row["kind"], row["measure"], row["vectors"], row["trusted"]) for row in rows] == [
        ("noise", measure, 12, True) for measure in MEASURES
    ]
    assert [row["told"] for row in rows] == [rates[measure] for measure in MEASURES]


def test_the_manifest_says_which_references_were_run(tiny: Model) -> None:
    texts = [*(template.format("Tom") for template in TEMPLATES), "Tom had a red ball", "They saw a big cake"]
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 2.0)
    found = localize(tiny, injection, texts, references="concepts:7,isotropic:6", **QUICK)
    said = found.manifest["references"]
    assert (said["count"], said["families"]) == (13, {"isotropic": 6, "concepts": 7})
    assert [row["kind"] for row in found.manifest["reference_tests"]] == ["noise", "concepts"] * 2
    vectors = found.frames["vectors"]
    assert vectors["family"].tolist() == ["", *("isotropic",) * 6, *("concepts",) * 7]
    np.testing.assert_allclose(vectors["norm"], vectors["norm"][0], rtol=1e-5)
    worst = {
        measure: max(row["told"] for row in found.manifest["reference_tests"] if row["measure"] == measure)
        for measure in MEASURES
    }
    assert found.manifest["leave_one_out"] == worst
    few = localize(tiny, injection, texts, references=3, **QUICK).manifest
    assert few["leave_one_out"] == dict.fromkeys(MEASURES) and not any(r["trusted"] for r in few["reference_tests"])


def numbers(result: Result) -> np.ndarray:
    names = ["effect", "low", "high", "share", "p", "p_noise", "p_adjusted", "p_holm", "p_specific"]
    return result.frames["effects"][names].to_numpy(float)


def test_copies_of_one_prompt_say_nothing(tiny: Model) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0)
    found = localize(tiny, injection, ["Tom had a red ball"] * 12, references=5, **QUICK)
    table = found.frames["effects"]
    assert set(table["verdict"]) == {"untested"} and table[["low", "high", "stability"]].isna().all(axis=None)
    assert (table[["p", "p_adjusted", "p_holm"]] == 1).all(axis=None)
    assert "one group of prompts" in found.manifest["missing"]["intervals"]
    assert found.manifest["prompts"]["groups"] == 1 and (table["effect"].abs() > 0.1).any()


def test_copies_say_no_more_than_what_they_are_copies_of(tiny: Model) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    texts = [template.format("Tom") for template in TEMPLATES]
    once, thrice = (localize(tiny, injection, t, references=4, **QUICK) for t in (texts, texts * 3))
    np.testing.assert_allclose(numbers(thrice), numbers(once), rtol=1e-3, atol=1e-4)
    assert once.frames["effects"]["verdict"].tolist() == thrice.frames["effects"]["verdict"].tolist()


def test_four_names_in_four_templates_are_four_groups_of_prompts(tiny: Model) -> None:
    texts = [template.format(name) for name in NAMES for template in TEMPLATES]
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    found = Experiment(tiny, (injection,), make_prompts(tiny, texts), references=0)
    assert found.describe()["prompts"]["groups"] == 4 and found.basis().groups.tolist() == [0, 1, 2, 3] * 4
    alone = replace(found, prompts=make_prompts(tiny, texts, groups="each"))
    raw = effects(found)
    by_group, each = (
        effect_table(raw.nodes, MEASURES, raw.along, raw.own, basis, Statistics())
        for basis in (raw.basis, replace(raw.basis, groups=alone.basis().groups))
    )
    width = [(table["high"] - table["low"]).mean() for table in (by_group, each)]
    assert width[0] > 2 * width[1]
