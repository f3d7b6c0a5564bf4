"""Texts that stand for ordinary text where a recipe needs some: those that come with steerscope, or a file's."""

from itertools import islice
from pathlib import Path

from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.reading import paragraphs, records

SHIPPED = Path(__file__).parents[1] / "data" / "everyday.txt"
TEXTS, TOKENS = 64, 32  # how many are taken, and how many tokens of each


def corpus_texts(model: Model, path: str | Path | None = None) -> list[str]:
    """The beginnings of `TEXTS` documents, `TOKENS` tokens each; everyday English where no file is named.

    Raises:
        BadVector: a file that cannot be read, or holds nothing.
    """
    found = []
    for record in islice(records(path or SHIPPED, error=BadVector, text=paragraphs), TEXTS):
        if record.text.strip():
            found.append(model.text(model.encode(record.text)[: min(TOKENS, model.n_ctx - 1)]))
    if not found:
        raise BadVector(f"{path} holds no texts; expected at least one; add some")
    return found
