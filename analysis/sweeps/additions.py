"""What a trial adds to a unit, for every vector: the four modes, and the control.

Adding one vector of the stream to different heads of a layer is the same edit, since they write into
one stream. So a sweep says which of these it means:

- own: every unit gets its own activation difference between the plus and the minus prompt, a head in
  `z`, an MLP in its output: the activation addition restricted to that unit.
- through: a head gets the `z` whose image under its output matrix is closest to the vector (least
  squares), an MLP the vector itself.
- shared: the vector is added to the stream where the unit writes; the heads of a layer are one unit.
- given: a dictionary from units to vectors.

A control is one random vector in the place of the real one: the whole injection is random, and its parts are that
vector pushed through each unit (shared: the vector itself), as much of it written into the stream as of the real part.
In mode given, where no vector stands behind the parts, each unit draws its own.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.errors import BadVector, DamagedRun
from steerscope.analysis.gate import Seed, Within, gated, shown
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, parse_site
from steerscope.analysis.model.positions import Positions
from steerscope.analysis.tensors import read_tensors, tensor_bytes
from steerscope.analysis.vectors.plans import kept_at, rows_of
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.recipes import recipe_of
from steerscope.analysis.vectors.vector import SteeringVector

from .units import Unit

MODES = ("own", "through", "shared", "given")
Given = Mapping[str | Node, SteeringVector | Tensor]
Place = Annotated[int, Within(0)]


@gated
@dataclass(frozen=True, eq=False)
class Additions:
    """For every vector, what each unit gets, and the whole injection that these are parts of.

    Attributes:
        parts: by vector and unit, at the unit's site; one row, or a row for each injected position.
        whole: by vector, what the fully steered run injects.
        writers: by unit, the head's output matrix `[d_head, d_model]`; None where the site is the stream.

    Raises:
        BadVector: not something for every unit.
    """

    units: tuple[Unit, ...]
    parts: tuple[tuple[SteeringVector, ...], ...]
    whole: tuple[tuple[SteeringVector, ...], ...]
    writers: tuple[Float[Tensor, "d_head d_model"] | None, ...]

    def __post_init__(self) -> None:
        counts = {len(self.units), len(self.writers), *map(len, self.parts)}
        if len(counts) > 1 or not self.units or not self.parts or len(self.whole) != len(self.parts):
            raise BadVector(
                f"additions for {len(self.units)} units got {sorted(counts)} parts of {len(self.parts)} vectors, "
                f"{len(self.whole)} of them whole; expected a part of every vector for every unit; give as many"
            )

    @property
    def rows(self) -> int:
        return self.parts[0][0].rows

    @gated
    def control(self, vector: Place, seed: Seed) -> tuple[tuple[SteeringVector, ...], tuple[SteeringVector, ...]]:
        """A random vector: the part of every unit, which writes as much into the stream as the real one, row by row;
        and the whole injection.
        """
        if vector >= len(self.parts):
            raise BadVector(f"vector {vector} of {len(self.parts)}; expected 0 to {len(self.parts) - 1}; choose one")
        real, whole = self.parts[vector], self.whole[vector]
        if whole[0].site.name == "resid_pre":
            behind = random_like(whole[0], seed)
            drawn = [self.through(unit, behind.values) for unit in range(len(self.units))]
            return tuple(self._as_much(i, real[i], x) for i, x in enumerate(drawn)), (behind,)
        seeds = np.random.SeedSequence(seed).generate_state(len(self.units)).tolist()
        parts = tuple(
            self._as_much(i, v, random_like(v, s).values) for i, (v, s) in enumerate(zip(real, seeds, strict=True))
        )
        return parts, parts

    def _as_much(self, unit: int, real: SteeringVector, drawn: Tensor) -> SteeringVector:
        image, wanted = (self.image(unit, values).norm(dim=-1, keepdim=True) for values in (drawn, real.values))
        values = drawn.double() * wanted / image.clamp_min(1e-30)
        return SteeringVector(values.float(), real.site, {"recipe": "random", "like": real.label})

    def through(self, unit: int, values: Float[Tensor, "row d_model"]) -> Tensor:
        """What a unit must be given to write as much of a vector as it can (least squares)."""
        inverse = self._inverses[unit]
        return values.double() if inverse is None else values.double() @ inverse

    @cached_property
    def _inverses(self) -> tuple[Float[Tensor, "d_model d_head"] | None, ...]:
        return tuple(None if w is None else torch.linalg.pinv(w.double()) for w in self.writers)

    def image(self, unit: int, values: Tensor) -> Float[Tensor, "row d_model"]:
        """What an addition at the unit's site adds to the stream (before a norm after the node, if any)."""
        writer = self.writers[unit]
        return values.double() if writer is None else values.double() @ writer.double()

    @cached_property
    def hash(self) -> str:
        """SHA-256 over all sites and values."""
        digest = hashlib.sha256()
        for vector in (v for group in (*self.parts, *self.whole) for v in group):
            digest.update(str(vector.site).encode() + vector.values.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def describe(self) -> list[dict[str, Any]]:
        """What the manifest says of each vector."""
        return [{**group[0].describe(), "whole": [str(v.site) for v in group]} for group in self.whole]

    def packed(self) -> bytes:
        """One safetensors file."""
        tensors, about = {}, {}
        for kind, groups in (("part", self.parts), ("whole", self.whole)):
            for v, group in enumerate(groups):
                for i, vector in enumerate(group):
                    key = f"{kind}.{v}.{i}"
                    tensors[key] = vector.values.clone()  # modes may share one
                    about[key] = {"site": str(vector.site), "source": dict(vector.source)}
        units = [[u.name, u.kind, str(u.site)] for u in self.units]
        for i, writer in enumerate(self.writers):
            if writer is not None:
                tensors[f"writer.{i}"] = writer.contiguous()
        return tensor_bytes(tensors, {"about": json.dumps(about), "units": json.dumps(units)})

    @staticmethod
    @gated
    def load(path: str | Path) -> "Additions":
        """Reads a file of what `packed` gives.

        Raises:
            DamagedRun: it is none, or has changed.
        """
        found, metadata = read_tensors(path, DamagedRun, "additions of a sweep")
        try:
            about, names = json.loads(metadata["about"]), json.loads(metadata["units"])
            groups: dict[str, dict[int, list[SteeringVector]]] = {"part": {}, "whole": {}}
            for key in sorted(about, key=lambda key: [int(part) for part in key.split(".")[1:]]):
                kind, vector, _ = key.split(".")
                site, source = parse_site(about[key]["site"]), about[key]["source"]
                groups[kind].setdefault(int(vector), []).append(SteeringVector(found[key], site, source))
            units = tuple(Unit(name, kind, parse_site(site)) for name, kind, site in names)
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise DamagedRun(
                f"{str(path)!r} holds no additions of a sweep ({type(error).__name__}: {str(error)[:100]}); expected "
                "those that a sweep wrote; begin another run"
            ) from error
        parts, whole = (tuple(map(tuple, groups[kind].values())) for kind in ("part", "whole"))
        return Additions(units, parts, whole, tuple(found.get(f"writer.{i}") for i in range(len(units))))


@gated
def additions(
    model: Model, mode: str, vectors: Sequence[SteeringVector | Given], chosen: Sequence[Unit], place: Positions
) -> Additions:
    """What every unit gets of every vector in a mode.

    Args:
        vectors: steering vectors at `resid_pre` (mode own: made from a prompt pair); in mode given,
            dictionaries from nodes (`L3H1`, `L3M`) to vectors, all of the same nodes.
        place: where they go; positions last and all take the last row of a vector of several.

    Raises:
        BadVector: a vector that does not fit the mode.
    """
    if mode not in MODES:
        raise BadVector(f"unknown mode {shown(mode)}; expected one of {', '.join(MODES)}; choose one")
    wrong = [v for v in vectors if isinstance(v, SteeringVector) == (mode == "given")]
    if wrong or not vectors:
        expected = "dictionaries from nodes to vectors" if mode == "given" else "steering vectors"
        raise BadVector(
            f"mode {mode} got {type(wrong[0]).__name__ if wrong else 'no vector'}; expected {expected}; or "
            "choose another mode"
        )
    parts: list[tuple[SteeringVector, ...]] = []
    whole: list[tuple[SteeringVector, ...]] = []
    for vector in vectors:
        if isinstance(vector, SteeringVector):
            full = _rows(vector, place)
            _check_stream(model, full)
            row = {"own": _own, "through": _through, "shared": _shared}[mode](model, full, chosen)
            whole.append((full,))
        else:
            row = _given(model, vector, chosen, place)
            whole.append(row)
        parts.append(row)
    if len({v.rows for group in (*parts, *whole) for v in group}) > 1:
        raise BadVector(
            "the vectors have different numbers of rows; expected the same; give prompts of equal length, or "
            "use positions all"
        )
    return Additions(tuple(chosen), tuple(parts), tuple(whole), tuple(_writer(model, u) for u in chosen))


def _rows(vector: SteeringVector, place: Positions) -> SteeringVector:
    """Positions that repeat one row take that of the last token; indices leave the zero row for BOS out."""
    if place.repeats:
        return vector.row(-1)
    return vector if place.place in ("front", "middle", "back") else vector.body


def _check_stream(model: Model, vector: SteeringVector) -> None:
    model.check(vector.site)
    if vector.site.name != "resid_pre" or vector.values.shape[1] != model.d_model:
        raise BadVector(
            f"a vector at {vector.site} of width {vector.values.shape[1]}; expected one at resid_pre of width "
            f"{model.d_model}; record it at resid_pre, or give each node its own (mode given)"
        )


def _own(model: Model, vector: SteeringVector, chosen: Sequence[Unit]) -> tuple[SteeringVector, ...]:
    """Every unit's own activation difference, from one pass over both prompts."""
    recipe = recipe_of(vector)
    if recipe is None or not recipe.planned:
        raise BadVector(
            f"mode own needs the runs that ({vector.label}) was recorded from, and this vector has none; expected one "
            "made of prompts; use --plus and --minus (steering_vector), or mode through or shared"
        )
    plan, at = recipe.plan(model, vector.source), (vector.site.name, vector.site.layer)
    sites = sorted({at, *((unit.site.name, unit.layer) for unit in chosen)})
    kept = dict(zip(sites, kept_at(model, [(plan, site) for site in sites]), strict=True))
    whole = kept[at] if vector.site.head is None else kept[at][:, vector.site.head]
    weights, _ = rows_of(vector, plan.weigh(whole).weights, whole)
    if weights is None:
        raise BadVector(
            f"({vector.label}) has {vector.rows} rows, and its runs made again give others; expected the vector as it "
            "was recorded, its body, a row or the mean; make it again"
        )
    parts = []
    for unit in chosen:
        x = kept[unit.site.name, unit.layer]
        values = weights @ (x if unit.site.head is None else x[:, unit.site.head])
        parts.append(SteeringVector(values.float(), unit.site, {**vector.source, "recipe": "own difference"}))
    return tuple(parts)


def _through(model: Model, vector: SteeringVector, chosen: Sequence[Unit]) -> tuple[SteeringVector, ...]:
    parts = []
    for unit in chosen:
        writer, values = _writer(model, unit), vector.values
        if writer is not None:
            solution = torch.linalg.lstsq(writer.double().T, values.double().T, driver="gelsd")
            values = solution.solution.T.float()
        parts.append(SteeringVector(values, unit.site, {**vector.source, "recipe": "pushed through"}))
    return tuple(parts)


def _shared(model: Model, vector: SteeringVector, chosen: Sequence[Unit]) -> tuple[SteeringVector, ...]:
    return tuple(SteeringVector(vector.values, unit.site, vector.source) for unit in chosen)


def _given(model: Model, vectors: Given, chosen: Sequence[Unit], place: Positions) -> tuple[SteeringVector, ...]:
    named = {str(node): vector for node, vector in vectors.items()}
    lacking = [unit.name for unit in chosen if unit.name not in named]
    if lacking:
        raise BadVector(
            f"the dictionary has nothing for {', '.join(lacking[:5])}; expected a vector for every node; fill in zeros"
        )
    parts = []
    for unit in chosen:
        value = named[unit.name]
        vector = value if isinstance(value, SteeringVector) else SteeringVector(value, unit.site, {"recipe": "given"})
        if vector.values.shape[1] != model.width(unit.site):
            raise BadVector(
                f"{unit.name} was given a vector of width {vector.values.shape[1]}; expected {model.width(unit.site)} "
                f"at {unit.site}; give one of that width"
            )
        parts.append(replace(_rows(vector, place), site=unit.site))
    return tuple(parts)


def _writer(model: Model, unit: Unit) -> Tensor | None:
    if unit.site.name != "z":
        return None
    matrix = model.bridge.blocks[unit.layer].attn.W_O[unit.site.head]
    return matrix.detach().float().cpu().clone()  # type: ignore[no-any-return]
