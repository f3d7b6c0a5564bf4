"""`Plan`: everything that a sweep is, before its first trial: checked, described, saved, and cut into blocks."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq

from steerscope.analysis.errors import (
    BadArgument,
    BadInjection,
    BadMetric,
    BadNode,
    BadPrompt,
    DamagedRun,
    OutputExists,
)
from steerscope.analysis.gate import Bytes, Count, Seed, Within, gated, shown
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.model.positions import Positions, parse_positions
from steerscope.analysis.question.corpora import file_hash
from steerscope.analysis.question.groups import groups_of
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import METRICS, Metric, own_direction
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.question.size import check_size
from steerscope.analysis.vectors.vector import SteeringVector

from .additions import Additions, Given, additions
from .chosen import units, units_given
from .described import differences
from .design import MANY, Amount, Design, Every, Held, Vectors
from .store import ADDITIONS, PROMPTS, Store, key_of
from .work import Block, Work

BLOCK_TOKENS = 16_384  # of all trials of a block: seconds of work, lost when a run is killed
SWEPT = [name for name in METRICS if name != "logit_direction"]
OWN = "each prompt's own direction: the whole effect is positive by construction, and its sign says nothing"
Loader = Callable[[], Model]


@gated
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

    @gated
    def block(self, index: Annotated[int, Within(0, MANY)]) -> Block:
        """A block with the prompts of its trials."""
        if index >= self.blocks:
            raise BadArgument(f"block {index} of {self.blocks}; expected 0 to {self.blocks - 1}; choose one")
        design, size = self.work.design, self.block_trials
        start, stop = index * size, min((index + 1) * size, design.trials)
        visits = range(start // design.visit, -(-stop // design.visit))
        wanted = {design.of_visit(visit)[0] for visit in visits}
        return Block(index, start, stop, {prompt: self.prompts.ids[prompt] for prompt in wanted})

    @gated
    def tasks(self, done: Mapping[int, Any]) -> Iterator[Block]:
        """The blocks that are not done."""
        return (self.block(index) for index in range(self.blocks) if index not in done)

    @gated
    def create(self, store: Store) -> None:
        """Makes the run's folder, unless it holds a run already."""
        store.create(
            {**self.about, "created": datetime.now(UTC).isoformat(timespec="seconds")},
            {ADDITIONS: self.work.additions.packed(), PROMPTS: _packed(self.prompts)},
        )

    @gated
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


@gated
def plan(
    model: Model,
    vectors: SteeringVector | Given | Sequence[SteeringVector | Given],
    prompts: Prompts | Sequence[str] | Sequence[Sequence[int]],
    *,
    trials: Amount = 2000,
    k: Count | tuple[Count, Count] = (1, 4),
    design: str | Sequence[str] = "uniform",
    mode: str = "own",
    nodes: str | Sequence[Node | str] = "all",
    positions: Positions | str | int | Sequence[int] = "all",
    coefficients: Sequence[float] | float = (1.0,),
    metric: Metric | None = None,
    scored: str | Sequence[int] | None = None,
    controls: Vectors = 20,
    control_every: Every = 2,
    spacing: str = "any",
    antithetic: bool = False,
    mixed: bool = False,
    visit: Held = 0,
    block: Held = 0,
    seed: Seed = 0,
    loader: Loader | None = None,
    sources: Mapping[str, str | Path] | None = None,
    budget: Bytes | None = None,
    command: str | None = None,
) -> Plan:
    """A checked plan of a sweep; the arguments are those of `sweep`."""
    several = [vectors] if isinstance(vectors, SteeringVector | Mapping) else list(vectors)
    place = parse_positions(positions if isinstance(positions, Positions | str | int) else tuple(positions))
    texts = make_prompts(model, prompts)
    if not texts.groups:
        texts = replace(texts, groups=tuple(groups_of(texts.ids, model.bos_token).tolist()))
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
    _check_scored(scored)
    chosen = units_given(model, several) if mode == "given" else units(model, mode == "shared", nodes)
    made = additions(model, mode, several, chosen, place)
    _check_injections(model, made, drawn, place)
    wanted = metric or own_direction()
    work = _work(
        model,
        loader,
        wanted,
        design=drawn,
        additions=made,
        mode=mode,
        place=place,
        scored=scored if isinstance(scored, str | None) else tuple(scored),
        budget=budget,
    )
    _check_prompts(model, work, texts)
    work, left_out = _reachable(model, work, texts)
    drawn.check(work.additions.units)
    about = _about(model, work, texts, wanted, sources or {}, left_out)
    about["block"] = block or about["block"]
    about |= {} if command is None else {"command": command}
    return Plan(model, texts, replace(work, key=key_of(about)), about)


@gated
def reopen(store: Store, model: Model, loader: Loader | None = None) -> Plan:
    """The plan of a run that is there, on `model`.

    Raises:
        OutputExists: the model is another one; with the difference.
        DamagedRun: the run's own files changed.
    """
    about = store.manifest()
    _check_sources(store, about)
    if about["model"]["weights_hash"] != model.weights_hash:
        found = differences({"model": about["model"]}, {"model": model.describe()})
        raise OutputExists(
            f"the model is not the one of the run in {str(store.folder)!r}: {'; '.join(found)}; expected the same "
            "weights; bring them back, or begin another run"
        )
    metric = about["metric"]
    if metric["name"] not in METRICS:
        raise DamagedRun(
            f"the run in {str(store.folder)!r} has the metric {metric['name']!r}; expected one of {', '.join(SWEPT)}; "
            "update steerscope, or begin another run"
        )
    work = _work(
        model,
        loader,
        METRICS[metric["name"]](**metric["options"]),
        key=key_of(about),
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
    begun = {model.has_bos(row) for row in ids}
    if "bos_token" not in about["model"] and begun != {about["model"]["bos"] is not None}:
        raise OutputExists(
            f"the run in {str(store.folder)!r} took the first token of every prompt for BOS or none, and here some are "
            "and some are not; expected trials of one kind in a run; begin another run, this one can be read"
        )
    return Plan(model, prompts, work, about)


def _work(model: Model, loader: Loader | None, metric: Metric, *, key: str = "", **more: Any) -> Work:
    """A work on `model`; `more`: what does not follow from it."""
    return Work(
        key=key,
        loader=loader or _loader(model),
        weights_hash=model.weights_hash,
        metric=_portable(model, metric),
        bos=model.bos_token,
        **more,
    )


def _frozen(value: Any) -> Any:
    """What JSON made a list of was a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _check_sources(store: Store, about: Mapping[str, Any]) -> None:
    """Files that the run was made from may go, but not change."""
    for name, path in about["paths"].items():
        was = about["sources"].get(name, "")
        if Path(path).is_file() and (now := file_hash(path)) != was:
            raise OutputExists(
                f"the {name} file {path!r} has changed since the run in {str(store.folder)!r} began "
                f"(SHA-256 was {was[:12]}, is {now[:12]}); expected the same content; bring it back, or begin another "
                "run"
            )


def _check_scored(scored: str | Sequence[int] | None) -> None:
    if scored in ("all", "last") or scored is None or (not isinstance(scored, str) and len(scored)):
        return
    raise BadArgument(f"scored={shown(scored)}; expected None, all, last or indices; choose one")


def _check_injections(model: Model, additions: Additions, design: Design, place: Positions) -> None:
    """What is added must fit the positions, and the numbers of the model must hold it: the whole injection, and the
    largest parts that a trial may put together, at the largest and the smallest coefficient.

    Raises:
        BadInjection: it does not.
    """
    if place.part is not None:
        raise BadInjection(
            f"a sweep's positions cannot be named by a part of a chat ({place}); expected all, front, middle, back, "
            "last or indices; choose one"
        )
    if place.indices and additions.rows not in (1, len(place.indices)):
        raise BadInjection(
            f"the vectors have {additions.rows} rows for {len(place.indices)} positions; expected one row, or one for "
            "each; give as many positions"
        )
    several = len(additions.units) if design.antithetic else design.k[1]
    rows = [tuple(max(column, key=_largest) for column in zip(*additions.parts, strict=True))]
    rows = rows if design.mixed else list(additions.parts)
    together = [*additions.whole, *(sorted(row, key=_largest)[-several:] for row in rows)]
    for coefficient in {max(design.coefficients, key=abs), min(design.coefficients, key=abs)}:
        for vectors in together:
            check_size(model, [Injection(vector, coefficient) for vector in vectors])


def _largest(vector: SteeringVector) -> float:
    return float(vector.values.abs().max())


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
    if metric.answers is not None or metric.at_end:
        raise BadMetric(
            "a sweep cannot measure log_prob of each prompt's own answers; expected the same targets for all prompts; "
            "give them, or ask localize"
        )
    return metric.name, {name: [model.target(t) for t in words] for name, words in metric.options.items()}


def _check_prompts(model: Model, work: Work, prompts: Prompts) -> None:
    if not len(prompts):
        raise BadPrompt("no prompts; expected at least one; add some")
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
    for prompt in {work.layout(ids[:-1]) for ids in prompts.ids}:
        work.positions(prompt)


def _reachable(model: Model, work: Work, prompts: Prompts) -> tuple[Work, tuple[str, ...]]:
    """Leaves out the units that cannot change any scored position: the last layer's, beside the injected ones."""
    layouts = {work.layout(ids[:-1]) for ids in prompts.ids}
    seen = any(set(work.injected(prompt)) & set(work.positions(prompt)) for prompt in layouts)
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


def _packed(prompts: Prompts) -> bytes:
    table = pa.table(
        {
            "prompt": pa.array(range(len(prompts)), pa.int32()),
            "text": pa.array(prompts.texts, pa.string()),
            "ids": pa.array([list(ids) for ids in prompts.ids], pa.list_(pa.int32())),
            "group": pa.array(prompts.by_group, pa.int64()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
