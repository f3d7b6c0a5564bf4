"""A code-switching ladder: a sentence that turns, fragment by fragment, from one language (or style) into another.

1. Two sentences in as many fragments: `Le vieux pont|traverse|la riviere` and `The old bridge|crosses|the river`.
2. Rung k has the first k fragments of the second sentence and the others of the first; every rung but the last is added
   and the second sentence subtracted as often. All are padded on the right with a single token to one length.
3. `v = sum over rungs (x(rung) - x(second))`, position by position; BOS cancels.

Source: Turner et al., "Steering GPT-2-XL by adding an activation vector", the French experiment (56 additions).
What it cannot see: words whose order differs between the languages.
"""

from collections.abc import Sequence

import torch

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model

from .plans import HERE, Plan, Weighed, make_one, place, whole
from .prompt_pair import padding
from .texts import quoted, tokens_of
from .vector import SteeringVector

EXAMPLE = {"first": "Le pont|est|rouge", "second": "The bridge|is|red", "layer": 1}
BETWEEN = "|"


@gated(error=BadVector)
def ladder(
    model: Model,
    first: Sequence[str] | str,
    second: Sequence[str] | str,
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
    pad: str | int = " ",
) -> SteeringVector:
    """The sum over the rungs of a ladder from `first` to `second`, each minus `second`, `[pos, width]`, BOS first.

    Args:
        first: the sentence that is steered to, as fragments, or as text with | between them.
        second: the other one, in as many fragments.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.
        pad: single token that fills up shorter rungs, or its id.

    Raises:
        BadVector: different numbers of fragments, blank ones, sentences that are too long, or equal.
        BadNode: the model has no such layer, site or head.
    """
    return make_one(model, plan(model, first, second, pad), place(model, layer, site, head))


def plan(model: Model, first: str | Sequence[str], second: str | Sequence[str], pad: str | int = " ") -> Plan:
    """What it asks of the model (see `plans`)."""
    one, other = (list(text.split(BETWEEN) if isinstance(text, str) else text) for text in (first, second))
    if len(one) != len(other) or not all(part.strip() for part in (*one, *other)):
        raise BadVector(
            f"got {len(one)} fragments of the first sentence and {len(other)} of the second; expected as many of each, "
            f"none of them blank; part both at the same places with {BETWEEN}"
        )
    rungs = [" ".join(part.strip() for part in (*other[:k], *one[k:])) for k in range(len(one))]
    texts = [*rungs, " ".join(part.strip() for part in other)]
    ids = tokens_of(model, ((f"rung {k}", text) for k, text in enumerate(texts)))
    length = max(map(len, ids))
    filled = [own + [padding(model, pad)] * (length - len(own)) if len(own) < length else own for own in ids]
    eye = torch.eye(length, dtype=torch.float64)
    weights = torch.cat([eye] * len(rungs) + [-len(rungs) * eye], dim=1)
    label = f"ladder of {len(rungs)} rungs from {quoted(texts[0])} to {quoted(texts[-1])}"
    source = {"recipe": "ladder", "first": one, "second": other, "pad": pad, "model": model.name, "label": label}
    nothing = f"all rungs have the same activations at {HERE}; expected different sentences; choose others"
    return Plan(source, tuple(map(whole, filled)), lambda _: Weighed(weights), nothing)
