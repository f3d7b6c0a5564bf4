"""Completions with and without injections, with a KV cache and without, to the same text.

Only the positions of the prompt are edited. With a cache they are edited once, when the prompt is
read: in a later step a hook sees a single new position, and an edit there would land on the wrong
token or be lost. Without a cache they are edited again in every step.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.finite import check_logits
from steerscope.analysis.engine.plain import Hook, plain_hooks
from steerscope.analysis.engine.run import Readout, measure
from steerscope.analysis.errors import BadInjection
from steerscope.analysis.gate import Seed, Share, Whole, Within, gated
from steerscope.analysis.model.models import Model

from .injection import Injection, compose
from .prompts import make_prompts
from .size import check_size


@gated
@torch.no_grad()
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
) -> list[int]:
    """Token ids that follow `prompt`, up to its end-of-text token.

    Args:
        prompt: a text, a chat (a list of messages), or token ids.
        tokens: at most so many new ones (the context may end earlier).
        temperature: 0 for the most probable token each time.
        top_p: keep the most probable tokens of this mass: 1 for all, 0 for one.
        seed: the same seed draws with the same random numbers, steered or not.
        cache: keep keys and values; by default where the model can.

    Raises:
        BadPrompt: an empty prompt, or one that is too long.
        BadInjection, BadNode: an injection that does not fit the model or the prompt.
        Overflow: logits that are not finite.
    """
    given = make_prompts(model, [prompt if isinstance(prompt, str) else list(prompt)])
    ids = list(given.ids[0])
    several = [injections] if isinstance(injections, Injection) else injections
    for injection in several:
        injection.check(model)
    check_size(model, several)
    edits = compose(several, given.layouts(model)[0])
    if any(edit.site.name == "pattern" for edit in edits):
        raise BadInjection(
            "an injection at a pattern cannot be generated with; expected another site; inject at resid_pre, z, "
            "attn_out or mlp_out"
        )
    hooks = plain_hooks(model, edits, len(ids))
    cached = _has_cache(model) if cache is None else cache
    generator = torch.Generator().manual_seed(seed)
    end = getattr(model.tokenizer, "eos_token_id", None)
    made: list[int] = []
    past: Any = None
    while len(made) < min(tokens, model.n_ctx - len(ids)):
        if cached:
            logits, past = _step(model, ids, made, past, hooks)
        else:
            batch = torch.tensor([ids + made], device=model.device)
            logits = model.bridge.run_with_hooks(batch, fwd_hooks=hooks)[0, -1]
        check_logits(model, logits, f"token {len(made) + 1} after the prompt")
        token = draw(logits, temperature, top_p, generator)
        if token == end:
            break
        made.append(token)
    return made


def _has_cache(model: Model) -> bool:
    return model.architecture != "TransformerLensNative"


def _step(model: Model, ids: list[int], made: list[int], past: Any, hooks: list[Hook]) -> tuple[Tensor, Any]:
    if past is None:
        with model.bridge.hooks(fwd_hooks=hooks):
            logits, past = model.bridge(
                torch.tensor([ids], device=model.device), return_type="logits_and_cache", use_cache=True
            )
    else:
        last = torch.tensor([made[-1:]], device=model.device)
        logits, past = model.bridge(last, past_key_values=past, return_type="logits_and_cache", use_cache=True)
    return logits[0, -1], past


def draw(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One random number a step, whatever the logits are, so that two runs stay in step."""
    chance = torch.rand((), generator=generator, dtype=torch.float64).item()
    if temperature == 0:
        return int(logits.argmax())
    below = logits.double().cpu() - logits.double().max().cpu()  # so that no temperature makes them infinite
    ordered, tokens = (below / float(temperature)).softmax(-1).sort(descending=True)
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
    full = [[*prompt, *own] for prompt, own in zip(prompts, made, strict=True)]
    first = [len(prompt) - 1 for prompt in prompts]
    reading = [tuple(range(start, len(f) - 1)) or (start,) for start, f in zip(first, full, strict=True)]
    width = max(map(len, full)) + 1
    tokens = torch.tensor([[*f, *[0] * (width - len(f))] for f in full], device=model.device)
    starts = torch.tensor(first, device=model.device)

    def losses(readout: Readout) -> Tensor:
        assert readout.logits is not None
        prompt = torch.tensor([v.prompt for v in readout.variants], device=model.device)[readout.row]
        following = tokens[prompt, readout.position + 1]
        own = -readout.logits.log_softmax(-1).gather(1, following[:, None])[:, 0].double()
        found = own.new_zeros(len(readout.variants), width)
        found[readout.row, readout.position - starts[prompt]] = own
        return found

    table = measure(model, full, [Variant(i) for i in range(len(full))], reading, losses).cpu().numpy()
    return [table[i, : len(own)] for i, own in enumerate(made)]
