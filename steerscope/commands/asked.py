"""Commands from the registry: what every question asks of the command line, and its own knobs.

The shared options (model, vector, prompts, metric, references, folder) are written here once; a question's own are read
from its signature (`steerscope.knobs`).
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadArgument, BadInjection, BadPrompt
from steerscope.analysis.vectors.recipes import ASKED
from steerscope.commands import options, vectors
from steerscope.commands.finish import Answer, Out
from steerscope.knobs import KINDS, NONE, Knob, Knobs, knobs
from steerscope.questions import Question

if TYPE_CHECKING:
    from steerscope.analysis.model.models import Model
    from steerscope.analysis.question.cost import Cost
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.question.injection import Injection
    from steerscope.analysis.vectors.bundle import VectorBundle
    from steerscope.analysis.vectors.vector import SteeringVector
    from steerscope.commands.inject import Wanted


class Operation(StrEnum):
    add = "add"
    ablate = "ablate"
    set = "set"
    clamp = "clamp"
    scale = "scale"
    rotate = "rotate"
    norm_add = "norm_add"


class During(StrEnum):
    prompt = "prompt"
    generation = "generation"
    both = "both"


class Matched(StrEnum):
    norm = "norm"
    kl = "kl"


class Precision(StrEnum):
    exact = "exact"
    delta = "delta"
    auto = "auto"


class Groups(StrEnum):
    auto = "auto"
    each = "each"


METRIC = (
    "logit_direction (the vector's change of the logits in the other groups of prompts), own_direction (in the prompt "
    "itself: positive by construction), log_prob, kl or perplexity."
)
REFERENCES = (
    "Vectors of equal norm that ride along, such as concepts:16,isotropic:4; a number is so many isotropic ones. "
    "Default: concepts:12,isotropic:16 of words, shuffled:16,isotropic:12 of a difference of means, else isotropic:20."
)
GIVEN = (
    "A vector of yours that rides along beside those, any number of them: a file of one vector (in place of every "
    "injection's), or of one a layer."
)
PRECISION = (
    "Of reference vectors at single nodes: exact is float32; delta computes changes in bfloat16 and checks itself; "
    "auto is delta where that is faster here. The real vector is always exact."
)
AROUND = ("out", "overwrite", "report", "dry_run", "executor", "workers", "address")
ONE = ("layer", "coef", "positions", "operation", "during")  # of the one injection that options describe
OPERATION = (
    "add; norm_add (at an unchanged norm); ablate (coef: the share); set or clamp the component (coef times the "
    "vector's norm); scale it (coef: the factor); rotate (coef: degrees)."
)
DURING = "Completions: edit the prompt, every generated token, or both. Analyses read the prompt."
INJECT = (
    "An injection, any number of them: vector=v.safetensors,layer=6,coef=10,positions=front,operation=add,during=both; "
    'or plus=" wedding",minus=" ",...; a JSON object; or a file .toml with [[inject]]. everywhere=true: at all layers.'
)
POSITIONS = "front, middle, back, last, all, indices such as 3,4,-1, or a part of a chat such as last of instruction."
EXAMPLE = 'steerscope {} --model tinystories-2l --plus " wedding" --layer {} --coef 3 --prompts general{} --out out/{}'


def command(question: Question) -> Callable[..., Answer]:
    """A command that asks the question, saves the result, writes its page and says what was found."""
    read = knobs(question)
    vector, shared = vectors.options(several=True), list(inspect.signature(experiment_of).parameters.values())[1:]
    around = [o for o in inspect.signature(_around).parameters.values() if o.name in AROUND]
    levels = [o for o in inspect.signature(_around).parameters.values() if o.name in read.shared]
    every = [*vector, *shared, *map(_option, read.own), *levels, *around]
    every = [_usual(question, option.replace(kind=inspect.Parameter.KEYWORD_ONLY)) for option in every]
    every.sort(key=lambda option: option.default is not inspect.Parameter.empty)

    def ask(**given: Any) -> Answer:
        from steerscope.analysis.results.effects import Statistics
        from steerscope.commands.finish import check_out, finish

        out, overwrite, page = given["out"], given["overwrite"], given["report"]
        check_out(out, overwrite)
        levels = {name: given[name] for name in read.shared}
        Statistics(**levels)  # refuses what makes no sense
        own = _given(read, given)
        steering = _steering(given, [option.name for option in vector], question)
        from steerscope.analysis.results.result import PAGE

        check_out(out, overwrite, question.tables, [PAGE] if page else [])
        from steerscope.analysis.executors.executors import executor as executor_of

        where = given["executor"].value, given["workers"], given["address"]
        executor_of(*where)  # refuses what is none
        from steerscope.analysis.engine.elsewhere import executor
        from steerscope.analysis.question.cost import cost
        from steerscope.analysis.tools.keeping import forget, keeping

        experiment = experiment_of(steering, **{option.name: given[option.name] for option in shared})
        if (told := _estimated(cost(experiment, question.name, **own, **levels), given["dry_run"])) is not None:
            return told
        with executor(*where), keeping(out):
            result = question.function(experiment, **own, **levels)
        answer = finish(result, out, overwrite, page)
        forget(out)
        return answer

    needed = "".join(f" --{k.name.replace('_', '-')} ..." for k in read.own if k.default is NONE)
    layer = int(question.name == "writers")
    example = EXAMPLE.format(question.command, layer, needed, question.command.split()[-1])
    ask.__doc__ = f"{read.help}\n\nExample: {example}"
    ask.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    ask.__annotations__ = {option.name: option.annotation for option in every}
    return ask


def _usual(question: Question, option: inspect.Parameter) -> inspect.Parameter:
    """An option with the question's own default layer, where it has one."""
    return option if option.name != "layer" or question.layer is None else option.replace(default=question.layer)


def _steering(given: dict[str, Any], of_vector: list[str], question: Question) -> list["Wanted"]:
    """What is injected: the one vector of the options, or what `--inject` says.

    Raises:
        BadInjection: both, or several vectors without it.
    """
    from steerscope.commands.inject import Wanted, wanted

    if given["inject"]:
        usual = {name: option.default for name, option in inspect.signature(experiment_of).parameters.items()}
        usual |= {name: None for name in of_vector} | {"recipe": ASKED[0], "layer": question.layer}
        one = [name for name in (*of_vector, *ONE) if given[name] not in (usual[name], [])]
        if one:
            raise BadInjection(
                f"--{one[0]} beside --inject; expected one of both: an injection says all of itself; write it into "
                f"--inject, such as --inject {one[0]}=..."
            )
        return wanted(given["inject"], given["seed"])
    chosen = vectors.chosen({name: given[name] for name in (*vectors.OF_COMMAND, *of_vector)})
    if len(chosen) > 1:
        raise BadInjection(
            f"{len(chosen)} vectors; expected one; give each its own --inject, which may stand there several times"
        )
    about = {name: given[name] for name in ONE if name not in ("operation", "during")}
    return [Wanted(chosen[0], **about, operation=given["operation"].value, during=given["during"].value)]


def _option(knob: Knob) -> inspect.Parameter:
    """A knob as an option of typer."""
    kind: Any = Literal[knob.choices] if knob.choices else KINDS[knob.kind].type
    default = ",".join(map(str, knob.default)) if isinstance(knob.default, tuple | list) else knob.default
    return inspect.Parameter(
        knob.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is NONE else default,
        annotation=Annotated[
            kind | None if default is None else kind, typer.Option(help=knob.help, rich_help_panel="This question")
        ],
    )


def _given(read: Knobs, given: dict[str, Any]) -> dict[str, Any]:
    """The knobs that were given, as values; what was left out keeps the question's own default."""
    return {knob.name: knob.parse(given[knob.name]) for knob in read.own if given[knob.name] is not None}


def _around(
    out: Out,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    alpha: Annotated[float, typer.Option(help="Threshold on corrected p-values.")] = 0.05,
    smallest: Annotated[float, typer.Option(help="Smallest effect of interest, as a share of the whole.")] = 0.02,
    overwrite: options.Overwrite = False,
    report: Annotated[bool, typer.Option(help="Write report.html beside the tables.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what can be told and what it takes, and stop there.")
    ] = False,
    executor: options.Runs = options.Where.local,
    workers: options.Workers = None,
    address: options.Address = None,
) -> None:
    """What every command does around its analysis."""


def experiment_of(
    steering: "list[Wanted]",
    model: options.ModelName,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="A shipped set (general, off_topic, on_topic), - for standard input, or a file: one text a line, or "
            ".jsonl, .csv, .parquet with a column prompt or text, and group where prompts belong together."
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A prompt, instead of --prompts; give it again for more.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to record and inject at.")] = None,
    coef: Annotated[float, typer.Option(help="Coefficient of the vector.")] = 1.0,
    positions: Annotated[str, typer.Option(help=POSITIONS)] = "front",
    operation: Annotated[Operation, typer.Option(help=OPERATION)] = Operation.add,
    during: Annotated[During, typer.Option(help=DURING)] = During.prompt,
    inject: Annotated[list[str] | None, typer.Option(help=INJECT)] = None,
    metric: Annotated[str, typer.Option(help=METRIC)] = "logit_direction",
    targets: options.Targets = None,
    against: options.Against = None,
    column: options.Column = None,
    chat: options.Chat = False,
    targets_column: options.TargetsColumn = None,
    against_column: options.AgainstColumn = None,
    scored: options.Scored = None,
    scored_column: options.ScoredColumn = None,
    continuation: Annotated[
        str | None, typer.Option(help="Text that perplexity is measured on, after each prompt.")
    ] = None,
    groups: Annotated[
        Groups, typer.Option(help="Prompts that are not independent: found (or named by the file), or each by itself.")
    ] = Groups.auto,
    references: Annotated[str | None, typer.Option(help=REFERENCES)] = None,
    given: Annotated[list[Path] | None, typer.Option(help=GIVEN)] = None,
    matched: Annotated[Matched, typer.Option(help="References of equal norm, or of equal kl.")] = Matched.norm,
    seed: options.RandomSeed = 0,
    precision: Annotated[Precision, typer.Option(help=PRECISION)] = Precision.exact,
    device: options.Device = None,
    dtype: options.Dtype = None,
    bos: options.Bos = None,
    selfcheck: Annotated[bool, typer.Option(help="Prove on load what the analysis relies on.")] = True,
) -> "Experiment":
    """The question that the options ask."""
    # What needs no model is refused before one is loaded.
    from steerscope.analysis.question.prompt_files import Table, read_table
    from steerscope.analysis.vectors.vector_files import read_vector
    from steerscope.commands.finish import hush
    from steerscope.commands.metrics import metric_of, positions_of, scored_cells
    from steerscope.prompt_sets import prompts_file

    named = {"targets": targets_column, "against": against_column, "scored": scored_column}
    if scored is not None and scored_column is not None:
        raise BadArgument("got --scored and --scored-column; expected one of them; leave one out")
    where: Any = positions_of(scored)
    if (prompts is None) == (not prompt):
        raise BadPrompt(
            f"got {'neither --prompts nor --prompt' if prompts is None else '--prompts and --prompt'}; expected one of "
            "them; give --prompts general, a file, or --prompt TEXT"
        )
    of_file = list(dict.fromkeys(name for name in (*named.values(), column) if name))
    if prompt and of_file:
        raise BadPrompt(
            f"the column {brief(repr(of_file[0]))} beside --prompt; expected columns of a file; give --prompts FILE"
        )
    if prompts is not None:
        table = read_table(prompts_file(prompts), column, [name for name in of_file if name in named.values()])
    else:
        table = Table(list(prompt or ()), None, {})
    cells = {option: None if name is None else table.columns[name] for option, name in named.items()}
    wanted = metric_of(metric, targets, against, continuation, cells)
    if cells["scored"] is not None:
        where = scored_cells(cells["scored"])
    own = [read_vector(file) for file in given or ()]
    hush()

    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.question.prompts import make_prompts
    from steerscope.commands.inject import injections_of
    from steerscope.loader import load

    loaded = load(model, device=device, dtype=dtype, bos=bos, selfcheck=selfcheck)
    grouped = table.groups if groups is Groups.auto and table.groups else groups.value
    texts = [[{"role": "user", "content": text}] if chat and isinstance(text, str) else text for text in table.prompts]
    made = make_prompts(loaded, texts, source=prompts or "given", groups=grouped)
    injections = injections_of(steering, loaded)
    beside = _beside(loaded, injections, references, own)
    more: dict[str, Any] = {"matched": matched.value, "scored": where, "seed": seed, "precision": precision.value}
    return Experiment(loaded, injections, made, wanted, beside, **more)


def _beside(
    model: "Model", injections: "Sequence[Injection]", asked: str | None, own: "Sequence[SteeringVector | VectorBundle]"
) -> Any:
    """The reference vectors: those that are drawn, and a user's own."""
    from steerscope.analysis.question.references import in_place, references

    vectors = [injection.vector for injection in injections]
    placed = tuple(in_place(one, vectors) for one in own)
    return replace(references(asked, model, vectors), own=placed) if placed else asked


def _estimated(found: "Cost", stop: bool) -> Answer | None:
    """Says what a question can tell and what it takes, where that takes long; the answer, where only that is asked."""
    from steerscope.analysis.question.cost import LONG

    if stop:
        about = {name: value for name, value in vars(found).items() if name != "question"}
        return Answer({"kind": found.question, "dry_run": True, "summary": found.sentences, **about}, found.sentences)
    if found.seconds > LONG:
        for sentence in found.sentences:
            typer.echo(sentence, err=True)
    return None
