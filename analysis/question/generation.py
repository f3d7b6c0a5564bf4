"""Completions with and without injections, with a KV cache and without, of many prompts at once, to the same text.

An injection edits positions of the prompt, tokens that are generated, or both (`Injection.during`). With a cache a
position is edited once, when it is read, and what it wrote into the cache stays there for all later tokens; without a
cache it is edited again in every step. A token that is generated is edited when it is read, to predict the next: what
stands at the prompt's last position predicts the first one.

Prompts of several lengths are padded on the left, where attention masks them and positions count from each prompt's own
first token. What cannot be masked, or would run into the end of the context, is run with its like in length.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.finite import check_logits
from steerscope.analysis.engine.plain import Hook, edited
from steerscope.analysis.engine.run import Readout, measure
from steerscope.analysis.errors import BadInjection
from steerscope.analysis.gate import Seed, Share, Whole, Within, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import Layout
from steerscope.analysis.progress import track

from .injection import During, Injection, compose, puts
from .prompts import make_prompts
from .size import check_size

TOKENS_AT_ONCE = 4096  # of prompts, in one batch
LIKELY = 2048  # most probable tokens: all of the mass that is drawn from, nearly always


@gated
def generate(
    model: Model,
    prompt: str | Sequence[int] | Sequence[Mapping[str, str]],
    injections: Injection | Sequence[Injection] = (),
    *,
    tokens: Whole = 40,
    temperature: Annotated[float, Within(0)] = 1.0,
    top_p: Share = 0.95,
    seed: Seed = 0,
    cache: bool | None = None,
    during: During | None = None,
) -> list[int]:
    """Token ids that follow `prompt`, up to its end-of-text token.

    Args:
        prompt: a text, a chat (a list of messages), or token ids.
        tokens: at most so many new ones (the context may end earlier).
        temperature: 0 for the most probable token each time.
        top_p: keep the most probable tokens of this mass: 1 for all, 0 for one.
        seed: the same seed draws with the same random numbers, steered or not.
        cache: keep keys and values; by default where the model can.
        during: what is edited: positions of the `prompt`, every token of the `generation`, or `both`; by default what
            each injection says.

    Raises:
        BadPrompt: an empty prompt, or one that is too long.
        BadInjection, BadNode: an injection that does not fit the model or the prompt.
        Overflow: logits that are not finite.
    """
    given = [prompt if isinstance(prompt, str) else list(prompt)]
    options = {"tokens": tokens, "temperature": temperature, "top_p": top_p, "cache": cache}
    return _of(model, given, injections, during, seed, options)[0]


@gated
def generate_many(
    model: Model,
    prompts: Sequence[str | Sequence[int] | Sequence[Mapping[str, str]]],
    injections: Injection | Sequence[Injection] = (),
    *,
    tokens: Whole = 40,
    temperature: Annotated[float, Within(0)] = 1.0,
    top_p: Share = 0.95,
    seed: Seed = 0,
    cache: bool | None = None,
    during: During | None = None,
) -> list[list[int]]:
    """As `generate`, of many prompts in one batch, under the same injections.

    Args:
        prompts: texts, chats or token ids.
        seed: of the first prompt; the next has the next, so that prompts draw each their own random numbers.
        tokens, temperature, top_p, cache, during: as of `generate`.

    Raises:
        BadPrompt, BadInjection, BadNode, Overflow: as `generate`.
    """
    options = {"tokens": tokens, "temperature": temperature, "top_p": top_p, "cache": cache}
    return _of(model, prompts, injections, during, seed, options)


def _of(
    model: Model, prompts: Any, injections: Any, during: During | None, seed: int, options: dict[str, Any]
) -> list[list[int]]:
    several = (injections,) if isinstance(injections, Injection) else tuple(injections)
    if during is not None:
        several = tuple(replace(injection, during=during) for injection in several)
    given = make_prompts(model, prompts)
    about = zip(given.ids, given.layouts(model), strict=True)
    rows = [row(model, ids, several, seed + n, layout) for n, (ids, layout) in enumerate(about)]
    return complete(model, rows, **options)


@dataclass(frozen=True, eq=False)
class Row:
    """What is completed.

    Attributes:
        prompt: token ids.
        edits: of the prompt's positions.
        injections: that edit every generated token.
        seed: of the random numbers that it draws with.
    """

    prompt: tuple[int, ...]
    edits: tuple[Edit, ...] = ()
    injections: tuple[Injection, ...] = field(default=())
    seed: int = 0


def row(
    model: Model, ids: Sequence[int], injections: Sequence[Injection], seed: int, layout: Layout | None = None
) -> Row:
    """A prompt under injections, each during what it says.

    Args:
        layout: what positions are found by; that of the ids by default.

    Raises:
        BadInjection, BadNode: an injection that does not fit the model or the prompt, or one at a pattern.
    """
    for injection in injections:
        injection.check(model)
        if injection.site.name == "pattern":
            raise BadInjection(
                "an injection at a pattern cannot be generated with; expected another site; inject at resid_pre, z, "
                "attn_out or mlp_out"
            )
    check_size(model, puts(injections))
    at_prompt = [injection for injection in injections if injection.during != "generation"]
    later = tuple(injection for injection in injections if injection.during != "prompt")
    return Row(tuple(ids), compose(at_prompt, layout or model.layout(ids)), later, seed)


@torch.no_grad()
def complete(
    model: Model,
    rows: Sequence[Row],
    *,
    tokens: int,
    temperature: float = 1.0,
    top_p: float = 0.95,
    cache: bool | None = None,
    what: str | None = None,
) -> list[list[int]]:
    """Tokens that follow each row's prompt; every row as if it were alone.

    Args:
        what: name for a progress bar; none by default.

    Raises:
        Overflow: logits that are not finite.
    """
    made: list[list[int]] = [[] for _ in rows]
    batches = list(_batches(model, rows, tokens))
    for batch in track(batches, what) if what and len(batches) > 1 else batches:
        own = _Batch(model, [rows[i] for i in batch], _has_cache(model) if cache is None else cache)
        found = own.complete(tokens, temperature, top_p)
        for i, ids in zip(batch, found, strict=True):
            made[i] = ids
    return made


def _batches(model: Model, rows: Sequence[Row], tokens: int) -> list[list[int]]:
    """Rows that run together: of like lengths where padding is not exact, and no more than fit."""

    def kind(i: int) -> int:
        length = len(rows[i].prompt)
        padded = _has_cache(model) and length + tokens <= model.n_ctx
        return 0 if padded else length

    found: list[list[int]] = []
    for _, group in groupby(sorted(range(len(rows)), key=lambda i: (kind(i), len(rows[i].prompt), i)), kind):
        batch: list[int] = []
        for i in group:  # the longest comes last
            if batch and (len(batch) + 1) * (len(rows[i].prompt) + tokens) > TOKENS_AT_ONCE:
                found.append(batch)
                batch = []
            batch.append(i)
        found.append(batch)
    return found


def _has_cache(model: Model) -> bool:
    return model.architecture != "TransformerLensNative"


class _Batch:
    """Rows side by side, padded on the left to the longest."""

    def __init__(self, model: Model, rows: Sequence[Row], cached: bool) -> None:
        self.model, self.rows, self.cached = model, rows, cached
        self.width = max(len(row.prompt) for row in rows)
        self.pads = [self.width - len(row.prompt) for row in rows]
        self.past: Any = None

    def complete(self, tokens: int, temperature: float, top_p: float) -> list[list[int]]:
        generators = [torch.Generator().manual_seed(row.seed) for row in self.rows]
        end = getattr(self.model.tokenizer, "eos_token_id", None)
        made: list[list[int]] = [[] for _ in self.rows]
        live = [True] * len(self.rows)
        for step in range(min(tokens, self.model.n_ctx - self.width)):
            logits = self.logits([own[:step] + [0] * (step - len(own)) for own in made], step)
            for i, generator in enumerate(generators):
                if live[i]:
                    check_logits(self.model, logits[i], f"token {step + 1} after the prompt")
                    token = draw(logits[i], temperature, top_p, generator)
                    live[i] = token != end
                    made[i] += [token] * live[i]
            if not any(live):
                break
        return made

    def logits(self, made: Sequence[list[int]], step: int) -> Float[Tensor, "row vocab"]:
        """After the last token of every row; `made` are tokens so far, as many of each."""
        model, device = self.model, self.model.device
        alone = self.cached and step > 0
        whole = [[0] * pad + [*row.prompt, *own] for pad, row, own in zip(self.pads, self.rows, made, strict=True)]
        batch = torch.tensor([ids[-1:] for ids in whole] if alone else whole, device=device)
        options: dict[str, Any] = {}
        if any(self.pads):
            mask = torch.ones(len(self.rows), self.width + step, dtype=torch.long, device=device)
            for n, pad in enumerate(self.pads):
                mask[n, :pad] = 0
            options["attention_mask"] = mask
        first = self.width + step - 1 if alone else 0
        hooks = [*self._hooks(first, step), ("unembed.hook_in", _last)]
        with model.bridge.hooks(fwd_hooks=hooks):
            if self.cached:
                logits, self.past = model.bridge(
                    batch, past_key_values=self.past, return_type="logits_and_cache", use_cache=True, **options
                )
            else:
                logits = model.bridge(batch, **options)
        found: Tensor = logits[:, -1]
        return found

    def _hooks(self, first: int, step: int) -> list[Hook]:
        """One hook a site, for what is read from the padded position `first` on."""
        at: dict[tuple[str, int], list[tuple[list[int], list[int], Edit]]] = {}
        if first == 0:
            for n, row in enumerate(self.rows):
                for edit in row.edits:
                    positions = range(len(row.prompt)) if edit.positions is None else edit.positions
                    where = [self.pads[n] + p for p in positions]
                    at.setdefault((edit.site.name, edit.site.layer), []).append(([n], where, edit))
        new = [p - first for p in range(self.width, self.width + step) if p >= first]
        shared: dict[tuple[int, int], tuple[Injection, list[int]]] = {}  # by their place in the order, whoever has them
        for n, row in enumerate(self.rows):
            for turn, injection in enumerate(row.injections if new else ()):
                shared.setdefault((turn, id(injection)), (injection, []))[1].append(n)
        for _, (injection, numbers) in sorted(shared.items(), key=lambda one: one[0][0]):
            edit = injection.generated(new)
            at.setdefault((edit.site.name, edit.site.layer), []).append((numbers, new, edit))
        return [(self.model.hook(*site), _hook(edits)) for site, edits in at.items()]


def _hook(edits: Sequence[tuple[list[int], list[int], Edit]]) -> Callable[[Tensor, Any], Tensor]:
    """All edits of a site, in order: of rows, at padded positions."""

    def hook(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        for numbers, positions, edit in edits:
            index: tuple[Any, ...] = (torch.tensor(numbers)[:, None], torch.tensor(positions)[None])
            index = index if edit.site.head is None else (*index, edit.site.head)
            x[index] = edited(edit, x[index])
        return x

    return hook


def _last(x: Tensor, hook: Any) -> Tensor:
    return x[:, -1:]


def draw(logits: Float[Tensor, " vocab"], temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One random number a step, whatever the logits are, so that two runs stay in step."""
    chance = torch.rand((), generator=generator, dtype=torch.float64).item()
    if temperature == 0:
        return int(logits.argmax())
    below = logits.double().cpu() - logits.double().max().cpu()  # so that no temperature makes them infinite
    chances = (below / float(temperature)).softmax(-1)
    ordered, tokens = chances.topk(min(LIKELY, len(chances)))
    if len(chances) <= LIKELY or ordered.sum() < top_p:
        ordered, tokens = chances.sort(descending=True)
    mass = ordered.cumsum(-1)
    kept = min(int((mass < top_p).sum()) + 1, len(mass))
    share = mass[:kept] / mass[kept - 1]
    return int(tokens[min(int((share < chance).sum()), kept - 1)])


@torch.no_grad()
def surprises(
    model: Model, prompts: Sequence[Sequence[int]], made: Sequence[Sequence[int]]
) -> list[Float[NDArray[np.float64], " token"]]:
    """Loss of every token of every completion under the clean model, given its prompt, in nats: low where it is
    fluent.
    """
    if not made:
        return []
    full = [[*prompt, *own] for prompt, own in zip(prompts, made, strict=True)]
    first = [len(prompt) - 1 for prompt in prompts]
    reading = [tuple(range(start, len(f) - 1)) or (start,) for start, f in zip(first, full, strict=True)]
    width = max(map(len, full)) + 1
    tokens = torch.tensor([[*f, *[0] * (width - len(f))] for f in full], device=model.device)
    losses = _Losses(tokens, torch.tensor(first, device=model.device))
    table = measure(model, full, [Variant(i) for i in range(len(full))], reading, losses).cpu().numpy()
    return [table[i, : len(own)] for i, own in enumerate(made)]


@dataclass(frozen=True, eq=False)
class _Losses:
    """The loss of every token that follows a read position, by its place behind the first: `[row, place]`.

    Attributes:
        tokens: of every prompt, padded.
        starts: by prompt, the first position that is read.
    """

    tokens: Int[Tensor, "prompt pos"]
    starts: Int[Tensor, " prompt"]

    def __call__(self, readout: Readout) -> Float[Tensor, "row place"]:
        assert readout.logits is not None
        prompt = readout.prompt
        following = self.tokens[prompt, readout.position + 1]
        own = -readout.logits.log_softmax(-1).gather(1, following[:, None])[:, 0].double()
        found = own.new_zeros(len(readout.variants), self.tokens.shape[1])
        found[readout.row, readout.position - self.starts[prompt]] = own
        return found
