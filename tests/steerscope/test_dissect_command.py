"""`steerscope tinystories dissect` and `gallery`, on any model of one or two layers."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_gpt2, save_tokenizer
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from steerscope import cli
from steerscope.analysis.results.result import Result

PAIR = ("--plus", " wedding", "--minus", " ")
PUBLISHED = {"TinyStories-1Layer-21M": ["global"], "TinyStories-2Layers-33M": ["global", "local"]}


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The exit status of a command."""
    monkeypatch.setattr(sys, "argv", ["steerscope", "tinystories", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


@pytest.mark.parametrize("layers", [1, 2])
def test_prompts_of_the_command_line_are_dissected_at_layer_0(
    layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_gpt2(tmp_path / "model", layers=layers)
    prompts = ("--prompt", "One day Tom saw a red ball", "--prompt", "Once upon a time")
    out = tmp_path / "out"
    given = ("--model", tmp_path / "model", *PAIR, *prompts, "--most", 2, "--out", out, "--json")
    assert not asked(monkeypatch, "dissect", *given)
    told = json.loads(capsys.readouterr().out)
    result = Result.load(out)
    assert told["kind"] == result.kind == "dissect" and told["summary"] == result.summary() and not told["checks"]
    assert result.manifest["injections"][0]["site"] == "L0.resid_pre" and result.manifest["prompts"]["count"] == 2
    totals, parts = result.frames["totals"], result.frames["parts"]
    row = ["prompt", "position", "token_id"]
    sums = parts.groupby(row)["change"].sum()
    assert sums.to_numpy() == pytest.approx(totals.set_index(row)["change"].reindex(sums.index).to_numpy(), abs=1e-6)
    assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "got neither --prompts nor --prompt; expected one of them; give"),
        (["--prompt", "a", "--prompts", "general"], "got --prompts and --prompt; expected one of them; give"),
        (["--prompt", "a", "--column", "text"], "the column 'text' beside --prompt; expected columns of a file; give"),
        (["--prompt", ""], "prompt"),
    ],
)
def test_prompts_are_given_in_one_way(
    given: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = asked(monkeypatch, "dissect", "--model", "tinystories-1l", *PAIR, "--out", tmp_path / "out", *given)
    assert status == 2 and why in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_models_of_the_published_configurations_are_dissected(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    layers = PUBLISHED[name]
    about: dict[str, Any] = {"hidden_size": 1024, "num_heads": 16, "vocab_size": 50257, "window_size": 256}
    about |= {"num_layers": len(layers), "attention_types": [[layers, 1]], "max_position_embeddings": 2048}
    GPTNeoForCausalLM(GPTNeoConfig(**about)).save_pretrained(tmp_path / name)
    save_tokenizer(tmp_path / name)
    given = (
        "--model",
        tmp_path / name,
        *PAIR,
        "--coef",
        3,
        "--prompt",
        "One day Lily saw a",
        "--out",
        tmp_path / "out",
    )
    assert not asked(monkeypatch, "dissect", *given, "--most", 3, "--json")
    told = json.loads(capsys.readouterr().out)
    result = Result.load(tmp_path / "out")
    assert not told["checks"] and len(result.frames["totals"]) >= 6
    assert (result.frames["composition"].empty) == (len(layers) == 1)


@pytest.mark.slow
def test_the_gallery_links_the_reports_of_all_twelve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gallery"
    assert not asked(monkeypatch, "gallery", "--model", "tinystories-1l", "--count", 2, "--out", out)
    html = (out / "index.html").read_text(encoding="utf-8")
    folders = [path.parent for path in out.glob("*/report.html")]
    assert len(folders) == 12 and all(f'href="{folder.name}/report.html"' in html for folder in folders)
    assert len(html) < 200_000 and "<script" not in html
