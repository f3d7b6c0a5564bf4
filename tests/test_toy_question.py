"""Adding a question is one file and one line: a copy of the repository gets a toy, which is then found everywhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("analysis", "circuits", "reports", "tinystories", "steerscope", "docs")
FILE = """\"\"\"`biggest`: which prompts does the injection move most?\"\"\"

import time

import pandas as pd

from steerscope.analysis.gate import Count, gated
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.tools.record import record

COLUMNS: Frames = {
    "moved": {
        "text": Column("the prompt", role="label"),
        "effect": Column("steered minus clean", "{metric}", "estimate"),
    }
}


@gated
def biggest(experiment: Experiment, *, most: Count = 3) -> Result:
    \"\"\"The prompts that an injection moves most.

    Args:
        most: how many are listed.
    \"\"\"
    start = time.perf_counter()
    moved = pd.DataFrame({"text": experiment.prompts.texts, "effect": experiment.effect()})
    frames = {"moved": moved.sort_values("effect", key=abs, ascending=False).head(most)}
    return record("biggest", experiment, frames, COLUMNS, start, checks=[], most=most)
"""
LINE = '    ("biggest", "analysis.biggest", "Which prompts does it move most?"),\n'


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one file and one line more."""
    root = tmp_path_factory.mktemp("house")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "analysis" / "biggest.py").write_text(FILE)
    registry = root / "steerscope" / "questions.py"
    text = registry.read_text(encoding="utf-8")
    assert text.count('    ("trace", ') == 1
    registry.write_text(text.replace('    ("trace", ', LINE + '    ("trace", '), encoding="utf-8")
    (root / "prompts.txt").write_text("Lily went to the park\nTom saw a <b>big</b> dog\nOnce upon a time there was a\n")
    return root


def python(house: Path, *arguments: str) -> str:
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=house, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_in_the_help_with_its_own_options(house: Path) -> None:
    assert "Which prompts does it move most?" in python(house, "-m", "steerscope.cli", "--help")
    own = python(house, "-m", "steerscope.cli", "biggest", "--help")
    assert "--most" in own and "How many are listed." in own and "default: 3" in own


def test_it_is_asked_on_the_command_line_and_drawn_by_the_default_page(house: Path) -> None:
    command = (
        "biggest --model tinystories-1l --layer 0 --coef 3 --references 0 --prompts prompts.txt --out out --most 2"
    )
    said = python(house, "-m", "steerscope.cli", *command.split(), "--plus", " wedding")
    assert "Report: out/report.html" in said
    manifest = json.loads((house / "out" / "manifest.json").read_text())
    assert manifest["kind"] == "biggest" and manifest["most"] == 2
    page = (house / "out" / "report.html").read_text(encoding="utf-8")
    assert "steered minus clean" in page and "<b>big" not in page


@pytest.mark.slow
def test_it_is_a_public_name(house: Path) -> None:
    code = (
        "import steerscope as st; m = st.load('tinystories-1l'); "
        "v = st.Injection(st.steering_vector(m, ' wedding'), 3); "
        "r = st.biggest(m, v, ['Lily went to the park', 'Tom had a dog'], references=0, most=1); "
        "print(len(r.frames['moved']), r.summary(), 'biggest' in dir(st), len(r._repr_html_()) > 500)"
    )
    said = python(house, "-c", code)
    assert said.startswith("1 [") and said.strip().endswith("True True")


def test_it_is_in_the_table_of_the_docs(house: Path) -> None:
    assert "| Which prompts does it move most? | `st.biggest` | `steerscope biggest` | `most=3` | default |" in python(
        house, "-m", "steerscope.table"
    )
