"""Worker processes end with the one that started them, however that ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SLEEPING = """
import signal, time
from steerscope.analysis.executors.processes import Processes
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run behind a shell
    with Processes(1).opened() as pool:
        print(sorted(pool(abs, [-1, -2, -3])), flush=True)
        list(pool(time.sleep, [600] * 3))
"""


def script(folder: Path, code: str) -> list[str]:
    """What runs a file of this code: workers read it, too."""
    path = folder / "script.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[3])!r})\n{code}")
    return [sys.executable, str(path)]


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)], ids=str)
def test_workers_end_at_once(how: signal.Signals, tmp_path: Path) -> None:
    run = subprocess.Popen(script(tmp_path, SLEEPING), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "[1, 2, 3]\n"
    workers = [p for p in psutil.Process(run.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    time.sleep(0.5)
    run.send_signal(how)
    _, said = run.communicate(timeout=60)
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert len(gone) == 1 and not alive
    assert run.returncode != 0 and (how == signal.SIGKILL or "KeyboardInterrupt" in said)


LINGERING = """
import threading, time
from steerscope.analysis.executors import processes
def lingering(seconds):
    threading.Thread(target=time.sleep, args=[seconds]).start()  # which the worker waits for at its end
if __name__ == "__main__":
    processes.ENDING = 1.0
    began = time.monotonic()
    with processes.Processes(2).opened() as pool:
        list(pool(lingering, [600] * 4))
    print(time.monotonic() - began < 60)
"""


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    command = script(tmp_path, LINGERING)
    assert subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout == "True\n"
