"""`SteeringVector`: values, the site that they were recorded at, and where they came from.

Saved as safetensors, the site and the origin in the file's metadata.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from steerscope.analysis.brief import brief, counted
from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.nodes import Site, parse_site


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector:
    """An activation that can be injected.

    Attributes:
        values: `[pos, width]`, float32 on the CPU; one row to a position of the source prompts, BOS first.
        site: where it was recorded.
        source: where it came from: its recipe, what that was given, and `label`, the vector in words.
    """

    values: Float[Tensor, "pos width"]
    site: Site
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.values).detach().to("cpu", torch.float32)
        values = values[None] if values.ndim == 1 else values
        if values.ndim != 2 or 0 in values.shape:
            raise BadVector(f"a steering vector got the shape {list(values.shape)}; expected [pos, width] or [width]")
        if not torch.isfinite(values).all():
            raise BadVector(f"a steering vector for {self.site} holds nan or infinite values; expected finite ones")
        object.__setattr__(self, "values", values)

    @property
    def rows(self) -> int:
        return int(self.values.shape[0])

    @property
    def norms(self) -> Float[Tensor, " pos"]:
        """Norm of each row, in units of the stream."""
        return self.values.square().sum(dim=-1).sqrt()

    @property
    def body(self) -> "SteeringVector":
        """Without leading rows that are exactly zero: the BOS of a prompt pair."""
        kept = self.norms.nonzero()
        return self if len(kept) == 0 else self._with(self.values[int(kept[0]) :])

    def row(self, index: int) -> "SteeringVector":
        """One row alone, for positions `last` and `all`."""
        if not -self.rows <= index < self.rows:
            raise BadVector(f"row {index} of a vector with {self.rows} rows; expected {-self.rows} to {self.rows - 1}")
        return self._with(self.values[index][None], row=index)

    def mean(self) -> "SteeringVector":
        """The mean of the rows."""
        return self._with(self.values.mean(dim=0, keepdim=True), rows="mean")

    def _with(self, values: Tensor, **more: Any) -> "SteeringVector":
        return replace(self, values=values, source={**self.source, **more})

    def __add__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combine(other, 1.0, "+")

    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combine(other, -1.0, "-")

    def _combine(self, other: "SteeringVector", sign: float, symbol: str) -> "SteeringVector":
        if not isinstance(other, SteeringVector):
            return NotImplemented
        if other.site != self.site or other.values.shape != self.values.shape:
            raise BadVector(
                f"cannot combine {self.site} {list(self.values.shape)} with {other.site} {list(other.values.shape)}; "
                "expected the same site and shape; record both alike"
            )
        source = {"recipe": "sum", "label": f"({self.label}) {symbol} ({other.label})"}
        return SteeringVector(self.values + sign * other.values, self.site, source)

    def __mul__(self, factor: float) -> "SteeringVector":
        source = {"recipe": "multiple", "label": f"{factor:g} ({self.label})"}
        return SteeringVector(self.values * factor, self.site, source)

    __rmul__ = __mul__

    def __neg__(self) -> "SteeringVector":
        return -1.0 * self

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
            "norm": [round(float(n), 6) for n in self.norms],
            "hash": digest,
        }

    def save(self, path: str | Path) -> Path:
        """Writes one safetensors file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"steerscope": "1", "site": str(self.site), "source": json.dumps(dict(self.source))}
        save_file({"values": self.values.contiguous()}, str(path), metadata=metadata)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "SteeringVector":
        """Reads what `save` wrote.

        Raises:
            BadVector: missing, not safetensors, or without a site.
        """
        path = Path(path)
        if not path.is_file():
            raise BadVector(f"no vector file {str(path)!r}; expected what SteeringVector.save wrote; check the path")
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                return cls(file.get_tensor("values"), parse_site(metadata["site"]), json.loads(metadata["source"]))
        except (SafetensorError, KeyError, ValueError) as error:
            raise BadVector(
                f"{str(path)!r} is no steering vector ({error}); expected what SteeringVector.save wrote"
            ) from error
