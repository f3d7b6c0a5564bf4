"""What the README shows works as it stands there."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import steerscope
from steerscope import cli
from steerscope.packaged import PACKAGED

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
SHELL = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S)).replace("\\\n", " ")
COMMANDS = [shlex.split(line, comments=True)[1:] for line in SHELL.splitlines() if line.startswith("steerscope ")]
ASKED = [command for command in COMMANDS if "--prompts" in command and command[0] != "sweep"]


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS)
def test_the_notebook_example_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "out" / "wedding" / "report.html").is_file()


def test_the_notebook_example_is_short() -> None:
    assert len(BLOCKS) == 1 and BLOCKS[0].count("\n") <= 12


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bst\.([a-z]\w*)", README))))
def test_every_name_of_the_notebook_examples_is_public(name: str) -> None:
    assert hasattr(steerscope, name)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_printed_command_has_the_options_that_it_is_given(command: list[str]) -> None:
    at: Any = typer.main.get_command(cli.app)
    given = list(command)
    while hasattr(at, "commands"):
        at = at.commands[given.pop(0)]
    at.make_context(at.name, given)  # refuses unknown options, and missing ones


@pytest.mark.parametrize("command", ASKED, ids=" ".join)
def test_every_printed_question_finds_its_prompts_in_an_empty_folder(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in PACKAGED.keys() & set(command):
        if PACKAGED[name].path is None:
            pytest.skip(f"{name} is not installed (make test-llm installs it)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["steerscope", *command, "--dry-run"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code and "forward passes" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_printed_commands_up_to_the_sweep_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS[: [c[0] for c in COMMANDS].index("sweep")]:
        monkeypatch.setattr(sys, "argv", ["steerscope", *command])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, command
    assert (tmp_path / "out" / "wedding" / "report.html").is_file()
    assert (tmp_path / "out" / "demo" / "report.html").is_file()


def test_its_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    missing = [link for link in links if not (Path(__file__).parents[1] / link).exists()]
    assert links and not missing
