"""`SteeringVector`: values, the site that they were recorded at, and where they came from.

Saved as safetensors, the site and the origin in the file's metadata.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis import files
from steerscope.analysis.brief import brief, counted
from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.nodes import Site, parse_site
from steerscope.analysis.tensors import read_tensors

from .stored import FAULTS, Entry, Stored, bytes_of, held_of

MOST = 2**27  # numbers in a vector, half a gigabyte: no prompt is so long, no model so wide

if TYPE_CHECKING:  # as they are kept; the door takes more
    Values = Float[Tensor, "pos width"]
    Place = Site
else:
    Values = Tensor | np.ndarray | Sequence[float] | Sequence[Sequence[float]]
    Place = Site | str


@gated(error=BadVector)
@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector:
    """An activation that can be injected.

    Attributes:
        values: `[pos, width]`, float32 on the CPU; one row to a position of the source prompts, BOS first. Arrays and
            lists will do, and `[width]` for one row.
        site: where it was recorded; `L5.resid_pre` will do.
        source: where it came from: its recipe, what that was given, and `label`, the vector in words.

    Raises:
        BadVector: values of another shape, not finite, or beyond what float32 holds; a source that no file can hold.
        BadNode: no such site.
    """

    values: Values
    site: Place
    source: Mapping[str, Any] = field(default_factory=dict)

    __array_ufunc__ = None  # numpy leaves arithmetic to us

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", parse_site(self.site) if isinstance(self.site, str) else self.site)
        object.__setattr__(self, "values", _single(self.values, self.site))
        try:
            json.dumps(dict(self.source), ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise BadVector(
                f"the source of a steering vector cannot be written down ({error}); expected texts, finite numbers, "
                "lists and dictionaries of them; make it of these"
            ) from error

    @property
    def rows(self) -> int:
        return int(self.values.shape[0])

    @property
    def norms(self) -> Float[Tensor, " pos"]:
        """Norm of each row, in units of the stream; in double precision, where no square overflows."""
        norms: Tensor = self.values.double().norm(dim=-1)
        return norms

    @property
    def body(self) -> "SteeringVector":
        """Without leading rows that are exactly zero: the BOS of a prompt pair."""
        kept = self.norms.nonzero()
        return self if len(kept) == 0 else self._with(self.values[int(kept[0]) :])

    @gated(error=BadVector)
    def row(self, index: int) -> "SteeringVector":
        """One row alone, for positions `last` and `all`."""
        if not -self.rows <= index < self.rows:
            raise BadVector(
                f"row {index} of a vector with {self.rows} rows; expected {-self.rows} to {self.rows - 1}; choose one"
            )
        return self._with(self.values[index][None], row=index)

    def mean(self) -> "SteeringVector":
        """The mean of the rows."""
        return self._with(self.values.double().mean(dim=0, keepdim=True), rows="mean")

    def _with(self, values: Tensor, **more: Any) -> "SteeringVector":
        return replace(self, values=values, source={**self.source, **more})

    @gated(error=BadVector)
    def __add__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combine(other, 1.0, "+")

    @gated(error=BadVector)
    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combine(other, -1.0, "-")

    def _combine(self, other: "SteeringVector", sign: float, symbol: str) -> "SteeringVector":
        if other.site != self.site or other.values.shape != self.values.shape:
            raise BadVector(
                f"cannot combine {self.site} {list(self.values.shape)} with {other.site} {list(other.values.shape)}; "
                "expected the same site and shape; record both alike"
            )
        source = {"recipe": "sum", "label": f"({self.label}) {symbol} ({other.label})"}
        return SteeringVector(self.values + sign * other.values, self.site, source)

    @gated(error=BadVector)
    def __mul__(self, factor: float) -> "SteeringVector":
        source = {"recipe": "multiple", "label": f"{factor:g} ({self.label})"}
        values = self.values * float(factor)
        if factor and self.values.any() and not values.any():
            raise BadVector(f"{factor:g} times {self!r} is 0 in float32; expected a larger factor; choose one")
        return SteeringVector(values, self.site, source)

    __rmul__ = __mul__

    @gated(error=BadVector)
    def __truediv__(self, divisor: float) -> "SteeringVector":
        if divisor == 0:
            raise BadVector("a steering vector divided by 0; expected another number; choose one")
        return self * (1 / divisor)

    def __neg__(self) -> "SteeringVector":
        return -1.0 * self

    def _no(self, other: object) -> NoReturn:
        raise BadVector(
            f"no such arithmetic of a steering vector and {type(other).__name__}; expected a sum or difference of two "
            "vectors, or a vector times or by a number; write for example 2 * (a - b)"
        )

    __radd__ = __rsub__ = __rtruediv__ = __matmul__ = __rmatmul__ = __pow__ = __rpow__ = _no
    __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = _no

    @property
    def label(self) -> str:
        """In words, for reports: `" wedding" - " "`."""
        return str(self.source.get("label") or self.source.get("recipe", "given vector"))

    def __repr__(self) -> str:
        low, high = float(self.norms.min()), float(self.norms.max())
        size = f"{counted(self.rows, 'row')} of {self.values.shape[1]}, norms {low:.3g} to {high:.3g}"
        return f"<SteeringVector {brief(self.label)} at {self.site}: {size}>"

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the vector."""
        digest = hashlib.sha256(self.values.contiguous().numpy().tobytes()).hexdigest()
        return {
            "label": self.label,
            "source": {key: value for key, value in self.source.items() if key != "label"},
            "site": str(self.site),
            "rows": self.rows,
            "norm": [float(f"{n:.7g}") for n in self.norms.tolist()],
            "hash": digest,
        }

    @gated
    def save(self, path: str | Path) -> Path:
        """Writes one file: `.safetensors` (or no suffix), or `.gguf`, a control vector for llama.cpp and others.

        Raises:
            BadVector: another suffix, or a vector that a control vector has no place for.
            DiskFull, CannotWrite: it cannot be written.
        """
        return files.write(path, bytes_of(path, Stored((Entry(self.site, self.values, self.source),))))

    @classmethod
    @gated(error=BadVector)
    def load(cls, path: str | Path) -> "SteeringVector":
        """Reads what `save` wrote as safetensors; `read_vector` reads all kinds of files.

        Raises:
            BadVector: missing, not safetensors, changed since it was written, or without a site.
        """
        with suppress(OSError, ValueError):  # what cannot be looked at cannot be read either
            if Path(path).stat().st_size > 8 * MOST:
                raise BadVector(f"{str(path)!r} holds over {8 * MOST:,} bytes; expected a steering vector; check it")
        tensors, about = read_tensors(path, BadVector, "steering vector", needed=False)
        try:
            held = held_of(tensors, about)
            if held is None or held.bundle is not None:
                raise ValueError("it says of no site" if held is None else "it holds several: use read_vector")
            [one] = held.entries
            return cls(one.values, one.site, one.source)
        except FAULTS as error:
            raise BadVector(
                f"{str(path)!r} is no steering vector ({brief(str(error), 300)}); expected what SteeringVector.save "
                "wrote; bring it back, or make it again"
            ) from error


def _single(given: Any, site: Site) -> Float[Tensor, "pos width"]:
    """Values as they are kept, or why they cannot be."""
    try:
        found = torch.as_tensor(given).detach()
        shape = list(found.shape)
        if found.numel() > MOST or 0 in shape or len(shape) not in (1, 2):
            raise BadVector(
                f"a steering vector got the shape {shape}; expected [pos, width] or [width], at most {MOST:,} numbers; "
                "give one row for each position"
            )
        if found.is_complex():
            raise BadVector(f"a steering vector for {site} got complex values; expected real ones; take their parts")
        values = found.to("cpu", torch.float32)
        finite, gone = bool(torch.isfinite(values).all()), bool(found.any()) and not values.any()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadVector(
            f"a steering vector for {site} got values that are no tensor of numbers ({brief(str(error), 100)}); "
            "expected [pos, width]; give a tensor"
        ) from error
    if not finite or gone:
        what = "is 0 everywhere once it is" if gone else "holds nan or infinite values, or larger ones than"
        raise BadVector(
            f"a steering vector for {site} {what} float32; expected finite values that float32 holds; scale it"
        )
    return values[None] if values.ndim == 1 else values
