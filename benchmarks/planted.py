"""Planted models: small transformers with weights set by hand, in which known nodes carry a known vector.

The stream has dimensions of its own for each position (one-hot), a constant, the vector (v), an intermediate
signal (m), the target (t), its saturated form (u), a warning signal (a) and something loud that nothing reads (n);
tokens are random in the rest. A head *looks* by q . k = strength x stream[i] x stream[j] for chosen pairs (i, j),
strongly enough that its pattern is one-hot, and *moves* stream[i] to stream[j]. The injection adds 4 v at the
first position. The target token's logit reads t and u. Around the carriers stand idle heads with small random
weights. What each case must show, by definition, is its `truth`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import native as _native  # noqa: F401  (gives the bridge its boot_native)

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.vector import SteeringVector

LENGTH = 10  # positions, each with a dimension of its own
ONE, V, M, T, U, A, N = range(LENGTH, LENGTH + 7)
WIDTH = 48
TOKENS, TARGET, OTHER = 24, 1, 2
STRENGTH, SIZE = 30.0, 4.0  # of a look; of the injection
NORMS = ("LN", "RMS", None)
LOUD, BESIDE = 4.0, 1 / 3  # times as loud; queries times keys beside such tokens, without a norm over with one


@dataclass(frozen=True, eq=False)
class Planted:
    """A planted model with its question and its truth.

    Attributes:
        roles: what each planted node does, in words.
        truth: by measure (necessity, sufficiency), the carriers and the sign of what they do.
        note: what methods must miss here, and why.
    """

    experiment: Experiment
    roles: dict[Node, str]
    truth: dict[str, dict[Node, int]]
    note: str

    @property
    def model(self) -> Model:
        return self.experiment.model


@dataclass(frozen=True)
class Case:
    """A kind of carrier."""

    build: Callable[["Builder"], None]
    mlp: bool = False
    layers: int = 2  # at least
    note: str = ""


class Builder:
    """Sets weights by hand, and keeps what they are for."""

    def __init__(self, bridge: Any, layers: int, norm: str | None) -> None:
        self.weights = dict(bridge.named_parameters())
        self.layers, self.norm = layers, norm
        # Strengths of a look that always is, and of one that a signal turns on.
        self.near, self.far = (x * (1.0 if norm is None else BESIDE) for x in (8.0, 30.0))
        self.roles: dict[Node, str] = {}
        self.truth: dict[str, dict[Node, int]] = {"necessity": {}, "sufficiency": {}}
        self._used = [0] * layers

    def head(
        self, layer: int, role: str, looks: list[tuple[int, int, float]], moves: list[tuple[int, int, float]]
    ) -> Node:
        """A head that looks by (query, key, strength) and moves by (from, to, gain)."""
        number = self._used[layer]
        self._used[layer] += 1
        size = 12
        first = number * size
        q, k, v, o = (self.weight(layer, f"attn.{name}") for name in "qkvo")
        for part in (q, k, v):
            part[first : first + size] = 0
        o[:, first : first + size] = 0
        for channel, (query, key, strength) in enumerate(looks):
            q[first + channel, query] = strength * size**0.5  # scores are divided by it
            k[first + channel, key] = 1.0
        for channel, (source, to, gain) in enumerate(moves):
            v[first + channel, source] = 1.0
            o[to, first + channel] = gain
        node = Node(layer, number)
        self.roles[node] = role
        return node

    def mlp(self, layer: int, role: str, neurons: list[tuple[int, float, float, int, float]]) -> Node:
        """An MLP of ReLU neurons (from, gain, bias, to, gain)."""
        before, bias, after = (
            self.weight(layer, "mlp.fc_in"),
            self.weight(layer, "mlp.fc_in", "bias"),
            self.weight(layer, "mlp.fc_out"),
        )
        for neuron, (source, gain, shift, to, out) in enumerate(neurons):
            before[neuron, source], bias[neuron], after[to, neuron] = gain, shift, out
        self.roles[Node(layer)] = role
        return Node(layer)

    def loud(self) -> None:
        """Tokens as loud as in a trained stream, where what one head writes hardly moves a norm."""
        if self.norm is not None:
            self.weights["tok_embed._original_component.weight"][:, N + 1 :] *= LOUD

    def weight(self, layer: int, name: str, kind: str = "weight") -> Any:
        inside = "._original_component.".join(name.split("."))
        return self.weights[f"layers.{layer}._original_component.{inside}._original_component.{kind}"]

    def true(self, measures: str, node: Node, sign: int = 1) -> None:
        """The node carries by these measures (n, s)."""
        for name in self.truth:
            if name[0] in measures:
                self.truth[name][node] = sign


TO_FIRST = [(ONE, 0, STRENGTH)]
TO_SELF = [(p, p, STRENGTH) for p in range(LENGTH)]


def _direct(b: Builder) -> None:
    b.true("ns", b.head(b.layers - 1, "moves v to the target", TO_FIRST, [(V, T, 1.0)]))


def _relay(b: Builder) -> None:
    b.true("ns", b.head(b.layers - 2, "moves v to m", TO_FIRST, [(V, M, 1.0)]))
    b.true("ns", b.head(b.layers - 1, "turns m into the target", TO_SELF, [(M, T, 1.0)]))


def _relay_value(b: Builder) -> None:
    b.loud()
    b.true("ns", b.head(b.layers - 2, "moves v to m", TO_FIRST, [(V, M, 0.25)]))
    b.true("ns", b.head(b.layers - 1, "turns m into the target", TO_SELF, [(M, T, 1.0)]))


def _relay_query(b: Builder) -> None:
    b.loud()
    b.true("ns", b.head(b.layers - 2, "moves v to m", TO_FIRST, [(V, M, 0.25)]))
    looks = [(ONE, 1, b.near), (M, 0, b.far)]  # m among its queries turns it from the second position to the first
    b.true("ns", b.head(b.layers - 1, "looks where m sends it; moves what always stands there", looks, [(0, T, 1.0)]))


def _relay_key(b: Builder) -> None:
    b.loud()
    looks = [(2, 0, STRENGTH), *((p, p, STRENGTH) for p in range(LENGTH) if p != 2)]
    b.true("ns", b.head(b.layers - 2, "moves v to m at the third position", looks, [(V, M, 0.25)]))
    looks = [(ONE, 1, b.near), (ONE, M, b.far), (ONE, 0, -2 * b.far)]  # drawn to m, but not at the first position
    b.true("ns", b.head(b.layers - 1, "looks where m is; moves what always stands there", looks, [(2, T, 1.0)]))


def _redundant(b: Builder) -> None:
    for _ in range(2):
        b.true("s", b.head(b.layers - 2, "moves v to t; either is enough", TO_FIRST, [(V, T, 0.15)]))
    saturate = [(T, 4.0, -0.5, U, 8.0), (T, 4.0, -1.5, U, -8.0)]  # 8 from t = 0.375 on, 0 up to 0.125
    b.true("ns", b.mlp(b.layers - 1, "saturates t into u", saturate))
    b.weights["head._original_component.weight"][TARGET, T] = 0  # the target reads u alone


def _backup(b: Builder) -> None:
    b.true("s", b.head(b.layers - 2, "moves v to t and a", TO_FIRST, [(V, T, 1.0), (V, A, 1.0)]))
    looks = [(ONE, 0, STRENGTH), (A, 1, 4 * STRENGTH)]  # a turns it away, to the second position
    b.head(b.layers - 1, "moves v to t, unless it is told that somebody did", looks, [(V, T, 1.0)])


def _attention(b: Builder) -> None:
    looks = [(ONE, 1, STRENGTH / 4), (ONE, V, STRENGTH)]  # v draws it away from the second position
    b.true("ns", b.head(b.layers - 1, "looks where v is; moves what always stands there", looks, [(0, T, 2.0)]))


def _position(b: Builder) -> None:
    looks = [(3, 0, STRENGTH), *((p, p, STRENGTH) for p in range(LENGTH) if p != 3)]
    b.true("ns", b.head(b.layers - 1, "moves v to the target at the fourth position alone", looks, [(V, T, 2.0)]))


def _decoy(b: Builder) -> None:
    node = b.head(b.layers - 1, "moves v, loudly, to where nobody reads", TO_FIRST, [(V, N, 3.0)])
    _direct(b)
    if b.norm is not None:  # its loudness makes the final norm divide everything else by more
        b.true("n", node, -1)


def _suppressor(b: Builder) -> None:
    _direct(b)
    b.true("ns", b.head(b.layers - 1, "moves v against the target", TO_FIRST, [(V, T, -0.4)]), -1)


def _mlp(b: Builder) -> None:
    both = [(V, 1.0, 0.0, M, 1.0), (V, -1.0, 0.0, M, -1.0)]
    b.true("ns", b.mlp(b.layers - 2, "turns v into m, where it is injected", both))
    b.true("ns", b.head(b.layers - 1, "moves m to the target", TO_FIRST, [(M, T, 1.0)]))


CASES: dict[str, Case] = {
    "direct": Case(_direct),
    "relay": Case(_relay, note="as by values, and what is injected drowns the stream that a norm sees"),
    "relay_value": Case(_relay_value, note="by values: the second head moves what the first wrote"),
    "relay_query": Case(_relay_query, note="by queries: a pattern that is one-hot in both runs has no slope in either"),
    "relay_key": Case(_relay_key, note="by keys: a pattern that is one-hot in both runs has no slope in either"),
    "redundant": Case(_redundant, mlp=True, note="either head is enough: neither is necessary, both are sufficient"),
    "backup": Case(
        _backup,
        note=(
            "what the first head no longer does the second does: nothing is necessary, and the second shows only "
            "when the first is gone"
        ),
    ),
    "attention": Case(
        _attention, note="acts through queries and keys alone: frozen patterns end it, frozen values do not"
    ),
    "position": Case(_position, note="acts at one position: averages over positions make it small"),
    "decoy": Case(
        _decoy,
        note="a loud write that nobody reads; with a norm it still changes the final scale, so it is not quite nothing",
    ),
    "suppressor": Case(_suppressor, note="a carrier of the opposite sign"),
    "mlp": Case(_mlp, mlp=True),
}


def plant(
    case: str,
    *,
    layers: int = 2,
    idle: int = 4,
    norm: str | None = None,
    prompts: int = 16,
    references: int = 4,
    seed: int = 0,
) -> Planted:
    """A planted model, with its question and what the answer must be.

    Args:
        case: one of `CASES`.
        layers: 2 to 6. idle: heads with small random weights, in every layer, beside the planted ones.
        norm: LN, RMS or None.
        prompts: how many, of random tokens, 6 to 10 long.

    Raises:
        BadArgument: an unknown case or norm, or sizes out of range.
    """
    if case not in CASES or norm not in NORMS:
        raise BadArgument(
            f"case={case!r}, norm={norm!r}; expected one of {', '.join(CASES)}, and LN, RMS or None; choose one"
        )
    if not 2 <= layers <= 6 or idle < 0 or prompts < 1:
        raise BadArgument(
            f"layers={layers}, idle={idle}, prompts={prompts}; expected 2 to 6 layers, 0 or more idle heads, 1 "
            "or more prompts"
        )
    made = CASES[case]
    generator = torch.Generator().manual_seed(seed)
    bridge, builder = blank(layers, idle + 2, norm, made.mlp, seed, generator)
    with torch.no_grad():
        made.build(builder)
    model = load(bridge, name=f"planted {case}")
    vector = planted_vector(case)
    lengths = torch.randint(6, LENGTH + 1, (prompts,), generator=generator).tolist()
    ids = [torch.randint(3, TOKENS, (n,), generator=generator).tolist() for n in lengths]
    experiment = Experiment(
        model,
        (Injection(vector, 1.0, positions=(0,)),),
        make_prompts(model, ids),
        log_prob([TARGET], [OTHER]),
        references=references,
        seed=seed,
    )
    return Planted(experiment, builder.roles, builder.truth, made.note)


def planted_vector(case: str) -> SteeringVector:
    """What is injected at the first position: v, of its size."""
    values = torch.zeros(1, WIDTH)
    values[0, V] = SIZE
    return SteeringVector(values, Site("resid_pre", 0), {"recipe": "planted", "case": case})


def blank(
    layers: int, heads: int, norm: str | None, mlp: bool, seed: int, generator: torch.Generator
) -> tuple[Any, Builder]:
    """A bridge whose heads are all idle, and who sets its weights."""
    config = TransformerBridgeConfig(
        d_model=WIDTH,
        d_head=12,
        n_heads=heads,
        n_layers=layers,
        n_ctx=LENGTH,
        d_vocab=TOKENS,
        d_mlp=16,
        act_fn="relu",
        attn_only=not mlp,
        normalization_type=norm,
        seed=seed,
    )
    boot: Any = TransformerBridge
    with torch.random.fork_rng():
        bridge = boot.boot_native(config).eval()
    builder = Builder(bridge, layers, norm)
    with torch.no_grad():
        _idle(builder, generator)
    return bridge, builder


def _idle(b: Builder, generator: torch.Generator) -> None:
    """Small random weights everywhere, nothing in the MLPs; embeddings, positions and the unembedding."""
    for name, weight in b.weights.items():
        if name.endswith("bias"):
            weight.zero_()
        elif "ln" in name:
            weight.fill_(1.0)
        elif "attn" in name:
            weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
        elif "mlp" in name:
            weight.zero_()
    tokens = b.weights["tok_embed._original_component.weight"]
    tokens.zero_()
    rest = tokens[:, N + 1 :]
    rest.copy_(torch.randn(rest.shape, generator=generator) / rest.shape[1] ** 0.5)
    tokens[:, ONE] = 1.0
    positions = b.weights["pos._original_component.weight"]
    positions.zero_()
    positions[range(LENGTH), range(LENGTH)] = 1.0
    unembed = b.weights["head._original_component.weight"]
    unembed.copy_(0.3 * torch.randn(unembed.shape, generator=generator))
    unembed[:, : N + 1] = 0
    unembed[TARGET] = 0
    unembed[OTHER] = 0
    unembed[TARGET, [T, U]] = 1.0
