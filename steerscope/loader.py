"""`load`: a shipped name, or what `steerscope.analysis.loading.load` takes."""

from typing import Any

from steerscope.analysis.errors import ModelNotFound
from steerscope.analysis.loading import loading
from steerscope.analysis.model.models import Model
from steerscope.tinystories.zoo import shipped


def load(source: Any, **options: Any) -> Model:
    """A checked `Model`: `load("tinystories-2l")`, `load("path/to/folder")`, `load("gpt2")`, `load(bridge)`.

    Args:
        options: device, dtype, tokenizer, bos, name, selfcheck; see `steerscope.analysis.loading.load`.

    Raises:
        ModelNotFound, UnsupportedModel: as there; the message lists the shipped names.
    """
    folder = shipped().get(source) if isinstance(source, str) else None
    if folder is not None:
        return loading.load(folder, **{"name": source, **options})
    try:
        return loading.load(source, **options)
    except ModelNotFound as error:
        raise ModelNotFound(f"{error} (shipped: {', '.join(shipped())})") from error
