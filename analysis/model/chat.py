"""Chats: messages with roles, as the tokenizer's own template writes them, and where each part of them stands.

1. The template writes the messages (transformers runs it in its sandbox). Where the last one is the assistant's, it is
   left open, so that the model goes on with it; else the assistant's turn is begun.
2. The text is tokenized as it is: the template alone decides on BOS.
3. Parts are found by writing the chat once more with a mark for every content. Where that gives another text (a
   template that looks into contents), there are no parts. A token belongs to the part that it begins in, its space
   aside.

Parts: `system`, `user` and `assistant` are the contents of all such turns; `instruction` is that of the last user turn;
`assistant start` is what the template writes to begin the assistant's last turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant")
INSTRUCTION, START = "instruction", "assistant start"
PARTS = (*ROLES, INSTRUCTION, START)
MARKS = ("\ue000", "\ue001")  # private characters, which no template writes

Messages = Sequence[Mapping[str, str]]
Parts = tuple[tuple[str, tuple[int, ...]], ...]


class NoChat(Exception):
    """What is wrong with a chat, in words that go on after `prompt 1`."""


@dataclass(frozen=True)
class Chat:
    """A chat as the model reads it.

    Attributes:
        ids: token ids.
        text: what the template writes.
        parts: name of a part -> its positions.
    """

    ids: tuple[int, ...]
    text: str
    parts: Parts


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a list of messages."""
    several = isinstance(prompt, Sequence) and not isinstance(prompt, str | bytes)
    return several and len(prompt) > 0 and all(isinstance(message, Mapping) for message in prompt)


def chat(tokenizer: Any, messages: Messages) -> Chat:
    """Messages through the tokenizer's template.

    Raises:
        NoChat: no template, messages that are none, or a template that refuses them.
    """
    checked = [_message(number, message) for number, message in enumerate(messages, 1)]
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise NoChat("is a chat, and the model has no chat template: give its text, or another model")
    text = _written(tokenizer, checked)
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast))
    spans = _spans(tokenizer, checked, text) if tokenizer.is_fast else []
    places: dict[str, list[int]] = {}
    for name, start, end in spans:
        begins = enumerate(_begin(text[a:b], a) for a, b in read["offset_mapping"])
        places.setdefault(name, []).extend(i for i, at in begins if start <= at < end)
    return Chat(tuple(read["input_ids"]), text, tuple((name, tuple(at)) for name, at in places.items() if at))


def _begin(token: str, start: int) -> int:
    """Where a token begins, the space before its first character aside."""
    return start + len(token) - len(token.lstrip() or token)


def _message(number: int, message: Mapping[str, str]) -> dict[str, str]:
    good = set(message) == {"role", "content"} and all(isinstance(value, str) for value in message.values())
    if not good or not message["role"]:
        raise NoChat(f'has a message {number} that is none: expected {{"role": "user", "content": "a text"}}')
    if any(mark in message["content"] for mark in MARKS):
        raise NoChat(f"has private characters (U+E000 or U+E001) in message {number}")
    return dict(message)


def _written(tokenizer: Any, messages: list[dict[str, str]], begun: bool | None = None) -> str:
    """What the template writes.

    Args:
        begun: begin the assistant's turn; by default where the last turn is not the assistant's, which is left open.
    """
    opened = begun is None and messages[-1]["role"] == "assistant"
    options = {"continue_final_message": True} if opened else {"add_generation_prompt": begun is not False}
    try:
        found = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        return str(found)
    except Exception as reason:  # of any type: a template is a program, with errors of its own
        why = (str(reason).splitlines() or [""])[0][:120] or type(reason).__name__
        raise NoChat(f"is a chat that the model's template refuses ({why})") from reason


def _spans(tokenizer: Any, messages: list[dict[str, str]], text: str) -> list[tuple[str, int, int]]:
    """Parts of what was written, as characters from start to end; none where the template looks into contents."""
    marks = [f"{MARKS[0]}{n}{MARKS[1]}" for n in range(len(messages))]
    marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    try:
        written, closed, start = _written(tokenizer, marked), "", ""
        asked = marked[:-1] if marked[-1]["role"] == "assistant" else marked
        if asked:
            closed = _written(tokenizer, asked, begun=False)
            start = _written(tokenizer, asked, begun=True).removeprefix(closed)
    except NoChat:
        return []
    found: list[tuple[str, int, int]] = []
    at, rest = 0, written
    for n, (message, mark) in enumerate(zip(messages, marks, strict=True)):
        before, seen, rest = rest.partition(mark)
        if not seen or not text.startswith(before, at):
            return []
        at += len(before)
        content = next((c for c in (message["content"], message["content"].strip()) if text.startswith(c, at)), None)
        if content is None:
            return []
        if n == len(messages) - 1 and message["role"] == "assistant" and start and before.endswith(start):
            found.append((START, at - len(start), at))
        found.append((message["role"], at, at + len(content)))
        at += len(content)
    if text[at:] != rest:
        return []
    if messages[-1]["role"] != "assistant" and start and text.endswith(start):
        found.append((START, len(text) - len(start), len(text)))
    asked_last = [span for span in found if span[0] == "user"]
    return [*found, *((INSTRUCTION, a, b) for _, a, b in asked_last[-1:])]
