"""`steerscope localize`: parse, run, save, report."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from steerscope.analysis.errors import BadArgument, BadMetric, BadVector

EXAMPLE = """
Example:

    steerscope localize --model tinystories-2l --plus " wedding" --minus " " --layer 0 --coef 3
    --prompts prompts.txt --metric log_prob --targets " wedding, bride" --out out/wedding

Writes effects.parquet and other tables, manifest.json and report.html into the folder.
"""


class Matched(StrEnum):
    norm = "norm"
    kl = "kl"


POSITIONS = "front, middle, back, last, all, or indices such as 3,4,-1."


def localize(
    model: Annotated[str, typer.Option(help="Shipped name, Hugging Face folder or hub name.")],
    prompts: Annotated[
        Path,
        typer.Option(
            help="One text a line, or .jsonl, .csv, .parquet with a column prompt or text."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    plus: Annotated[
        str | None,
        typer.Option(help="Text of the vector's positive side; a leading space matters."),
    ] = None,
    minus: Annotated[str, typer.Option(help="Text of its negative side.")] = " ",
    vector: Annotated[
        Path | None, typer.Option(help="A saved vector instead of --plus and --minus.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to record and inject at.")] = None,
    site: Annotated[str, typer.Option(help="resid_pre, attn_out, mlp_out or z.")] = "resid_pre",
    head: Annotated[int | None, typer.Option(help="Head, for --site z.")] = None,
    pad: Annotated[str, typer.Option(help="Single token that fills up the shorter side.")] = " ",
    coef: Annotated[float, typer.Option(help="Coefficient of the vector.")] = 1.0,
    positions: Annotated[str, typer.Option(help=POSITIONS)] = "front",
    metric: Annotated[
        str, typer.Option(help="logit_direction, log_prob, kl or perplexity.")
    ] = "logit_direction",
    targets: Annotated[
        str | None,
        typer.Option(
            help='Tokens for log_prob, separated by commas; spaces count: " wedding, bride".'
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Tokens that log_prob compares the targets with, of like rarity."),
    ] = None,
    continuation: Annotated[
        str | None, typer.Option(help="Text that perplexity is measured on, after each prompt.")
    ] = None,
    controls: Annotated[int, typer.Option(help="Random vectors that ride along.")] = 20,
    matched: Annotated[
        Matched, typer.Option(help="Controls of equal norm, or of equal kl.")
    ] = Matched.norm,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    alpha: Annotated[float, typer.Option(help="Threshold on adjusted p-values.")] = 0.05,
    completions: Annotated[
        int, typer.Option(help="Prompts to complete with and without the injection.")
    ] = 4,
    seed: Annotated[int, typer.Option(help="Of controls, resamples and completions.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ...; the GPU by default, where there is one.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 (default), float64, bfloat16 or float16.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a result in the folder.")] = False,
    selfcheck: Annotated[
        bool, typer.Option(help="Prove on load what the analysis relies on.")
    ] = True,
    report: Annotated[bool, typer.Option(help="Write report.html beside the tables.")] = True,
) -> None:
    """Which heads and MLPs carry a steering vector: necessity and sufficiency of each, with controls."""
    # What needs no model is refused before one is loaded.
    from steerscope.analysis.injection import Injection
    from steerscope.analysis.prompts import read_prompts
    from steerscope.analysis.vectors.vector import SteeringVector
    from steerscope.commands.finish import check_out, finish, hush

    check_out(out, overwrite)
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

    from steerscope.analysis.attribution.localize import localize as analyse
    from steerscope.analysis.prompts import make_prompts
    from steerscope.analysis.vectors.prompt_pair import prompt_pair
    from steerscope.loader import load

    loaded = load(model, device=device, dtype=dtype, selfcheck=selfcheck)
    given = make_prompts(loaded, texts, source=str(prompts))
    made = saved or prompt_pair(
        loaded, plus or "", minus, layer or 0, site=site, head=head, pad=pad
    )
    if positions in ("last", "all") and made.body.rows > 1:
        made = made.row(-1)  # these positions take one row: that of the last token, as is usual
    injection = Injection(made, coef, layer, positions)
    result = analyse(
        loaded, injection, given, wanted, controls=controls, matched=matched.value, level=level, alpha=alpha,
        completions=completions, seed=seed,
    )  # fmt: skip
    finish(result, out, overwrite, report)


def metric_of(name: str, targets: str | None, against: str | None, continuation: str | None) -> Any:
    """The metric that the options name.

    Raises:
        BadMetric: an unknown one, or options that do not fit it.
    """
    from steerscope.analysis.metrics import METRICS

    if name not in METRICS:
        raise BadMetric(
            f"unknown metric {name!r}; expected one of {', '.join(METRICS)}; choose one"
        )
    if (name == "log_prob") != (targets is not None):
        need = "needs --targets" if targets is None else "takes no --targets"
        raise BadMetric(
            f'metric {name} {need}; expected --metric log_prob --targets " wedding, bride"; give both or neither'
        )
    if continuation is not None and name != "perplexity":
        raise BadMetric(
            f"metric {name} takes no --continuation; expected it with perplexity; leave it out"
        )
    if against is not None and targets is None:
        raise BadMetric("got --against without --targets; expected both; name the targets")
    if targets is not None:
        return METRICS[name](_tokens(targets), _tokens(against or ""))
    return METRICS[name](continuation) if continuation is not None else METRICS[name]()


def _tokens(text: str) -> list[str]:
    return [token for token in text.split(",") if token]


localize.__doc__ = (localize.__doc__ or "") + "\n" + EXAMPLE
