"""What a pass computes once: never two positions with different histories, and no position twice that need not be."""

import random

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.engine.run import run
from steerscope.analysis.engine.sharing import Layer, share
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site

LENGTHS = [5, 7, 7]


def layers(seed: int) -> list[Layer]:
    """Random edits of random rows, rows that split at random."""
    rng = random.Random(seed)
    prompts = [0, 1, 2]
    found = []
    for number in range(4):
        parents = sorted(rng.choices(range(len(prompts)), k=len(prompts) + 3)) + list(range(len(prompts)))
        prompts = [prompts[row] for row in parents]
        edits = []
        for _ in range(4):
            row, name = rng.randrange(len(prompts)), rng.choice(["resid_pre", "z", "attn_out", "mlp_out"])
            at = tuple(rng.sample(range(LENGTHS[prompts[row]]), 2))
            site = Site(name, number, 0 if name == "z" else None)
            edits.append((row, Edit(site, "scale", 2.0, rng.choice([at, None]))))
        found.append(Layer(parents if number else list(prompts), prompts, edits, whole=False))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_what_stands_for_a_position_has_its_history(seed: int) -> None:
    """Positions are labelled with all that ever happened to what they can see; a label may only stand for itself."""
    drawn = layers(seed)
    rows = len(drawn[0].prompts)
    drawn[0] = Layer(None, drawn[0].prompts, drawn[0].edits, False)
    read = [set(range(LENGTHS[p])) for p in drawn[-1].prompts]
    packings = share(LENGTHS, drawn, read)
    label: list[list[object]] = [[(p, at) for at in range(7)] for p in drawn[0].prompts]
    assert len(label) == rows
    for number, layer in enumerate(drawn):
        if number:
            assert layer.parents is not None
            label = [list(label[row]) for row in layer.parents]

        def edit(*sites: str, layer: Layer = layer, label: list[list[object]] = label) -> None:
            for row, change in layer.edits:
                if change.site.name in sites:
                    for at in range(7) if change.positions is None else change.positions:
                        label[row][at] = (label[row][at], id(change))

        edit("resid_pre")
        for row in label:
            row[:] = [tuple(row[: at + 1]) for at in range(7)]
        for packing, sites in zip(packings[number], (("z",), ("attn_out",)), strict=True):
            edit(*sites)
            if packing is None:
                continue
            flat = [x for row in label for x in row]
            for number_of, prompt in enumerate(layer.prompts):
                for at in range(LENGTHS[prompt]):
                    place = number_of * 7 + at
                    assert flat[packing.take[packing.put[place]]] == flat[place]
            assert len(set(packing.take)) == len(packing.take)
        edit("mlp_out")


def test_packing_and_spreading_give_every_position_back() -> None:
    edits = [(row, Edit(Site("z", 0, 0), "scale", 2.0, (row,))) for row in range(6)]
    layer = Layer(None, [0] * 6, edits, whole=False)
    (heads, _), *_ = share([8], [layer, Layer(None, [0] * 6, [], False)], [set(range(8))] * 6)
    assert heads is not None and len(heads.take) == 6 + 8
    x = torch.arange(6 * 8.0).view(6, 8, 1)
    clean = x.clone()
    clean[:] = torch.arange(8.0).view(1, 8, 1)
    for row in range(6):
        clean[row, row] += 100 * (row + 1)
    assert heads.pack(clean).shape == (1, 14, 1)
    assert torch.equal(heads.spread(heads.pack(clean)), clean)


def test_unread_positions_of_the_last_layer_are_not_computed() -> None:
    layer = Layer(None, [0] * 4, [(r, Edit(Site("z", 0, 0), "scale", 2.0)) for r in range(4)], False)
    (heads, mlp), *_ = share([10], [layer], [{9}] * 4)
    assert heads is not None and mlp is not None and len(heads.take) == len(mlp.take) == 4
    kept = Layer(None, [0] * 4, layer.edits, whole=True)
    assert share([10], [kept], [{9}] * 4) == [(None, None)]


def flops(model: Model, variants: list[Variant], prompts: list[list[int]]) -> int:
    with FlopCounterMode(display=False) as counter:
        list(run(model, prompts, variants, [tuple(range(len(p))) for p in prompts], reads="hidden"))
    return int(counter.get_total_flops())


def test_an_edit_of_the_last_position_costs_little_and_changes_nothing_else(every_architecture: Model) -> None:
    model = every_architecture
    prompt = [[3, 9, 4, 7, 1, 8, 2, 6, 5, 3, 9, 4, 7, 1, 8, 2], [5, 6, 7, 8, 9, 1, 2, 3]]
    values = [torch.full((model.d_head,), float(i + 1)) for i in range(20)]

    def variants(positions: tuple[int, ...]) -> list[Variant]:
        site = Site("z", 0, 1)
        return [
            Variant(p, (Edit(site, "add", v, tuple(q % len(prompt[p]) for q in positions)),))
            for v in values
            for p in (0, 1)
        ]

    few, all_ = flops(model, variants((-1,)), prompt), flops(model, variants((0,)), prompt)
    assert few < (0.75 if model.has_mlp else 0.95) * all_
    for variant in variants((-1,))[:3]:
        positions = [tuple(range(len(p))) for p in prompt]
        [(chunk, readout)] = run(model, prompt, [variant, Variant(variant.prompt)], positions)
        assert readout.logits is not None
        found = readout.logits[readout.row == chunk.index(0)]
        expected = plain_logits(model, prompt[variant.prompt], variant.edits)
        assert np.allclose(found, expected, atol=2e-4)


def test_what_is_kept_of_attention_has_a_row_for_each_variant(every_architecture: Model) -> None:
    model = every_architecture
    if model.architecture == "GPTJForCausalLM":
        pytest.skip("shows its pattern only after its use")
    prompt = [3, 9, 4, 7, 1]
    edits = [Edit(Site("z", 1, 0), "set", torch.full((model.d_head,), float(i))) for i in range(3)]
    before = Edit(Site("resid_pre", 0), "add", torch.ones(model.d_model), (2,))
    variants = [Variant(0, (edit,)) for edit in edits] + [Variant(0, (before, edits[0]))]
    sites = [("v", 1), ("pattern", 1), ("z", 1)]
    together: dict[int, list[torch.Tensor]] = {}
    for chunk, readout in run(model, [prompt], variants, reads="none", sites=sites):
        together |= {index: [readout.activations[s][row] for s in sites] for row, index in enumerate(chunk)}
    for index, variant in enumerate(variants):
        [(_, alone)] = run(model, [prompt], [variant], reads="none", sites=sites)
        for found, site in zip(together[index], sites, strict=True):
            torch.testing.assert_close(found, alone.activations[site][0], rtol=1e-4, atol=1e-5)
