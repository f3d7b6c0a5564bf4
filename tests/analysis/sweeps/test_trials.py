"""The rows of a sweep against one plain forward pass each, with every number worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from steerscope.analysis.engine.activations import record
from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site, parse_node
from steerscope.analysis.question.metrics import kl, log_prob, perplexity
from steerscope.analysis.question.outputs import Outputs
from steerscope.analysis.sweeps.bench import bench
from steerscope.analysis.sweeps.plan import Plan, plan
from steerscope.analysis.sweeps.runner import begin, run
from steerscope.analysis.sweeps.store import Store
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.reports.records import records

PROMPTS = [[7, 3, 30, 12, 9, 41, 5, 8, 2], [9, 9, 31, 4, 17, 6], [40, 2, 2, 13, 25, 11, 20]]
PLUS, MINUS = [5, 9, 30], [7, 11, 2]


def rows(folder: Path, model: Model, **more: Any) -> tuple[pd.DataFrame, Plan]:
    options: dict[str, Any] = {"trials": 24, "k": (1, 3), "visit": 4, "controls": 2, **more}
    vector = prompt_pair(model, PLUS, MINUS, 1)
    made = plan(model, vector, PROMPTS, **options)
    store = Store(folder)
    begin(made, store)
    run(made, store)
    table: pd.DataFrame = pd.concat([t.to_pandas() for t in store.read()], ignore_index=True)
    return table, made


def full(model: Model, prompt: int) -> list[int]:
    return ([] if model.bos is None else [model.bos]) + PROMPTS[prompt]


def slow_edits(model: Model, row: Any, made: Plan, mode: str) -> list[Edit]:
    """The edits of a row, from the vectors' definitions and the row alone."""
    body = len(full(model, row.prompt)) - 1
    start = 0 if model.bos is None else 1
    where = tuple(range(start, body)) if str(made.work.place) == "all" else tuple(range(3 + start))
    pair = [([] if model.bos is None else [model.bos]) + p for p in (PLUS, MINUS)]
    edits = []
    for name in row.nodes:
        if mode == "shared":
            site = Site("attn_out" if name.endswith("A") else "mlp_out", int(name[1:-1]))
            plus, minus = record(model, pair, Site("resid_pre", 1))
        else:
            site = parse_node(name).site
            plus, minus = record(model, pair, site)
        value = (plus - minus)[-len(where) :] if len(where) == len(plus) else (plus - minus)[-1:]
        edits.append(Edit(site, "add", row.coefficient * value, where))
    return edits


def numbers(logits: torch.Tensor, clean: torch.Tensor, ids: list[int], at: list[int]) -> dict[str, float]:
    own, other = logits[at].double().log_softmax(-1), clean[at].double().log_softmax(-1)
    following = torch.tensor([ids[p + 1] for p in at])
    return {
        "kl": float((own.exp() * (own - other)).sum(-1).mean()),
        "perplexity": float((-own.gather(1, following[:, None]).mean()).exp()),
        "entropy": float(-(own.exp() * own).sum(-1).mean()),
    }


@pytest.mark.parametrize("place", ["all", "front"])
@pytest.mark.parametrize("mode", ["own", "shared"])
def test_every_number_of_every_row_is_that_of_a_plain_pass(
    every_architecture: Model, mode: str, place: str, tmp_path: Path
) -> None:
    model = every_architecture
    k = 1 if mode == "shared" else (1, 3)  # some of these models have few layers
    table, made = rows(tmp_path / "run", model, mode=mode, positions=place, coefficients=(0.5, 2.0), k=k)
    assert len(table) == 24 and table["trial"].tolist() == list(range(24))
    for row in records(table[table["control"] < 0]):
        ids = full(model, row.prompt)
        body = ids[:-1]
        clean = plain_logits(model, body, [])
        start = 0 if model.bos is None else 1
        first = start if place == "all" else 3 + start
        at = list(range(first, len(body))) or [len(body) - 1]
        found = numbers(plain_logits(model, body, slow_edits(model, row, made, mode)), clean, ids, at)
        for name, value in found.items():
            assert getattr(row, name) == pytest.approx(value, rel=2e-3, abs=2e-4), (name, row.trial)
        assert row.clean_perplexity == pytest.approx(numbers(clean, clean, ids, at)["perplexity"], rel=1e-3)
    assert (table["kl"] > 1e-6).mean() > 0.7


def test_the_effect_is_the_projection_on_the_change_that_the_whole_injection_makes(
    small_model: Model, tmp_path: Path
) -> None:
    table, made = rows(tmp_path / "run", small_model, coefficients=(0.5, 2.0))
    for row in records(table[table["control"] < 0]):
        ids = full(small_model, row.prompt)
        body, at = ids[:-1], list(range(1 if small_model.bos is not None else 0, len(ids) - 1))
        clean = plain_logits(small_model, body, [])[at]
        value = row.coefficient * prompt_pair(small_model, PLUS, MINUS, 1).values[-1:]
        whole = plain_logits(small_model, body, [Edit(Site("resid_pre", 1), "add", value, tuple(at))])[at]
        direction = whole - clean
        direction = direction - direction.mean(-1, keepdim=True)
        unit = direction / direction.norm(dim=-1, keepdim=True)
        steered = plain_logits(small_model, body, slow_edits(small_model, row, made, "own"))[at]
        expected = ((steered - clean) * unit).sum(-1).mean()
        assert row.effect == pytest.approx(float(expected), rel=1e-3, abs=1e-4)
        assert row.steered_effect == pytest.approx(float(((whole - clean) * unit).sum(-1).mean()), rel=1e-3)


@pytest.mark.parametrize("metric", ["kl", "perplexity", "log_prob"])
def test_other_metrics_are_changes_from_the_clean_run(small_model: Model, metric: str, tmp_path: Path) -> None:
    made = {"kl": kl(), "perplexity": perplexity(), "log_prob": log_prob([4, 9], [2])}[metric]
    table, _ = rows(tmp_path / "run", small_model, metric=made)
    if metric == "kl":
        assert np.allclose(table["effect"], table["kl"], atol=1e-5)
    elif metric == "perplexity":
        change = np.log(table["perplexity"]) - np.log(table["clean_perplexity"])
        assert np.allclose(table["effect"], change, atol=1e-4)
    else:
        assert table["effect"].abs().max() > 0.01


def test_the_norm_is_that_of_all_that_the_nodes_write_relative_to_the_stream(
    small_model: Model, tmp_path: Path
) -> None:
    table, made = rows(tmp_path / "run", small_model, k=3, coefficients=(0.5, 2.0))
    work = made.work
    for row in records(table[table["control"] < 0]):
        body = full(small_model, row.prompt)[:-1]
        at = list(work.injected(work.layout(body)))
        total = torch.zeros(32, dtype=torch.float64)
        for name in row.nodes:
            i = [u.name for u in work.additions.units].index(name)
            stream = record(small_model, [body], Site("resid_pre", work.additions.units[i].layer))[0][at]
            size = stream.double().square().sum(-1).mean().sqrt()
            total += row.coefficient * work.additions.image(i, work.additions.parts[0][i].values)[0] / size
        assert row.norm == pytest.approx(float(total.norm()), rel=1e-4)


def test_controls_disturb_by_other_vectors_of_the_same_nodes(small_model: Model, tmp_path: Path) -> None:
    table, _ = rows(tmp_path / "run", small_model)
    controls = table[table["control"] >= 0]
    assert len(controls) == 12
    for row in records(controls):
        twin = next(records(table[table["trial"] == row.trial - 1]))
        assert list(twin.nodes) == list(row.nodes)
        assert abs(twin.kl - row.kl) > 1e-6


def test_a_random_vector_is_read_along_its_own_change(small_model: Model, tmp_path: Path) -> None:
    table, made = rows(tmp_path / "run", small_model, coefficients=(0.5, 2.0))
    place = bench(made.work, small_model)
    for row in records(table[table["control"] >= 0].head(6)):
        ids = full(small_model, row.prompt)
        body, at = ids[:-1], list(range(1 if small_model.bos is not None else 0, len(ids) - 1))
        trial = made.work.design.trial(row.trial, made.work.additions.units)
        clean, edited, whole = (
            plain_logits(small_model, body, list(edits))[at]
            for edits in (
                (),
                place.edits(trial, tuple(body)),
                place._whole(0, row.coefficient, tuple(body), row.control),
            )
        )
        direction = (whole - clean) - (whole - clean).mean(-1, keepdim=True)
        unit = direction / direction.norm(dim=-1, keepdim=True)
        expected = [float(((x - clean) * unit).sum(-1).mean()) for x in (edited, whole)]
        assert [row.effect, row.steered_effect] == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert [row.own, row.steered_own] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_beside_any_metric_the_effect_along_the_own_change_is_measured(small_model: Model, tmp_path: Path) -> None:
    own, _ = rows(tmp_path / "own", small_model)
    words, _ = rows(tmp_path / "words", small_model, metric=log_prob([31], [7]))
    np.testing.assert_allclose(words["own"], own["effect"], rtol=1e-3, atol=1e-4)
    assert np.abs(words["effect"] - own["effect"]).max() > 0.1 and (own["steered_own"] > 0).all()


def test_nodes_of_the_last_layer_are_left_out_where_they_cannot_reach_a_scored_position(
    small_model: Model, tmp_path: Path
) -> None:
    _, made = rows(tmp_path / "run", small_model, positions="front")
    assert {u.layer for u in made.work.additions.units} == {0, 1}
    assert made.about["left_out"] == ["L2H0", "L2H1", "L2H2", "L2H3", "L2M"]


def test_mixed_vectors_inject_what_each_node_drew(small_model: Model, tmp_path: Path) -> None:
    vectors = [prompt_pair(small_model, a, MINUS, 1) for a in (PLUS, [8, 1, 1])]
    made = plan(small_model, vectors, PROMPTS, trials=12, k=2, visit=4, mixed=True, controls=0)
    store = Store(tmp_path / "run")
    begin(made, store)
    run(made, store)
    table = pd.concat([t.to_pandas() for t in store.read()])
    assert table["vector"].isna().all() and {len(set(d)) for d in table["drawn"]} == {1, 2}
    for row in records(table):
        ids = full(small_model, row.prompt)
        body, names = ids[:-1], [u.name for u in made.work.additions.units]
        at = made.work.injected(made.work.layout(ids[:-1]))
        edits = [
            Edit(parse_node(name).site, "add", made.work.additions.parts[v][names.index(name)].values, at)
            for name, v in zip(row.nodes, row.drawn, strict=True)
        ]
        clean = plain_logits(small_model, body, [])
        found = numbers(plain_logits(small_model, body, edits), clean, ids, list(at))
        assert row.kl == pytest.approx(found["kl"], rel=1e-3, abs=1e-5)


def test_the_run_finds_an_engine_that_is_wrong(
    small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerscope.analysis.errors import BrokenInvariant
    from steerscope.analysis.sweeps import bench

    monkeypatch.setattr(bench, "plain_logits", lambda *a: 1.2 * plain_logits(*a))
    with pytest.raises(BrokenInvariant, match="engine and plain passes"):
        rows(tmp_path / "run", small_model)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_vocabulary_in_pieces_gives_what_whole_logits_give(
    small_model: Model, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where logits are so large that their exponentials would overflow."""
    from steerscope.analysis.engine.run import Readout
    from steerscope.analysis.question.metrics import own_direction
    from steerscope.analysis.question.prompts import Prompts
    from steerscope.analysis.question.scored import Scored
    from steerscope.analysis.sweeps import numbers

    monkeypatch.setattr(numbers, "PIECE", {"cpu": piece})
    prompts = Prompts(((7, 3, 30, 12, 9),), ("",))
    scored = Scored(small_model, prompts, ((0, 1, 2, 3),))
    generator = torch.Generator().manual_seed(piece)
    hidden = [scale * torch.randn(4, 32, generator=generator) for scale in (1.0, 1.0, 60.0)]
    with torch.no_grad():
        clean, near, far = (Outputs(h, small_model.bridge.unembed(h[None])[0]) for h in hidden)
        counted = numbers.Numbers(small_model, scored, own_direction(), clean, near)
        assert counted.weights is not None and float(far.logits.abs().max()) > 90
        for outputs in (clean, near, far):
            readout = scored.readout(outputs)
            pieces = counted._in_pieces(Readout(readout.variants, readout.row, readout.position, None, outputs.hidden))
            torch.testing.assert_close(pieces, counted.of_logits(readout), rtol=2e-5, atol=2e-5)


def test_prompts_with_bos_and_without_are_injected_from_their_own_first_word(tiny: Model, tmp_path: Path) -> None:
    bos = tiny.bos_token
    assert bos is not None
    prompts = [[bos, 7, 3, 30, 12, 9], [9, 9, 31, 4, 17, 6], [40, 2, 2, 13, 25, 11]]
    vector = prompt_pair(tiny, " wedding", " ", 1).row(-1)
    made = plan(tiny, vector, prompts, trials=12, k=2, visit=2, controls=0, scored="all")
    runner = bench(made.work, tiny)
    for trial in made.work.design.draw(range(12), made.work.additions.units):
        ids = made.prompts.ids[trial.prompt]
        first = int(ids[0] == bos)
        edits = runner.edits(trial, ids[:-1])
        assert {edit.positions for edit in edits} == {tuple(range(first, len(ids) - 1))}
        assert made.work.positions(made.work.layout(ids[:-1])) == tuple(range(first, len(ids) - 1))
