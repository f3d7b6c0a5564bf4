"""`steerscope circuits`: known circuits, and the tasks that they are claimed to do."""

from pathlib import Path
from typing import Annotated, Any

import typer

from steerscope.commands import scrubbing, studies
from steerscope.commands.circuits_stress import stress
from steerscope.commands.find import find
from steerscope.commands.finish import Answer, place

app = typer.Typer(help="Known circuits, and tasks for them.", no_args_is_help=True)
NAMED = typer.Argument(help="A shipped circuit (see `circuits list`), or a YAML or JSON file.")
KINDS = ".yaml, .json, .graphml, .tracer.json"
app.command("stress")(stress)

app.command("detect")(studies.census)
app.command("scrub")(scrubbing.scrub)
app.command("find")(find)


@app.command("hypotheses")
def hypotheses_() -> Answer:
    """Lists the shipped hypotheses that `scrub` tests."""
    from steerscope.circuits.hypotheses import hypotheses

    return _table("hypotheses", hypotheses(), ("name", "title", "model", "task", "claims", "rivals"))


@app.command("list")
def list_() -> Answer:
    """Lists the shipped circuits: where they come from, how sure they are, who disagrees."""
    from steerscope.circuits.library import circuits

    return _table("circuits", circuits(), ("name", "title", "model", "nodes", "edges", "confidence", "task", "rivals"))


@app.command("show")
def show(
    name: Annotated[str, NAMED],
    out: Annotated[
        Path | None, typer.Option(parser=place, metavar="FILE", help=f"Write it: {KINDS} (of circuit-tracer).")
    ] = None,
) -> Answer:
    """Shows a circuit: its roles and nodes, sources, figures and caveats; and writes it for other programs."""
    from steerscope.circuits.circuit import Circuit
    from steerscope.circuits.exchange import to_circuit_tracer, to_graphml
    from steerscope.circuits.library import circuit

    found = circuit(name)
    lines = [f"{found.name}: {found.title} ({found.model}), {found.confidence}"]
    lines += [f"  {role}: {', '.join(map(str, nodes))}" for role, nodes in found.roles.items()]
    if not found.nodes:
        detected = ", ".join(f"{role} by {detector}" for role, detector in found.detectors.items())
        lines.append(f"  no list of nodes; measured in each model: {detected}")
    lines.append(f"  {found.n_edges} edges" + {"exact": "", "group": " (all pairs of roles)", "none": ""}[found.level])
    lines += [f"  {what}: {value:g}" for what, value in found.reported.items()]
    lines += [f"  source: {source}" for source in found.sources]
    lines += [f"  note: {caveat}" for caveat in found.caveats]
    if found.rivals:
        lines.append(f"  disagrees with: {', '.join(found.rivals)}")
    if out is not None:
        text = str(out).lower()
        others = {".graphml": to_graphml, ".tracer.json": to_circuit_tracer}
        write = next((write for suffix, write in others.items() if text.endswith(suffix)), Circuit.save)
        lines.append(f"written to {write(found, out)}")
    roles = {role: [str(node) for node in nodes] for role, nodes in found.roles.items()}
    told: dict[str, Any] = {"name": found.name, "model": found.model, "roles": roles, "edges": found.n_edges}
    return Answer({"circuit": {**told, "sources": list(found.sources), "caveats": list(found.caveats)}}, lines)


@app.command("tasks")
def tasks_(
    model: Annotated[
        str | None, typer.Option(help="Make the tasks' prompts for this model, and measure what it gets right.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task; give it again for more. All by default.")] = None,
    n: Annotated[int, typer.Option("--n", help="Pairs of prompts for each task.")] = 64,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    bos: Annotated[bool | None, typer.Option("--bos/--no-bos", help="Whether prompts begin with BOS.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=place, metavar="FILE", help="Write one task's pairs, as JSONL with their answers."),
    ] = None,
) -> Answer:
    """Lists the tasks; with a model, which of them it solves."""
    from steerscope.analysis.errors import BadArgument, BadCircuit
    from steerscope.circuits.tasks import TASKS, tasks
    from steerscope.circuits.tasks import task as named

    chosen = [named(name) for name in task or TASKS]
    if out is not None and (len(chosen) != 1 or model is None):
        raise BadArgument("got --out; expected it with --model and one --task; name them, or leave --out out")
    if model is None:
        return _table("tasks", tasks().set_index("name").loc[[t.name for t in chosen]].reset_index())
    import pandas as pd

    from steerscope.analysis import files
    from steerscope.analysis.progress import track
    from steerscope.commands.finish import hush
    from steerscope.loader import load

    hush()
    loaded, rows, lines = load(model, bos=bos), [], []
    for asked in track(chosen, "tasks"):
        try:
            made = asked(loaded, n, seed, ask=True)
        except BadCircuit as error:
            if out is not None:
                raise
            rows.append({"task": asked.name, "right": "cannot be asked", "why": str(error).split(";")[0]})
            continue
        found = made.solved
        rows.append(
            {
                "task": asked.name,
                "right": f"{found.share:.0%} [{found.low:.0%}, {found.high:.0%}]",
                "log odds": f"{found.difference:.2f}",
                "corrupted": f"{found.corrupted:.2f}",
                "for example": made.clean.texts[0].replace("\n", "\\n"),
                "answer": ", ".join(made.answers[0]),
            }
        )
        if out is not None:
            lines.append(f"written to {files.write(out, made.table.to_json(orient='records', lines=True))}")
    answer = _table("tasks", pd.DataFrame(rows).fillna(""))
    return answer if not lines else Answer(answer.found, [answer.text, *lines])


def _table(what: str, table: Any, columns: tuple[str, ...] | None = None) -> Answer:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = table if columns is None else table[list(columns)]
    grid = Table(box=SIMPLE_HEAD)
    for column in shown.columns:
        grid.add_column(column, max_width=60)
    for row in shown.itertuples(index=False):
        grid.add_row(*(str(value) for value in row))
    return Answer({what: table.to_dict("records")}, grid)
