"""The house's own rules: what is listed is there, what is there is listed, and nothing reads pickles."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

import steerscope
from steerscope.cli import app

ROOT = Path(__file__).parents[1]
ROOMS = ("analysis", "circuits", "tinystories", "reports")
FRONT = {"steerscope", "steerscope.commands"}
SOURCES = sorted(path for room in (*ROOMS, "steerscope/commands") for path in (ROOT / room).rglob("*.py"))
PROSE = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_every_folder_with_code_is_installed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        "steerscope." + path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert listed == found | FRONT


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_linked_into_the_package(room: str) -> None:
    link = ROOT / "steerscope" / room
    assert link.is_symlink() and link.resolve() == ROOT / room


def _commands() -> list[str]:
    group = typer.main.get_command(app)
    names = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        names += [f"{name} {sub}" for sub in inner] if inner else [name]
    return names


@pytest.mark.parametrize("command", _commands())
def test_every_command_is_in_the_docs(command: str) -> None:
    assert f"steerscope {command}" in PROSE


@pytest.mark.parametrize("name", steerscope.__all__)
def test_every_public_name_is_there_and_in_the_docs(name: str) -> None:
    value = getattr(steerscope, name)
    assert value.__doc__, f"{name} has no docstring"
    assert re.search(rf"\b(st|steerscope)\.{name}\b|`{name}\b", PROSE), f"{name} is in no page of the docs"


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(ROOT)) for p in SOURCES])
def test_a_file_is_one_idea_of_readable_length_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module begins with a sentence that says its idea"
    assert text.count("\n") <= 450


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(ROOT)) for p in SOURCES])
def test_no_pickle_is_ever_loaded(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.relative_to(ROOT).as_posix() == "analysis/executors/parcels.py":  # between processes, and never of a file
        assert not re.search(r"\bopen\(|\bPath\b|read_bytes|\.load\((?!\))", text)
        return
    assert not re.search(r"\bimport (pickle|dill|joblib|cloudpickle)\b", text)
    for call in re.findall(r"torch\.load\([^)]*\)", text):
        assert "weights_only=True" in call


def test_no_file_names_the_machine_that_it_was_written_on() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(listing, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    here = re.compile("|".join(rf"{re.escape(str(p))}\b" for p in (ROOT, Path.home()) if len(p.parts) > 1).encode())
    paths = [ROOT / name for name in files.splitlines()]
    assert [p.name for p in paths if p.is_file() and here.search(p.read_bytes())] == []


def test_the_command_line_imports_nothing_heavy_for_its_help(tmp_path: Path) -> None:
    code = (
        "import sys; from steerscope.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print([m for m in ('torch', 'transformers', 'transformer_lens', 'pandas', 'plotly', 'scipy') if m in "
        "sys.modules])"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
