"""Toys with a known circuit: the exact decomposition gives the rows of exact path patching, and the mechanism."""

from functools import cache

import pytest
import torch
from torch import Tensor

import steerscope as st
from benchmarks.known_answers import FINAL, REST, shares, split
from steerscope.analysis.model.models import Model
from steerscope.circuits.toys.questions import questions
from steerscope.circuits.toys.recipes import SHIPPED, Recipe
from steerscope.circuits.toys.tasks import END, FIRST, SECOND, SUBJECT
from steerscope.circuits.toys.zoo import toy
from steerscope.tinystories.dissect import dissect

COUNT = 3
BY_POSITION = "toy-repeat-by-position"  # nothing that it does goes by what the token is
SOLVED = [name for name, known in SHIPPED.items() if known.solved and name != BY_POSITION]
TWO_LAYERS = [name for name in SOLVED if SHIPPED[name].recipe.layers == 2]


@cache
def loaded(name: str) -> tuple[Model, Recipe]:
    return st.load(name, selfcheck=False), toy(name).recipe


@cache
def rows(name: str) -> tuple[dict[str, float], dict[str, float]]:
    """By the decomposition, and by path patching (the mean of necessity and sufficiency)."""
    model, recipe = loaded(name)
    return split(model, recipe, COUNT), shares(model, recipe, COUNT)


@pytest.mark.parametrize("name", SOLVED)
def test_the_decomposition_gives_the_rows_of_path_patching(name: str) -> None:
    ours, exact = rows(name)
    assert sum(ours.values()) == pytest.approx(1)
    for path, share in exact.items():  # what is patched changes the final norm's scale, too: it is shared out
        assert ours[path] / (1 - ours[FINAL]) == pytest.approx(share, abs=TOLERANCE)
    assert abs(ours[REST]) < TOLERANCE
    if SHIPPED[name].recipe.norm is None:
        assert ours[FINAL] == 0


TOLERANCE = 0.1
NONE, ALL = (-0.1, 0.1), (0.9, 1.1)
MECHANISM: dict[str, dict[str, tuple[float, float]]] = {
    "toy-ioi-1x2": {"L0H0 -> logits": ALL, "L0H1 -> logits": NONE},
    "toy-ioi-1x2-2": {"L0H1 -> logits": ALL, "L0H0 -> logits": NONE},
    "toy-ioi-query-2": {"L0H0 -> L1H0.q": ALL, "L0H0 -> L1H0.k": NONE, "L0H0 -> L1H0.v": NONE, "L0H0 -> logits": NONE},
    "toy-ioi-mixed": {"L0H0 -> L1H0.v": (0.5, 0.75), "L0H0 -> L1H0.q": NONE, "L0H0 -> logits": NONE},
    "toy-ioi-query": {"L0H0 -> L1H0.q": ALL, "L0H0 -> L1H0.k": NONE, "L0H0 -> L1H0.v": NONE, "L0H0 -> logits": NONE},
    "toy-ioi-value": {"L0H0 -> L1H0.v": ALL, "L0H0 -> L1H0.q": NONE, "L0H0 -> L1H0.k": NONE, "L0H0 -> logits": NONE},
    "toy-ioi-direct": {"L0H0 -> logits": ALL, "L0H0 -> L1H0.q": NONE, "L0H0 -> L1H0.k": NONE, "L0H0 -> L1H0.v": NONE},
    "toy-induction": {"L0H0 -> L1H0.k": ALL, "L0H0 -> L1H0.q": NONE, "L0H0 -> L1H0.v": NONE, "L0H0 -> logits": NONE},
    "toy-induction-ln": {"L0H0 -> L1H0.k": ALL, "L0H0 -> L1H0.q": NONE, "L0H0 -> logits": NONE},
}


@pytest.mark.parametrize("name", MECHANISM)
def test_a_toy_has_the_mechanism_that_its_card_names(name: str) -> None:
    ours, exact = rows(name)
    for path, (low, high) in MECHANISM[name].items():
        assert low < ours[path] / (1 - ours[FINAL]) < high and low < exact[path] < high


class ByHand:
    """A toy of two layers x one head, without norms, from its weights."""

    def __init__(self, model: Model) -> None:
        self.weights = {name.replace("_original_component.", ""): w for name, w in model.bridge.named_parameters()}
        self.d_head = model.d_head

    def embedded(self, ids: list[int]) -> Tensor:
        found: Tensor = self.weights["tok_embed.weight"][ids] + self.weights["pos.weight"][: len(ids)]
        return found

    def head(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What it writes; each input has a stream of its own, `[pos, d_model]`."""

        def linear(name: str, x: Tensor) -> Tensor:
            at = f"layers.{layer}.attn.{name}"
            found: Tensor = x @ self.weights[f"{at}.weight"].T + self.weights[f"{at}.bias"]
            return found

        scores = linear("q", q) @ linear("k", k).T / self.d_head**0.5
        scores += torch.triu(torch.full_like(scores, -torch.inf), 1)
        return linear("o", scores.softmax(-1) @ linear("v", v))

    def difference(self, stream: Tensor, right: int, wrong: int) -> float:
        logits = stream[END] @ self.weights["head.weight"].T
        return float(logits[right] - logits[wrong])


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TWO_LAYERS if SHIPPED[name].recipe.task == "ioi"])
def test_path_patching_is_what_putting_in_the_other_prompts_layer_0_gives(name: str) -> None:
    """By hand: what layer 0 writes in the prompt with S flipped, in one input of layer 1 or at the end alone."""
    model, recipe = loaded(name)
    exact, hand = shares(model, recipe, 1, measure=1), ByHand(model)
    asked = next(iter(questions(model, recipe, 1)))
    right, wrong = (int(asked.metric.options[side][0]) for side in ("targets", "against"))
    gained, whole = dict.fromkeys(["q", "k", "v", "logits"], 0.0), 0.0
    for ids in map(list, asked.prompts.full):
        flipped = [*ids[:SUBJECT], right, *ids[SUBJECT + 1 :]]
        x, y = hand.embedded(ids), hand.embedded(flipped)
        own, other = hand.head(0, x, x, x), hand.head(0, y, y, y)
        clean, changed, full = x + own, x + other, y + other
        last = hand.head(1, clean, clean, clean)
        base = hand.difference(clean + last, right, wrong)
        whole += hand.difference(full + hand.head(1, full, full, full), right, wrong) - base
        gained["logits"] += hand.difference(changed + last, right, wrong) - base
        for path in "qkv":
            inputs = [changed if name == path else clean for name in "qkv"]
            gained[path] += hand.difference(clean + hand.head(1, *inputs), right, wrong) - base
    for path, change in gained.items():
        address = "L0H0 -> logits" if path == "logits" else f"L0H0 -> L1H0.{path}"
        assert change / whole == pytest.approx(exact[address], abs=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("name", "first", "second"), [("toy-ioi-1x2", 0, 1), ("toy-ioi-1x2-2", 1, 0)])
def test_one_layer_adds_both_names_and_takes_the_repeated_one_away(name: str, first: int, second: int) -> None:
    """The additive head looks at both names and copies; the contrastive one looks at S and does the opposite."""
    model, recipe = loaded(name)
    asked = next(iter(questions(model, recipe, 1)))
    names = list(range(1, recipe.names + 1))
    block = model.bridge.blocks[0].attn
    embedding, unembedding = model.bridge.embed.weight[names], model.bridge.unembed.W_U[:, names]
    copying = []
    for head in range(2):
        whole = torch.linalg.eigvals(embedding @ block.W_V[head] @ block.W_O[head] @ unembedding)
        copying.append(float(whole.real.sum() / whole.abs().sum()))
    assert copying[first] < -0.9 and copying[second] > 0.9
    for seen in asked.activations(None, [("pattern", 0)]):
        contrastive, additive = seen["pattern", 0][[first, second], END]
        assert contrastive[SUBJECT] > 0.9
        assert additive[[FIRST, SECOND]].tolist() == pytest.approx([0.5, 0.5], abs=0.2)


def test_heads_look_where_the_cards_say() -> None:
    """First layer, second layer, at the last position and at S; IO is the name that is not repeated."""
    for name in ("toy-ioi-query", "toy-ioi-query-2", "toy-ioi-value", "toy-ioi-mixed"):
        asked = next(iter(questions(*loaded(name), 1)))
        for ids, seen in zip(
            asked.prompts.full, asked.activations(None, [("pattern", 0), ("pattern", 1)]), strict=True
        ):
            first, second = seen["pattern", 0][0], seen["pattern", 1][0]
            copy, other = (FIRST, SECOND) if ids[FIRST] == ids[SUBJECT] else (SECOND, FIRST)
            if "query" in name:
                assert first[END, SUBJECT] > 0.7 and second[END, copy] < 0.2
            if name == "toy-ioi-query-2":
                assert second[END, other] > 0.8
            if name == "toy-ioi-value":
                assert first[SUBJECT, other] > 0.9 and second[END, SUBJECT] > 0.9
            if name == "toy-ioi-mixed":
                assert second[END, SUBJECT] > 0.5, (first, second)


def test_what_repeats_by_position_does_not_care_for_the_token() -> None:
    effects = [
        sum(float(asked.effect().mean()) for asked in questions(*loaded(name), COUNT))
        for name in (BY_POSITION, "toy-induction")
    ]
    assert abs(effects[0]) < 0.1 * abs(effects[1])


def test_a_single_pair_of_heads_has_nothing_to_disagree_about() -> None:
    asked = next(iter(questions(*loaded("toy-ioi-query"), 1)))
    table = dissect(asked, at="last", audit=False).frames["composition"]
    assert len(table) == 3 and not table["disagree"].any()
    assert table["effect"].idxmax() == table.index[table["channel"] == "q"][0]
