"""From trials to tables: what the columns promise, and what a planted model must give."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerscope.analysis.errors import BadArgument, BadMetric, DamagedRun
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.metrics import logit_direction
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import holm
from steerscope.analysis.sweeps.plan import plan
from steerscope.analysis.sweeps.rows import read
from steerscope.analysis.sweeps.runner import COLUMNS, begin, sweep
from steerscope.analysis.sweeps.store import Store
from steerscope.analysis.sweeps.summary import summarize
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.reports.records import records


def made(model: Model, folder: Path, prompts: list[str], **more: Any) -> Result:
    """As if the prompts were independent: they are of one template."""
    vector = prompt_pair(model, " wedding", " ship", 0)
    options: dict[str, Any] = {"trials": 600, "k": (1, 3), "controls": 4} | more
    return sweep(model, vector, make_prompts(model, prompts, groups="each"), folder / "run", **options)


@pytest.fixture(scope="module")
def result(tiny: Model, stories: list[str], tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("sweep")
    designs = ("uniform", "horizontal", "vertical")
    return made(tiny, folder, stories, design=designs, k=(1, 2), coefficients=(1.0, 2.0), trials=1800)


def test_frames_have_exactly_the_columns_that_are_described(result: Result) -> None:
    described = {name: list(columns) for name, columns in COLUMNS.items()}
    assert {name: list(frame.columns) for name, frame in result.frames.items()} == described
    assert not any(frame.empty for frame in result.frames.values())


def test_a_result_is_the_same_after_saving(result: Result, tmp_path: Path) -> None:
    again = Result.load(result.save(tmp_path / "saved"))
    for name, frame in result.frames.items():
        pd.testing.assert_frame_equal(again.frames[name], frame)
    assert again.manifest["whole"] == result.manifest["whole"]


def test_in_a_planted_model_only_the_planted_head_responds(planted: Model, stories: list[str], tmp_path: Path) -> None:
    found = made(planted, tmp_path, stories, coefficients=4.0)
    frontier = found.frames["frontier"].set_index("node")
    others, planted_one = frontier.drop(index="L1H2"), frontier.loc["L1H2"]
    # Not exactly zero: the head's own effect differs between prompts, and chance mixes that in.
    assert (others["kl"].abs() < 0.1 * planted_one["kl"]).all() and planted_one["kl_low"] > 0
    assert (others["effect"].abs() < 0.1 * abs(planted_one["effect"])).all()
    nodes = found.frames["nodes"].set_index(["outcome", "node"])
    assert {n for n, p in zip(frontier.index, holm(nodes.loc["kl"]["p"].to_numpy()), strict=True) if p < 0.05} == {
        "L1H2"
    }
    assert found.frames["pairs"].query("significant").empty


def test_counts_and_means_are_those_of_the_rows(result: Result, tmp_path: Path) -> None:
    nodes = result.frames["nodes"].query("outcome == 'effect'").set_index("node")
    trials = result.manifest["trials"]
    assert trials["real"] + trials["random"] == trials["done"] == 1800
    designs = result.frames["designs"].query("outcome == 'effect' and not design.str.contains(' - ')")
    assert designs["trials"].sum() == trials["real"]
    assert nodes["sampled"].sum() == pytest.approx((designs["trials"] * designs["k"]).sum())


def test_single_injections_contribute_their_mean_effect(tiny: Model, stories: list[str], tmp_path: Path) -> None:
    found = made(tiny, tmp_path, stories, k=1, controls=0, trials=2000)
    rows = pd.concat([t.to_pandas() for t in Store(tmp_path / "run").read()])
    rows["node"] = rows["nodes"].str[0]
    plain = rows.groupby("node")["effect"].mean()
    nodes = found.frames["nodes"].query("outcome == 'effect'").set_index("node")
    spread = float(nodes["contribution"].std())
    assert np.abs(nodes["contribution"] - plain).max() < 0.15 * spread
    np.testing.assert_allclose(nodes["mean_in"], plain[nodes.index], rtol=1e-5)
    without = [rows.loc[rows["node"] != node, "effect"].mean() for node in nodes.index]
    np.testing.assert_allclose(nodes["mean_out"], without, rtol=1e-5)
    assert nodes["reference"].isna().all() and "controls" in found.manifest["missing"]


def test_the_difference_of_designs_is_made_at_equal_norm(result: Result) -> None:
    row = result.frames["designs"].query("design == 'horizontal - vertical' and outcome == 'kl'")
    assert len(row) == 1 and np.isfinite(row[["mean", "low", "high", "p"]].to_numpy()).all()


def test_a_prompt_alone_gives_numbers_and_says_why_there_is_no_interval(
    tiny: Model, stories: list[str], tmp_path: Path
) -> None:
    found = made(tiny, tmp_path, stories[:1])
    nodes = found.frames["nodes"]
    assert np.isfinite(nodes["contribution"]).all() and nodes["low"].isna().all()
    assert (nodes["verdict"] == "untested").all()
    assert "fewer than 4 groups of prompts" in found.manifest["missing"]["intervals"]


def test_copies_and_prompts_of_one_template_are_one_group_of_which_nothing_is_claimed(
    tiny: Model, stories: list[str], tmp_path: Path
) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 0)
    found = sweep(tiny, vector, [*stories, *stories[:3]], tmp_path / "run", trials=400, controls=4)
    assert found.manifest["groups"] == 1 and found.manifest["prompts"]["groups"] == 1
    assert (found.frames["nodes"]["verdict"] == "untested").all() and not found.frames["pairs"]["significant"].any()
    assert any("17 prompts are in 1 groups" in note for note in found.manifest["notes"])


def test_a_sweep_says_what_its_metric_is_and_does_not_take_the_direction_of_other_prompts(
    tiny: Model, stories: list[str], tmp_path: Path
) -> None:
    made_one = plan(tiny, prompt_pair(tiny, " wedding", " ship", 0), stories, trials=100)
    assert made_one.about["metric"]["name"] == "own_direction"
    assert "positive by construction" in made_one.about["metric"]["about"]
    with pytest.raises(BadMetric, match="since trials stream by; expected own_direction"):
        plan(tiny, prompt_pair(tiny, " wedding", " ship", 0), stories, trials=100, metric=logit_direction())


def test_a_run_without_trials_and_levels_that_cannot_be_are_refused(
    tiny: Model, stories: list[str], tmp_path: Path
) -> None:
    store = Store(tmp_path / "run")
    begin(plan(tiny, prompt_pair(tiny, " wedding", " ship", 0), stories, trials=100), store)
    with pytest.raises(DamagedRun, match="no trials in"):
        summarize(store)
    with pytest.raises(BadArgument, match="level=95"):
        summarize(store, level=95)


def test_left_out_nodes_are_noted(tiny: Model, stories: list[str], tmp_path: Path) -> None:
    found = made(tiny, tmp_path, stories, positions="front", k=1, trials=100)
    assert found.manifest["notes"][0].startswith("Left out: L1H0, L1H1, L1H2, L1H3, L1M.")
    assert set(found.frames["nodes"]["layer"]) == {0}


def test_one_rule_decides_and_what_is_told_is_beyond_random_vectors(result: Result) -> None:
    nodes = result.frames["nodes"].query("outcome == 'effect'").set_index("node")
    frontier = result.frames["frontier"].set_index("node")
    told = nodes["verdict"] == "concept"
    assert (told == ((nodes["p_holm"] < 0.05) & (nodes["share"] >= 0.02))).all()
    assert (nodes.loc[told, "contribution"].abs() > nodes.loc[told, "reference"].abs()).all()
    assert (frontier["verdict"] == nodes["verdict"]).all()
    assert not (frontier["useful"] & (frontier["verdict"] != "concept")).any()
    assert set(nodes["verdict"]) <= {"concept", "shared", "less", "against", "small", "untested"}


def test_on_the_frontier_no_other_node_has_more_effect_and_less_disturbance(result: Result) -> None:
    frontier = result.frames["frontier"]
    for row in records(frontier):
        better = frontier[(frontier["effect"] > row.effect) & (frontier["kl"] < row.kl)]
        assert row.frontier == better.empty
    assert 0 < frontier["frontier"].sum() < len(frontier)


def test_trends_are_means_over_layers_and_their_slope(result: Result) -> None:
    nodes = result.frames["nodes"].query("outcome == 'effect' and kind == 'head'")
    means = nodes.groupby("layer")["contribution"].mean()
    trends = result.frames["trends"].query("outcome == 'effect' and kind == 'head'")
    assert trends["contribution"].tolist() == pytest.approx([means[0], means[1], means[1] - means[0]])


def test_every_vector_and_coefficient_is_a_cell_of_its_own(tiny: Model, stories: list[str], tmp_path: Path) -> None:
    vectors = [prompt_pair(tiny, a, " ship", 0) for a in (" wedding", " cake")]
    sweep(tiny, vectors, stories, tmp_path / "run", trials=800, coefficients=(2.0, 1.0), controls=0)
    store = Store(tmp_path / "run")
    cells = read(store, store.manifest()).cell
    table = pd.concat([t.to_pandas() for t in store.read()])
    assert len(set(zip(cells, table["vector"], table["coefficient"], strict=True))) == len(set(cells)) == 4
