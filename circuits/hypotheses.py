"""The hypotheses that come with steerscope, by name, and files of one's own.

name: minimal
title: what it says
task: ioi
roles: {mover: [L9H6, L9H9]}
claims:                                  # of what the logits read
  - node: mover                          # a role: one claim of each of its nodes
    at: END                              # a place of the task, S1+1, or a position
    feature: answer                      # see `features`
    reads:                               # of what it reads: by its query, key or value
      - {node: embedding, by: [k, v], at: [IO, S1], feature: "tokens at [IO, S1]"}
"""

from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field, StringConstraints

from steerscope.analysis.brief import quoted
from steerscope.analysis.errors import BadCircuit, BadNode
from steerscope.analysis.gate import gated
from steerscope.analysis.model.nodes import parse_node

from .features import PROMPT, feature_of
from .hypothesis import EMBEDDING, Claim, Hypothesis
from .lined import Document, Part, read_document
from .shipped import named, shipped

WHAT = "a hypothesis as docs/scrubbing.md shows it"
MOST = 1000  # claims of a tree
SAID = ("name", "title", "model", "task", "roles", "rivals", "sources", "reported", "caveats")
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]
Position = Annotated[int, Field(ge=0, le=1_000_000)]
Input = Literal["q", "k", "v"]


class _Claim(Part):
    node: Text | Annotated[list[Text], Field(min_length=1)]
    by: Input | Annotated[list[Input], Field(min_length=1)] | None = None
    at: Text | Position | Annotated[list[Text | Position], Field(min_length=1)] | None = None
    feature: Text = PROMPT
    reads: list["_Claim"] = []


class _File(Part):
    name: Text
    title: Text
    model: str = ""
    task: str = ""
    roles: dict[Text, Annotated[list[Text], Field(min_length=1)]] = {}
    rivals: list[Text] = []
    sources: list[Text] = []
    reported: dict[Text, Annotated[float, Field(allow_inf_nan=False)]] = {}
    caveats: list[Text] = []
    claims: Annotated[list[_Claim], Field(min_length=1)]


@gated(error=BadCircuit)
def hypothesis(name: str | Path) -> Hypothesis:
    """A shipped hypothesis by its name, or one from a YAML or JSON file.

    The name comes first: a file called `planted` is `./planted.yaml`.

    Raises:
        BadCircuit: there is no such hypothesis or file, or something in it is wrong (with file and line).
    """
    return named(name, "hypotheses", "hypothesis", read_hypothesis)


@gated
def hypotheses() -> pd.DataFrame:
    """One row for each shipped hypothesis: name, title, model, task, claims, rivals, source."""
    found = [hypothesis(name) for name in shipped("hypotheses")]
    rows = [
        (one.name, one.title, one.model, one.task, len(one), ", ".join(one.rivals), "; ".join(one.sources[:1]))
        for one in found
    ]
    return pd.DataFrame(rows, columns=["name", "title", "model", "task", "claims", "rivals", "source"])


@gated(error=BadCircuit)
def read_hypothesis(path: Path) -> Hypothesis:
    """A hypothesis from a YAML or JSON file.

    Raises:
        BadCircuit: it cannot be read, or something in it is wrong; the message names file and line.
    """
    told, document = read_document(path, WHAT, _File)
    for role, nodes in told.roles.items():
        for index, node in enumerate(nodes):
            _check_node(document, node, document.line("roles", role, "nodes", index))
    claims = _claims(document, told, told.claims, ("claims",))
    made = Hypothesis(claims=claims, **{name: getattr(told, name) for name in SAID})
    if len(made) > MOST:
        raise BadCircuit(f"{quoted(path)} makes {len(made):,} claims; expected at most {MOST:,}; claim less")
    return made


def _claims(document: Document, file: _File, told: list[_Claim], spot: tuple[str | int, ...]) -> tuple[Claim, ...]:
    found: list[Claim] = []
    for index, one in enumerate(told):
        here = (*spot, index)
        try:
            feature_of(one.feature)
        except BadCircuit as error:
            raise document.wrong(document.line(*here, "feature"), str(error).split(";")[0]) from error
        children = _claims(document, file, one.reads, (*here, "reads"))
        for node in [one.node] if isinstance(one.node, str) else one.node:
            if node not in file.roles:
                _check_node(document, node, document.line(*here, "node"))
            at = None if one.at is None else tuple(one.at) if isinstance(one.at, list) else (one.at,)
            inputs = one.by if isinstance(one.by, list) else [one.by]
            found += [Claim(node, one.feature, by, at, children) for by in inputs]
    if len(found) > MOST:
        raise document.wrong(document.line(*spot), f"makes more than {MOST:,} claims")
    return tuple(found)


def _check_node(document: Document, node: str, line: int) -> None:
    if node == EMBEDDING:
        return
    try:
        parse_node(node)
    except BadNode as error:
        raise document.wrong(line, f"{str(error).split(';')[0]} (nor a role of this file)") from error
