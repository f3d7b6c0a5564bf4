"""What each mode gives a node: its own difference, the vector pushed through it, or the vector itself."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadNode, BadVector
from steerscope.analysis.files import write
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site
from steerscope.analysis.model.positions import Positions
from steerscope.analysis.sweeps.additions import Additions, additions
from steerscope.analysis.sweeps.chosen import units
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.vector import SteeringVector

FRONT = Positions("front")
PLUS, MINUS = [5, 9, 30], [7, 11, 2]


def made(model: Model, mode: str, layer: int = 1, place: Positions = FRONT) -> Additions:
    vector = prompt_pair(model, PLUS, MINUS, layer)
    return additions(model, mode, [vector], units(model, mode == "shared"), place)


def test_own_parts_and_the_embedding_add_up_to_the_vector(every_architecture: Model) -> None:
    model = every_architecture
    if model.post_norm:
        pytest.skip("a norm stands between its nodes and the stream")
    found = made(model, "own")
    embedded = prompt_pair(model, PLUS, MINUS, 0).values.double()
    parts = [found.image(i, found.parts[0][i].values) for i, u in enumerate(found.units) if u.layer < 1]
    whole = found.whole[0][0].values.double()
    assert whole.norm() > 0.1
    torch.testing.assert_close(embedded + sum(parts), whole, rtol=1e-4, atol=1e-4)


def test_own_parts_are_what_recording_each_site_gives(small_model: Model) -> None:
    found = made(small_model, "own")
    for unit, part in zip(found.units, found.parts[0], strict=True):
        start = [] if small_model.bos is None else [small_model.bos]
        plus, minus = record(small_model, [start + PLUS, start + MINUS], unit.site)
        torch.testing.assert_close(part.values, plus - minus)


def test_a_vector_pushed_through_a_head_is_the_nearest_that_the_head_can_write(every_architecture: Model) -> None:
    found = made(every_architecture, "through")
    vector = found.whole[0][0].values.double()
    for i, unit in enumerate(found.units):
        image = found.image(i, found.parts[0][i].values)
        if unit.kind == "mlp":
            assert torch.equal(image, vector)
            continue
        writer = found.writers[i]
        assert writer is not None
        rest = vector - image
        assert (rest @ writer.double().T).abs().max() < 1e-4  # nothing left that the head could write
        assert 0.05 < image.norm() / vector.norm() < 0.999


def test_a_head_writes_what_its_image_says(every_architecture: Model) -> None:
    model = every_architecture
    if model.post_norm:
        pytest.skip("a norm stands between its nodes and the stream")
    from steerscope.analysis.engine.edits import Edit, Variant
    from steerscope.analysis.engine.run import run

    found = made(model, "through", place=Positions("last"))
    i = next(i for i, u in enumerate(found.units) if u.name == "L1H2")
    edit = Edit(found.units[i].site, "add", found.parts[0][i].values, (3,))
    site = ("attn_out", 1)
    variants = [Variant(0), Variant(0, (edit,))]
    _, readout = next(run(model, [[3, 4, 5, 6]], variants, reads="none", sites=[site]))
    change = readout.activations[site][1, 3] - readout.activations[site][0, 3]
    expected = found.image(i, found.parts[0][i].values)[0].float()
    torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-4)


def test_in_mode_shared_the_heads_of_a_layer_are_one_unit_that_gets_the_vector(small_model: Model) -> None:
    found = made(small_model, "shared")
    assert [u.name for u in found.units[:4]] == ["L0A", "L0M", "L1A", "L1M"]
    assert found.units[2].site == Site("attn_out", 1)
    assert all(torch.equal(p.values, found.whole[0][0].values) for p in found.parts[0])


@pytest.mark.parametrize("mode", ["own", "through", "shared"])
def test_a_control_is_one_random_vector_of_which_every_node_writes_as_much_as_of_the_real_one(
    small_model: Model, mode: str
) -> None:
    found = made(small_model, mode)
    parts, (whole,) = found.control(0, seed=3)
    torch.testing.assert_close(whole.values.norm(dim=-1), found.whole[0][0].values.norm(dim=-1))
    assert whole.site == found.whole[0][0].site
    for i, (real, control) in enumerate(zip(found.parts[0], parts, strict=True)):
        a, b = found.image(i, real.values), found.image(i, control.values)
        torch.testing.assert_close(a.norm(dim=-1), b.norm(dim=-1), rtol=1e-4, atol=1e-6)
        assert control.site == real.site
        # In the direction of the random vector, as far as the node can write it.
        nearest = found.image(i, found.through(i, whole.values))
        assert (torch.cosine_similarity(b, nearest, dim=-1)[a.norm(dim=-1) > 0] > 0.999).all()
    again, other = found.control(0, seed=3)[0], found.control(0, seed=4)[0]
    assert all(torch.equal(a.values, b.values) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(parts[0].values, other[0].values)


def test_a_random_vector_as_the_real_one_is_of_the_controls_kind(small_model: Model) -> None:
    """Pushed through each head, a random vector gives the parts of a control, up to what each head writes of it."""
    real = random_like(prompt_pair(small_model, PLUS, MINUS, 1), 5)
    found = additions(small_model, "through", [real], units(small_model, False), FRONT)
    parts, _ = found.control(0, seed=5)
    for i, (one, other) in enumerate(zip(found.parts[0], parts, strict=True)):
        norms = [float(found.image(i, v.values).norm()) for v in (one, other)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_in_mode_given_every_node_of_a_control_draws_its_own(small_model: Model) -> None:
    wanted: dict[str | Node, SteeringVector | torch.Tensor] = {"L1H2": torch.ones(8), "L1H3": torch.ones(8)}
    chosen = [u for u in units(small_model, False) if u.name in wanted]
    found = additions(small_model, "given", [wanted], chosen, Positions("all"))
    parts, whole = found.control(0, seed=1)
    assert whole == parts and not torch.equal(parts[0].values, parts[1].values)


def test_positions_that_repeat_one_row_take_the_last_token(small_model: Model) -> None:
    for mode in ("own", "through", "shared"):
        one, all_ = made(small_model, mode, place=Positions("all")), made(small_model, mode)
        assert one.rows == 1
        for a, b in zip(one.parts[0], all_.parts[0], strict=True):
            torch.testing.assert_close(a.values[0], b.values[-1])


def test_a_dictionary_gives_each_node_what_it_says(small_model: Model) -> None:
    wanted: dict[str | Node, SteeringVector | torch.Tensor] = {"L1H2": torch.ones(8), "L0M": 2 * torch.ones(32)}
    chosen = [u for u in units(small_model, False) if u.name in wanted]
    found = additions(small_model, "given", [wanted], chosen, Positions("all"))
    assert [(u.name, float(p.values[0, 0])) for u, p in zip(chosen, found.parts[0], strict=True)] == [
        ("L0M", 2.0),
        ("L1H2", 1.0),
    ]
    assert [str(v.site) for v in found.whole[0]] == ["L0.mlp_out", "L1H2.z"]


def test_additions_are_the_same_after_saving(small_model: Model, tmp_path: Path) -> None:
    found = made(small_model, "through")
    write(tmp_path / "a.safetensors", found.packed())
    again = Additions.load(tmp_path / "a.safetensors")
    assert again.units == found.units and again.hash == found.hash
    assert again.describe() == found.describe()
    torch.testing.assert_close(again.control(0, 1)[0][3].values, found.control(0, 1)[0][3].values)


@pytest.mark.parametrize(
    ("mode", "vector", "words"),
    [
        ("own", SteeringVector(torch.ones(1, 32), Site("resid_pre", 1)), "needs the runs that"),
        ("shared", SteeringVector(torch.ones(1, 8), Site("z", 1, 0)), "one at resid_pre"),
        ("shared", {"L0M": torch.ones(32)}, "expected steering vectors"),
        ("given", SteeringVector(torch.ones(1, 32), Site("resid_pre", 1)), "expected dictionaries"),
        ("sideways", SteeringVector(torch.ones(1, 32), Site("resid_pre", 1)), "unknown mode"),
    ],
)
def test_a_vector_that_does_not_fit_its_mode_is_refused(small_model: Model, mode: str, vector: Any, words: str) -> None:
    with pytest.raises(BadVector, match=words):
        additions(small_model, mode, [vector], units(small_model, False), FRONT)


def test_nodes_are_chosen_by_kind_name_and_layer(small_model: Model) -> None:
    def names(wanted: str, shared: bool = False) -> list[str]:
        return [u.name for u in units(small_model, shared, wanted)]

    assert names("mlps") == ["L0M", "L1M", "L2M"]
    assert len(names("heads")) == 12 and len(names("all")) == 15
    assert names("L1H3, L0M") == ["L0M", "L1H3"]
    assert names("L1-L2", shared=True) == ["L1A", "L1M", "L2A", "L2M"]
    assert names("L2") == ["L2H0", "L2H1", "L2H2", "L2H3", "L2M"]
    with pytest.raises(BadNode, match="L7H0.*expected all, heads"):
        names("L7H0")
    with pytest.raises(BadNode, match="in mode shared"):
        names("L0H1", shared=True)
