"""`Column`: what a column of a table means, in which unit, and which role it plays.

A role says how a column can be drawn, so that a page can show a result that nobody has drawn by hand:

    node       what a row is about: a head or MLP, by name; with `layer` and `head` it has a place on the node map
    measure    which of several quantities the row holds (necessity, sufficiency; direct, net)
    axis       a number that rows run along: a coefficient, a fraction, a position
    label      any other name that tells rows apart
    estimate   the number that was found; `low` and `high` are its interval
    reference  the same number for reference vectors, with `reference_low` and `reference_high` as their band
    verdict    what is said of the row: significant, specific, against
    share      the estimate over the whole
    detail     everything else: looked up, not drawn

The first estimate of a frame is the one that is drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from steerscope.analysis.gate import gated

Role = Literal[
    "node",
    "layer",
    "head",
    "measure",
    "axis",
    "label",
    "estimate",
    "low",
    "high",
    "reference",
    "reference_low",
    "reference_high",
    "verdict",
    "share",
    "detail",
]
ROLES: tuple[str, ...] = get_args(Role)


@gated
@dataclass(frozen=True)
class Column:
    """A column of a frame.

    Attributes:
        meaning: in words, for the legend.
        unit: `""` for none; `{metric}` stands for the unit of the metric of the result, `{unit}` for the frame's
            own column of that name.
        role: how it can be drawn.
    """

    meaning: str
    unit: str = ""
    role: Role = "detail"


Frame = dict[str, Column]
Frames = dict[str, Frame]


def with_role(frame: Frame, role: str) -> list[str]:
    """Names of the columns that play a role, in order."""
    return [name for name, column in frame.items() if column.role == role]


def to_json(columns: Mapping[str, Mapping[str, Column]]) -> dict[str, dict[str, list[str]]]:
    """For the manifest: frame -> column -> [meaning, unit, role]."""
    return {
        name: {column: [c.meaning, c.unit, c.role] for column, c in frame.items()} for name, frame in columns.items()
    }


def from_json(found: Mapping[str, Mapping[str, list[str]]]) -> Frames:
    """What `to_json` wrote.

    Raises:
        ValueError: something else.
    """
    made: Frames = {}
    for name, frame in found.items():
        made[name] = {}
        for column, (meaning, unit, role) in frame.items():
            if role not in ROLES:
                raise ValueError(f"column {column!r} has the role {role!r}")
            made[name][column] = Column(str(meaning), str(unit), role)  # type: ignore[arg-type]  # checked
    return made
