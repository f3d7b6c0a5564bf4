"""Other words in the place of a recipe's own: beside their vectors one knows what is this meaning's alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from numpy.random import Generator

from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.models import Model

from .plans import Plan, make_all
from .texts import Text
from .vector import SteeringVector

TRIES = 20  # draws for each other concept that is wanted: no concept is drawn twice
Drawn = TypeVar("Drawn")


def distinct(model: Model, vector: SteeringVector, count: int, draw: Callable[[], Drawn | None]) -> list[Drawn]:
    """So many draws that are all different.

    Args:
        draw: one of them, or None for one that does not count.

    Raises:
        BadVector: there are not so many.
    """
    found: list[Drawn] = []
    for _ in range(TRIES * count):
        one = draw()
        if one is not None and one not in found:
            found.append(one)
        if len(found) == count:
            return found
    raise BadVector(
        f"there are only {len(found)} other concepts for {vector.label} in {model.name}; expected {count}; ask for "
        "fewer, or for isotropic references"
    )


def other_words(
    model: Model, text: Text, avoid: Sequence[Text], words: Sequence[str], generator: Generator
) -> str | list[int]:
    """Other words with as many tokens as a text has; a blank text as it is.

    Single-token words, where there are enough, that none of those to avoid contains or is contained in.

    Args:
        text: or its token ids, without BOS.
        avoid: texts whose words are not taken.
        words: to choose from.
    """
    if isinstance(text, str) and not text.strip():
        return text
    wanted = len(ids_of(model, text))
    if model.tokenizer is None:
        used = {model.bos, model.bos_token, *(i for one in avoid for i in ids_of(model, one))}
        free = [i for i in range(model.d_vocab) if i not in used]
        return [int(i) for i in generator.choice(free, wanted)]
    own = " ".join(one if isinstance(one, str) else model.text(list(one)) for one in avoid).casefold()
    said = text if isinstance(text, str) else model.text(list(text))
    capital, space = said.strip()[:1].isupper(), said[:1].isspace()
    free_words = [w for w in words if w not in own and not any(part in w for part in own.split() if len(part) > 3)]
    ids: list[int] = []
    for index in generator.permutation(len(free_words)):
        word = free_words[int(index)]
        word = word.capitalize() if capital and not ids else word
        one = encoded(model, f" {word}" if ids or space else word)
        if len(one) == 1:
            ids += one
        if len(ids) == wanted:
            return ids
    # No word is a single token: pieces of words, of which there are always enough.
    return encoded(model, " " + " ".join(generator.permutation(free_words)[:wanted].tolist()))[:wanted]


def other_prompts(
    model: Model,
    vector: SteeringVector,
    plan: Callable[[str], Plan],
    words: Sequence[str],
    count: int,
    generator: Generator,
) -> list[SteeringVector]:
    """Vectors of other prompts in the place of a vector's own, recorded as it was.

    Args:
        plan: of a prompt.
    """
    own: Text = vector.source["prompt"]
    bare = own if isinstance(own, str) else ids_of(model, own)

    def draw() -> str | list[int] | None:
        found = other_words(model, bare, [bare], words, generator)
        text = found if isinstance(found, str) or model.tokenizer is None else model.text(found)
        return None if text == own else text

    drawn = distinct(model, vector, count, draw)
    made = make_all(model, [(plan(prompt), vector.site) for prompt in drawn])  # type: ignore[arg-type]
    return [rows_like(one, vector) for one in made]


def rows_like(made: SteeringVector, like: SteeringVector) -> SteeringVector:
    """The rows that another vector of as many tokens kept."""
    if like.source.get("rows") == "mean":
        return made.mean()
    row = like.source.get("row")
    if row is not None and like.rows == 1:
        one = made.row(row)
        return one if one.values.any() else made.body.row(row)
    return replace(made, values=made.values[-like.rows :])


def ids_of(model: Model, prompt: Text) -> list[int]:
    """Token ids without BOS."""
    ids = encoded(model, prompt) if isinstance(prompt, str) else [int(i) for i in prompt]
    return ids[1:] if model.bos is not None and ids[:1] == [model.bos] else ids


def encoded(model: Model, text: str) -> list[int]:
    """A side's text: where SentencePiece puts a space before a text, one that stands there already is that space."""
    return model.encode_inner(text) if text[:1] == " " else model.encode(text)
