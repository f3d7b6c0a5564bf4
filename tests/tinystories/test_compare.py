"""The study of variants: its measures against plain passes, its statistics, and going on after a kill."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from small_training import small_training

import steerscope as st
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.errors import BadArgument, DamagedRun
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.prompts import make_prompts
from steerscope.tinystories import compare
from steerscope.tinystories.corpus import openings
from steerscope.tinystories.seeds import differences, summarized
from steerscope.tinystories.steering import SIZES, measured, words
from steerscope.tinystories.train import train
from steerscope.tinystories.variants import Recipe
from steerscope.tinystories.zoo import DATA

TOPICS = ("wedding", "ship")
SMALL: dict[str, Any] = {"layers": 1, "width": 16, "heads": 2, "context": 64, "stories": 200, "steps": 3, "batch": 4}
SMALL |= {"concepts": TOPICS, "openings": 4, "windows": 3, "tokens": 24}


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"variants": ("relu",), "seeds": 2, **SMALL, **changes})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    out = tmp_path_factory.mktemp("models") / "native"
    changes = {"topic_stories": 200, "n_layers": 2, "vocabulary": 1024, "act": "relu", "parallel": True, "steps": 20}
    found: Model = st.load(train(small_training(None, out, **changes)))
    return found


# Measures.


def test_effect_share_and_safe_size_are_those_of_plain_passes(model: Model) -> None:
    prompts = openings(1, 3)
    text = [model.tokens(one)[:16] for one in openings(7, 3)]
    rows = measured(model, TOPICS, prompts, make_prompts(model, text))
    found = {row["measure"]: row["value"] for row in rows if row["concept"] == "wedding"}
    vector = st.steering_vector(model, " wedding", " ")
    targets = [model.target(word) for word in words(model, "wedding")]
    against = [model.target(word) for word in words(model, "ship")]
    ids = [model.tokens(prompt) for prompt in prompts]
    streams = [stream(model, one, 1) for one in ids]
    coefficient = float(np.mean([s.norm() / vector.values[1].norm() for s in streams]))

    def value(one: list[int], edits: list[Any]) -> float:
        logits = plain_logits(model, one, edits)[-1]
        return float(logits[targets].logsumexp(0) - logits[against].logsumexp(0))

    added = st.Edit(st.Site("resid_pre", 0), "add", coefficient * vector.values[1:2], (1,))
    effects = [value(one, [added]) - value(one, []) for one in ids]
    assert found["effect"] == pytest.approx(np.mean(effects), rel=1e-3)
    assert found["per_norm"] == pytest.approx(
        np.mean(effects) / (coefficient * float(vector.values[1].norm())), rel=1e-3
    )
    lost = []
    for one in ids:
        held = [st.Edit(st.Site("mlp_out", layer), "set", mlp(model, one, layer)) for layer in (0, 1)]
        lost.append(value(one, [added]) - value(one, [added, *held]))
    assert found["mlp_share"] == pytest.approx(np.mean(lost) / np.mean(effects), rel=1e-3)

    def hurt(size: float) -> float:
        edit = added.times(size)
        pairs = [(plain_logits(model, one, edits), one) for edits in ([edit], []) for one in text]
        losses = [
            -float(logits[:-1].log_softmax(-1).gather(1, torch.tensor(one)[1:, None]).mean()) for logits, one in pairs
        ]
        return float(np.mean(losses[: len(text)]) - np.mean(losses[len(text) :]))

    size = found["safe_front"]
    if SIZES[0] < size < SIZES[-1]:
        above = SIZES[np.searchsorted(SIZES, size)]
        assert hurt(float(above)) > np.log(1.1) >= hurt(float(SIZES[np.searchsorted(SIZES, size) - 1]))
    else:
        assert (hurt(size) > np.log(1.1)) == (size == SIZES[0])


def stream(model: Model, ids: list[int], position: int) -> torch.Tensor:
    return seen(model, ids, "blocks.0.hook_resid_pre")[position]


def mlp(model: Model, ids: list[int], layer: int) -> torch.Tensor:
    return seen(model, ids, f"blocks.{layer}.hook_mlp_out")


def seen(model: Model, ids: list[int], hook: str) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    with torch.no_grad():
        model.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(hook, lambda x, hook: kept.append(x[0].clone()))])
    return kept[0]


# Statistics.


def table(values: dict[str, list[float]], measure: str = "effect") -> pd.DataFrame:
    rows = [(v, s, measure, x) for v, own in values.items() for s, x in enumerate(own)]
    return pd.DataFrame(rows, columns=["variant", "seed", "measure", "value"])


def test_differences_are_those_of_welch_and_ratios_of_logged_measures() -> None:
    values = {"gelu": [1.0, 1.3, 1.1, 0.9], "relu": [2.0, 2.6, 1.9, 2.2], "silu": [1.1, 1.0, 1.2, 1.05]}
    both = pd.concat([table(values), table({k: list(np.exp(v)) for k, v in values.items()}, "per_norm")])
    found = differences(both, "gelu", ("per_norm",), 0.95, 0.05).set_index(["measure", "variant"])
    for variant in ("relu", "silu"):
        slow = stats.ttest_ind(values[variant], values["gelu"], equal_var=False)
        low, high = slow.confidence_interval(0.95)
        plain, ratio = (found.xs((measure, variant)) for measure in ("effect", "per_norm"))
        assert [plain["p"], plain["low"], plain["high"]] == pytest.approx([slow.pvalue, low, high])
        assert [ratio["p"], ratio["low"], ratio["high"]] == pytest.approx([slow.pvalue, np.exp(low), np.exp(high)])
    assert list(found["p_holm"]) == pytest.approx(
        stats.false_discovery_control(found["p"]) * 0 + holm_by_hand(found["p"])
    )
    mean = summarized(both, ("per_norm",), 0.95).set_index(["measure", "variant"])["value"]
    assert mean["per_norm", "relu"] == pytest.approx(np.exp(mean["effect", "relu"]))


def holm_by_hand(p: pd.Series) -> np.ndarray:
    order = np.argsort(p.to_numpy())
    out, most = np.empty(len(p)), 0.0
    for place, index in enumerate(order):
        most = max(most, min(1.0, float(p.iloc[index]) * (len(p) - place)))
        out[index] = most
    return out


def test_the_smallest_difference_is_where_one_begins_to_be_told() -> None:
    base, other, rest = [0.0, 1.0, 0.4], [0.1, 0.8, 0.5], [0.0, 0.9, 0.45]
    smallest = differences(table({"gelu": base, "relu": other, "silu": rest}), "gelu", (), 0.95, 0.05)["smallest"][0]
    for factor, told in ((0.999, False), (1.001, True)):
        moved = np.array(other) - np.mean(other) + np.mean(base) + factor * smallest
        found = differences(table({"gelu": base, "relu": list(moved), "silu": rest}), "gelu", (), 0.95, 0.05)
        assert found["told"].tolist() == [told, False]


def test_of_variants_that_do_not_differ_few_studies_tell_any() -> None:
    dice = np.random.default_rng(0)
    told = 0
    for _ in range(200):
        values = {name: list(dice.normal(size=3)) for name in ("gelu", "relu", "silu", "solu")}
        told += bool(differences(table(values), "gelu", (), 0.95, 0.05)["told"].any())
    assert told <= 18  # 5% of 200, and three standard deviations


def test_one_seed_tells_nothing() -> None:
    found = differences(table({"gelu": [1.0], "relu": [5.0]}), "gelu", (), 0.95, 0.05)
    assert found["p"].tolist() == [1.0] and np.isnan(found["smallest"]).all() and not found["told"].any()


# The study.


def test_a_study_that_was_killed_goes_on_and_gives_the_same_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = st.compare_variants(tmp_path / "whole", recipe())
    assert set(whole.frames["models"]["variant"]) == {"gelu", "relu"} and len(whole.frames["models"]) == 4
    assert len(whole.frames["measured"]) == 4 * len(TOPICS) * 6 and len(whole.frames["differences"]) == 6
    real = compare._measure
    done: list[str] = []

    def killed(folder: Path, *rest: Any) -> dict[str, Any]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(folder.name)
        return real(folder, *rest)

    monkeypatch.setattr(compare, "_measure", killed)
    with pytest.raises(KeyboardInterrupt):
        st.compare_variants(tmp_path / "cut", recipe())
    assert done == ["gelu-0", "relu-0"]
    trained = {path.name for path in (tmp_path / "cut" / "models").iterdir()}
    assert trained == {"gelu-0", "relu-0", "gelu-1"}  # trained, and not measured yet
    before = (tmp_path / "cut" / "models" / "gelu-1" / "model.safetensors").stat().st_mtime_ns

    def noted(folder: Path, *rest: Any) -> dict[str, Any]:
        done.append(folder.name)
        return real(folder, *rest)

    monkeypatch.setattr(compare, "_measure", noted)
    again = st.compare_variants(tmp_path / "cut", recipe())
    assert done == ["gelu-0", "relu-0", "gelu-1", "relu-1"]
    assert (tmp_path / "cut" / "models" / "gelu-1" / "model.safetensors").stat().st_mtime_ns == before
    for name in ("measured", "variants", "differences"):
        assert whole.frames[name].equals(again.frames[name]), name
    more = st.compare_variants(tmp_path / "cut", recipe(seeds=3, variants=("gelu",)))  # a study may grow
    assert len(more.frames["models"]) == 3
    new = st.compare_variants(tmp_path / "cut", recipe(first=1, variants=("gelu",)))  # and be tested on other seeds
    assert list(new.frames["models"]["seed"]) == [1, 2]
    with pytest.raises(BadArgument, match="belongs to a study of other settings"):
        st.compare_variants(tmp_path / "cut", recipe(steps=4))
    path = tmp_path / "cut" / "measured" / "gelu-0.json"
    path.write_text(path.read_text().replace('"concept": "wedding"', '"concept": "ship"', 1))
    with pytest.raises(DamagedRun, match="changed"):
        st.compare_variants(tmp_path / "cut", recipe())


def test_variants_that_are_not_known_are_refused() -> None:
    with pytest.raises(BadArgument, match="variants=tanh; expected some of gelu, relu"):
        recipe(variants=("tanh",))
    assert recipe(variants=("silu",)).variants == ("gelu", "silu")


@pytest.mark.parametrize(("name", "seeds", "told"), [("activation_study", 3, 0), ("activation_study_new_seeds", 8, 4)])
def test_the_shipped_studies_follow_from_what_was_measured(name: str, seeds: int, told: int) -> None:
    result = st.Result.load(DATA / name)
    measured, models = (result.frames[key].to_dict("records") for key in ("measured", "models"))
    again = compare.tables(measured, models, 0.95, 0.05)
    for key in ("variants", "differences"):
        columns = list(result.frames[key].columns)
        pd.testing.assert_frame_equal(again[key][columns], result.frames[key])
    assert again["differences"]["told"].sum() == told
    assert set(again["models"].groupby("variant").size()) == {seeds}
