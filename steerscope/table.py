"""The table of questions, made from the registry. `make docs` writes docs/questions.md; a test holds it there."""

from steerscope.knobs import NONE, knobs
from steerscope.questions import QUESTIONS, Question

HEAD = """# Questions

Made from the registry (`steerscope/questions.py`) by `make docs`. In Python each is `st.NAME(experiment, ...)` or
`st.NAME(model, injection, prompts, ...)` and returns a `Result` that explains its own columns; on the command line
every knob is an option.

"""


def table() -> str:
    """The page, as Markdown."""
    rows = ["| question | Python | command | knobs | page |", "| --- | --- | --- | --- | --- |"]
    return HEAD + "\n".join([*rows, *map(_row, QUESTIONS.values())]) + "\n"


def _row(question: Question) -> str:
    cells = [
        question.asks,
        f"`st.{question.name}`",
        f"`steerscope {question.command}`",
        _knobs(question),
        f"`reports/pages/{question.page}.py`" if question.page else "by method" if question.name == DOOR else "default",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


DOOR = next(iter({question.door for question in QUESTIONS.values() if question.door}))


def _knobs(question: Question) -> str:
    if not question.experiment:
        return "see the docs"
    own = [
        f"`{k.name}`" if k.default is NONE else f"`{k.name}={_short(k.default)}`" for k in knobs(question, own=True).own
    ]
    return ", ".join(own) or "none"


def _short(default: object) -> str:
    text = repr(default)
    return text if len(text) <= 40 else text[:20].rsplit(",", 1)[0] + ", ...)"


if __name__ == "__main__":
    import sys

    sys.stdout.write(table())
