"""Many vectors at once: a table of prompts, one vector a row.

1. Read the rows: name, kind, plus, minus and a layer (`layer`, or `layer_fraction` of the model's depth); whatever
   other columns there are (category, coefficient, on_topic_words, source) go along.
2. Plan every row; those without a layer are recorded at one fraction of the depth. What cannot be planned is listed
   with its line and the reason.
3. Record `ROWS` rows together: runs that are the same are made once, runs of like length go through the model together.
4. Write a `.safetensors` file a vector, `vectors.csv` of those that were made and `failed.csv` of those that were not.

A build that was stopped goes on: a file that was made of the same row by the same model is kept.

The table that comes with steerscope (`bulk`) holds 140 vectors in 34 categories: those of Turner et al.'s post with
their layers and coefficients, the rest ours.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from steerscope.analysis import files
from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadNode, BadPrompt, BadVector
from steerscope.analysis.gate import Share, Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.progress import track

from .plans import Plan, place, recorded, vector_of
from .recipes import RECIPES
from .records import Row, rows
from .vector import SteeringVector

SHIPPED = Path(__file__).with_name("data") / "bulk.csv"
NAME = "bulk"  # what it is called
ROWS = 16  # that are recorded together
MADE, FAILED = "vectors.csv", "failed.csv"
KINDS = {  # by kind, the recipe and which columns its options are
    "pair": ("prompt_pair", {"plus": "plus", "minus": "minus"}),
    "single": ("single_prompt", {"prompt": "plus"}),
    "minus_mean": ("minus_mean", {"prompt": "plus"}),
}
NAMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Wanted:
    """A row that can be planned."""

    row: Row
    plan: Plan
    at: Site
    hash: str

    @property
    def name(self) -> str:
        return str(self.row.fields["name"])

    @property
    def file(self) -> str:
        """The name of its file: its own, or what of it a file's name can hold, and a hash."""
        if NAMED.fullmatch(self.name):
            return f"{self.name}.safetensors"
        kept = re.sub(r"[^A-Za-z0-9_-]+", "_", self.name)[:60].strip("_-") or "vector"
        return f"{kept}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}.safetensors"


@dataclass(frozen=True, eq=False)
class Built:
    """What was made of a table.

    Attributes:
        made: one row a vector: line, name, file, recipe, layer, rows, norm, and the table's other columns.
        failed: one row a row that could not be built: line, name, reason.
        kept: how many had been made before.
    """

    made: pd.DataFrame
    failed: pd.DataFrame
    kept: int


@gated(error=BadVector)
def build_vectors(
    model: Model,
    table: str | Path,
    out: str | Path,
    *,
    layer: Whole | None = None,
    fraction: Share = 0.25,
    site: str = "resid_pre",
) -> Built:
    """Builds every vector of a table into a folder.

    Args:
        table: a file (.csv, .jsonl) with columns name, kind (pair, single, minus_mean), plus, minus, and layer or
            layer_fraction; `bulk` for the 140 that come with steerscope.
        out: the folder of the vectors.
        layer: for all rows, whatever they say.
        fraction: of the model's depth, for rows that say neither layer nor layer_fraction.
        site: resid_pre, attn_out or mlp_out.

    Raises:
        BadVector: the table cannot be read.
        BadNode: no such site or layer.
        DiskFull, CannotWrite: it cannot be written; what is there stays good.
    """
    place(model, layer or 0, site)
    listed = rows(SHIPPED if str(table) == NAME else table, ("name", "plus"))
    folder = Path(out)
    twice = {name for name, count in Counter(str(row.fields["name"]) for row in listed).items() if count > 1}
    planned: list[Wanted] = []
    failed: list[dict[str, Any]] = []
    for row in listed:
        try:
            planned.append(_planned(model, row, twice, layer, fraction, site))
        except (BadVector, BadNode, BadPrompt) as reason:
            failed.append({"line": row.place, "name": row.fields["name"], "reason": str(reason)})
    made: list[dict[str, Any]] = []
    kept = 0
    todo: list[Wanted] = []
    for one in planned:
        there = _there(folder, one)
        kept += there is not None
        if there is None:
            todo.append(one)
        else:
            made.append(_about(one, there))
    for one, result in _recorded(model, todo):
        if isinstance(result, SteeringVector):
            result.save(folder / one.file)
            made.append(_about(one, result))
        else:
            failed.append({"line": one.row.place, "name": one.name, "reason": str(result)})
    order = {row.place: number for number, row in enumerate(listed)}
    tables = []
    for name, found, columns in ((MADE, made, ["line", "name"]), (FAILED, failed, ["line", "name", "reason"])):
        sorted_ = sorted(found, key=lambda one: order[one["line"]])
        tables.append(pd.DataFrame(sorted_) if sorted_ else pd.DataFrame(columns=columns))
        files.write(folder / name, tables[-1].to_csv(index=False))
    return Built(tables[0], tables[1], kept)


def _planned(model: Model, row: Row, twice: set[str], layer: int | None, fraction: float, site: str) -> Wanted:
    """What a row asks of the model.

    Raises:
        BadVector, BadNode, BadPrompt: it asks for what cannot be.
    """
    fields = {name: value for name, value in row.fields.items() if value not in (None, "")}
    name, kind = str(row.fields["name"]), str(fields.get("kind", "pair"))
    if name in twice or not name.strip():
        what = "stands there twice" if name in twice else "is blank"
        raise BadVector(f"the name {brief(name)!r} {what}; expected one of its own; choose another")
    if kind not in KINDS:
        raise BadVector(f"the kind {brief(kind)!r}; expected one of {', '.join(KINDS)}; choose one")
    recipe, options = KINDS[kind]
    told = {option: str(row.fields.get(column) or "") for option, column in options.items()}
    plan = RECIPES[recipe].plan(model, told)
    longest = max(len(run.ids) for run in plan.runs)
    if longest > model.n_ctx:
        raise BadVector(f"a prompt of {longest} tokens; {model.name} reads at most {model.n_ctx}; shorten it")
    at = place(model, _layer(model, fields, fraction) if layer is None else layer, site)
    content = json.dumps([kind, told, str(at), model.weights_hash])
    return Wanted(row, plan, at, hashlib.sha256(content.encode()).hexdigest())


def _layer(model: Model, fields: dict[str, Any], fraction: float) -> int:
    try:
        if "layer" in fields:
            return int(fields["layer"])
        share = float(fields.get("layer_fraction", fraction))
        if not 0 <= share <= 1:
            raise ValueError
        return min(round(share * model.n_layers), model.n_layers - 1)
    except (ValueError, OverflowError):
        told = ", ".join(f"{key}={fields[key]!r}" for key in ("layer", "layer_fraction") if key in fields)
        raise BadVector(
            f"got {brief(told)}; expected a layer of the model, or a layer_fraction from 0 to 1; mend it"
        ) from None


def _there(folder: Path, one: Wanted) -> SteeringVector | None:
    """The vector of a row, where it was made before, of the same row by the same model."""
    with suppress(BadVector):
        found = SteeringVector.load(folder / one.file)
        return found if found.source.get("row") == one.hash else None
    return None


def _recorded(model: Model, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, SteeringVector | Exception]]:
    ordered = sorted(wanted, key=lambda one: len(one.plan.runs[0].ids))
    for start in track(range(0, len(ordered), ROWS), "vectors"):
        chunk = ordered[start : start + ROWS]
        for one, kept in zip(chunk, recorded(model, [(one.plan, one.at) for one in chunk]), strict=True):
            try:
                made = vector_of(one.plan, one.at, kept)
                yield one, SteeringVector(made.values, made.site, {**made.source, "row": one.hash})
            except BadVector as reason:
                yield one, reason


def _about(one: Wanted, vector: SteeringVector) -> dict[str, Any]:
    """A vector's row of the table."""
    last = float(vector.norms[-1])
    about: dict[str, Any] = {"line": one.row.place, "name": one.name, "file": one.file}
    about |= {"recipe": vector.source["recipe"], "site": str(vector.site), "rows": vector.rows, "norm": f"{last:.6g}"}
    return about | {column: value for column, value in one.row.fields.items() if column not in about}
