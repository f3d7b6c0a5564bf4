"""The rows of a run: what each trial notes, and all of them as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from steerscope.analysis.errors import DamagedRun
from steerscope.analysis.gate import gated
from steerscope.analysis.results.schema import Column, Frame

from .comparable import comparable
from .design import KINDS
from .estimate import Trials
from .store import Store
from .units import Unit

_ROW: Mapping[str, tuple[pa.DataType, Column]] = {
    "trial": (pa.int64(), Column("number of the trial; with the seed it fixes everything else in the row")),
    "visit": (pa.int32(), Column("trials of one visit share prompt, vector and coefficient")),
    "prompt": (pa.int32(), Column("index of the prompt")),
    "nodes": (pa.list_(pa.string()), Column("what was injected into, as a list")),
    "k": (pa.int16(), Column("how many nodes")),
    "design": (pa.string(), Column("uniform, stratified, horizontal or vertical")),
    "antithetic": (pa.bool_(), Column("whether it is the complement of the trial before it")),
    "mode": (pa.string(), Column("what each node gets: own, through, shared or given")),
    "vector": (pa.int16(), Column("which vector, by its number; missing where each node draws its own")),
    "drawn": (
        pa.list_(pa.int16()),
        Column("with mixed vectors: the number of each node's vector, in the order of nodes"),
    ),
    "control": (pa.int16(), Column("number of the random vector; -1 for the real one")),
    "coefficient": (pa.float64(), Column("multiplies what is injected")),
    "effect": (pa.float32(), Column("metric of this run minus the same of the clean run", "{metric}", "estimate")),
    "own": (
        pa.float32(),
        Column(
            "projection on the change of logits that the whole injection of this vector, real or random, makes here",
            "logits",
        ),
    ),
    "kl": (pa.float32(), Column("disturbance: KL(run || clean), mean over scored positions", "nats")),
    "perplexity": (pa.float64(), Column("of the text that truly follows, at the scored positions")),
    "entropy": (pa.float32(), Column("of the next token, mean over scored positions", "nats")),
    "norm": (
        pa.float32(),
        Column(
            "norm of the sum of what the nodes were given, as written into the stream, each relative to the clean "
            "stream's norm at its layer; root mean square over injected positions",
            "stream norms",
        ),
    ),
    "clean_perplexity": (pa.float64(), Column("the same of the clean run")),
    "clean_entropy": (pa.float32(), Column("the same of the clean run", "nats")),
    "steered_effect": (
        pa.float32(),
        Column("effect of the whole injection of this vector, real or random", "{metric}"),
    ),
    "steered_own": (pa.float32(), Column("the same along its own change of logits", "logits")),
    "steered_kl": (pa.float32(), Column("disturbance of the whole injection", "nats")),
    "steered_perplexity": (pa.float64(), Column("perplexity under the whole injection")),
}
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in _ROW.items()])
TRIALS: Frame = {name: column for name, (_, column) in _ROW.items()}
"""The parts of a run have these columns; its result, which is made from them, does not hold them."""
_UNREAD = {"trial", "visit", "antithetic", "mode", "drawn", "entropy", "clean_entropy"}  # by no estimate


@dataclass(frozen=True)
class Rows:
    """All trials of a run as arrays; four outcomes: effect, KL, rise of the log-perplexity, and the effect along the
    vector's own change.

    Attributes:
        whole: the outcomes of the whole injection of the trial's vector, real or random.
        group: of the trial's prompt.
        units: names of the units, in the order of x.
        spacing: of the design's vertical layers.
    """

    x: NDArray[np.bool_]
    y: NDArray[np.float64]
    whole: NDArray[np.float64]
    prompt: NDArray[np.int64]
    k: NDArray[np.int64]
    design: NDArray[np.int64]
    cell: NDArray[np.int64]
    coefficient: NDArray[np.float64]
    control: NDArray[np.int64]
    norm: NDArray[np.float64]
    clean: NDArray[np.float64]
    group: NDArray[np.int64]
    units: Sequence[Unit]
    spacing: str

    @property
    def real(self) -> NDArray[np.bool_]:
        return np.asarray(self.control < 0)

    @property
    def random(self) -> NDArray[np.bool_]:
        return np.asarray(self.control >= 0)

    @cached_property
    def _all(self) -> Trials:
        where = comparable(self.x, self.design, self.units, self.spacing)
        return Trials(self.x, self.y, self.prompt, self.cell, self.group, self.design, *where)

    def trials(self, chosen: NDArray[np.bool_]) -> Trials:
        """What the estimates need of some of them."""
        return self._all.where(chosen)

    def injections(self, chosen: NDArray[np.bool_]) -> Trials:
        """The whole injections beside some of them, as trials without nodes."""
        parts = (np.zeros((len(self.k), 0), bool), self.whole, self.prompt, self.cell, self.group)
        return Trials(*parts).where(chosen)


@gated
def read(store: Store, about: Mapping[str, Any]) -> Rows:
    """The rows that are there, a part at a time.

    Raises:
        DamagedRun: there are none, or others than the manifest says.
    """
    try:
        return _rows(store, about)
    except (KeyError, ValueError, IndexError, pa.ArrowException) as error:
        raise DamagedRun(
            f"the trials in {str(store.folder)!r} are not those of its manifest ({type(error).__name__}: "
            f"{str(error)[:100]}); expected rows that a sweep wrote; begin another run"
        ) from error


def _rows(store: Store, about: Mapping[str, Any]) -> Rows:
    names = {name: i for i, name in enumerate(about["nodes"])}
    wanted = [name for name in TRIALS if name not in _UNREAD]
    parts = [_part(table, names, about["coefficients"]) for table in store.read(wanted)]
    if not parts:
        raise DamagedRun(
            f"no trials in {str(store.folder)!r} yet; expected at least one whole part; "
            f"go on with `steerscope sweep resume {store.folder}`"
        )
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    groups = np.asarray(store.prompts()["group"].to_numpy(), dtype=np.int64)
    units = [Unit.parse(name) for name in about["nodes"]]
    more: dict[str, Any] = {"group": groups[columns[3]], "units": units, "spacing": about["design"]["spacing"]}
    return Rows(*columns, **more)


def _part(table: pa.Table, names: dict[str, int], coefficients: Sequence[float]) -> tuple[Any, ...]:
    lists = table["nodes"].combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    x = np.zeros((len(lists), len(names)), dtype=bool)
    at = [names[name] for name in lists.flatten().to_pylist()]
    x[np.repeat(np.arange(len(lists)), lengths), at] = True

    def array(name: str, kind: Any = np.float64) -> NDArray[Any]:
        return np.asarray(table[name].combine_chunks().to_numpy(zero_copy_only=False), dtype=kind)

    def outcomes(before: str) -> NDArray[np.float64]:
        loss = np.log(array(f"{before}perplexity")) - np.log(array("clean_perplexity"))
        return np.stack([array(f"{before}effect"), array(f"{before}kl"), loss, array(f"{before}own")], axis=1)

    vector = np.asarray(table["vector"].combine_chunks().fill_null(0).to_numpy(), dtype=np.int64)
    coefficient = array("coefficient")
    return (
        x,
        outcomes(""),
        outcomes("steered_"),
        array("prompt", np.int64),
        array("k", np.int64),
        np.array([KINDS.index(d) for d in table["design"].to_pylist()], dtype=np.int64),
        vector * len(coefficients) + np.searchsorted(np.sort(coefficients), coefficient),
        coefficient,
        array("control", np.int64),
        array("norm"),
        array("clean_perplexity"),
    )
