"""The run at an infinite coefficient, exactly.

In a pre-norm model every norm after an injection sees the stream's direction alone. As the coefficient
grows, the stream at an injected position becomes the vector, whatever the blocks add to it. So:

1. At the injection's layer set the stream at the injected positions to the vector's direction.
2. From there on let attention and MLPs write nothing at these positions. What they write is finite, and
   the stream is not; positions that attend to them see keys and values of the vector's direction.

Everything else runs as always. Where several injections meet at a position, their sum counts. A position
where the vector is zero (BOS of a prompt pair) is left alone.

What it cannot see: models without norms, whose logits grow with the coefficient and have no limit.
"""

from collections.abc import Sequence

import torch

from steerscope.analysis.engine.edits import Edit, added
from steerscope.analysis.errors import BadInjection, UnsupportedModel
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Edits

SIZE = 1e10  # of the stream's components: what stood there before is lost in rounding, and nothing overflows
HALF = 1e3  # in float16, whose largest number is 65504
WRITES = ("resid_pre", "attn_out", "mlp_out")  # sites whose vectors go straight into the stream


def limit(model: Model, injected: Edits, lengths: Sequence[int], sign: int = 1) -> Edits:
    """Edits, by prompt, under which a run is what steered runs tend to as the coefficient goes to infinity.

    Args:
        injected: what is added to each prompt at the given coefficient.
        lengths: tokens of each prompt.
        sign: 1, or -1 for minus infinity.

    Raises:
        UnsupportedModel: the model has no norm, so there is no limit.
        BadInjection: the injections stand at different sites, or at one that does not write into the stream.
    """
    if model.norm.lower() in ("none", ""):
        raise UnsupportedModel(
            f"{model.name} has no norm, so its logits grow without limit with the coefficient; expected a pre-norm "
            "model; look at finite coefficients instead"
        )
    places = {(edit.site.name, edit.site.layer) for own in injected for edit in own}
    if len(places) != 1 or next(iter(places))[0] not in WRITES:
        raise BadInjection(
            f"a limit of injections at {', '.join(sorted(f'L{layer}.{name}' for name, layer in places))}; expected one "
            f"layer, and one of {', '.join(WRITES)}; take them one by one"
        )
    return tuple(_limit(model, own, length, sign) for own, length in zip(injected, lengths, strict=True))


def _limit(model: Model, injected: Sequence[Edit], length: int, sign: int) -> tuple[Edit, ...]:
    site = injected[0].site
    total = added(injected, length, model.d_model)
    at = tuple(total.norm(dim=-1).nonzero()[:, 0].tolist())
    if not at:
        return ()
    rows = total[list(at)]
    size = HALF if model.dtype == torch.float16 else SIZE
    rows = sign * size * rows / rows.square().mean(dim=-1, keepdim=True).sqrt()
    nothing = torch.zeros(model.d_model, dtype=model.dtype)
    edits = [Edit(site, "set", rows.to(model.dtype), at)]
    for layer in range(site.layer, model.n_layers):
        for name in ("attn_out", "mlp_out"):
            before = layer == site.layer and WRITES.index(name) <= WRITES.index(site.name)
            if not before and not (name == "mlp_out" and not model.has_mlp):
                edits.append(Edit(Site(name, layer), "set", nothing, at))
    return tuple(edits)
