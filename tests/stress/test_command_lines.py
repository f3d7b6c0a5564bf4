"""Odd command lines over all commands and options, as typer lists them: each ends soon, in an answer or a sentence.

A line is a cheap one that would work, with one to three options replaced by odd values. Lines run in this process, in a
folder of their own with a file, a folder and a pipe in it.
"""

import io
import os
import random
import resource
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from checkpoints import TEXT, save_gpt2
from small_circuits import FILE

from steerscope import cli
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.vectors.vector import SteeringVector

LINES, SAMPLE = 300, 25
CPU, WALL, MEMORY = 40.0, 180, 3 * 2**20  # seconds, seconds on a machine that others use, KiB
ODD = [
    *(
        "-1",
        "0",
        "1",
        "-0",
        str(2**31),
        str(2**63),
        str(-(2**63)),
        "1" * 400,
        "1e308",
        "-1e308",
        "1e-320",
        "nan",
        "inf",
    ),
    *(
        "",
        " ",
        "é",
        "\udcff",
        "a\nb",
        "\u202e",
        "𝒙",
        "%s",
        "{x}",
        "[red]",
        "'",
        ",",
        "a,b",
        "1,2",
        "0,0",
        "-",
        "--",
        "-h",
    ),
    *(
        ".",
        "..",
        "/",
        "/proc/x",
        "/dev/null",
        "/dev/full",
        "/dev/zero",
        "n" * 300,
        "n/" * 3000,
        "folder",
        "pipe",
        "file",
    ),
    *("file/x", "~", "L0H0", "L9H9", "L0M", "injection", "logits", "all", "last", "1-4", "4-1", "concepts:99999999"),
    *("isotropic:0", "shuffled:3", "None", "True", "1_000", "0x10", "١", "general", "tinystories-1l", "gpt2", "a/b/c"),
]
CHEAP: dict[str, object] = {
    "model": "model",
    "prompts": "file",
    "out": "out",
    "plus": " wedding",
    "layer": 0,
    "references": 2,
    "completions": 0,
    "senders": "injection,L0H1",
    "receivers": "logits",
    "nodes": "L0M,L0H1",
    "trials": 40,
    "count": 3,
    "n": 2,
    "tokens": 8,
    "controls": 2,
    "k": 1,
    "text": "text",
    "windows": 8,
    "steps": 2,
    "batch": 2,
    "held_out": 2,
    "verify": 2,
    "sample": 2,
    "coefficients": "0,1",
    "layers": 1,
    "heads": 2,
    "width": 16,
    "vocabulary": 300,
    "context": 16,
    "topic_stories": 5,
    "threads": 1,
    "sequences": 4,
    "length": 6,
    "causal": 1,
    "at": "L0.resid_pre",
    "vectors": "happy",
    "circuit": FILE,
    "sets": 3,
    "permutations": 5,
    "points": 4,
}
SAVED = {"vectors make": "pca", "vectors convert": "vector.safetensors", "vectors build": "table.csv"}
SAVED["vectors compare"] = "vector.safetensors vector.safetensors"
SAVED["circuits show"] = "ioi"
SAVED |= {"report": "result", "sweep resume": "sweep", "sweep status": "sweep", "sweep report": "sweep"}
OF_ITS_OWN: dict[str, dict[str, object]] = {"tinystories layers": {"model": "tinystories-1l"}}  # it reads stories
OF_ITS_OWN["tinystories gallery"] = {"model": "tinystories-1l"}
OF_ITS_OWN["tinystories compare"] = {"variants": "gelu", "seeds": 2, "stories": 200}
OF_ITS_OWN["circuits map"] = {"model": "tinystories-2l"}
OF_ITS_OWN["circuits find"] = {"model": "toy-ioi-query-2", "task": "ioi-minimal", "n": 6, "points": 4, "trials": 3}
OF_ITS_OWN["circuits scrub"] = {"model": "toy-ioi-query-2", "task": "ioi-minimal", "hypothesis": "planted", "n": 6}
OF_ITS_OWN["circuits stress"] = {"model": "tinystories-1l", "task": "agreement", "randoms": "1", "find": "never"}
OF_ITS_OWN["circuits stress"] |= {"n": 20, "inject": 'plus=" wedding",minus=" ship",layer=0', "coefficients": "1"}
NOT_THESE = {"nodes": ["sweep run", "localize"], "steps": ["localize"], "sample": ["localize"]}  # of other methods
NOT_THESE["prompts"] = ["circuits scrub", "circuits find"]  # a file, where a task is named
NOT_THESE |= {"layers": ["vectors make"], "at": ["tinystories dissect"]}  # beside --layer; positions of a prompt
NOT_THESE["out"] = ["circuits show", "circuits tasks"]  # files of some suffix
NOT_THESE["circuit"] = ["circuits stress"]  # of another model


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command by what one types, with what typer knows of it."""
    if not hasattr(command, "commands"):
        yield " ".join(path), command
    for name, one in getattr(command, "commands", {}).items():
        yield from leaves(one, (*path, name))


COMMANDS = dict(leaves(typer.main.get_command(cli.app)))


def cheap(name: str) -> dict[str, str]:
    """The options of a command that works and takes a second."""
    options = {param.name for param in COMMANDS[name].params if param.param_type_name == "option"}
    cheapest = CHEAP | OF_ITS_OWN.get(name, {})
    return {key: str(cheapest[key]) for key in cheapest if key in options and name not in NOT_THESE.get(key, ())}


def made(name: str, **more: str) -> list[str]:
    """A cheap line, with further options."""
    words = [*name.split(), *SAVED.get(name, "").split()]
    opts = {param.name: param.opts[0] for param in COMMANDS[name].params}
    return [*words, *(f"{opts[key]}={value}" for key, value in {**cheap(name), **more}.items())]


def line(number: int) -> list[str]:
    """A command in turn, with odd values at random places."""
    drawn = random.Random(number)
    names = list(COMMANDS)
    name = names[number % len(names)]
    params = COMMANDS[name].params
    given = cheap(name)
    words = name.split()
    flags = []
    odd = drawn.sample(params, min(len(params), drawn.randint(1, 3)))
    for param in params:
        value = drawn.choice(ODD) if drawn.random() < 0.7 else str(drawn.choice([1, -1]) * 10 ** drawn.randint(0, 40))
        if param.param_type_name == "argument":
            words += [value] if param in odd else SAVED.get(name, "out").split()
        elif getattr(param, "is_flag", False):
            flags += [drawn.choice([*param.opts, *param.secondary_opts])] if param in odd else []
        elif param in odd:
            given[param.name] = value
    if drawn.random() < 0.1:
        given.pop(drawn.choice([*given, "model"]), None)
    options = {param.name: param.opts[0] for param in params}
    return [*words, *(f"{options[key]}={value}" for key, value in given.items()), *flags]


class TooLong(BaseException):
    """A line that does not end; nothing may take it for an error of the system."""


def ended(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit status of a line; it must end in time, within memory, and in no exception."""

    def stop(*_: object) -> None:
        raise TooLong

    monkeypatch.setattr(sys, "argv", ["steerscope", *argv])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(WALL)
    began, size = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status: Any = "no exit"
    try:
        cli.main()
    except SystemExit as left:
        status = left.code
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert time.process_time() - began < CPU, shlex.join(argv)[:1000]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size < MEMORY, shlex.join(argv)[:1000]
    return status


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, texts, a saved result and a sweep, by the names that `CHEAP` and `SAVED` give them."""
    folder = tmp_path_factory.mktemp("places")
    save_gpt2(folder / "model", layers=1, heads=2, width=16)
    (folder / "file").write_text("One day Tom saw a red ball\nOnce upon a time there was a ship\nLily had a big cake\n")
    (folder / "table.csv").write_text("name,plus,minus,layer\na, wedding, ship,0\nb,,x,0\n")
    SteeringVector(torch.ones(1, 16), Site("resid_pre", 0), {"label": "ones"}).save(folder / "vector.safetensors")
    (folder / "text").write_text("\n\n<|endoftext|>\n\n".join(f"{TEXT[:180]} It was day {i}." for i in range(60)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert ended(made("path-effect", out="result"), patch) == ended(made("sweep run", out="sweep"), patch) == 0
    return folder


@pytest.fixture
def here(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with links to the places, a folder, a pipe; the current one."""
    for one in places.iterdir():
        (tmp_path / one.name).symlink_to(one)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_cheap_line_of_every_command_works(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(made(name), monkeypatch) == 0, capsys.readouterr().err
    assert "out" not in cheap(name) or name in SAVED or (here / "out").exists()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("number", [n if n < SAMPLE else pytest.param(n, marks=pytest.mark.slow) for n in range(LINES)])
def test_an_odd_line_ends_in_an_answer_or_a_sentence(
    number: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = line(number)
    status = ended(argv, monkeypatch)
    said = capsys.readouterr()
    about = f"{shlex.join(argv)[:2000]}\n{said.err[-2000:]}"
    assert status in (0, 2, 3), about
    assert "Traceback" not in said.err, about
    assert status != 2 or said.err.strip(), about


def whole_numbers() -> list[tuple[str, Any]]:
    """Every option that takes a whole number."""
    return [
        (name, param)
        for name, command in COMMANDS.items()
        for param in command.params
        if param.param_type_name == "option" and param.type_descriptor.annotation in (int, list[int])
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "param"), whole_numbers(), ids=lambda one: getattr(one, "name", one))
def test_no_count_is_too_large_to_be_refused(
    name: str, param: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = made(name, **{param.name: str(2**63)})
    assert ended(argv, monkeypatch) == 2, shlex.join(argv)
    assert capsys.readouterr().err.strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_lines_are_drawn_over_every_command_and_option(name: str) -> None:
    drawn = [argv for argv in map(line, range(LINES)) if argv[: len(name.split())] == name.split()]
    assert len(drawn) >= LINES // len(COMMANDS)
