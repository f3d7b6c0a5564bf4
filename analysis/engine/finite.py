"""Numbers that are none are named where they leave a run: no analysis goes on with them.

Overflow gives infinity, and infinity soon gives NaN. Logits of minus infinity are the model's own where its unembedding
has such a bias: tokens that it never says.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import Overflow
from steerscope.analysis.model.models import Model

from .edits import Variant
from .readout import Readout
from .wavefront import Pass

INSTEAD = "choose a smaller coefficient, or load the model with dtype='float32' or 'float64'"


def check_finite(model: Model, prompts: Sequence[Sequence[int]], readout: Readout) -> None:
    """Refuses a chunk of which something is not finite; under no hooks, since it looks for the place in a run.

    Raises:
        Overflow: it names the prompt and the first layer after which the stream is not finite.
    """
    if not is_finite(readout):
        _check_rows(model, prompts, readout)


def is_finite(readout: Readout) -> bool:
    """Whether all that was read is finite: least and largest are, 20 times as fast to ask as of every number."""
    read = [x for x in (readout.hidden, readout.logits, *readout.activations.values()) if x is not None and x.numel()]
    return not read or bool(torch.stack([_is_whole(x) for x in read]).all())


@torch.no_grad()
def _check_rows(model: Model, prompts: Sequence[Sequence[int]], readout: Readout) -> None:
    kept = readout.activations.values()
    broken = [readout.row[~torch.isfinite(x).all(dim=-1)] for x in (readout.hidden,) if x is not None]
    broken += [(~torch.isfinite(x.flatten(1)).all(dim=1)).nonzero()[:, 0] for x in kept]
    if readout.logits is not None:
        broken.append(readout.row[~_is_number(model, readout.logits).all(dim=-1)])
    rows = torch.cat(broken).tolist()
    if rows:
        raise Overflow(_said(model, prompts, readout.variants[min(rows)]))


def check_logits(model: Model, logits: Float[Tensor, "*rows vocab"], what: str) -> None:
    """The same of logits alone.

    Raises:
        Overflow: `what` has given them.
    """
    if not _is_whole(logits) and not _is_number(model, logits).all():
        raise Overflow(f"{what} gave logits that are not finite ({_dtype(model)}); expected numbers; {INSTEAD}")


def check_numbers(model: Model, numbers: Tensor, what: str) -> None:
    """The same of anything else that was computed.

    Raises:
        Overflow: `what` is not finite.
    """
    if numbers.numel() and not _is_whole(numbers):
        raise Overflow(f"{what} of {model.name} is not finite ({_dtype(model)}); expected numbers; {INSTEAD}")


def _is_whole(x: Tensor) -> Tensor:
    low, high = x.detach().aminmax()
    return torch.isfinite(low) & torch.isfinite(high)


def _is_number(model: Model, logits: Tensor) -> Tensor:
    """Finite, or minus infinity where the unembedding's own bias is."""
    bias = getattr(model.bridge.unembed, "b_U", None)
    found = torch.isfinite(logits)
    return found if bias is None else found | (torch.isneginf(logits) & torch.isneginf(bias.to(logits)))


def _said(model: Model, prompts: Sequence[Sequence[int]], variant: Variant) -> str:
    ids = prompts[variant.prompt]
    text = brief(model.text(ids), 50)
    own = [edit for edit in variant.edits if isinstance(edit.value, Tensor) and not torch.isfinite(edit.value).all()]
    if own:
        why = f"what is {'added' if own[0].operation == 'add' else 'put'} at {own[0].site} is not"
    else:
        layer = _first(model, prompts, variant)
        why = "its logits are not" if layer is None else f"the stream after layer {layer} is not"
    with_ = "with its edits" if variant.edits else "without an edit"
    return (
        f"the run of prompt {variant.prompt + 1} ({text!r}) {with_} gives no finite numbers: {why} ({_dtype(model)}); "
        f"expected finite ones; {INSTEAD}"
    )


def _first(model: Model, prompts: Sequence[Sequence[int]], variant: Variant) -> int | None:
    """The first layer after which the stream of a run is not finite; None where it is to the end."""
    sites = [("resid_post", layer) for layer in range(model.n_layers)]
    length = len(prompts[variant.prompt])
    tokens = torch.tensor([list(prompts[variant.prompt])], device=model.device)
    alone = Variant(0, variant.edits)
    row = Pass(model, [prompts[variant.prompt]], [alone], [(length - 1,)], "none", sites)
    found = row.run(model.bridge(tokens, stop_at_layer=0)).activations
    return next((layer for site, layer in sites if not torch.isfinite(found[site, layer]).all()), None)


def _dtype(model: Model) -> str:
    return str(model.dtype).removeprefix("torch.")
