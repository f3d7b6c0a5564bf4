"""`Form`: a model as equations: the weights of every layer in double precision, and how scores come from queries.

1. Norms are read off what their modules do; weights come from the bridge.
2. What the model adds to scores (masks, windows, ALiBi) is the logarithm of its pattern with queries of zeros.
3. Scores are `scale` times query . key, after norms of theirs and rotation. How pairs are rotated, and the scale, are
   those under which the model's own patterns come out; a model where none does is refused.
4. So is one whose MLP is not `W_out act(W_in n)`, gated or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.errors import UnsupportedModel
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.norms import Norm

from .activations import Activation, Pointwise, SoLU
from .double import Double

INSTEAD = "use localize, which patches any model that loads"
CLOSE = 1e-6  # of two computations of one thing in double precision, of models that keep tables in single


@dataclass(frozen=True, eq=False)
class Rotary:
    """Pairs of dimensions of a query or key, turned by an angle that grows with the position.

    Attributes:
        cos, sin: of each pair.
        adjacent: pairs are (0, 1), (2, 3)...; otherwise (0, half), (1, half + 1)...
    """

    cos: Float[Tensor, "pos pair"]
    sin: Float[Tensor, "pos pair"]
    adjacent: bool

    def __call__(
        self, x: Float[Tensor, "*rows d_head"], at: Tensor | slice, back: bool = False
    ) -> Float[Tensor, "*rows d_head"]:
        """`x` turned, or turned back (the transpose); `at` gives the position of each row, one axis for heads after it.

        Args:
            at: positions, an index into the tables that broadcasts to the rows with a head axis put behind.
        """
        cos, sin = self.cos[at].unsqueeze(-2), self.sin[at].unsqueeze(-2)
        sin = -sin if back else sin
        pairs = cos.shape[-1]
        turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
        a, b = (turned[..., ::2], turned[..., 1::2]) if self.adjacent else (turned[..., :pairs], turned[..., pairs:])
        parts = (a * cos - b * sin, b * cos + a * sin)
        joined = torch.stack(parts, dim=-1).flatten(-2) if self.adjacent else torch.cat(parts, dim=-1)
        return torch.cat([joined, rest], dim=-1)


@dataclass(frozen=True, eq=False)
class Attention:
    """Heads of a layer; keys and values that several share are repeated."""

    norm: Norm | None
    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    q_norm: Norm | None
    k_norm: Norm | None
    rotary: Rotary | None = None
    scale: float = 1.0

    def turned(self, x: Float[Tensor, "*rows pos head d_head"], norm: Norm | None) -> Tensor:
        """Queries or keys as they meet in scores."""
        x = x if norm is None else norm(x)
        return x if self.rotary is None else self.rotary(x, slice(0, x.shape[-3]))


@dataclass(frozen=True, eq=False)
class MLP:
    """`W_out act(W_in n + b_in)`, or with a gate `W_out (act(W_gate n + b_gate) * (W_in n + b_in))`."""

    norm: Norm | None
    W_in: Float[Tensor, "d_model neuron"]
    b_in: Float[Tensor, " neuron"]
    W_gate: Float[Tensor, "d_model neuron"] | None
    b_gate: Float[Tensor, " neuron"]
    W_out: Float[Tensor, "neuron d_model"]
    act: Activation


@dataclass(frozen=True, eq=False)
class Form:
    """A model of one or two layers.

    Attributes:
        W_U: in the order of the logits.
        cap: of the logits; None where there is none.
    """

    model: Model
    double: Double
    attention: tuple[Attention, ...]
    mlps: tuple[MLP, ...]
    final: Norm | None
    W_U: Float[Tensor, "d_model vocab"]
    cap: float | None


def form(model: Model) -> Form:
    """The equations of a model.

    Raises:
        UnsupportedModel: it has more than two layers, norms after its nodes, or parts of another form.
    """
    if model.n_layers > 2:
        raise UnsupportedModel(
            f"{model.name} has {model.n_layers} layers; dissect takes models of one or two, where paths can be listed; "
            f"{INSTEAD}"
        )
    if model.post_norm:
        raise UnsupportedModel(
            f"{model.name} ({model.architecture}) has norms between its nodes and the stream, whose parts do not add "
            f"up there; expected norms before nodes only; {INSTEAD}"
        )
    double = Double(model)
    found: Form = double.call(lambda bridge: _read(model, double, bridge))
    return found


def _read(model: Model, double: Double, bridge: Any) -> Form:
    attention, mlps = [], []
    try:
        for layer, block in enumerate(bridge.blocks):
            attention.append(_attention(model, block))
            if model.has_mlp:
                mlps.append(_mlp(model, bridge, block, layer))
        unembedding = bridge.unembed.W_U.detach()
    except (AttributeError, NotImplementedError, TypeError, RuntimeError) as error:
        raise UnsupportedModel(
            f"{model.name} ({model.architecture}) keeps its weights in a form that dissect does not know "
            f"({str(error)[:120]}); expected queries, keys, values and MLPs of their own; {INSTEAD}"
        ) from error
    cap = float(getattr(model.bridge.cfg, "output_logits_soft_cap", -1.0) or -1.0)
    final = _norm(model, getattr(bridge, "ln_final", None), model.d_model)
    return Form(
        model, double, tuple(attention), tuple(mlps), final, unembedding, cap if model.softcap and cap > 0 else None
    )


def _attention(model: Model, block: Any) -> Attention:
    attn, shared = block.attn, model.n_heads // model.n_kv_heads
    W_Q, W_K, W_V, W_O = (getattr(attn, name).detach().clone() for name in ("W_Q", "W_K", "W_V", "W_O"))
    W_K, W_V = (w if len(w) == model.n_heads else w.repeat_interleave(shared, dim=0) for w in (W_K, W_V))
    q_norm, k_norm = (_norm(model, getattr(attn, name, None), model.d_head) for name in ("q_norm", "k_norm"))
    return Attention(_norm(model, getattr(block, "ln1", None), model.d_model), W_Q, W_K, W_V, W_O, q_norm, k_norm)


def _mlp(model: Model, bridge: Any, block: Any, layer: int) -> MLP:
    mlp = block.mlp
    norm = getattr(block, "ln2", None) or (getattr(block, "ln1", None) if model.parallel else None)
    W_in, W_out, W_gate = mlp.W_in, mlp.W_out, getattr(mlp, "W_gate", None)
    if W_in.ndim != 2 or W_out.ndim != 2:
        raise UnsupportedModel(
            f"{model.name} has an MLP whose weights have {W_in.ndim} axes; expected W_in, W_out and perhaps a gate; "
            f"{INSTEAD}"
        )

    def bias(name: str) -> Tensor:
        given = getattr(mlp, name, None)
        found: Tensor = W_in.new_zeros(W_in.shape[1]) if given is None else given.detach().clone()
        return found

    made = MLP(
        _norm(model, norm, model.d_model),
        W_in.detach().clone(),
        bias("b_in"),
        None if W_gate is None else W_gate.detach().clone(),
        bias("b_gate"),
        W_out.detach().clone(),
        Pointwise(torch.relu),
    )
    return _with_act(model, mlp, made, layer)


def _with_act(model: Model, mlp: Any, made: MLP, layer: int) -> MLP:
    """The same with the activation function under which it does what the module does."""
    generator = torch.Generator().manual_seed(0)
    n = torch.randn(1, 4, model.d_model, generator=generator, dtype=torch.float64).to(made.W_in)
    given = mlp(n)
    given = given - mlp(torch.zeros_like(n))
    worst = float("inf")
    for act in _acts(model, mlp):
        own = replace(made, act=act)
        found = written(own, n) - written(own, torch.zeros_like(n))
        worst = float((found - given).abs().max() / given.abs().max().clamp_min(1e-30)) if given.any() else 0.0
        if worst <= CLOSE:
            return own
    raise UnsupportedModel(
        f"the MLP of layer {layer} of {model.name} ({model.architecture}) has a form that is not known (relative "
        f"error {worst:.2g}); expected W_out act(W_in n) or its gated form, with one activation for every neuron, or "
        f"SoLU; {INSTEAD}"
    )


def hidden(mlp: MLP, n: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows neuron"]:
    """What the neurons give, from a normalized stream."""
    if mlp.W_gate is None:
        return mlp.act(n @ mlp.W_in + mlp.b_in)
    return mlp.act(n @ mlp.W_gate + mlp.b_gate) * (n @ mlp.W_in + mlp.b_in)


def written(mlp: MLP, n: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """What the MLP writes, its last bias left out."""
    return hidden(mlp, n) @ mlp.W_out


def _acts(model: Model, mlp: Any) -> Iterator[Activation]:
    """Activation functions: those that the model's configuration names, then those that are common."""
    from transformers.activations import ACT2FN

    config = getattr(getattr(model.bridge, "original_model", None), "config", None)
    named = ("activation_function", "hidden_activation", "hidden_act", "act_fn")
    names = [getattr(source, name, None) for source in (config, model.bridge.cfg) for name in named]
    common = ["gelu_new", "gelu", "relu", "silu", "quick_gelu", "relu2", "tanh", "linear"]
    for name in dict.fromkeys([*names, *common]):
        if isinstance(name, str) and name in ACT2FN:
            yield Pointwise(ACT2FN[name])
    inner = getattr(getattr(mlp, "original_component", mlp), "ln", None)
    yield SoLU(None if inner is None else _norm(model, inner, mlp.W_in.shape[1]))


def _norm(model: Model, module: Any, width: int) -> Norm | None:
    """The equation of a norm module, read off what it does; None where it does nothing."""
    if module is None:
        return None
    probe = torch.linspace(1, 2, width, device=model.device, dtype=torch.float64)
    probe[::2] *= -1  # far from its own mean
    shape = (1, 1, 1, width) if width == model.d_head and width != model.d_model else (1, 1, width)

    def does(x: Tensor) -> Tensor:
        found: Tensor = module(x.expand(shape)).reshape(-1)
        return found.detach().clone()

    bias, whole = does(torch.zeros_like(probe)), does(probe)
    if torch.equal(whole, probe):
        return None
    centred = bool((does(probe + 1) - whole).abs().max() <= CLOSE * (whole - bias).abs().max())
    inner = getattr(module, "original_component", module)
    given = (getattr(inner, name, None) for name in ("eps", "variance_epsilon", "epsilon"))
    eps = next((float(e) for e in given if isinstance(e, float)), float(model.bridge.cfg.eps))
    plain = Norm(torch.ones_like(probe), torch.zeros_like(probe), centred, eps)
    return Norm((whole - bias) / plain(probe), bias, centred, eps)


def tables(model: Model, length: int) -> list[tuple[Tensor, Tensor, bool | None]]:
    """Cosines and sines that the model's modules hold, with how pairs lie where that is known."""
    found: list[tuple[Tensor, Tensor, bool | None]] = []
    for module in model.bridge.modules():
        inverse, table = getattr(module, "inv_freq", None), getattr(module, "embed_positions", None)
        if isinstance(inverse, Tensor) and inverse.ndim == 1:
            angles = torch.arange(length, dtype=torch.float64)[:, None].to(inverse.device) * inverse.double()
            factor = float(getattr(module, "attention_scaling", 1.0) or 1.0)
            found.append((angles.cos() * factor, angles.sin() * factor, None))
        elif isinstance(table, Tensor) and table.ndim == 2 and len(table) >= length:
            sin, cos = table[:length].double().chunk(2, dim=-1)
            found.append((cos, sin, True))
        elif isinstance(getattr(module, "cos_cached", None), Tensor):
            cos, sin = (getattr(module, name)[:length].double()[..., ::2] for name in ("cos_cached", "sin_cached"))
            found.append((cos, sin, True))
    return found
