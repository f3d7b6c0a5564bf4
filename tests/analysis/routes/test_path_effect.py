"""Path patching against plain passes in which everything between sender and receiver is held by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from architectures import AT_ONCE
from questions import PROMPTS, TARGET, experiment
from reference import plain_logits, plain_pass

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.errors import BadArgument, BadNode
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.verdicts import TOLD
from steerscope.analysis.routes.path_effect import COLUMNS, Receiver, _read, exact_paths, parse_receiver, path_effect
from steerscope.analysis.tools.patching import effects
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.reports.pages import path_effect as pages


def metric(asked: Experiment, p: int, edits: list[Edit]) -> float:
    logits = plain_logits(asked.model, PROMPTS[p], edits).double().log_softmax(-1)
    return float(logits[list(asked.scored_positions.positions[p]), TARGET].mean())


def held(model: Model, seen: Any, node: Node) -> Edit:
    x = seen[node.site.name, node.layer]
    return Edit(node.site, "set", x if node.head is None else x[:, node.head])


def slow(asked: Experiment, sender: Node | None, receiver: Receiver, p: int, necessity: bool) -> float:
    """One path, one prompt, in plain passes: every node but the sender is held at the base run."""
    model, ids = asked.model, PROMPTS[p]
    steering = list(asked.edits(0)[p])
    base_edits, other_edits = (steering, []) if necessity else ([], steering)
    base, other = plain_pass(model, ids, base_edits), plain_pass(model, ids, other_edits)
    reads = base_edits if sender is not None else other_edits
    node = receiver.node
    frozen = []
    for one in model.nodes:
        if one == sender:
            frozen.append(held(model, other, one))
        elif node is None or (one.layer, one.head is None) < (node.layer, node.head is None):
            frozen.append(held(model, base, one))
    own = metric(asked, p, base_edits)
    if node is None:
        value = metric(asked, p, [*reads, *frozen])
    else:
        seen = plain_pass(model, ids, [*reads, *frozen])
        if node.head is None:
            put = [Edit(node.site, "set", seen["mlp_out", node.layer])]
            value = metric(asked, p, [*base_edits, *put])
        else:
            put = []
            for name in receiver.inputs:
                head = node.head // (model.n_heads // model.heads(name))
                site = Site(name, node.layer, head)
                put.append(Edit(site, "set", seen[name, node.layer][:, head]))
            z = plain_pass(model, ids, [*base_edits, *put])["z", node.layer][:, node.head]
            value = metric(asked, p, [*base_edits, Edit(node.site, "set", z)])
    return own - value if necessity else value - own


def some_paths(model: Model) -> list[tuple[Node | None, Receiver]]:
    last, heads = model.n_layers - 1, model.n_heads
    found = [
        (None, Receiver(Node(0, 1), ("q",))),
        (None, Receiver(Node(last, 0), ("v",))),
        (None, Receiver(Node(last, heads - 1), ("q", "k", "v"))),
        (None, Receiver(None)),
        (Node(0, 0), Receiver(Node(last, heads - 1), ("q",))),
        (Node(0, 0), Receiver(Node(last, heads - 1), ("k",))),
        (Node(0, 1), Receiver(Node(last, 1), ("v",))),
        (Node(0, 1), Receiver(Node(1, 1), ("q", "k", "v"))),
        (Node(0, 2), Receiver(None)),
        (Node(last, 1), Receiver(None)),
    ]
    if model.has_mlp:
        found += [
            (None, Receiver(Node(0))),
            (Node(0), Receiver(Node(last, 2), ("k",))),
            (Node(0, 1), Receiver(Node(last))),
            (Node(0), Receiver(Node(last))),
            (Node(last), Receiver(None)),
        ]
        if not model.parallel:
            found.append((Node(last, 0), Receiver(Node(last))))
    return found


@pytest.mark.parametrize("every_architecture", AT_ONCE, indirect=True)
@torch.no_grad()
def test_paths_equal_plain_passes_with_everything_between_held(every_architecture: Model) -> None:
    asked = experiment(every_architecture)
    paths = some_paths(every_architecture)
    found = exact_paths(asked, paths)
    sizes = []
    for n, (sender, receiver) in enumerate(paths):
        for p in range(len(PROMPTS)):
            for measure in (0, 1):
                expected = slow(asked, sender, receiver, p, measure == 0)
                sizes.append(abs(expected))
                assert found[measure, n, p] == pytest.approx(expected, abs=2e-5), f"{sender} -> {receiver}"
    assert max(sizes) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
def test_an_injection_behind_attention_or_mlp_too(small_model: Model, site: str) -> None:
    asked = experiment(small_model, 1, site)
    paths = [(None, Receiver(Node(2, 1), ("q",))), (None, Receiver(None)), (Node(1), Receiver(Node(2, 0), ("v",)))]
    paths += [(None, Receiver(Node(1)))] if site == "attn_out" else []
    found = exact_paths(asked, paths)
    for n, (sender, receiver) in enumerate(paths):
        for measure in (0, 1):
            expected = slow(asked, sender, receiver, 0, measure == 0)
            assert found[measure, n, 0] == pytest.approx(expected, abs=2e-5)


def test_all_inputs_of_the_only_reader_are_its_whole_effect(small_models: Any) -> None:
    """From the injection at the last layer a head is reached directly alone: the path is the node."""
    model = small_models["native_attention_only"]
    asked = experiment(model, model.n_layers - 1)
    nodes = effects(asked)
    paths: list[tuple[Node | None, Receiver]] = [(None, Receiver(n, ("q", "k", "v"))) for n in nodes.nodes]
    assert exact_paths(asked, paths) == pytest.approx(nodes.along, abs=1e-5)


def test_the_result_has_intervals_and_references(small_model: Model) -> None:
    result = path_effect(experiment(small_model, references=3), ["injection", "L0H1"], ["L1H2.q", "L2M", "logits"])
    table = result.frames["paths"]
    assert list(table.columns) == list(COLUMNS["paths"])
    assert len(table) == 2 * 6 and set(table["receiver"]) == {"L1H2.q", "L2M", "logits"}
    assert (table["low"] <= table["effect"]).all()


def test_references_are_read_along_their_own_change(tiny: Model, stories: list[str]) -> None:
    asked = steered(tiny, stories[:6], references=4)
    table = path_effect(asked, ["L0H1"], ["L1M", "logits"]).frames["paths"]
    found = table[table["measure"] == "necessity"].set_index("receiver")["noise_share"]
    paths: Any = [(Node(0, 1), Receiver(Node(1))), (Node(0, 1), Receiver(None))]
    shares = []
    for vector in asked.vectors[1:]:
        own = _read(asked, paths, vector, [asked.own(vector)])[0, 0].mean(-1)
        shares.append(own / asked.own_effect(vector).mean())
    assert found[["L1M", "logits"]].tolist() == pytest.approx(np.mean(shares, axis=0).tolist(), rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_nothing_is_told_of_a_random_vector(tiny: Model, stories: list[str]) -> None:
    for seed in range(4):
        asked = steered(tiny, stories[:8], seed)
        result = path_effect(asked, ["injection", "L0M", "L0H1"], ["L1H2.k", "L1M", "logits"])
        assert not result.frames["paths"]["verdict"].isin(TOLD).any()
        saying = ("Nothing is specific to this vector: of no path can it be said", "Of no path can it be said")
        assert pages.headline(result)[0].startswith(saying)


def test_one_prompt_has_effects_and_a_reason_why_nothing_is_told(tiny: Model, stories: list[str]) -> None:
    result = path_effect(steered(tiny, stories[:1]), ["L0M"], ["L1M", "logits"])
    first, second = pages.headline(result)
    assert first.startswith("Of no path can it be said that it is this vector's own: one prompt")
    assert "L0M → logits" in second and "nan" not in second


def steered(model: Model, texts: list[str], seed: int | None = None, references: int = 12) -> Experiment:
    """A word, or a random vector in its place."""
    vector = prompt_pair(model, " wedding", " ship", 0)
    injection = Injection(vector if seed is None else random_like(vector, seed), 2.0)
    return Experiment(model, (injection,), make_prompts(model, texts, groups="each"), references=references)


@pytest.mark.parametrize("text", ["L1H5.q", "L1H5", "L0M", "logits"])
def test_receivers_print_as_they_parse(text: str) -> None:
    assert str(parse_receiver(text)) == text


@pytest.mark.parametrize(
    ("sender", "receiver", "sentence"),
    [
        ("L1H0", "L0H1.q", "L1H0 -> L0H1.q runs backwards"),
        ("L1H0", "L1H1", "L1H0 -> L1H1 runs backwards"),
        ("L1M", "L1H1", "runs backwards"),
        ("L1M", "L1M", "runs backwards"),
        ("L9H0", "logits", "L9H0.z is outside of"),
        ("injection", "L0H9", "L0H9.z is outside of"),
        ("L0M", "L1M.q", "an MLP has one input"),
        ("nothing", "logits", "'nothing' is no node"),
        ("L0M", "L1H1.z", "'L1H1.z' is no node"),
    ],
)
def test_paths_that_are_not_there_are_refused(small_model: Model, sender: str, receiver: str, sentence: str) -> None:
    with pytest.raises(BadNode, match=sentence):
        path_effect(experiment(small_model), sender, receiver)


def test_a_path_that_is_named_twice_is_asked_once_and_no_path_is_refused(small_model: Model) -> None:
    asked = experiment(small_model)
    found = path_effect(asked, ["injection", "L0M", " injection"], ["logits", "L1M", "logits"]).frames["paths"]
    assert len(found) == 2 * 4 and not found.duplicated(["sender", "receiver", "measure"]).any()
    for senders, receivers in (([], "logits"), (["injection"], []), ([], [])):
        with pytest.raises(BadArgument, match="expected one or more of each"):
            path_effect(asked, senders, receivers)


def test_paths_before_the_injection_are_refused(small_model: Model, small_models: Any) -> None:
    with pytest.raises(BadNode, match="L0H1 lies before the injection at layer 1"):
        path_effect(experiment(small_model, 1), "L0H1", "logits")
    with pytest.raises(BadNode, match="stands after what L1H0 reads"):
        path_effect(experiment(small_model, 1, "attn_out"), "injection", "L1H0")
    parallel = small_models["gptj"]
    with pytest.raises(BadNode, match="runs backwards"):
        path_effect(experiment(parallel), "L0H1", "L0M")
