"""`backward`: gradients of a score at every site of many edited passes, in memory that does not grow with depth.

1. Run a chunk of variants, a row each, through the hooks of a `Pass`; between blocks keep the stream alone
   (activation checkpointing).
2. Go back from the scores, last block first: compute the block's activations once more, then their gradients.
3. Hand each site's activation and gradient to `collect` as they appear, and forget them. What it gives back goes to
   `put`, chunk by chunk: `collect` runs where the chunk does, which may be another process (see `elsewhere`).

Variants of one group are rows of one chunk, so that `collect` can compare them: the clean run beside the
steered one, or the steps of a path between the two.

Source: Chen et al. 2016 (arXiv 1604.06174) for checkpointing.
What it cannot see: patterns (their gradient is that of `z` times `v`).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from steerscope.analysis.errors import BadMetric
from steerscope.analysis.model.models import Model

from .edits import Variant
from .elsewhere import answers
from .finite import check_finite, check_numbers, is_finite
from .readout import Readout, Reads
from .requests import check_request
from .run import chunked, embed
from .wavefront import Hook, Pass

GRADIENT = 3  # a block's activations, their gradients, and what autograd holds on the way
NO_GRADIENT = (
    "{name} has no gradient with respect to the model's activations; expected a metric computed from logits by "
    "differentiable operations; use exact patching instead"
)
KEPT = 2**28  # bytes of activations that may be kept instead of being computed again
Collect = Callable[[list[int], str, int, Tensor, Tensor], Any]
Rules = Callable[[Model], tuple[Sequence[tuple[str, Hook]], Callable[[], None]]]


def backward(
    model: Model,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[Sequence[Variant]],
    positions: Sequence[Sequence[int]],
    score: Callable[[Readout], Float[Tensor, " read"]],
    sites: Sequence[tuple[str, int]],
    collect: Collect,
    put: Callable[[Any], None] | None = None,
    *,
    reads: Reads = "logits",
    budget: int | None = None,
    rules: Rules | None = None,
    recompute: bool | None = None,
    name: str = "the score",
    what: str | None = None,
) -> Float[Tensor, " variant"]:
    """The mean score of every variant over its read positions, groups in order; gradients go to `collect`.

    Args:
        groups: variants that share a chunk.
        positions: by prompt, those that the score reads.
        sites: activations whose gradients are wanted, as (name, layer); no `pattern`.
        collect: called as collect(indices, site, layer, activation, gradient) with the numbers of the
            chunk's variants (counted over all groups) and two tensors `[rows, pos, ...]`, padded on the right.
        put: called with everything that `collect` has given but None, in order.
        budget: bytes that a chunk may take; worked out by default.
        rules: makes further hooks, which may change what flows back (or forward), and a function that is called behind
            a chunk, to see that they did.
        name: of the score, for errors.
        recompute: false keeps all activations of a chunk, a fourth faster; where they fit, by default.

    Raises:
        BadMetric: the score has no gradient.
        Overflow: an activation, a score or a gradient is not finite.
    """
    variants = [variant for group in groups for variant in group]
    check_request(model, prompts, variants, positions, sites)
    first = [0]
    for group in groups:
        first.append(first[-1] + len(group))
    heads = [Variant(group[0].prompt) for group in groups]
    copies = GRADIENT * max(map(len, groups), default=1)
    streams = [("resid_pre", layer) for layer in range(model.n_layers)]
    chunks = list(chunked(model, prompts, heads, positions, reads, streams, budget, copies))
    if recompute is None:
        recompute = recomputes(model, prompts, groups)
    numbers = [[i for g in chunk for i in range(first[g], first[g + 1])] for chunk in chunks]
    job = Backward(model, prompts, positions, reads, tuple(sites), score, collect, rules, recompute, name)
    values: dict[int, Tensor] = {}
    asked = [(indices, [variants[i] for i in indices]) for indices in numbers]
    for indices, (means, collected) in zip(numbers, answers(job, asked, what), strict=True):
        values.update(zip(indices, means, strict=True))
        if put is not None:
            with torch.no_grad():
                for one in collected:
                    put(one)
    found = torch.stack([values[i] for i in range(len(variants))])
    check_numbers(model, found, name)
    return found


@dataclass(frozen=True, eq=False)
class Backward:
    """What the chunks of a way back have in common: a job (see `elsewhere`)."""

    model: Model
    prompts: Sequence[Sequence[int]]
    positions: Sequence[Sequence[int]]
    reads: Reads
    sites: Sequence[tuple[str, int]]
    score: Callable[[Readout], Float[Tensor, " read"]]
    collect: Collect
    rules: Rules | None
    recompute: bool
    name: str

    @cached_property
    def _embedded(self) -> Tensor:
        with torch.no_grad():
            return embed(self.model, self.prompts)

    def __call__(self, chunk: tuple[list[int], Sequence[Variant]]) -> tuple[Float[Tensor, " row"], list[Any]]:
        """The mean score of each row, and what `collect` gave."""
        (indices, own), model = chunk, self.model
        collected: list[Any] = []
        probe = _Probe(frozenset(self.sites), self.recompute, _of(model, indices, self.collect, collected))
        row = Pass(model, self.prompts, own, self.positions, self.reads, (), probe)
        hooks, acted = ((), None) if self.rules is None else self.rules(model)
        with warnings.catch_warnings(), _frozen(model), _checkpointed(model, self.recompute), torch.enable_grad():
            # What a rule edits in a norm stays as it was, but for its way back.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            start = self._embedded.detach().requires_grad_()
            with model.bridge.hooks(fwd_hooks=[*row.hooks(start), *hooks]):
                readout = row.read(model.bridge(row.tokens, use_cache=False))  # a cache would grow again
                means = readout.mean(self.score(readout))
                if not means.requires_grad:
                    raise BadMetric(NO_GRADIENT.format(name=self.name))
                if is_finite(readout):
                    torch.autograd.backward(means.sum(), inputs=[start])
        check_finite(model, self.prompts, readout)
        if acted is not None:
            acted()
        return means.detach(), collected


def gradients(
    indices: list[int], site: str, layer: int, activation: Tensor, gradient: Tensor
) -> tuple[list[int], tuple[str, int], Tensor]:
    """What `backward` collects, where all of a site's gradients are wanted: which rows, the site, their gradients."""
    return indices, (site, layer), gradient.clone()


def recomputes(model: Model, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Variant]]) -> bool:
    """Whether the activations of a group are too many to keep."""
    tokens = max(len(group) * len(prompts[group[0].prompt]) for group in groups)
    longest = max(map(len, prompts))
    each = 24 * model.d_model + 4 * model.n_heads * longest
    return tokens * each * model.n_layers * model.dtype.itemsize > KEPT


@dataclass
class _Probe:
    """Pairs each activation, as it is computed again, with the gradient that comes back to it."""

    sites: frozenset[tuple[str, int]]
    recompute: bool
    found: Callable[[str, int, Tensor, Tensor], None]
    seen: set[tuple[str, int]] = field(default_factory=set)
    waiting: dict[tuple[str, int], dict[str, Tensor]] = field(default_factory=dict)

    def see(self, site: str, layer: int, x: Tensor) -> Tensor:
        x = x.clone()  # what a hook sees may lie outside of the graph; what it gives back does not
        first = (site, layer) not in self.seen
        if first:
            self.seen.add((site, layer))
            x.register_hook(  # type: ignore[no-untyped-call]
                lambda grad: self._pair(site, layer, "gradient", grad)
            )
        if not (first and self.recompute):
            self._pair(site, layer, "activation", x.detach())
        return x

    def _pair(self, site: str, layer: int, kind: str, x: Tensor) -> None:
        pair = self.waiting.setdefault((site, layer), {})
        pair[kind] = x
        if len(pair) == 2:
            del self.waiting[site, layer]
            self.found(site, layer, pair["activation"], pair["gradient"])


def _of(
    model: Model, indices: list[int], collect: Collect, into: list[Any]
) -> Callable[[str, int, Tensor, Tensor], None]:
    def found(site: str, layer: int, activation: Tensor, gradient: Tensor) -> None:
        check_numbers(model, gradient, f"the gradient at L{layer}.{site}")
        with torch.no_grad():
            one = collect(indices, site, layer, activation, gradient)
        if one is not None:
            into.append(one)

    return found


@contextmanager
def _frozen(model: Model) -> Iterator[None]:
    """No gradients of weights: they would keep what they need."""
    wanted = [p for p in model.bridge.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def _checkpointed(model: Model, recompute: bool) -> Iterator[None]:
    """Blocks keep their input alone, and are run again when their gradient is wanted."""
    blocks = list(model.bridge.blocks)

    def wrapped(block: Any) -> Callable[..., Any]:
        forward = block.forward

        def once(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            _forget(block)
            return out

        def again(*args: Any, **kwargs: Any) -> Any:
            return checkpoint(once, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return again

    if not recompute:
        yield
        return
    try:
        for block in blocks:
            vars(block)["forward"] = wrapped(block)  # a bridge hands other assignments on
        with set_checkpoint_early_stop(False):
            yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def _forget(block: Any) -> None:
    """Some attentions remember their last pattern, and with it the graph of the whole block."""
    for module in block.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                vars(module)[name] = None
