"""How alike vectors are, against plain passes; and what is alike by construction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from reference import plain_pass

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.origin.compare_vectors import WAYS, compare_vectors
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.reports.report import html

TEXTS = ["One day Tom saw a red ball", "Lily went to the park", "Once upon a time"]


def test_similarity_is_the_correlation_of_what_plain_passes_change(tiny: Model, tmp_path: Path) -> None:
    vectors = [prompt_pair(tiny, word, " ship", layer).row(-1) for word, layer in ((" wedding", 1), (" ball", 0))]
    found = compare_vectors(tiny, vectors, TEXTS, coefficient=2.0)
    changes = []
    for vector in vectors:
        own = []
        for text in TEXTS:
            ids = torch.tensor([tiny.tokens(text)])
            hook = f"blocks.{vector.site.layer}.hook_resid_pre"

            def add(x: torch.Tensor, hook: object, value: torch.Tensor = 2 * vector.values[0]) -> torch.Tensor:
                x[:, -1] += value
                return x

            with torch.no_grad():
                change = tiny.bridge.run_with_hooks(ids, fwd_hooks=[(hook, add)])[0, -1] - tiny.bridge(ids)[0, -1]
            own.append((change - change.mean()).double())
        changes.append(torch.cat(own))
    table = found.frames["pairs"].set_index("by")
    row = table.loc["effects"]
    assert row["similarity"] == pytest.approx(float(torch.corrcoef(torch.stack(changes))[0, 1]), abs=1e-3)
    one, other = (v.values[0] for v in vectors)
    assert table.loc["direction", "similarity"] == pytest.approx(
        float(torch.cosine_similarity(one, other, dim=0)), abs=1e-5
    )
    assert row["low"] <= row["similarity"] <= row["high"]
    assert row["reference_low"] <= row["reference"] <= row["reference_high"] < 1
    again = Result.load(found.save(tmp_path / "r"))
    assert again.summary() == found.summary() and "wedding" in html(again)


def test_what_is_alike_by_construction_is_found_alike(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1).row(-1)
    bundle = VectorBundle({1: vector, 0: random_like(vector, 3)})
    compared = compare_vectors(tiny, [vector, bundle, -1e-3 * vector], TEXTS[:1], positions="all").frames
    pairs = compared["pairs"].set_index(["pair", "by"])["similarity"]
    assert [pairs["0 and 2", way] for way in WAYS] == pytest.approx([1, 1, 1], abs=1e-6)
    assert pairs["0 and 3", "direction"] == pytest.approx(-1) == pairs["0 and 3", "direction"]
    assert abs(pairs["0 and 1", "direction"]) < 0.7
    nothing = compared["pairs"][["low", "across", "ceiling"]], compared["vectors"][["effects_itself"]]
    assert all(one.isna().all(axis=None) for one in nothing)
    alone = compare_vectors(tiny, [vector, vector], TEXTS, references=0, carriers="none").frames["pairs"]
    assert alone["reference"].isna().all() and list(alone["by"]) == ["direction", "effects"]
    other = prompt_pair(tiny, " wedding", " ship", 1, site="z", head=1).row(-1)
    found = compare_vectors(tiny, [vector, other], TEXTS, carriers="none").frames["pairs"]
    direction = found[found["by"] == "direction"]
    assert direction["similarity"].isna().all() and not direction["beyond"].any()
    with pytest.raises(BadVector, match="1 vectors, each with 4 random ones; expected at least 2"):
        compare_vectors(tiny, [vector], TEXTS)


def one_by_one(asked: Experiment, node: Node, prompt: int) -> tuple[float, float]:
    """Necessity and sufficiency of a node along the vector's centred change of the last logits in the other prompts."""
    model, ends = asked.model, []
    for p, ids in enumerate(asked.prompts.full):
        runs = [plain_pass(model, ids), plain_pass(model, ids, asked.edits(0)[p])]
        ends.append([(run["logits"][-1] - run["logits"][-1].mean()).double() for run in runs])
        if p == prompt:
            kept = [run[node.site.name, node.layer] for run in runs]
    kept = kept if node.head is None else [x[:, node.head] for x in kept]
    direction = sum(steered - clean for p, (clean, steered) in enumerate(ends) if p != prompt)
    unit = direction / direction.norm()
    ids, edits = asked.prompts.full[prompt], asked.edits(0)[prompt]
    given = [Edit(node.site, "set", value, tuple(range(len(ids)))) for value in kept]
    lost = plain_pass(model, ids, (*edits, given[0]))["logits"][-1].double()
    brought = plain_pass(model, ids, (given[1],))["logits"][-1].double()
    clean, steered = (end @ unit for end in ends[prompt])
    return float(steered - (lost - lost.mean()) @ unit), float((brought - brought.mean()) @ unit - clean)


@torch.no_grad()
def test_carriers_are_the_correlation_of_what_single_passes_say_of_every_node(tiny: Model) -> None:
    """Exact profiles, against a plain pass for every node, measure and prompt; and halves of the prompts."""
    vectors = [prompt_pair(tiny, word, " ship", layer).row(-1) for word, layer in ((" wedding", 1), (" ball", 0))]
    found = compare_vectors(tiny, vectors, TEXTS, coefficient=2.0, carriers="exact", references=1)
    profiles = []
    for vector in vectors:
        injections, prompts = (Injection(vector, 2.0, positions="last"),), make_prompts(tiny, TEXTS)
        asked = Experiment(tiny, injections, prompts, references=0, scored="last")
        reached = [i for i, node in enumerate(tiny.nodes) if node in asked.reachable]
        profile = np.zeros((len(TEXTS), 2, len(tiny.nodes)))
        for prompt in range(len(TEXTS)):
            for place, node in zip(reached, asked.reachable, strict=True):
                profile[prompt, :, place] = one_by_one(asked, node, prompt)
        profiles.append(profile)
    table = found.frames["pairs"].set_index("by").loc["carriers"]
    flat = [p.ravel() for p in profiles]
    expected = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert table["similarity"] == pytest.approx(expected, abs=1e-4) and abs(expected) < 0.999
    halves = [[p[half].mean(axis=0).ravel() for half in ([0, 2], [1])] for p in profiles]
    unit = [[one / np.linalg.norm(one) for one in pair] for pair in halves]
    own = [pair[0] @ pair[1] for pair in unit]
    assert list(found.frames["vectors"]["carriers_itself"]) == pytest.approx(own, abs=1e-4)
    across = (unit[0][0] @ unit[1][1] + unit[1][0] @ unit[0][1]) / 2
    assert table["across"] == pytest.approx(across, abs=1e-4)
    assert np.isnan(table["ceiling"]) if min(own) < 0 else table["ceiling"] == pytest.approx(np.sqrt(own[0] * own[1]))
