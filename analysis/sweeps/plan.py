"""`Plan`: everything that a sweep is, before its first trial: checked, described, saved, and cut into blocks."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steerscope.analysis.errors import BadArgument, BadMetric, BadNode, BadPrompt, OutputExists
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import Positions, parse_positions
from steerscope.analysis.question.corpora import file_hash
from steerscope.analysis.question.groups import groups_of
from steerscope.analysis.question.metrics import METRICS, Metric, own_direction
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.vectors.vector import SteeringVector

from .additions import Additions, Given, additions
from .design import Design
from .store import ADDITIONS, PROMPTS, Store
from .units import Unit, of_node, units
from .work import Block, Work

BLOCK_TOKENS = 16_384  # of all trials of a block: seconds of work, lost when a run is killed
FIXED = (
    "model",
    "mode",
    "nodes",
    "vectors",
    "additions",
    "positions",
    "design",
    "prompts",
    "metric",
    "seed",
    "block",
    "sources",
)
SWEPT = [name for name in METRICS if name != "logit_direction"]
OWN = "each prompt's own direction: the whole effect is positive by construction, and its sign says nothing"
Loader = Callable[[], Model]


@dataclass(frozen=True, eq=False)
class Plan:
    """A sweep: the model, the prompts, what workers need, and what the manifest says."""

    model: Model
    prompts: Prompts
    work: Work
    about: Mapping[str, Any]

    @property
    def block_trials(self) -> int:
        return int(self.about["block"])

    @property
    def blocks(self) -> int:
        return -(-self.work.design.trials // self.block_trials)

    def block(self, index: int) -> Block:
        """A block with the prompts of its trials."""
        design, size = self.work.design, self.block_trials
        start, stop = index * size, min((index + 1) * size, design.trials)
        visits = range(start // design.visit, -(-stop // design.visit))
        wanted = {design.of_visit(visit)[0] for visit in visits}
        return Block(index, start, stop, {prompt: self.prompts.ids[prompt] for prompt in wanted})

    def tasks(self, done: Mapping[int, Any]) -> Iterator[Block]:
        """The blocks that are not done."""
        return (self.block(index) for index in range(self.blocks) if index not in done)

    def create(self, store: Store) -> None:
        """Makes the run's folder."""
        additions = self.work.additions
        store.create(
            {**self.about, "created": datetime.now(UTC).isoformat(timespec="seconds")},
            {ADDITIONS: additions.save, PROMPTS: partial(_write_prompts, self.prompts)},
        )

    def check_same(self, store: Store) -> None:
        """Refuses a folder whose run is another one.

        Raises:
            OutputExists: with every difference.
        """
        found = differences(store.manifest(), self.about)
        if found:
            raise OutputExists(
                f"{str(store.folder)!r} holds another sweep: {'; '.join(found)}; expected the same one, to go on with "
                "it; choose another folder, or give what that run was given"
            )


def plan(
    model: Model,
    vectors: SteeringVector | Given | Sequence[SteeringVector | Given],
    prompts: Prompts | Sequence[str] | Sequence[Sequence[int]],
    *,
    trials: int = 2000,
    k: int | tuple[int, int] = (1, 4),
    design: str | Sequence[str] = "uniform",
    mode: str = "own",
    nodes: str | Sequence[str] = "all",
    positions: Positions | str | int | Sequence[int] = "all",
    coefficients: Sequence[float] | float = (1.0,),
    metric: Metric | None = None,
    scored: str | tuple[int, ...] | None = None,
    controls: int = 20,
    control_every: int = 2,
    spacing: str = "any",
    antithetic: bool = False,
    mixed: bool = False,
    visit: int = 0,
    block: int = 0,
    seed: int = 0,
    loader: Loader | None = None,
    sources: Mapping[str, str | Path] | None = None,
    budget: int | None = None,
    command: str | None = None,
) -> Plan:
    """A checked plan of a sweep; the arguments are those of `sweep`."""
    several = [vectors] if isinstance(vectors, SteeringVector | Mapping) else list(vectors)
    place = parse_positions(positions if isinstance(positions, Positions | str | int) else tuple(positions))
    texts = make_prompts(model, prompts)
    if not texts.groups:
        texts = replace(texts, groups=tuple(groups_of(texts.ids, model.bos).tolist()))
    grid = (coefficients,) if isinstance(coefficients, int | float) else tuple(coefficients)
    drawn = Design(
        trials=trials,
        prompts=len(texts),
        kinds=(design,) if isinstance(design, str) else tuple(design),
        k=(k, k) if isinstance(k, int) else k,
        spacing=spacing,
        antithetic=antithetic,
        mixed=mixed,
        coefficients=grid,
        vectors=max(1, len(several)),
        controls=controls,
        control_every=control_every,
        visit=visit,
        seed=seed,
    )
    chosen = _units(model, mode, nodes, several)
    made = additions(model, mode, several, chosen, place)
    wanted = metric or own_direction()
    work = _work(
        model, loader, wanted, design=drawn, additions=made, mode=mode, place=place, scored=scored, budget=budget
    )
    _check_prompts(model, work, texts)
    work, left_out = _reachable(model, work, texts)
    drawn.check(work.additions.units)
    about = _about(model, work, texts, wanted, sources or {}, left_out)
    about["block"] = block or about["block"]
    about |= {} if command is None else {"command": command}
    return Plan(model, texts, replace(work, key=_key(about)), about)


def reopen(store: Store, model: Model, loader: Loader | None = None) -> Plan:
    """The plan of a run that is there, on `model`.

    Raises:
        OutputExists: the model is another one; with the difference.
        DamagedRun: the run's own files changed.
    """
    store.check_files()
    about = store.manifest()
    _check_sources(store, about)
    if about["model"]["weights_hash"] != model.weights_hash:
        found = differences({"model": about["model"]}, {"model": model.describe()})
        raise OutputExists(
            f"the model is not the one of the run in {str(store.folder)!r}: {'; '.join(found)}; expected the same "
            "weights; bring them back, or begin another run"
        )
    metric = about["metric"]
    work = _work(
        model,
        loader,
        METRICS[metric["name"]](**metric["options"]),
        key=_key(about),
        design=Design(**{name: _frozen(value) for name, value in about["design"].items()}),
        additions=Additions.load(store.folder / ADDITIONS),
        mode=about["mode"],
        place=parse_positions(about["positions"]),
        scored=_frozen(metric["scored_as"]),
        budget=about["budget"],
    )
    table = store.prompts()
    ids = tuple(map(tuple, table["ids"].to_pylist()))
    texts, groups = (tuple(table[name].to_pylist()) for name in ("text", "group"))
    prompts = Prompts(ids, texts, about["prompts"]["source"], groups=groups)
    return Plan(model, prompts, work, about)


def _work(model: Model, loader: Loader | None, metric: Metric, *, key: str = "", **more: Any) -> Work:
    """A work on `model`; `more`: what does not follow from it."""
    return Work(
        key=key,
        loader=loader or _loader(model),
        weights_hash=model.weights_hash,
        metric=_portable(model, metric),
        has_bos=model.bos is not None,
        **more,
    )


def _key(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps({name: about[name] for name in FIXED}).encode()).hexdigest()


def _frozen(value: Any) -> Any:
    """What JSON made a list of was a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _check_sources(store: Store, about: Mapping[str, Any]) -> None:
    """Files that the run was made from may go, but not change."""
    for name, path in about["paths"].items():
        if Path(path).is_file() and file_hash(path) != about["sources"][name]:
            raise OutputExists(
                f"the {name} file {path!r} has changed since the run in {str(store.folder)!r} began "
                f"(SHA-256 was {about['sources'][name][:12]}, is {file_hash(path)[:12]}); expected the same content; "
                "bring it back, or begin another run"
            )


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of a sweep, each as a phrase."""
    old, new = _flat(there), _flat(now)
    names = [n for n in dict.fromkeys([*old, *new]) if n.split(".")[0] in FIXED and not _incidental(n)]
    return [
        (
            f"{name} was {json.dumps(old.get(name), ensure_ascii=False)} and is "
            f"{json.dumps(new.get(name), ensure_ascii=False)}"
        )
        for name in names
        if old.get(name) != new.get(name)
    ]


def _incidental(name: str) -> bool:
    """What a model is called and where it lies may change; what it is may not."""
    return name.startswith("model.") and name not in ("model.weights_hash", "model.dtype", "model.bos")


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{above}{key}.") if isinstance(inner, Mapping) else {f"{above}{key}": inner}
    return found


def _units(
    model: Model, mode: str, nodes: str | Sequence[str], vectors: Sequence[SteeringVector | Given]
) -> tuple[Unit, ...]:
    if mode != "given":
        return units(model, mode == "shared", nodes)
    names = [sorted(map(str, v)) for v in vectors if isinstance(v, Mapping)]
    if any(n != names[0] for n in names) or not names:
        raise BadArgument(
            "mode given got dictionaries with different nodes, or none; expected the same nodes in each; fill "
            "in zeros where nothing is added"
        )
    known = {str(node): of_node(node) for node in model.nodes}
    wrong = [name for name in names[0] if name not in known]
    if wrong:
        raise BadNode(
            f"{wrong[0]!r} is no node of {model.name}; expected heads such as L0H1 or MLPs such as L0M; mend "
            "the dictionary"
        )
    return tuple(known[name] for name in known if name in set(names[0]))


def _loader(model: Model) -> Loader | None:
    """Loads the same model again, in another process; None for a bridge that is only in memory."""
    if model.source is None:
        return None
    return partial(
        load,
        model.source,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        name=model.name,
        selfcheck=False,
    )


def _portable(model: Model, metric: Metric) -> tuple[str, dict[str, Any]]:
    """The metric as plain data, its words as token ids, so that workers need no tokenizer."""
    if metric.name == "logit_direction":
        raise BadMetric(
            "a sweep cannot measure logit_direction, which takes a prompt's direction from the other prompts, since "
            "trials stream by; expected own_direction (each prompt's own), log_prob, kl or perplexity; choose one"
        )
    if metric.name not in METRICS or "continuation" in metric.options:
        raise BadMetric(
            f"a sweep cannot measure {metric.name} {metric.options or ''}; expected one of {', '.join(SWEPT)}, "
            "without a continuation of your own (each prompt's own text is what follows); choose one"
        )
    return metric.name, {name: [model.single_token(t) for t in words] for name, words in metric.options.items()}


def _check_prompts(model: Model, work: Work, prompts: Prompts) -> None:
    if prompts.continuations:
        raise BadPrompt(
            "the prompts have continuations; expected none: the last token of each prompt is what a sweep "
            "predicts; join them"
        )
    short = next((i for i, ids in enumerate(prompts.ids) if len(ids) < 3), None)
    if short is not None:
        raise BadPrompt(
            f"prompt {short + 1} ({prompts.texts[short]!r}) has {len(prompts.ids[short])} tokens; expected at least 3, "
            "since the last one is only predicted; give longer prompts"
        )
    for length in {len(ids) for ids in prompts.ids}:
        work.positions(length)


def _reachable(model: Model, work: Work, prompts: Prompts) -> tuple[Work, tuple[str, ...]]:
    """Leaves out the units that cannot change any scored position: the last layer's, beside the injected ones."""
    seen = any(set(work.injected(length)) & set(work.positions(length)) for length in {len(ids) for ids in prompts.ids})
    old = work.additions
    kept = [i for i, u in enumerate(old.units) if seen or u.layer < model.n_layers - 1]
    if len(kept) == len(old.units):
        return work, ()
    if not kept:
        raise BadNode(
            "none of the chosen nodes can change a scored position: those of the last layer act only where they are "
            f"injected ({work.place}); expected nodes of earlier layers, or positions all; choose others"
        )
    fewer = Additions(
        tuple(old.units[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in old.parts),
        tuple(tuple(row[i] for i in kept) for row in old.whole) if work.mode == "given" else old.whole,
        tuple(old.writers[i] for i in kept),
    )
    left_out = tuple(u.name for i, u in enumerate(old.units) if i not in kept)
    return replace(work, additions=fewer), left_out


def _about(
    model: Model,
    work: Work,
    prompts: Prompts,
    metric: Metric,
    sources: Mapping[str, str | Path],
    left_out: Sequence[str],
) -> dict[str, Any]:
    longest = max(map(len, prompts.ids))
    design = work.design
    visits = max(1, round(min(2048, BLOCK_TOKENS // longest) / design.visit))
    return {
        "model": model.describe(),
        "mode": work.mode,
        "nodes": [unit.name for unit in work.additions.units],
        "left_out": list(left_out),
        "vectors": work.additions.describe(),
        "additions": work.additions.hash,
        "coefficients": list(design.coefficients),
        "positions": str(work.place),
        "design": design.describe(),
        "prompts": {
            "count": len(prompts),
            "hash": prompts.hash,
            "source": prompts.source,
            "tokens": longest,
            "groups": len(set(prompts.by_group.tolist())),
        },
        "metric": {
            "name": metric.name,
            "unit": metric.unit,
            "options": dict(metric.options),
            **metric.options,
            "about": OWN if metric.name == "own_direction" else "",
            "scored": _scored(work),
            "scored_as": list(work.scored) if isinstance(work.scored, tuple) else work.scored,
        },
        "seed": design.seed,
        "block": visits * design.visit,
        "budget": work.budget,
        "sources": {name: file_hash(path) for name, path in sources.items()},
        "paths": {name: str(Path(path).resolve()) for name, path in sources.items()},
    }


def _scored(work: Work) -> str:
    if work.scored == "all":
        return "all positions but BOS"
    if work.scored is not None:
        return "the last position" if work.scored == "last" else f"positions {list(work.scored)}"
    if work.place.repeats:
        return "every position from the first injected one on"
    return "positions after the first injected one that are not injected themselves"


def _write_prompts(prompts: Prompts, path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array(range(len(prompts)), pa.int32()),
            "text": pa.array(prompts.texts, pa.string()),
            "ids": pa.array([list(ids) for ids in prompts.ids], pa.list_(pa.int32())),
            "group": pa.array(prompts.by_group, pa.int64()),
        }
    )
    pq.write_table(table, path, compression="zstd")
