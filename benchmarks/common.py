"""What benchmarks share: a quiet process, a random model of GPT-2 small's shape, clocks and the machine's own rate."""

import os

os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils.logging import disable_progress_bar

from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model


def quiet() -> None:
    """No bars, no advice."""
    warnings.filterwarnings("ignore")
    disable_progress_bar()  # type: ignore[no-untyped-call]


def gpt2_small() -> Model:
    """A random model of GPT-2 small's shape."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config(initializer_range=0.05)).save_pretrained(folder)
        return load(folder, device="cpu", name="random GPT-2 small")


def product_rate(size: int = 2048, times: int = 5) -> float:
    """GFLOP/s of a plain fp32 matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return statistics.median(2 * size**3 / seconds(lambda: a @ b) / 1e9 for _ in range(times))


def bandwidth(times: int = 5) -> float:
    """GB/s of reading a quarter of a gigabyte."""
    x = torch.randn(64_000_000)
    return statistics.median(x.nbytes / seconds(x.sum) / 1e9 for _ in range(times))


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def processor() -> str:
    """The processor's name, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "a processor")


def line(setting: str, *cells: str, first: int = 8) -> None:
    """A line of the table."""
    print(f"{setting:{first}}", *(f"{cell:>18}" for cell in cells), flush=True)
