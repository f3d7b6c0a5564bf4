"""Prompts by the name of a shipped set."""

from pathlib import Path

import pytest

from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.question.prompt_files import read_prompts
from steerscope.prompt_sets import prompt_sets, prompts, prompts_file


@pytest.mark.parametrize("name", ["general", "off_topic", "on_topic"])
def test_a_set_is_read_by_its_name_alike_in_python_and_on_the_command_line(name: str) -> None:
    texts = prompts(name)
    assert len(texts) >= 32 and texts == list(read_prompts(prompts_file(name)))


def test_all_shipped_files_are_sets_and_their_names_are_different() -> None:
    assert sorted(prompt_sets()) == ["general", "off_topic", "on_topic"]


def test_a_name_comes_before_a_file_and_a_path_means_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("general").write_text("My own\n")
    Path("mine.txt").write_text("My other one\n")
    assert prompts_file("general") == str(prompt_sets()["general"])
    assert read_prompts(prompts_file("./general"))[0] == "My own"
    assert prompts_file("mine.txt") == "mine.txt"


@pytest.mark.parametrize("ask", [prompts, prompts_file])
def test_what_is_neither_is_refused_with_the_names_that_there_are(ask: object) -> None:
    with pytest.raises(BadPrompt, match="'weddings'.*general, off_topic, on_topic"):
        ask("weddings")  # type: ignore[operator]
