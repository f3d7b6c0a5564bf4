"""`steerscope vectors`: make vectors by any recipe, build a table of them, convert files of them.

What a recipe is told is typed as `name=value`, read by the kinds of its signature as every command's options are.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerscope.analysis.brief import brief, counted, quoted
from steerscope.analysis.errors import BadArgument, OutputExists
from steerscope.analysis.vectors.recipes import OFFERED
from steerscope.commands.finish import Answer, Out
from steerscope.commands.options import Bos, Device, Dtype, ModelName
from steerscope.commands.recipe_options import knobs_of, layers_of, recipe_options

if TYPE_CHECKING:
    from steerscope.analysis.vectors.bundle import VectorBundle
    from steerscope.analysis.vectors.vector import SteeringVector


class Carriers(StrEnum):
    gradient = "gradient"
    ig = "ig"
    exact = "exact"
    none = "none"


app = typer.Typer(no_args_is_help=True, help="Steering vectors: make them by a recipe, build a table of them, convert.")
File = Annotated[Path, typer.Option(help="The file to write: .safetensors, or .gguf for a control vector.")]
Overwrite = Annotated[bool, typer.Option(help="Replace what stands there.")]
RECIPE = f"How: {', '.join(OFFERED)}."
OPTION = "What the recipe is told, such as questions=power.jsonl; docs/vectors.md lists all."


@app.command("make")
def make(
    recipe: Annotated[str, typer.Argument(help=RECIPE)],
    model: ModelName,
    out: File,
    told: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help=OPTION)] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to record at: one vector.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers to record at, a vector each: 8,9 or 8-16 or all (but the first).")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    bos: Bos = None,
    overwrite: Overwrite = False,
) -> Answer:
    """Makes a vector, or one a layer, and saves it.

    Example: steerscope vectors make mean_difference positive=happy.txt negative=sad.txt --model tinystories-2l
    --layer 1 --out happy.safetensors
    """
    from steerscope.commands.finish import hush

    options = _told(recipe, told or [])
    wanted = None if layers is None else layers_of(layers)
    if layer is not None and layers is not None:
        raise BadArgument("got --layer and --layers; expected one of them; leave the other out")
    _check_file(out, overwrite)
    hush()
    from steerscope.analysis.vectors.making import make_bundle, make_vector
    from steerscope.loader import load

    loaded = load(model, device=device, dtype=dtype, bos=bos)
    if layers is None:
        made: SteeringVector | VectorBundle = make_vector(
            loaded, recipe, **options, **({} if layer is None else {"layer": layer})
        )
    else:
        made = make_bundle(loaded, recipe, wanted, **options)
    return _saved(made, out)


@app.command("convert")
def convert(
    file: Annotated[Path, typer.Argument(help="A file of vectors: .safetensors, .gguf, .pt or .npy.")],
    out: File,
    site: Annotated[
        str | None, typer.Option(help="Where they were recorded: resid_pre, resid_post, hidden_states, L5.mlp_out...")
    ] = None,
    axes: Annotated[str | None, typer.Option(help="What the axes are, such as layers,width.")] = None,
    layer: Annotated[int | None, typer.Option(help="The layer that is taken, or that the array is of.")] = None,
    head: Annotated[int | None, typer.Option(help="The head, of the site z.")] = None,
    position: Annotated[int | None, typer.Option(help="The position that is taken.")] = None,
    key: Annotated[str | None, typer.Option(help="The name of the array that is taken.")] = None,
    overwrite: Overwrite = False,
) -> Answer:
    """Reads vectors from a file of any kind, as it is told, and saves them as ours or as a control vector.

    Example: steerscope vectors convert evil_response_avg_diff.pt --site hidden_states --axes layers,width --out
    evil.safetensors
    """
    from steerscope.analysis.vectors.vector_files import read_vector

    _check_file(out, overwrite)
    found = read_vector(file, site=site, axes=axes, layer=layer, head=head, position=position, key=key)
    return _saved(found, out)


@app.command("build")
def build(
    table: Annotated[str, typer.Argument(help="A table (.csv, .jsonl), or bulk: 140 vectors that come with us.")],
    model: ModelName,
    out: Out,
    layer: Annotated[int | None, typer.Option(help="Layer of all, whatever the table says.")] = None,
    fraction: Annotated[float, typer.Option(help="Of the depth, for rows that name no layer.")] = 0.25,
    site: Annotated[str, typer.Option(help="resid_pre, attn_out or mlp_out.")] = "resid_pre",
    device: Device = None,
    dtype: Dtype = None,
    bos: Bos = None,
) -> Answer:
    """Builds every vector of a table; rows that cannot be built are listed, and a stopped build goes on.

    Example: steerscope vectors build bulk --model tinystories-2l --out out/vectors
    """
    from steerscope.commands.finish import hush

    hush()
    from steerscope.analysis.vectors.bulk import FAILED, MADE, build_vectors
    from steerscope.loader import load

    loaded = load(model, device=device, dtype=dtype, bos=bos)
    built = build_vectors(loaded, table, out, layer=layer, fraction=fraction, site=site)
    said = [f"{len(built.made)} vectors in {out} ({built.kept} of them were there): {out / MADE}"]
    if len(built.failed):
        first = built.failed.iloc[0]
        said.append(
            f"{counted(len(built.failed), 'row')} could not be built: {out / FAILED}; "
            f"first {first['line']}: {first['reason']}"
        )
    return Answer({"made": len(built.made), "kept": built.kept, "failed": built.failed.to_dict("records")}, said)


@app.command("compare")
def compare(
    files: Annotated[list[Path], typer.Argument(help="Files of vectors, two or more; of several layers each counts.")],
    model: ModelName,
    prompts: Annotated[str, typer.Option(help="A shipped set, - for standard input, or a file of prompts.")],
    out: Out,
    coef: Annotated[float, typer.Option(help="Coefficient of every vector.")] = 1.0,
    positions: Annotated[str, typer.Option(help="last, all, front, middle, back, or indices.")] = "last",
    carriers: Annotated[
        Carriers, typer.Option(help="How what every node does is found: by gradients, exact patching, or not at all.")
    ] = Carriers.gradient,
    references: Annotated[int, typer.Option(help="Random vectors in place of each.")] = 4,
    level: Annotated[float, typer.Option(help="Level of the intervals over prompts.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of resamples and random vectors.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    bos: Bos = None,
    overwrite: Overwrite = False,
) -> Answer:
    """Compares vectors two by two: their directions, what they do to the logits, and which nodes carry it.

    Example: steerscope vectors compare a.safetensors b.gguf --model tinystories-2l --prompts general --out out/compared
    """
    from steerscope.analysis.question.prompt_files import read_table
    from steerscope.analysis.vectors.vector_files import read_vector
    from steerscope.commands.finish import check_out, finish, hush
    from steerscope.prompt_sets import prompts_file

    check_out(out, overwrite, ("pairs", "vectors"))
    found = [read_vector(file) for file in files]
    table = read_table(prompts_file(prompts))
    hush()
    from steerscope.analysis.origin.compare_vectors import compare_vectors
    from steerscope.analysis.question.prompts import make_prompts
    from steerscope.loader import load

    loaded = load(model, device=device, dtype=dtype, bos=bos)
    given = make_prompts(loaded, table.prompts, source=prompts, groups=table.groups or "auto")
    options: dict[str, Any] = {
        "coefficient": coef,
        "positions": positions,
        "carriers": carriers.value,
        "references": references,
        "level": level,
        "seed": seed,
    }
    result = compare_vectors(loaded, found, given, **options)
    return finish(result, out, overwrite)


def _told(recipe: str, told: list[str]) -> dict[str, Any]:
    """The recipe's options as values.

    Raises:
        BadVector: no such recipe, or an option that it does not have, or lacks.
        BadArgument: one that is not name=value, or stands there twice, or is none of its kind.
    """
    knobs = knobs_of(recipe)
    found: dict[str, str] = {}
    for one in told:
        name, between, value = one.partition("=")
        if not between or name in found:
            there = ", ".join(f"{knob}=..." for knob in knobs if knob != "layer")
            raise BadArgument(f"got {brief(one)!r}; expected, each once, {there}; mend it")
        found[name] = value
    if "layer" in found:
        raise BadArgument("got layer=...; expected --layer, or --layers for one vector each; write it so")
    return recipe_options(recipe, found)


def _check_file(out: Path, overwrite: bool) -> None:
    from steerscope.analysis.vectors.stored import check_suffix

    check_suffix(out)
    if out.exists() and not overwrite:
        raise OutputExists(f"{quoted(out)} is there; expected a new file; choose another, or add --overwrite")


def _saved(made: "SteeringVector | VectorBundle", out: Path) -> Answer:
    made.save(out)
    return Answer({"file": str(out), "label": made.label}, [f"{made!r}", f"Saved: {out}"])
