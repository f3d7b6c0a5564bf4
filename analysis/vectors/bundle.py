"""`VectorBundle`: one steering vector a layer, as control vectors and stacks of directions are.

It is a mapping from layers to vectors; `question.bundles.bundle` makes injections of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steerscope.analysis import files
from steerscope.analysis.brief import brief, counted
from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Whole, gated

from .stored import Entry, Stored, bytes_of
from .vector import SteeringVector


@gated(error=BadVector)
@dataclass(frozen=True, eq=False, repr=False)
class VectorBundle(Mapping[int, SteeringVector]):
    """Vectors by layer, in the order of layers, each at its layer whatever layer it was recorded at.

    Attributes:
        vectors: by layer.
        source: where they came from; `label`, in words.

    Raises:
        BadVector: no vectors, or vectors of several widths, sites or heads.
    """

    vectors: Mapping[Whole, SteeringVector]
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {(v.site.name, v.site.head, int(v.values.shape[1])) for v in self.vectors.values()}
        if len(kinds) != 1:
            what = "; ".join(f"{name} of width {width}" for name, _, width in sorted(kinds, key=str)) or "nothing"
            raise BadVector(
                f"a bundle of {brief(what, 200)}; expected one vector or more, all of the same site and width; bundle "
                "vectors that were made alike"
            )
        placed = {n: replace(v, site=replace(v.site, layer=n)) for n, v in sorted(self.vectors.items())}
        object.__setattr__(self, "vectors", placed)

    def __getitem__(self, layer: int) -> SteeringVector:
        return self.vectors[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def label(self) -> str:
        """In words: that of the source, or of the vectors where they have one alike."""
        labels = list(dict.fromkeys(vector.label for vector in self.values()))
        return str(self.source.get("label") or (labels[0] if len(labels) == 1 else f"{labels[0]} and others"))

    @gated(error=BadVector)
    def at(self, layers: Sequence[Whole]) -> "VectorBundle":
        """The vectors of some layers alone.

        Raises:
            BadVector: a layer that has none.
        """
        absent = [layer for layer in layers if layer not in self]
        if absent:
            raise BadVector(
                f"no vector at layer {absent[0]} of {self!r}; expected some of {', '.join(map(str, self))}; choose "
                "among them"
            )
        return VectorBundle({layer: self[layer] for layer in layers}, self.source)

    @gated
    def save(self, path: str | Path) -> Path:
        """Writes one file: `.safetensors` (or no suffix), or `.gguf`, a control vector; `read_vector` reads it back.

        Raises:
            BadVector: another suffix, or vectors that a control vector has no place for.
            DiskFull, CannotWrite: it cannot be written.
        """
        entries = tuple(Entry(vector.site, vector.values, vector.source) for vector in self.values())
        return files.write(path, bytes_of(path, Stored(entries, self.source)))

    def __repr__(self) -> str:
        layers = list(self)
        where = f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
        return f"<VectorBundle {brief(self.label)}: {counted(len(layers), 'vector')}, {where}>"
