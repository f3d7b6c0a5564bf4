"""Texts that vectors are made of: as token ids, with all their faults told together."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.models import Model

SHOWN = 40  # characters of a text in a label
FAULTS = 5  # that are told
TWO_KINDS = {  # an example of texts that recipes tell apart
    "positive": ["The party was great fun", "What a lovely day", "She smiled at the gift", "They danced and sang"],
    "negative": ["The dog was lost", "He cried all night", "Nobody came to help", "It was cold and dark"],
}

Text = str | Sequence[int]


def tokens_of(model: Model, texts: Iterable[tuple[str, Any]]) -> list[list[int]]:
    """Token ids of named texts (or lists of ids), BOS included where the model has one.

    Args:
        texts: each with what it is called in a message.

    Raises:
        BadVector: texts that are blank, too long, or of unknown ids.
    """
    found, faults = [], []
    for name, text in texts:
        ids = model.tokens(text) if isinstance(text, str) else model.begun(text)
        unknown = [i for i in ids if not 0 <= i < model.d_vocab]
        if not (text.strip() if isinstance(text, str) else text):
            faults.append(f"{name} is empty or blank")
        elif unknown:
            faults.append(f"{name} has token ids outside of 0..{model.d_vocab - 1}: {unknown[:5]}")
        elif len(ids) > model.n_ctx:
            faults.append(f"{name} has {len(ids)} tokens, {model.name} reads at most {model.n_ctx}")
        found.append(ids)
    if faults:
        shown = "; ".join(faults[:FAULTS]) + (f"; and {len(faults) - FAULTS} more" if len(faults) > FAULTS else "")
        raise BadVector(f"{shown}; expected texts of 1 to {model.n_ctx} tokens; mend or remove them")
    return found


def listed(texts: Sequence[Text], what: str) -> list[Any]:
    """Texts as what can be saved: texts, or lists of ids.

    Raises:
        BadVector: none.
    """
    if len(texts) == 0:
        raise BadVector(f"there are no {what} texts; expected at least one; add some")
    return [text if isinstance(text, str) else [int(i) for i in text] for text in texts]


def words(texts: Sequence[Any]) -> str:
    """Texts in words: `16 ("What a lovely day", ...)`."""
    return f"{len(texts)} ({quoted(texts[0])}{', ...' if len(texts) > 1 else ''})"


def quoted(text: Any) -> str:
    """A text in quotes, or ids, cut short."""
    return json.dumps(brief(text, SHOWN), ensure_ascii=False) if isinstance(text, str) else str(text)
