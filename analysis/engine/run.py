"""The wavefront: many edited forward passes of many prompts, in one growing batch.

`run` cuts the variants into chunks that fit the memory and the caches, and makes a `Pass` of each
(see `wavefront`), here or in another process (see `elsewhere`).

Nothing is approximated; what is shared would have been computed twice to the same numbers. The
model runs on one dummy row of tokens, so that its masks and rotary tables are built for a batch of
one and broadcast; the prompts' embeddings enter at the first block. Prompts of different lengths
are padded on the right, which in a causal model changes nothing to the left.

What it cannot see: positions after the prompt's end, encoder-decoders, layers that mix rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Bytes, gated
from steerscope.analysis.model.models import Model

from .edits import Variant
from .elsewhere import answers, sharers
from .finite import check_finite
from .readout import Readout, Reads
from .requests import check_request
from .wavefront import Pass, Precision

__all__ = ["Precision", "Readout", "Reads", "measure", "run"]

# On a CPU a batch beyond this many tokens no longer fits the caches and gets slower again.
CPU_TOKENS = 2048


@gated
def run(
    model: Model,
    prompts: Sequence[Sequence[int]],
    variants: Sequence[Variant],
    positions: Sequence[Sequence[int]] | None = None,
    *,
    reads: Reads = "logits",
    sites: Sequence[tuple[str, int]] = (),
    budget: Bytes | None = None,
    grad: bool = False,
    what: str | None = None,
    precision: Precision = "exact",
) -> Iterator[tuple[list[int], Readout]]:
    """Runs all variants and yields, chunk by chunk, their indices and what was read.

    Args:
        prompts: token ids, BOS included.
        variants: each names its prompt by index.
        positions: by prompt, the positions to read; the last one by default.
        reads: logits, the normalized final stream, or nothing of the two.
        sites: activations to keep, as (name, layer), for example `("z", 3)`; `resid_post` too.
        budget: bytes that a chunk may take; worked out from the free memory by default.
        grad: keep the graph, for gradients with respect to the edits' values.
        what: name for a progress bar; none by default.
        precision: "delta" computes what differs from the variants' bases in bfloat16 (see `delta`); in a model of
            float32, without gradients.

    Raises:
        BadPrompt, BadNode, BadArgument: see `check_request`.
        Overflow: something that is read is not finite.
    """
    given = prompts, variants, positions, reads, sites, budget, grad, what, precision
    for chunk, readout in _chunks(model, *given, _bare):
        yield chunk, replace(readout, variants=[variants[index] for index in chunk])


def measure(
    model: Model,
    prompts: Sequence[Sequence[int]],
    variants: Sequence[Variant],
    positions: Sequence[Sequence[int]] | None,
    score: Callable[[Readout], Tensor],
    *,
    reads: Reads = "logits",
    grad: bool = False,
    **options: Any,
) -> Tensor:
    """`score` of every variant, in order: `[variants, ...]` from a function readout -> `[rows, ...]`.

    Raises:
        BadArgument: no variants; and what `run` raises.
    """
    if not len(variants):
        raise BadArgument("no variants to run; expected at least one; give one for each prompt")
    given = {"sites": (), "budget": None, "what": None, "precision": "exact"} | options
    found = _chunks(model, prompts, variants, positions, reads, grad=grad, made=score, **given)
    order: list[int] = []
    parts: list[Tensor] = []
    for chunk, values in found:
        order += chunk
        parts.append(values)
    with torch.set_grad_enabled(grad):
        values = torch.cat(parts)
        return values[torch.argsort(torch.tensor(order, device=values.device))]


def _chunks(
    model: Model,
    prompts: Sequence[Sequence[int]],
    variants: Sequence[Variant],
    positions: Sequence[Sequence[int]] | None,
    reads: Reads,
    sites: Sequence[tuple[str, int]],
    budget: int | None,
    grad: bool,
    what: str | None,
    precision: Precision,
    made: Callable[[Readout], Any],
) -> Iterator[tuple[list[int], Any]]:
    """Indices of each chunk's variants, and what is made of its readout."""
    reading = [tuple(p) for p in positions] if positions is not None else [(len(p) - 1,) for p in prompts]
    check_request(model, prompts, variants, reading, sites)
    chunks = list(chunked(model, prompts, variants, reading, reads, sites, budget))
    how: Precision = "delta" if precision == "delta" and model.dtype == torch.float32 and not grad else "exact"
    job = Forward(model, prompts, reading, reads, tuple(sites), how, made, grad)
    rows = [[variants[index] for index in chunk] for chunk in chunks]
    yield from zip(chunks, answers(job, rows, what, here=grad), strict=True)


@dataclass(frozen=True, eq=False)
class Forward:
    """What the chunks of a run have in common: a job (see `elsewhere`).

    Attributes:
        made: what is made of a chunk's readout.
    """

    model: Model
    prompts: Sequence[Sequence[int]]
    reading: Sequence[Sequence[int]]
    reads: Reads
    sites: Sequence[tuple[str, int]]
    precision: Precision
    made: Callable[[Readout], Any]
    grad: bool

    @cached_property
    def _embedded(self) -> Tensor:
        with torch.set_grad_enabled(self.grad):
            return embed(self.model, self.prompts)

    def __call__(self, chunk: Sequence[Variant]) -> Any:
        with torch.set_grad_enabled(self.grad):  # never across a yield: it would leak into the caller
            one = Pass(self.model, self.prompts, chunk, self.reading, self.reads, self.sites, precision=self.precision)
            readout = one.run(self._embedded)
        check_finite(self.model, self.prompts, readout)
        with torch.set_grad_enabled(self.grad):
            return self.made(readout)


def _bare(readout: Readout) -> Readout:
    """A readout without its variants: who asked has them."""
    return replace(readout, variants=())


def embed(model: Model, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "prompt pos d_model"]:
    """The stream that enters the first block, of all prompts, padded on the right."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long, device=model.device)
    for index, prompt in enumerate(prompts):
        tokens[index, : len(prompt)] = torch.tensor(prompt, device=model.device)
    return model.bridge(tokens, stop_at_layer=0)  # type: ignore[no-any-return]


def _layer(variant: Variant) -> int:
    return min((edit.site.layer for edit in variant.edits), default=-1)


def chunked(
    model: Model,
    prompts: Sequence[Sequence[int]],
    variants: Sequence[Variant],
    reading: Sequence[Sequence[int]],
    reads: Reads,
    sites: Sequence[tuple[str, int]],
    budget: int | None,
    copies: int = 1,
) -> Iterator[list[int]]:
    """Indices of variants, those of like prompts and like first layers together, up to the budget.

    Args:
        copies: rows that stand behind each variant.
    """
    order = sorted(
        range(len(variants)), key=lambda i: (len(prompts[variants[i].prompt]), variants[i].prompt, _layer(variants[i]))
    )
    limit = _free_memory(model.device) // 4 // sharers() if budget is None else budget
    tokens_limit = CPU_TOKENS if budget is None and model.device.type == "cpu" else None
    chunk: list[int] = []
    longest = read = 0
    for index in order:
        prompt = variants[index].prompt
        longest_with, read_with = max(longest, len(prompts[prompt])), read + len(reading[prompt])
        rows = (len(chunk) + 1) * copies
        size = working_set(model, rows, longest_with, read_with * copies, reads, sites)
        tokens = rows * longest_with
        if chunk and (size > limit or (tokens_limit is not None and tokens > tokens_limit)):
            yield chunk
            chunk, longest_with, read_with = [], len(prompts[prompt]), len(reading[prompt])
        chunk.append(index)
        longest, read = longest_with, read_with
    if chunk:
        yield chunk


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def working_set(model: Model, rows: int, length: int, read: int, reads: Reads, sites: Sequence[tuple[str, int]]) -> int:
    """A generous estimate of the largest working set: a block's activations, what is kept, the logits."""
    wide = 4 * model.d_model * (3 if model.has_mlp else 1)  # gated MLPs hold three wide tensors
    block = length * (8 * model.d_model + wide) + 3 * model.n_heads * length * length
    patterns = sum(name == "pattern" for name, _ in sites)
    kept = length * (model.d_model * (len(sites) - patterns) + model.n_heads * length * patterns)
    per_read = {"logits": 3 * model.d_vocab_out, "hidden": model.d_model, "none": 0}[reads]
    return (rows * (block + kept) + read * per_read) * model.dtype.itemsize
