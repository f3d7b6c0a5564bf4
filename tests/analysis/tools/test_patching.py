"""What patching runs, and what it leaves out since it is known."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.engine import wavefront
from steerscope.analysis.engine.edits import Edit, Variant, changed_at
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.tools.patching import MEASURES, effects, patched
from steerscope.analysis.vectors.prompt_pair import prompt_pair


def asked(tiny: Model, stories: list[str], positions: str) -> Experiment:
    vector = prompt_pair(tiny, " wedding", " ship", 0)
    vector = vector if positions == "front" else vector.row(-1)
    return Experiment(tiny, (Injection(vector, 3.0, 0, positions),), make_prompts(tiny, stories[:4]), references=2)


@pytest.mark.parametrize("positions", ["front", "last", "back"])
def test_what_stands_before_the_injection_need_not_be_set(tiny: Model, stories: list[str], positions: str) -> None:
    """The same effects as with nodes set at all positions, in less work where the injection comes late."""
    experiment = asked(tiny, stories, positions)
    found = effects(experiment)
    edits, prompts = experiment.edits(0), range(len(experiment.prompts))
    sources = [experiment.patches(v, found.nodes) for v in (None, 0)]
    whole = [
        patched(measure, p, edits, [source[node][p]])
        for measure, source in zip(MEASURES, sources, strict=True)
        for node in found.nodes
        for p in prompts
    ]
    lost, given = experiment.score(whole).reshape(2, len(found.nodes), -1)
    np.testing.assert_allclose(found.along[0], -experiment.change(lost, 0), atol=1e-4)
    np.testing.assert_allclose(found.along[1], experiment.change(given, None), atol=1e-4)
    behind = experiment.patches(0, found.nodes, everywhere=False)[Node(0)][0]
    length = len(experiment.prompts.full[0])
    assert behind.positions == {"front": (1, *range(2, length)), "last": (length - 1,)}.get(positions, behind.positions)
    if positions == "last":
        assert places(experiment, whole) > 2 * places(
            experiment,
            [
                patched("sufficiency", p, edits, [experiment.patches(0, [node], everywhere=False)[node][p]])
                for node in found.nodes
                for p in prompts
            ]
            * 2,
        )


def places(experiment: Experiment, variants: list[Variant]) -> int:
    """Positions that the last block's MLP sees."""
    seen: list[int] = []
    block = experiment.model.bridge.blocks[0]

    def count(module: object, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0].shape[0] * given[0].shape[1])

    handle = block.mlp.hook_out.register_forward_hook(lambda module, given, out: count(module, given))
    try:
        experiment.score(variants)
    finally:
        handle.remove()
    return sum(seen)


def same(some: Sequence[Edit], others: Sequence[Edit]) -> bool:
    """Whether edits are equal; each is made anew when it is asked for."""
    return len(some) == len(others) and all(
        a.site == b.site and torch.equal(torch.as_tensor(a.value), torch.as_tensor(b.value))
        for a, b in zip(some, others, strict=True)
    )


def test_an_edit_changes_nothing_where_it_adds_zero() -> None:
    site = Site("resid_pre", 0)
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert changed_at(Edit(site, "add", rows, (0, 1, 4))) == (1,)
    assert changed_at(Edit(site, "set", rows, (0, 1, 4))) == (0, 1, 4)
    assert changed_at(Edit(site, "add", rows[1], (0, 1))) == (0, 1)
    assert changed_at(Edit(site, "add", rows)) is None


def test_clean_and_injected_runs_are_made_about_once(
    tiny: Model, stories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Final states and activations come from one run. What reads other sites runs again."""
    experiment = asked(tiny, stories, "front")
    full, edits = [tuple(ids) for ids in experiment.prompts.full], experiment.edits(0)
    made: Counter[str] = Counter()
    build = wavefront.Pass.__init__

    def counting(self: Any, model: Model, prompts: Any, variants: Any, *rest: Any, **options: Any) -> None:
        for variant in variants:
            if tuple(prompts[variant.prompt]) in full:
                p = full.index(tuple(prompts[variant.prompt]))
                made["clean"] += not variant.edits
                made["injected"] += same(variant.edits, edits[p])
        build(self, model, prompts, variants, *rest, **options)

    monkeypatch.setattr(wavefront.Pass, "__init__", counting)
    effects(experiment)
    assert made == {"clean": len(full), "injected": len(full)}
    exact(experiment, completions=0, writers=False, attention=False, growing=False)
    assert made == {"clean": len(full), "injected": len(full)}
