"""The layer study: its numbers are those of plain passes, and none of its sentences survives a random vector."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import steerscope as st
from steerscope.analysis.errors import BadArgument, BadMetric, BadNode
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.reports.page import render
from steerscope.reports.pages.layer_study import headline, page
from steerscope.tinystories.layer_roles import KINDS, Stories, by_kind, losses, mean_outputs, parts, stories
from steerscope.tinystories.layer_steering import KL, cells, sites, steered, uses_of
from steerscope.tinystories.layers import COLUMNS, layer_study
from steerscope.tinystories.twelve import twelve
from steerscope.tinystories.zoo import prompts


@dataclass(frozen=True)
class Drawn:
    """A random vector in the place of a real one, with the words that a real one has."""

    number: int
    name: str
    kind: str = "topic"
    raises: tuple[str, ...] = (" wedding", " bride", " ring", " dress")
    lowers: tuple[str, ...] = (" dragon", " knight", " castle", " captain")
    positions: str = "all"

    def vector(self, model: Model, layer: int = 0, site: str = "resid_pre", seed: int = 0) -> SteeringVector:
        generator = torch.Generator().manual_seed(1000 * seed + 10 * self.number + layer)
        about = {"recipe": "given", "label": self.name}
        return SteeringVector(torch.randn(1, model.d_model, generator=generator), Site(site, layer), about)


@pytest.fixture(scope="module")
def model() -> Model:
    found: Model = st.load("tinystories-2l", selfcheck=False)
    return found


@pytest.fixture(scope="module")
def found(model: Model) -> Result:
    chosen = [one for one in twelve() if one.name in ("wedding", "wedding stories")]
    return layer_study(model, vectors=chosen, at=["L0.resid_pre", "L1.mlp_out"])


def test_losses_without_a_part_are_those_of_plain_passes(model: Model) -> None:
    every = stories(model, 3)
    text = Stories(every.ids[:6], every.kinds[:6])
    found, means = losses(model, text), mean_outputs(model, text.ids)
    assert set(found) == {"", *parts(model)}
    for name, chosen in {"": [], **parts(model)}.items():
        ids = torch.tensor([text.ids[5]])

        def silence(x: Any, hook: Any) -> Any:
            layer, kind = int(hook.name.split(".")[1]), "mlp_out" if "mlp" in hook.name else "attn_out"
            x = x.clone()
            x[:, 1:] = means[Site(kind, layer)]
            return x

        hooks = [(f"blocks.{site.layer}.hook_{site.name}", silence) for site in chosen]
        logits = model.bridge.run_with_hooks(ids, fwd_hooks=hooks)[0, :-1].log_softmax(-1)
        plain = -logits.gather(1, ids[0, 1:, None])[:, 0]
        np.testing.assert_allclose(found[name][5], plain.detach().numpy(), atol=1e-4)


def test_every_token_is_of_one_kind_and_kinds_are_what_they_are_called(model: Model) -> None:
    text = stories(model, 0)
    names = list(KINDS)
    kinds, said = text.kinds[0], [model.token_text(token) for token in text.ids[0]]
    assert set(np.unique(text.kinds)) <= set(range(len(names) - 1))
    for place, kind in enumerate(kinds):
        if names[kind] == "said before":
            assert said[place + 1] in said[: place + 1]
        if names[kind] == "pronoun":
            assert said[place + 1].strip() in {"he", "she", "him", "his", "her"}
    values = np.arange(text.kinds.size, dtype=float).reshape(text.kinds.shape)
    own = np.concatenate([[row[mask].mean()] for row, mask in zip(values, text.kinds == 3, strict=True) if mask.any()])
    np.testing.assert_allclose(by_kind(values, text.kinds, "other"), own)


@pytest.mark.slow
def test_all_sites_disturb_alike_and_what_cannot_reach_is_told(model: Model, found: Result) -> None:
    targets = found.frames["targets"]
    np.testing.assert_allclose(targets["kl"], KL, rtol=1e-2)
    assert list(found.manifest["missing"]) == ["wedding at L1.mlp_out"]  # at the front, behind all that reads it
    assert len(targets) == 3 and found.columns == COLUMNS


@pytest.mark.slow
@torch.no_grad()
def test_effects_are_those_of_plain_passes(model: Model, found: Result) -> None:
    subject = next(one for one in twelve() if one.name == "wedding stories")
    row = found.frames["targets"].query("vector == 'wedding stories' and site == 'L1.mlp_out'").iloc[0]
    vector = subject.vector(model, 1, "mlp_out")
    texts = prompts("off_topic")[:16]
    effects = []
    for text in texts:
        ids = torch.tensor([model.tokens(text)])

        def add(x: Any, hook: Any) -> Any:
            return x + row["coefficient"] * vector.values[0]

        clean = model.bridge(ids)[0]
        changed = model.bridge.run_with_hooks(ids, fwd_hooks=[("blocks.1.hook_mlp_out", add)])[0]
        own, other = ([model.single_token(word) for word in words] for words in (subject.raises, subject.lowers))
        scores = [x[3:, own].logsumexp(-1) - x[3:, other].logsumexp(-1) for x in (clean, changed)]
        effects.append(float((scores[1] - scores[0]).mean()))
    assert row["effect"] == pytest.approx(np.mean(effects), abs=1e-3)


@pytest.mark.slow
def test_parts_of_an_effect_add_up_and_behind_all_nodes_it_is_direct(model: Model, found: Result) -> None:
    uses = found.frames["uses"]
    assert {"L0 moves", "L0 looks", "L0 MLP", "L1 moves", "L1 looks", "L1 MLP"} < set(uses["part"])
    for _, own in uses.groupby(["vector", "site"]):
        assert own["share"].sum() == pytest.approx(1, abs=1e-4)
    assert all(check["passed"] for check in found.manifest["checks"])
    [last] = cells(model, twelve()[3:4], sites(model)[-1:], 0, {})
    rows, gap = uses_of(last, 0.95)
    assert {row["part"] for row in rows} == {"direct", "final norm"} and gap < 1e-9


@pytest.mark.slow
def test_real_vectors_are_told_and_their_page_says_so(found: Result) -> None:
    targets = found.frames["targets"]
    told = targets.query("vector == 'wedding stories' and site == 'L0.resid_pre'").iloc[0]
    assert told["verdict"] in ("concept", "specific") and told["effect"] > told["random_high"]
    html = render(page(found))
    assert "raise their own words beyond random directions" in html
    assert all(len(sentence) > 20 for sentence in headline(found))


@pytest.mark.parametrize(
    ("count", "places"), [(5, ["resid_pre"]), pytest.param(32, ["resid_pre", "attn_out"], marks=pytest.mark.slow)]
)
def test_no_sentence_about_steering_survives_random_vectors(model: Model, count: int, places: list[str]) -> None:
    """Random vectors in the place of real ones, with a real one's words."""
    drawn = [Drawn(n, f"random {n}") for n in range(count)]
    tables, missing, _ = steered(model, drawn, [Site(name, 1) for name in places], 0, 0.95, 0.05, text=False)
    pairs = count * len(places)
    assert not missing and len(tables["targets"]) == pairs and tables["uses"].empty
    assert (tables["targets"]["verdict"] == "untested").all()
    frames = {name: pd.DataFrame(columns=list(columns)) for name, columns in COLUMNS.items()}
    result = Result("layer_study", frames | {"targets": tables["targets"]}, COLUMNS, {"disturbance": KL})
    said = " ".join(headline(result))
    assert f"none of {pairs} pairs of vector and site raises its own words" in said and "splits into" not in said
    assert "no effect is told from random directions" in render(page(result))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(model: Model) -> None:
    one = [twelve()[3]]
    first, second = (steered(model, one, [Site("resid_pre", 1)], 5, 0.95, 0.05, text=False)[0] for _ in range(2))
    assert all(first[name].equals(second[name]) for name in first)


def test_what_is_asked_wrongly_is_refused(model: Model, small_model: Model) -> None:
    with pytest.raises(BadArgument, match="among them a int; expected such as"):
        layer_study(model, vectors=[3])
    with pytest.raises(BadNode, match="outside of tinystories-2l"):
        layer_study(model, at=["L7.resid_pre"])
    with pytest.raises(BadMetric, match="is no model of English stories"):
        layer_study(small_model)


def test_sites_are_all_places_where_nodes_write_or_read(model: Model) -> None:
    assert [str(site) for site in sites(model)] == [
        f"L{layer}.{name}" for layer in (0, 1) for name in ("resid_pre", "attn_out", "mlp_out")
    ]
