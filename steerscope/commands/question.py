"""`asks`: what every analysis asks of the command line, written once: model, vector, prompts, metric, controls, folder.

A command is then a function from an `Experiment` and its own options to a `Result`.
"""

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerscope.analysis.errors import BadArgument, BadMetric, BadVector

if TYPE_CHECKING:
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.results.result import Result


class Matched(StrEnum):
    norm = "norm"
    kl = "kl"


Nodes = Annotated[str | None, typer.Option(help="Nodes such as L0M,L1H5; the strongest by default.")]
POSITIONS = "front, middle, back, last, all, or indices such as 3,4,-1."


def asks(analyse: "Callable[..., Result]") -> Callable[..., None]:
    """A command from `analyse(experiment, *, level, alpha, <its own options>)`: it saves the result, writes its page
    and
    says what was found."""
    own = list(inspect.signature(analyse).parameters.values())[1:]
    own = [option for option in own if option.name not in ("level", "alpha")]
    shared = list(inspect.signature(_experiment).parameters.values())
    around = list(inspect.signature(_around).parameters.values())
    options = [o.replace(kind=inspect.Parameter.KEYWORD_ONLY) for o in (*shared, *own, *around)]
    options.sort(key=lambda option: option.default is not inspect.Parameter.empty)

    @wraps(analyse)
    def command(**given: Any) -> None:
        from steerscope.analysis.results.effects import Statistics
        from steerscope.commands.finish import check_out, finish

        out, overwrite = given["out"], given["overwrite"]
        check_out(out, overwrite)
        Statistics(given["level"], given["alpha"])  # refuses what makes no sense
        experiment = _experiment(**{option.name: given[option.name] for option in shared})
        kept = {option.name: given[option.name] for option in own}
        result = analyse(experiment, level=given["level"], alpha=given["alpha"], **kept)
        finish(result, out, overwrite, given["report"])

    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def _around(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    alpha: Annotated[float, typer.Option(help="Threshold on adjusted p-values.")] = 0.05,
    overwrite: Annotated[bool, typer.Option(help="Replace a result in the folder.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html beside the tables.")] = True,
) -> None:
    """What every command does around its analysis."""


def _experiment(
    model: Annotated[str, typer.Option(help="Shipped name, Hugging Face folder or hub name.")],
    prompts: Annotated[
        Path, typer.Option(help="One text a line, or .jsonl, .csv, .parquet with a column prompt or text.")
    ],
    plus: Annotated[
        str | None, typer.Option(help="Text of the vector's positive side; a leading space matters.")
    ] = None,
    minus: Annotated[str, typer.Option(help="Text of its negative side.")] = " ",
    vector: Annotated[Path | None, typer.Option(help="A saved vector instead of --plus and --minus.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to record and inject at.")] = None,
    site: Annotated[str, typer.Option(help="resid_pre, attn_out, mlp_out or z.")] = "resid_pre",
    head: Annotated[int | None, typer.Option(help="Head, for --site z.")] = None,
    pad: Annotated[str, typer.Option(help="Single token that fills up the shorter side.")] = " ",
    coef: Annotated[float, typer.Option(help="Coefficient of the vector.")] = 1.0,
    positions: Annotated[str, typer.Option(help=POSITIONS)] = "front",
    metric: Annotated[str, typer.Option(help="logit_direction, log_prob, kl or perplexity.")] = "logit_direction",
    targets: Annotated[
        str | None, typer.Option(help='Tokens for log_prob, separated by commas; spaces count: " wedding, bride".')
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Tokens that log_prob compares the targets with, of like rarity.")
    ] = None,
    continuation: Annotated[
        str | None, typer.Option(help="Text that perplexity is measured on, after each prompt.")
    ] = None,
    controls: Annotated[int, typer.Option(help="Random vectors that ride along.")] = 20,
    matched: Annotated[Matched, typer.Option(help="Controls of equal norm, or of equal kl.")] = Matched.norm,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; the GPU by default, where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (default), float64, bfloat16 or float16.")] = None,
    selfcheck: Annotated[bool, typer.Option(help="Prove on load what the analysis relies on.")] = True,
) -> "Experiment":
    """The question that the options ask."""
    # What needs no model is refused before one is loaded.
    from steerscope.analysis.question.injection import Injection
    from steerscope.analysis.question.prompts import read_prompts
    from steerscope.analysis.vectors.vector import SteeringVector
    from steerscope.commands.finish import hush

    if (plus is None) == (vector is None):
        raise BadVector(
            "got both or neither of --plus and --vector; expected one of them; give --plus TEXT or --vector FILE"
        )
    if plus is not None and layer is None:
        raise BadArgument(
            "no --layer given; expected the layer to record and inject at, counted from 0; add for example --layer 0"
        )
    wanted = metric_of(metric, targets, against, continuation)
    texts = read_prompts(prompts)
    saved = None if vector is None else SteeringVector.load(vector)
    hush()

    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.question.prompts import make_prompts
    from steerscope.analysis.vectors.prompt_pair import prompt_pair
    from steerscope.loader import load

    loaded = load(model, device=device, dtype=dtype, selfcheck=selfcheck)
    given = make_prompts(loaded, texts, source=str(prompts))
    made = saved or prompt_pair(loaded, plus or "", minus, layer or 0, site=site, head=head, pad=pad)
    if positions in ("last", "all") and made.body.rows > 1:
        made = made.row(-1)  # these positions take one row: that of the last token, as is usual
    injection = Injection(made, coef, layer, positions)
    return Experiment(loaded, (injection,), given, wanted, controls, matched.value, seed=seed)


def listed(nodes: str | None) -> list[str] | None:
    """The nodes that an option names; None for none."""
    return nodes.split(",") if nodes else None


def metric_of(name: str, targets: str | None, against: str | None, continuation: str | None) -> Any:
    """The metric that the options name.

    Raises:
        BadMetric: an unknown one, or options that do not fit it.
    """
    from steerscope.analysis.question.metrics import METRICS

    if name not in METRICS:
        raise BadMetric(f"unknown metric {name!r}; expected one of {', '.join(METRICS)}; choose one")
    if (name == "log_prob") != (targets is not None):
        need = "needs --targets" if targets is None else "takes no --targets"
        raise BadMetric(
            f'metric {name} {need}; expected --metric log_prob --targets " wedding, bride"; give both or neither'
        )
    if continuation is not None and name != "perplexity":
        raise BadMetric(f"metric {name} takes no --continuation; expected it with perplexity; leave it out")
    if against is not None and targets is None:
        raise BadMetric("got --against without --targets; expected both; name the targets")
    if targets is not None:
        return METRICS[name](_tokens(targets), _tokens(against or ""))
    return METRICS[name](continuation) if continuation is not None else METRICS[name]()


def _tokens(text: str) -> list[str]:
    return [token for token in text.split(",") if token]
