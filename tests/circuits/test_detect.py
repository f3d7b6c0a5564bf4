"""The head census: a model built by hand whose heads' roles are known, random models that have none, plain passes."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from architectures import boot_native
from transformer_lens import TransformerBridgeConfig

import steerscope as st
from steerscope.analysis.errors import BadArgument, BadPrompt
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.results.result import Result
from steerscope.circuits.causal import causal
from steerscope.circuits.copying import copies
from steerscope.circuits.detect import head_census
from steerscope.circuits.repeats import repeats
from steerscope.circuits.roles import ROLES
from steerscope.reports.page import render
from steerscope.reports.pages.head_census import headline, page

TOKENS, CONTEXT = 40, 21
TOKEN, PLACE, BEFORE, ONE = 0, TOKENS, TOKENS + CONTEXT, 2 * TOKENS + CONTEXT  # where dimensions of the stream begin
SIZE, HEAD = 104, 48
TOPICS: dict[str, list[str | int]] = {"a": [1, 2, 3, 4], "b": [10, 11, 12, 13], "c": [20, 21, 22, 23]}


def built(strength: float = 40.0) -> Model:
    """Two layers of three heads: L0H0 looks at the token before and moves it into dimensions of its own; L1H0 looks for
    its own token there, and copies; L0H1 looks at its own token; L1H1 looks at the first position; L0H2 copies with a
    minus sign what it looks at, which is nothing in particular, and L1H2 moves each word of a topic to the others."""
    config = TransformerBridgeConfig(
        d_model=SIZE,
        d_head=HEAD,
        n_heads=3,
        n_layers=2,
        n_ctx=CONTEXT,
        d_vocab=TOKENS,
        act_fn="relu",
        attn_only=True,
        normalization_type=None,
        seed=0,
    )
    with torch.random.fork_rng():
        bridge = boot_native(config).eval()
    weights = dict(bridge.named_parameters())
    with torch.no_grad():
        for weight in weights.values():
            weight.zero_()
        weights["tok_embed._original_component.weight"][:, TOKEN:PLACE] = torch.eye(TOKENS)
        weights["tok_embed._original_component.weight"][:, ONE] = 1.0
        weights["pos._original_component.weight"][:, PLACE:BEFORE] = torch.eye(CONTEXT)
        weights["head._original_component.weight"][:, TOKEN:PLACE] = 4 * torch.eye(TOKENS)

        def head(layer: int, number: int, looks: list[tuple[int, int]], moves: dict[tuple[int, int], float]) -> None:
            q, k, v, o = (
                weights[
                    f"layers.{layer}._original_component.attn._original_component.{name}._original_component.weight"
                ]
                for name in "qkvo"
            )
            first = number * HEAD
            for channel, (query, key) in enumerate(looks):
                q[first + channel, query] = strength * HEAD**0.5
                k[first + channel, key] = 1.0
            for token in range(TOKENS):
                v[first + token, TOKEN + token] = 1.0
            for (source, to), gain in moves.items():
                o[to, first + source] = gain

        same = {(token, TOKEN + token): 1.0 for token in range(TOKENS)}
        head(0, 0, [(PLACE + p + 1, PLACE + p) for p in range(CONTEXT - 1)], {(t, BEFORE + t): 1.0 for t, _ in same})
        head(0, 1, [(TOKEN + t, TOKEN + t) for t in range(TOKENS)], {})
        head(0, 2, [], {key: -1.0 for key in same})
        head(1, 0, [(TOKEN + t, BEFORE + t) for t in range(TOKENS)], {key: 3.0 for key in same})
        head(1, 1, [(ONE, PLACE)], {})
        head(1, 2, [], {(int(a), TOKEN + int(b)): 1.0 for ws in TOPICS.values() for a in ws for b in ws if a != b})
    return load(bridge, name="built by hand")


@pytest.fixture(scope="module")
def model() -> Model:
    return built()


@pytest.fixture(scope="module")
def found(model: Model) -> Result:
    return head_census(model, sequences=32, topics=TOPICS, begin=0)


def claims(result: Result) -> dict[str, list[str]]:
    scores = result.frames["scores"]
    return {str(role): list(rows["node"][rows["holds"]]) for role, rows in scores.groupby("role", sort=False)}


def test_the_heads_of_a_model_that_was_built_by_hand_are_found_and_no_others(found: Result) -> None:
    assert claims(found) == {
        "previous token": ["L0H0"],
        "duplicate token": ["L0H1"],
        "induction": ["L1H0"],
        "induction, causal": ["L1H0"],
        "first position": ["L1H1"],
        "copying": ["L1H0"],
        "copy suppression": ["L0H2"],
        "topic copying": ["L1H2"],
    }
    assert list(found.frames["scores"]["role"].unique()) == list(ROLES)
    assert all(check["passed"] for check in found.manifest["checks"])
    # Nothing that was not asked for is said.
    assert found.manifest["length"] == 10 and found.manifest["missing"].keys() == {"natural text"}


def test_a_threshold_of_ones_own_and_a_head_under_it(model: Model) -> None:
    """Its own token and the copy share the attention of L0H1: half of it is at the copy."""
    strict = head_census(model, sequences=8, begin=0, causal=0, thresholds={"duplicate token": 0.6})
    row = strict.frames["scores"].query("node == 'L0H1' and role == 'duplicate token'").iloc[0]
    assert row["score"] == pytest.approx(0.5, abs=1e-3) and row["beyond"] and not row["holds"]
    assert "No head is a duplicate-token head" in " ".join(headline(strict))
    assert strict.manifest["missing"].keys() >= {"induction, causal", "topic copying"}


def test_a_head_that_looks_back_by_a_fixed_distance_is_no_induction_head(model: Model) -> None:
    """The trap of repeats of one length: L0H0 is made to look back as far as an induction head would."""
    bridge = model.bridge
    name = "layers.0._original_component.attn._original_component.q._original_component.weight"
    weight = dict(bridge.named_parameters())[name]
    kept = weight.detach().clone()
    with torch.no_grad():
        for p in range(9, CONTEXT - 1):
            weight[: CONTEXT - 1, PLACE + p + 1] = 0
            weight[p - 8, PLACE + p + 1] = 40.0 * HEAD**0.5
    try:
        scores = head_census(model, sequences=8, begin=0, causal=0).frames["scores"]
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    row = scores.query("node == 'L0H0' and role == 'induction'").iloc[0]
    assert row["score"] > 0.9 and row["of"] == "same distance, nothing repeated"
    assert row["control"] == pytest.approx(row["score"]) and not row["holds"] and not row["beyond"]


def test_scores_of_attention_are_those_of_plain_passes(every_architecture: Model) -> None:
    model = every_architecture
    result = head_census(model, sequences=3, length=9, causal=0, seed=2)
    texts = repeats(model, 3, 9, model.bos, None, 2)
    n, start = texts.length, texts.start
    scores = result.frames["scores"].set_index(["node", "role"])["score"]
    controls = result.frames["controls"].set_index(["node", "role", "control"])["value"]
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    plain: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for kind, sequences in ((True, texts.repeated), (False, texts.unrepeated)):
        for ids in sequences:
            seen: dict[str, Any] = {}

            def keep(x: Any, hook: Any, seen: dict[str, Any] = seen) -> None:
                seen[hook.name] = x[0].detach()

            model.bridge.run_with_hooks(torch.tensor([list(ids)]), fwd_hooks=[(name, keep) for name in hooks])
            plain[kind].append(seen)
    for layer, name in enumerate(hooks):
        for head in range(model.n_heads):
            node = f"L{layer}H{head}"

            def mean(kind: bool, places: list[tuple[int, int]], head: int = head, name: str = name) -> float:
                return float(np.mean([[float(own[name][head, q, k]) for q, k in places] for own in plain[kind]]))

            late, second = range(start + 3, start + 2 * n), range(start + n, start + 2 * n)
            assert scores[node, "previous token"] == pytest.approx(mean(False, [(q, q - 1) for q in late]), abs=1e-5)
            assert scores[node, "duplicate token"] == pytest.approx(mean(True, [(q, q - n) for q in second]), abs=1e-5)
            assert scores[node, "induction"] == pytest.approx(mean(True, [(q, q - n + 1) for q in second]), abs=1e-5)
            assert scores[node, "first position"] == pytest.approx(mean(False, [(q, 0) for q in late]), abs=1e-5)
            unrepeated = mean(False, [(q, q - n + 1) for q in second])
            assert controls[node, "induction", "same distance, nothing repeated"] == pytest.approx(unrepeated, abs=1e-5)
            assert controls[node, "previous token", "3 tokens before"] == pytest.approx(
                mean(False, [(q, q - 3) for q in late]), abs=1e-5
            )


def test_what_a_head_does_in_a_repetition_is_that_of_plain_passes(model: Model) -> None:
    texts = repeats(model, 3, 6, 0, None, 1)
    nodes = [Node(0, 0), Node(1, 0), Node(1, 2)]
    found = causal(model, texts, nodes, 1, None)
    second, n = list(texts.second), texts.length
    for row, node in enumerate(nodes):
        for number, (twice, once) in enumerate(zip(texts.repeated, texts.unrepeated, strict=True)):
            name = f"blocks.{node.layer}.attn.hook_z"
            seen: dict[str, Any] = {}

            def keep(x: Any, hook: Any, seen: dict[str, Any] = seen) -> None:
                seen["z"] = x.detach().clone()

            def patch(x: Any, hook: Any, seen: dict[str, Any] = seen, node: Node = node) -> Any:
                x = x.clone()
                x[0, second, node.head] = seen["z"][0, second, node.head]
                return x

            model.bridge.run_with_hooks(torch.tensor([list(once)]), fwd_hooks=[(name, keep)])
            tokens = torch.tensor([list(twice)])
            clean = model.bridge(tokens)[0].log_softmax(-1)
            edited = model.bridge.run_with_hooks(tokens, fwd_hooks=[(name, patch)])[0].log_softmax(-1)
            clean, edited = clean.detach(), edited.detach()
            drops = [float((clean - edited)[q, twice[q + 1]]) for q in second[:-1]]
            assert found.values[row, number] == pytest.approx(np.mean(drops), abs=1e-4)
            others = [
                float((clean - edited)[q, token]) for q in second[:-1] for token in twice[-n:] if token != twice[q + 1]
            ]
            [control] = found.controls.values()
            assert control[row, number] == pytest.approx(np.mean(others), abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "native_with_mlp"])
def test_what_a_head_copies_is_its_weights_product(small_models: Any, name: str) -> None:
    """Against W_V, W_O and the norms of plain modules, token by token."""
    model: Model = small_models[name]
    tokens, words = list(range(5, 45)), [50, 60, 70]
    found = copies(model, tokens, words, None, None)
    bridge, group = model.bridge, model.n_heads // model.n_kv_heads
    node = -1
    for layer, block in enumerate(bridge.blocks):
        for head in range(model.n_heads):
            node += 1
            for row, token in enumerate([*tokens[:3], *words[:1]]):
                stream = bridge(torch.tensor([[token]]), stop_at_layer=min(layer, 1))
                seen: dict[str, Any] = {}

                def keep(x: Any, hook: Any, seen: dict[str, Any] = seen) -> None:
                    seen["v"] = x.detach()

                def put(x: Any, hook: Any, stream: Any = stream) -> Any:
                    return stream

                bridge.run_with_hooks(
                    torch.tensor([[token]]),
                    fwd_hooks=[(f"blocks.{layer}.hook_in", put), (f"blocks.{layer}.attn.hook_v", keep)],
                )
                write = seen["v"][0, 0, head // group] @ block.attn.W_O[head]
                if model.post_norm:
                    bias = block.ln1_post(torch.zeros_like(write)[None, None])[0, 0]
                    write = block.ln1_post(write[None, None])[0, 0] - bias
                if model.norm != "none":
                    write = bridge.ln_final(write[None, None])[0, 0] - bridge.ln_final(torch.zeros(1, 1, model.d_model))
                logits = (write.reshape(-1) @ bridge.unembed.W_U).detach()
                order = logits.argsort(descending=True).tolist()
                if row < 3:
                    most = model.d_vocab // 20
                    assert [t in order[:most] for t in tokens] == [bool(x) for x in found.raised[node, row]]
                    assert [t in order[-most:] for t in tokens] == [bool(x) for x in found.lowered[node, row]]
                else:
                    scaled = (logits[words] - logits.mean()) / logits.std(correction=0)
                    np.testing.assert_allclose(found.topical[node, 0], scaled.numpy(), atol=1e-3)
                    assert list(found.top[node][0]) == order[:5]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "llama", "gemma2", "native_without_norm"])
def test_a_random_model_has_no_heads_with_roles_and_its_page_says_so(small_models: Any, name: str) -> None:
    result = head_census(small_models[name], sequences=100, topics=TOPICS, length=20)
    assert not result.frames["scores"]["holds"].any()
    repeats_at_all, *said = headline(result)
    assert repeats_at_all.startswith("Random tokens are ")
    assert len(said) == len(ROLES) and all(sentence.startswith("No head ") for sentence in said)
    assert "of none a role is claimed" in render(page(result))


def test_the_same_seed_gives_the_same_numbers_whatever_the_memory(model: Model) -> None:
    options: dict[str, Any] = {"sequences": 5, "begin": 0, "topics": TOPICS, "causal": 3}
    first, small = head_census(model, **options), head_census(model, budget=200_000, **options)
    for name in first.frames:
        pd.testing.assert_frame_equal(first.frames[name], small.frames[name], atol=1e-5)
    other = head_census(model, seed=1, **options)
    assert not first.frames["controls"]["value"].equals(other.frames["controls"]["value"])


def test_natural_text_is_scored_beside_random_tokens(model: Model) -> None:
    """In 5 6 5 7 5: L0H0 always looks at the token before, L0H1 at its own token and its copies."""
    result = head_census(model, sequences=4, begin=0, causal=0, text=st.Prompts(((5, 6, 5, 7, 5),), ("x",)))
    natural = result.frames["scores"].set_index(["node", "role"])["natural"]
    assert natural["L0H0", "previous token"] == pytest.approx(1, abs=1e-4)
    assert natural["L0H1", "duplicate token"] == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-4)
    assert natural["L1H1", "first position"] == pytest.approx(1, abs=1e-4)
    assert np.isnan(natural["L0H0", "copying"])


def test_what_cannot_be_drawn_is_refused(model: Model) -> None:
    with pytest.raises(BadArgument, match="5 tokens to draw from"):
        head_census(model, begin=0, tokens=[1, 2, 3, 4, 5])
    with pytest.raises(BadArgument, match="thresholds of 'dancing'; expected roles of previous token"):
        head_census(model, thresholds={"dancing": 0.5})
    with pytest.raises(BadPrompt, match="token id 99"):
        head_census(model, tokens=[*range(30), 99])


def test_both_names_are_the_same() -> None:
    assert st.detect_heads is st.head_census
