"""`load`: a shipped or known name, or what `steerscope.analysis.loading.load` takes."""

import os
from difflib import get_close_matches
from typing import Any

from steerscope.analysis.errors import ModelNotFound
from steerscope.analysis.gate import gated, shown
from steerscope.analysis.loading import loading
from steerscope.analysis.model.models import Model
from steerscope.circuits.toys.zoo import toys
from steerscope.packaged import PACKAGED
from steerscope.tinystories.zoo import shipped

NEAR = 0.8  # from which likeness on a name is a shipped one, misspelt


@gated
def load(source: Any, **options: Any) -> Model:
    """A checked `Model`: `load("tinystories-2l")`, `load("smollm2")`, `load("path/to/folder")`, `load("model.gguf")`,
    `load("gpt2")`, `load(bridge)`, `load("toy-induction")` (a toy with a known circuit: `steerscope models --toys`).

    A name that is nearly a shipped one is not looked for on the hub.

    Args:
        options: device, dtype, tokenizer, bos, name, selfcheck; see `steerscope.analysis.loading.load`.

    Raises:
        ModelNotFound, UnsupportedModel: as there; the message lists the shipped names.
    """
    names, small = shipped(), toys()
    if isinstance(source, str) and source in (own := {**names, **small}):
        return loading.load(own[source], **{"name": source, **options})
    if isinstance(source, str) and source in PACKAGED:
        return loading.load(PACKAGED[source].found(source), **{"name": source, **options})
    if isinstance(source, str) and "/" not in source and not os.path.exists(source):  # noqa: PTH110
        near = get_close_matches(source.lower(), [*names, *PACKAGED, *small], 1, NEAR)
        if near:
            known = ", ".join([*names, *PACKAGED])
            raise ModelNotFound(
                f"no model or folder {shown(source)}; expected a shipped name ({known}), a folder or a hub name; did "
                f"you mean {near[0]}?"
            )
    try:
        return loading.load(source, **options)
    except ModelNotFound as error:
        raise ModelNotFound(f"{error} (shipped: {', '.join(names)}; of packages: {', '.join(PACKAGED)})") from error
